"""A process that is attacked: it runs commands of the project in turn, under limits, and says how each ended.

    python victim.py        a job per line of standard input, {"folder", "argv"}; an answer per line of standard output

The stack is loaded once, before the limits are set: a command costs milliseconds then, and ten thousand can be run.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import resource
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any

import psutil

import hf_finetune.cli
from hf_finetune.chat import load_chat_template
from hf_finetune.config import load_run, read_recipe_name
from hf_finetune.data import load_splits, tokenize_conversations
from hf_finetune.errors import user_errors
from hf_finetune.models import load_tokenizer

BECOMES = {"sft": "conversation", "lora": "conversation", "classification": "labelled"}


def check_run_file(run_file: str) -> None:
    """All that `hf-finetune train RUN` does before it launches anything."""
    with user_errors():
        load_run([run_file], read_recipe_name(run_file))


def tokenize_rows(run_file: str) -> None:
    """All that the recipe of a run file does before its model is loaded."""
    with user_errors():
        run = load_run([run_file], read_recipe_name(run_file))
        splits = load_splits(run.data, BECOMES.get(run.recipe, "document"), seed=0)  # type: ignore[arg-type]
        if BECOMES.get(run.recipe) == "conversation":
            tokenizer = load_tokenizer(run.model)
            tokenize_conversations(splits, tokenizer, load_chat_template(run.data, tokenizer), run.data, 256)


def run_command(*argv: str) -> None:
    sys.argv = ["hf-finetune", *argv]
    hf_finetune.cli.main()


ACTIONS: dict[str, Callable[..., None]] = {"check": check_run_file, "tokenize": tokenize_rows}


def do(folder: str, argv: list[str]) -> dict[str, Any]:
    """Run one command in `folder`: its exit code (-1 for an exception), the end of what it said, and its seconds."""
    os.chdir(folder)
    logging.root.handlers.clear()  # they keep the stream that was standard error
    said, began = io.StringIO(), time.monotonic()
    sys.stdin = io.TextIOWrapper(io.BytesIO())  # a chat that ends at once
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            ACTIONS[argv[0]](*argv[1:]) if argv[0] in ACTIONS else run_command(*argv)
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(bool(end.code))
        except BaseException:  # a traceback of ours is what is looked for
            said.write(traceback.format_exc())
            code = -1
    return {"code": code, "said": said.getvalue()[-4000:], "seconds": time.monotonic() - began}


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what C code prints
    for line in sys.stdin:
        job = json.loads(line)
        if "limit" in job:
            most = psutil.Process().memory_info().vms + job["limit"]
            resource.setrlimit(resource.RLIMIT_AS, (most, most))
            answer: dict[str, Any] = {}
        else:
            answer = do(job["folder"], job["argv"])
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
