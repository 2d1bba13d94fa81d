"""Inputs exist; `output_dir` can be written and overwrites no input."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from hf_finetune.config.model_files.description import find_faults
from hf_finetune.config.model_files.kinds import is_classifier
from hf_finetune.config.paths import (
    MAX_NAME_BYTES,
    expand_user,
    find_matches,
    find_ready_made,
    is_glob,
    is_local,
    list_source_paths,
)
from hf_finetune.config.reading.document import Key, RunDocument, format_key_path
from hf_finetune.config.validation.hf_settings import SFT_RECIPES
from hf_finetune.config.validation.run_file import PLACEHOLDER
from hf_finetune.errors import ConfigError, suggest
from hf_finetune.folders import AUTO, CHECKPOINT, find_earlier_run, foreign_entry, not_ours, suggest_path
from hf_finetune.shell import shell_path

MAX_PATH_BYTES = 4095
TEMPLATE_SUFFIXES = (".jinja", ".j2")
OUR_TEMPLATES = ("plain", "alpaca", "chatml", "llama-3", "gemma", "mistral", "phi", "qwen")
SPLITS = ("train", "validation", "test")

Fault = tuple[str, str, str]
"""What is wrong, what to do, and the code of it."""


def check_inputs(document: RunDocument, run: Any) -> None:
    """Check that every input that can only be a local path exists. Globs and Hub ids are checked when they are read."""
    for key, path in _list_data_inputs(run):
        if not document.is_refused(format_key_path(key[:2])) and _is_local_data(path):
            _check_exists(document, key, path)
        elif is_glob(path) and "**" not in path and "://" not in path:
            _check_pattern(document, key, path)
    for name in ("path", "adapter", "tokenizer"):
        value = getattr(run.model, name)
        if isinstance(value, str) and not document.is_refused(f"model.{name}"):
            _check_model(document, ("model", name), value)
            speaks = name != "tokenizer" and run.recipe in ("continued_pretraining", *SFT_RECIPES)
            if speaks and not document.is_refused(f"model.{name}"):
                _check_speaks(document, ("model", name), value)
    for name in ("base", "canaries"):
        value = getattr(run.eval, name)
        if not isinstance(value, str) or document.is_refused(f"eval.{name}"):
            continue
        if name == "base":
            _check_model(document, ("eval", name), value)
        elif is_local(value):
            _check_exists(document, ("eval", name), value)
    template = run.data.chat_template
    if template is not None and not document.is_refused("data.chat_template"):
        _check_template(document, template)


def _is_local_data(path: str) -> bool:
    # A data set of the Hub is owner/name; the few without an owner are not among what we read.
    return not is_glob(path) and "://" not in path and ("/" not in path or is_local(path))


def check_output_dir(document: RunDocument, run: Any) -> None:
    """Check that the run folder can be written and would hold nothing but the run."""
    if document.is_refused("output_dir") or run.output_dir == PLACEHOLDER:
        return
    path = run.output_dir
    problem = _find_name_problem(path) or _find_danger(path) or _find_overlap(document, run) or _is_taken(run)
    if problem:
        what, remedy, code = problem
        document.refuse(("output_dir",), what, remedy, code=code)


def _list_data_inputs(run: Any) -> list[tuple[Key, str]]:
    """List every data path of the run with its key: `[(("data", "train", 0), "a.jsonl"), ...]`."""
    inputs: list[tuple[Key, str]] = []
    given = [*((("data", split), getattr(run.data, split)) for split in SPLITS), (("eval", "forget"), run.eval.forget)]
    for key, sources in given:
        for index, path in enumerate(list_source_paths(sources)):
            inputs.append(((*key, index) if isinstance(sources, list) else key, path))
    return [(key, path) for key, path in inputs if path != PLACEHOLDER]


def _check_pattern(document: RunDocument, key: Key, pattern: str) -> None:
    try:
        if find_matches(expand_user(pattern), format_key_path(key)):
            return
    except ConfigError as refused:
        found = refused.problems[0]
        document.refuse(key, found.what, found.remedy, code=found.code)
        return
    document.refuse(key, f"no file matches {pattern}", "check the pattern", code="HF001")


def _check_exists(document: RunDocument, key: Key, path: str) -> None:
    try:
        if Path(expand_user(path)).exists():
            return
    except PermissionError as problem:
        what = f"{path} cannot be read: {problem.strerror}"
        document.refuse(key, what, "check the permissions of its folder", code="HF002")
        return
    except (OSError, ValueError):
        document.refuse(key, "is not a valid path", "name a file, a folder, a glob or a Hub data set id", code="HF626")
        return
    document.refuse(key, f"no such file: {path}", suggest_path(path), code="HF001")


def _check_template(document: RunDocument, template: str) -> None:
    key = ("data", "chat_template")
    if template.endswith(TEMPLATE_SUFFIXES):
        _check_exists(document, key, template)
    elif template not in OUR_TEMPLATES:
        remedy = suggest(template, OUR_TEMPLATES, f"choose one of {', '.join(OUR_TEMPLATES)}, or name a .jinja file")
        document.refuse(key, f"{template!r} is no chat template", remedy, code="HF135")


def _check_model(document: RunDocument, key: Key, path: str) -> None:
    """Check that a model's folder is there, where it is one that could be made here, or can only be local."""
    command = find_ready_made(path)
    if command is not None:
        document.refuse(key, f"no such folder: {path}", f"make it with: {command}", code="HF001")
    elif path.lower().endswith(".gguf") and _exists(Path(expand_user(path))):
        remedy = f"make a folder of it first: hf-finetune model {shell_path(path)} models/{Path(path).stem}"
        document.refuse(
            key, f"{path} is a GGUF file, whose weights cannot be trained as they are", remedy, code="HF634"
        )
    elif is_local(path):
        _check_folder(document, key, path)


def _check_speaks(document: RunDocument, key: Key, path: str) -> None:
    """Check that a model that is to be tuned as a language model is no classifier."""
    # transformers would leave out the classifier's head, and draw the language model's at random.
    if is_classifier(Path(expand_user(path))):
        what = f"{path} is a text classifier, not a language model"
        document.refuse(
            key, what, "name the model that it was made from, or write recipe: classification", code="HF523"
        )


def _check_folder(document: RunDocument, key: Key, path: str) -> None:
    try:
        local = Path(expand_user(path))
        exists, is_folder = local.exists(), local.is_dir()
    except (OSError, ValueError):
        document.refuse(key, "is not a valid path", "name a folder or a Hub id", code="HF626")
        return
    if not exists:
        document.refuse(key, f"no such folder: {path}", suggest_path(path), code="HF001")
    elif not is_folder:
        document.refuse(key, f"{path} is a file", "name the folder that holds config.json, or a Hub id", code="HF634")
    elif faults := find_faults(local, path):
        document.refused.add(key)
        document.problems += faults


def _find_name_problem(output_dir: str) -> Fault | None:
    """Find what is wrong with a folder's name, or with writing there."""
    if not output_dir.isprintable():
        return "has a character that cannot be printed", "choose a plain name", "HF626"
    folder = Path(expand_user(output_dir))
    too_long = [part for part in folder.parts if len(os.fsencode(part)) > MAX_NAME_BYTES]
    if too_long or len(os.fsencode(folder.absolute())) > MAX_PATH_BYTES:
        return f"is longer than file systems take ({MAX_NAME_BYTES} bytes a name)", "choose a shorter name", "HF626"
    # "~ada/runs" stays as it is: expand_user expands "~" and "~/..." alone, and the run would create a folder "~ada".
    if output_dir.startswith("~") and str(folder).startswith("~"):
        return "names the home of another user", "write the path out", "HF626"
    try:
        return _find_write_problem(folder)
    except OSError as error:
        return f"cannot be used ({error.strerror})", "choose another folder", "HF701"


def _find_write_problem(folder: Path) -> Fault | None:
    existing = folder.absolute()
    while not existing.exists() and not existing.is_symlink():
        existing = existing.parent
    if not existing.is_dir():
        what = "is a file" if existing == folder.absolute() else f"lies below {existing}, which is a file"
        return what, "name a folder", "HF701"
    if not os.access(existing, os.W_OK | os.X_OK):
        return f"{existing} cannot be written", "choose a folder that you may write", "HF701"
    return None


def _find_danger(output_dir: str) -> Fault | None:
    """Find whether the run would write into a folder of other things: README.md, config.json, deleted checkpoints."""
    folder = Path(expand_user(output_dir)).resolve()
    remedy = "name a folder for this run alone, such as runs/first"
    if folder == Path(folder.anchor):
        return "is the root of the file system", remedy, "HF690"
    if folder == Path.home().resolve():
        return "is the home folder", remedy, "HF690"
    working = Path.cwd().resolve()
    if working.is_relative_to(folder):
        what = "is the working folder" if folder == working else "contains the working folder"
        return what, remedy, "HF690"
    return None


def _find_overlap(document: RunDocument, run: Any) -> Fault | None:
    """Find inputs inside the run folder, which it would overwrite, and data folders around it, which would read it."""
    folder = Path(expand_user(run.output_dir)).resolve()
    inputs = [(key, path, True) for key, path in _list_data_inputs(run)]
    names = [name for name in ("path", "adapter", "tokenizer") if isinstance(getattr(run.model, name), str)]
    inputs += [(("model", name), getattr(run.model, name), False) for name in names]
    for key, path, is_data in inputs:
        # Of a glob the part before the first "*": runs/*/rows.jsonl is compared as runs/.
        local = Path(expand_user(path.split("*")[0] or "." if is_data else path))
        name = format_key_path(key[:2])
        if document.is_refused(name) or not _exists(local):
            continue
        source = local.resolve()
        if source.is_relative_to(folder):
            return f"contains {name} ({path})", "choose another folder: a run overwrites what is in its own", "HF690"
        around = name != "model.adapter" and local.is_dir() and not (is_data and is_glob(path))
        if around and folder.is_relative_to(source):
            what = "the run would be read as data" if is_data else "a model's folder holds the model alone"
            return f"lies inside {name} ({path})", f"choose another folder: {what}", "HF690"
    return None


def _is_taken(run: Any) -> Fault | None:
    """Another run, or anything of somebody else: the recipe looks again, this is before it has loaded anything."""
    folder = Path(expand_user(run.output_dir))
    resumes = run.recipe != "score" and bool(run.train.resume_from_checkpoint)
    if not resumes and (earlier := find_earlier_run(run.output_dir)) is not None:
        return *earlier, "HF691"
    foreign = foreign_entry(folder, resuming=resumes)
    return None if foreign is None else (*not_ours(run.output_dir, foreign), "HF691")


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


KEY = ("train", "resume_from_checkpoint")


def check_resume(document: RunDocument, run: Any) -> None:
    """Refuse a checkpoint outside `output_dir`; a foreign one can be loaded as a model, from its safetensors."""
    # Engines that shard a model (FSDP, DeepSpeed) still pickle their states: torch.load runs code in old versions
    # (CVE-2025-32434 before torch 2.6, CVE-2026-24747 before 2.10).
    checkpoint = run.train.resume_from_checkpoint
    if not isinstance(checkpoint, str) or checkpoint == AUTO or document.is_refused(".".join(KEY), "output_dir"):
        return
    place, folder = Path(expand_user(checkpoint)).resolve(), Path(expand_user(run.output_dir)).resolve()
    if place.parent == folder or CHECKPOINT.fullmatch(checkpoint):  # a name alone is that of one in output_dir
        return
    what = f"{checkpoint} is no checkpoint of {run.output_dir}, and others' optimizer states are not opened"
    document.refuse(
        KEY, what, "name the run's own output_dir, or start from the weights alone with model.path", code="HF692"
    )
