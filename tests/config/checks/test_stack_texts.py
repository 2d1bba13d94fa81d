"""Texts of `train` that the stack would open, look up or read as code: refused here, or taken by its dataclasses."""

from __future__ import annotations

import pytest
from config.run_files import VALID, VALID_SFT

from hf_finetune.config import check_launch_file
from hf_finetune.config.sections import Run
from hf_finetune.config.validation.hf_settings import build_train_section
from hf_finetune.data.reading.sources import resolve_sources
from hf_finetune.environment.hardware import Hardware
from hf_finetune.errors import ConfigError, DataError
from hf_finetune.training import apply_defaults, build_training_arguments

EVIL = ["evil", "evil.py", "''", "a" * 5_000, "[evil]", "{evil: 1}", "/dev/zero"]
MORE = {
    "lr_scheduler_type": ["train.lr_scheduler_kwargs=null"],
    "fsdp_config": ["train.fsdp=true"],
    "trackio_space_id": ["train.report_to=trackio"],
}


def takes_text(annotation: object) -> bool:
    return "str" in str(annotation) or "Literal" in str(annotation)


@pytest.mark.parametrize(("recipe", "text"), [("continued_pretraining", VALID), ("sft", VALID_SFT)])
def test_a_text_is_refused_in_one_message_or_taken_by_the_dataclass(problems, load, monkeypatch, recipe, text):
    monkeypatch.setattr("hf_finetune.training.arguments.set_up_logging", lambda **_: None)
    fields = build_train_section(recipe).model_fields
    names = [name for name, field in fields.items() if takes_text(field.annotation)]
    assert len(names) > 30
    for name in names:
        for value in EVIL:
            given = [f"train.{name}={value}", *MORE.get(name, [])]
            if found := problems(text, *given):
                assert len("".join(map(str, found))) < 1_000 * len(found), name
                continue
            run = apply_defaults(load(text, *given))
            build_training_arguments(run.model_copy(update={"train": run.train | {"resume_from_checkpoint": None}}))


@pytest.mark.parametrize(
    ("train", "message"),
    [
        ({"fsdp": "evil"}, r"train\.fsdp: TrainingArguments refuses it \(Unknown"),
        ({"accelerator_config": "nope.json"}, r"train\.accelerator_config: .*No such file"),
        ({"tf32": True}, r"train\.tf32: TrainingArguments refuses it"),
        ({"report_to": "none", "evil": 1}, r"unexpected keyword argument 'evil'"),
        ({"fsdp": True}, r"train\.fsdp: splits the model over processes, and this launch makes no group"),
    ],
)
def test_what_the_dataclass_refuses_names_the_setting(train, message):
    run = Run(recipe="continued_pretraining", model={"path": "m"}, data={"train": "t"}, train=train, output_dir="out")
    with pytest.raises(ConfigError, match=message) as refused:
        build_training_arguments(run)
    assert len(refused.value.problems) == 1


def test_a_launch_without_a_group_of_processes_splits_no_model():
    settings = {"distributed_type": "NO", "use_cpu": True}
    run = Run(recipe="continued_pretraining", model={"path": "m"}, data={"train": "t"}, train={}, output_dir="out")
    asks = run.model_copy(update={"train": {"fsdp": True}})
    with pytest.raises(ConfigError, match=r"train\.fsdp: .*launch several processes"):
        check_launch_file("cpu", settings, Hardware("cpu"), use_cpu=False, run=asks)
    check_launch_file("cpu", settings, Hardware("cpu"), use_cpu=False, run=run)


@pytest.mark.parametrize("split", ["train", "validation"])
def test_a_pattern_longer_than_a_name_is_still_a_pattern(load, split):
    run = load(VALID, f"data.{split}={'*' * 300}.jsonl")
    found = resolve_sources(getattr(run.data, split), split, "auto")
    assert [file.shown for file in found] == ["train.jsonl", "validation.jsonl"]
    with pytest.raises(DataError, match="no file matches"):
        resolve_sources("**/" + "?" * 300, split, "auto")
    with pytest.raises(DataError, match="no such file"):
        resolve_sources("x" * 300 + ".jsonl", split, "auto")


def test_a_key_of_a_thousand_names_is_one_short_message(only_problem):
    assert str(only_problem(VALID, "train." + "a." * 1_000 + "b=1")).startswith("command line: a key of 1,002 names")
    assert len(str(only_problem(VALID, "train." + "a." * 14 + "b=1"))) < 300
