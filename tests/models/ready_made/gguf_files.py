"""Tiny GGUF files, written as llama.cpp's converter writes those of a Llama."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

TEXTS = [
    "Two things:\n\n1. one thing\n\n2. two things",
    "What is  2024 and 17?",
    "the things that the others bring",
] * 4
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
CHATML = (
    "{% for message in messages %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
NORMAL, CONTROL = 1, 3


def digits_apart_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer of SmolLM2's kind: each digit alone, then bytes."""
    backend = Tokenizer(models.BPE())
    digits = pre_tokenizers.Digits(individual_digits=True)
    backend.pre_tokenizer = pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=320, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator(TEXTS, trainer)
    backend.add_special_tokens([AddedToken(name, normalized=False, special=True) for name in SPECIAL])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token=SPECIAL[1], eos_token=SPECIAL[2], unk_token=SPECIAL[0]
    )


def tiny_llama(vocab_size: int, *, tied: bool = True) -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocab_size, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=128, rope_theta=1e5, rms_norm_eps=1e-5, tie_word_embeddings=tied,
        bos_token_id=1, eos_token_id=2, pad_token_id=2,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


def permute(weight: np.ndarray, heads: int) -> np.ndarray:
    """Rows of each head from halves to pairs, as llama.cpp rotates them."""
    rows, columns = weight.shape
    return weight.reshape(heads, 2, rows // heads // 2, columns).swapaxes(1, 2).reshape(rows, columns)


NAMES = {
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
}  # fmt: skip
OUTSIDE = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}


def gguf_tensors(model: LlamaForCausalLM) -> dict[str, np.ndarray]:
    """The model's weights by the names, and in the order of rows, of a GGUF file."""
    tensors = {}
    for name, value in model.state_dict().items():
        name, weight = name.removesuffix(".weight"), value.float().numpy()
        if name in OUTSIDE:
            if not (name == "lm_head" and model.config.tie_word_embeddings):
                tensors[f"{OUTSIDE[name]}.weight"] = weight
            continue
        _, _, layer, part = name.split(".", 3)
        heads = {"attn_q": model.config.num_attention_heads, "attn_k": model.config.num_key_value_heads}
        if NAMES[part] in heads:
            weight = permute(weight, heads[NAMES[part]])
        tensors[f"blk.{layer}.{NAMES[part]}.weight"] = weight
    return tensors


def write_gguf(
    path: Path,
    model: LlamaForCausalLM | None = None,
    tokenizer: PreTrainedTokenizerFast | None = None,
    *,
    stored: GGMLQuantizationType = GGMLQuantizationType.F32,
    split: str | None = "smollm",
    architecture: str = "llama",
    **more: Any,
) -> Path:
    """Write a GGUF file; matrices are stored as `stored`. `more`: `extra` tensors, `without` tensors, `values`."""
    model = model or tiny_llama(len(digits_apart_tokenizer()))
    writer = gguf.GGUFWriter(path, architecture, endianess=more.get("endian", gguf.GGUFEndian.LITTLE))
    config = model.config
    writer.add_name("Tiny <b>| one")
    writer.add_license("mit")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_freq_base(1e5)
    writer.add_rope_dimension_count(config.hidden_size // config.num_attention_heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(config.vocab_size)
    if tokenizer is not None:
        _add_tokenizer(writer, tokenizer, split)
    for key, value in more.get("values", {}).items():
        (writer.add_string if isinstance(value, str) else writer.add_uint32)(key, value)
    for name, weight in (gguf_tensors(model) | more.get("extra", {})).items():
        if name in more.get("without", ()):
            continue
        if weight.ndim == 2 and stored != GGMLQuantizationType.F32:
            writer.add_tensor(name, gguf.quants.quantize(weight, stored), raw_dtype=stored)
        else:
            writer.add_tensor(name, np.ascontiguousarray(weight))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add_tokenizer(writer: gguf.GGUFWriter, tokenizer: PreTrainedTokenizerFast, split: str | None) -> None:
    import json

    names = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().get)
    merges = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]
    writer.add_tokenizer_model("gpt2")
    if split is not None:
        writer.add_tokenizer_pre(split)
    writer.add_token_list(names)
    writer.add_token_types([CONTROL if name in SPECIAL else NORMAL for name in names])
    writer.add_token_merges([merge if isinstance(merge, str) else " ".join(merge) for merge in merges])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_pad_token_id(2)
    writer.add_add_bos_token(False)
    writer.add_chat_template(CHATML)
