"""Progress of training in a terminal: a bar, the latest metrics, the time left, and the last sample."""

from __future__ import annotations

import atexit
import logging
import time
from collections.abc import Callable
from contextlib import suppress
from functools import wraps
from typing import Any, TypeVar, cast

from rich.console import Console, Group, RenderableType
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.segment import SegmentLines
from rich.text import Text
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from hf_finetune.environment.progress_lines import SECONDS_BETWEEN_FRAMES, Foot, open_terminal
from hf_finetune.interruption import take_answer
from hf_finetune.metric_info import format_metrics
from hf_finetune.privacy import escape_control_characters

logger = logging.getLogger(__name__)

SAMPLE_LINES = 4
SAMPLE_CHARACTERS = 600

Show = TypeVar("Show", bound=Callable[..., None])


def never_ends_a_run(show: Show) -> Show:
    """Let what `show` raises end the display and not the run, which is worth hours; the first failure is said."""

    @wraps(show)
    def guarded(display: ProgressDisplay, *args: Any, **kwargs: Any) -> None:
        if display.failed:
            return
        try:
            show(display, *args, **kwargs)
        except Exception as failure:
            display.give_up(failure)

    return cast(Show, guarded)


class ProgressDisplay(TrainerCallback):
    """A display at the foot of the terminal while a run trains or evaluates; log lines scroll above it.

    For the main process only. It is drawn by the callbacks. Where it fails it is closed, and the lines of the log
    remain.
    """

    def __init__(self, open_console: Callable[[], Console] = open_terminal) -> None:
        """`open_console` is called when there is something to show."""
        self.failed = False
        self._open_console = open_console
        self._figures = ""
        self._sample: tuple[str, str] | None = None
        self._foot: Foot | None = None
        self._bars: Progress | None = None
        self._rows: dict[str, TaskID] = {}
        self._batches = 0
        self._training = False
        self._drawn = 0.0

    @never_ends_a_run
    def show_sample(self, prompt: str, continuation: str) -> None:
        """Show the latest sample until the next figures."""
        self._sample = (prompt, continuation)
        self._draw(now=True)

    @never_ends_a_run
    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._training = True
        self._bar("training", state.max_steps, state.global_step)

    @never_ends_a_run
    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._bar("training", state.max_steps, state.global_step)

    @never_ends_a_run
    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        words = format_metrics(logs or {})
        if words:
            self._figures = "  ".join(words)
            self._sample = None  # it is in the log above
            self._draw(now=True)

    @never_ends_a_run
    def on_prediction_step(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        eval_dataloader: Any = None,
        **kwargs: Any,
    ) -> None:
        self._batches += 1
        self._bar("evaluating", len(eval_dataloader), self._batches)

    @never_ends_a_run
    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._evaluated()

    @never_ends_a_run
    def on_predict(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, metrics: Any, **kwargs: Any
    ) -> None:
        self._evaluated()

    @never_ends_a_run
    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._training = False
        self.stop()

    @never_ends_a_run
    def stop(self) -> None:
        """Take the display off the screen, whose log lines say it all, and restore the terminal."""
        self._close()

    def give_up(self, failure: Exception) -> None:
        """Restore the terminal as far as that can be done, and log why."""
        self.failed = True
        console = self._foot.console if self._foot is not None else None
        with suppress(Exception):
            self._close()
        with suppress(Exception):
            if console is not None:
                console.show_cursor(True)
        why = escape_control_characters(f"{type(failure).__name__}: {failure}")
        logger.warning(
            "the progress display failed and is off, the run goes on without it: %s", why, extra={"code": "HF717"}
        )
        logger.debug("where the progress display failed", exc_info=failure)

    def _close(self) -> None:
        foot, self._foot, self._bars = self._foot, None, None
        self._rows, self._batches, self._figures, self._sample = {}, 0, "", None
        atexit.unregister(self.stop)
        if foot is not None:
            if (answer := take_answer()) is not None:
                foot.lift(answer)
            foot.close()

    def _evaluated(self) -> None:
        self._batches = 0
        if self._bars is not None and "evaluating" in self._rows:
            self._bars.remove_task(self._rows.pop("evaluating"))
        if self._training:
            self._draw(now=True)
        else:
            self.stop()

    def _bar(self, name: str, total: int, done: int) -> None:
        bars = self._bars or self._start()
        if name not in self._rows:
            self._rows[name] = bars.add_task(name, total=total, completed=done)
        bars.update(self._rows[name], total=total, completed=done)
        self._draw(now=done >= total)

    def _start(self) -> Progress:
        self._foot = Foot(self._open_console)
        self._foot.open()
        atexit.register(self.stop)
        columns = (TextColumn("{task.description}"), MofNCompleteColumn(), BarColumn())
        times = (TimeElapsedColumn(), TextColumn("gone"), TimeRemainingColumn(), TextColumn("left"))
        self._bars = Progress(*columns, *times, console=self._foot.console)
        return self._bars

    def _draw(self, *, now: bool = False) -> None:
        if self._foot is None or self._bars is None:
            return
        if (answer := take_answer()) is not None:
            self._foot.lift(answer)
        if not now and time.monotonic() - self._drawn < SECONDS_BETWEEN_FRAMES:
            return
        self._drawn = time.monotonic()
        self._foot.draw(self._frame(self._foot.console, self._bars))

    def _frame(self, console: Console, bars: Progress) -> RenderableType:
        """What is drawn, as finished lines: what fails then fails here, and not in whatever logs or prints above it."""
        parts: list[RenderableType] = [bars.get_renderable()]
        if self._figures:
            parts.append(Text(self._figures, overflow="ellipsis", no_wrap=True))
        if self._sample is not None:
            parts.append(_sample_text(*self._sample))
        return SegmentLines(console.render_lines(Group(*parts), pad=False), new_lines=True)


def _sample_text(prompt: str, continuation: str) -> Text:
    """Format the first lines of a sample, the prompt in bold, with control characters escaped."""
    shown = Text.assemble(
        (_lines(prompt[:SAMPLE_CHARACTERS]), "bold"), " ", _lines(continuation[:SAMPLE_CHARACTERS]), overflow="ellipsis"
    )
    lines = shown.split("\n")
    return Text("\n", no_wrap=True, overflow="ellipsis").join(lines[:SAMPLE_LINES])


def _lines(text: str) -> str:
    return "\n".join(escape_control_characters(line) for line in text.split("\n"))
