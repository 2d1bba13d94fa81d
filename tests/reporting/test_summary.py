from __future__ import annotations

from hf_finetune.reporting.summary import format_summary

REPORT = {
    "data": {"train": {"rows": 3, "tokens": 1200}},
    "parameters": {"total": 1000, "trainable": 900},
    "train": {"steps": 10, "loss": 1.5, "runtime_s": 2.4, "tokens_per_s": 4321.0},
}


def lines_of(folder, **evaluation):
    return format_summary({**REPORT, "evaluation": evaluation}, str(folder)).splitlines()


def test_work_figures_and_folder_are_said_in_this_order(tmp_path):
    work, validation, last = lines_of(tmp_path, validation={"perplexity": 3.49, "loss": 1.25, "other": 0.5})
    assert work == "trained 900 parameters: 10 steps in 2 s with evaluations (4,321 tokens/s in the steps)"
    assert validation == "validation: loss 1.2500  perplexity 3.49"
    assert last == f"{tmp_path}: report.html, report.json, run.yaml, manifest.json"
    (tmp_path / "config.json").touch()
    assert lines_of(tmp_path)[-1].startswith(f"{tmp_path}: model, tokenizer, README.md, report.html")


def test_a_folder_with_an_adapter_is_called_one(tmp_path):
    (tmp_path / "adapter_config.json").touch()
    assert lines_of(tmp_path)[-1].startswith(f"{tmp_path}: adapter, ")


def test_what_was_scored_says_how_it_compares_and_not_that_anything_was_trained(tmp_path):
    judged = {"comparison": {"words": ["loss: a real difference"]}, "forgetting": {"words": ["nothing forgotten"]}}
    said = format_summary({"train": {}, "parameters": {}, "data": {}, "evaluation": {"test": judged}}, str(tmp_path))
    assert said.splitlines()[1:3] == ["test: loss: a real difference", "test: nothing forgotten"]


def test_a_classifier_stands_beside_the_simplest_models_with_its_interval(tmp_path):
    metrics = {
        "loss": 0.05,
        "accuracy": 0.987,
        "matthews_correlation": 0.9712,
        "intervals": {"accuracy": [0.9712, 0.9968], "loss": [0.01, 0.1]},
        "confusion_matrix": {"labels": ["ham", "spam"], "counts": [[1, 2], [3, 4]]},
        "baselines": {"majority": {"accuracy": 0.5}, "tfidf_logistic_regression": {"accuracy": 0.964, "loss": 0.2}},
    }
    judged, _, test, majority, words, _ = lines_of(tmp_path, test=metrics)
    assert (
        judged == "Better than its baselines: accuracy 98.7% (97.1% to 99.7%), tfidf logistic regression 96.4% (test)."
    )
    assert test == "test: loss 0.0500  accuracy 98.7% (97.1% to 99.7%)  Matthews correlation 0.971"
    assert majority == "test, majority: accuracy 50.0%"
    assert words == "test, tfidf logistic regression: accuracy 96.4%"


def test_a_run_opens_with_whether_its_model_became_better(tmp_path):
    judged = {"outcome": "better", "verdict": "Better than its base: loss 3 -> 2", "words": ["loss: 3 -> 2"]}
    lines = lines_of(tmp_path, validation={"loss": 2.0, "comparison": judged})
    assert lines[0] == "Better than its base: loss 3 -> 2 (validation)."
    assert not any(line.endswith("loss: 3 -> 2") for line in lines), "and says it once"
    scratch = {**REPORT, "settings": {"model": {"scratch": {"preset": "nano"}}}, "evaluation": {}}
    assert format_summary(scratch, str(tmp_path)).startswith("Trained from scratch: there is no base to compare")
