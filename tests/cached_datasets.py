"""A data set of the Hub as `datasets` finds it offline: in its cache."""

from __future__ import annotations

from pathlib import Path

import datasets
from datasets.arrow_writer import ArrowWriter

COMMIT = "a" * 40


def put_into_cache(cache: Path, repo_id: str, split: str, rows: list[dict]) -> None:
    """Write a data set of one split into `cache` as `datasets.load_dataset` leaves it there."""
    owner, name = repo_id.split("/")
    folder = cache / f"{owner}___{name}" / "default" / "0.0.0" / COMMIT
    folder.mkdir(parents=True)
    features = datasets.Dataset.from_list(rows).features
    with ArrowWriter(path=str(folder / f"{name}-{split}.arrow"), features=features) as writer:
        for row in rows:
            writer.write(row)
        count, size = writer.finalize()
    splits = datasets.SplitDict(dataset_name=name)
    splits.add(datasets.SplitInfo(split, size, count, dataset_name=name))
    info = datasets.DatasetInfo(features=features, config_name="default", dataset_name=name, splits=splits)
    info.write_to_directory(str(folder))
