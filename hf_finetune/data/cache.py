"""What is computed once, under a hash of its inputs: Arrow files, and the scores of a base, in the `datasets` cache."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, Features

from hf_finetune.files import make_private_folder, open_atomically, write_atomically

Stats = dict[str, Any]
Batches = Generator[pa.RecordBatch, None, Stats]

# Incremented when the layout of a cached file changes, rows are tokenized in another way, or rows that were taken are
# refused: older files are not found.
CACHE_VERSION = 9


def compute_cache_key(made_from: Any) -> str:
    """Hash JSON-ready values to 32 hexadecimal digits."""
    text = json.dumps([CACHE_VERSION, made_from], sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def place_in_cache(name: str) -> Path:
    """Return the path of a file of the cache, whose folder is made for its owner alone. Raises OSError."""
    return make_private_folder(Path(datasets.config.HF_DATASETS_CACHE) / "hf_finetune") / name


def hash_dataset(rows: Dataset) -> str:
    """Hash what is in the columns of integers, or of lists of them, whichever file they came from: 64 digits."""
    digest = hashlib.sha256()
    for table in rows.with_format("arrow").iter(batch_size=1_000):
        for name in sorted(table.column_names):
            column = table.column(name).combine_chunks()
            digest.update(name.encode())
            if not pa.types.is_integer(column.type):  # [[1, 2], [3]] and [[1], [2, 3]] have the same items
                lengths = pc.list_value_length(column)
                digest.update(lengths.to_numpy(zero_copy_only=False).astype(np.int64).tobytes())
                column = pc.list_flatten(column)
            digest.update(column.to_numpy(zero_copy_only=False).astype(np.int64).tobytes())
    return digest.hexdigest()


def place_dataset(kind: str, made_from: Any) -> Path:
    """The file of the data set of these inputs, whether it is there or not. Raises OSError."""
    return place_in_cache(f"{kind}-{compute_cache_key(made_from)}.arrow")


def build_cached_dataset(
    kind: str, made_from: Any, features: Features, build: Callable[[], Batches]
) -> tuple[Dataset, Stats]:
    """Load the memory-mapped data set of the inputs `made_from`, or build it; also returns the counts of `build`.

    Files are written aside and renamed, the counts first, so that processes may race, and a killed one leaves nothing
    that looks complete. Raises OSError where the cache cannot be written, and whatever `build` raises.
    """
    arrow = place_dataset(kind, made_from)
    sidecar = arrow.with_suffix(".json")
    if not arrow.exists():
        _write_dataset(arrow, sidecar, features, build())
    return Dataset.from_file(str(arrow)), json.loads(sidecar.read_text())


def _write_dataset(arrow: Path, sidecar: Path, features: Features, batches: Batches) -> None:
    with open_atomically(arrow, private=True) as sink:
        with pa.ipc.new_stream(sink, features.arrow_schema) as writer:
            while True:  # not `for`, which drops the value that a generator returns
                try:
                    writer.write_batch(next(batches))
                except StopIteration as end:
                    facts = end.value
                    break
        # The counts first: a data set counts as complete once its Arrow file is there.
        write_atomically(sidecar, json.dumps(facts), private=True)
