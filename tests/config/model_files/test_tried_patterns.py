"""Patterns of a tokenizer.json: published ones are taken as they are, others tried, and refused where they are slow."""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import transformers
from tokenizers import Regex, Tokenizer
from tokenizers.models import WordLevel
from tokenizers.normalizers import Replace
from tokenizers.pre_tokenizers import Sequence, Split

from hf_finetune.config.model_files.description import find_faults
from hf_finetune.config.model_files.tried import find
from hf_finetune.config.model_files.tried.find import find_slow_patterns
from hf_finetune.config.model_files.tried.known import KNOWN, QUADRATIC, is_known
from hf_finetune.config.model_files.tried.worker import judge
from hf_finetune.errors import MachineError

ROOT = Path(__file__).resolve().parents[3]
CASES = [json.loads(line) for line in (ROOT / "tests/hostile/tokenizer_patterns.jsonl").read_text().splitlines()]
ALL = os.environ.get("HOSTILE") == "all"
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)


def split_by(*patterns: str) -> dict:
    return {"pretokenizers": [{"type": "Split", "pattern": {"Regex": pattern}} for pattern in patterns]}


@pytest.fixture
def no_process(monkeypatch):
    def refuse(*_, **__):
        raise OSError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(find.subprocess, "Popen", refuse)
    find._try_patterns.cache_clear()


def test_slow_patterns_are_refused_by_their_place_and_others_taken():
    patterns = [case["pattern"] for case in CASES]
    start = time.monotonic()
    found = {problem.key: problem.what for problem in find_slow_patterns({"pre_tokenizer": split_by(*patterns)}, "f")}
    assert time.monotonic() - start < 30
    for number, case in enumerate(CASES):
        what = found.pop(f"pre_tokenizer.pretokenizers[{number}].pattern", None)
        assert (what is None) == (case["expected"] is None), (case, what)
        assert what is None or case["expected"] in what, (case, what)
    assert found == {}


def test_a_pattern_that_ends_its_process_is_refused_and_those_behind_it_are_not_judged(monkeypatch):
    monkeypatch.setattr(find, "BOOT", "import sys; print('null', flush=True); sys.stdin.read(); raise SystemExit(9)")
    find._try_patterns.cache_clear()
    [problem] = find_slow_patterns({"decoder": split_by("first", "second\x1b[2J", "third")}, "tokenizer.json")
    assert str(problem).startswith("tokenizer.json: decoder.pretokenizers[1].pattern: the pattern 'second")
    assert "took the 20 seconds of processor time, or the memory" in problem.what
    monkeypatch.setattr(find, "BOOT", "import time; time.sleep(60)")
    monkeypatch.setattr(find, "CLOCK_SECONDS", 0.2)
    [late] = find_slow_patterns({"normalizer": split_by("late")}, "tokenizer.json")
    assert "took the 20 seconds" in late.what
    find._try_patterns.cache_clear()


def test_the_process_that_tries_them_has_2_gib_20_seconds_of_the_processor_and_writes_no_file():
    program = "import resource as r; from hf_finetune.config.model_files.tried.worker import limit_process as limit\n"
    program += "limit(); print(*(r.getrlimit(each)[0] for each in (r.RLIMIT_AS, r.RLIMIT_CPU, r.RLIMIT_FSIZE)))"
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ended.stdout.split() == [str(2 << 30), "20", "0"]


def test_too_many_and_too_long_patterns_are_refused_untried(no_process):
    [many] = find_slow_patterns({"normalizer": split_by(*(f"a{number}" for number in range(17)))}, "t")
    assert many.what == "has 17 patterns, which no published tokenizer has"
    [long] = find_slow_patterns({"normalizer": split_by("a" * 20_000)}, "t")
    assert "is longer than 10,000 characters" in long.what
    assert len(str(long)) < 400


def test_where_no_process_starts_nothing_is_taken_untried(no_process):
    with pytest.raises(MachineError, match=r"patterns are tried does not start \(Resource temporarily unavailable\)"):
        list(find_slow_patterns({"normalizer": split_by("x+")}, "t"))


def test_published_patterns_cost_nothing(no_process, tmp_path):
    tokenizer = Tokenizer(WordLevel({"a": 0}, unk_token="a"))
    tokenizer.normalizer = Replace(Regex(" {2,}"), " ")
    tokenizer.pre_tokenizer = Sequence([Split(Regex(LLAMA3), "isolated"), Split("((", "removed")])
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    start = time.process_time()
    assert find_faults(tmp_path, "m") == []
    assert time.process_time() - start < 0.02


def test_a_slow_pattern_of_a_folder_is_among_its_faults(tmp_path):
    tokenizer = Tokenizer(WordLevel({"a": 0}, unk_token="a"))
    tokenizer.normalizer = Replace(Regex("(a+)+$"), "")
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tekken.json").write_text(json.dumps({"config": {"pattern": "(a+)+$"}}))
    [problem, of_tekken] = find_faults(tmp_path, "m")
    assert str(problem).startswith("m/tokenizer.json: normalizer.pattern: the pattern '(a+)+$' takes more time than ")
    assert str(of_tekken).startswith("m/tekken.json: config.pattern: the pattern '(a+)+$' takes")


@pytest.mark.parametrize("pattern", sorted(KNOWN - {*QUADRATIC}) if ALL else [LLAMA3])
def test_published_patterns_are_linear(pattern):
    assert judge(pattern) is None


def test_the_quadratic_ones_are_known_for_what_they_are():
    for pattern in QUADRATIC if ALL else QUADRATIC[:1]:
        assert "times as long for a text 8 times as long" in str(judge(pattern))


def test_every_pattern_that_transformers_writes_is_known():
    """Its tokenizer classes and converters name them where they are made: `Regex(...)`."""
    folder = Path(transformers.__file__).parent
    files = [*folder.glob("models/*/tokenization_*.py"), *folder.glob("*.py"), *folder.glob("integrations/**/*.py")]
    found = set()
    for path in files:
        if "Regex(" in (text := path.read_text(encoding="utf-8")) or "_SPLIT" in text:
            found |= set(_list_patterns(ast.parse(text)))
    assert len(found) > 10
    assert [pattern for pattern in found if not is_known(pattern)] == []


def _list_patterns(tree: ast.AST) -> list[str]:
    named = {
        "Regex",
        "PRETOKENIZE_REGEX",
        "_LLAMA3_SPLIT",
        "_QWEN2_SPLIT",
        "_QWEN35_SPLIT",
        "_TEKKEN_SPLIT",
        "_GPT4O_SPLIT",
    }
    given = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and getattr(node.func, "attr", getattr(node.func, "id", "")) in named:
            given += node.args[:1]
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") in named:
            given.append(node.value)
    return [each.value for each in given if isinstance(each, ast.Constant)]


@pytest.mark.parametrize("name", ["minilm", "smollm2-135m"])
def test_real_models_have_no_pattern_that_is_tried(no_process, name, tmp_path):
    file = ROOT / "models" / name / "tokenizer.json"
    if not file.is_file():
        pytest.skip("make it with: hf-finetune model")
    shutil.copy(file, tmp_path)
    assert find_faults(tmp_path, "m") == []
