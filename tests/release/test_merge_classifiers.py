from __future__ import annotations

import json
import logging

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch.nn import functional as F
from transformers import AutoConfig, AutoModelForSequenceClassification, pipeline
from tuned_adapters import TOKENIZER, logits_of, save
from tuned_classifiers import (
    ARCHITECTURES,
    NUMBER,
    SPAM,
    TAGS,
    TOPICS,
    adapted_classifier,
    saved_backbone,
    train_classifier,
)

from hf_finetune.errors import DataError, ModelError
from hf_finetune.label_set import Labels
from hf_finetune.models.classification_head import fold_decision
from hf_finetune.models.decision import Decision, read_decision, write_decision
from hf_finetune.models.saved import load_for_prediction
from hf_finetune.release import merge
from hf_finetune.release.merge import merge_adapter

TEXTS = ["win a prize now", "see you at lunch", "are you free, then call", "ok", "Win, win"]


@pytest.fixture
def tuned(tmp_path):
    """A trained adapter on a base of its own; returns the trained model and the folder."""

    def make(architecture="bert", labels=SPAM, lora=None, **section):
        base = saved_backbone(tmp_path / "base", architecture)
        trained = train_classifier(adapted_classifier(base, lora or {}, labels, **section), labels)
        return trained, save(trained, tmp_path / "adapter")

    return make


def rows_in(path, labels):
    rows = [{"text": text, "label": label} for text, label in zip(TEXTS, labels, strict=True)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def text_logits(model, texts=TEXTS):
    with torch.no_grad():
        return torch.cat([model(**TOKENIZER(text, return_tensors="pt")).logits for text in texts])


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_merged_classifier_is_the_adapter_with_its_head_over_its_base(tuned, tmp_path, architecture):
    trained, adapter = tuned(architecture, TOPICS)
    facts = merge_adapter(str(adapter), str(tmp_path / "merged"))
    merged = AutoModelForSequenceClassification.from_pretrained(tmp_path / "merged")
    assert (logits_of(trained) - logits_of(merged)).abs().max() <= 1e-5
    assert facts.max_logit_difference <= 1e-5
    assert merged.config.id2label == TOPICS.id2label
    assert merged.config.problem_type == "single_label_classification"
    assert merged.config.pad_token_id == TOKENIZER.pad_token_id
    names = {path.name for path in (tmp_path / "merged").iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= names
    assert not names & {"adapter_config.json", "generation_config.json", "decision.json"}


@pytest.mark.parametrize("section", [{"load_in_4bit": True}, {"load_in_8bit": True}], ids=["4 bits", "8 bits"])
def test_a_rounded_base_is_dequantized_first(tuned, tmp_path, section):
    trained, adapter = tuned("llama", **section)
    facts = merge_adapter(str(adapter), str(tmp_path / "merged"))
    assert facts.relative_loss_difference < 0.01
    if "load_in_4bit" in section:
        merged = AutoModelForSequenceClassification.from_pretrained(tmp_path / "merged")
        assert (logits_of(trained) - logits_of(merged)).abs().max() <= 1e-4


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_decision_goes_along_and_a_pipeline_of_the_merged_folder_decides_by_it(tuned, tmp_path, dtype):
    trained, adapter = tuned("roberta")
    decision = Decision(("ham", "spam"), "single", temperature=1.7, thresholds=(0.45, 0.55), metric="f1_macro")
    probabilities = decision.compute_probabilities(text_logits(trained).numpy())
    expected = [decision.labels[number] for number in decision.choose(probabilities)]
    folded = fold_decision(trained, decision)
    save(trained, adapter)
    write_decision(folded, adapter)
    merge_adapter(str(adapter), str(tmp_path / "merged"), dtype=dtype, tolerance=0.05)
    assert read_decision(tmp_path / "merged") == folded
    classify = pipeline("text-classification", str(tmp_path / "merged"), device="cpu")
    assert [found["label"] for found in classify(TEXTS)] == expected
    model, _ = load_for_prediction(str(tmp_path / "merged"))
    saved = folded.compute_saved_probabilities(text_logits(model).float().numpy())
    np.testing.assert_allclose(saved, probabilities, atol=1e-5 if dtype == "float32" else 0.02)


@pytest.mark.parametrize(
    ("labels", "given", "loss"),
    [
        (SPAM, ["spam", "ham", "spam", "ham", "spam"], F.cross_entropy),
        (Labels(("0", "2"), "single", (0, 2)), [2, 0, 2, 0, 0], F.cross_entropy),
        (TAGS, [["art"], ["law", "art"], ["law"], ["sport"], ["sport", "law"]], F.binary_cross_entropy_with_logits),
        (NUMBER, [1.5, 2, -3.25, 0, 1], lambda logits, targets: F.mse_loss(logits[:, 0], targets)),
    ],
    ids=["single", "integers", "multi", "number"],
)
def test_the_loss_is_that_of_the_labels_that_the_rows_have(tuned, tmp_path, labels, given, loss):
    trained, adapter = tuned("distilbert", labels)
    facts = merge_adapter(str(adapter), str(tmp_path / "merged"), data=rows_in(tmp_path / "rows.jsonl", given))
    expected = loss(text_logits(trained), torch.from_numpy(labels.encode(given)))
    assert facts.rows == len(TEXTS)
    assert facts.loss_before == pytest.approx(expected.item(), rel=1e-5)


def test_labels_that_the_model_does_not_know_are_refused(tuned, tmp_path):
    _, adapter = tuned()
    with pytest.raises(DataError, match="junk"):
        merge_adapter(str(adapter), str(tmp_path / "merged"), data=rows_in(tmp_path / "rows.jsonl", ["junk", *"aaaa"]))
    assert not (tmp_path / "merged").exists()


def test_without_rows_the_runs_own_validation_split_is_taken(tuned, tmp_path, caplog):
    _, adapter = tuned("scratch_gpt")
    data = rows_in(tmp_path / "train.jsonl", ["spam", "ham", "spam", "ham", "spam"])
    (adapter / "run.yaml").write_text(f"data: {{train: {data}, validation_fraction: 0.4}}\ntrain: {{seed: 3}}\n")
    with caplog.at_level(logging.INFO, logger="hf_finetune"):
        facts = merge_adapter(str(adapter), str(tmp_path / "merged"))
    assert facts.rows == 2
    assert "to be compared on 2 rows of the run's validation split" in caplog.text
    (tmp_path / "train.jsonl").unlink()
    with caplog.at_level(logging.WARNING, logger="hf_finetune"):
        facts = merge_adapter(str(adapter), str(tmp_path / "merged"), overwrite=True)
    assert facts.rows == 64
    assert "64 rows of random tokens" in caplog.text


def test_a_merge_that_loses_the_head_is_refused_and_leaves_nothing(tuned, tmp_path, monkeypatch):
    _, adapter = tuned()
    merged = merge._merge

    def under_another_head(*args):
        model = merged(*args)
        with torch.no_grad():
            model.classifier.weight.normal_()
        return model

    monkeypatch.setattr(merge, "_merge", under_another_head)
    with pytest.raises(ModelError, match="the merged model differs"):
        merge_adapter(str(adapter), str(tmp_path / "merged"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter", "base"]


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_an_adapter_of_others_is_merged_with_a_padding_token(tmp_path):
    base = saved_backbone(tmp_path / "base", "llama", pad_token_id=None)
    config = AutoConfig.from_pretrained(base, num_labels=2)
    model = AutoModelForSequenceClassification.from_pretrained(base, config=config)
    theirs = get_peft_model(model, LoraConfig(task_type="SEQ_CLS", target_modules=["q_proj"], init_lora_weights=False))
    theirs.save_pretrained(tmp_path / "adapter")
    merge_adapter(str(tmp_path / "adapter"), str(tmp_path / "merged"))
    classify = pipeline("text-classification", str(tmp_path / "merged"), device="cpu", batch_size=5)
    assert [set(found) for found in classify(TEXTS)] == [{"label", "score"}] * 5
    torch.testing.assert_close(text_logits(classify.model), text_logits(theirs.eval()), atol=1e-5, rtol=1e-5)
