"""The precision of what is saved: that of the base's files, or what the run asks for."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from models.scratch_models import save_chat_base
from safetensors.torch import load_file
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
)
from tuned_classifiers import saved_backbone

ROOT = Path(__file__).resolve().parents[2]
ROWS = ROOT / "data_templates" / "user_assistant.jsonl"
VALIDATION = "".join(json.dumps({"user": f"What is {n}?", "assistant": "A number," * n}) + "\n" for n in range(1, 5))
QUICK = ("train.max_steps=2", "train.bf16=false", "eval.prompts=[]", "train.save_strategy=no", "eval.base=false")
QUICK += ("train.load_best_model_at_end=false",)


@pytest.fixture
def half_base(tmp_path) -> Path:
    folder = save_chat_base(tmp_path / "float32", ROWS, tie_word_embeddings=True)
    shutil.copytree(folder, tmp_path / "base")
    AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).save_pretrained(tmp_path / "base")
    return tmp_path / "base"


def dtypes(folder: Path) -> set[torch.dtype]:
    return {each.dtype for each in load_file(folder / "model.safetensors").values()}


def test_weights_are_saved_in_the_precision_of_the_base(run_recipe, half_base, tmp_path, capsys):
    (tmp_path / "validation.jsonl").write_text(VALIDATION)
    rows = (f"data.validation={tmp_path / 'validation.jsonl'}", "data.validation_fraction=null")
    report = run_recipe("sft", *QUICK, f"model.path={half_base}", *rows)
    saved = tmp_path / "run"
    assert dtypes(saved) == {torch.bfloat16}
    assert json.loads((saved / "config.json").read_text())["dtype"] == "bfloat16"
    size = (half_base / "model.safetensors").stat().st_size
    assert (saved / "model.safetensors").stat().st_size == pytest.approx(size, rel=0.01)
    assert (
        "saved in bfloat16 (model.save_dtype): each weight is rounded by 3.9e-03 of itself at most"
        in capsys.readouterr().err
    )
    model = AutoModelForCausalLM.from_pretrained(saved, dtype=torch.float32)
    assert measure_loss(model, saved) == pytest.approx(report["evaluation"]["validation"]["loss"], rel=1e-6)
    assert model.get_input_embeddings().weight.data_ptr() == model.get_output_embeddings().weight.data_ptr()


def test_a_classifier_is_saved_and_scored_in_the_precision_of_its_base(run_recipe, tmp_path):
    base = saved_backbone(tmp_path / "float32", "bert")
    shutil.copytree(base, tmp_path / "base")
    AutoModelForMaskedLM.from_pretrained(base, dtype=torch.bfloat16).save_pretrained(tmp_path / "base")
    for name, count in (("train", 24), ("validation", 8), ("test", 8)):
        kinds = ("a", "ham"), ("b", "spam")
        rows = [{"text": f"{kinds[n % 2][0]} {name} {n}", "label": kinds[n % 2][1]} for n in range(count)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    files = [f"data.{name}={tmp_path / name}.jsonl" for name in ("train", "validation", "test")]
    split = ("data.validation_fraction=null", "data.test_fraction=null", "data.stratify_by=null")
    quick = (*QUICK[:2], "train.save_strategy=no", "train.load_best_model_at_end=false", "train.eval_strategy=no")
    quick += ("train.metric_for_best_model=null", "model.scratch=null", "model.tokenizer=null")
    settings = (*split, "train.learning_rate=0.01", f"model.path={tmp_path / 'base'}")
    report = run_recipe("classification", *quick, *files, *settings)
    saved = tmp_path / "run"
    assert dtypes(saved) == {torch.bfloat16}
    tokenizer = AutoTokenizer.from_pretrained(saved)
    model = AutoModelForSequenceClassification.from_pretrained(saved, dtype=torch.float32).eval()
    losses = []
    for row in rows:
        target = torch.tensor([model.config.label2id[row["label"]]])
        with torch.no_grad():
            losses.append(model(**tokenizer(row["text"], return_tensors="pt"), labels=target).loss.item())
    assert sum(losses) / len(losses) == pytest.approx(report["evaluation"]["test"]["log_loss"], rel=1e-6)


def measure_loss(model, folder: Path) -> float:
    """The loss of the validation rows under the saved weights, in plain transformers."""
    tokenizer, total, count = AutoTokenizer.from_pretrained(folder), 0.0, 0
    for row in map(json.loads, VALIDATION.splitlines()):
        texts = (f"<|bos|>User:\n{row['user']}<|eos|>\nAssistant:\n", f"{row['assistant']}<|eos|>")
        asked, said = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts)
        ids, labels = torch.tensor([asked + said]), torch.tensor([[-100] * len(asked) + said])
        with torch.no_grad():
            total, count = total + model.eval()(ids, labels=labels).loss.item() * len(said), count + len(said)
    return total / count


def test_a_weight_beyond_the_range_of_float16_is_saved_in_float32_and_said(run_recipe, tmp_path, capsys):
    base = save_chat_base(tmp_path / "base", ROWS)
    model = AutoModelForCausalLM.from_pretrained(base)
    with torch.no_grad():
        model.get_input_embeddings().weight[model.config.pad_token_id] = 70_000.0  # nothing attends to padding
    model.save_pretrained(base)
    run_recipe("sft", *QUICK, f"model.path={base}", "model.save_dtype=float16")
    assert dtypes(tmp_path / "run") == {torch.float32}
    assert "saved in float32, and not as model.save_dtype says: " in capsys.readouterr().err


@pytest.mark.parametrize("asked", ["float32", "float16"])
def test_a_run_may_ask_for_another(run_recipe, half_base, tmp_path, asked):
    run_recipe("sft", *QUICK, f"model.path={half_base}", f"model.save_dtype={asked}")
    assert dtypes(tmp_path / "run") == {getattr(torch, asked)}
    assert json.loads((tmp_path / "run" / "config.json").read_text())["dtype"] == asked
