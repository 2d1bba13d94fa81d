"""The patterns of a tokenizer.json whose time does not grow with the text alone: each with its place, and why."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

from hf_finetune.config.model_files.linear import LONGEST_PATTERN
from hf_finetune.config.model_files.tried.known import is_known
from hf_finetune.config.model_files.tried.limits import CLOCK_SECONDS, PROCESSOR_SECONDS
from hf_finetune.config.model_files.values import iterate_leaves
from hf_finetune.config.reading.document import format_key_path, format_value
from hf_finetune.environment.bare_process import keep_variables
from hf_finetune.environment.progress_lines import say_while
from hf_finetune.errors import MachineError, Problem

# The parts of a tokenizer.json that have patterns. The others are a vocabulary, of megabytes.
SECTIONS = ("normalizer", "pre_tokenizer", "decoder", "post_processor")
REGEX = "Regex"
MOST_UNKNOWN = 16
BOOT = "import sys; sys.path[:] = sys.argv[1:]; from hf_finetune.config.model_files.tried.worker import main; main()"

ANOTHER = "use a tokenizer with the patterns of a published one, or without a loop in a loop, behind a loop or ahead"


def find_slow_patterns(sections: Mapping[str, Any], place: str) -> Iterator[Problem]:
    """Yield a problem for each pattern in the `SECTIONS` of a tokenizer.json that is not to be matched in this process.

    tokenizers (0.23) matches them by Oniguruma, which goes back: in time that is a power of the text's length, up to
    ten million steps back, where it ends the thread. Published patterns are known and cost nothing; others are tried in
    a process of their own, within a bound of time and memory. Raises `MachineError` where none starts.
    """
    given = [
        (format_key_path(tuple(int(part) if part.isdigit() else part for part in keys[:-1])), value)
        for keys, value in iterate_leaves(sections)
        if keys[-1] == REGEX and isinstance(value, str) and not is_known(value)
    ]
    patterns = tuple(dict.fromkeys(pattern for _, pattern in given))
    if len(patterns) > MOST_UNKNOWN:
        yield Problem(f"has {len(patterns):,} patterns, which no published tokenizer has", ANOTHER, place, code="HF553")
        return
    faults = _try_patterns(patterns) if patterns else {}
    for key, pattern in given:
        if (what := faults.get(pattern)) is not None:
            yield Problem(f"the pattern {format_value(pattern)} {what}", ANOTHER, place, key=key, code="HF553")


@cache
def _try_patterns(patterns: tuple[str, ...]) -> Mapping[str, str | None]:
    """What is wrong with each pattern; those behind one that ended the process are not there."""
    long = {each: f"is longer than {LONGEST_PATTERN:,} characters" for each in patterns if len(each) > LONGEST_PATTERN}
    if long:
        return long
    command = [sys.executable, "-I", "-S", "-c", BOOT, *map(os.path.abspath, sys.path)]
    variables = {**keep_variables(), "RUST_BACKTRACE": "0"}
    try:
        with say_while("trying the patterns of a tokenizer, which are of no published one"):
            answered = _run(command, json.dumps(patterns), variables)
    except OSError as problem:
        what = f"the process in which a tokenizer's patterns are tried does not start ({problem.strerror})"
        remedy = "see whether this machine lets Python start another Python"
        raise MachineError(Problem(what, remedy, code="HF139")) from problem
    answers: list[str | None] = [json.loads(line) for line in answered.splitlines()]
    if len(answers) < len(patterns):
        answers.append(
            f"took the {PROCESSOR_SECONDS} seconds of processor time, or the memory, of the process that tried it"
        )
    return dict(zip(patterns, answers, strict=False))


def _run(command: list[str], given: str, variables: dict[str, str]) -> str:
    """What the process writes on its standard output until it ends, or is ended."""
    options: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command, text=True, encoding="utf-8", env=variables, **options) as process:
        try:
            return str(process.communicate(given, timeout=CLOCK_SECONDS)[0])
        except subprocess.TimeoutExpired:
            process.kill()
            return str(process.communicate()[0])
