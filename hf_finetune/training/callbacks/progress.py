"""Progress of training in a terminal: a bar, the latest metrics, the time left, and the last sample."""

from __future__ import annotations

import atexit
import logging
import sys
import time
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from hf_finetune.privacy import escape_control_characters
from hf_finetune.training.callbacks.metrics_line import figures_in_words

SECONDS_BETWEEN_FRAMES = 0.1
SAMPLE_LINES = 4
SAMPLE_CHARACTERS = 600


class ProgressDisplay(TrainerCallback):
    """A display at the foot of the terminal while a run trains or evaluates; log lines scroll above it.

    For the main process only. It is drawn by the callbacks: a thread could be forked into a data loader's workers in
    the middle of a write.
    """

    def __init__(self, console: Console) -> None:
        self.console = console
        self._figures = ""
        self._sample: tuple[str, str] | None = None
        self._live: Live | None = None
        self._bars = Progress()
        self._rows: dict[str, Any] = {}
        self._training = False
        self._drawn = 0.0
        self._moved: list[tuple[logging.StreamHandler[Any], Any]] = []

    def show_sample(self, prompt: str, continuation: str) -> None:
        """Show the latest sample until the next one."""
        self._sample = (prompt, continuation)
        self._draw(now=True)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._training = True
        self._bar("training", state.max_steps, state.global_step)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._bar("training", state.max_steps, state.global_step)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        words = figures_in_words(logs or {})
        if words:
            self._figures = "  ".join(words)
            self._draw(now=True)

    def on_prediction_step(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        eval_dataloader: Any = None,
        **kwargs: Any,
    ) -> None:
        done = self._bars.tasks[self._rows["evaluating"]].completed if "evaluating" in self._rows else 0
        self._bar("evaluating", len(eval_dataloader), int(done) + 1)

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._evaluated()

    def on_predict(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, metrics: Any, **kwargs: Any
    ) -> None:
        self._evaluated()

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._training = False
        self.stop()

    def stop(self) -> None:
        """Leave the last frame on the screen, and restore the terminal."""
        if self._live is None:
            return
        live, self._live = self._live, None
        live.update(self._frame())
        live.stop()
        for handler, stream in self._moved:
            handler.setStream(stream)
        self._figures, self._sample = "", None
        atexit.unregister(self.stop)

    def _evaluated(self) -> None:
        if "evaluating" in self._rows:
            self._bars.remove_task(self._rows.pop("evaluating"))
        if self._training:
            self._draw(now=True)
        else:
            self.stop()

    def _bar(self, name: str, total: int, done: int) -> None:
        self._start()
        if name not in self._rows:
            self._rows[name] = self._bars.add_task(name, total=total, completed=done)
        self._bars.update(self._rows[name], total=total, completed=done)
        self._draw(now=done >= total)

    def _start(self) -> None:
        if self._live is not None:
            return
        columns = (TextColumn("{task.description}"), MofNCompleteColumn(), BarColumn())
        times = (TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn())
        self._bars, self._rows = Progress(*columns, *times, console=self.console), {}
        self._live = Live(
            self._frame(),
            console=self.console,
            auto_refresh=False,
            redirect_stdout=sys.stdout.isatty(),
            transient=False,
        )
        self._live.start()
        self.console.show_cursor(True)  # where the process is killed it would stay hidden
        atexit.register(self.stop)
        # Handlers write to the terminal as they found it, through the middle of the frame.
        handlers = [each for each in logging.getLogger().handlers if isinstance(each, logging.StreamHandler)]
        terminals = (sys.__stderr__, sys.__stdout__)
        self._moved = [(each, each.stream) for each in handlers if each.stream in terminals]
        for handler, stream in self._moved:
            handler.setStream(sys.stderr if stream is sys.__stderr__ else sys.stdout)

    def _draw(self, *, now: bool = False) -> None:
        if self._live is None or (not now and time.monotonic() - self._drawn < SECONDS_BETWEEN_FRAMES):
            return
        self._drawn = time.monotonic()
        self._live.update(self._frame(), refresh=True)

    def _frame(self) -> RenderableType:
        parts: list[RenderableType] = [self._bars.get_renderable()]
        if self._figures:
            parts.append(Text(self._figures, overflow="ellipsis", no_wrap=True))
        if self._sample is not None:
            parts.append(_sample_text(*self._sample))
        return Group(*parts)


def _sample_text(prompt: str, continuation: str) -> Text:
    """Format the first lines of a sample, the prompt in bold, with control characters escaped."""
    shown = Text.assemble(
        (_lines(prompt[:SAMPLE_CHARACTERS]), "bold"), " ", _lines(continuation[:SAMPLE_CHARACTERS]), overflow="ellipsis"
    )
    lines = shown.split("\n")
    return Text("\n", no_wrap=True, overflow="ellipsis").join(lines[:SAMPLE_LINES])


def _lines(text: str) -> str:
    return "\n".join(escape_control_characters(line) for line in text.split("\n"))
