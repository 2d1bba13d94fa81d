"""Small files are read once before torch and the trainers are imported: a wrong row is said in a second, not in ten."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hf_finetune.config.model_files.kinds import is_classifier, read_problem_type
from hf_finetune.config.sections import DataSection, Run
from hf_finetune.data.labels.freeze import freeze_labels
from hf_finetune.data.reading.formats import Kind
from hf_finetune.data.reading.sources import resolve_sources
from hf_finetune.data.splitting.one_split import load_rows
from hf_finetune.data.splitting.splits import load_splits

SMALL = 16 * 2**20
"""Bytes in all. Of more, reading takes as long as the imports; the recipe reads them."""
# The default of TrainingArguments.seed, with which the recipe draws the splits.
SEED = 42


def check_trained_rows(run: Run) -> None:
    """Read the rows of a run, as its recipe will; raises `DataError` as `load_splits` does, logs nothing."""
    kinds: dict[str, Kind] = {"continued_pretraining": "document", "classification": "labelled"}
    becomes = kinds.get(run.recipe, "conversation")
    if run.data.stream or not _are_small(run.data):
        return
    with hide_messages():
        splits = load_splits(run.data, becomes, run.train.get("seed", SEED))
        if becomes == "labelled":
            freeze_labels(splits, run.data)


def check_scored_rows(run: Run) -> None:
    """Read the rows that a saved model is scored on; raises `DataError` as `load_rows` does, logs nothing.

    Not where the files of the model do not say of what kind it is, as on the Hub.
    """
    folder = Path(str(run.model.path))
    labels = is_classifier(folder)
    if run.data.test is None or labels is None or not _are_small(run.data):
        return
    number = labels and read_problem_type(folder) == "regression"
    data = run.data.model_copy(update={"task": "regression"}) if number else run.data
    with hide_messages():
        load_rows(run.data.test, data, "labelled" if labels else None, run.eval.by)


def check_compared_rows(path: str, rows: str) -> None:
    """Read the rows on which the model in `path` is compared with what is made of it; raises `DataError`, logs nothing.

    `rows` is what --data names. Of a model on the Hub, and of large files, that they are there is all that is seen.
    """
    labels, data = is_classifier(Path(path)), DataSection(train=rows)
    files = resolve_sources(rows, "test", data.format)
    if labels is None or sum(file.path.stat().st_size for file in files) > SMALL:
        return
    number = labels and read_problem_type(Path(path)) == "regression"
    data = data.model_copy(update={"task": "regression"}) if number else data
    with hide_messages():
        load_rows(rows, data, "labelled" if labels else None)


def _are_small(data: DataSection) -> bool:
    roles = {role: sources for role in ("train", "validation", "test") if (sources := getattr(data, role)) is not None}
    files = [file for role, sources in roles.items() for file in resolve_sources(sources, role, data.format)]
    return sum(file.path.stat().st_size for file in files) <= SMALL


@contextmanager
def hide_messages() -> Iterator[None]:
    """Leave what is said about the rows to whoever says more: the recipe, or a report."""
    ours = logging.getLogger(__package__)
    before = ours.level
    ours.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        ours.setLevel(before)
