"""The parts of a stream, as the epochs of a trainer."""

from __future__ import annotations

from typing import Any

from accelerate.utils import gather_object

from hf_finetune.data.streaming.feed import PartedRows
from hf_finetune.errors import DataError, FinetuneError, Problem


def select_part(rows: Any, loader: Any, number: int) -> FinetuneError | None:
    """Let `rows`, which `loader` has, be those of a part.

    Does nothing for rows that are no stream. Every rank calls it. Returns what is wrong, on all of them alike.
    """
    if not isinstance(rows, PartedRows):
        return None
    if loader.dataset is not rows:  # it would train the first part again and again
        raise RuntimeError("the loader has a copy of the rows of a stream")
    problem: FinetuneError | None = None
    try:
        rows.feed.select(number)
    except FinetuneError as refused:
        problem = refused
    # Or the others would wait for this one in the next step.
    failed: list[bool] = gather_object([problem is not None])
    if any(failed):
        what = f"process {failed.index(True)} cannot read the next part of the stream"
        return problem or DataError(Problem(what, "see what it says", key="data.train", code="HF933"))
    rows.show()
    return None


def close_parts(rows: Any, *, finished: bool) -> None:
    """Stop what is made ahead of a stream; of a run that has come to its end, nothing stays in the cache."""
    if isinstance(rows, PartedRows):
        rows.feed.close(finished=finished)
