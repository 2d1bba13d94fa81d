"""The rows of a file -> the same rows with what a model answers: in batches, in their order, in constant memory."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from hf_finetune.config.sections import EvalSection
from hf_finetune.data.reading.columns import log_columns
from hf_finetune.environment.progress_lines import ProgressLines
from hf_finetune.errors import ModelError, Problem
from hf_finetune.evaluation.generation.answer_window import PreparedRows, Speaker, answer_window, prepare_rows
from hf_finetune.evaluation.generation.asked_rows import make_asked_kind, regroup
from hf_finetune.evaluation.generation.kept_rows import AnswerFolder, RowSink
from hf_finetune.evaluation.generation.prompts import check_responses, try_template
from hf_finetune.evaluation.prediction.predict import check_exists, log_left_out
from hf_finetune.evaluation.prediction.rows import (
    Window,
    append_fields,
    check_first,
    is_compact,
    read_windows,
    warn_of_no_rows,
)

logger = logging.getLogger(__name__)

BATCH_SIZE_ON_CPU, BATCH_SIZE = 16, 64
BATCHES_AT_ONCE = 4
"""From which batches of similar length are made; so many are answered before they are written."""
GENERATED, OF_BASE = "generated", "base_generated"


def choose_batch_size() -> int:
    """How many rows are answered at once, where nobody says so."""
    return BATCH_SIZE if torch.accelerator.is_available() else BATCH_SIZE_ON_CPU


@dataclass(frozen=True, slots=True)
class RowsAsked:
    """What is asked, and how."""

    file: str
    """`-`: standard input."""
    settings: EvalSection
    system: str | None = None
    """A system message for rows that have none."""
    raw: bool = False
    """Prompts are continued, even if the model can chat."""
    prefix: str = ""
    """Put before the names of the added fields."""
    batch_size: int = BATCH_SIZE_ON_CPU
    columns: Mapping[str, str] = field(default_factory=dict)
    """Field of a row -> the column that has it; the rows are written with the field's name."""

    @property
    def added(self) -> tuple[str, str]:
        return self.prefix + GENERATED, self.prefix + OF_BASE


@dataclass(slots=True)
class AnswerStats:
    """Counts of a file: the fields of `generate --input --json`."""

    rows: int = 0
    left_out: int = 0
    """Lines that could not be answered."""
    kept: int = 0
    """Rows that an earlier call had answered."""
    unfinished: int = 0
    """Answers of this call that `--max-new-tokens` or the model's last position ended."""
    seconds: float = 0.0
    """Answering and writing; loading the model not included."""


class AskedFile:
    """The rows of a file, whose first ones are read at once, and the passes of models over them."""

    def __init__(self, asked: RowsAsked) -> None:
        """Raises `DataError` where none of the first rows can be answered, or one has a field that would be added."""
        self.asked = asked
        self._unread: tuple[str, ...] = asked.added
        self.windows = self._read(asked.file, asked.columns)
        log_columns(asked.columns, asked.file)

    def _read(self, file: str, columns: Mapping[str, str]) -> Iterator[Window]:
        size = BATCHES_AT_ONCE * self.asked.batch_size
        windows = read_windows(check_exists(file), file, make_asked_kind(self._unread, size), columns)
        # At once: a file without a row that can be answered is refused before weights are loaded.
        first = next(windows)
        check_first(first)
        # The second pass reads a file of ours.
        if file == self.asked.file:
            warn_of_no_rows(first, file)
        self.has_conversations = "messages" in first.columns
        return regroup(chain([first], windows), size)

    def check(self, tokenizer: PreTrainedTokenizerFast) -> None:
        """Refuse, before weights are loaded, a template, or a model without one that is to answer conversations."""
        system, raw = self.asked.system, self.asked.raw
        check_responses(tokenizer, [], system=system, raw=raw)
        if tokenizer.chat_template and not raw:
            try_template(tokenizer, [] if system is None else [{"role": "system", "content": system}])
        elif self.has_conversations:
            what = "the rows are conversations, and the model continues texts"
            remedy = "leave --raw out" if tokenizer.chat_template else "fine-tune it with recipes/sft.py"
            raise ModelError(Problem(what, f"{remedy}, or write what is to be continued as `prompt`", code="HF352"))

    def answer(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, folder: AnswerFolder, name: str
    ) -> AnswerStats:
        """Write the rows, in their order, with the answers of a model in the field `name`; see `answer_rows`.

        The next pass reads what this one has written, so that rows that come through a pipe are read once.
        """
        if folder.paths:
            self.windows = self._read(str(folder.paths[-1]), {})
        self._unread = tuple(each for each in self._unread if each != name)
        asked = self.asked
        chats = bool(tokenizer.chat_template) and not asked.raw
        speaker = Speaker(model, tokenizer, asked.settings, asked.batch_size, chats, asked.system)
        with folder.open_next() as sink:
            return answer_rows(speaker, self.windows, sink, name, asked.file)


def answer_rows(speaker: Speaker, windows: Iterator[Window], sink: RowSink, name: str, file: str) -> AnswerStats:
    """Write the rows of `windows` to `sink`, in their order, each with its answer in the field `name`.

    At temperature 0 an answer is that of `generate_responses` to the row alone, but for ties that rounding breaks
    (bfloat16 has many). Above, row number `i` has the seed `settings.seed + i`. Rows that the sink has are passed over.
    Rows that cannot be answered are logged with their line, and left out. Raises `DataError` for a template that
    exceeds its limits, and what `generate_batch` raises.
    """
    stats, progress, first = AnswerStats(), ProgressLines("rows answered"), 0
    for window in windows:
        prepared = prepare_rows(speaker, window, file)
        problems = sorted([*window.problems, *prepared.problems], key=lambda problem: problem.line or 0)
        log_left_out(problems)
        lines = [window.lines[place] for place in prepared.places]
        # Prepared although they may be there: which rows can be answered says which lines are looked for.
        if sink.find([_begin_field(line, name) for line in lines]):
            stats.kept += len(lines)
        else:
            texts = _answer_window(speaker, prepared, first, stats, progress)
            sink.write([append_fields(line, _format_field(line, name, texts[place]))
                        for place, line in zip(prepared.places, lines, strict=True)])  # fmt: skip
        stats.rows += len(lines)
        stats.left_out += len(problems)
        first += len(window.lines)
    stats.seconds = progress.log_if_due(stats.rows - stats.kept)
    _log_end(stats)
    return stats


def _answer_window(
    speaker: Speaker, prepared: PreparedRows, first: int, stats: AnswerStats, progress: ProgressLines
) -> dict[int, str]:
    """The answers by the places of their rows; row number `first` of the file is that of place 0."""
    texts: dict[int, str] = {}
    numbers = range(first, first + max(prepared.places, default=0) + 1)
    for place, answer in answer_window(speaker, prepared, numbers):
        texts[place] = answer.text
        stats.unfinished += not answer.finished
        progress.log_if_due(stats.rows - stats.kept + len(texts))
    return texts


def _begin_field(line: bytes, name: str) -> bytes:
    """A row up to the value of a field at its end: b'{"text": "hi"}' -> b'{"text": "hi", "name": '."""
    whole = append_fields(line, _format_field(line, name, None))
    return whole[: whole.rindex(b"null")]


def _format_field(line: bytes, name: str, value: str | None) -> str:
    colon = ":" if is_compact(line) else ": "
    return f"{json.dumps(name, ensure_ascii=False)}{colon}{json.dumps(value, ensure_ascii=False)}"


def _log_end(stats: AnswerStats) -> None:
    answered = stats.rows - stats.kept
    if stats.kept:
        logger.info("%s rows had been answered already", f"{stats.kept:,}")
    logger.info("%s rows in %.1f s, %.3g a second", f"{answered:,}", stats.seconds, answered / max(stats.seconds, 1e-9))
    if stats.unfinished:
        what = "%s cut off (--max-new-tokens, or the model's last position)"
        logger.info(what, "1 answer was" if stats.unfinished == 1 else f"{stats.unfinished:,} answers were")
