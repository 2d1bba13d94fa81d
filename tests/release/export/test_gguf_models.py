"""A GGUF file is the model that it was written of: for llama.cpp itself, for transformers' reader, and read back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from release.export.gguf_models import KINDS, ROTATIONS, chat_tokenizer, ids_of, log_probabilities, tiny, write
from transformers import AutoModelForCausalLM, GenerationConfig

from hf_finetune.errors import ConfigError, FinetuneError, ModelError
from hf_finetune.models.gguf_folders.reading import read_back
from hf_finetune.models.ready_made.gguf_header import read_gguf_header
from hf_finetune.release.export.gguf.adapters import write_adapter
from hf_finetune.release.export.gguf.llama_cpp import LlamaCpp
from hf_finetune.release.export.gguf.quantization import QUANTS, check_quant
from hf_finetune.release.export.gguf.settings import describe_settings
from hf_finetune.release.export.gguf.writing import check_model, find_end_ids, find_sampling
from hf_finetune.release.export.runtimes import TransformersLanguageModel

pytest.importorskip("xllamacpp")

PATTERN = {"q_proj": 3, "mlp.c_proj": 3}

# Of peft 0.21 with transformers 5.23.
pytestmark = [
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning"),
    pytest.mark.filterwarnings("ignore:The following .*_pattern keys:RuntimeWarning"),
]


@pytest.mark.parametrize("kind", KINDS)
def test_llama_cpp_computes_what_the_model_does(kind: str, tmp_path: Path) -> None:
    model, ids = tiny(kind), ids_of()
    with LlamaCpp(write(tmp_path, model), context=128) as theirs:
        found = theirs.find_log_probabilities(ids, model.config.vocab_size)
        answer = theirs.continue_greedily(ids, 8)
    # llama.cpp looks up Gemma's and GPT-2's activation in a table of 16 bits.
    close = 5e-4 if kind.startswith(("gemma", "gpt2")) else 1e-5
    assert np.abs(found - log_probabilities(model, ids)).max() < close
    ours = model.generate(torch.tensor([ids]), max_new_tokens=8, do_sample=False)[0, len(ids) :].tolist()
    assert answer == ours


def test_an_answer_ends_where_that_of_the_run_does(tmp_path: Path) -> None:
    model, ids = tiny(), ids_of()
    third = TransformersLanguageModel(model, chat_tokenizer()).continue_greedily(ids, 3)[-1]
    with torch.no_grad():
        model.lm_head.weight[[2, third]] = model.lm_head.weight[[third, 2]]  # the end token in its place
    expected = TransformersLanguageModel(model, chat_tokenizer()).continue_greedily(ids, 8)
    assert expected[2:] == [2]
    with LlamaCpp(write(tmp_path, model), context=128) as theirs:
        assert theirs.continue_greedily(ids, 8) == expected


@pytest.mark.parametrize("kind", ["llama", "qwen2"])
def test_the_reader_of_transformers_gives_the_same_logits(kind: str, tmp_path: Path) -> None:
    model, ids = tiny(kind), torch.tensor([ids_of()])
    path = write(tmp_path, model)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file=path.name, dtype=torch.float32)
    with torch.no_grad():
        assert torch.equal(loaded(ids).logits, model(ids).logits)


@pytest.mark.parametrize("kind", ["llama with biases, tied, of wide heads", "gemma3", "gpt2"])
def test_weights_that_are_read_back_are_those_that_were_written(kind: str, tmp_path: Path) -> None:
    model = tiny(kind)
    path = write(tmp_path, model)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with torch.no_grad():
        for weight in model.parameters():
            weight.zero_()
    read_back(path, model)
    for name, value in model.state_dict().items():
        assert torch.allclose(value, before[name], atol=1e-7, rtol=0), name


@pytest.mark.parametrize(
    ("quant", "most"), [("f16", 1e-3), ("bf16", 8e-3), ("q8_0", 2e-2), ("q5_1", 0.1), ("q4_0", 0.2)]
)
def test_a_quantized_file_is_as_far_from_the_model_as_its_bits_say(quant: str, most: float, tmp_path: Path) -> None:
    model, ids = tiny(), ids_of()
    path = write(tmp_path, model, quant)
    with LlamaCpp(path, context=128) as theirs:
        found = theirs.find_log_probabilities(ids, model.config.vocab_size)
    assert 0 < np.abs(found - log_probabilities(model, ids)).max() < most
    types = read_gguf_header(path).types
    assert types["blk.0.attn_norm.weight"] == "F32"
    assert types["blk.0.ffn_up.weight"] == quant.upper()
    assert types["output.weight"] == (quant.upper() if quant in ("f16", "bf16") else "Q8_0")


def test_rows_that_do_not_divide_into_blocks_stay_in_16_bits(tmp_path: Path) -> None:
    path = write(tmp_path, tiny(intermediate_size=100), "q8_0")
    types = read_gguf_header(path).types
    assert types["blk.0.ffn_down.weight"] == "F16"  # its rows are of 100
    assert types["blk.0.ffn_up.weight"] == "Q8_0"
    with LlamaCpp(path, context=128) as theirs:
        assert theirs.continue_greedily(ids_of(), 1)


@pytest.mark.parametrize("kind", ["llama", "qwen2", "gpt2"])
@pytest.mark.parametrize("more", [{}, {"use_rslora": True, "rank_pattern": PATTERN, "alpha_pattern": PATTERN}])
def test_an_adapter_alone_over_its_base_is_the_tuned_model(kind: str, more: dict, tmp_path: Path) -> None:
    model, ids = tiny(kind), ids_of()
    base = write(tmp_path, model)
    modules = ["c_attn", "c_proj"] if kind == "gpt2" else ["q_proj", "k_proj", "v_proj", "down_proj"]
    lora = LoraConfig(r=8, lora_alpha=20, target_modules=modules, fan_in_fan_out=kind == "gpt2", **more)
    tuned = get_peft_model(model, lora).eval()
    with torch.no_grad():
        for name, weight in tuned.named_parameters():
            if "lora_B" in name:
                weight.normal_(0, 0.05)
    tuned.save_pretrained(tmp_path / "adapter", save_embedding_layers=False)
    write_adapter(tmp_path / "adapter.gguf", tmp_path / "adapter", model.config, "tuned")
    with LlamaCpp(base, tmp_path / "adapter.gguf", context=128) as theirs:
        found = theirs.find_log_probabilities(ids, model.config.vocab_size)
    expected = log_probabilities(tuned, ids)
    with tuned.disable_adapter():
        assert np.abs(expected - log_probabilities(tuned, ids)).max() > 0.05
    assert np.abs(found - expected).max() < 1e-4


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"use_dora": True}, "it has use_dora"),
        ({"bias": "all"}, "it has biases of its own"),
        ({"init_lora_weights": "pissa_niter_4"}, "it began as pissa_niter_4"),
        ({"target_modules": ["embed_tokens"]}, "it changes model.embed_tokens"),
    ],
)
def test_an_adapter_that_llama_cpp_cannot_put_over_its_base_is_refused(
    settings: dict, said: str, tmp_path: Path
) -> None:
    model = tiny()
    config = LoraConfig(**{"r": 2, "target_modules": ["q_proj"], **settings})
    get_peft_model(model, config).save_pretrained(tmp_path, save_embedding_layers=False)
    with pytest.raises(ModelError, match=r"cannot be a GGUF file of its own.*leave --adapter-only out") as refused:
        write_adapter(tmp_path / "adapter.gguf", tmp_path, model.config, "tuned")
    assert said in str(refused.value)


@pytest.mark.parametrize(
    ("kind", "fields", "said"),
    [
        ("llama", {"hidden_act": "gelu"}, "hidden_act is 'gelu', and it computes 'silu'"),
        ("llama", {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}}, "'dynamic'"),
        ("gemma2", {"query_pre_attn_scalar": 20}, "query_pre_attn_scalar is 20"),
        ("gemma3", {"layer_types": ["full_attention"] * 7}, "layer_types is"),
        ("qwen2", {"rope_parameters": {"rope_type": "llama3", "rope_theta": 1e4, **ROTATIONS["llama3"]}}, "'llama3'"),
        ("qwen3", {"attention_bias": True}, "attention_bias is True, and it computes False"),
        ("gemma3", {"attention_bias": True}, "attention_bias is True"),
        ("gemma", {"tie_word_embeddings": False}, "tie_word_embeddings is False, and it computes True"),
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx is True"),
    ],
)
def test_a_model_that_llama_cpp_does_not_compute_is_refused_with_its_field(kind: str, fields: dict, said: str) -> None:
    with pytest.raises(ModelError, match=r"llama\.cpp has no such model") as refused:
        describe_settings(tiny(kind, **fields).config)
    assert said in str(refused.value)


@pytest.mark.parametrize(
    ("quant", "said"),
    [
        ("q8", "did you mean q8_0?"),
        ("int4", "it may be f32, f16"),
        ("q4_k_m", "llama-quantize model.gguf OUTPUT Q4_K_M"),
    ],
)
def test_an_unknown_quantization_is_refused(quant: str, said: str) -> None:
    with pytest.raises(ConfigError, match="no such quantization") as refused:
        check_quant(quant)
    assert said in str(refused.value)


def test_a_quantization_that_the_architecture_lacks_is_refused_with_the_numbers() -> None:
    config = tiny(hidden_size=80).config
    with pytest.raises(ModelError, match="in blocks of 32, and the rows of this model have 80; use one of f32"):
        check_model(config, chat_tokenizer(), "q4_0")
    for quant in ("f32", "f16", "bf16"):
        check_quant(quant, config)
    assert len(QUANTS) == 8


def test_numbers_beyond_float16_and_weights_without_a_place_are_refused(tmp_path: Path) -> None:
    model = tiny()
    with torch.no_grad():
        model.lm_head.weight[0, 0] = 1e5
    with pytest.raises(FinetuneError, match=r"output.weight holds a number beyond the range of float16; use --quant"):
        write(tmp_path, model, "f16")
    write(tmp_path, model, "bf16")
    model.model.register_parameter("extra", torch.nn.Parameter(torch.zeros(2)))
    with pytest.raises(ModelError, match=r"has no place for model\.extra"):
        write(tmp_path, model)


def test_a_window_shorter_than_the_context_is_the_context() -> None:
    assert describe_settings(tiny("mistral", sliding_window=32).config)["llama.context_length"] == 32
    assert describe_settings(tiny("gemma2").config)["gemma2.context_length"] == 128


def test_ends_and_sampling_go_with_the_file(tmp_path: Path) -> None:
    model = tiny()
    model.generation_config = GenerationConfig(
        eos_token_id=[0, 2], do_sample=True, temperature=0.7, top_p=0.9, top_k=40, repetition_penalty=1.1
    )
    assert find_end_ids(chat_tokenizer(), model.generation_config) == [2, 0]
    said = read_gguf_header(write(tmp_path, model)).metadata
    assert (said["tokenizer.ggml.eos_token_id"], said["tokenizer.ggml.eot_token_id"]) == (2, 0)
    assert said["general.sampling.temp"] == pytest.approx(0.7)
    assert said["general.sampling.top_p"] == pytest.approx(0.9)
    assert said["general.sampling.top_k"] == 40
    assert said["general.sampling.penalty_repeat"] == pytest.approx(1.1)
    assert find_sampling(GenerationConfig(do_sample=False)) == {"temperature": 0.0}
