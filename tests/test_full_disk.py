"""A full disk is one message with exit code 5, whatever was being written: what is there before stays."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from hf_finetune.errors import CannotWriteError, machine_errors

ROOT = Path(__file__).resolve().parent.parent
SMALL = "model.scratch.hidden_size=32 model.scratch.num_hidden_layers=1 model.scratch.num_attention_heads=2"
STEPS = "train.max_steps=4 train.eval_strategy=no eval.max_new_tokens=2 train.save_steps=2"
TRAIN = f"train recipes/configs/char_model.yaml {SMALL} {STEPS}".split()


@pytest.fixture
def type_with_limit(preloaded: dict[str, str]) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run a command in whose processes no file can grow over `limit` bytes, as on a full disk."""

    def run(limit: int, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["hf-finetune", *arguments],
            cwd=ROOT,
            env=preloaded,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
            capture_output=True,
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
