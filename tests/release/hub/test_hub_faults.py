"""What goes wrong on the way to the Hub: nothing is lost, seen in part or sent twice, and what lasts stops at once."""

from __future__ import annotations

import json

import httpx2
import pytest
from huggingface_hub import constants
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.utils import close_session
from release.hub.hub_server import Fault
from release.hub.pushes_with_faults import KINDS, push_all

from hf_finetune.errors import NotPushedError
from hf_finetune.release.hub import PushOptions, _make_not_pushed_error, push_folder
from hf_finetune.release.hub import retries as hub_requests
from hf_finetune.release.hub.retries import PATIENCE, UnreadableAnswer, call_with_retries, describe_error, is_transient


def test_pushes_with_faults_lose_nothing_show_no_part_and_send_nothing_again(hub, tmp_path, monkeypatch):
    monkeypatch.setattr(hub_requests, "TIMEOUT", 1.0)
    close_session()
    outcomes = push_all(hub, KINDS, tmp_path, threads=len(KINDS))
    for kind, outcome in zip(KINDS, outcomes, strict=True):
        found = (outcome.lost, outcome.partial, outcome.sent_again, outcome.after_permanent)
        assert found == (0, 0, 0, 0), outcome
        assert outcome.pushes == (2 if kind.permanent or kind.kills else 1), outcome
    assert all(fault.times == 0 for fault in hub.faults), "every fault happened"
    assert not any(fault.waited_out for fault in hub.faults), "a stall is left when the time is up"


def answered(status: int, **headers: str) -> HfHubHTTPError:
    request = httpx2.Request("POST", "https://hub/x")
    return HfHubHTTPError("no", response=httpx2.Response(status, headers=headers, request=request))


@pytest.mark.parametrize(
    ("status", "code"),
    [(401, "HF802"), (403, "HF802"), (404, "HF806"), (409, "HF808"), (413, "HF808"), (418, "HF808"), (503, "HF809")],
)
def test_an_answer_has_the_code_of_its_kind_once_and_last(status, code):
    problem = describe_error(answered(status))
    assert problem.code == code
    said = str(_make_not_pushed_error([problem], "runs/lora", "ada/model", PushOptions()))
    assert said.startswith(f"not pushed: {problem.what}; ")
    assert said.endswith(f"; to go on: `hf-finetune push runs/lora ada/model` [{code}]")
    assert said.count("[HF") == 1


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504, 599])
def test_a_bad_moment_passes(status):
    assert is_transient(answered(status))


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 412, 413, 422])
def test_a_refusal_lasts(status):
    assert not is_transient(answered(status))


def test_what_a_thread_wraps_is_seen_through_and_a_bug_of_ours_lasts():
    wrapped = RuntimeError("Error while uploading")
    wrapped.__cause__ = answered(503)
    assert is_transient(wrapped)
    assert describe_error(wrapped).what == "the Hub has trouble of its own (503)"
    assert not is_transient(KeyError("ours"))


def test_what_the_xet_storage_refuses_lasts_and_what_it_cannot_do_now_passes(hub, folder, monkeypatch):
    said = "Server error: Request error: HTTP status server error (503 Service Unavailable), domain: http://hub/x"
    assert is_transient(ConnectionError(said))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", False)  # so that hf_xet itself asks
    hub.faults = [Fault(403, "GET", "xet-write-token", times=9)]
    with pytest.raises(NotPushedError, match=r"the token may not do that \(403"):
        push_folder(folder, "ada/model", options=PushOptions(patience=60.0))
    assert len(hub.asked("GET", "xet-write-token")) == 1
    assert set(hub.files("ada/model")) == {".gitattributes"}


def test_a_request_is_made_again_as_the_hub_asks_and_no_longer_than_allowed(monkeypatch):
    waits = []
    monkeypatch.setattr(hub_requests.time, "sleep", waits.append)
    asked = iter([answered(429, **{"Retry-After": "7"}), answered(503), answered(503), None])

    def request() -> str:
        if (problem := next(asked)) is not None:
            raise problem
        return "done"

    assert call_with_retries(request, 100.0) == "done"
    assert waits == [7.0, 2.0, 4.0]
    asked = iter([answered(429, **{"Retry-After": "3600"})])
    with pytest.raises(HfHubHTTPError):
        call_with_retries(request, 100.0)
    assert len(waits) == 3


def test_a_refusal_is_not_made_again(monkeypatch):
    monkeypatch.setattr(hub_requests.time, "sleep", lambda seconds: pytest.fail("waited"))
    asked = []

    def request() -> None:
        asked.append(1)
        raise answered(403)

    with pytest.raises(HfHubHTTPError):
        call_with_retries(request, 100.0)
    assert len(asked) == 1


@pytest.mark.parametrize("body", [b"<html>", b"9" * 5000, b'{"commitOid": "0", "commitUrl": "http://x/"}'])
def test_a_commit_that_was_taken_is_found_where_nobody_understands_the_answer(hub, folder, monkeypatch, body):
    monkeypatch.setattr(hub_requests, "SHORT_PATIENCE", 0.0)
    hub.faults = [Fault("taken", "POST", "/commit/", times=9, body=body)]
    facts = push_folder(folder, "ada/model", options=PushOptions(patience=60.0))
    assert facts.commit == hub.repositories["ada/model"].branches["main"]
    assert len(hub.asked("POST", "/commit/")) == 1


def test_what_is_no_json_is_asked_for_again_for_seconds_only(monkeypatch):
    waited: list[float] = []
    monkeypatch.setattr(hub_requests.time, "sleep", waited.append)
    monkeypatch.setattr(hub_requests.time, "monotonic", lambda: sum(waited))

    def ask() -> None:
        json.loads("<html>")

    with pytest.raises(UnreadableAnswer, match="was reached, and its answer is none that is understood"):
        call_with_retries(ask, PATIENCE)
    assert waited == [1, 2, 4, 8]
