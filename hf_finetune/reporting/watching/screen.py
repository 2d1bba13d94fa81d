"""A run in a terminal: a frame that is drawn again and again, or plain lines in a pipe."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from rich.console import Console, ConsoleOptions, Group, RenderResult
from rich.text import Text

from hf_finetune.metric_info import format_metrics
from hf_finetune.privacy import escape_control_characters
from hf_finetune.reporting.page import format_duration
from hf_finetune.reporting.watching.plot import plot_curve
from hf_finetune.reporting.watching.view import RunView

PLOT_ROWS, LABEL_COLUMNS, BAR_COLUMNS = 8, 10, 30
SAMPLE_CHARACTERS, SAMPLE_LINES, FINDINGS = 600, 4, 3
GIB = 2**30
STYLES = {"problem": "red", "warning": "yellow", "good": "green"}


class Frame:
    """What a terminal shows of a run, in as many columns as it has."""

    def __init__(self, view: RunView) -> None:
        self.view = view

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        drawn = _draw(self.view, options.max_width, ascii_only=options.ascii_only)
        yield Group(*(_in_ascii(each) if options.ascii_only else _on_one_line(each) for each in drawn))


def list_facts(view: RunView) -> list[str]:
    """A run in plain lines: how far it is, its last figures, evaluation, sample and verdict."""
    lines = [f"{view.name}: {describe_state(view)}"]
    if view.last:
        lines.append(_describe_last(view))
    if (rate := _describe_rate(view)) != "":
        lines.append(rate)
    if view.evaluation:
        lines.append(_describe_evaluation(view))
    if kept := _describe_kept(view):
        lines.append(kept)
    if view.sample is not None:
        lines += [f"sample at step {view.sample.get('step', 0):,}:", *(f"  {line}" for line in _list_sample(view))]
    lines += [each for each in (view.verdict, view.next_command, *view.problems) if each]
    return list(map(escape_control_characters, lines))


def describe_state(view: RunView) -> str:
    """`running, step 40 of 300 (13%)`."""
    if view.state == "waiting":
        return "nothing is written yet: hf-finetune train RUN.yaml with this output_dir writes here once it trains"
    reached = f"step {view.step:,}" + (f" of {view.max_steps:,}" if view.max_steps else "")
    if view.max_steps:
        reached += f" ({min(1.0, view.step / view.max_steps):.0%})"
    if view.state == "running":
        return f"trained, {reached}; it is measured now" if view.trained else f"running, {reached}"
    if view.state == "stopped":
        why = f" by {escape_control_characters(view.ended)}" if view.ended else ""
        return f"not finished, ended{why} at {reached}"
    return f"finished, {reached}" if view.state == "done" else f"another Trainer's run, {reached}"


def describe_entry(entry: dict[str, float], max_steps: int | None) -> str:
    """One line for an entry of the log, as the run itself says it."""
    width = len(str(max_steps or ""))
    return (
        f"step {int(entry['step']):>{width}}{f'/{max_steps}' if max_steps else ''}  {'  '.join(format_metrics(entry))}"
    )


def _draw(view: RunView, width: int, *, ascii_only: bool) -> Iterator[Text]:
    yield Text(escape_control_characters(view.name), style="bold", no_wrap=True, overflow="crop")
    yield _draw_bar(view, ascii_only=ascii_only)
    yield from _draw_plot(view, width, ascii_only=ascii_only)
    for said in (_describe_last(view) if view.last else "", _describe_rate(view)):
        if said:
            yield Text(said)
    if view.evaluation:
        yield Text(_describe_evaluation(view))
    if kept := _describe_kept(view):
        yield Text(kept, style="dim")
    if view.sample is not None:
        yield Text(f"sample at step {view.sample.get('step', 0):,}", style="dim")
        for line in _list_sample(view):
            yield Text(f"  {line}", no_wrap=True, overflow="crop")
    for level, title in view.findings[:FINDINGS]:
        yield Text.assemble((level, STYLES.get(level, "dim")), f" {escape_control_characters(title)}")
    if view.next_command:
        yield Text(view.next_command)
    for problem in view.problems[:FINDINGS]:
        yield Text(problem, style="yellow")


def _on_one_line(text: Text) -> Text:
    """The text, and without its colors where the files of others have put into it what a terminal would obey."""
    plain = escape_control_characters(text.plain)
    return text if plain == text.plain else Text(plain, no_wrap=True, overflow="crop")


def _in_ascii(text: Text) -> Text:
    """The text without its colors, as a terminal shows it that knows no other letters."""
    plain = text.plain.encode("ascii", "backslashreplace").decode()
    return Text(plain, no_wrap=text.no_wrap, overflow=text.overflow)


def _draw_bar(view: RunView, *, ascii_only: bool) -> Text:
    share = min(1.0, view.step / view.max_steps) if view.max_steps else 0.0
    done = round(share * BAR_COLUMNS)
    full, rest = ("#", "-") if ascii_only else ("━", "╌")
    bar = f"{full * done}{rest * (BAR_COLUMNS - done)}  " if view.max_steps else ""
    return Text(f"{bar}{describe_state(view)}")


def _draw_plot(view: RunView, width: int, *, ascii_only: bool) -> Iterator[Text]:
    values = [value for _, value in view.losses]
    lines = plot_curve(values, max(10, width - LABEL_COLUMNS - 1), PLOT_ROWS, ascii_only=ascii_only)
    known = [value for value in values if value - value == 0]  # finite
    labels = {0: f"{max(known):.4g}", len(lines) - 1: f"{min(known):.4g}"} if lines else {}
    for number, line in enumerate(lines):
        yield Text.assemble((f"{labels.get(number, ''):>{LABEL_COLUMNS}} ", "dim"), line, no_wrap=True, overflow="crop")
    if lines:
        first, last = f"loss, step {view.losses[0][0]:,}", f"{view.losses[-1][0]:,}"
        room = max(1, width - LABEL_COLUMNS - 1 - len(first))
        yield Text(f"{'':>{LABEL_COLUMNS}} {first}{last:>{room}}", style="dim", no_wrap=True, overflow="crop")


def _describe_last(view: RunView) -> str:
    return f"last: {'  '.join(format_metrics(view.last))}"


def _describe_rate(view: RunView) -> str:
    """`0.52 steps/s, 8 min 20 s left, last line 12 s ago`."""
    parts = [f"{view.steps_per_s:.3g} steps/s" if view.steps_per_s else ""]
    parts.append(f"{format_duration(view.left_s)} left" if view.left_s else "")
    parts.append("" if view.written_s is None else f"last line {format_duration(view.written_s)} ago")
    return ", ".join(part for part in parts if part)


def _describe_evaluation(view: RunView) -> str:
    figures = format_metrics(view.evaluation) or ["without a figure"]
    best = f" (best at step {view.best_step:,})" if view.best_step is not None else ""
    return f"evaluation at step {int(view.evaluation['step']):,}: {'  '.join(figures)}{best}"


def _describe_kept(view: RunView) -> str:
    """`checkpoint-100 is kept; 12.5 GiB are free`."""
    parts = [f"{view.checkpoint} is kept" if view.checkpoint else ""]
    parts.append("" if view.free_bytes is None else f"{view.free_bytes / GIB:,.1f} GiB are free")
    return "; ".join(part for part in parts if part)


def _list_sample(view: RunView) -> list[str]:
    sample = view.sample or {}
    texts: Iterable[str] = (str(sample.get(name, ""))[:SAMPLE_CHARACTERS] for name in ("prompt", "continuation"))
    return [escape_control_characters(line) for text in texts for line in text.split("\n")[:SAMPLE_LINES]]
