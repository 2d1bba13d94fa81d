"""What a push needs is checked before training, and no setting holds a secret: run.yaml would keep it."""

from __future__ import annotations

import re
from typing import Any

from hf_finetune.config.reading.document import Key, RunDocument
from hf_finetune.errors import ConfigError, Problem, suggest
from hf_finetune.privacy import find_secret_kind

# Owner or name of a repository, by the rules of huggingface_hub.utils.validate_repo_id; 96 characters in all.
_PART = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]*[A-Za-z0-9_])?", re.ASCII)
_LONGEST = 96
_ADDRESS = re.compile(r"(?:https?://)?(?:www\.)?(?:huggingface\.co|hf\.co)/", re.ASCII)

# The licenses that the Hub lists: https://huggingface.co/docs/hub/repositories-licenses
_LICENSES = """
    afl-3.0 agpl-3.0 apache-2.0 apple-amlr apple-ascl artistic-2.0 bigcode-openrail-m bigscience-bloom-rail-1.0
    bigscience-openrail-m bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear bsl-1.0 c-uda cc cc-by-2.0 cc-by-2.5
    cc-by-3.0 cc-by-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nc-nd-3.0 cc-by-nc-nd-4.0 cc-by-nc-sa-2.0
    cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cc-by-nd-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc0-1.0 cdla-permissive-1.0
    cdla-permissive-2.0 cdla-sharing-1.0 creativeml-openrail-m deepfloyd-if-license ecl-2.0 epl-1.0 epl-2.0 etalab-2.0
    eupl-1.1 eupl-1.2 fair-noncommercial-research-license gemma gfdl gpl gpl-2.0 gpl-3.0 grok2-community h-research
    intel-research isc lgpl lgpl-2.1 lgpl-3.0 lgpl-lr llama2 llama3 llama3.1 llama3.2 llama3.3 llama4 lppl-1.3c mit
    mpl-2.0 ms-pl ncsa odbl odc-by ofl-1.1 open-mdw openmdw-1.0 openrail openrail++ osl-3.0 other pddl postgresql
    unknown unlicense wtfpl zlib
"""
LICENSES = frozenset(_LICENSES.split())


def check_hub(document: RunDocument, run: Any) -> None:
    """Check the repository's name, the license that a pushed card needs, and all settings for secrets."""
    _check_secrets(document, document.values, ())
    license = run.card.license
    if license is not None and not document.is_refused("card.license") and (problem := find_license_problem(license)):
        document.refuse(("card", "license"), problem.what, problem.remedy, code=problem.code)
    if run.hub is None or document.is_refused("hub.repo_id"):
        return
    if problem := find_repo_id_problem(run.hub.repo_id):
        document.refuse(("hub", "repo_id"), problem.what, problem.remedy, code=problem.code)
    if license is None and not document.is_refused("card"):
        what = "is missing; what is pushed says under which license it may be used"
        remedy = "add card: {license: apache-2.0}, or the one you mean, or unknown"
        document.refuse(("card", "license"), what, remedy, place=document.find_place(("hub",)), code="HF605")
    if run.hub.create_pr and run.hub.push_every is not None and not document.is_refused("hub.push_every"):
        what = "each checkpoint would open a pull request of its own"
        document.refuse(("hub", "push_every"), what, "leave out this or hub.create_pr", code="HF606")


def find_repo_id_problem(repo_id: str) -> Problem | None:
    """Return why `repo_id` is not a valid `owner/name` of the Hub, or None if it is."""
    form = "write owner/name, such as my-name/my-model"
    if address := _ADDRESS.match(repo_id):
        return Problem(
            "is an address, not a name", f"did you mean {_suggest_repo_id(repo_id[address.end() :])}?", code="HF670"
        )
    if "/" not in repo_id.strip("/"):
        return Problem(
            f"{repo_id!r} names no owner", f"did you mean your-user-name/{_suggest_repo_id(repo_id)}?", code="HF670"
        )
    parts = repo_id.split("/")
    well_formed = all(_PART.fullmatch(part) and "--" not in part and ".." not in part for part in parts)
    if len(parts) == 2 and well_formed and len(repo_id) <= _LONGEST and not repo_id.endswith(".git"):
        return None
    if len(repo_id) > _LONGEST:
        return Problem(f"is longer than {_LONGEST} characters", form, code="HF670")
    meant = _suggest_repo_id(repo_id)
    remedy = f"did you mean {meant}?" if meant != repo_id and find_repo_id_problem(meant) is None else form
    return Problem(f"{repo_id!r} is not the name of a repository", remedy, code="HF670")


def _suggest_repo_id(text: str) -> str:
    """Turn `text` into the closest valid repository name: `owner/name`, of letters, digits, `-`, `_` and `.`."""
    # "ada/my model (v2)" -> "ada/my-model-v2"
    parts = [re.sub(r"[^A-Za-z0-9_.]+|\.\.+", "-", part).strip("-.") for part in text.strip("/ ").split("/")]
    return "/".join([part for part in parts if part][:2]).removesuffix(".git")


def find_license_problem(license: str) -> Problem | None:
    """Return why `license` is not one of the Hub's licenses, or None if it is."""
    if license in LICENSES:
        return None
    remedy = suggest(license, LICENSES, "write its SPDX id in small letters, or other, or unknown")
    return Problem(f"{license!r} is no license that the Hub knows", remedy, code="HF671")


def check_repo_id(repo_id: str) -> None:
    """Raise `ConfigError` if `repo_id`, from a command line, is not a valid `owner/name`."""
    if problem := find_repo_id_problem(repo_id):
        raise ConfigError(problem)


def _check_secrets(document: RunDocument, value: Any, key: Key) -> None:
    if isinstance(value, dict):
        for name, inner in value.items():
            _check_secrets(document, inner, (*key, name))
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            _check_secrets(document, inner, (*key, number))
    elif isinstance(value, str) and (kind := find_secret_kind(value)):
        remedy = "take it out: settings are copied into the run folder; log in with `hf auth login`, or set HF_TOKEN"
        if not document.is_refused(".".join(str(part) for part in key)):
            document.refuse(key, f"holds what looks like {kind}", remedy, code="HF672")
