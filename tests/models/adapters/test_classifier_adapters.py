"""The head of a classifier in its adapter: that it is there, that it comes back, and that it stays when merged."""

from __future__ import annotations

import json
import logging

import pytest
import torch
from models.scratch_models import token_ids
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForSequenceClassification
from tuned_adapters import TOKENIZER, adapter_on, logits_of, save, saved_base, train
from tuned_classifiers import (
    ARCHITECTURES,
    NEW,
    SPAM,
    TOPICS,
    adapted_classifier,
    classifier_on,
    saved_backbone,
    train_classifier,
)

from hf_finetune.errors import ConfigError, ModelError
from hf_finetune.models.adapters.attach import verify_adapter
from hf_finetune.models.adapters.loading import load_adapter
from hf_finetune.models.classification_head import PEFT_PREFIX, find_classification_head, is_classifier
from hf_finetune.models.files.adapter import ADAPTER_CONFIG, ADAPTER_WEIGHTS, BASE_RECORD, read_base_record

SETTINGS = {
    "random": {"init_lora_weights": False},
    "dora": {"use_dora": True},
    "pissa": {"init_lora_weights": "pissa"},
    "named modules": {"target_modules": ["q_proj", "v_proj"]},
    "one more whole module": {"modules_to_save": ["norm"]},
    "the head by name": {"modules_to_save": ["score"]},
}

# peft asks for a property that transformers has renamed; our own loading keeps that from the user.
pytestmark = [
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to False:UserWarning"),
]


@pytest.fixture
def backbone(tmp_path):
    return lambda architecture, **fields: saved_backbone(tmp_path / architecture, architecture, **fields)


def agree(one, other, tolerance=1e-5):
    return (logits_of(one) - logits_of(other)).abs().max() <= tolerance


def peft_alone(base, folder, labels=SPAM):
    config = AutoConfig.from_pretrained(base, num_labels=len(labels.names), pad_token_id=0)
    return PeftModel.from_pretrained(AutoModelForSequenceClassification.from_pretrained(base, config=config), folder)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_all_that_is_new_is_in_the_adapter_and_comes_back_with_it(backbone, tmp_path, architecture):
    base = backbone(architecture)
    bare = classifier_on(base, TOPICS)
    new = {name for name, _ in bare.named_parameters() if name.rpartition(".")[0] in NEW[architecture].split(", ")}
    trained = train_classifier(adapted_classifier(base, {}, TOPICS), TOPICS)
    folder = save(trained, tmp_path / "adapter")
    stored = load_file(folder / ADAPTER_WEIGHTS)
    assert {name.removeprefix(PEFT_PREFIX) for name in stored if "lora_" not in name} == new
    drawn = dict(bare.named_parameters())
    assert all((stored[f"{PEFT_PREFIX}{name}"] - drawn[name]).abs().max() > 1e-3 for name in new)  # and trained
    assert any(torch.equal(weight, find_classification_head(trained).weight) for weight in stored.values())
    verify_adapter(trained, folder)
    loaded, _ = load_adapter(str(folder))
    assert agree(trained, loaded)
    assert loaded.config.id2label == TOPICS.id2label
    assert loaded.config.problem_type == "single_label_classification"
    assert agree(trained, peft_alone(base, folder, TOPICS))
    assert not agree(trained, bare, 1e-3)


@pytest.mark.parametrize("lora", SETTINGS.values(), ids=SETTINGS.keys())
def test_settings_leave_the_head_in_the_adapter(backbone, tmp_path, lora):
    base = backbone("scratch_gpt")
    trained = train_classifier(adapted_classifier(base, lora))
    folder = save(trained, tmp_path / "adapter")
    verify_adapter(trained, folder)
    assert agree(trained, peft_alone(base, folder))
    saved = json.loads((folder / ADAPTER_CONFIG).read_text())["modules_to_save"]
    assert saved == list(dict.fromkeys(["score", *lora.get("modules_to_save", [])]))


@pytest.mark.parametrize("architecture", ["bert", "distilbert", "llama"])
@pytest.mark.parametrize("section", [{"load_in_4bit": True}, {"load_in_8bit": True}], ids=["4 bits", "8 bits"])
def test_the_head_over_a_rounded_base_is_trained_in_float32_and_comes_back(backbone, tmp_path, architecture, section):
    trained = train_classifier(adapted_classifier(backbone(architecture), {}, **section))
    assert find_classification_head(trained).weight.dtype == torch.float32
    folder = save(trained, tmp_path / "adapter")
    verify_adapter(trained, folder)
    loaded, _ = load_adapter(str(folder))
    assert agree(trained, loaded)


def test_the_head_that_is_found_is_the_copy_that_is_trained(backbone):
    model = adapted_classifier(backbone("roberta"))
    head = find_classification_head(model)
    assert head is model.base_model.model.classifier.modules_to_save["default"].out_proj
    assert head.weight.requires_grad


def test_what_is_saved_whole_is_said(backbone, caplog):
    with caplog.at_level(logging.INFO, logger="hf_finetune"):
        adapted_classifier(backbone("bert"), {"target_modules": ["query"]})
    assert "r=8 on query (3), all of bert.pooler.dense, all of classifier" in caplog.text


def test_a_module_that_is_not_there_is_refused_beside_the_head(backbone):
    with pytest.raises(ConfigError, match="'embeding' matches no module"):
        adapted_classifier(backbone("bert"), {"modules_to_save": ["embeding"]})


def test_the_folder_says_what_the_head_is_for(backbone, tmp_path):
    folder = save(adapted_classifier(backbone("gpt2"), {}, TOPICS), tmp_path / "adapter")
    assert json.loads((folder / BASE_RECORD).read_text())["classifier"] == {
        "id2label": {"0": "art", "1": "law", "2": "sport"},
        "problem_type": "single_label_classification",
        "pad_token_id": 0,
    }
    assert json.loads((folder / ADAPTER_CONFIG).read_text())["task_type"] == "SEQ_CLS"


def test_a_record_without_a_classifier_is_that_of_a_language_model(tmp_path):
    folder = save(train(adapter_on(saved_base(tmp_path / "base"))), tmp_path / "adapter")
    record = json.loads((folder / BASE_RECORD).read_text())
    assert record.pop("classifier") is None
    (folder / BASE_RECORD).write_text(json.dumps(record))
    assert read_base_record(folder).classifier is None
    assert not is_classifier(load_adapter(str(folder))[0].get_base_model())


def test_a_lost_head_is_found_when_the_adapter_is_saved(backbone, tmp_path):
    trained = train_classifier(adapted_classifier(backbone("distilbert")))
    folder = save(trained, tmp_path / "adapter")
    weights = load_file(folder / ADAPTER_WEIGHTS)
    weights[f"{PEFT_PREFIX}pre_classifier.weight"] += 0.1
    save_file(weights, folder / ADAPTER_WEIGHTS)
    with pytest.raises(ModelError, match="logits differ"):
        verify_adapter(trained, folder)
    del weights[f"{PEFT_PREFIX}pre_classifier.weight"]
    save_file(weights, folder / ADAPTER_WEIGHTS)
    with pytest.raises(
        ModelError, match=r"lacks weights that its base does not have either: 1, first pre_classifier.weight"
    ):
        load_adapter(str(folder))


def test_verifying_draws_no_random_numbers(backbone, tmp_path):
    trained = train_classifier(adapted_classifier(backbone("bert")))
    folder = save(trained, tmp_path / "adapter")
    before = torch.get_rng_state()
    verify_adapter(trained, folder)
    assert torch.equal(before, torch.get_rng_state())


def test_an_adapter_on_a_base_with_a_head_for_others_has_its_own(backbone, tmp_path):
    first = train_classifier(classifier_on(backbone("roberta"), TOPICS), TOPICS)
    save_as = tmp_path / "first"
    first.save_pretrained(save_as)
    trained = train_classifier(adapted_classifier(save_as, {}, new_head=True))
    folder = save(trained, tmp_path / "adapter")
    verify_adapter(trained, folder)
    loaded, _ = load_adapter(str(folder))
    assert agree(trained, loaded)
    assert loaded.config.id2label == SPAM.id2label


def of_others(base, folder, labels, **lora):
    config = AutoConfig.from_pretrained(base, num_labels=len(labels.names), pad_token_id=0)
    model = AutoModelForSequenceClassification.from_pretrained(base, config=config)
    settings = LoraConfig(task_type="SEQ_CLS", target_modules="all-linear", **lora)
    trained = train_classifier(get_peft_model(model, settings), labels)
    trained.save_pretrained(folder)
    return trained


def test_an_adapter_of_others_is_known_by_its_task_and_its_head(backbone, tmp_path):
    for architecture in ("roberta", "llama"):
        base = backbone(architecture)
        trained = of_others(base, tmp_path / f"{architecture}-adapter", TOPICS)
        loaded, _ = load_adapter(str(tmp_path / f"{architecture}-adapter"))
        assert agree(trained, loaded)
        assert loaded.config.id2label == {0: "LABEL_0", 1: "LABEL_1", 2: "LABEL_2"}
        ids = token_ids(2, 8)
        assert loaded(input_ids=ids).logits.shape == (2, 3)  # two rows: the padding token is known


def test_an_adapter_of_others_on_a_named_head_has_its_names(backbone, tmp_path):
    first = classifier_on(backbone("roberta"), TOPICS)
    first.save_pretrained(tmp_path / "first")
    of_others(tmp_path / "first", tmp_path / "adapter", TOPICS)
    TOKENIZER.save_pretrained(tmp_path / "adapter")
    loaded, _ = load_adapter(str(tmp_path / "adapter"))
    assert loaded.config.id2label == TOPICS.id2label


def test_adapters_of_others_that_lack_a_part_of_the_head_are_refused(backbone, tmp_path):
    """peft alone knows heads that are called classifier or score: a new pooler was trained by nobody and is lost."""
    of_others(backbone("bert"), tmp_path / "adapter", SPAM)
    with pytest.raises(
        ModelError, match=r"lacks weights that its base does not have either: 2, first bert.pooler.dense.bias"
    ):
        load_adapter(str(tmp_path / "adapter"))
    weights = load_file(tmp_path / "adapter" / ADAPTER_WEIGHTS)
    without = {name: weight for name, weight in weights.items() if "classifier" not in name}
    save_file(without, tmp_path / "adapter" / ADAPTER_WEIGHTS)
    with pytest.raises(ModelError, match=r"is the adapter of a classifier without its head \(classifier\)"):
        load_adapter(str(tmp_path / "adapter"))
