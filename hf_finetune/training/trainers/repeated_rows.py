"""The rows that are repeated so that every process has as many batches: none is trained twice.

Of 13 rows in batches of 2 on two processes, accelerate (1.15) gives the first one rows 13 and 1 at the end of an epoch,
and the second one rows 2 and 3: all but row 13 are blanked, and the step is that of one process. Without the repeated
rows one process would wait for the other: https://github.com/pytorch/pytorch/issues/141069.
"""

from __future__ import annotations

from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from hf_finetune.data.tokenization.text import IGNORE_INDEX
from hf_finetune.training.seen import COUNTS


def leave_out_repeated(batch: dict[str, Any], accelerator: Accelerator, rows: int) -> dict[str, Any]:
    """The batch that was just taken from `rows` training rows, with blank labels for rows that are repeated in it.

    Not for a loader that drops the last rows.
    """
    facts, size = batch[COUNTS], len(batch[COUNTS].sources)
    # Not `gradient_state.remainder`, which a loader of a resumed epoch does not have (accelerate 1.15).
    new = rows % (size * accelerator.num_processes)
    if new == 0 or not accelerator.gradient_state.end_of_dataloader:
        return batch
    # Of the last batches of all processes in a row, the first rows are new.
    kept = min(max(new - accelerator.process_index * size, 0), size)
    if kept == size or accelerator.num_processes == 1:
        return batch
    labels = batch["labels"].clone()
    blank = torch.nan if labels.is_floating_point() else IGNORE_INDEX
    labels[batch["row_index"] >= kept if "row_index" in batch else slice(kept, None)] = blank
    return {**batch, "labels": labels, COUNTS: facts.take(kept)}


def is_counted(labels: Tensor) -> Tensor:
    """Whether a label of a classifier (any shape) is not blank; a target of -100.0 is a number like another."""
    return ~labels.isnan() if labels.is_floating_point() else labels != IGNORE_INDEX
