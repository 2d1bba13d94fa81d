"""`hf-finetune score`: evaluate a saved model on rows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from hf_finetune.cli.terminal import (
    Columns,
    Json,
    Model,
    MoreColumns,
    OnBadLine,
    Trust,
    announce,
    parse_columns,
    parse_labels,
    print_json,
    say,
)

if TYPE_CHECKING:
    from hf_finetune.evaluation import ScoreResult


Rows = Annotated[str, typer.Argument(help="A file of rows in any of our formats: JSONL, a table or text.")]
Base = Annotated[bool, typer.Option("--base", help="Score what it was tuned from, too, and compare.")]
OtherBase = Annotated[str | None, typer.Option("--base-path", help="Compare with this model.")]
By = Annotated[list[str] | None, typer.Option(help="A field by whose values metrics are broken down. Repeatable.")]
GroupBy = Annotated[str | None, typer.Option(help="Rows of one value belong together; default: as its run has it.")]
Forget = Annotated[str | None, typer.Option(help="Rows of a task of the base: did it forget it?")]
Swaps = Annotated[list[str] | None, typer.Option(help="Swap words: gender, names, religion or origin. Repeatable.")]
Canaries = Annotated[str | None, typer.Option(help="The file of canaries that it was trained on.")]
TrainData = Annotated[str | None, typer.Option(help="Its training rows, for --verbatim-prefix.")]
Prefix = Annotated[int | None, typer.Option(min=1, help="Tokens of a training row that it is given to continue.")]
Harness = Annotated[list[str] | None, typer.Option(help="A task of lm-evaluation-harness. Repeatable.")]
MaxNewTokens = Annotated[int, typer.Option(min=1, help="Of an answer.")]
BatchSize = Annotated[int, typer.Option(min=1, help="Rows that are scored or answered at once.")]
GenerateRows = Annotated[int | None, typer.Option(min=0, help="Answer so many rows, drawn at random; 0: none.")]
RowFormat = Annotated[str, typer.Option("--format", help="How rows are read, as data.format: lines for a text file.")]
Labels = Annotated[
    list[str] | None,
    typer.Option(metavar="LABEL=NAME", help="The model's NAME of a LABEL of the rows. Repeatable; default: its run's."),
]
Record = Annotated[str | None, typer.Option(metavar="NAME", help="Add it to the run's own report and card, as NAME.")]


def score(
    model: Model,
    data: Rows,
    more: MoreColumns = None,
    base: Base = False,
    base_path: OtherBase = None,
    by: By = None,
    group_by: GroupBy = None,
    forget: Forget = None,
    swaps: Swaps = None,
    canaries: Canaries = None,
    train_data: TrainData = None,
    verbatim_prefix: Prefix = None,
    harness: Harness = None,
    max_new_tokens: MaxNewTokens = 64,
    batch_size: BatchSize = 16,
    generate_rows: GenerateRows = None,
    row_format: RowFormat = "auto",
    columns: Columns = None,
    label: Labels = None,
    on_bad_line: OnBadLine = "fail",
    trust_chat_template: Trust = None,
    record: Record = None,
    as_json: Json = False,
) -> None:
    """Evaluate a model on rows that it was not trained on: metrics with intervals, compared with its base if asked."""
    settings: dict[str, Any] = {"base": base_path or base, "temperature": 0.0}
    settings |= {"by": by, "forget": forget, "swaps": swaps, "canaries": canaries, "harness": harness}
    settings |= {"verbatim_prefix": verbatim_prefix, "generate_rows": generate_rows}
    settings |= {"max_new_tokens": max_new_tokens, "batch_size": batch_size}
    rows = {"test": data, "train": train_data, "format": row_format, "columns": parse_columns(columns, more)}
    rows |= {"group_by": group_by, "on_bad_line": on_bad_line, "labels": parse_labels(label)}
    rows |= {"trust_chat_template": trust_chat_template}
    scored = _score_model(model, rows, settings, record)
    if as_json:
        print_json(scored.evaluation)
    else:
        _print_metrics(scored.evaluation)


def _score_model(model: str, data: dict[str, Any], settings: dict[str, Any], record: str | None) -> ScoreResult:
    from hf_finetune.config import PLACEHOLDER, build_run, check_saved_model

    check_saved_model(model, "score")  # before torch is imported
    values = {"model": {"path": model}, "data": data, "eval": settings, "output_dir": PLACEHOLDER}
    run = build_run(values, "score")
    from hf_finetune.data import check_scored_rows

    check_scored_rows(run)
    announce(model)
    from hf_finetune.environment import init_processes, set_up_logging
    from hf_finetune.evaluation import load_scored_rows
    from hf_finetune.evaluation import score_model as measure
    from hf_finetune.interruption import unwind_when_stopped
    from hf_finetune.models import pin_scored
    from hf_finetune.reporting import check_recordable, record_scores

    # Under `accelerate launch`, and before a model is loaded: each process takes its share of the rows.
    init_processes()
    set_up_logging()
    unwind_when_stopped()
    pin_scored(run)
    # Refused now, not after an hour of scoring.
    if record is not None:
        check_recordable(model, record)
    scored = measure(run, load_scored_rows(run))
    if record is not None:
        record_scores(model, record, scored.evaluation)
    return scored


def _print_metrics(found: dict[str, Any]) -> None:
    from hf_finetune.metric_info import (
        format_interval,
        format_metric,
        get_metric_info,
        list_missing_intervals,
        select_metrics,
    )

    figures = select_metrics(found)
    titles = {name: get_metric_info(name).title for name in figures}
    width = max(map(len, titles.values()))
    say(f"{'rows':>{width}}  {found['rows']:>10,}  {_count_answered(found)}".rstrip())
    for name, value in figures.items():
        interval = format_interval(name, found.get("intervals", {}).get(name))
        say(f"{titles[name]:>{width}}  {format_metric(name, value):>10}  {interval}".rstrip())
    if missing := list_missing_intervals(found):
        say()
        say("no interval")
        for line in missing:
            say(f"  {line}")
    for title, words in _list_findings(found):
        say()
        say(title)
        for line in words:
            say(f"  {line}")


def _count_answered(found: dict[str, Any]) -> str:
    """`12 of them answered`, where metrics of answers are of fewer rows than the others; else ""."""
    answered = found.get("decoding", {}).get("rows", found["rows"])
    return f"{answered:,} of them answered" if answered < found["rows"] else ""


def _find_change(line: str) -> str:
    """`6.18 -> 5.64` of `loss: 6.18 -> 5.64, better by 0.540 ...`, which the verdict says already."""
    return line.partition(": ")[2].partition(", ")[0]


def _list_findings(found: dict[str, Any]) -> list[tuple[str, list[str]]]:
    """List the findings that are sentences, each part under its heading."""
    parts = []
    if words := found.get("seen_rows", {}).get("words"):
        parts.append(("rows that were trained", [*words, *found["seen_rows"].get("places", [])]))
    if "comparison" in found:
        compared = found["comparison"]
        said = compared["verdict"]
        more = [line for line in compared["words"] if " -> " not in line or _find_change(line) not in said]
        parts.append((f"beside {compared['base']}", [compared["verdict"], *more]))
    if "forgetting" in found:
        parts.append((f"on {found['forgetting']['data']}", found["forgetting"]["words"]))
    for field, slices in found.get("slices", {}).items():
        few = f"none of {len(slices['values']):,} values has as many rows as a figure needs"
        parts.append((f"by {field}", [gap["words"] for gap in slices["gaps"]] or [few]))
    for name, effect in found.get("swaps", {}).items():
        parts.append((f"with words of the list {name} swapped in {effect['rows']:,} rows", effect["words"]))
    if "memorization" in found:
        parts.append(("memorization", found["memorization"]["words"]))
    for task, figures in found.get("harness", {}).items():
        parts.append((f"task {task} of the harness", [f"{name} {value:.4g}" for name, value in figures.items()]))
    return parts
