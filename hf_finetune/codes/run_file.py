"""HF6xx: the run file and the command line."""

from __future__ import annotations

from hf_finetune.codes.code import Code

RUN_FILE: dict[str, Code] = {
    "HF601": Code(
        "a word of the command line is not known",
        "error",
        "What is meant cannot be told from what was typed, and nothing is guessed.",
        "look at --help of the command",
    ),
}
