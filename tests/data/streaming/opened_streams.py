"""A stream of documents, opened as a run opens it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

from hf_finetune.config.sections import DataSection
from hf_finetune.data.splitting.splits import load_splits
from hf_finetune.data.tokenization.documents import pack_splits

BLOCK = 16
SEED = 7


def open_documents(data: DataSection, folder: Path, tokenizer, *, isolate: bool = False):
    """The splits of a run that streams `data`, and its rows at the first part, of 12 blocks."""
    args = SimpleNamespace(train_batch_size=4, world_size=1, gradient_accumulation_steps=1, seed=SEED, data_seed=None)
    args.max_steps, args.resume_from_checkpoint = 1_000, None
    run = SimpleNamespace(data=data, output_dir=str(folder), train={})
    splits = load_splits(data, "document", SEED, trained=(run, args))  # type: ignore[arg-type]
    return splits, pack_splits({}, tokenizer, BLOCK, isolate=isolate, stream=splits.stream)[0]["train"]
