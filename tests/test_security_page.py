"""SECURITY.md: each of its sentences has the tests that prove it, and its numbers are those of the code."""

from __future__ import annotations

import ast
import json
import re
from functools import cache
from pathlib import Path

from hf_finetune.chat import worker, worker_process
from hf_finetune.config.model_files import growth
from hf_finetune.config.model_files.tried import worker as tried
from hf_finetune.release.hub import client, retries

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
PROMISES = json.loads((ROOT / "tests/security_promises.json").read_text(encoding="utf-8"))


def list_sentences() -> list[str]:
    """The sentences of what is promised and what is not, without their marks."""
    parts = re.split(r"^## ", PAGE, flags=re.MULTILINE)[1:3]
    items = [item for part in parts for item in re.split(r"\n- |\n\n", part.partition("\n")[2].replace("**", ""))]
    plain = [" ".join(item.removeprefix("- ").split()) for item in items]
    return [sentence for item in plain for sentence in re.split(r"(?<=\.) (?=[A-Z`])", item) if sentence]


@cache
def list_functions(path: str) -> set[str]:
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


def test_each_sentence_has_tests_that_are_there_or_is_said_to_have_none():
    assert list(PROMISES) == list_sentences()
    for sentence, proofs in PROMISES.items():
        assert proofs, sentence
        for proof in proofs:
            path, _, name = proof.partition("::")
            assert not name or name in list_functions(path), (sentence, proof)
            assert name or proof.startswith("no test: "), (sentence, proof)


def test_the_numbers_are_those_of_the_code():
    assert (worker.MAX_MEMORY_GROWTH, worker_process.TIME_LIMIT_SECONDS) == (256 << 20, 1.0)
    assert worker_process.MAX_WAIT_SECONDS == 30.0
    assert (tried.MEMORY, tried.PROCESSOR_SECONDS, tried.LONG // tried.SHORT) == (2 << 30, 20, 8)
    assert growth.MOST_GROWTH == 1_000
    assert (client.LONGEST_ANSWER, retries.TIMEOUT) == (64 << 20, 60.0)
    # A kind shares its examples among its tests: rows, run files, templates, cards, and what is in a model folder.
    assert "tests/hostile --attacks 2000" in (ROOT / "Makefile").read_text(encoding="utf-8")
    said = (
        "256 MiB",
        "a second for a",
        "the clock 30",
        "2 GiB, 20 seconds",
        "eight times",
        "more than a thousand",
        "64 MiB and a",
    )
    assert [each for each in said if each not in " ".join(PAGE.split())] == []
