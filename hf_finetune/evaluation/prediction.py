"""A classifier labels a file of any length: rows stream through it, in memory that does not grow with their number.

Some thousand rows at a time are read and tokenised, in a thread of their own while the model is busy with those before;
sorted by length, run in batches of a number of tokens, and written in the order of the file.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from inspect import signature
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from hf_finetune.data.batches import TextCollator
from hf_finetune.data.lines import STANDARD_INPUT
from hf_finetune.data.tokenization import EncodedTexts, encode_texts
from hf_finetune.errors import ConfigError, DataError, EnvironmentProblem, ModelError, NonFiniteError, Problem
from hf_finetune.evaluation.prediction_rows import Window, added_fields, read_windows, with_fields
from hf_finetune.models.classifiers import load_for_prediction
from hf_finetune.models.decisions import DECISION, Array, Decision, read_decision
from hf_finetune.models.heads import labels_of
from hf_finetune.models.tokenizers import effective_max_length

logger = logging.getLogger(__name__)

Item = TypeVar("Item")

BATCH_TOKENS_ON_CPU = 1_024  # what its caches hold
BATCH_TOKENS = 32_768
SECONDS_BETWEEN_NOTES = 10.0


@dataclass(frozen=True, slots=True)
class PredictionOptions:
    base_path: str | None = None
    """Where the base of an adapter is now."""
    batch_tokens: int | None = None
    """Of one batch, padding included; by default what suits the device."""
    max_length: int | None = None
    """Tokens at which a text is cut; by default what the model takes."""
    prefix: str = ""
    """Before the names of the added fields."""
    top_k: int | None = None
    """So many of the labels in `scores`, likeliest first; by default all, in the model's order."""


@dataclass(frozen=True, slots=True)
class Classifier:
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerFast
    decision: Decision | None
    """None where the model predicts numbers."""
    max_length: int | None
    batch_tokens: int
    takes_types: bool
    """Whether the model is told which of two texts a token is of."""


@dataclass(slots=True)
class PredictionFacts:
    """What became of a file."""

    rows: int = 0
    left_out: int = 0
    """Lines that could not be labelled."""
    truncated: int = 0
    """Rows that were cut first."""
    seconds: float = 0.0
    """Tokenising, predicting and writing; loading the model not included."""


def predict_file(model: str, file: str, output: BinaryIO, options: PredictionOptions) -> PredictionFacts:
    """Write the rows of `file` (`-`: standard input) with what the classifier says about each, in their order.

    Lines that cannot be labelled are logged, each with its place, and left out. Raises `DataError` before anything is
    predicted where the file cannot be read, none of its first rows can be labelled, or one of those has a field of the
    name of one to be added; `ModelError` where `model` is no classifier, `NonFiniteError` where it gives no number.
    """
    windows = read_windows(_existing(file), file, options.prefix)
    first = next(windows)
    if first.taken is not None or (first.problems and not first.lines):
        raise DataError(first.taken or first.problems)
    classifier = open_classifier(model, options)
    encoded = encoded_windows(classifier, chain([first], windows))
    facts, progress = PredictionFacts(), _Progress()
    # What waits for someone to type, or for another program, is interrupted at once only in this thread.
    for window, rows in encoded if file == str(STANDARD_INPUT) else one_ahead(encoded):
        for problem in window.problems:
            logger.warning("%s", problem)
        if window.lines:
            logits = window_logits(classifier, rows)
            _check_finite(logits, window, file)
            fields = added_fields(logits, classifier.decision, options.prefix, options.top_k)
            output.writelines(map(with_fields, window.lines, fields))
            output.flush()
        facts.rows += len(window.lines)
        facts.left_out += len(window.problems)
        facts.truncated += rows.truncated
        facts.seconds = progress.after(facts.rows)
    logger.info("%s rows in %.1f s, %.0f a second", f"{facts.rows:,}", facts.seconds, facts.rows / facts.seconds)
    if facts.truncated:
        logger.warning("texts cut at %d tokens: %s", classifier.max_length, f"{facts.truncated:,}")
    return facts


def open_classifier(path: str, options: PredictionOptions) -> Classifier:
    """Load a run folder, model folder, Hub id or adapter, with its decision. Raises `ModelError` and `ConfigError`."""
    model, tokenizer = load_for_prediction(path, base=options.base_path)
    inner: Any = model if isinstance(model, PreTrainedModel) else model.get_base_model()
    inner.config.use_cache = False  # nothing is generated
    on_cpu = model.device.type == "cpu"
    return Classifier(
        model=model,
        tokenizer=tokenizer,
        decision=_decision(read_decision(path), inner.config, path),
        max_length=_max_length(effective_max_length(tokenizer, inner.config), options.max_length),
        batch_tokens=options.batch_tokens or (BATCH_TOKENS_ON_CPU if on_cpu else BATCH_TOKENS),
        takes_types="token_type_ids" in signature(inner.forward).parameters,
    )


def encoded_windows(classifier: Classifier, windows: Iterable[Window]) -> Iterator[tuple[Window, EncodedTexts]]:
    for window in windows:
        yield window, encode_texts(classifier.tokenizer, window.texts, window.pairs, classifier.max_length)


def one_ahead(items: Iterator[Item]) -> Iterator[Item]:
    """The same items, each made in another thread while the one before it is in use."""
    with ThreadPoolExecutor(1) as thread:
        coming = thread.submit(next, items, None)
        while (item := coming.result()) is not None:
            coming = thread.submit(next, items, None)
            yield item


@torch.inference_mode()
def window_logits(classifier: Classifier, rows: EncodedTexts) -> Array:
    """The model's logits for each row, (rows, labels), in the order of the rows.

    Raises `EnvironmentProblem` where a batch is too large for the device.
    """
    order, logits = [], []
    try:
        for places, inputs in token_batches(classifier, rows):
            order += places
            logits.append(classifier.model(**inputs).logits)
        joined = torch.cat(logits).double().cpu().numpy()  # read from the device once
    except torch.OutOfMemoryError as error:
        what = f"a batch of {classifier.batch_tokens:,} tokens is too large for the memory of the device"
        raise EnvironmentProblem(Problem(what, "name fewer", key="--batch-tokens")) from error
    sorted_back = np.empty_like(joined)
    sorted_back[order] = joined
    return sorted_back


def token_batches(classifier: Classifier, rows: EncodedTexts) -> Iterator[tuple[list[int], dict[str, Tensor]]]:
    """The longest rows first, in batches of `batch_tokens`, padding included: places of the rows, and tensors."""
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


@dataclass(slots=True)
class _Progress:
    """Says now and then how far it is."""

    started: float = field(default_factory=time.monotonic)
    said: float = field(default_factory=time.monotonic)

    def after(self, rows: int) -> float:
        """Seconds since the start."""
        now = time.monotonic()
        if now - self.said >= SECONDS_BETWEEN_NOTES:
            self.said = now
            logger.info("%s rows, %.0f a second", f"{rows:,}", rows / (now - self.started))
        return now - self.started


def _existing(file: str) -> Path:
    path = Path(file)
    if path == STANDARD_INPUT or (path.exists() and not path.is_dir()):
        return path
    what = "is a folder" if path.is_dir() else "no such file"
    raise DataError(Problem(what, "name a JSONL file, or - for standard input", path=file))


def _decision(decision: Decision | None, config: Any, path: str) -> Decision | None:
    """The folder's own decision, else what `pipeline` does: the likeliest label, or each above 0.5."""
    labels = labels_of(config)
    if len({*labels.names}) < len(labels.names):
        raise ModelError(Problem("two of its labels have the same name", "correct id2label in config.json", path))
    if decision is not None and decision.labels != labels.names:
        what = f"{DECISION} is for the labels {', '.join(decision.labels)}, the model has {', '.join(labels.names)}"
        raise ModelError(Problem(what, f"remove {DECISION}, or use that of the run", path))
    if decision is not None or labels.kind == "number":
        return decision
    return Decision(labels.names, "multi" if len(labels.names) == 1 else labels.kind)


def _max_length(longest: int | None, asked: int | None) -> int | None:
    if asked is not None and longest is not None and asked > longest:
        what = f"{asked:,} tokens are too long; the model takes {longest:,}"
        raise ConfigError(Problem(what, "leave it out, or set a number that the model takes", key="--max-length"))
    return asked or longest


def _check_finite(logits: Array, window: Window, file: str) -> None:
    bad = np.flatnonzero(~np.isfinite(logits).all(axis=1))
    if bad.size:
        what, remedy = "the model's answer is infinite or no number", "load it in another precision, or train it again"
        raise NonFiniteError(Problem(what, remedy, file, window.numbers[bad[0]]))
