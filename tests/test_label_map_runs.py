"""`data.labels` in whole runs: as if the rows had been rewritten by hand, and refused with words where it cannot be."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tuned_adapters import TOKENIZER, saved_base
from tuned_classifiers import classifier_on, saved_backbone

from hf_finetune.config import build_run
from hf_finetune.errors import FinetuneError
from hf_finetune.evaluation.scoring import load_scored_rows, score_model
from hf_finetune.label_set import Labels

QUICK = ("train.max_steps=2", "train.eval_strategy=no", "train.save_strategy=no", "train.load_best_model_at_end=false")
QUICK += ("train.metric_for_best_model=null", "train.bf16=false", "model.scratch=null", "model.tokenizer=null")
QUICK += ("data.validation_fraction=null", "data.test_fraction=null", "data.stratify_by=null")
OWN = ("POSITIVE", "NEGATIVE")  # in an order of its own


@pytest.fixture
def base(tmp_path) -> str:
    model = classifier_on(saved_backbone(tmp_path / "backbone", "distilbert"), Labels(OWN, "single", OWN))
    model.save_pretrained(tmp_path / "base")
    TOKENIZER.save_pretrained(tmp_path / "base")
    return f"model.path={tmp_path / 'base'}"


def write(path: Path, names: tuple[str, str]) -> str:
    rows = [{"text": f"{'xy'[n % 2]} cat {n}", "label": names[n % 2]} for n in range(24)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def score(folder: Path, rows: str, **data) -> dict:
    values = {"model": {"path": str(folder)}, "data": {"test": rows, **data}, "eval": {}, "output_dir": "unused"}
    run = build_run(values, "score")
    return score_model(run, load_scored_rows(run)).evaluation


def test_a_run_under_a_map_is_the_run_on_rewritten_rows(run_recipe, tmp_path, base):
    short, rewritten = write(tmp_path / "short.jsonl", ("pos", "neg")), write(tmp_path / "own.jsonl", OWN)
    names = "data.labels={pos: POSITIVE, neg: NEGATIVE}"
    run_recipe("classification", *QUICK, base, f"data.train={short}", names, f"output_dir={tmp_path}/mapped")
    run_recipe("classification", *QUICK, base, f"data.train={rewritten}", f"output_dir={tmp_path}/plain")
    one, other = (load_file(tmp_path / name / "model.safetensors") for name in ("mapped", "plain"))
    assert all(torch.equal(one[name], other[name]) for name in one | other)
    config = json.loads((tmp_path / "mapped/config.json").read_text())
    assert config["id2label"] == {"0": "POSITIVE", "1": "NEGATIVE"}  # the order of the base
    manifest = json.loads((tmp_path / "mapped/manifest.json").read_text())
    assert manifest["data"]["labels"] == {"pos": "POSITIVE", "neg": "NEGATIVE"}
    wanted = score(tmp_path / "plain", rewritten)["confusion_matrix"]
    assert score(tmp_path / "mapped", short)["confusion_matrix"] == wanted  # by the map of its run
    assert score(tmp_path / "mapped", rewritten)["confusion_matrix"] == wanted
    given = {"pos": "POSITIVE", "neg": "NEGATIVE"}
    assert score(tmp_path / "plain", short, labels=given)["confusion_matrix"] == wanted
    with pytest.raises(FinetuneError, match=r"`data.labels: {neg: NEGATIVE, pos: POSITIVE}` names them as the model"):
        score(tmp_path / "plain", short)


REFUSED = {
    "another spelling": ("", "if they mean the same, `data.labels: {neg: NEGATIVE, pos: POSITIVE}` names them"),
    "a name that the base lacks": (
        "data.labels={pos: POSITIV, neg: NEGATIVE}",
        "data.labels: 'POSITIV' is no label of .*; did you mean 'POSITIVE'?",
    ),
    "numbers": ("data.task=regression", "data.labels: needs classes|must be a number|is no number"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_labels_that_the_base_does_not_know_are_refused_with_the_map(run_recipe, tmp_path, base, case):
    settings, message = REFUSED[case]
    rows = write(tmp_path / "short.jsonl", ("pos", "neg"))
    more = ("data.labels={pos: POSITIVE}",) if case == "numbers" else ()
    with pytest.raises(FinetuneError, match=message):
        run_recipe("classification", *QUICK, base, f"data.train={rows}", *filter(None, (settings,)), *more)


def test_other_recipes_refuse_a_map(run_recipe, tmp_path):
    with pytest.raises(FinetuneError, match=r"data.labels: belongs to the recipe classification"):
        run_recipe("sft", "data.labels={a: b}")


def test_a_run_that_is_resumed_under_another_map_is_refused(run_recipe, tmp_path, base):
    rows = write(tmp_path / "short.jsonl", ("pos", "neg"))
    given = (*QUICK, base, f"data.train={rows}", f"output_dir={tmp_path}/run", "train.save_strategy=steps")
    run_recipe("classification", *given, "train.save_steps=1", "data.labels={pos: POSITIVE, neg: NEGATIVE}")
    more = ("train.max_steps=3", "data.labels={pos: NEGATIVE, neg: POSITIVE}")
    with pytest.raises(FinetuneError, match=r"data.labels: is not what it was when the run began"):
        run_recipe("classification", *given, "train.save_steps=1", *more)


def test_score_says_which_names_of_a_map_no_row_has(tmp_path, caplog, base):
    rows, names = write(tmp_path / "short.jsonl", ("pos", "neg")), {"pos": "POSITIVE", "neg": "NEGATIVE"}
    run = {"model": {"path": str(tmp_path / "base")}, "eval": {}, "output_dir": "unused"}
    load_scored_rows(build_run(run | {"data": {"test": rows, "labels": names | {"positive": "POSITIVE"}}}, "score"))
    assert "no row has the label 'positive', which data.labels names" in caplog.text


def test_a_map_for_a_model_without_labels_is_refused(tmp_path):
    model, rows = saved_base(tmp_path / "talks"), write(tmp_path / "short.jsonl", ("pos", "neg"))
    with pytest.raises(FinetuneError, match=r"data.labels: names labels, and the model gives none; leave it out"):
        score(model, rows, labels={"pos": "POSITIVE"})


def test_a_trusted_template_of_a_classifier_which_has_none_is_refused(tmp_path, base):
    run = {"model": {"path": str(tmp_path / "base")}, "eval": {}, "output_dir": "unused"}
    rows = write(tmp_path / "short.jsonl", ("pos", "neg"))
    with pytest.raises(FinetuneError, match=r"data.trust_chat_template: .*reads texts without one; leave it out"):
        load_scored_rows(build_run(run | {"data": {"test": rows, "trust_chat_template": "0" * 64}}, "score"))
