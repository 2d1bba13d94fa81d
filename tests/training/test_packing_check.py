"""Models that keep packed documents apart pass, and those that let anything through are refused."""

from __future__ import annotations

import pytest
import torch
from datasets import Dataset
from models import flash_stand_in
from models.scratch_models import VARIANTS, tiny_config, tiny_model
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    GPT2Config,
    Lfm2Config,
    LlamaConfig,
    MambaConfig,
    OPTConfig,
    Qwen3Config,
)

from hf_finetune.data.tokenization.documents import BlockCollator
from hf_finetune.data.tokenization.packing import pack_bfd
from hf_finetune.errors import ModelError
from hf_finetune.training import packing_check
from hf_finetune.training.packing_check import check_packing

# transformers 5.23 and torch 2.13 use retired calls on the way to flex attention, which runs uncompiled here.
pytestmark = pytest.mark.filterwarnings(
    "ignore:flex_attention called without torch.compile",
    "ignore:_compile flag on create_block_mask:DeprecationWarning",
    "ignore:.torch.jit.script_method. is deprecated:DeprecationWarning",
)

SIZES = {"vocab_size": 61, "hidden_size": 32, "num_hidden_layers": 2}
ENDS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
LLAMA = LlamaConfig(**SIZES, intermediate_size=48, num_attention_heads=4)
QWEN = Qwen3Config(**SIZES, intermediate_size=48, num_attention_heads=4, num_key_value_heads=2, head_dim=8)
GPT2 = GPT2Config(vocab_size=61, n_embd=32, n_layer=2, n_head=4, n_positions=64, **ENDS)
EVERY_ATTENTION = ("eager", "sdpa", "flex_attention")
APART = [
    *((LLAMA, attention) for attention in EVERY_ATTENTION),
    *((QWEN, attention) for attention in EVERY_ATTENTION),
    *((GPT2, attention) for attention in ("eager", "sdpa")),
]
LEAKING = {
    "state space": MambaConfig(**SIZES, state_size=4),
    "positions counted by the mask": OPTConfig(
        vocab_size=61, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, ffn_dim=48, word_embed_proj_dim=32
    ),
    "ALiBi": BloomConfig(vocab_size=61, hidden_size=32, n_layer=2, n_head=4),
    "short convolutions": Lfm2Config(
        **SIZES, intermediate_size=48, num_attention_heads=4, num_key_value_heads=2, full_attn_idxs=[1]
    ),
}
ROWS = Dataset.from_list([{"input_ids": [5] * length, "labels": [5] * length} for length in (16, 12, 9, 4)])
PACKED = pack_bfd(ROWS, 24)[0]
BLOCKS = Dataset.from_list([{"input_ids": [5] * 24, "labels": [5] * 24, "position_ids": [*range(20), *range(4)]}])

every_dtype = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])


@pytest.fixture(autouse=True)
def nothing_is_compiled():
    with torch.compiler.set_stance("force_eager"):
        yield


def made(config, attention, dtype):
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config, attn_implementation=attention, dtype=dtype)


@every_dtype
@pytest.mark.parametrize(("config", "attention"), APART, ids=lambda each: getattr(each, "model_type", each))
def test_transformers_attention_keeps_documents_apart(config, attention, dtype):
    check_packing(made(config, attention, dtype), PACKED)


@pytest.mark.parametrize("attention", EVERY_ATTENTION)
@pytest.mark.parametrize("fields", VARIANTS.values(), ids=VARIANTS)
def test_our_model_keeps_documents_apart(fields, attention):
    check_packing(tiny_model(attention=attention, **fields), PACKED)


@every_dtype
@pytest.mark.parametrize("config", LEAKING.values(), ids=LEAKING)
def test_a_model_that_lets_anything_through_is_refused_in_any_precision(config, dtype):
    with pytest.raises(ModelError, match="cannot keep packed documents apart") as refused:
        check_packing(made(config, "eager", dtype), PACKED)
    assert "train.packing: false" in str(refused.value)


@pytest.mark.parametrize(("config", "attention"), APART, ids=lambda each: getattr(each, "model_type", each))
def test_documents_that_are_isolated_in_blocks_are_kept_apart(config, attention):
    check_packing(made(config, attention, torch.float32), BLOCKS)


@pytest.mark.parametrize("config", LEAKING.values(), ids=LEAKING)
def test_isolation_that_a_model_cannot_give_is_refused_by_its_own_key(config):
    with pytest.raises(ModelError, match="cannot keep packed documents apart") as refused:
        check_packing(made(config, "eager", torch.float32), BLOCKS)
    assert str(refused.value).startswith("data.isolate_documents: ")
    assert str(refused.value).endswith("set data.isolate_documents: false [HF929]")


@pytest.mark.parametrize("rows", [PACKED, BLOCKS], ids=["rows", "blocks"])
def test_flash_attention_keeps_documents_of_a_batch_apart(rows, monkeypatch):
    check_packing(made(LLAMA, flash_stand_in.install(monkeypatch), torch.float32), rows)


def test_flash_attention_without_bounds_mixes_the_documents_of_a_batch(monkeypatch):
    monkeypatch.setattr(packing_check, "BlockCollator", lambda bounds: BlockCollator(bounds=False))
    with pytest.raises(ModelError, match=r"data\.isolate_documents"):
        check_packing(made(LLAMA, flash_stand_in.install(monkeypatch), torch.float32), BLOCKS)


def test_bounds_of_blocks_are_where_documents_start():
    positions = [[0, 1, 2, 0], [0, 1, 0, 1]]
    blocks = [{"input_ids": [7] * 4, "labels": [7] * 4, "position_ids": each} for each in positions]
    batch = BlockCollator(bounds=True)(blocks)
    assert batch["cu_seq_lens_q"].tolist() == batch["cu_seq_lens_k"].tolist() == [0, 3, 4, 6, 8]
    assert batch["max_length_q"] == batch["max_length_k"] == 3
    assert "cu_seq_lens_q" not in BlockCollator()(blocks)
    assert "cu_seq_lens_q" not in BlockCollator(bounds=True)([{"input_ids": [7], "labels": [7]}])


@pytest.mark.parametrize("config", LEAKING.values(), ids=LEAKING)
def test_rows_that_are_not_packed_suit_every_model(config):
    check_packing(made(config, "eager", torch.float32), ROWS)


def test_a_fresh_model_whose_output_is_zero_passes():
    fresh = AutoModelForCausalLM.from_config(tiny_config(), attn_implementation="sdpa")
    with torch.no_grad():
        fresh.get_output_embeddings().weight.zero_()
    check_packing(fresh, BLOCKS)


@pytest.mark.parametrize("training", [True, False])
def test_the_check_leaves_the_model_as_it_was(training):
    model = tiny_model(attention_dropout=0.5).train(training)
    state = torch.get_rng_state()
    check_packing(model, PACKED)
    assert model.training == training
    assert all(weight.grad is None for weight in model.parameters())
    assert torch.equal(torch.get_rng_state(), state)
