"""What a run that is pushed has to say beforehand, and secrets in its settings, which the run folder would keep."""

from __future__ import annotations

import re
from typing import Any

from hf_finetune.config.document import Key, RunDocument
from hf_finetune.config.suggestions import did_you_mean
from hf_finetune.errors import ConfigError, Problem, kind_of_secret

# One part of a repository's name as the Hub has it; 96 characters in all.
_PART = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]*[A-Za-z0-9_])?", re.ASCII)
_LONGEST = 96
_ADDRESS = re.compile(r"(?:https?://)?(?:www\.)?(?:huggingface\.co|hf\.co)/", re.ASCII)

# The licences that the Hub lists: https://huggingface.co/docs/hub/repositories-licenses
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
    """The repository's name, the licence that a pushed card needs, and secrets anywhere among the settings."""
    _check_secrets(document, document.values, ())
    licence = run.card.license
    if licence is not None and not document.is_refused("card.license") and (problem := license_problem(licence)):
        document.refuse(("card", "license"), problem.what, problem.remedy)
    if run.hub is None or document.is_refused("hub.repo_id"):
        return
    if problem := repo_id_problem(run.hub.repo_id):
        document.refuse(("hub", "repo_id"), problem.what, problem.remedy)
    if licence is None and not document.is_refused("card"):
        what = "is missing; what is pushed says under which licence it may be used"
        remedy = "add card: {license: apache-2.0}, or the one you mean, or unknown"
        document.refuse(("card", "license"), what, remedy, place=document.place(("hub",)))
    if run.hub.create_pr and run.hub.push_every is not None and not document.is_refused("hub.push_every"):
        what = "each checkpoint would open a pull request of its own"
        document.refuse(("hub", "push_every"), what, "leave out this or hub.create_pr")


def repo_id_problem(repo_id: str) -> Problem | None:
    """Why `repo_id` is not `owner/name` as the Hub takes it; None where it is."""
    form = "write owner/name, such as my-name/my-model"
    if address := _ADDRESS.match(repo_id):
        return Problem("is an address, not a name", f"did you mean {_meant(repo_id[address.end() :])}?")
    if "/" not in repo_id.strip("/"):
        return Problem(f"{repo_id!r} names no owner", f"did you mean your-user-name/{_meant(repo_id)}?")
    parts = repo_id.split("/")
    well_formed = all(_PART.fullmatch(part) and "--" not in part and ".." not in part for part in parts)
    if len(parts) == 2 and well_formed and len(repo_id) <= _LONGEST and not repo_id.endswith(".git"):
        return None
    if len(repo_id) > _LONGEST:
        return Problem(f"is longer than {_LONGEST} characters", form)
    meant = _meant(repo_id)
    remedy = f"did you mean {meant}?" if meant != repo_id and repo_id_problem(meant) is None else form
    return Problem(f"{repo_id!r} is not the name of a repository", remedy)


def _meant(text: str) -> str:
    """`text` as the nearest name of a repository: at most owner/name, each of letters, digits, `-`, `_` and `.`."""
    parts = [re.sub(r"[^A-Za-z0-9_.]+|\.\.+", "-", part).strip("-.") for part in text.strip("/ ").split("/")]
    return "/".join([part for part in parts if part][:2]).removesuffix(".git")


def license_problem(licence: str) -> Problem | None:
    """Why `licence` is none of the Hub's; None where it is one."""
    if licence in LICENSES:
        return None
    close = did_you_mean(licence, LICENSES, cutoff=0.6)
    remedy = f"did you mean {close}?" if close else "write its SPDX id in small letters, or other, or unknown"
    return Problem(f"{licence!r} is no licence that the Hub knows", remedy)


def require_repo_id(repo_id: str) -> None:
    """Raise `ConfigError` where `repo_id`, from a command line, is not `owner/name`."""
    if problem := repo_id_problem(repo_id):
        raise ConfigError(problem)


def _check_secrets(document: RunDocument, value: Any, key: Key) -> None:
    if isinstance(value, dict):
        for name, inner in value.items():
            _check_secrets(document, inner, (*key, name))
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            _check_secrets(document, inner, (*key, number))
    elif isinstance(value, str) and (kind := kind_of_secret(value)) and not document.is_refused(_name(key)):
        remedy = "take it out: settings are copied into the run folder; log in with `hf auth login`, or set HF_TOKEN"
        document.refuse(key, f"holds what looks like {kind}", remedy)


def _name(key: Key) -> str:
    return ".".join(str(part) for part in key)
