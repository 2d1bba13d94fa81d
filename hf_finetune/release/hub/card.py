"""The model card as it is pushed: it names a license, and the terms of its base model are respected."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi
from huggingface_hub.errors import GatedRepoError, HFValidationError, RepositoryNotFoundError

from hf_finetune.config.checks.hub import find_license_problem
from hf_finetune.errors import ConfigError, DataError, HubError, Problem
from hf_finetune.files import read_bounded_yaml
from hf_finetune.folders import CARD, leads_out
from hf_finetune.privacy import redact_command
from hf_finetune.reporting.card import MARKER, NO_LICENSE, find_source_run, render_card

# Older versions left paths in the command.
_LAUNCH = re.compile(r"^accelerate launch .*$", re.MULTILINE)
_METADATA = re.compile(r"\A---[ \t]*\n(.*?)^---[ \t]*$", re.DOTALL | re.MULTILINE)


def read_card_metadata(folder: Path) -> dict[str, Any]:
    """Read the YAML metadata between the dashes of README.md; {} without any.

    Raises `ConfigError` if there is no card or an empty one, and `DataError` if the metadata are not YAML.
    """
    path = folder / CARD
    text = _read_text(path)
    if not text.strip():
        remedy = "write one: what the model is for, what it was trained on, what it cannot do"
        raise ConfigError(Problem("there is no model card, which a push needs", remedy, path=str(path), code="HF811"))
    found = _METADATA.match(text)
    try:
        values = read_bounded_yaml(found[1]) if found else {}
    except ValueError as problem:
        raise DataError(
            Problem(f"what stands between the dashes {problem}", "mend it", path=str(path), code="HF812")
        ) from problem
    return values if isinstance(values, dict) else {}


def read_license(folder: Path) -> str | None:
    """Read the license that the card of `folder` names. Raises as `card_metadata` does."""
    license = read_card_metadata(folder).get("license")
    return str(license) if license else None


def add_license(folder: Path, license: str | None, repo_id: str) -> bytes:
    """Make README.md as it is pushed to `repo_id`, with `license` if one is given; the file stays as it is.

    A card that nobody has edited names the repository instead of the folder; an edited one gets the license and nothing
    else. Raises `ConfigError` if neither the card nor `license` names a license of the Hub.
    """
    text = _read_text(folder / CARD)
    if MARKER in text:
        text = _LAUNCH.sub(lambda found: redact_command(found[0]) or "", text)
    in_card = read_license(folder)
    stated = license or in_card
    if stated is None:
        what = "says no license, so nobody would know what they may do with the model"
        remedy = "give --license, such as apache-2.0, or unknown; or set card.license in the run file"
        raise ConfigError(Problem(what, remedy, path=str(folder / CARD), code="HF813"))
    if problem := find_license_problem(stated):
        raise ConfigError(replace(problem, path=None if license else str(folder / CARD)))
    if MARKER in text and text == render_card(run := find_source_run(folder)):
        owner = run.settings.get("card") or {}
        return render_card(
            replace(run, settings={**run.settings, "card": {**owner, "license": stated}}), repo_id
        ).encode()
    if license is None:
        return text.encode()
    # Edited by hand: the text between the dashes is changed as text, since YAML would lose its comments and order.
    found = _METADATA.match(text)
    if found is None:
        return f"---\nlicense: {license}\n---\n\n{text}".encode()
    kept = re.sub(r"^license:.*\n", "", found[1], flags=re.MULTILINE)
    body = text[found.end(1) :].replace(NO_LICENSE, license)
    return f"---\nlicense: {license}\n{kept}{body}".encode()


def check_gated_base(api: HfApi, folder: Path, license: str | None) -> None:
    """Raise `HubError` if `folder` would publish the weights of a gated base model.

    An adapter holds none of them; a `license` given with the push says that its terms have been considered.
    """
    if license is not None or (folder / "adapter_config.json").exists():
        return
    named = read_card_metadata(folder).get("base_model")
    names = named if isinstance(named, list) else [named]
    check_gated(api, [name for name in names if isinstance(name, str)])


def check_gated(api: HfApi, bases: Sequence[str]) -> None:
    """Raise `HubError` if one of `bases` is gated on the Hub: only those who accept its terms may download it."""
    for base in bases:
        try:
            gated = api.model_info(str(base)).gated
        # Gated, and the token has no access: https://huggingface.co/docs/hub/models-gated
        except GatedRepoError:
            gated = "manual"
        # A local folder, or a private repository that the token may not see.
        except (RepositoryNotFoundError, HFValidationError):
            continue
        if gated:
            what = f"these are the weights of {base}, which its owner gives only to those who accept its terms"
            remedy = "push without --public, push the adapter instead, or say with --license what its terms allow"
            raise HubError(Problem(what, remedy, code="HF814"))


def _read_text(path: Path) -> str:
    if not path.exists():
        return ""
    if not path.is_file() or leads_out(path, path.parent):
        what = "is no file of this folder"
        raise DataError(Problem(what, "put a text of your own in its place", path=str(path), code="HF824"))
    try:
        return path.read_text(encoding="utf-8").replace("\r\n", "\n")
    except UnicodeDecodeError as problem:
        raise DataError(Problem("is not UTF-8", "save it as UTF-8", path=str(path), code="HF003")) from problem
