"""Rows on which a model is compared before and after it is changed."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from hf_finetune.config.paths import expand_user
from hf_finetune.config.sections import DataSection
from hf_finetune.config.yaml_lines import read_document
from hf_finetune.data.chat import load_chat_template
from hf_finetune.data.conversations import tokenize_splits
from hf_finetune.data.formats import Kind
from hf_finetune.data.labels import Labels
from hf_finetune.data.splits import Splits, load_splits
from hf_finetune.data.tokenization import encode_documents, encode_texts
from hf_finetune.errors import FinetuneError
from hf_finetune.reporting.run_folder import RUN_FILE

logger = logging.getLogger(__name__)

ROWS = 64
LONGEST = 1_024
RANDOM_LENGTH = 64
SEED = 42  # of TrainingArguments


@dataclass(frozen=True, slots=True)
class HeldOutRow:
    inputs: dict[str, Tensor]  # each (1, seq)
    labels: Tensor  # (1, seq), -100 where nothing is predicted; of a classifier (1,), or (1, labels)


def held_out_rows(
    data: str | None,
    folder: Path,
    tokenizer: PreTrainedTokenizerFast,
    longest: int | None,
    labels: Labels | None = None,
) -> list[HeldOutRow]:
    """At most 64 rows: of the file `data`, else of the run's own validation split, else random tokens; the log says so.

    `data` holds conversations or documents in any of our formats, and for a classifier of `labels` labelled texts;
    raises `DataError` where it does not. The run in `folder` is read again by its run.yaml, as far as its files are
    still there.
    """
    limit = min(longest or LONGEST, LONGEST)
    if data is not None:
        section = DataSection(train=data, task="regression" if labels and labels.kind == "number" else None)
        rows = (
            _file_rows(section, tokenizer, limit)
            if labels is None
            else _labelled_file(section, tokenizer, limit, labels)
        )
        logger.info("compared on %d rows of %s", len(rows), data)
        return rows
    try:
        rows = _validation_rows(folder, tokenizer, limit, labels)
        reason = "the run has no validation split"
    except (FinetuneError, OSError, ValueError) as problem:
        rows, reason = [], str(problem).splitlines()[0]
    if rows:
        logger.info("compared on %d rows of the run's validation split", len(rows))
        return rows
    logger.warning("compared on %d rows of random tokens (%s); name held-out rows with --data", ROWS, reason)
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randint(len(tokenizer), (ROWS, 1, min(limit, RANDOM_LENGTH)), generator=generator)
    first = None if labels is None else _zeros(labels)  # any label will do
    return [HeldOutRow({"input_ids": row}, row if first is None else first) for row in drawn]


def _file_rows(section: DataSection, tokenizer: PreTrainedTokenizerFast, limit: int) -> list[HeldOutRow]:
    try:
        splits = load_splits(section, "conversation", seed=0)
    except FinetuneError as no_conversations:
        try:
            documents = load_splits(section, "document", seed=0)
        except FinetuneError:
            raise no_conversations from None
        texts = [text for text in documents.rows["train"][:ROWS]["text"] if text.strip()]
        encoded = [ids[:limit] for ids in encode_documents(tokenizer, texts)]
        return [_row(ids, ids) for ids in encoded if len(ids) > 1]
    return _conversation_rows(splits, "train", section, tokenizer, limit)


def _validation_rows(
    folder: Path, tokenizer: PreTrainedTokenizerFast, limit: int, labels: Labels | None
) -> list[HeldOutRow]:
    if not (folder / RUN_FILE).exists():
        raise FinetuneError(f"there is no {RUN_FILE} beside the adapter")
    # Of a run that was trained elsewhere only the data is asked for: its precision may be none of this machine's.
    settings = read_document(str(folder / RUN_FILE)).values
    data: DataSection = expand_user(DataSection.model_validate(settings["data"]))
    kind: Kind = "conversation" if labels is None else "labelled"
    splits = load_splits(data, kind, settings["train"].get("seed", SEED))
    if "validation" not in splits.rows:
        return []
    if labels is not None:
        return _labelled_rows(splits.rows["validation"], tokenizer, limit, labels)
    return _conversation_rows(splits, "validation", data, tokenizer, limit)


def _conversation_rows(
    splits: Splits, split: str, data: DataSection, tokenizer: PreTrainedTokenizerFast, limit: int
) -> list[HeldOutRow]:
    some: Dataset = splits.rows[split].select(range(min(ROWS, len(splits.rows[split]))))
    # What the run would leave out for its length is compared as far as it goes.
    settings = data.model_copy(update={"too_long": "cut", "max_dropped": 1.0})
    template = load_chat_template(data, tokenizer)
    rows, _ = tokenize_splits(replace(splits, rows={split: some}), tokenizer, template, settings, limit)
    return [_row(row["input_ids"], row["labels"]) for row in rows[split]]


def _row(input_ids: Sequence[int], labels: Sequence[int]) -> HeldOutRow:
    return HeldOutRow({"input_ids": torch.tensor([input_ids])}, torch.tensor([labels]))


def _labelled_file(
    section: DataSection, tokenizer: PreTrainedTokenizerFast, limit: int, labels: Labels
) -> list[HeldOutRow]:
    return _labelled_rows(load_splits(section, "labelled", seed=0).rows["train"], tokenizer, limit, labels)


def _labelled_rows(rows: Dataset, tokenizer: PreTrainedTokenizerFast, limit: int, labels: Labels) -> list[HeldOutRow]:
    some = rows.select(range(min(ROWS, len(rows))))[:]
    encoded = encode_texts(tokenizer, some["text"], some["text_pair"], limit)
    columns = {"input_ids": encoded.input_ids}
    if encoded.token_type_ids is not None:
        columns["token_type_ids"] = encoded.token_type_ids
    targets = torch.from_numpy(labels.encode([_named(label, labels) for label in some["label"]]))
    return [
        HeldOutRow({name: torch.tensor([column[row]]) for name, column in columns.items()}, targets[row : row + 1])
        for row in range(len(targets))
    ]


def _named(label: Any, labels: Labels) -> Any:
    """A label of a row as the model's configuration has it: numbers too are names there."""
    if labels.kind == "number":
        return label
    return [str(each) for each in label] if labels.kind == "multi" else str(label)


def _zeros(labels: Labels) -> Tensor:
    return torch.zeros(1, dtype=torch.long) if labels.kind == "single" else torch.zeros(1, len(labels.names))
