"""The rows of one model that are generated together, and their keys and values."""

from __future__ import annotations

from collections.abc import Sequence
from inspect import signature
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import DynamicCache, PreTrainedModel

from hf_finetune.models.verification import round_for_flash


class Batch:
    """Texts that go on by a token each at every step; texts join and leave between steps.

    Rows are padded on the left. What joins is read by itself, and its keys and values are put under those of the
    others; what leaves takes its row along, and the columns that no other has.
    """

    # Rows "a b c" and "d" with a joining "e f": keys [[a, b, c], [_, _, d], [_, e, f]], mask [[1, 1, 1], [0, 0, 1],
    # [0, 1, 1]]; once the first leaves, [[_, d], [e, f]]. Not the continuous batching of transformers 5.23, whose
    # paged attention has no seeds of a row and no adapters, and which CPUs take at less than the speed of a batch.

    def __init__(self, model: PreTrainedModel, *, plain_cache: bool = True) -> None:
        """`plain_cache`: all keys and values are kept, of layers with a window too, so that rows can join."""
        self.model: Any = model
        self.plain_cache = plain_cache
        takes = signature(model.forward).parameters
        self.takes_positions = "position_ids" in takes
        self.last_alone = {"logits_to_keep": 1} if "logits_to_keep" in takes else {}
        self.cache: Any = None
        self.mask = torch.zeros(0, 0, dtype=torch.long, device=model.device)  # (rows, columns)
        self.logits = torch.zeros(0, 0, device=model.device)
        """Of the next token of each row: (rows, vocab)."""

    def __len__(self) -> int:
        return len(self.mask)

    def join(self, prompts: Sequence[Sequence[int]]) -> None:
        """Read prompts of at least a token each, which become the last rows."""
        longest = max(map(len, prompts))
        padding = [longest - len(ids) for ids in prompts]
        device = self.model.device
        # Token 0 in the blanks: any will do, since the mask hides it.
        ids = torch.tensor([[0] * blank + [*row] for blank, row in zip(padding, prompts, strict=True)], device=device)
        mask = torch.tensor([[0] * blank + [1] * (longest - blank) for blank in padding], device=device)
        cache = DynamicCache() if self.plain_cache else DynamicCache(config=self.model.config)
        logits, cache = self._forward(ids, mask, cache)
        if not len(self):
            self.cache, self.mask, self.logits = cache, mask, logits
            return
        columns = max(self.mask.shape[1], longest)
        # On the left, so that the next token of every row stands in one column.
        both = [_pad_left(each, columns) for each in (self.cache, cache)]
        for mine, other in zip(*(each.layers for each in both), strict=True):
            mine.keys, mine.values = torch.cat([mine.keys, other.keys]), torch.cat([mine.values, other.values])
        masks = [F.pad(each, (columns - each.shape[1], 0)) for each in (self.mask, mask)]
        self.mask, self.logits = torch.cat(masks), torch.cat([self.logits, logits])

    def step(self, tokens: Sequence[int]) -> None:
        """Put a token behind each row, and compute the logits of the next ones."""
        ids = torch.tensor(tokens, device=self.model.device)[:, None]  # (rows, 1)
        self.mask = F.pad(self.mask, (0, 1), value=1)
        self.logits, self.cache = self._forward(ids, self.mask, self.cache)

    def keep(self, rows: Sequence[int]) -> None:
        """Keep these rows alone, in their order."""
        if len(rows) == len(self):
            return
        if not rows:
            self.cache, self.mask, self.logits = None, self.mask[:0, :0], self.logits[:0]
            return
        # As `reorder_cache` does, and without the columns that only those who leave have filled.
        kept = torch.tensor(rows, device=self.mask.device)
        self.mask, self.logits = self.mask[kept], self.logits[kept]
        # Columns before the first that is used.
        blank = int(self.mask.any(dim=0).int().argmax())
        self.mask = self.mask[:, blank:]
        for layer in self.cache.layers:
            layer.keys, layer.values = layer.keys[kept, :, blank:], layer.values[kept, :, blank:]

    def _forward(self, ids: Tensor, mask: Tensor, cache: Any) -> tuple[Tensor, Any]:
        """Logits of the token after the last of `ids`, (rows, seq), as float32: (rows, vocab); and the cache then."""
        places = {}
        if self.takes_positions:
            places["position_ids"] = (mask.cumsum(dim=-1) - 1).clamp(min=0)[:, -ids.shape[1] :]
        with torch.inference_mode(), round_for_flash(self.model):
            output = self.model(
                input_ids=ids, attention_mask=mask, past_key_values=cache, use_cache=True, **places, **self.last_alone
            )
        logits: Tensor = output.logits[:, -1].float()
        # Most models fill the cache that they are given; an ONNX graph gives another.
        after = output.get("past_key_values")
        return logits, cache if after is None else after


def _pad_left(cache: Any, columns: int) -> Any:
    """Put blank columns before the keys and values, (rows, heads, columns, features), up to `columns`."""
    for layer in cache.layers:
        blank = columns - layer.keys.shape[-2]
        if blank:
            layer.keys, layer.values = (F.pad(each, (0, 0, blank, 0)) for each in (layer.keys, layer.values))
    return cache
