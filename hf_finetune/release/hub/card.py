"""The model card as it is pushed: its licence is there, and what it says of its base is respected."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import HfApi
from huggingface_hub.errors import GatedRepoError, HFValidationError, RepositoryNotFoundError

from hf_finetune.config.checks_hub import license_problem
from hf_finetune.errors import ConfigError, DataError, HubError, Problem
from hf_finetune.release.hub.files import CARD
from hf_finetune.reporting.card import MARKER, NO_LICENSE, card, run_behind

_METADATA = re.compile(r"\A---[ \t]*\n(.*?)^---[ \t]*$", re.DOTALL | re.MULTILINE)


def card_metadata(folder: Path) -> dict[str, Any]:
    """What stands between the dashes of README.md; empty where nothing does.

    Raises `ConfigError` where there is no card, or an empty one, and `DataError` where its metadata are no YAML.
    """
    path = folder / CARD
    text = _text(path)
    if not text.strip():
        remedy = "write one: what the model is for, what it was trained on, what it cannot do"
        raise ConfigError(Problem("there is no model card, which a push needs", remedy, path=str(path)))
    found = _METADATA.match(text)
    try:
        values = yaml.safe_load(found[1]) if found else {}
    except yaml.YAMLError as problem:
        raise DataError(Problem("the metadata between the dashes is no YAML", "mend it", path=str(path))) from problem
    return values if isinstance(values, dict) else {}


def declared_license(folder: Path) -> str | None:
    licence = card_metadata(folder).get("license")
    return str(licence) if licence else None


def licensed_card(folder: Path, licence: str | None, repo_id: str) -> bytes:
    """README.md as it is pushed to `repo_id`, with `licence` where one is given; the file stays as it is.

    A card that is as we wrote it names the repository in place of the folder; one that was edited gets its licence and
    nothing else. Raises `ConfigError` where neither the card nor `licence` says one that the Hub knows.
    """
    text = _text(folder / CARD)
    in_card = declared_license(folder)
    stated = licence or in_card
    if stated is None:
        what = "says no licence, so nobody would know what they may do with the model"
        remedy = "give --license, such as apache-2.0, or unknown; or set card.license in the run file"
        raise ConfigError(Problem(what, remedy, path=str(folder / CARD)))
    if problem := license_problem(stated):
        raise ConfigError(Problem(problem.what, problem.remedy, path=None if licence else str(folder / CARD)))
    if MARKER in text and text == card(run := run_behind(folder)):
        owner = run.settings.get("card") or {}
        return card(replace(run, settings={**run.settings, "card": {**owner, "license": stated}}), repo_id).encode()
    if licence is None:
        return text.encode()
    found = _METADATA.match(text)
    if found is None:
        return f"---\nlicense: {licence}\n---\n\n{text}".encode()
    kept = re.sub(r"^license:.*\n", "", found[1], flags=re.MULTILINE)
    body = text[found.end(1) :].replace(NO_LICENSE, licence)
    return f"---\nlicense: {licence}\n{kept}{body}".encode()


def check_gated_base(api: HfApi, folder: Path, licence: str | None) -> None:
    """Refuse to publish the weights of a base that its owner gives to registered people only.

    An adapter holds none of them; with a `licence` given at the push, somebody has decided. Raises `HubError`.
    """
    if licence is not None or (folder / "adapter_config.json").exists():
        return
    named = card_metadata(folder).get("base_model") or []
    check_gated(api, [named] if isinstance(named, str) else named)


def check_gated(api: HfApi, bases: Sequence[str]) -> None:
    """Raise `HubError` where one of `bases` is a model of the Hub that not everybody may have."""
    for base in bases:
        try:
            gated = api.model_info(str(base)).gated
        except GatedRepoError:
            gated = "manual"
        except (RepositoryNotFoundError, HFValidationError):  # not on the Hub, or not for us to see
            continue
        if gated:
            what = f"these are the weights of {base}, which its owner gives only to those who accept its terms"
            remedy = "push without --public, push the adapter instead, or say with --license what its terms allow"
            raise HubError(Problem(what, remedy))


def _text(path: Path) -> str:
    if not path.exists():
        return ""
    try:
        return path.read_text(encoding="utf-8").replace("\r\n", "\n")
    except UnicodeDecodeError as problem:
        raise DataError(Problem("is not UTF-8", "save it as UTF-8", path=str(path))) from problem
