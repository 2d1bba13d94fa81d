"""Classifiers that a Trainer has trained: saved with their head, and with their decision folded into it."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch
from datasets import Dataset
from models.scratch_models import token_ids
from safetensors.torch import load_file
from transformers import TrainingArguments, default_data_collator, pipeline
from tuned_adapters import TOKENIZER
from tuned_classifiers import (
    ARCHITECTURES,
    SPAM,
    TAGS,
    TOPICS,
    adapted_classifier,
    classifier_on,
    saved_backbone,
    targets,
)

from hf_finetune.config.sections import LastBlocks
from hf_finetune.errors import ModelError
from hf_finetune.models.classification_head import find_classification_head, find_head_modules
from hf_finetune.models.classifiers import set_trainable
from hf_finetune.models.decision import Decision, read_decision, write_decision
from hf_finetune.models.saved import load_for_prediction
from hf_finetune.training import saving
from hf_finetune.training.saving import save_decision, save_verified
from hf_finetune.training.trainers.classification import ClassificationTrainer

TEXTS = ["win a prize now", "see you at lunch", "are you free, then call", "ok", "Win, win"]
SINGLE = Decision(SPAM.names, "single", temperature=1.7, thresholds=(0.48, 0.52), metric="f1_macro")
SEVERAL = Decision(TOPICS.names, "single", temperature=0.6, thresholds=(0.3, 0.36, 0.34), metric="accuracy")
MULTI = Decision(TAGS.names, "multi", temperature=0.5, thresholds=(0.45, 0.5, 0.55), metric="f1_micro")
DECISIONS = {"two": (SPAM, SINGLE), "three": (TOPICS, SEVERAL), "multi": (TAGS, MULTI)}


@pytest.fixture
def backbone(tmp_path):
    return lambda architecture, **fields: saved_backbone(tmp_path / architecture, architecture, **fields)


@pytest.fixture
def fitted(tmp_path):
    def fit(model, labels=SPAM, **settings):
        torch.manual_seed(3)
        ids = token_ids(24, 12)
        rows = Dataset.from_dict({"input_ids": ids.tolist(), "labels": targets(labels, 24).tolist()})
        settings = {"max_steps": 6, "save_strategy": "no", "learning_rate": 0.01} | settings
        args = TrainingArguments(
            str(tmp_path / "run"),
            per_device_train_batch_size=4,
            use_cpu=True,
            report_to="none",
            disable_tqdm=True,
            logging_strategy="no",
            dataloader_pin_memory=False,
            **settings,
        )
        trainer = ClassificationTrainer(
            model,
            args,
            train_dataset=rows,
            eval_dataset=rows,
            processing_class=TOKENIZER,
            data_collator=default_data_collator,
        )
        trainer.train()
        return trainer

    return fit


def text_logits(model):
    with torch.no_grad():
        rows = [model.eval()(**TOKENIZER(text, return_tensors="pt")).logits for text in TEXTS]
    return torch.cat(rows).double().numpy()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("adapted", [False, True], ids=["whole", "adapter"])
def test_what_was_trained_is_saved_and_the_guard_finds_nothing_amiss(backbone, fitted, tmp_path, architecture, adapted):
    base = backbone(architecture)
    trainer = fitted((adapted_classifier if adapted else classifier_on)(base))
    save_verified(trainer)
    loaded, _ = load_for_prediction(str(tmp_path / "run"))
    np.testing.assert_allclose(text_logits(loaded), text_logits(trainer.model), atol=1e-5)
    assert not (tmp_path / "run" / "training_args.bin").exists()


@pytest.mark.parametrize("train_only", ["head", LastBlocks(last_blocks=1)], ids=["head", "last block"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_what_is_frozen_stays_as_it_was_and_the_rest_is_trained(backbone, fitted, architecture, train_only):
    model = classifier_on(backbone(architecture))
    set_trainable(model, train_only)
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    fitted(model, activation_checkpointing=True)
    moved = {name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])}
    assert moved <= trained
    assert trained - moved <= {name for name in trained if name.endswith("key.bias")}  # softmax does not see it
    assert {name for name in moved if name.startswith(tuple(find_head_modules(model)))}


@pytest.mark.parametrize(("labels", "decision"), DECISIONS.values(), ids=DECISIONS.keys())
@pytest.mark.parametrize("architecture", ["bert", "roberta", "scratch_gpt"])
@pytest.mark.parametrize("adapted", [False, True], ids=["whole", "adapter"])
def test_a_decision_is_kept_in_the_head_and_undone_from_it(
    backbone, fitted, tmp_path, architecture, adapted, labels, decision
):
    trainer = fitted((adapted_classifier if adapted else classifier_on)(backbone(architecture), labels=labels), labels)
    save_verified(trainer)
    logits = text_logits(trainer.model)
    save_decision(trainer, decision)
    folder = tmp_path / "run"
    written = read_decision(folder)
    assert written.offsets_in_weights
    assert (written.thresholds, written.temperature) == (decision.thresholds, decision.temperature)
    loaded, _ = load_for_prediction(str(folder))
    shift = np.log(decision.thresholds)  # from the definitions: p_k / t_k, or the odds over the threshold's odds
    shift = shift[0] - shift if decision.kind == "single" else np.log1p(-np.exp(shift)) - shift
    expected = logits / decision.temperature + shift
    np.testing.assert_allclose(text_logits(loaded), expected, atol=1e-5, rtol=1e-5)
    probabilities = decision.compute_probabilities(logits)
    np.testing.assert_allclose(written.compute_saved_probabilities(text_logits(loaded)), probabilities, atol=1e-5)
    largest = expected > 0 if decision.kind == "multi" else expected.argmax(axis=1)
    np.testing.assert_array_equal(largest, decision.choose(probabilities))
    assert not (folder / "training_args.bin").exists()


def test_a_pipeline_decides_as_the_thresholds_say_and_with_even_ones_gives_calibrated_scores(
    backbone, fitted, tmp_path
):
    trainer = fitted(classifier_on(backbone("bert"), TOPICS), TOPICS)
    logits = text_logits(trainer.model)
    save_decision(trainer, Decision(TOPICS.names, "single", temperature=2.5))
    classify = pipeline("text-classification", str(tmp_path / "run"), device="cpu")
    found = classify(TEXTS)
    exponents = np.exp(logits / 2.5)
    softmax = exponents / exponents.sum(axis=1, keepdims=True)
    assert [each["label"] for each in found] == [TOPICS.names[number] for number in softmax.argmax(axis=1)]
    np.testing.assert_allclose([each["score"] for each in found], softmax.max(axis=1), atol=1e-6)


def test_a_head_without_a_bias_keeps_its_temperature_and_says_that_pipelines_know_no_thresholds(
    backbone, fitted, tmp_path, caplog
):
    trainer = fitted(classifier_on(backbone("llama")))
    logits = text_logits(trainer.model)
    with caplog.at_level(logging.WARNING, logger="hf_finetune"):
        save_decision(trainer, SINGLE)
    assert "has no bias to hold the thresholds" in caplog.text
    written = read_decision(tmp_path / "run")
    assert not written.offsets_in_weights
    loaded, _ = load_for_prediction(str(tmp_path / "run"))
    np.testing.assert_allclose(text_logits(loaded), logits / SINGLE.temperature, atol=1e-5)
    probabilities = SINGLE.compute_probabilities(logits)
    np.testing.assert_allclose(written.compute_saved_probabilities(text_logits(loaded)), probabilities, atol=1e-5)
    caplog.clear()
    save_decision(trainer, Decision(SPAM.names, "single", temperature=1.1))
    assert "no bias" not in caplog.text


@pytest.mark.parametrize("section", [{"dtype": "bfloat16"}, {"dtype": "float16"}])
def test_rounded_weights_are_folded_within_their_precision(backbone, fitted, tmp_path, section):
    trainer = fitted(classifier_on(backbone("roberta"), **section), max_steps=1, learning_rate=1e-4)
    logits = text_logits(trainer.model)
    save_decision(trainer, SINGLE)
    loaded, _ = load_for_prediction(str(tmp_path / "run"))
    assert loaded.dtype == trainer.model.dtype
    expected = logits / SINGLE.temperature + SINGLE.offsets
    np.testing.assert_allclose(text_logits(loaded), expected, atol=0.02)


def test_mixed_precision_of_the_run_is_not_folded_with(backbone, fitted, tmp_path):
    trainer = fitted(classifier_on(backbone("bert")), bf16=True)
    save_verified(trainer)
    save_decision(trainer, SINGLE)
    assert read_decision(tmp_path / "run").thresholds == SINGLE.thresholds


def test_without_a_decision_nothing_is_written_and_one_of_a_run_before_goes(backbone, fitted, tmp_path):
    trainer = fitted(classifier_on(backbone("bert")))
    write_decision(SINGLE, tmp_path / "run")
    save_verified(trainer)
    assert read_decision(tmp_path / "run") is None
    before = (tmp_path / "run" / "model.safetensors").read_bytes()
    save_decision(trainer, None)
    assert read_decision(tmp_path / "run") is None
    assert (tmp_path / "run" / "model.safetensors").read_bytes() == before


def test_a_decision_that_changes_nothing_is_written_without_saving_once_more(backbone, fitted, tmp_path, caplog):
    trainer = fitted(classifier_on(backbone("bert")))
    save_verified(trainer)
    saved = (tmp_path / "run" / "model.safetensors").stat()
    with caplog.at_level(logging.INFO, logger="hf_finetune"):
        save_decision(trainer, Decision(SPAM.names, "single"))
    assert (tmp_path / "run" / "model.safetensors").stat() == saved
    assert "saved once more" not in caplog.text
    assert read_decision(tmp_path / "run").temperature == 1


def test_a_head_that_does_not_make_the_logits_is_found(backbone, fitted, monkeypatch):
    trainer = fitted(classifier_on(backbone("roberta")))
    fold = saving.fold_decision

    def beside_it(model, decision):
        with torch.no_grad():
            model.classifier.dense.weight.mul_(0.5)
        return fold(model, decision)

    monkeypatch.setattr(saving, "fold_decision", beside_it)
    with pytest.raises(ModelError, match="temperature and thresholds in its head"):
        save_decision(trainer, SINGLE)


@pytest.mark.parametrize("architecture", ["bert", "scratch_gpt"])
def test_the_best_adapter_is_the_one_that_is_exported(backbone, fitted, tmp_path, architecture):
    """https://github.com/huggingface/transformers/issues/24096, 29078: the head of the best checkpoint included."""
    trainer = fitted(
        adapted_classifier(backbone(architecture)),
        max_steps=-1,
        num_train_epochs=4,
        learning_rate=0.05,
        eval_strategy="epoch",
        save_strategy="epoch",
        load_best_model_at_end=True,
    )
    losses = [entry["eval_loss"] for entry in trainer.state.log_history if "eval_loss" in entry]
    best = trainer.state.best_model_checkpoint
    assert best.endswith(f"checkpoint-{6 * (1 + losses.index(min(losses)))}")
    save_verified(trainer)
    name = "adapter_model.safetensors"
    exported, kept = load_file(tmp_path / "run" / name), load_file(f"{best}/{name}")
    assert exported.keys() == kept.keys()
    assert all(torch.equal(exported[key], kept[key]) for key in kept)
    assert any(torch.equal(weight, find_classification_head(trainer.model).weight) for weight in exported.values())
    others = [load_file(f"{path}/{name}") for path in tmp_path.glob("run/checkpoint-*") if str(path) != best]
    assert all(not torch.equal(other[key], exported[key]) for other in others for key in kept if "weight" in key)


def test_a_folded_adapter_is_folded_once_more_to_nothing_new(backbone, fitted, tmp_path):
    trainer = fitted(adapted_classifier(backbone("bert")))
    save_decision(trainer, SINGLE)
    before = load_file(tmp_path / "run" / "adapter_model.safetensors")
    save_decision(trainer, Decision(SPAM.names, "single"))
    after = load_file(tmp_path / "run" / "adapter_model.safetensors")
    assert all(torch.equal(before[key], after[key]) for key in before)


@pytest.mark.parametrize("architecture", ["bert", "llama"])
def test_a_trained_weight_without_a_gradient_still_stops_the_run(backbone, fitted, architecture):
    model = classifier_on(backbone(architecture))
    model.base_model.register_parameter("unused", torch.nn.Parameter(torch.zeros(2)))
    with pytest.raises(ModelError, match=r"no gradient reaches them.*unused"):
        fitted(model)
