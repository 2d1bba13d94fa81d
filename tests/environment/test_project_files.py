from __future__ import annotations

import json
import re
import resource
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

import pytest

from hf_finetune.environment.project_files import FOLDERS, find_shipped, init_project, list_other_files
from hf_finetune.errors import CannotWriteError, ConfigError

# A page, recipe, configuration or template; in an address there is something before it.
PROJECT_PATH = re.compile(
    r"(?<![-\w/.])(?:docs|recipes|accelerate_configs|data_templates)/[\w./-]*\w\.(?:md|py|yaml|jsonl|txt)"
)


def files_of(folder: Path) -> set[str]:
    return {
        path.relative_to(folder).as_posix()
        for name in FOLDERS
        for path in (folder / name).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def test_init_copies_every_recipe_configuration_and_template(tmp_path, project_root):
    written = init_project(tmp_path / "mine")
    assert files_of(tmp_path / "mine") == files_of(project_root)
    assert len(written) == len(files_of(project_root))
    for name in files_of(project_root):
        if not name.startswith("recipes/configs/"):  # their first line changes: see below
            assert (tmp_path / "mine" / name).read_bytes() == (project_root / name).read_bytes()


def test_a_copied_run_file_is_the_shipped_one_and_names_the_installed_schema(tmp_path, project_root):
    init_project(tmp_path)
    for path in (project_root / "recipes" / "configs").glob("*.yaml"):
        schema, *rest = (tmp_path / "recipes" / "configs" / path.name).read_text(encoding="utf-8").splitlines()
        assert rest == path.read_text(encoding="utf-8").splitlines()[1:]
        location = urlsplit(schema.removeprefix("# yaml-language-server: $schema="))
        assert location.scheme == "file"
        assert "properties" in json.loads(Path(url2pathname(location.path)).read_text(encoding="utf-8"))


def test_init_over_other_files_is_one_message_and_copies_nothing(tmp_path, project_root):
    for name in ("data_templates/README.md", "recipes/continued_pretraining.py"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text("mine")
    with pytest.raises(ConfigError, match="is there already, and holds data_templates: nothing is written over"):
        init_project(tmp_path)
    with pytest.raises(ConfigError) as refused:
        init_project(tmp_path, overwrite=True)
    held = f"holds 2 of the {len(files_of(project_root))} files already, of which 2 differ"
    names = "recipes/continued_pretraining.py, data_templates/README.md; they stay, and nothing was copied"
    assert str(refused.value) == f"{tmp_path}: {held}: {names}: move them elsewhere, or name a new folder [HF705]"
    assert not (tmp_path / "accelerate_configs").exists()
    assert (tmp_path / "data_templates" / "README.md").read_text() == "mine"


def test_init_over_a_project_of_which_a_file_was_changed_says_which_and_how_many_are_the_same(tmp_path, project_root):
    init_project(tmp_path)
    (tmp_path / "recipes" / "sft.py").write_text("mine")
    with pytest.raises(ConfigError) as refused:
        init_project(tmp_path, overwrite=True)
    count = len(files_of(project_root))
    said = f"holds {count} of the {count} files already, of which 1 differs: recipes/sft.py; the {count - 1} others are"
    assert said in str(refused.value)


def test_what_messages_and_run_files_name_is_there_after_init(tmp_path, project_root):
    init_project(tmp_path)
    sources = [*(project_root / "hf_finetune").rglob("*.py"), *(project_root / "recipes" / "configs").glob("*.yaml")]
    named = {(path, name) for path in sources for name in PROJECT_PATH.findall(path.read_text(encoding="utf-8"))}
    assert {name for _, name in named} >= {"docs/run-file.md", "docs/recipes.md"}
    assert {(path, name) for path, name in named if not (tmp_path / name).exists()} == set()


def test_init_into_a_path_below_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="which is a file"):
        init_project(tmp_path / "file" / "below")


def test_a_checkout_ships_its_own_folders(project_root):
    assert find_shipped("recipes") == project_root / "recipes"


def test_the_wheel_works_without_a_clone(tmp_path, project_root, environment_of_a_user):
    """Build the wheel, install it into a folder of its own, and do what a user of PyPI does."""
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(project_root)]
    subprocess.run(build, check=True, capture_output=True, env=environment_of_a_user)
    (wheel,) = tmp_path.glob("*.whl")
    site = tmp_path / "site"
    pip = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--quiet", "--target", str(site)]
    subprocess.run([*pip, str(wheel)], check=True, capture_output=True, env=environment_of_a_user)
    environment = environment_of_a_user | {"PYTHONPATH": str(site)}

    def hf_finetune(*arguments: str, cwd: Path = tmp_path) -> str:
        command = [str(site / "bin" / "hf-finetune"), *arguments]
        done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout + done.stderr

    hf_finetune("init", "mydir")
    assert files_of(tmp_path / "mydir") == files_of(project_root)
    where = "import hf_finetune, sys; sys.stdout.write(hf_finetune.__file__)"
    shown = subprocess.run([sys.executable, "-c", where], env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert shown.stdout.startswith(str(site)), "the wheel was tested, not the checkout"
    run = ("recipes/configs/continued_pretraining.yaml", "train.max_steps=2", "eval.prompts=[]")
    assert "report.json" in hf_finetune("train", *run, "--on", "cpu", cwd=tmp_path / "mydir")


def test_a_folder_in_use_is_filled_where_that_is_asked_for_and_what_was_filled_is_completed(tmp_path, project_root):
    (tmp_path / "data.jsonl").write_text("mine")
    with pytest.raises(ConfigError, match=r"holds data\.jsonl: nothing is written over; .* with --overwrite"):
        init_project(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["data.jsonl"]
    init_project(tmp_path, overwrite=True)
    assert files_of(tmp_path) == files_of(project_root)
    assert (tmp_path / "data.jsonl").read_text() == "mine"
    (tmp_path / "recipes" / "sft.py").unlink()
    assert init_project(tmp_path, overwrite=True) == [tmp_path / "recipes" / "sft.py"]
    assert init_project(tmp_path, overwrite=True) == []


@pytest.mark.parametrize("place", ["recipes", "docs/models.md", "recipes/configs"])
def test_init_writes_through_no_link_and_over_no_link(tmp_path, place):
    outside, folder = tmp_path / "outside", tmp_path / "mine"
    outside.mkdir()
    (folder / place).parent.mkdir(parents=True)
    (folder / place).symlink_to(outside if "." not in place else outside / "new.md")
    with pytest.raises(ConfigError, match=f": {place}; they stay"):
        init_project(folder, overwrite=True)
    assert list(outside.iterdir()) == []


def test_what_is_there_already_is_named(tmp_path):
    (tmp_path / "recipes").mkdir()
    for name in ("notes.txt", ".hidden", "recipes/own.py"):
        (tmp_path / name).write_text("mine")
    assert list_other_files(tmp_path, init_project(tmp_path, overwrite=True)) == ["notes.txt", f"{FOLDERS[0]}/own.py"]


def test_a_full_disk_leaves_no_half_of_a_project_and_says_what_to_do(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2_000, before[1]))
    try:
        with pytest.raises(CannotWriteError, match=r"cannot be written \(File too large\).*; .*\(ulimit -f\)"):
            init_project(tmp_path, overwrite=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
