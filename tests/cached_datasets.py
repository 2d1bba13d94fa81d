"""A data set of the Hub as `datasets` finds it offline: in its cache."""

from __future__ import annotations

from pathlib import Path

import datasets
from datasets.arrow_writer import ArrowWriter

COMMIT = "a" * 40


def put_into_cache(cache: Path, repo_id: str, **rows: list[dict]) -> None:
    """Write a data set into `cache` as `datasets.load_dataset` leaves it there; `rows` by the name of their split."""
    owner, name = repo_id.split("/")
    folder = cache / f"{owner}___{name}" / "default" / "0.0.0" / COMMIT
    folder.mkdir(parents=True)
    splits = datasets.SplitDict(dataset_name=name)
    for split, of_split in rows.items():
        features = datasets.Dataset.from_list(of_split).features
        with ArrowWriter(path=str(folder / f"{name}-{split}.arrow"), features=features) as writer:
            for row in of_split:
                writer.write(row)
            count, size = writer.finalize()
        splits.add(datasets.SplitInfo(split, size, count, dataset_name=name))
    info = datasets.DatasetInfo(features=features, config_name="default", dataset_name=name, splits=splits)
    info.write_to_directory(str(folder))
