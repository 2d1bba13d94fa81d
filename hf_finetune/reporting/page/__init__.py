"""report.html: a single page with everything that a run measured; no scripts, no external resources.

blocks.py       what a page is made of: tables, charts, paragraphs
scores.py       figures of each split
labels.py       figures of each label
curves.py       losses and rates over the steps
record.py       what ran, on what, when
comparison.py   several runs beside each other
shared_rows.py  the rows that compared runs share
"""

from __future__ import annotations

import logging
from collections import Counter
from datetime import UTC, datetime
from importlib.resources import files
from itertools import count
from pathlib import Path
from typing import Any

from hf_finetune.metric_info import parse_number
from hf_finetune.pages import hash_style, is_writable_page, make_environment, read_shared_style, save_page
from hf_finetune.reporting.diagnosis import Diagnosis, diagnose
from hf_finetune.reporting.page.blocks import (
    Advice,
    Block,
    Findings,
    Paragraphs,
    Section,
    get_mapping,
    get_objects,
)
from hf_finetune.reporting.page.curves import build_curves
from hf_finetune.reporting.page.labels import build_labels, build_mistakes
from hf_finetune.reporting.page.record import build_data, build_parameters, build_reproduction, build_samples
from hf_finetune.reporting.page.scores import build_headline, build_scores
from hf_finetune.reporting.run_record import RunRecord, read_run
from hf_finetune.shell import shell_path

logger = logging.getLogger(__name__)

PAGE = "report.html"
COMMIT_DIGITS = 10

RECIPES = {
    "continued_pretraining": "Pretraining",
    "classification": "Classification",
    "sft": "Instruction tuning",
    "lora": "LoRA",
    "score": "Scores",
}


def write_page(folder: Path, report: dict[str, Any] | None = None) -> Path:
    """Write report.html into a run folder, from its files (a `report` in place of report.json), and return the path.

    A report.html without our marker is left alone, with a warning. Raises `ConfigError` and `DataError` as `read_run`
    does, and `CannotWriteError`.
    """
    path = folder / PAGE
    if not is_writable_page(path):
        command = f"`hf-finetune report {shell_path(folder)} --output FILE`"
        logger.warning("%s is not a page of ours and stays as it is; %s", path, command, extra={"code": "HF708"})
        return path
    run = read_run(folder, report=report)
    save_page(path, render_page(run, diagnose(run)))
    return path


def render_page(run: RunRecord, diagnosis: Diagnosis, *, reload_s: int | None = None) -> str:
    """Render the HTML page of one run, finished or not. Deterministic; what was not computed is left out.

    With `reload_s` a browser reads the page anew after so many seconds.
    """
    sections = (
        Section(
            "verdict", "Verdict", (*build_verdict(run, diagnosis), *build_headline(run), *_build_findings(diagnosis))
        ),
        Section("curves", "Curves", tuple(build_curves(run))),
        Section("scores", "Scores", tuple(build_scores(run))),
        Section("labels", "Labels", tuple(build_labels(run))),
        Section("samples", "Before and after", tuple(build_samples(run))),
        Section("mistakes", "Mistakes", tuple(build_mistakes(run))),
        Section("data", "Data", tuple(build_data(run))),
        Section("parameters", "Parameters", tuple(build_parameters(run))),
        Section("again", "Do it again", tuple(build_reproduction(run))),
    )
    recipe = run.report.get("recipe") or run.settings.get("recipe")
    lines = [build_facts_line(run), build_origin_line(run)]
    return render(run.name, _describe_kind(run, recipe), lines, sections, reload_s=reload_s)


def _describe_kind(run: RunRecord, recipe: Any) -> str:
    named = RECIPES.get(recipe, "Training run") if isinstance(recipe, str) else "Training run"
    unfinished = {"running": f"{named}, running", "stopped": f"{named}, not finished"}
    return {"done": named, "foreign": "Run of another Trainer", **unfinished}[run.status]


def build_verdict(run: RunRecord, diagnosis: Diagnosis) -> list[Block]:
    """The verdict of the diagnosis, on the model before its log, and a warning if the run has not finished."""
    log = diagnosis.verdict.removeprefix(diagnosis.model).strip()
    said = [Paragraphs((diagnosis.model,)), Paragraphs((log,), tone="second")] if diagnosis.model else []
    said = said or [Paragraphs((diagnosis.verdict,))]
    if not run.unfinished:
        return [*said]
    far = f"step {run.step:,}" + (f" of {run.max_steps:,}" if run.max_steps else "")
    unfinished = f"This run is not finished. It is shown as far as it got, which is {far}."
    if run.status == "running":
        unfinished = f"This run is not finished, and seems to be running. It is shown as far as it is, which is {far}."
    return [*said, Paragraphs((unfinished,), tone="warning")]


def _build_findings(diagnosis: Diagnosis) -> list[Block]:
    found = []
    for finding in diagnosis.findings:
        if finding.level == "good" and diagnosis.model.startswith(f"{finding.title}:"):
            continue  # the first sentence of the page
        lines = (("evidence", finding.evidence), ("likely cause", finding.cause), ("try next", finding.remedy))
        found.append(Advice(finding.level, finding.title, tuple(line for line in lines if line[1])))
    return [Findings(tuple(found))] if found else []


def build_facts_line(run: RunRecord) -> list[str]:
    """Steps, epochs, time, speed and trained parameters: the parts of the line under the title."""
    train, counts = get_mapping(run.report.get("train")), get_mapping(run.report.get("parameters"))
    epochs, seconds = parse_number(train.get("epochs")), parse_number(train.get("runtime_s"))
    tokens = parse_number(get_mapping(train.get("seen")).get("tokens"))
    speed, trainable = parse_number(train.get("tokens_per_s")), parse_number(counts.get("trainable"))
    line = [f"{run.step:,} steps" if run.history or run.step else ""]
    line.append("" if epochs is None else f"{epochs:.3g} epochs")
    line.append("" if tokens is None else f"{tokens:,.0f} tokens seen")
    line.append("" if seconds is None else format_duration(seconds))
    line.append("" if not speed else f"{speed:,.0f} tokens/s")
    line.append("" if trainable is None else f"{trainable:,.0f} parameters trained")
    return [part for part in line if part]


def build_origin_line(run: RunRecord) -> list[str]:
    """When, by which version, from which commit of the user's project, and on what: the second line under the title."""
    versions, project = get_mapping(run.manifest.get("versions")), get_mapping(run.manifest.get("project"))
    devices = get_objects(get_mapping(run.report.get("environment")).get("devices"))
    kind = get_mapping(run.report.get("distributed")).get("device")
    names = [str(each["name"]) for each in devices if each.get("name") and each.get("kind", kind) == kind]
    line = [_format_date(run.manifest.get("date"))]
    line.append(f"hf-finetune {versions['hf-finetune']}" if "hf-finetune" in versions else "")
    if isinstance(project.get("commit"), str):
        changes = ", with changes" if project.get("changed") is True else ""
        line.append(f"commit {project['commit'][:COMMIT_DIGITS]}{changes}")
    line.append(", ".join(f"{count} x {name}" if count > 1 else name for name, count in Counter(names).items()))
    return [part for part in line if part]


def _format_date(value: Any) -> str:
    """`29 November 2026, 02:12 UTC`; "" for what is no date."""
    try:
        began = datetime.fromisoformat(str(value)).astimezone(UTC)
    except (ValueError, OverflowError):
        return ""
    return f"{began.day} {began:%B %Y, %H:%M} UTC"


def format_duration(seconds: float) -> str:
    """Format seconds as `45 s`, `3 min 10 s` or `2 h 5 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600:,} h {whole % 3600 // 60} min"


def render(
    title: str, kind: str, lines: list[list[str]], sections: tuple[Section, ...], *, reload_s: int | None = None
) -> str:
    """Render sections as HTML, without those that have no blocks; `lines` are the parts of those under the title.

    All text is escaped, invisible characters too.
    """
    # The policy in the page allows this one style sheet, by its hash, and nothing else: a run's texts are untrusted.
    css = read_shared_style() + _read_template("report.css")
    return str(
        make_environment(_read_template)
        .get_template("report.html.j2")
        .render(
            title=title,
            kind=kind,
            lines=[line for line in lines if line],
            sections=[section for section in sections if section.blocks],
            reload_s=reload_s,
            css=css,
            css_hash=hash_style(css),
            next_number=count(1).__next__,
        )
    )


def _read_template(name: str) -> str:
    return (files("hf_finetune.reporting") / "templates" / name).read_text(encoding="utf-8")
