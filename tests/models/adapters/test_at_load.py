"""What an adapter needs to be what was trained: its own base, its tokenizer, all its weights, and an effect."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from tokenizers.processors import TemplateProcessing
from transformers import BertConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, Qwen2VLConfig
from tuned_adapters import TOKENIZER, adapter_on, saved_base, train

from hf_finetune.errors import FinetuneError, ModelError
from hf_finetune.models.adapters.attach import _warn_of_routers, save_adapter
from hf_finetune.models.adapters.loading import load_adapter, suppress_peft_warnings
from hf_finetune.models.files.adapter import ADAPTER_WEIGHTS, BASE_RECORD, check_base_around, read_base_record
from hf_finetune.models.saved import load_for_generation
from hf_finetune.models.tokenizer_probe import probe_tokenizer
from hf_finetune.models.tokenizer_training import train_tokenizer
from hf_finetune.models.tokenizers import check_tokenizer_fits
from hf_finetune.release.merge import merge_adapter


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return saved_base(tmp_path / "base")


@pytest.fixture
def adapter(base: Path, tmp_path: Path) -> Path:
    return save(train(adapter_on(base)), tmp_path / "adapter")


def save(model, folder: Path) -> Path:
    model.save_pretrained(folder)
    save_adapter(model, folder, TOKENIZER)
    TOKENIZER.save_pretrained(folder)
    return folder


def scale_weights(model: Path, factor: float) -> None:
    weights = load_file(model / "model.safetensors")
    save_file({key: value * factor for key, value in weights.items()}, model / "model.safetensors", {"format": "pt"})


def refuse(adapter: Path, tmp_path: Path, **options: str) -> str:
    """What `score`, `predict`, `generate` and `chat` say, which load by one function, and `merge` says the same."""
    with pytest.raises(ModelError) as refused:
        load_for_generation(str(adapter), **options)
    with pytest.raises(FinetuneError) as also:
        merge_adapter(str(adapter), str(tmp_path / "merged"), **options)
    assert str(also.value) == str(refused.value)
    assert not (tmp_path / "merged").exists()
    assert "\n" not in str(refused.value)
    return str(refused.value)


def test_an_adapter_that_was_never_trained_is_refused(base, tmp_path):
    said = refuse(save(adapter_on(base), tmp_path / "fresh"), tmp_path)
    assert "changes nothing" in said


def test_one_whose_trained_half_was_lost_is_refused_too(adapter, tmp_path):
    weights = load_file(adapter / ADAPTER_WEIGHTS)
    zeroed = {key: torch.zeros_like(value) if "lora_B" in key else value for key, value in weights.items()}
    save_file(zeroed, adapter / ADAPTER_WEIGHTS, metadata={"format": "pt"})
    assert "changes nothing" in refuse(adapter, tmp_path)


def test_one_that_trains_the_rows_of_single_tokens_alone_has_an_effect(base, tmp_path):
    model = LlamaForCausalLM(
        LlamaConfig(vocab_size=61, hidden_size=32, num_hidden_layers=1, intermediate_size=48, num_attention_heads=4)
    )
    model.save_pretrained(tmp_path / "llama")
    TOKENIZER.save_pretrained(tmp_path / "llama")
    trained = adapter_on(tmp_path / "llama", {"target_modules": ["q_proj"], "trainable_token_indices": [60]})
    with torch.no_grad():
        for name, weight in trained.named_parameters():
            if "trainable_tokens_delta" in name:
                weight.add_(1.0)
    loaded, _ = load_adapter(str(save(trained, tmp_path / "rows")))
    assert torch.equal(loaded.get_input_embeddings().weight, trained.get_input_embeddings().weight)


def test_half_of_its_weights_is_no_adapter(adapter, tmp_path):
    weights = load_file(adapter / ADAPTER_WEIGHTS)
    half = {key: weights[key] for key in sorted(weights)[::2]}
    save_file(half, adapter / ADAPTER_WEIGHTS, metadata={"format": "pt"})
    assert "weights are missing or unexpected" in refuse(adapter, tmp_path)


def test_a_layer_that_was_trained_in_full_and_is_not_in_the_files_is_missed(base, tmp_path):
    adapter = save(train(adapter_on(base, {"modules_to_save": ["lm_head"]})), tmp_path / "adapter")
    weights = load_file(adapter / ADAPTER_WEIGHTS)
    kept = {key: value for key, value in weights.items() if "lm_head" not in key}
    assert len(kept) < len(weights)
    save_file(kept, adapter / ADAPTER_WEIGHTS, metadata={"format": "pt"})
    assert "does not fit this base" in refuse(adapter, tmp_path)


@pytest.mark.parametrize("recorded", [True, False], ids=["ours", "of another tool"])
def test_another_base_of_the_same_shape_is_refused(base, adapter, tmp_path, recorded):
    other = shutil.copytree(base, tmp_path / "other")
    scale_weights(other, 1.01)
    if not recorded:
        (adapter / BASE_RECORD).unlink()
    assert "was trained on another model than" in refuse(adapter, tmp_path, base=str(other))


def test_a_base_without_a_head_is_no_base_of_a_language_model(base, tmp_path):
    trained = train(adapter_on(base))
    trained.save_pretrained(tmp_path / "foreign")  # as peft does, with no record of its base
    TOKENIZER.save_pretrained(tmp_path / "foreign")
    weights = load_file(base / "model.safetensors")
    kept = {key: value for key, value in weights.items() if "lm_head" not in key}
    assert len(kept) == len(weights) - 1
    save_file(kept, base / "model.safetensors", metadata={"format": "pt"})
    assert "lacks 1 weights of a ScratchGPTForCausalLM, first lm_head.weight" in refuse(tmp_path / "foreign", tmp_path)


def test_a_base_that_changes_while_it_is_read_is_noticed(base, adapter):
    record = read_base_record(adapter)
    with pytest.raises(ModelError, match="was trained on another model"), check_base_around(record, adapter):
        scale_weights(base, 1.5)


def test_a_larger_tokenizer_is_refused(adapter, tmp_path):
    letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ .,?\n0123456789"
    train_tokenizer("char", [letters], None).save_pretrained(adapter)
    assert "the tokenizer's largest id is" in refuse(adapter, tmp_path)


def test_another_tokenizer_of_the_same_size_is_refused(adapter, tmp_path):
    assert json.loads((adapter / BASE_RECORD).read_text())["tokenizer_probe"] == probe_tokenizer(TOKENIZER)
    train_tokenizer("char", ["zyxwvutsrqponmlkjihgfedcbaABCDEFGHIJKLMNOPQRSTUVWXY0 .,?\n"], None).save_pretrained(
        adapter
    )
    assert "its tokenizer is not the one of the training" in refuse(adapter, tmp_path)


def test_a_tokenizer_that_leaves_out_its_first_token_is_refused(base, tmp_path):
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=with_start(TOKENIZER), **specials(TOKENIZER))
    model = train(adapter_on(base))
    model.save_pretrained(tmp_path / "adapter")
    save_adapter(model, tmp_path / "adapter", tokenizer)
    tokenizer.save_pretrained(tmp_path / "adapter")
    load_adapter(str(tmp_path / "adapter"))
    TOKENIZER.save_pretrained(tmp_path / "adapter")
    said = refuse(tmp_path / "adapter", tmp_path)
    assert f"leaves out {TOKENIZER.bos_token}, which stood around every text" in said


def with_start(tokenizer: PreTrainedTokenizerFast):
    """Its backend, which puts BOS before a text."""
    backend = type(tokenizer.backend_tokenizer).from_str(tokenizer.backend_tokenizer.to_str())
    bos = (tokenizer.bos_token, tokenizer.bos_token_id)
    backend.post_processor = TemplateProcessing(single=f"{bos[0]} $A", special_tokens=[bos])
    return backend


def specials(tokenizer: PreTrainedTokenizerFast) -> dict[str, str]:
    return {name: getattr(tokenizer, name) for name in ("bos_token", "eos_token", "pad_token")}


def test_the_vocabulary_of_a_model_of_texts_and_images_is_that_of_its_text():
    small = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    specials = {"bos_token_id": TOKENIZER.bos_token_id, "eos_token_id": TOKENIZER.eos_token_id}
    for size, fits in ((len(TOKENIZER), True), (len(TOKENIZER) - 1, False)):
        config = Qwen2VLConfig(text_config={**small, **specials, "vocab_size": size})
        assert getattr(config, "vocab_size", None) != size
        if fits:
            check_tokenizer_fits(TOKENIZER, config)
        else:
            with pytest.raises(ModelError, match="the model has embeddings for 60 tokens"):
                check_tokenizer_fits(TOKENIZER, config)


def test_an_encoder_is_refused_a_tokenizer_without_cls_before_a_text():
    config = BertConfig(vocab_size=len(TOKENIZER))
    bare = PreTrainedTokenizerFast(
        tokenizer_object=TOKENIZER.backend_tokenizer, cls_token=TOKENIZER.bos_token, **specials(TOKENIZER)
    )
    with pytest.raises(ModelError, match=r"puts no .* before a text, as the model was trained"):
        check_tokenizer_fits(bare, config)
    whole = PreTrainedTokenizerFast(
        tokenizer_object=with_start(TOKENIZER), cls_token=TOKENIZER.bos_token, **specials(TOKENIZER)
    )
    check_tokenizer_fits(whole, config)


def test_a_trained_classifier_is_refused_a_tokenizer_that_has_stopped_to_add_bos():
    config = LlamaConfig(vocab_size=len(TOKENIZER), bos_token_id=None, eos_token_id=None)
    bare = PreTrainedTokenizerFast(
        tokenizer_object=TOKENIZER.backend_tokenizer, add_bos_token=True, **specials(TOKENIZER)
    )
    bare.backend_tokenizer.post_processor = None
    check_tokenizer_fits(bare, config)  # a language model: rows get their BOS otherwise
    config.architectures = ["LlamaForSequenceClassification"]
    with pytest.raises(ModelError, match=r"puts no .* before a text"):
        check_tokenizer_fits(bare, config)


class Block(torch.nn.Module):
    """A mixture of experts whose router is a linear layer, as several of transformers' are."""

    def __init__(self) -> None:
        super().__init__()
        self.gate, self.gate_proj = torch.nn.Linear(4, 2), torch.nn.Linear(4, 4)


@pytest.mark.parametrize(("targets", "named"), [("all-linear", True), (["gate", "gate_proj"], False)])
def test_routers_that_all_linear_takes_in_are_named(targets, named, caplog):
    config = LoraConfig(r=2, target_modules=targets)
    with suppress_peft_warnings():
        model = get_peft_model(
            torch.nn.Sequential(Block(), Block()), LoraConfig(r=2, target_modules=["gate", "gate_proj"])
        )
    _warn_of_routers(config, model.base_model.targeted_module_names)
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == named
    for line in said:
        assert line.startswith("adapter: all-linear includes 2 routers, which choose the experts (first 0.gate): ")
        assert line.endswith("lora.exclude_modules: [gate] leaves them as they are")
