"""Flash attention takes no float32: wherever the Trainer's autocast is not, ours is."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import tuned_adapters
from models import flash_stand_in
from models.scratch_models import token_ids
from transformers import LlamaConfig, LlamaForCausalLM

from hf_finetune.config.sections import EvalSection
from hf_finetune.evaluation.generation.session import generate_ids, generation_session
from hf_finetune.models.adapters.attach import attach_adapter, save_adapter, verify_adapter
from hf_finetune.models.verification import compute_probe_logits, verify_saved

SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 48, "num_attention_heads": 4}
CONFIG = LlamaConfig(**SIZES, vocab_size=61, bos_token_id=1, eos_token_id=2, pad_token_id=0)


def made(folder: Path, monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype = torch.float32) -> LlamaForCausalLM:
    torch.manual_seed(0)
    LlamaForCausalLM(CONFIG).to(dtype).save_pretrained(folder)
    return LlamaForCausalLM.from_pretrained(folder, attn_implementation=flash_stand_in.install(monkeypatch))


def test_the_stand_in_refuses_what_the_kernel_refuses(tmp_path, monkeypatch):
    with pytest.raises(RuntimeError, match="only support fp16 and bf16"):
        made(tmp_path, monkeypatch)(token_ids(2, 8))


def test_a_model_in_float32_is_probed_and_verified(tmp_path, monkeypatch):
    model = made(tmp_path / "base", monkeypatch)
    model.save_pretrained(tmp_path / "out")
    verify_saved(model, tmp_path / "out")
    plain = LlamaForCausalLM.from_pretrained(tmp_path / "base", attn_implementation="sdpa")
    difference = (compute_probe_logits(model) - compute_probe_logits(plain)).abs().max()
    assert 0 < difference < 0.05  # that of bfloat16


def test_an_adapter_on_a_base_in_float32_is_verified_and_sampled(tmp_path, monkeypatch):
    adapter = tuned_adapters.train(_adapt(made(tmp_path / "base", monkeypatch)), steps=0)
    folder = tmp_path / "adapter"
    adapter.save_pretrained(folder)
    save_adapter(adapter, folder)
    verify_adapter(adapter, folder)
    with generation_session(adapter, tuned_adapters.TOKENIZER, EvalSection(), 0) as session:
        answers = generate_ids(session, [[5, 6, 7], [8]], 4)
    assert all(1 <= len(answer) <= 4 for answer in answers)


def _adapt(model):
    torch.manual_seed(1)
    return attach_adapter(model, {"r": 4})


def test_a_model_in_bfloat16_needs_none(tmp_path, monkeypatch):
    assert compute_probe_logits(made(tmp_path, monkeypatch, torch.bfloat16)).dtype == torch.float32


def test_without_flash_attention_nothing_is_rounded(tmp_path, monkeypatch):
    made(tmp_path, monkeypatch)
    model = LlamaForCausalLM.from_pretrained(tmp_path, attn_implementation="sdpa")
    ids = torch.randint(61, (2, 16), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(compute_probe_logits(model), model.eval()(ids).logits)
