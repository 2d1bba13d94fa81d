"""What is saved in 16 bits is what is scored: the end of a run, `score` and plain transformers give one figure."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from models.scratch_models import save_chat_base
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer
from tuned_classifiers import saved_backbone

from hf_finetune.config import build_run
from hf_finetune.evaluation.scoring import load_scored_rows, score_model
from hf_finetune.evaluation.scoring.precision import Precision, find_precision
from hf_finetune.models.decision import read_decision

QUICK = ("train.max_steps=30", "train.bf16=false", "train.save_strategy=no", "train.eval_strategy=no")
QUICK += ("train.load_best_model_at_end=false", "train.metric_for_best_model=null", "train.learning_rate=0.005")
PLAIN = ("model.scratch=null", "model.tokenizer=null", "data.validation_fraction=null", "data.test_fraction=null")
ROOT = Path(__file__).resolve().parents[3]
CHATS = ROOT / "data_templates" / "user_assistant.jsonl"
FIGURES = ("loss", "log_loss", "accuracy", "f1_macro", "expected_calibration_error")


def write_rows(path: Path, count: int, start: int) -> list[dict]:
    """Texts of a letter of their label and others; from 100 on three in ten say the other one."""
    rows = []
    for n in range(start, start + count):
        kind = n % 2 if start == 0 or n % 10 not in (0, 3, 6) else 1 - n % 2
        text = "cat " * (n % 3) + "xy"[kind] * (1 + n % 4) + " sat" * (n % 5)
        rows.append({"text": f"{text} {n}", "label": ("ham", "spam")[n % 2]})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return rows


def score(folder: Path, rows: Path) -> dict:
    values = {"model": {"path": str(folder)}, "data": {"test": str(rows)}, "eval": {}, "output_dir": "unused"}
    run = build_run(values, "score")
    return score_model(run, load_scored_rows(run)).evaluation


CASES = {
    "a temperature": ("bert", "bfloat16", ()),
    "a temperature and thresholds": ("bert", "float16", ("eval.threshold_metric=f1_macro",)),
    "thresholds alone": ("bert", "bfloat16", ("eval.calibrate=false", "eval.threshold_metric=f1_macro")),
    "a head without a bias": ("gpt2", "bfloat16", ("eval.threshold_metric=f1_macro",)),
    "neither": ("bert", "bfloat16", ("eval.calibrate=false",)),
}


def test_a_classifier_that_was_trained_under_autocast_has_the_figures_of_its_report(run_recipe, tmp_path):
    for name, count, start in (("train", 60, 0), ("validation", 60, 100)):
        write_rows(tmp_path / f"{name}.jsonl", count, start)
    files = [f"data.{name}={tmp_path / name}.jsonl" for name in ("train", "validation")]
    base = f"model.path={saved_backbone(tmp_path / 'base', 'gpt2')}"
    # A temperature is folded into the head, whose product is then rounded to other 16 bits.
    asked = (*files, base, "data.stratify_by=null", "train.bf16=true", "eval.calibrate=false")
    quick = [each for each in QUICK if each != "train.bf16=false"]
    report = run_recipe("classification", *quick, *PLAIN, *asked)
    ended, scored = report["evaluation"]["validation"], score(tmp_path / "run", tmp_path / "validation.jsonl")
    assert {name: scored[name] for name in FIGURES} == pytest.approx(
        {name: ended[name] for name in FIGURES}, rel=1e-6, abs=1e-7
    )


def test_what_is_no_run_of_ours_is_computed_in_the_precision_of_its_weights(tmp_path):
    assert find_precision(str(tmp_path)) == Precision()
    (tmp_path / "run.yaml").write_text("train: {bf16: true}\n")
    assert find_precision(str(tmp_path)) == Precision(torch.bfloat16)
    (tmp_path / "report.json").write_text('{"train": {"attention": "flash_attention_2"}}')
    assert find_precision(str(tmp_path)) == Precision(torch.bfloat16)
    (tmp_path / "report.json").write_text('{"train": {"attention": "eager"}}')
    assert find_precision(str(tmp_path)) == Precision(torch.bfloat16, "eager")


def test_float16_takes_an_accelerator_and_that_is_said(tmp_path, caplog, monkeypatch):
    (tmp_path / "run.yaml").write_text("train: {fp16: true}\n")
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: None)
    assert find_precision(str(tmp_path)) == Precision()
    assert "computed without float16, in which its run has evaluated it" in caplog.text
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("cuda"))
    assert find_precision(str(tmp_path)) == Precision(torch.float16)


@pytest.mark.parametrize("case", CASES)
def test_a_classifier_saved_in_16_bits_has_the_figures_of_its_report(run_recipe, tmp_path, case):
    architecture, dtype, settings = CASES[case]
    rows = {
        name: write_rows(tmp_path / f"{name}.jsonl", count, start)
        for name, count, start in (("train", 60, 0), ("validation", 60, 100), ("test", 40, 200))
    }
    files = [f"data.{name}={tmp_path / name}.jsonl" for name in rows]
    base = f"model.path={saved_backbone(tmp_path / 'base', architecture)}"
    asked = (*files, base, f"model.save_dtype={dtype}", "data.stratify_by=null", *settings)
    report = run_recipe("classification", *QUICK, *PLAIN, *asked)
    saved = tmp_path / "run"
    assert {each.dtype for each in load_file(saved / "model.safetensors").values()} == {getattr(torch, dtype)}
    decision = read_decision(saved)
    assert (decision.temperature != 1) == ("eval.calibrate=false" not in settings)
    assert decision.has_thresholds == ("eval.threshold_metric=f1_macro" in settings)
    for split in ("validation", "test"):
        ended, scored = report["evaluation"][split], score(saved, tmp_path / f"{split}.jsonl")
        assert {name: scored[name] for name in FIGURES} == pytest.approx(
            {name: ended[name] for name in FIGURES}, rel=1e-6, abs=1e-7
        ), split
        assert measure_loss(saved, rows[split]) == pytest.approx(ended["log_loss"], rel=1e-6), split


@pytest.mark.parametrize("recipe", ["sft", "continued_pretraining"])
def test_a_language_model_saved_in_16_bits_has_the_figures_of_its_report(run_recipe, tmp_path, recipe):
    base = save_chat_base(tmp_path / "base", CHATS)
    AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16).save_pretrained(base)
    asked = ("train.max_steps=2", "train.bf16=false", "train.save_strategy=no", "eval.prompts=[]", "eval.base=false")
    asked += ("train.load_best_model_at_end=false", "model.scratch=null", "model.tokenizer=null", f"model.path={base}")
    rows = CHATS if recipe == "sft" else ROOT / "data_templates" / "text.jsonl"
    files = (f"data.train={rows}", "data.validation_fraction=null", "data.format=auto")
    blocks = () if recipe == "sft" else ("data.block_size=32",)
    held = tmp_path / "held.jsonl"
    held.write_text("".join(line.replace("the", "a") for line in rows.read_text().splitlines(keepends=True)[:6]))
    report = run_recipe(recipe, *asked, *files, *blocks, f"data.validation={held}")
    scored = score(tmp_path / "run", held)
    for name in ("loss", "perplexity", "token_accuracy", "bits_per_byte"):
        assert scored[name] == pytest.approx(report["evaluation"]["validation"][name], rel=1e-6), name


def measure_loss(folder: Path, rows: list[dict]) -> float:
    """The mean log-loss of the saved folder in plain transformers, thresholds in its bias taken out by hand."""
    tokenizer, decision = AutoTokenizer.from_pretrained(folder), read_decision(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
    ratios = [math.log(each) for each in decision.thresholds] if decision.offsets_in_weights else [0.0, 0.0]
    losses = []
    for row in rows:
        with torch.no_grad():
            logits = model(**tokenizer(row["text"], return_tensors="pt")).logits[0].double()
        logits = logits + torch.tensor(ratios, dtype=torch.double)
        losses.append(-logits.log_softmax(-1)[model.config.label2id[row["label"]]].item())
    return sum(losses) / len(losses)
