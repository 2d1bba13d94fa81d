"""Whether a command can do what is asked of a saved model, as far as its JSON files tell: torch is never imported."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal

from hf_finetune.config.model_files.description import ADAPTER, BASE_RECORD, CONFIG, find_faults
from hf_finetune.config.model_files.kinds import is_classifier
from hf_finetune.config.model_files.regular import read_object
from hf_finetune.config.paths import is_missing
from hf_finetune.errors import ConfigError, ModelError, Problem
from hf_finetune.folders import CHECKPOINT, MANIFEST, find_altered, suggest_path
from hf_finetune.shell import shell_path

Command = Literal["generate", "chat", "predict", "score", "merge", "export", "serve"]

_BASE_OPTION = {
    **dict.fromkeys(("merge", "export"), "--base"),
    **dict.fromkeys(("generate", "chat", "predict", "serve"), "--base-path"),
}


def check_saved_model(path: str, command: Command, base: str | None = None) -> None:
    """Raise `ConfigError` where `path` is no folder, holds no model, or one of a kind that `command` is not for.

    And `ModelError` where the files of an export are not those that it wrote. A Hub id that is no folder passes: what
    it holds is seen when it is fetched. `base` is where an adapter's base is.
    """
    if is_missing(path):
        raise ConfigError(Problem("no such folder", suggest_path(path), path, code="HF001"))
    folder = Path(path)
    if folder.is_file():
        raise ConfigError(Problem("is a file", f"name the folder that holds {CONFIG}, or a Hub id", path, code="HF634"))
    if not folder.is_dir():
        return
    # First: a file that is gone or torn is said as such, and not as what the rest of the folder lacks without it.
    if altered := find_altered(folder, path):
        raise ModelError(altered)
    if not (folder / ADAPTER).exists() and not (folder / CONFIG).exists():
        raise ConfigError(_describe_empty(folder, path))
    _check_faults(path)
    if problem := _find_wrong_kind(folder, path, command):
        raise ConfigError(problem)
    if (folder / ADAPTER).exists():
        _check_base(folder, path, command, base)


def _check_faults(path: Any) -> None:
    """Raise `ConfigError` for all that is wrong with the files of a folder; a Hub id has none yet."""
    if isinstance(path, str) and (faults := find_faults(Path(path).expanduser(), path)):
        raise ConfigError(faults)


def _describe_empty(folder: Path, path: str) -> Problem:
    steps = [int(found[1]) for name in os.listdir(folder) if (found := CHECKPOINT.fullmatch(name))]
    what = f"holds no model (neither {CONFIG} nor {ADAPTER})"
    if (folder / MANIFEST).exists():
        what += ": its run has not finished"
    if steps:
        return Problem(
            what, f"name its newest checkpoint: {shell_path(f'{path}/checkpoint-{max(steps)}')}", path, code="HF634"
        )
    return Problem(what, "name the folder of a finished run, or of a model", path, code="HF634")


def _find_wrong_kind(folder: Path, path: str, command: Command) -> Problem | None:
    classifies, named = is_classifier(folder), shell_path(path)
    if command in ("generate", "chat") and classifies:
        remedy = f"label rows with it: hf-finetune predict {named} ROWS.jsonl"
        return Problem("is a text classifier, not a language model", remedy, path, code="HF523")
    if command == "predict" and classifies is False:
        remedy = f"let it write: hf-finetune generate {named} 'TEXT'"
        return Problem("is a language model, not a text classifier", remedy, path, code="HF524")
    if command == "chat" and _has_no_template(folder):
        remedy = f"let it continue texts: hf-finetune generate {named} 'TEXT'"
        return Problem("has no chat template to talk with", remedy, path, code="HF352")
    if command == "merge" and not (folder / ADAPTER).exists():
        return Problem(
            "is a whole model, not an adapter: there is nothing to merge", "use it as it is", path, code="HF531"
        )
    return None


def _has_no_template(folder: Path) -> bool:
    # An adapter without tokenizer files of its own speaks by its base's template.
    tokenizer = folder / "tokenizer_config.json"
    elsewhere = [folder / "chat_template.jinja", folder / "chat_template.json", folder / "additional_chat_templates"]
    return (
        tokenizer.exists()
        and not (read_object(tokenizer) or {}).get("chat_template")
        and not any(map(Path.exists, elsewhere))
    )


def _check_base(folder: Path, path: str, command: Command, base: str | None) -> None:
    if base is not None:
        if is_missing(base):
            raise ConfigError(
                Problem("no such folder", suggest_path(base), base, key=_BASE_OPTION.get(command), code="HF001")
            )
        _check_faults(base)
        return
    record, config = read_object(folder / BASE_RECORD) or {}, read_object(folder / ADAPTER) or {}
    named = record.get("name_or_path") or config.get("base_model_name_or_path")
    if not isinstance(named, str) or not is_missing(named):
        _check_faults(named)
        return
    remedy = f"say where it is now with {_BASE_OPTION.get(command)}"
    if command == "score":
        remedy = f"merge it and score that: hf-finetune merge {shell_path(path)} MERGED --base WHERE-IT-IS-NOW"
    raise ConfigError(Problem(f"is an adapter of {named!r}, which is not there", remedy, path, code="HF532"))
