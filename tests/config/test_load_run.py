from __future__ import annotations

import contextlib
import json
import os
import re
import string
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from config.run_files import VALID
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hf_finetune.config import dump_dict, dump_yaml, load_run, read_recipe_name
from hf_finetune.errors import ConfigError

QUICK = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)

TWENTY_MISTAKES = """\
recipe: continued_pretraining
model:
  scratch:
    preset: nanoo
    hidden_size: 0
    qk_norm: maybe
  tokenizer: {train: {kind: bpe}}
  learning_rate: 1e-4
  dtype: bf16
data:
  train: missing.jsonl
  validation_fraction: 1.5
  formt: text
  block_size: 12.5
  train: again.jsonl
train:
  learning_rate: fast
  warmup_ratio: 1.0
  optim: moun
  max_steps: 0
  push_to_hub: true
  fp16: true
  seed: -1
  load_best_model_at_end: true
  lr_scheduler_type: cosine_with_min_lr
hub: {repo_id: someone/model}
output_dir: /
"""


def test_a_valid_file_becomes_a_typed_run(load):
    run = load(
        VALID.replace("max_steps: 5", "learning_rate: 1e-4\n  eval_strategy: no\n  bf16: on\n  max_steps: 1_000")
    )
    assert run.model.scratch.preset == "nano"
    assert run.model.tokenizer.train.vocab_size == 300
    assert run.train == {"learning_rate": 1e-4, "eval_strategy": "no", "bf16": True, "max_steps": 1000}
    assert run.data.train == "train.jsonl"
    assert run.eval.top_k == 50


def test_a_whole_number_stays_one_where_any_number_is_allowed(load):
    run = load(VALID, "train.warmup_steps=10", "train.eval_steps=1.0")
    assert [type(run.train[name]) for name in ("warmup_steps", "eval_steps")] == [int, float]


def test_train_holds_what_was_given_and_nothing_else(load):
    assert load().train == {"max_steps": 5}
    assert load(VALID, "train=null").train == {}


def test_null_means_the_default_unless_the_setting_takes_null(load):
    run = load(VALID + "eval: {top_k: null, max_new_tokens: null, prompts: null}\n")
    assert (run.eval.top_k, run.eval.max_new_tokens, run.eval.prompts) == (None, 64, [])


def test_twenty_mistakes_are_reported_in_one_go_within_two_seconds_without_torch(workspace):
    (workspace / "run.yaml").write_text(TWENTY_MISTAKES, encoding="utf-8")
    program = (
        "import json, sys\n"
        "from hf_finetune.config import load_run\n"
        "from hf_finetune.errors import ConfigError\n"
        "try: load_run(['run.yaml'], 'continued_pretraining')\n"
        "except ConfigError as error:\n"
        "    heavy = [name for name in ('torch', 'transformers', 'datasets', 'numpy') if name in sys.modules]\n"
        "    print(json.dumps({'problems': [[p.line, p.key, p.path] for p in error.problems], 'heavy': heavy}))\n"
    )
    start = time.perf_counter()
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=environment)
    seconds = time.perf_counter() - start
    report = json.loads(done.stdout)
    assert report["heavy"] == []
    assert {(line, key) for line, key, _ in report["problems"]} == {
        (4, "model.scratch.preset"),
        (5, "model.scratch.hidden_size"),
        (6, "model.scratch.qk_norm"),
        (7, "model.tokenizer.train.vocab_size"),
        (8, "model.learning_rate"),
        (9, "model.dtype"),
        (15, "data.train"),
        (12, "data.validation_fraction"),
        (13, "data.formt"),
        (14, "data.block_size"),
        (17, "train.learning_rate"),
        (18, "train.warmup_ratio"),
        (19, "train.optim"),
        (20, "train.max_steps"),
        (21, "train.push_to_hub"),
        (22, "train.fp16"),
        (23, "train.seed"),
        (24, "train.load_best_model_at_end"),
        (25, "train.lr_scheduler_type"),
        (26, "card.license"),
        (27, "output_dir"),
    }
    assert all(path == "run.yaml" for _, _, path in report["problems"])
    assert seconds < 2


def test_a_message_has_the_path_the_line_the_key_and_the_way_out(only_problem):
    problem = only_problem(VALID.replace("max_steps", "max_step"))
    assert str(problem) == (
        "run.yaml:8: train.max_step: is not a setting of the section train; did you mean train.max_steps? [HF602]"
    )


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("learning_rate: 1", "train.learning_rate"),
        ("lr: 1", "train.learning_rate"),
        ("modle: {}", "model"),
        ("path: x", "model.path"),
        ("hidden_size: 64", "model.scratch.hidden_size"),
        ("block-size: 64", "data.block_size"),
        ("output_directory: x", "output_dir"),
    ],
)
def test_an_unknown_key_names_the_key_that_was_meant(only_problem, written, meant):
    assert only_problem(VALID + written + "\n").remedy == f"did you mean {meant}?"


def test_a_key_of_another_section_is_sent_there(only_problem):
    problem = only_problem(VALID.replace("  scratch:", "  block_size: 64\n  scratch:"))
    assert (problem.line, problem.key, problem.remedy) == (3, "model.block_size", "did you mean data.block_size?")


def test_missing_sections_are_named(problems):
    assert {problem.key for problem in problems("train: {}\n")} == {"recipe", "model", "data", "output_dir"}


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("learning_rate: fast", "expected a number, found 'fast'"),
        ("max_steps: 1.5", "expected a whole number, found 1.5"),
        ("max_steps: true", "expected a number, found true"),
        ("fp16: 7", "expected true or false, found 7"),
        ("seed: [1]", "expected a whole number, found a list"),
        ("learning_rate: .inf", "must be a finite number, not inf"),
        ("learning_rate: -1", "must be greater than 0, not -1"),
        ("run_name: 12e4567", "expected text, found inf"),
        ("run_name: 2024", "expected text, found 2024"),
        ("eval_strategy: step", "expected one of no, steps, epoch, found 'step'"),
        ("lr_scheduler_kwargs: 3", "expected text or a section of keys, found 3"),
    ],
)
def test_a_value_of_the_wrong_type_is_said_in_plain_words(only_problem, line, what):
    assert only_problem(VALID.replace("max_steps: 5", line)).what == what


def test_an_access_token_is_never_repeated(problems):
    token = "hf_" + "a" * 30
    text = VALID.replace("max_steps: 5", f"hub_token: {token}\n  seed: {token}")
    found = problems(text, f"model.path={token}", f"train.learning_rate={token}")
    assert len(found) >= 3
    assert token not in "".join(str(problem) for problem in found)


def test_a_list_of_sources_is_checked_item_by_item(problems):
    text = VALID.replace(
        "train: train.jsonl", "train:\n    - {path: train.jsonl, weigth: 2}\n    - {weight: 1}\n    - 7"
    )
    found = {problem.key: (problem.line, problem.what) for problem in problems(text)}
    assert found.keys() == {"data.train[0].weigth", "data.train[1].path", "data.train[2]"}
    assert found["data.train[0].weigth"][0] == 7
    assert found["data.train[1].path"] == (8, "is missing")
    assert found["data.train[2]"] == (9, "expected text or a section of keys, found 7")


def test_the_recipe_of_the_file_must_be_the_recipe_that_reads_it(workspace):
    (workspace / "run.yaml").write_text(VALID, encoding="utf-8")
    with pytest.raises(ConfigError, match=r"run\.yaml:1: recipe: the file is a run of continued_pretraining, and sft"):
        load_run(["run.yaml"], "sft")


def test_a_recipe_that_is_not_shipped_is_refused(only_problem):
    assert only_problem(VALID.replace("continued_pretraining", "score")).key == "recipe"


def test_read_recipe_name_needs_nothing_but_the_recipe(workspace):
    (workspace / "run.yaml").write_text("recipe: continued_pretraining\ntrain: {nonsense: 1}\n", encoding="utf-8")
    assert read_recipe_name("run.yaml") == "continued_pretraining"
    (workspace / "run.yaml").write_text("recipe: continued_pretrain\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"run\.yaml:1: recipe: .*did you mean continued_pretraining"):
        read_recipe_name("run.yaml")


def test_the_home_folder_is_written_out_in_a_run_and_hidden_in_a_dump(load, workspace):
    (workspace / "home").mkdir()
    run = load(VALID.replace("runs/first", "~/runs/first"))
    assert run.output_dir == f"{workspace}/home/runs/first"
    assert dump_dict(run)["output_dir"] == "~/runs/first"


def test_as_dict_is_json(load):
    assert json.loads(json.dumps(dump_dict(load()))) == dump_dict(load())


YAML_LINE_BREAK = re.compile("\r\n|[\n\r\x85\u2028\u2029]")

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
TRICKY = st.sampled_from(
    [
        "\x85",
        "a\u2028b",
        "\ufeff",
        " two\n\n lines ",
        "1e-4",
        "no",
        "on",
        "null",
        "~",
        "1_000",
        "0x1f",
        ".inf",
        "12:30:45",
        "- a",
        "a: b",
        "#",
        "'",
        "",
    ]
)


@QUICK
@given(
    prompts=st.lists(TEXT | TRICKY, max_size=4),
    run_name=(TEXT | TRICKY).map(lambda text: "".join(filter(str.isprintable, text))),
    learning_rate=st.floats(min_value=1e-12, max_value=10),
    top_k=st.none() | st.integers(1, 10**6),
    seed=st.integers(0, 2**32 - 1),
    report=st.none() | st.just("none"),
    weight=st.floats(min_value=1e-3, max_value=1e3),
)
def test_a_dumped_run_loads_as_an_equal_run(load, prompts, run_name, learning_rate, top_k, seed, report, weight):
    base = load().model_dump()
    base["eval"] |= {"prompts": prompts, "top_k": top_k}
    base["train"] |= {"run_name": run_name, "learning_rate": learning_rate, "seed": seed, "report_to": report}
    base["data"]["train"] = [{"path": "train.jsonl", "weight": weight}, "validation.jsonl"]
    run = type(load()).model_validate(base)
    again = load(dump_yaml(run))
    assert again == run
    assert dump_yaml(again) == dump_yaml(run)


SCALARS = st.sampled_from(
    [
        "",
        "null",
        "true",
        "1",
        "-1",
        "1.5",
        "1e400",
        ".nan",
        "abc",
        "[]",
        "{}",
        "[1, a]",
        "{a: 1}",
        "*",
        "!!x",
        '"\\ud800"',
        "\t",
        "'",
        "~/x",
        "/",
        "é",
    ]
)
NAMES = st.text(string.ascii_lowercase + "_.-", min_size=1, max_size=12) | st.sampled_from(
    [
        "learning_rate",
        "train",
        "model",
        "data",
        "kind",
        "path",
        "weight",
        "evaluation_strategy",
        "tokenizer",
        "lora",
        "<<",
    ]
)


@st.composite
def mutated_files(draw: st.DrawFn) -> str:
    """A valid file with up to four lines deleted, repeated, rewritten, indented otherwise, or given other values."""
    lines = VALID.splitlines()
    for _ in range(draw(st.integers(1, 4))):
        index = draw(st.integers(0, len(lines) - 1))
        line = lines[index]
        indent = " " * draw(st.sampled_from([0, 1, 2, 4]))
        key = line.partition(":")[0]
        lines[index] = draw(
            st.sampled_from(
                [f"{key}: {draw(SCALARS)}", f"{indent}{draw(NAMES)}: {draw(SCALARS)}", indent + line.strip()]
            )
            | st.sampled_from(["", line + "\n" + line, line.replace(":", draw(st.sampled_from(["", " :", "::"])))])
            | st.text(max_size=8).map(lambda noise, line=line: line + noise)
        )
    return "\n".join(lines) + "\n"


@settings(QUICK, max_examples=600)
@given(text=mutated_files())
def test_a_mutated_file_loads_or_is_refused_with_key_and_line(text):
    path = Path(tempfile.gettempdir()) / f"mutated-{os.getpid()}.yaml"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    try:
        load_run([str(path)], "continued_pretraining")
    except ConfigError as error:
        for problem in error.problems:
            assert problem.path == str(path)
            assert problem.line is not None
            assert 1 <= problem.line <= len(YAML_LINE_BREAK.findall(text)) + 1
            about_the_file = any(word in problem.what for word in ("YAML", "UTF-8", "file", "column", "not allowed"))
            assert problem.key or about_the_file
            assert "pydantic" not in str(problem)
            assert "validation error" not in str(problem)
    finally:
        path.unlink()


@QUICK
@given(st.lists(st.text(max_size=24) | st.builds("{}.{}={}".format, NAMES, NAMES, SCALARS), max_size=4))
def test_any_command_line_loads_or_is_refused(workspace, overrides):
    (workspace / "run.yaml").write_text(VALID, encoding="utf-8")
    with contextlib.suppress(ConfigError):
        assert load_run(["run.yaml", *overrides], "continued_pretraining").recipe == "continued_pretraining"
