"""What training has really seen: rows and tokens of the batches that were computed, counted and not multiplied."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from accelerate import Accelerator

from hf_finetune.data.tokenization.text import IGNORE_INDEX

# The key of a batch's facts: it stands last, since the Trainer takes the batch size from what stands first.
COUNTS = "counts"


@dataclass(frozen=True, slots=True)
class Seen:
    """Counts over micro-batches, padding left out; a row counts each time that it is seen."""

    rows: int = 0
    """Rows as the model is given them: blocks where rows are packed."""
    tokens: int = 0
    trained_tokens: int = 0
    """Tokens with a loss; of a classifier, all tokens of its rows."""

    def __add__(self, other: Seen) -> Seen:
        return Seen(self.rows + other.rows, self.tokens + other.tokens, self.trained_tokens + other.trained_tokens)


@dataclass(frozen=True, slots=True)
class BatchFacts:
    """What a batch carries beside its tensors, for no model to see."""

    counts: tuple[Seen, ...]
    """Of each row that is trained."""
    sources: tuple[tuple[int, ...], ...]
    """For each row, the numbers of the rows of its split that it is made of; () where the data set does not say."""

    def take(self, rows: int) -> BatchFacts:
        """The facts of the batch where nothing but its first rows is trained."""
        blank = [()] * (len(self.sources) - rows)
        return BatchFacts(self.counts[:rows], (*self.sources[:rows], *blank))


@dataclass(frozen=True)
class CountingCollator:
    """A data collator whose batches carry their own counts, taken before padding: no device has to be asked."""

    collate: Callable[[Sequence[dict[str, Any]]], dict[str, Any]]
    predicts_tokens: bool
    """Whether labels are of tokens, (batch, seq), and -100 where nothing is trained."""

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
        batch = self.collate(rows)
        tokens = trained = [len(row["input_ids"]) for row in rows]
        if self.predicts_tokens and "labels" in batch:
            trained = _count_trained(batch, len(rows))
        counts = tuple(Seen(1, *each) for each in zip(tokens, trained, strict=True))
        return {**batch, COUNTS: BatchFacts(counts, tuple(map(_read_sources, rows)))}


def _count_trained(batch: dict[str, Any], rows: int) -> list[int]:
    """The predicted tokens of each row of a batch, (batch, seq) or, flat, (1, total)."""
    trained = batch["labels"][:, 1:] != IGNORE_INDEX
    if "row_index" not in batch:
        return list(trained.sum(dim=1).tolist())
    return list(batch["row_index"][:, 1:][trained].bincount(minlength=rows).tolist())


def _read_sources(row: dict[str, Any]) -> tuple[int, ...]:
    """The rows of the split that a row is made of: `rows` of a block, `row` of any other."""
    if "rows" in row:
        return tuple(row["rows"])
    return (row["row"],) if "row" in row else ()


class SeenCounter:
    """Sums what was seen over micro-batches and processes, from the first step on, whatever was resumed in between."""

    def __init__(self, accelerator: Accelerator) -> None:
        self._accelerator = accelerator
        self._here = Seen()  # of this process
        self._before = Seen()  # of all processes, up to the checkpoint that was resumed
        self.since_start = Seen()
        """Of all processes since this process began to train, as of the last `sum_up`."""

    def add(self, counts: Seen) -> None:
        """Add a micro-batch that this process has computed."""
        self._here += counts

    def sum_up(self) -> None:
        """Sum over the processes: all of them call it, at the same points."""
        self.since_start = self._here
        if self._accelerator.num_processes > 1:
            here = torch.tensor(list(asdict(self._here).values()), device=self._accelerator.device)
            self.since_start = Seen(*self._accelerator.reduce(here, "sum").tolist())

    @property
    def total(self) -> Seen:
        """Of all steps, those before the checkpoint that was resumed among them."""
        return self._before + self.since_start

    def save(self) -> dict[str, int]:
        """What a checkpoint keeps."""
        return asdict(self.total)

    def restore(self, saved: dict[str, int]) -> None:
        """Go on from what `save` has returned."""
        self._before = Seen(**saved)
