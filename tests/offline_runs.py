"""All that can be done with local files, in one process whose connections are written down for `test_offline`.

python tests/offline_runs.py FOLDER
"""

from __future__ import annotations

import json
import os
import runpy
import sys
import time
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

TRIED: list[str] = []
LOCAL = ("127.0.0.1", "localhost", "::1")


def watch(event: str, arguments: tuple[Any, ...]) -> None:
    """Write down, and refuse, whatever would leave this machine."""
    if event not in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto"):
        return
    target = arguments[0] if event in ("socket.getaddrinfo", "socket.gethostbyname") else arguments[1]
    host = target[0] if isinstance(target, tuple) else target
    if host not in LOCAL and not str(host).startswith("/"):  # a path is a socket of this machine
        TRIED.append(f"{event} {host}")
        raise OSError(f"no network: {host}")


sys.addaudithook(watch)

ROOT = Path(__file__).resolve().parent.parent
QUICK = ("train.max_steps=2", "train.logging_steps=1", "train.save_strategy=no", "train.eval_strategy=no")
ONCE = ("train.load_best_model_at_end=false", "train.bf16=false", "train.use_cpu=true")
SMALL = ("model.scratch.hidden_size=32", "model.scratch.num_hidden_layers=1", "model.scratch.num_attention_heads=2")
TALK = ("eval.prompts=[]",)


def recipe(name: str, config: str, *settings: str) -> None:
    from accelerate.state import AcceleratorState, GradientState

    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    main = runpy.run_path(str(ROOT / "recipes" / f"{name}.py"))["main"]
    main([str(ROOT / "recipes" / "configs" / f"{config}.yaml"), *settings, *QUICK, *ONCE])


def command(*arguments: str) -> None:
    from typer.testing import CliRunner

    from hf_finetune.cli import app

    done = CliRunner().invoke(app, [*arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output


def write_rows(name: str, *rows: dict[str, str]) -> None:
    Path(name).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def everything() -> None:
    write_rows("rows.jsonl", *({"text": f"a text {n}", "label": "ab"[n % 2]} for n in range(8)))
    write_rows("chat.jsonl", *({"user": f"a {n}", "assistant": f"text {n}"} for n in range(6)))
    rows, nothing = ("data.train=rows.jsonl", "data.stratify_by=null"), ("data.validation_fraction=null",)
    documents = ("data.train=rows.jsonl", "data.format=text", *nothing)
    recipe("continued_pretraining", "char_model", *SMALL, *TALK, *documents, "output_dir=base")
    talk = ("model.path=base", "data.train=chat.jsonl", *nothing, *TALK)
    recipe("sft", "sft", *talk, "output_dir=sft")
    recipe("lora", "lora", *talk, "output_dir=lora")
    labels = (
        *rows,
        *nothing,
        "data.test_fraction=null",
        "model.scratch=null",
        "model.tokenizer=null",
        "model.path=base",
    )
    recipe("classification", "classification", *labels, "train.metric_for_best_model=null", "output_dir=labels")
    command("merge", "lora", "merged")
    command("generate", "sft", "a text 1", "--max-new-tokens", "2")
    command("generate", "lora", "a text 1", "--max-new-tokens", "2", "--base")
    command("predict", "labels", "rows.jsonl", "--output", "labelled.jsonl", "--prefix", "p_")
    command("score", "sft", "chat.jsonl")


if __name__ == "__main__":
    os.chdir(sys.argv[1])
    with redirect_stdout(sys.stderr):
        everything()
    time.sleep(0.5)  # for pings that are sent from a thread
    Path("tried.json").write_text(json.dumps(TRIED))
