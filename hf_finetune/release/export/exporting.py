"""A model exported: made aside, opened again in the target's own runtime, compared with the run, and only then kept."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from hf_finetune.environment import __version__, find_versions
from hf_finetune.errors import ConfigError, Problem
from hf_finetune.files import encode_non_finite, fill_folder_atomically, hash_file, raise_write_errors
from hf_finetune.folders import EXPORT, check_replaceable
from hf_finetune.label_set import Labels
from hf_finetune.models.lengths import get_max_length
from hf_finetune.release.comparison_rows import ComparisonRow, load_comparison_rows
from hf_finetune.release.export.compare import (
    ANSWER_TOKENS,
    Figures,
    Said,
    ask,
    check_near,
    compare,
    warn_of_other_answers,
)
from hf_finetune.release.export.llama.on_the_way import foresee_published, publish
from hf_finetune.release.export.options import ExportOptions, get_own_options
from hf_finetune.release.export.runtimes import Runtime, TransformersClassifier, TransformersLanguageModel
from hf_finetune.release.export.source import Source, describe_weights, load_source, merge_source
from hf_finetune.release.export.targets import TARGETS, Target, Tolerance, Written
from hf_finetune.release.export.template_parity import check_templates, render_by_folder
from hf_finetune.release.merge import explain_unwritten
from hf_finetune.reporting.card import write_card
from hf_finetune.shell import shell_path

logger = logging.getLogger(__name__)

FORMAT = 1


@dataclass(frozen=True, slots=True)
class ExportResult:
    """What was exported, and how far it is from the run; stored as export.json, without `output`."""

    output: str
    target: str
    kind: str
    """language-model or classifier"""
    options: dict[str, Any]
    tolerance: Tolerance
    figures: Figures
    own_figures: dict[str, Any]
    """Of the target itself, such as sizes."""
    templates: dict[str, dict[str, Any]]
    """By who renders the chat template: of how many conversations it makes the prompts of the run."""
    left_out: tuple[str, ...]
    source: dict[str, Any]
    versions: dict[str, str]
    files: dict[str, str] = field(default_factory=dict)
    """By name the sha256 of each that was written."""

    def as_dict(self) -> dict[str, Any]:
        values = asdict(self) | {"figures": self.figures.as_dict() | self.own_figures}
        del values["own_figures"]
        return values


def export_model(path: str, output: str, to: str, options: ExportOptions) -> ExportResult:
    """Export the model in `path`, a run, model, adapter or Hub id, into the folder `output`.

    The folder is written aside, opened again and compared on held-out rows, and then renamed. Raises `ModelError`, and
    leaves no `output`, if it differs by more than the tolerance, `ConfigError` if `output` may not be replaced, and
    `CannotWriteError` if it cannot be written. Call `check_export` first.
    """
    target, exporter, place = TARGETS[to], TARGETS[to].load(), Path(output)
    check_replaceable(output, overwrite=options.overwrite)

    def first(config: Any, tokenizer: Any) -> None:
        exporter.check(foresee_published(config, target.architectures, path), tokenizer, options, path)

    source = load_source(path, options.base, options.trust_chat_template, first)
    _check_place(place, source)
    rows = _load_rows(source, options)
    logger.info("asking the model as it was trained")
    # Before an adapter is merged: what was trained is the base with the adapter beside it.
    run = ask(_open_run(source), rows, source.labels, margins=True)
    source, passed = publish(merge_source(source), target.architectures)
    try:
        check = partial(check_replaceable, output, overwrite=options.overwrite)
        with raise_write_errors(), fill_folder_atomically(place, check) as aside:
            aside.mkdir(parents=True)
            logger.info("writing %s", shell_path(output))
            written = _compare_templates(source, exporter.write(source, aside, options), aside)
            # All that is asked of the source later, since its weights are given back before the export is opened.
            facts, folder, labels = describe_weights(source), source.folder, source.labels
            del source  # a machine that just holds one model does not hold two
            export = _ask_export(exporter.open_runtime(aside, options), rows, labels)
            result = _describe(
                output, to, target, options, compare(run, export, rows, labels), [passed, written], facts, labels
            )
            check_near(result.figures, result.tolerance, output)
            warn_of_other_answers(result.figures, output)
            # After it was opened: what serves the comparison alone is gone by now. By them a push knows its figures.
            files = {file.name: hash_file(file) for file in sorted(aside.iterdir()) if file.is_file()}
            result = replace(result, files=files)
            _write_record(aside, result)
            write_card(aside, made_from=folder, called=place)
    except OSError as problem:
        raise explain_unwritten(problem, output) from problem
    return result


def _check_place(place: Path, source: Source) -> None:
    read = [source.folder, *([Path(source.record.name_or_path)] if source.record else [])]
    # Also where the run lies inside of it: what is replaced is the whole folder.
    if any(place.resolve() == each.resolve() or place.resolve() in each.resolve().parents for each in read):
        what = "the export would take the place of what it is made of"
        raise ConfigError(Problem(what, "name another folder", path=str(place), code="HF707"))


def _load_rows(source: Source, options: ExportOptions) -> list[ComparisonRow]:
    """Load the rows to compare on; those of a language model leave positions for an answer."""
    longest = get_max_length(source.tokenizer, source.config)
    if longest is not None and source.labels is None:
        longest = max(2, longest - ANSWER_TOKENS)
    return load_comparison_rows(
        options.data, source.folder, source.tokenizer, longest, source.labels, most=options.rows
    )


def _open_run(source: Source) -> Runtime:
    if source.labels is not None:
        return TransformersClassifier(source.model, source.decision)
    return TransformersLanguageModel(source.model, source.tokenizer)


def _compare_templates(source: Source, written: Written, folder: Path) -> Written:
    """Hold the prompts of the tokenizer in the exported folder, loaded afresh, against the run's."""
    if source.labels is not None:
        return written
    found = check_templates(source.tokenizer, {"the tokenizer in the export": render_by_folder(folder)})
    return replace(written, templates=(*found, *written.templates))


def _ask_export(runtime: Runtime, rows: Sequence[ComparisonRow], labels: Labels | None) -> Said:
    logger.info("opening it again, and asking it the same")
    try:
        return ask(runtime, rows, labels)
    finally:
        runtime.close()


def _describe(
    output: str,
    to: str,
    target: Target,
    options: ExportOptions,
    figures: Figures,
    steps: Sequence[Written],
    source: dict[str, Any],
    labels: Labels | None,
) -> ExportResult:
    own = target.load().get_tolerance(options)
    return ExportResult(
        output=output,
        target=to,
        kind="language-model" if labels is None else "classifier",
        options=get_own_options(options),
        tolerance=own if options.tolerance is None else Tolerance(own.measure, options.tolerance),
        figures=figures,
        own_figures={name: value for each in steps for name, value in each.figures.items()},
        templates={found.renderer: found.as_dict() for each in steps for found in each.templates},
        left_out=tuple(left for each in steps for left in each.left_out),
        source=source,
        versions={"hf-finetune": __version__, **find_versions(("transformers", "torch", *target.packages))},
    )


def _write_record(folder: Path, result: ExportResult) -> None:
    values = {name: value for name, value in result.as_dict().items() if name != "output"}
    document = json.dumps(
        encode_non_finite({"format": FORMAT, **values}), indent=2, ensure_ascii=False, allow_nan=False
    )
    (folder / EXPORT).write_text(document + "\n", encoding="utf-8")
