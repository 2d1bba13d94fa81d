"""Predict the labels of a file of any length: rows are streamed, in memory that does not grow with their number.

Windows of some thousand rows are read and tokenized in a second thread, while the model predicts the window before;
sorted by length, run in batches of a number of tokens, and written in the order of the file.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from inspect import signature
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import numpy as np
import torch
from datasets import Dataset, Features, Value
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from hf_finetune.chat.given_up import name_rows
from hf_finetune.data.reading.columns import log_columns
from hf_finetune.data.reading.lines import STANDARD_INPUT
from hf_finetune.data.tokenization.collators import TextCollator
from hf_finetune.data.tokenization.text import EncodedTexts, encode_texts
from hf_finetune.environment.progress_lines import ProgressLines
from hf_finetune.errors import (
    ConfigError,
    DataError,
    MachineError,
    ModelError,
    NonFiniteError,
    Problem,
    format_problems,
)
from hf_finetune.evaluation.prediction.added_fields import format_added_fields
from hf_finetune.evaluation.prediction.rows import (
    Window,
    append_fields,
    check_first,
    is_compact,
    read_windows,
    warn_of_no_rows,
)
from hf_finetune.evaluation.prediction.texts import make_text_kind
from hf_finetune.evaluation.probes.seen_rows import SeenRowCounter, log_seen_rows, read_training_records
from hf_finetune.folders.decision_record import DECISION
from hf_finetune.models.classification_head import read_labels, unwrap_adapter
from hf_finetune.models.decision import Array, Decision, read_decision
from hf_finetune.models.lengths import get_max_length
from hf_finetune.models.saved import load_for_prediction

logger = logging.getLogger(__name__)

Item = TypeVar("Item")

BATCH_TOKENS_ON_CPU = 1_024  # activations that its caches hold
BATCH_TOKENS = 32_768


@dataclass(frozen=True, slots=True)
class PredictionOptions:
    base_path: str | None = None
    """Where an adapter's base is, if it has moved."""
    batch_tokens: int | None = None
    """Tokens of a batch, padding included; by default what suits the device."""
    max_length: int | None = None
    """Tokens at which a text is truncated; by default what the model takes."""
    prefix: str = ""
    """Put before the names of the added fields."""
    top_k: int | None = None
    """How many labels `scores` has, likeliest first; by default all, in the model's order."""
    columns: Mapping[str, str] = field(default_factory=dict)
    """Field of a row, `text` or `text_pair` -> the column that has it; the rows are written with the field's name."""


@dataclass(frozen=True, slots=True)
class Classifier:
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerFast
    decision: Decision | None
    """None for a regression."""
    max_length: int | None
    batch_tokens: int
    takes_types: bool
    """Whether its `forward` takes `token_type_ids`."""


@dataclass(slots=True)
class PredictionStats:
    """Counts of a predicted file: the fields of `predict --json`."""

    rows: int = 0
    left_out: int = 0
    """Lines that could not be labeled."""
    truncated: int = 0
    seen_rows: dict[str, Any] = field(default_factory=dict)
    """Rows that the classifier was trained on, by the record of its run; empty where there is none."""
    empty: int = 0
    """Rows without text, of which a label says nothing."""
    seconds: float = 0.0
    """Tokenizing, predicting and writing; loading the model not included."""


def predict_file(model: str, file: str, output: BinaryIO, options: PredictionOptions) -> PredictionStats:
    """Write the rows of `file` (`-`: standard input) to `output` with their predicted labels added, in their order.

    Lines that cannot be labeled are logged with their line number, and left out. Raises `DataError` before anything is
    predicted if the file cannot be read, if none of its first rows can be labeled, or if one of them already has a
    field with the name of one to be added; `NonFiniteError` for NaN or infinite logits; and as `open_classifier` and
    `compute_logits` do.
    """
    windows = read_windows(check_exists(file), file, make_text_kind(options.prefix), options.columns)
    first = next(windows)
    check_first(first)
    warn_of_no_rows(first, file)
    log_columns(options.columns, file)
    classifier = open_classifier(model, options)
    encoded = encode_windows(classifier, chain([first], windows), file)
    facts, progress = PredictionStats(), ProgressLines("rows labeled")
    seen = SeenRowCounter(read_training_records(model))
    # Reading from a terminal or a pipe may block: Ctrl-C interrupts that at once in the main thread only.
    for window, rows in encoded if file == str(STANDARD_INPUT) else prefetch(encoded):
        log_left_out(window.problems)
        if window.lines:
            logits = compute_logits(classifier, rows)
            _check_finite(logits, window, file)
            compact = is_compact(window.lines[0])
            fields = format_added_fields(logits, classifier.decision, options.prefix, options.top_k, compact=compact)
            output.writelines(map(append_fields, window.lines, fields))
            output.flush()
            _count_seen_rows(seen, window, file)
        facts.rows += len(window.lines)
        facts.left_out += len(window.problems)
        facts.truncated += rows.truncated
        facts.empty += sum(not text.strip() for text in window.columns["text"])
        facts.seconds = progress.log_if_due(facts.rows)
    logger.info("%s rows in %.1f s, %.0f a second", f"{facts.rows:,}", facts.seconds, facts.rows / facts.seconds)
    facts.seen_rows = seen.summarize()
    log_seen_rows(facts.seen_rows)
    if facts.truncated:
        logger.warning(
            "texts cut at %d tokens: %s", classifier.max_length, f"{facts.truncated:,}", extra={"code": "HF340"}
        )
    warn_of_empty_texts(facts.empty, facts.rows)
    return facts


def _count_seen_rows(counter: SeenRowCounter, window: Window, file: str) -> None:
    """Look for the rows of a window among the training rows of the classifier."""
    if counter.records.prints:
        features = Features({"text": Value("string"), "text_pair": Value("string")})
        rows = Dataset.from_dict(window.columns, features=features)
        counter.add(rows, lambda row: (file, window.numbers[row]))


def log_left_out(problems: Sequence[Problem]) -> None:
    """Log the lines that are left out, those with one fault together, in the order of the first of each."""
    by_fault: dict[Problem, list[Problem]] = {}
    for each in problems:
        by_fault.setdefault(replace(each, line=None), []).append(replace(each, code=""))
    for fault, alike in by_fault.items():
        # The log puts the code behind all of what is said.
        for line in format_problems(alike):
            logger.warning("%s", line, extra={"code": fault.code})


def warn_of_empty_texts(empty: int, rows: int) -> None:
    """Say how many rows have no text: a model labels them all the same, and that says nothing of them."""
    if empty:
        logger.warning(
            "%s of %s rows have no text, so that their labels say nothing",
            f"{empty:,}",
            f"{rows:,}",
            extra={"code": "HF341"},
        )


def open_classifier(path: str, options: PredictionOptions) -> Classifier:
    """Load a run folder, model folder, Hub id or adapter, with its decision.

    Raises `ModelError` if it is no classifier or its decision is for other labels, and `ConfigError` if
    `options.max_length` is more than the model takes.
    """
    model, tokenizer = load_for_prediction(path, base=options.base_path)
    inner: Any = unwrap_adapter(model)
    # A decoder such as Llama would build a key-value cache for every batch, which nothing reads.
    inner.config.use_cache = False
    on_cpu = model.device.type == "cpu"
    return Classifier(
        model=model,
        tokenizer=tokenizer,
        decision=resolve_decision(read_decision(path), inner.config, path),
        max_length=_resolve_max_length(get_max_length(tokenizer, inner.config), options.max_length),
        batch_tokens=options.batch_tokens or (BATCH_TOKENS_ON_CPU if on_cpu else BATCH_TOKENS),
        takes_types="token_type_ids" in signature(inner.forward).parameters,
    )


def encode_windows(
    classifier: Classifier, windows: Iterable[Window], file: str
) -> Iterator[tuple[Window, EncodedTexts]]:
    """Tokenize the texts of each window of `file`. Raises `DataError` for a line that the tokenizer gives up on."""
    for window in windows:
        with name_rows(partial(_locate, file, window.numbers)):
            encoded = encode_texts(classifier.tokenizer, *_get_texts(window), classifier.max_length)
        yield window, encoded


def _get_texts(window: Window) -> tuple[list[str], list[str | None]]:
    return window.columns["text"], window.columns["text_pair"]


def _locate(file: str, lines: Sequence[int], number: int) -> tuple[str, int]:
    return file, lines[number]


def prefetch(items: Iterator[Item]) -> Iterator[Item]:
    """Yield the same items, each made in a second thread while the one before it is in use."""
    with ThreadPoolExecutor(1) as thread:
        coming = thread.submit(next, items, None)
        while (item := coming.result()) is not None:
            coming = thread.submit(next, items, None)
            yield item


@torch.inference_mode()
def compute_logits(classifier: Classifier, rows: EncodedTexts) -> Array:
    """Compute the logits of each row, (rows, labels), in the order of the rows.

    Raises `MachineError` if a batch is too large for the device's memory.
    """
    order, logits = [], []
    try:
        for places, inputs in iterate_batches(classifier, rows):
            order += places
            logits.append(classifier.model(**inputs).logits)
        joined = torch.cat(logits).cpu().double().numpy()  # one copy from the device for the whole window
    except torch.OutOfMemoryError as error:
        what = f"a batch of {classifier.batch_tokens:,} tokens is too large for the memory of the device"
        raise MachineError(Problem(what, "name fewer", key="--batch-tokens", code="HF703")) from error
    sorted_back = np.empty_like(joined)
    sorted_back[order] = joined
    return sorted_back


def iterate_batches(classifier: Classifier, rows: EncodedTexts) -> Iterator[tuple[list[int], dict[str, Tensor]]]:
    """Yield batches of at most `batch_tokens` tokens, padding included, longest rows first: their places and inputs.

    The inputs are tensors (batch, seq). Lengths 5, 9, 4, 4 and 12 tokens: places [1], then [0, 2], then [3].
    """
    types = rows.token_type_ids if classifier.takes_types else None
    collate = TextCollator(classifier.tokenizer.pad_token_id)
    order = sorted(range(len(rows.input_ids)), key=lambda place: -len(rows.input_ids[place]))
    while order:
        size = max(1, classifier.batch_tokens // len(rows.input_ids[order[0]]))
        places, order = order[:size], order[size:]
        batch = [{"input_ids": rows.input_ids[place]} for place in places]
        if types is not None:
            batch = [row | {"token_type_ids": types[place]} for row, place in zip(batch, places, strict=True)]
        device = classifier.model.device
        yield places, {name: values.to(device, non_blocking=True) for name, values in collate(batch).items()}


def check_exists(file: str) -> Path:
    path = Path(file)
    if path == STANDARD_INPUT or (path.exists() and not path.is_dir()):
        return path
    what, code = ("is a folder", "HF002") if path.is_dir() else ("no such file", "HF001")
    raise DataError(Problem(what, "name a file of rows, or - for standard input", path=file, code=code))


def resolve_decision(decision: Decision | None, config: Any, path: str) -> Decision | None:
    """Return the folder's decision, else that of transformers' `pipeline`: the argmax, or each label above 0.5.

    None for a regression. Raises `ModelError` if two labels have one name, or if the decision is for other labels.
    """
    labels = read_labels(config)
    if len({*labels.names}) < len(labels.names):
        raise ModelError(
            Problem("two of its labels have the same name", "correct id2label in config.json", path, code="HF342")
        )
    if decision is not None and decision.labels != labels.names:
        what = f"{DECISION} is for the labels {', '.join(decision.labels)}, the model has {', '.join(labels.names)}"
        raise ModelError(Problem(what, f"remove {DECISION}, or use that of the run", path, code="HF957"))
    if decision is not None or labels.kind == "number":
        return decision
    # `pipeline` takes the sigmoid of a single label, even under single_label_classification: softmax would always be 1.
    return Decision(labels.names, "multi" if len(labels.names) == 1 else labels.kind)


def _resolve_max_length(longest: int | None, asked: int | None) -> int | None:
    if asked is not None and longest is not None and asked > longest:
        what = f"{asked:,} tokens are too long; the model takes {longest:,}"
        raise ConfigError(
            Problem(what, "leave it out, or set a number that the model takes", key="--max-length", code="HF603")
        )
    return asked or longest


def _check_finite(logits: Array, window: Window, file: str) -> None:
    """Raise `NonFiniteError`, with its line, for the first row of `logits`, (rows, labels), that is NaN or infinite."""
    bad = np.flatnonzero(~np.isfinite(logits).all(axis=1))
    if bad.size:
        what, remedy = "the row has NaN or infinite logits", "load the model in another precision, or train it again"
        raise NonFiniteError(Problem(what, remedy, file, window.numbers[bad[0]], code="HF513"))
