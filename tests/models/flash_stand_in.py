"""A kernel for transformers' flash attention that computes on a CPU, and refuses what flash attention 2 refuses.

All but the kernel is transformers' own: what it casts, and by what it tells documents apart.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface, modeling_flash_attention_utils
from transformers.integrations.flash_attention import flash_attention_forward
from transformers.masking_utils import flash_attention_mask

NAME = "flash_stand_in"


def attend(
    q: Tensor, k: Tensor, v: Tensor, dropout_p: float = 0.0, softmax_scale: float | None = None, causal: bool = False
) -> Tensor:
    """(batch, seq, heads, head) each; the last queries belong to the last keys."""
    if q.dtype == torch.float32:
        raise RuntimeError("FlashAttention only support fp16 and bf16 data type")
    queries, keys = q.shape[1], k.shape[1]
    mask = torch.ones(queries, keys, dtype=torch.bool).tril(keys - queries) if causal else None
    groups = q.shape[2] // k.shape[2]
    heads_first = (q, k.repeat_interleave(groups, dim=2), v.repeat_interleave(groups, dim=2))
    out = scaled_dot_product_attention(*(each.transpose(1, 2) for each in heads_first), mask, scale=softmax_scale)
    return out.transpose(1, 2)


def attend_apart(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor,
    max_seqlen_q: int,
    max_seqlen_k: int,
    dropout_p: float = 0.0,
    softmax_scale: float | None = None,
    causal: bool = False,
) -> Tensor:
    """(tokens, heads, head) each, of documents one behind the other."""
    sizes = cu_seqlens_q.diff().tolist(), cu_seqlens_k.diff().tolist()
    assert (max(sizes[0]), max(sizes[1])) == (max_seqlen_q, max_seqlen_k)
    documents = zip(q.split(sizes[0]), k.split(sizes[1]), v.split(sizes[1]), strict=True)
    return torch.cat([attend(*(x[None] for x in each), dropout_p, softmax_scale, causal)[0] for each in documents])


def install(monkeypatch: pytest.MonkeyPatch) -> str:
    """Let models of this test be made with it; returns the name for `attn_implementation`."""
    utils: Any = modeling_flash_attention_utils
    kernel = attend, attend_apart, None, utils._pad_input, utils._unpad_input
    monkeypatch.setattr(utils, "_lazy_imports", lambda *args, **kwargs: kernel)
    for name in [
        name for name in vars(utils) if name.startswith(("_flash_fn", "_flash_varlen", "_loaded", "_process_"))
    ]:
        monkeypatch.setattr(utils, name, getattr(utils, name))  # what it keeps of a kernel is put back
    AttentionInterface.register(NAME, flash_attention_forward)
    AttentionMaskInterface.register(NAME, flash_attention_mask)
    return NAME
