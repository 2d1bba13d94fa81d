"""Files of rows -> one split, as a saved model is scored on them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from hf_finetune.config.sections import DataSection, Sources
from hf_finetune.data.reading.formats import FORMATS, Kind
from hf_finetune.data.splitting.splits import Splits, load_splits
from hf_finetune.errors import DataError, FinetuneError

SPLIT = "test"


def load_rows(
    sources: Sources, data: DataSection, becomes: Kind | None, also_read: Sequence[str] = (), *, of_hub: str = SPLIT
) -> Splits:
    """Read `sources` with the settings of `data` as one split, `test`: all rows, in the order of the files.

    `also_read`: fields that are read by other means. `of_hub`: the split of a Hub data set that is read.
    Without `becomes`, the first rows decide whether they are conversations (or prompts with completions) or documents.
    Raises `DataError` as `load_splits` does.
    """
    accept_all = {"allow_empty": True, "max_dropped": 1.0}  # a run may have been trained with these
    whole = data.model_copy(update={"train": sources, "test": None, **accept_all})
    try:
        splits = _load(whole, becomes, partial(load_splits, seed=0, also_read=also_read, of_hub=of_hub))
    except DataError as refused:  # to the user they are not the training rows, as which they are read
        own = ("data.train", f"data.{of_hub}")
        problems = [replace(each, key=None) if each.key in own else each for each in refused.problems]
        raise DataError(problems, total=refused.total) from None
    (rows,), (hashes,), (places,) = splits.rows.values(), splits.hashes.values(), splits.places.values()
    groups = dict.fromkeys([SPLIT], *splits.groups.values()) if splits.groups else {}
    return replace(
        splits, rows={SPLIT: rows}, hashes={SPLIT: hashes}, places={SPLIT: places}, overlap={}, groups=groups
    )


def _load(data: DataSection, becomes: Kind | None, load: Callable[[DataSection, Kind], Splits]) -> Splits:
    if becomes is None and data.format != "auto":
        becomes = FORMATS[data.format].becomes
    if becomes is not None:
        return load(data, "conversation" if becomes == "prompt_completion" else becomes)
    # Neither kind can be told from the path: read as conversations, then as documents, and raise the error of the kind
    # that the rows are closer to.
    try:
        return load(data, "conversation")
    except FinetuneError as no_conversations:
        try:
            return load(data, "document")
        except FinetuneError as no_documents:
            raise (no_documents if "are documents" in str(no_conversations) else no_conversations) from None
