"""A value is right or wrong alike for our reader, for the schema in an editor and for the schema under PyYAML."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest
import yaml
from config.run_files import VALID, VALID_SFT

import hf_finetune.config
from hf_finetune.config import load_run
from hf_finetune.config.reading.yaml_reader import parse_plain
from hf_finetune.config.validation.generate import SCHEMA_FILE
from hf_finetune.errors import ConfigError

SCHEMA = jsonschema.Draft202012Validator(
    json.loads((Path(hf_finetune.config.__file__).parent / SCHEMA_FILE).read_text("utf-8"))
)

NUMBERS = ["1e-4", "1e5", "2e5", "1.0e4", "1e+4", ".5", "1.", "1_000", "08", "010", "+3", "-3", "1.5", "1", "0"]
WORDS = ["yes", "No", "ON", "off", "true", "false", "null", "", "fast", "1,000", "1e", "e5", "--1", "steps", "no"]
SETTINGS = [
    "train.learning_rate",
    "train.weight_decay",
    "train.warmup_steps",
    "train.per_device_train_batch_size",
    "train.seed",
    "train.eval_steps",
    "train.bf16",
    "train.gradient_checkpointing",
    "train.eval_strategy",
    "train.save_total_limit",
    "data.max_dropped",
    "data.isolate_documents",
    "data.max_line_bytes",
    "eval.temperature",
    "eval.top_k",
    "eval.seed",
]
# PyYAML makes these numbers by YAML 1.1 (base 60, 16 and 8); here they are text, which a number setting refuses.
SURPRISING = {"1:30": 90, "0x1f": 31, "0b11": 3, "1:30.5": 90.5}


def accepts(text: str) -> bool:
    """Whether the reader of run files takes it, apart from what does not go together."""
    Path("run.yaml").write_text(text, encoding="utf-8")
    try:
        load_run(["run.yaml"], "continued_pretraining")
    except ConfigError as refused:
        return not any(each.what.startswith(("expected", "must be")) for each in refused.problems)
    return True


def write(setting: str, value: str) -> str:
    section, _, name = setting.partition(".")
    if f"{section}:\n" in VALID:
        return VALID.replace(f"{section}:\n", f"{section}:\n  {name}: {value}\n")
    return f"{VALID}{section}:\n  {name}: {value}\n"


@pytest.mark.parametrize("setting", SETTINGS)
def test_a_value_is_right_or_wrong_for_all_alike(workspace, setting):
    differing = []
    for value in [*NUMBERS, *WORDS]:
        text = write(setting, value)
        by_pyyaml = SCHEMA.is_valid(yaml.safe_load(text))
        by_editor = SCHEMA.is_valid(json.loads(json.dumps(yaml.load(text, Loader=Plain))))
        if not accepts(text) == by_pyyaml == by_editor:
            differing.append((value, accepts(text), by_pyyaml, by_editor))
    assert differing == []


class Plain(yaml.SafeLoader):
    """YAML 1.2 as an editor has it: only null, true, false and decimal numbers are not text."""

    yaml_implicit_resolvers = {}  # noqa: RUF012 - PyYAML's own form


def construct(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> object:
    return node.value if node.style else parse_plain(node.value)


Plain.add_constructor("tag:yaml.org,2002:str", construct)


@pytest.mark.parametrize("written", ["1e-4", "1e5", "1.0e4", ".5", "1_0"])
def test_a_number_is_the_same_number_however_it_arrives(load, written):
    from_file = load(write("train.learning_rate", written)).train["learning_rate"]
    from_override = load(VALID, f"train.learning_rate={written}").train["learning_rate"]
    from_quotes = load(VALID, f'train.learning_rate="{written}"').train["learning_rate"]
    from_pyyaml = load_run([yaml.safe_load(write("train.learning_rate", written))], "continued_pretraining").train
    assert from_file == from_override == from_quotes == from_pyyaml["learning_rate"] == float(written)


def test_a_number_inside_a_mapping_is_one_too(load):
    text = VALID.replace("  max_steps: 5\n", "  max_steps: 5\n  lr_scheduler_type: cosine_with_min_lr\n")
    run = load(text, "train.lr_scheduler_kwargs={min_lr: 1e-5}")
    assert run.train["lr_scheduler_kwargs"] == {"min_lr": 1e-5}


def test_no_is_a_strategy_from_every_parser(load, workspace):
    assert load(VALID, "train.eval_strategy=no").train["eval_strategy"] == "no"
    assert load(VALID, "train.eval_strategy=false").train["eval_strategy"] == "no"
    values = yaml.safe_load(write("train.eval_strategy", "no"))
    assert values["train"]["eval_strategy"] is False
    assert load_run([values], "continued_pretraining").train["eval_strategy"] == "no"


@pytest.mark.parametrize("written", SURPRISING)
def test_what_pyyaml_makes_a_number_of_is_refused_with_what_was_written(only_problem, written):
    assert yaml.safe_load(written) == SURPRISING[written]
    assert only_problem(write("train.seed", written)).what == f"expected a whole number, found {written!r}"


def test_every_shipped_run_file_passes_the_schema_under_pyyaml():
    root = Path(__file__).resolve().parents[3]
    files = sorted(root.glob("recipes/configs/*.yaml"))
    assert len(files) >= 10
    for file in files:
        SCHEMA.validate(yaml.safe_load(file.read_text(encoding="utf-8")))
    SCHEMA.validate(yaml.safe_load(VALID_SFT))
