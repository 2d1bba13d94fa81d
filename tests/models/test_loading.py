from __future__ import annotations

import pytest
import torch
from models.architectures import get_tokenizer, save_family
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForSequenceClassification
from tuned_adapters import adapter_on, logits_of, save, saved_base, train

from hf_finetune.config.sections import DataSection, ModelSection, ScratchSection
from hf_finetune.errors import ConfigError, ModelError, NonFiniteError
from hf_finetune.models.lengths import block_size
from hf_finetune.models.loading import build_quantization_config, choose_attention, load_causal_lm, load_config
from hf_finetune.models.saved import load_for_generation
from hf_finetune.models.tokenizer_training import train_tokenizer
from hf_finetune.models.verification import verify_saved

TOKENIZER = train_tokenizer("char", ["abcdefgh "], None)
SCRATCH = ModelSection(
    scratch=ScratchSection(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, max_position_embeddings=32)
)


@pytest.fixture
def saved(tmp_path):
    torch.manual_seed(0)
    model = load_causal_lm(SCRATCH, load_config(SCRATCH, TOKENIZER), 8, bf16=False)
    with torch.no_grad():
        model.lm_head.weight.normal_()
    model.save_pretrained(tmp_path / "model")
    TOKENIZER.save_pretrained(tmp_path / "model")
    return model, tmp_path / "model"


def test_a_scratch_model_has_a_row_for_each_token_and_its_special_ids():
    config = load_config(SCRATCH, TOKENIZER)
    assert config.vocab_size == len(TOKENIZER)
    assert (config.pad_token_id, config.eos_token_id) == (TOKENIZER.pad_token_id, TOKENIZER.eos_token_id)


def test_a_folder_loads_as_it_was_saved(saved):
    model, folder = saved
    section = ModelSection(path=str(folder))
    again = load_causal_lm(section, load_config(section, TOKENIZER), 8, bf16=False)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
    generator, tokenizer = load_for_generation(str(folder))
    assert not generator.training
    assert tokenizer.get_vocab() == TOKENIZER.get_vocab()


def test_what_lies_in_the_folder_is_compared_with_what_was_trained(saved):
    model, folder = saved
    verify_saved(model, folder)
    with torch.no_grad():
        model.lm_head.weight.add_(0.01)
    with pytest.raises(ModelError, match="logits differ"):
        verify_saved(model, folder)


def test_weights_that_are_not_finite_do_not_pass_as_equal(saved):
    model, folder = saved
    with torch.no_grad():
        model.lm_head.weight.fill_(float("nan"))
    model.save_pretrained(folder)
    with pytest.raises(NonFiniteError, match="no finite numbers"):
        verify_saved(model, folder)


def test_a_tokenizer_of_another_model_is_refused(saved):
    _, folder = saved
    other = train_tokenizer("char", ["abcdefghijklmnopqrstuvwxyz"], None)
    with pytest.raises(ModelError, match="largest id"):
        load_config(ModelSection(path=str(folder)), other)


@pytest.mark.parametrize("path", ["nowhere/at/all", "some-org/some-model"])
def test_a_model_that_cannot_be_had_is_one_message(path):
    with pytest.raises(ModelError, match="cannot be loaded"):
        load_config(ModelSection(path=path), TOKENIZER)


def test_the_block_size_is_what_is_asked_for_or_what_the_model_takes():
    config = load_config(SCRATCH, TOKENIZER)
    assert block_size(DataSection(train="x"), config, TOKENIZER) == 32
    assert block_size(DataSection(train="x", block_size=8), config, TOKENIZER) == 8
    with pytest.raises(ConfigError, match="33 tokens are more than the 32"):
        block_size(DataSection(train="x", block_size=33), config, TOKENIZER)


def test_short_blocks_of_bf16_on_a_cpu_use_eager_attention_unless_another_is_asked_for(monkeypatch):
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    assert choose_attention(SCRATCH, 256, bf16=True) == "eager"
    assert choose_attention(SCRATCH, 257, bf16=True) is None
    assert choose_attention(SCRATCH, 8, bf16=False) is None
    assert choose_attention(SCRATCH.model_copy(update={"attn_implementation": "eager"}), 8, bf16=False) == "eager"
    assert choose_attention(SCRATCH.model_copy(update={"attn_implementation": "sdpa"}), 8, bf16=True) == "sdpa"
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    assert choose_attention(SCRATCH, 8, bf16=True) is None


@pytest.mark.parametrize(("family", "attention"), [("llama", "sdpa"), ("bloom", "eager")])
def test_the_attention_is_the_fastest_that_the_architecture_has(family, attention, tmp_path):
    section = ModelSection(path=str(save_family(tmp_path / "base", family)))
    config = load_config(section, get_tokenizer(family))
    assert load_causal_lm(section, config, 8, bf16=False).config._attn_implementation == attention


def test_a_folder_without_the_head_of_a_language_model_is_refused_and_not_given_a_random_one(tmp_path):
    base = save_family(tmp_path / "base", "llama")
    AutoModel.from_pretrained(base).save_pretrained(tmp_path / "body")
    AutoModelForSequenceClassification.from_pretrained(base).save_pretrained(tmp_path / "classifier")
    for folder in (tmp_path / "body", tmp_path / "classifier"):
        section = ModelSection(path=str(folder))
        config = load_config(section, get_tokenizer("llama"))
        with pytest.raises(ModelError, match=r"lacks 1 weights of a LlamaForCausalLM, first lm_head\.weight"):
            load_causal_lm(section, config, 8, bf16=False)


def test_an_answer_is_not_asked_of_a_folder_without_a_head(tmp_path):
    base = save_family(tmp_path / "base", "llama")
    AutoModel.from_pretrained(base).save_pretrained(tmp_path / "body")
    get_tokenizer("llama").save_pretrained(tmp_path / "body")
    with pytest.raises(ModelError, match="name a folder that holds the whole language model"):
        load_for_generation(str(tmp_path / "body"))


def test_the_saved_model_is_any_auto_model(saved):
    model, folder = saved
    assert type(AutoModelForCausalLM.from_pretrained(folder)) is type(model)


@pytest.mark.parametrize(("section", "share"), [({"load_in_4bit": True}, 0.30), ({"load_in_8bit": True}, 0.55)])
def test_a_quantised_model_takes_a_fraction_of_the_memory_of_fp16(tmp_path, section, share):
    base = saved_base(tmp_path / "base", hidden_size=256, num_hidden_layers=4)

    def megabytes(**fields):
        settings = ModelSection(path=str(base), dtype="float16", **fields)
        return load_causal_lm(settings, AutoConfig.from_pretrained(base), 16, bf16=False).get_memory_footprint() / 1e6

    assert megabytes(**section) <= share * megabytes()


# The root mean square error of NF4 on a normal distribution in blocks of 64 is 9 to 10 % (Dettmers et al., 2023); that
# of 127 even steps to the largest of 64 numbers, which is about 2.6 deviations, is 2.6 / 127 / sqrt(12) = 0.6 %.
@pytest.mark.parametrize(("section", "error"), [({"load_in_4bit": True}, 0.095), ({"load_in_8bit": True}, 0.006)])
def test_quantised_weights_are_the_stored_ones_but_for_their_rounding(tmp_path, section, error):
    base = saved_base(tmp_path / "base", hidden_size=64)
    config = AutoConfig.from_pretrained(base)
    rounded = load_causal_lm(ModelSection(path=str(base), **section), config, 16, bf16=False)
    exact = AutoModelForCausalLM.from_pretrained(base).state_dict()
    rounded.dequantize(dtype=torch.float32)
    for name, weight in rounded.requires_grad_(False).named_parameters():
        relative = ((weight - exact[name]).square().mean() / exact[name].square().mean()).sqrt()
        expected = error if "proj" in name else 0.0
        assert relative == pytest.approx(expected, rel=0.25), name


def test_4_bits_are_nf4_quantised_twice_and_computed_in_the_precision_of_the_run(tmp_path):
    settings = ModelSection(path="x", load_in_4bit=True)
    chosen = build_quantization_config(settings, bf16=True)
    assert (chosen.bnb_4bit_quant_type, chosen.bnb_4bit_use_double_quant) == ("nf4", True)
    assert chosen.bnb_4bit_compute_dtype == torch.bfloat16
    assert build_quantization_config(settings, bf16=False).bnb_4bit_compute_dtype == torch.float32
    assert build_quantization_config(ModelSection(path="x"), bf16=True) is None


def test_an_adapter_given_as_a_model_is_refused_with_its_base_and_the_way_out(tmp_path):
    base = saved_base(tmp_path / "base")
    folder = save(adapter_on(base), tmp_path / "adapter")
    with pytest.raises(ModelError) as refused:
        load_config(ModelSection(path=str(folder)), TOKENIZER)
    assert f"is an adapter, not a model (its base is {str(base)!r})" in str(refused.value)
    assert f"hf-finetune merge {folder}" in str(refused.value)


def test_an_adapter_is_talked_to_over_its_base(tmp_path):
    base = saved_base(tmp_path / "base")
    trained = train(adapter_on(base))
    folder = save(trained, tmp_path / "adapter")
    generator, tokenizer = load_for_generation(str(folder))
    assert not generator.training
    assert torch.equal(logits_of(generator), logits_of(trained))
    assert tokenizer.eos_token_id == 2
    moved = base.rename(tmp_path / "moved")
    generator, _ = load_for_generation(str(folder), base=str(moved))
    assert torch.equal(logits_of(generator), logits_of(trained))


def test_a_whole_model_takes_no_base(saved):
    _, folder = saved
    with pytest.raises(ModelError, match="takes no base"):
        load_for_generation(str(folder), base=str(folder))
