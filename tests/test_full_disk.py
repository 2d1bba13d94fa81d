"""A full disk is one message with exit code 5, whatever was being written: what is there before stays."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from release.export.gguf_models import chat_tokenizer, tiny

from hf_finetune.cache import entries as cache_entries
from hf_finetune.errors import CannotWriteError, machine_errors
from hf_finetune.evaluation.generation.chat_session import save_conversation
from hf_finetune.files import explain_unwritable
from hf_finetune.folders.ownership import refuse_folder
from hf_finetune.pages.page import save_page
from hf_finetune.release.merge import explain_unwritten
from hf_finetune.reporting.card import write_card

ROOT = Path(__file__).resolve().parent.parent
SMALL = "model.scratch.hidden_size=32 model.scratch.num_hidden_layers=1 model.scratch.num_attention_heads=2"
STEPS = "train.max_steps=4 train.eval_strategy=no eval.max_new_tokens=2 train.save_steps=2"
TRAIN = f"train recipes/configs/char_model.yaml {SMALL} {STEPS}".split()


@pytest.fixture
def type_with_limit(preloaded: dict[str, str]) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run a command in whose processes no file can grow over `limit` bytes, as on a full disk."""

    def run(limit: int, *arguments: str, stdout: Any = subprocess.PIPE) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["hf-finetune", *arguments],
            cwd=ROOT,
            env=preloaded,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
            stdout=stdout,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )

    return run


@pytest.mark.parametrize(
    ("limit", "said"),
    [
        (2_000, "cannot be written"),  # the datasets cache, or where that is filled the tokenizer
        (12_000, "cannot be written (File too large); "),
        (50_000, "cannot be written (File too large)"),  # a checkpoint, or where it is not filled the datasets cache
    ],
)
def test_a_training_says_so_in_one_line(type_with_limit, tmp_path, limit, said):
    more = ("train.optim=adamw_torch", "train.save_strategy=steps")
    done = type_with_limit(limit, *TRAIN, f"output_dir={tmp_path}/run", *more)
    assert done.returncode == 5, done.stderr[-3_000:]
    assert "Traceback" not in done.stderr
    assert said in done.stderr.splitlines()[-1]
    assert "File too large" in done.stderr
    assert not (tmp_path / "run" / "report.json").exists()


def test_a_merge_says_so_and_leaves_no_folder(type_with_limit, tmp_path, run_recipe):
    few = ("train.max_steps=4", "train.eval_strategy=no", "eval.max_new_tokens=1")
    run_recipe("continued_pretraining", *few, f"output_dir={tmp_path}/base")
    few += ("train.save_strategy=no", "train.load_best_model_at_end=false")
    run_recipe("lora", *few, f"model.path={tmp_path}/base", f"output_dir={tmp_path}/lora")
    done = type_with_limit(100_000, "merge", f"{tmp_path}/lora", f"{tmp_path}/merged")
    assert done.returncode == 5, done.stderr[-3_000:]
    assert "Traceback" not in done.stderr
    assert "File too large" in done.stderr.splitlines()[-1]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "lora"]


def test_a_disk_that_is_full_is_the_machines_error_whatever_is_being_written():
    with (
        pytest.raises(CannotWriteError, match=r"x cannot be written \(No space left on device\)"),
        machine_errors(),
    ):
        raise OSError(errno.ENOSPC, "No space left on device", "x")


@pytest.mark.parametrize("number", [errno.EPERM, errno.EACCES])
def test_what_is_not_allowed_is_the_machines_error_wherever_it_is_met(number):
    said = (
        rf"x/report.json cannot be opened or written \({os.strerror(number)}\); room does not help: allow writing there"
    )
    with pytest.raises(CannotWriteError, match=said), machine_errors():
        raise OSError(number, os.strerror(number), "x/report.json")


LIMITED = "room does not help, the system limits the size of files: raise it (ulimit -f)"


@pytest.fixture
def chat_folder(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("chat")
    tiny().save_pretrained(folder)
    chat_tokenizer().save_pretrained(folder)
    return str(folder)


def test_an_export_that_a_limit_of_the_system_ends_names_the_limit(type_with_limit, tmp_path, chat_folder):
    for to, limit in (("onnx", 100_000), ("onnx", 2_000), ("gguf", 50_000)):
        done = type_with_limit(limit, "export", chat_folder, f"{tmp_path}/out", "--to", to, "--rows", "2")
        assert done.returncode == 5, done.stderr[-3_000:]
        assert f"{tmp_path}/out: cannot be written (File too large); {LIMITED} [HF701]" in done.stderr
        assert "make room" not in done.stderr
        assert list(tmp_path.iterdir()) == []


def test_standard_output_beyond_the_limit_is_no_full_disk(type_with_limit, tmp_path):
    with (tmp_path / "codes.md").open("wb") as output:
        done = type_with_limit(4_000, "explain", "--markdown", stdout=output)
    assert done.returncode == 5
    assert f"standard output cannot be written (File too large); {LIMITED}; nothing but what was shown" in done.stderr


WRITERS = {
    "export and merge": lambda path, problem: explain_unwritten(problem, str(path)),
    "a file of rows": lambda path, problem: CannotWriteError(explain_unwritable(path, problem)),
    "the datasets cache": lambda path, problem: cache_entries.explain_unwritten("rows", problem),
    "the folder of a run": lambda path, problem: refuse_folder("it cannot be made", problem),
}


@pytest.mark.parametrize("writer", WRITERS)
def test_each_remedy_is_that_of_its_cause(tmp_path, writer):
    said = {
        number: str(WRITERS[writer](tmp_path / "x", OSError(number, os.strerror(number))))
        for number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES)
    }
    assert LIMITED in said[errno.EFBIG]
    for number in (errno.ENOSPC, errno.EDQUOT):
        assert "make room" in said[number]
        assert "ulimit" not in said[number]
    assert "make room" not in said[errno.EACCES] + said[errno.EFBIG]


@contextmanager
def no_file_grows():
    """Within the block no file of this process grows over 64 bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


SAID = [{"role": "user", "content": "a" * 80}, {"role": "assistant", "content": "b"}]
WRITES = {
    "page": lambda folder: save_page(folder / "page.html", "<p>" * 80),
    "card": write_card,
    "chat": lambda folder: save_conversation(SAID, str(folder / "chat.jsonl")),
}


@pytest.mark.parametrize("write", WRITES)
def test_pages_cards_and_chats_name_the_limit(tmp_path, write):
    with pytest.raises(CannotWriteError) as refused, no_file_grows():
        WRITES[write](tmp_path)
    assert f"cannot be written (File too large); {LIMITED} [HF701]" in str(refused.value)
