"""Files as they are sent: paths of this machine are taken out of them, and the folder stays as it is."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from hf_finetune.errors import DataError, Problem
from hf_finetune.folders import EXPORT, MANIFEST, REPORT, RUN_FILE
from hf_finetune.pages import is_writable_page
from hf_finetune.privacy import leave_out_row_prompts, make_portable, redact, redact_yaml
from hf_finetune.release.hub.files import PlannedFile
from hf_finetune.release.hub.search.places import Found, check_no_home
from hf_finetune.reporting.diagnosis import diagnose
from hf_finetune.reporting.files import format_json
from hf_finetune.reporting.page import PAGE, render_page
from hf_finetune.reporting.run_record import read_run

# Of the files that are read when a model is loaded only these keys may hold a path; labels and patterns stay.
_MODEL_FILES = ("config.json", "adapter_config.json", "base_model.json", "tokenizer_config.json")
_PLACES = re.compile(r"_?(?:base_model_)?name_or_path|tokenizer_file|special_tokens_map_file")
_NOTE = "# Of each path outside the working folder only the last part is left: name its place before a run.\n"


def redact_files(folder: Path, files: Sequence[PlannedFile], found: Found) -> list[PlannedFile]:
    """Redact the texts among `files` of `folder`; the manifest that is sent has the hashes of what is sent.

    `found` is what `check_secrets` has found in them. Raises `DataError` for a file that is torn, or that names a
    folder of this machine where nothing may be changed.
    """
    sent = {file.name: _redact_file(file) for file in files}
    changed = {file.name for file in files if sent[file.name].sha256 != file.sha256}
    # The page has the same in it: paths of a run of an older version, places of rows that were trained, questions of
    # its rows.
    if changed & {REPORT, MANIFEST} and PAGE in sent and is_writable_page(folder / PAGE):
        run = read_run(folder)
        run = replace(run, report=_without_places(leave_out_row_prompts(run.report)))
        sent[PAGE] = _with_content(sent[PAGE], render_page(run, diagnose(run)))
    for record in {MANIFEST, EXPORT} & set(sent):
        sent[record] = _with_hashes(sent[record], {name: sent[name].sha256 for name in changed})
    check_no_home(sent.values(), found)
    return list(sent.values())


def _redact_file(file: PlannedFile) -> PlannedFile:
    if file.content is None:
        return file
    if file.name == RUN_FILE:
        text = file.content.decode("utf-8", errors="replace")
        shown = redact_yaml(text)
        if shown is None:
            raise DataError(
                Problem("is torn, or no YAML", "put it back as the run wrote it", path=str(file.path), code="HF821")
            )
        return file if shown == text else _with_content(file, _NOTE + shown)
    if file.name == MANIFEST:
        return _redact_json(file, lambda values: redact(_without_row_hashes(values)))
    if file.name == REPORT:
        return _redact_json(file, lambda values: redact(_without_places(leave_out_row_prompts(values))))
    return _redact_json(file, _redact_places) if file.name in _MODEL_FILES else file


def _without_row_hashes(manifest: Any) -> Any:
    """`manifest` of an older version without the hashes of single rows: by them a guessed row can be confirmed."""
    if isinstance(manifest, dict):
        return {key: _without_row_hashes(item) for key, item in manifest.items() if key != "row_hashes"}
    return [_without_row_hashes(item) for item in manifest] if isinstance(manifest, list) else manifest


def _without_places(report: Any) -> Any:
    """`report` without the places of rows that were trained: of a public file they would tell which."""
    if not isinstance(report, dict):
        return [_without_places(item) for item in report] if isinstance(report, list) else report
    kept = {key: _without_places(item) for key, item in report.items()}
    if isinstance(kept.get("seen_rows"), dict):
        kept["seen_rows"].pop("places", None)
    return kept


def _redact_json(file: PlannedFile, change: Callable[[Any], Any]) -> PlannedFile:
    try:
        values = json.loads(file.content or b"")
        shown = change(values)
    except (ValueError, RecursionError) as problem:
        raise DataError(
            Problem("is torn, or no JSON", "save the model again", path=str(file.path), code="HF821")
        ) from problem
    return file if shown == values else _with_content(file, format_json(shown))


def _redact_places(value: Any) -> Any:
    if isinstance(value, dict):
        places = {key: _redact_place(item) for key, item in value.items() if _is_place(key, item)}
        return {key: _redact_places(item) for key, item in value.items()} | places
    return [_redact_places(item) for item in value] if isinstance(value, list) else value


def _is_place(key: str, item: Any) -> bool:
    return isinstance(item, str) and _PLACES.fullmatch(key) is not None


def _redact_place(path: str) -> str:
    # /mnt/gpt2 -> ./gpt2, for "gpt2" alone is a model of the Hub, which would be loaded in its place.
    shown = str(redact(path))
    return shown if shown in (path, make_portable(path)) else f"./{shown}"


def _with_hashes(manifest: PlannedFile, changed: dict[str, str]) -> PlannedFile:
    values = json.loads(manifest.content or b"")
    written = values.get("files", {})
    hashes = {name: sha256 for name, sha256 in changed.items() if name in written}
    return _with_content(manifest, format_json(values | {"files": written | hashes})) if hashes else manifest


def _with_content(file: PlannedFile, text: str) -> PlannedFile:
    content = text.encode()
    return replace(file, content=content, size=len(content), sha256=hashlib.sha256(content).hexdigest())
