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

from hf_finetune.chat.template import load_chat_template
from hf_finetune.config.paths import expand_user
from hf_finetune.config.reading.yaml_reader import read_document
from hf_finetune.config.sections import DataSection
from hf_finetune.data.reading.formats import Kind
from hf_finetune.data.reading.sources import resolve_sources
from hf_finetune.data.splitting.one_split import SPLIT, load_rows
from hf_finetune.data.splitting.splits import Splits, load_splits
from hf_finetune.data.tokenization.conversations import tokenize_conversations
from hf_finetune.data.tokenization.text import encode_documents, encode_texts
from hf_finetune.errors import FinetuneError, Problem
from hf_finetune.evaluation.scoring.rows import are_conversations
from hf_finetune.folders import RUN_FILE
from hf_finetune.label_set import Labels
from hf_finetune.models.files.locate import read_trained_labels

logger = logging.getLogger(__name__)

ROWS = 64
LONGEST = 1_024
RANDOM_LENGTH = 64
# The default of TrainingArguments.seed, with which the run drew its validation split.
SEED = 42


@dataclass(frozen=True, slots=True)
class ComparisonRow:
    """One row as a batch of one."""

    inputs: dict[str, Tensor]
    """Each (1, seq), int64."""
    labels: Tensor
    """(1, seq) int64, -100 at positions without a loss; of a classifier (1,), or (1, num_labels) if multi-label."""
    drawn: bool = False
    """At random, so that its labels say nothing."""


def load_comparison_rows(
    data: str | None,
    folder: Path,
    tokenizer: PreTrainedTokenizerFast,
    longest: int | None,
    labels: Labels | None = None,
    most: int = ROWS,
) -> list[ComparisonRow]:
    """Load `most` rows at most, of at most `longest` tokens; the log names their source.

    They come from the file `data`, or the split `test` of that Hub data set, else from the validation split of the run
    in `folder` (if its run.yaml and data files still exist), else they are random tokens. `data` has conversations or
    documents, for a classifier of `labels` labelled texts. Raises `DataError` if `data` has rows of another kind.
    """
    limit = min(longest or LONGEST, LONGEST)
    if data is not None:
        # First, for the message: what `load_rows` refuses is no setting of a run file.
        resolve_sources(data, "test", "auto")
        section = DataSection(train=data, task="regression" if labels and labels.kind == "number" else None)
        section = section.model_copy(update={"labels": read_trained_labels(str(folder))}) if labels else section
        if labels is None:
            rows = _load_file_rows(section, tokenizer, limit, most)
        else:
            texts = load_rows(data, section, "labelled").rows[SPLIT]
            rows = _encode_labeled_texts(texts, tokenizer, limit, labels, most)
        logger.info("to be compared on %d rows of %s", len(rows), data)
        return rows
    try:
        rows = _load_validation_rows(folder, tokenizer, limit, labels, most)
        reason = "the run has no validation split"
    except (FinetuneError, OSError, ValueError) as problem:
        rows, reason = [], str(problem).splitlines()[0]
    if rows:
        logger.info("to be compared on %d rows of the run's validation split", len(rows))
        return rows
    logger.warning(
        "to be compared on %d rows of random tokens (%s); name held-out rows with --data",
        most,
        reason,
        extra={"code": "HF943"},
    )
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randint(len(tokenizer), (most, 1, min(limit, RANDOM_LENGTH)), generator=generator)
    if labels is None:
        return [ComparisonRow({"input_ids": row}, row, drawn=True) for row in drawn]
    # Any label will do: the losses of both models are compared, and neither is judged.
    zero = torch.zeros(1, dtype=torch.long) if labels.kind == "single" else torch.zeros(1, len(labels.names))
    return [ComparisonRow({"input_ids": row}, zero, drawn=True) for row in drawn]


def _load_file_rows(
    section: DataSection, tokenizer: PreTrainedTokenizerFast, limit: int, most: int
) -> list[ComparisonRow]:
    assert isinstance(section.train, str)
    splits = load_rows(section.train, section, None)
    if are_conversations(splits.rows[SPLIT]):
        return _tokenize_conversations(splits, SPLIT, section, tokenizer, limit, most)
    return _tokenize_documents(splits.rows[SPLIT], tokenizer, limit, most)


def _load_validation_rows(
    folder: Path, tokenizer: PreTrainedTokenizerFast, limit: int, labels: Labels | None, most: int
) -> list[ComparisonRow]:
    if not (folder / RUN_FILE).exists():
        raise FinetuneError(Problem(f"there is no {RUN_FILE} beside it", code="HF001"))
    # Only the section data is validated: a run from another machine may have settings that this one refuses, such as
    # bf16 without a GPU for it.
    settings = read_document(str(folder / RUN_FILE)).values
    data: DataSection = expand_user(DataSection.model_validate(settings["data"]))
    # The folder may be anybody's: which template is trusted is said by whoever merges it.
    data = data.model_copy(update={"trust_chat_template": None})
    reads_documents = settings.get("recipe") == "continued_pretraining"
    kind: Kind = "labelled" if labels is not None else "document" if reads_documents else "conversation"
    splits = load_splits(data, kind, settings["train"].get("seed", SEED))
    if "validation" not in splits.rows:
        return []
    if labels is not None:
        return _encode_labeled_texts(splits.rows["validation"], tokenizer, limit, labels, most)
    if reads_documents:
        return _tokenize_documents(splits.rows["validation"], tokenizer, limit, most)
    return _tokenize_conversations(splits, "validation", data, tokenizer, limit, most)


def _tokenize_conversations(
    splits: Splits, split: str, data: DataSection, tokenizer: PreTrainedTokenizerFast, limit: int, most: int
) -> list[ComparisonRow]:
    some: Dataset = splits.rows[split].select(range(min(most, len(splits.rows[split]))))
    # A conversation that is too long for the run, which drops it, is truncated here.
    settings = data.model_copy(update={"too_long": "cut", "max_dropped": 1.0})
    template = load_chat_template(data, tokenizer, trains=False)
    rows, _ = tokenize_conversations(replace(splits, rows={split: some}), tokenizer, template, settings, limit)
    return [_make_row(row["input_ids"], row["labels"]) for row in rows[split]]


def _tokenize_documents(
    rows: Dataset, tokenizer: PreTrainedTokenizerFast, limit: int, most: int
) -> list[ComparisonRow]:
    texts = [text for text in rows[:most]["text"] if text.strip()]
    encoded = [ids[:limit] for ids in encode_documents(tokenizer, texts)]
    return [_make_row(ids, ids) for ids in encoded if len(ids) > 1]


def _make_row(input_ids: Sequence[int], labels: Sequence[int]) -> ComparisonRow:
    """Make a batch of one of ids and labels, each (seq,)."""
    return ComparisonRow({"input_ids": torch.tensor([input_ids])}, torch.tensor([labels]))


def _encode_labeled_texts(
    rows: Dataset, tokenizer: PreTrainedTokenizerFast, limit: int, labels: Labels, most: int
) -> list[ComparisonRow]:
    some = rows.select(range(min(most, len(rows))))[:]
    encoded = encode_texts(tokenizer, some["text"], some["text_pair"], limit)
    columns = {"input_ids": encoded.input_ids}
    if encoded.token_type_ids is not None:
        columns["token_type_ids"] = encoded.token_type_ids
    targets = torch.from_numpy(labels.encode([_to_label_name(label, labels) for label in some["label"]]))
    return [
        ComparisonRow({name: torch.tensor([column[row]]) for name, column in columns.items()}, targets[row : row + 1])
        for row in range(len(targets))
    ]


def _to_label_name(label: Any, labels: Labels) -> Any:
    """Convert a row's label to the name in `config.id2label`, where numbers are strings too; of regression as it is."""
    # 3 -> "3" and [1, 4] -> ["1", "4"]; Labels.encode then gives (rows,) or (rows, num_labels)
    if labels.kind == "number":
        return label
    return [str(each) for each in label] if labels.kind == "multi" else str(label)
