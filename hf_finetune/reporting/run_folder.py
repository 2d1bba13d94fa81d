"""Write the records of a run folder: report.json, run.yaml, manifest.json."""

from __future__ import annotations

import atexit
import json
import logging
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from hf_finetune.errors import CannotWriteError, ConfigError, DataError, ModelError, Problem
from hf_finetune.files import write_atomically
from hf_finetune.folders import (
    LOG,
    MANIFEST,
    REPORT,
    RUN_FILE,
    check_run_folder,
    find_earlier_run,
    is_run_folder,
    make_run_folder,
    read_manifest,
    remove_empty,
)
from hf_finetune.folders.lock import check_not_in_use, held_run_folder
from hf_finetune.folders.opened import Opened, forget, recall, remember
from hf_finetune.folders.record_kinds import show_key
from hf_finetune.privacy import OF_LINES, redact
from hf_finetune.ranks import is_first_rank
from hf_finetune.reporting.files import format_json, hash_files
from hf_finetune.reporting.summary import format_summary

logger = logging.getLogger(__name__)

# Of the packages that a run names; a manifest of others may name any number.
MOST_VERSIONS = 30


@dataclass(frozen=True)
class RunReport:
    """The content of `report.json`; metrics that were not computed are absent, never zero."""

    recipe: str
    run_id: str
    status: str
    settings: dict[str, Any]
    data: dict[str, Any]
    parameters: dict[str, Any]
    train: dict[str, Any]
    evaluation: dict[str, Any]
    samples: list[dict[str, Any]] = field(default_factory=list)
    distributed: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, Any] = field(default_factory=dict)
    findings: list[dict[str, Any]] = field(default_factory=list)
    """What was found in the rows as the run began: code, level, what, split and count of each."""


def say_folder_outside(output_dir: str) -> None:
    """Log where a run is written if that is outside the working folder: a run file of others may name any place."""
    folder = Path(output_dir).resolve()
    if not folder.is_relative_to(Path.cwd().resolve()):
        logger.info("the run is written into %s, outside the working folder (output_dir)", folder)


def claim_run_folder(output_dir: str, *, resume: str | bool | None) -> None:
    """Make the folder of a run; one that holds another run's files is refused unless that run is resumed.

    One that holds anything else is refused always: a run writes over what is in its folder. Raises `ConfigError`, or
    `CannotWriteError` where the folder cannot be made.
    """
    folder = Path(output_dir)
    if not resume and (earlier := find_earlier_run(output_dir)) is not None:
        raise ConfigError(Problem(*earlier, key="output_dir", code="HF691"))
    check_run_folder(output_dir, folder, resuming=bool(resume))
    new = make_run_folder(output_dir)
    forget(folder)
    if is_first_rank():
        atexit.register(remove_empty, new)  # of a run that is refused by what it reads next


def open_manifest(output_dir: str, manifest: dict[str, Any], run_file: str, *, resume: str | bool | None) -> None:
    """Write manifest.json and run.yaml before training starts, so that a run that crashes is traceable too.

    Raises `DataError` where a data file or the split of a resumed run has changed, naming each file, and
    `ModelError` where its model or tokenizer has.
    """
    path, manifest = Path(output_dir) / MANIFEST, redact(manifest)
    # One that is torn is written anew, as one that is missing.
    if resume and (began := redact(read_manifest(path.parent))):
        _check_same(began, manifest)
        _say_other_machine(began, manifest)
        # The model of a finished run that is trained on stays in the folder until the new one takes its place.
        manifest |= {"files": began["files"]} if "files" in began else {}
    if not resume:
        path.with_name(LOG).unlink(missing_ok=True)  # of a run that failed here
    write_atomically(path, format_json(manifest))
    write_atomically(path.with_name(RUN_FILE), run_file)
    remember(path.parent, Opened(manifest, run_file))


def _check_same(began: dict[str, Any], now: dict[str, Any]) -> None:
    """Raise if a resumed run would read other data, split it differently, or start from another model."""
    before, after = _list_files(began), _list_files(now)
    if changed := _describe_changed_files(before, after):
        raise DataError(changed)
    if _are_renamed_and_reordered(before, after):
        what = "the files have other names, by which they are read in another order than when the run began"
        raise DataError(Problem(what, "name them in the order of run.yaml", key="data", code="HF902"))
    names = [of.get("data", {}).get("labels", {}) for of in (began, now)]
    if names[0] != names[1]:
        what = "is not what it was when the run began"
        remedy = "set it as it was (see run.yaml), or start a new run in another output_dir"
        raise DataError(Problem(what, remedy, key="data.labels", code="HF902"))
    rows = [
        {name: each.get("sha256") for name, each in of.get("data", {}).get("splits", {}).items()} for of in (began, now)
    ]
    if rows[0] != rows[1]:
        what = "the rows are split in another way than when the run began"
        raise DataError(
            Problem(what, "set train.seed and the section data as they were: see run.yaml", key="data", code="HF902")
        )
    for key, model in (("model.path", "model"), ("model.tokenizer", "tokenizer"), ("model.adapter", "adapter")):
        one, other = (_get_source(each, model) for each in (began, now))
        if one is not None and _get_identity(one) != _get_identity(other or {}):
            what = f"the {model} is not the one that the run began with ({_name_revision(one)})"
            put = "name that commit in model.revision, or put its files back"
            raise ModelError(
                Problem(what, put if model == "model" else "name a folder that holds it", key=key, code="HF903")
            )


def _say_other_machine(began: dict[str, Any], now: dict[str, Any]) -> None:
    """Warn where a run goes on under other versions, on another machine or with other processes than it began with."""
    versions = [of.get("versions", {}) for of in (began, now)]
    changed = [
        f"{show_key(name)} {show_key(before)} -> {versions[1].get(name, 'none')}"
        for name, before in list(versions[0].items())[:MOST_VERSIONS]
        if before != versions[1].get(name)
    ]
    if began.get("processes", now.get("processes")) != now.get("processes"):
        changed.append(f"processes {began['processes']} -> {now['processes']}")
    if began.get("machine", now.get("machine")) != now.get("machine"):
        changed.append("a machine with other devices or instructions")
    if changed:
        what = "since the run began, this has changed: %s; it is not bit for bit one that was not interrupted"
        logger.warning(what, ", ".join(changed), extra={"code": "HF911"})


def _describe_changed_files(before: list[dict[str, Any]], after: list[dict[str, Any]]) -> list[Problem]:
    """Name the files whose content only one of two manifests has, or more often: whatever they are called."""
    # Not by name, which others may change; which file is which split's is seen by the rows of each.
    counts = [Counter(file["sha256"] for file in files) for files in (before, after)]
    differ = {content for content in counts[0] | counts[1] if counts[0][content] != counts[1][content]}
    names = [{Path(file["path"]).name for file in files} for files in (before, after)]
    problems = {}
    for file in (*before, *after):
        name = Path(file["path"]).name
        if file["sha256"] in differ:
            then, now = name in names[0], name in names[1]
            what = "has changed since the run began" if then and now else "was not read when the run began"
            what = what if now else "was read when the run began, and is not any more"
            remedy = "put it back as it was, or start a new run in another output_dir"
            if not (then and now):
                remedy = "name the files of data as they were (see run.yaml), or start a new run in another output_dir"
            problems[file["path"]] = Problem(what, remedy, show_key(file["path"]), code="HF902")
    return list(problems.values())


def _list_files(manifest: dict[str, Any]) -> list[dict[str, Any]]:
    """The data files of a manifest; one of others may have entries without a name or a sum."""
    return [each for each in manifest.get("data", {}).get("files", []) if {"path", "sha256"} <= each.keys()]


def _are_renamed_and_reordered(before: list[dict[str, Any]], after: list[dict[str, Any]]) -> bool:
    # Rows in another order are another run. That of the same names is asked about before (`config.changes`).
    contents = [[file["sha256"] for file in files] for files in (before, after)]
    names = [sorted(Path(file["path"]).name for file in files) for files in (before, after)]
    return contents[0] != contents[1] and names[0] != names[1]


def _get_source(manifest: dict[str, Any], model: str) -> dict[str, Any] | None:
    source: dict[str, Any] | None = manifest.get("model")
    return source.get(model) if source is not None and model != "model" else source


def _name_revision(source: dict[str, Any]) -> str:
    return show_key(source.get("revision") or "its files differ")


def _get_identity(source: dict[str, Any]) -> tuple[Any, ...]:
    """What identifies a model: the file hashes of a local folder, whatever its path; name and commit on the Hub."""
    files = source.get("sha256")
    return (
        ("folder", sorted(files.items(), key=str))
        if isinstance(files, dict) and files
        else (source.get("name"), source.get("revision"))
    )


def write_run_folder(output_dir: str, report: RunReport, found: Mapping[str, Any] | None = None) -> None:
    """Add the file hashes to the manifest, write report.json, report.html and the model card; log the summary.

    What is `found` goes into the manifest, too. Each file is written to a temporary name and renamed. report.json marks
    the run as finished, and comes last; the others can be written again from it. Raises what
    `write_page` and `write_card` raise, and `CannotWriteError` where the folder is gone.
    """
    folder = Path(output_dir)
    manifest = {**_bring_back_records(folder), **(found or {}), "files": hash_files(folder)}
    report = replace(report, findings=manifest.get("findings", []))
    write_atomically(folder / MANIFEST, format_json(manifest))
    content = format_json(redact(asdict(report)))
    _write_for_readers(folder, json.loads(content))
    write_atomically(folder / REPORT, content, private=True)
    logger.info("%s", format_summary(asdict(report), output_dir), extra=OF_LINES)


def _bring_back_records(folder: Path) -> dict[str, Any]:
    """The manifest of the run that ends now. Where it or run.yaml has vanished meanwhile, it is as it was opened."""
    if not folder.is_dir():
        what = f"{folder} is not there any more, nor what was saved in it"
        raise CannotWriteError(Problem(what, "put it back and begin again", key="output_dir", code="HF709"))
    manifest, opened = read_manifest(folder), recall(folder)
    if opened is None:
        return manifest
    if not (folder / RUN_FILE).exists():
        logger.warning("%s is not there any more: it is written again", folder / RUN_FILE, extra={"code": "HF913"})
        write_atomically(folder / RUN_FILE, opened.run_file)
    if not manifest:
        logger.warning(
            "%s is torn, or not there any more: it is written again", folder / MANIFEST, extra={"code": "HF913"}
        )
    return manifest or dict(opened.manifest)


def record_scores(output_dir: str, name: str, evaluation: dict[str, Any]) -> None:
    """Store an evaluation of `score` as `evaluation.<name>` in a finished run, and update its report and model card.

    Raises as `check_recordable` does, and `FolderInUse` where a run holds the folder.
    """
    check_recordable(output_dir, name)
    folder = Path(output_dir)
    with held_run_folder(output_dir):
        report = json.loads((folder / REPORT).read_text(encoding="utf-8"))
        report["evaluation"] = report["evaluation"] | {name: evaluation}
        write_atomically(folder / REPORT, format_json(redact(report)), private=True)
        _write_for_readers(folder)
    logger.info("%s: the report and the model card have it as %s", output_dir, name)


def check_recordable(output_dir: str, name: str) -> None:
    """Raise `ConfigError` if `name` is not a valid name, is a split of the run itself, or the run has not finished."""
    if not re.fullmatch(r"[\w.-]{1,64}", name):
        what = f"{name!r} is not a name for an evaluation"
        raise ConfigError(
            Problem(what, "use letters, digits, dots, dashes and underscores", key="--record", code="HF603")
        )
    check_not_in_use(output_dir)
    path = Path(output_dir) / REPORT
    if not path.is_file() or not is_run_folder(path.parent):
        what = f"there is no {REPORT} of a finished run to add the metrics to"
        raise ConfigError(Problem(what, "leave --record out", path=output_dir, code="HF956"))
    measured = json.loads(path.read_text(encoding="utf-8"))["evaluation"].get(name, {})
    if measured and "data" not in measured:
        raise ConfigError(
            Problem(
                f"the run measured {name} itself", "record the metrics under another name", key="--record", code="HF956"
            )
        )


def _write_for_readers(folder: Path, report: dict[str, Any] | None = None) -> None:
    """Write report.html and, if the folder holds a model, its card; `report` is a report.json to be written yet."""
    # Imported here: Jinja and scipy are not needed until training is over.
    from hf_finetune.reporting.card import write_card
    from hf_finetune.reporting.page import write_page

    write_page(folder, report)
    if (folder / "config.json").exists() or (folder / "adapter_config.json").exists():
        write_card(folder, report=report)
