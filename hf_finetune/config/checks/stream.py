"""`data.stream`: what a run that reads its rows on the way needs, and what it cannot do."""

from __future__ import annotations

from typing import Any

from hf_finetune.config.paths import is_glob, is_local, list_source_paths
from hf_finetune.config.reading.document import RunDocument
from hf_finetune.config.sections import Source, TokenizerSection

RECIPES = ("continued_pretraining", "sft", "lora")


def check_stream(document: RunDocument, run: Any, recipe: str) -> None:
    """Check the settings of a stream against each other."""
    data = run.data
    if not data.stream:
        if data.stream_part is not None:
            document.refuse(
                ("data", "stream_part"), "has no effect without data.stream", "add stream: true", code="HF607"
            )
        _check_urls(document, data)
        return
    if recipe not in RECIPES:
        what = f"belongs to the recipes {', '.join(RECIPES)}"
        document.refuse(("data", "stream"), what, "leave it out", code="HF608")
        return
    _check_splits(document, data)
    _check_sources(document, data)
    _check_steps(document, run.train)
    if isinstance(run.model.tokenizer, TokenizerSection) and not document.is_refused("model.tokenizer"):
        what = "a tokenizer is trained on rows that are all there, and those of data.stream are not"
        remedy = "train a small run on some shards without data.stream, and name its folder"
        document.refuse(("model", "tokenizer"), what, remedy, code="HF623")


def _check_splits(document: RunDocument, data: Any) -> None:
    for name in ("validation_fraction", "test_fraction"):
        if getattr(data, name) is not None and not document.is_refused(f"data.{name}"):
            what = "would be a share of rows that are never all there under data.stream"
            document.refuse(
                ("data", name), what, f"name a file of its own in data.{name.partition('_')[0]}", code="HF623"
            )
    for name in ("stratify_by", "group_by"):
        if getattr(data, name) is not None and not document.is_refused(f"data.{name}"):
            document.refuse(
                ("data", name), "nothing is split or resampled under data.stream", "leave it out", code="HF623"
            )


def _check_sources(document: RunDocument, data: Any) -> None:
    sources = data.train if isinstance(data.train, list) else [data.train]
    if any(isinstance(each, Source) and each.weight != 1.0 for each in sources):
        what = "a source has a weight, and data.stream reads every shard once in a pass"
        document.refuse(("data", "train"), what, "leave the weight out", code="HF623")
    # By its name the Hub's own loader would download and convert all of it first.
    for path in list_source_paths(data.train):
        if "://" not in path and not is_glob(path) and not is_local(path) and "/" in path:
            remedy = f"name its files, such as hf://datasets/{path}/**/*.parquet"
            what = f"{path} is a data set of the Hub, which is not streamed by its name"
            document.refuse(("data", "train"), what, remedy, code="HF623")


def _check_urls(document: RunDocument, data: Any) -> None:
    for name in ("train", "validation", "test"):
        urls = [path for path in list_source_paths(getattr(data, name)) if "://" in path]
        if urls and not document.is_refused(f"data.{name}"):
            remedy = "set data.stream: true with train.max_steps, or download it" if name == "train" else "download it"
            what = f"{urls[0]} is read by data.stream alone" if name == "train" else f"{urls[0]} is not of this machine"
            document.refuse(("data", name), what, remedy, code="HF624")


def _check_steps(document: RunDocument, train: Any) -> None:
    if train.max_steps < 1 and not document.is_refused("train.max_steps"):
        what = "is missing; a stream has no end by which epochs are counted"
        document.refuse(("train", "max_steps"), what, "say how many optimizer steps the run takes", code="HF605")
    given = document.values.get("train") or {}
    if given.get("num_train_epochs") is not None and not document.is_refused("train.num_train_epochs"):
        document.refuse(
            ("train", "num_train_epochs"), "a stream is counted in steps", "set train.max_steps alone", code="HF623"
        )
    # Workers that stay would give the rows of the first part; with another batch size a part is not of whole steps.
    for name in ("dataloader_persistent_workers", "auto_find_batch_size"):
        if getattr(train, name) and not document.is_refused(f"train.{name}"):
            document.refuse(
                ("train", name), "does not go with data.stream, whose parts are fixed", "leave it out", code="HF623"
            )
