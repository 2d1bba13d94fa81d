from __future__ import annotations

import json
import logging

import pytest
import torch
from models.scratch_models import token_ids
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    BigBirdConfig,
    DebertaV2Config,
    MambaConfig,
    OPTConfig,
    T5Config,
    XLMConfig,
)
from tuned_adapters import TOKENIZER, adapter_on, save, saved_base, train
from tuned_classifiers import (
    ARCHITECTURES,
    DECODERS,
    NEW,
    NUMBER,
    SPAM,
    TAGS,
    TOPICS,
    adapted_classifier,
    classifier_on,
    saved_backbone,
    train_classifier,
)

from hf_finetune.config.sections import LastBlocks, ModelSection, ScratchSection
from hf_finetune.errors import ConfigError, ModelError
from hf_finetune.label_set import Labels
from hf_finetune.metric_info import format_share
from hf_finetune.models.classification_head import (
    find_blocks,
    find_classification_head,
    find_head_modules,
    is_classifier,
)
from hf_finetune.models.classifiers import load_classifier, set_trainable
from hf_finetune.models.loading import load_config
from hf_finetune.models.saved import load_for_generation, load_for_prediction
from hf_finetune.models.verification import verify_saved


@pytest.fixture(params=ARCHITECTURES)
def architecture(request):
    return request.param


@pytest.fixture
def backbone(tmp_path):
    return lambda architecture, **fields: saved_backbone(tmp_path / architecture, architecture, **fields)


def saved_classifier(folder, model):
    model.save_pretrained(folder)
    TOKENIZER.save_pretrained(folder)
    return folder


def logits(model, ids, **inputs):
    with torch.no_grad():
        return model.eval()(input_ids=ids, **inputs).logits


def test_a_classifier_is_the_backbone_under_a_new_head(architecture, backbone, caplog, capfd):
    folder = backbone(architecture)
    with caplog.at_level(logging.INFO):
        model = classifier_on(folder)
    assert is_classifier(model)
    assert f"new weights, drawn at random: {NEW[architecture]}" in caplog.messages
    assert not [line for line in caplog.messages if "LOAD REPORT" in line or "not sharded" in line]
    assert "LOAD REPORT" not in capfd.readouterr().err
    stored = load_file(folder / "model.safetensors")
    left_out = "left out of" in caplog.text
    assert left_out == (architecture != "gpt2")  # its head is its embedding
    prefix = model.base_model_prefix
    same = [name for name in stored if name.removeprefix(f"{prefix}.") != name or architecture == "gpt2"]
    state = model.state_dict()
    assert len(same) > 10
    for name in same:
        held = state.get(name, state.get(f"{prefix}.{name}"))
        assert torch.equal(held, stored[name]), name


def test_the_configuration_says_what_the_labels_are(architecture, backbone):
    config = classifier_on(backbone(architecture), TOPICS).config
    assert config.num_labels == 3
    assert config.id2label == {0: "art", 1: "law", 2: "sport"}
    assert config.label2id == {"art": 0, "law": 1, "sport": 2}
    assert config.problem_type == "single_label_classification"
    assert config.pad_token_id == TOKENIZER.pad_token_id


@pytest.mark.parametrize(
    ("labels", "problem_type", "loss"),
    [
        (TAGS, "multi_label_classification", nn.functional.binary_cross_entropy_with_logits),
        (NUMBER, "regression", lambda logits, labels: nn.functional.mse_loss(logits.squeeze(), labels.squeeze())),
    ],
)
def test_several_labels_and_numbers_have_their_losses(backbone, labels, problem_type, loss):
    model = classifier_on(backbone("bert"), labels)
    assert model.config.problem_type == problem_type
    ids, targets = token_ids(4, 9), torch.tensor([[1.0, 0.0, 1.0]] * 4)[:, : len(labels.names)]
    assert model(ids, labels=targets).loss.item() == pytest.approx(loss(logits(model, ids), targets).item(), rel=1e-6)


def test_the_callers_configuration_stays_as_it_is(backbone):
    folder = backbone("bert")
    config = AutoConfig.from_pretrained(folder)
    load_classifier(ModelSection(path=str(folder)), config, TOPICS, 16, bf16=False, pad_token_id=0)
    assert config.num_labels == 2


# The end token serves as padding where decoders have no other; encoders have one, and RoBERTa counts positions by it.
PADDED = [(name, 0) for name in ARCHITECTURES] + [(name, 2) for name in DECODERS]


@pytest.mark.parametrize(("architecture", "pad_token_id"), PADDED)
def test_padding_changes_no_logits_on_either_side(architecture, backbone, pad_token_id):
    model = train_classifier(classifier_on(backbone(architecture), pad_token_id=pad_token_id))
    texts = [token_ids(length, seed=length) for length in (3, 9, 6)]
    alone = torch.cat([logits(model, text[None]) for text in texts])
    # Encoders read their first token, which is a pad where padding is on the left.
    for side in ("right", "left") if architecture in DECODERS else ("right",):
        ids = torch.full((3, 9), pad_token_id)
        mask = torch.zeros_like(ids)
        for row, text in enumerate(texts):
            place = slice(0, len(text)) if side == "right" else slice(9 - len(text), 9)
            ids[row, place], mask[row, place] = text, 1
        inputs = {"attention_mask": mask}
        if side == "left" and architecture == "gpt2":  # it counts from the left edge if not told otherwise
            inputs["position_ids"] = (mask.cumsum(dim=1) - 1).clamp(min=0)
        torch.testing.assert_close(logits(model, ids, **inputs), alone, atol=1e-5, rtol=1e-5)


def test_decoders_read_the_last_token_and_not_a_pad(backbone):
    """A head that read the pad after a text would see the same state whatever the last words were."""
    for architecture in DECODERS:
        model = train_classifier(classifier_on(backbone(architecture)))
        one, other = token_ids(1, 9), token_ids(1, 9)
        one[:, 6:] = other[:, 6:] = 0
        other[:, 5] = 3 + (one[:, 5] - 2) % 50
        assert (logits(model, one) - logits(model, other)).abs().max() > 1e-3, architecture


def test_the_same_seed_draws_the_same_head(architecture, backbone):
    folder = backbone(architecture)
    one, other = classifier_on(folder), classifier_on(folder)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def test_a_scratch_gpt_is_drawn_under_a_head():
    section = ModelSection(scratch=ScratchSection(hidden_size=16, num_hidden_layers=1, num_attention_heads=2))
    config = load_config(section, TOKENIZER)
    model = load_classifier(section, config, TOPICS, 16, bf16=False, pad_token_id=TOKENIZER.pad_token_id)
    assert logits(model, token_ids(2, 8)).shape == (2, 3)
    assert model.config.id2label == TOPICS.id2label
    assert find_classification_head(model).bias is not None


@pytest.mark.parametrize(
    "labels",
    [
        Labels(("ham", "junk"), "single", ("ham", "junk")),
        Labels(("spam", "ham"), "single", ("spam", "ham")),
        TOPICS,
    ],
    ids=["other names", "another order", "another number"],
)
def test_a_head_for_other_labels_is_refused_with_both_sets_and_replaced_where_that_is_allowed(
    backbone, tmp_path, labels
):
    first = train_classifier(classifier_on(backbone("roberta")))
    folder = saved_classifier(tmp_path / "first", first)
    with pytest.raises(ModelError, match=r"model\.path: .*is a classifier of 2 labels \(ham, spam\)") as refused:
        classifier_on(folder, labels)
    assert ", ".join(labels.names) in str(refused.value)
    assert "set model.new_head: true" in str(refused.value)
    second = classifier_on(folder, labels, new_head=True)
    assert second.config.id2label == labels.id2label
    assert not torch.equal(second.classifier.dense.weight, first.classifier.dense.weight)
    assert second.classifier.out_proj.weight.shape == (len(labels.names), 32)
    assert torch.equal(second.classifier.out_proj.bias, torch.zeros(len(labels.names)))
    assert all(torch.equal(a, b) for a, b in zip(second.roberta.parameters(), first.roberta.parameters(), strict=True))


def test_a_head_for_the_same_labels_is_trained_on_and_names_that_say_nothing_are_replaced(backbone, tmp_path, caplog):
    first = train_classifier(classifier_on(backbone("bert")))
    folder = saved_classifier(tmp_path / "first", first)
    for config in ({}, {"id2label": {"0": "LABEL_0", "1": "LABEL_1"}, "label2id": {"LABEL_0": 0, "LABEL_1": 1}}):
        stored = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(stored | config))
        for new_head in (False, True):  # there is none to be replaced
            caplog.clear()
            with caplog.at_level(logging.INFO):
                again = classifier_on(folder, new_head=new_head)
            assert again.config.id2label == SPAM.id2label
            assert "drawn at random" not in caplog.text
            assert all(torch.equal(a, b) for a, b in zip(again.parameters(), first.parameters(), strict=True))


def test_a_head_that_the_configuration_does_not_speak_of_is_not_lost_silently(backbone, tmp_path):
    folder = saved_classifier(tmp_path / "first", classifier_on(backbone("gpt2")))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"architectures": None}))
    with pytest.raises(ModelError, match=r"has score.weight of 2 x 32; the training rows need 3 x 32"):
        classifier_on(folder, TOPICS)


def test_an_architecture_without_a_classifier_is_one_message():
    config = MambaConfig(vocab_size=61, hidden_size=8, num_hidden_layers=1)
    with pytest.raises(ModelError, match=r"'some' is a mamba, for which transformers has no sequence classifier"):
        load_classifier(ModelSection(path="some"), config, SPAM, 16, bf16=False, pad_token_id=0)


def test_a_folder_without_all_of_the_backbone_is_refused(backbone):
    folder = backbone("llama")
    weights = load_file(folder / "model.safetensors")
    gone = [name for name in weights if "layers.1.mlp" in name]
    save_file({name: weight for name, weight in weights.items() if name not in gone}, folder / "model.safetensors")
    with pytest.raises(ModelError, match=r"lacks 3 weights, first model.layers.1.mlp.down_proj.weight of a Llama"):
        classifier_on(folder)


@pytest.mark.parametrize("section", [{"load_in_4bit": True}, {"load_in_8bit": True}])
def test_only_blocks_are_held_in_fewer_bits(backbone, section):
    for architecture in ("bert", "distilbert", "scratch_gpt"):
        model = classifier_on(backbone(architecture), **section)
        within = {layer for block in find_blocks(model) for part in block for layer in part.modules()}
        for name, layer in model.named_modules():
            if isinstance(layer, nn.Linear):
                assert (type(layer) is not nn.Linear) == (layer in within), name


def trained_parts(model):
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def test_the_head_alone_is_trained_with_all_that_is_new(architecture, backbone, caplog):
    model = classifier_on(backbone(architecture))
    with caplog.at_level(logging.INFO):
        set_trainable(model, "head")
    assert {name.rpartition(".")[0] for name in trained_parts(model)} == set(NEW[architecture].split(", "))
    count = sum(p.numel() for p in model.parameters() if p.requires_grad)
    share = format_share(count / model.num_parameters())
    assert f"{count:,} of {model.num_parameters():,} parameters trained ({share})" in caplog.text


def test_a_pooler_that_the_folder_has_is_frozen_with_the_backbone(backbone, tmp_path):
    folder = saved_classifier(tmp_path / "first", classifier_on(backbone("bert")))
    model = classifier_on(folder)
    set_trainable(model, "head")
    assert trained_parts(model) == {"classifier.weight", "classifier.bias"}


@pytest.mark.parametrize(
    ("architecture", "rest"),
    [
        ("bert", {"bert.pooler", "bert.encoder.layer.1", "bert.encoder.layer.2", "classifier"}),
        ("distilbert", {"distilbert.transformer.layer.1", "distilbert.transformer.layer.2", "pre_classifier"}),
        ("gpt2", {"transformer.h.1", "transformer.h.2", "transformer.ln_f", "score"}),
        ("llama", {"model.layers.1", "model.layers.2", "model.norm", "score"}),
        ("scratch_gpt", {"model.layers.1", "model.layers.2", "model.norm", "score"}),
    ],
)
def test_the_last_blocks_are_trained_with_what_comes_after_them(backbone, architecture, rest):
    model = classifier_on(backbone(architecture))
    set_trainable(model, LastBlocks(last_blocks=2))
    assert trained_parts(model) == {
        name
        for name, _ in model.named_parameters()
        if name.startswith((*(f"{part}." for part in rest), *(f"{part}." for part in find_head_modules(model))))
    }


TINY = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
ODD = {
    "opt": (
        OPTConfig(hidden_size=16, num_hidden_layers=3, num_attention_heads=2, ffn_dim=16, word_embed_proj_dim=16),
        3,
    ),
    "xlm": (XLMConfig(emb_dim=16, n_layers=3, n_heads=2), 3),
    "t5": (T5Config(d_model=16, d_kv=8, d_ff=16, num_layers=2, num_heads=2), 2),
    "deberta": (DebertaV2Config(hidden_size=16, num_hidden_layers=3, num_attention_heads=2, intermediate_size=16), 3),
}


@pytest.mark.parametrize("name", ODD)
def test_blocks_are_found_wherever_an_architecture_keeps_them(name):
    config, number = ODD[name]
    with torch.device("meta"):
        model = AutoModelForSequenceClassification.from_config(config)
    set_trainable(model, LastBlocks(last_blocks=1))
    names = trained_parts(model)
    blocks = find_blocks(model)
    assert len(blocks) == number
    for place, block in enumerate(blocks, start=1):
        assert {p.requires_grad for part in block for p in part.parameters()} == {place == number}
    assert not any("embed" in part and "norm" not in part for part in names)
    expected = {
        "opt": "model.decoder.final_layer_norm.weight",
        "xlm": "transformer.ffns.2.lin1.weight",
        "t5": "transformer.decoder.final_layer_norm.weight",
        "deberta": "pooler.dense.weight",
    }
    assert expected[name] in names


@pytest.mark.parametrize(
    ("config", "unused"),
    [
        (BigBirdConfig(vocab_size=61, **TINY, attention_type="original_full"), 2),
    ],
    ids=["big_bird"],
)
@pytest.mark.parametrize("train_only", ["all", LastBlocks(last_blocks=1)], ids=["all", "last block"])
def test_what_an_architecture_does_not_use_is_not_waited_for(config, unused, train_only):
    model = AutoModelForSequenceClassification.from_config(config)
    set_trainable(model, train_only)
    ids = token_ids(2, 16)
    model(ids, token_type_ids=torch.zeros_like(ids), labels=torch.tensor([0, 1])).loss.backward()
    assert not [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    if train_only == "all":
        assert sum(not p.requires_grad for p in model.parameters()) == unused


def test_more_blocks_than_there_are_is_one_message(backbone):
    model = classifier_on(backbone("bert"))
    with pytest.raises(ConfigError, match=r"model.train_only.last_blocks: the model has 3 blocks, and the last 4"):
        set_trainable(model, LastBlocks(last_blocks=4))
    set_trainable(model, LastBlocks(last_blocks=3))
    assert not model.bert.embeddings.word_embeddings.weight.requires_grad
    set_trainable(classifier_on(backbone("gpt2")), "all")


def test_a_saved_classifier_is_compared_with_what_was_trained(architecture, backbone, tmp_path):
    model = train_classifier(classifier_on(backbone(architecture)))
    folder = saved_classifier(tmp_path / "saved", model)
    verify_saved(model, folder)
    with torch.no_grad():
        find_classification_head(model).weight.add_(0.01)
    with pytest.raises(ModelError, match="logits differ"):
        verify_saved(model, folder)


def test_a_trained_classifier_is_loaded_to_predict(architecture, backbone, tmp_path):
    model = train_classifier(classifier_on(backbone(architecture), TOPICS), TOPICS)
    loaded, tokenizer = load_for_prediction(str(saved_classifier(tmp_path / "saved", model)))
    assert not loaded.training
    assert loaded.config.id2label == TOPICS.id2label
    assert tokenizer.get_vocab() == TOKENIZER.get_vocab()
    assert torch.equal(logits(loaded, token_ids(2, 9)), logits(model, token_ids(2, 9)))


def test_an_adapter_is_loaded_to_predict(backbone, tmp_path):
    model = train_classifier(adapted_classifier(backbone("bert")))
    folder = save(model, tmp_path / "adapter")
    loaded, _ = load_for_prediction(str(folder))
    assert not loaded.training
    torch.testing.assert_close(logits(loaded, token_ids(2, 9)), logits(model, token_ids(2, 9)), atol=1e-6, rtol=0)


def test_what_is_no_classifier_is_refused_and_gets_no_random_head(architecture, backbone, tmp_path, capfd):
    with pytest.raises(ModelError, match="is no text classifier but a model without"):
        load_for_prediction(str(backbone(architecture)))
    assert "LOAD REPORT" not in capfd.readouterr().err


def test_an_adapter_of_a_language_model_and_a_base_for_a_whole_model_are_refused(backbone, tmp_path):
    folder = save(train(adapter_on(saved_base(tmp_path / "base"))), tmp_path / "adapter")
    with pytest.raises(ModelError, match="is no text classifier but the adapter of a language model"):
        load_for_prediction(str(folder))
    whole = saved_classifier(tmp_path / "whole", classifier_on(backbone("bert")))
    with pytest.raises(ModelError, match="leave --base-path out"):
        load_for_prediction(str(whole), base="somewhere")
    with pytest.raises(ModelError, match="cannot be loaded"):
        load_for_prediction(str(tmp_path / "nowhere" / "at" / "all"))


def test_a_classifier_is_not_talked_to(backbone, tmp_path):
    folder = saved_classifier(tmp_path / "whole", classifier_on(backbone("llama")))
    with pytest.raises(ModelError, match=r"is a text classifier, not a language model; .* hf-finetune predict"):
        load_for_generation(str(folder))


def test_a_model_without_a_last_linear_layer_is_refused(tmp_path):
    model = classifier_on(saved_backbone(tmp_path, "bert"))
    model.classifier = nn.Identity()
    with pytest.raises(ModelError, match="a BertForSequenceClassification has no linear layer that makes its 2 logits"):
        find_classification_head(model)
