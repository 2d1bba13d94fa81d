"""Check before training that a push could succeed; nothing is created on the Hub."""

from __future__ import annotations

from typing import Any

from huggingface_hub import HfApi, get_token, is_offline_mode
from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError

from hf_finetune.errors import HubError, Problem, suggest
from hf_finetune.release.hub.retries import (
    call_with_retries,
    describe_error,
    get_http_status,
    is_hub_error,
    is_unreadable,
)

# Seconds. Before training somebody waits in front of the terminal.
PATIENCE = 30.0

_TOKENS = "https://huggingface.co/settings/tokens"
_WRITING_ROLES = ("admin", "write", "contributor")


def check_access(repo_id: str, *, public: bool, create_pr: bool) -> None:
    """Raise `HubError` if the token may not push to `repo_id`, or if that would publish a private run."""
    if is_offline_mode():
        raise HubError(
            Problem("HF_HUB_OFFLINE is set, so the Hub is not asked", "unset it, or push later", code="HF801")
        )
    if get_token() is None:
        raise HubError(
            Problem("there is no Hugging Face token here", "log in with `hf auth login`, or set HF_TOKEN", code="HF802")
        )
    api = HfApi(library_name="hf-finetune")
    try:
        who = call_with_retries(api.whoami, PATIENCE)
        _check_token(who, repo_id)
        _check_repository(api, who, repo_id, public=public, create_pr=create_pr)
    except HubError:
        raise
    except Exception as problem:
        if not is_hub_error(problem) and not is_unreadable(problem):
            raise
        raise HubError(describe_error(problem)) from problem


def _check_token(who: dict[str, Any], repo_id: str) -> None:
    # {"auth": {"accessToken": {"role": "fineGrained", "fineGrained": {"scoped": [{"entity": {"name": "ada"},
    # "permissions": ["repo.write"]}]}}}}: https://huggingface.co/docs/hub/security-tokens
    token = who.get("auth", {}).get("accessToken", {})
    remedy = f"make one that may write at {_TOKENS}, and log in with it: `hf auth login`"
    if token.get("role") == "read":
        raise HubError(Problem("the token may only read", remedy, code="HF802"))
    scoped = token.get("fineGrained", {}).get("scoped")
    if token.get("role") != "fineGrained" or scoped is None:
        return
    granted = {
        scope.get("entity", {}).get("name")
        for scope in scoped
        if "repo.write" in scope.get("permissions", []) or "repo.content.write" in scope.get("permissions", [])
    }
    if not granted & {repo_id, repo_id.split("/")[0]}:
        raise HubError(
            Problem(f"the token may not write to {repo_id}, nor to its owner's repositories", remedy, code="HF802")
        )


def _check_repository(api: HfApi, who: dict[str, Any], repo_id: str, *, public: bool, create_pr: bool) -> None:
    try:
        info = call_with_retries(lambda: api.model_info(repo_id), PATIENCE)
    except RepositoryNotFoundError:
        if create_pr:
            what = f"there is no repository {repo_id} to open a pull request on, or the token may not see it"
            raise HubError(Problem(what, "check its name, or push without create_pr", code="HF806")) from None
        _check_owner(who, repo_id.split("/")[0])
        return
    if not info.private and not public:
        what = f"{repo_id} is public, and what is pushed there everybody can read"
        raise HubError(Problem(what, "allow it with hub.private: false (--public), or name another one", code="HF804"))
    # Anybody may open a pull request.
    if create_pr:
        return
    try:
        call_with_retries(lambda: api.auth_check(repo_id, write=True), PATIENCE)
    except HfHubHTTPError as problem:
        # A token without access gets 404 for a repository that it may not see.
        if get_http_status(problem) not in (401, 403, 404):
            raise
        what = f"{who.get('name')} may not write to {repo_id}"
        raise HubError(
            Problem(what, "ask its owner, set hub.create_pr: true, or name another one", code="HF803")
        ) from problem


def _check_owner(who: dict[str, Any], owner: str) -> None:
    """Check that the user may create a repository of `owner`: the user, or an organization that gives write access."""
    roles = {org.get("name"): org.get("roleInOrg") for org in who.get("orgs", [])}
    writable = [str(who.get("name")), *(name for name, role in roles.items() if role in (None, *_WRITING_ROLES))]
    if owner in writable:
        return
    if owner in roles:
        raise HubError(Problem(f"{who.get('name')} may only read in {owner}", "ask its administrators", code="HF803"))
    remedy = suggest(owner, writable, f"use one of {', '.join(writable)}")
    raise HubError(Problem(f"{who.get('name')} may not make a repository under {owner!r}", remedy, code="HF803"))
