"""To whom the token goes: the Hub alone, by https where the Hub is asked by https."""

from __future__ import annotations

import time

import httpx2
import pytest
from huggingface_hub import constants
from release.hub.hub_server import Fault

from hf_finetune.release.hub.client import guard_client

HUB = "https://huggingface.co"


@pytest.mark.parametrize(
    ("endpoint", "address", "keeps"),
    [
        (HUB, f"{HUB}/api/x", True), (HUB, "https://cdn.example.org/x", False), (HUB, f"{HUB}.example.org/x", False),
        (HUB, f"{HUB}:8443/x", False), (HUB, "http://huggingface.co/x", None), (HUB, "http://example.org/x", None),
        ("http://localhost:8080", "http://localhost:8080/x", True),
        ("http://localhost:8080", "http://localhost/x", False),
        ("http://localhost:8080", "https://example.org/x", False),
    ],
)  # fmt: skip
def test_the_token_goes_to_the_hub_alone_and_nothing_goes_without_https_unasked(monkeypatch, endpoint, address, keeps):
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    asked: list[httpx2.Request] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        asked.append(request)
        return httpx2.Response(200, json={})

    with httpx2.Client(transport=httpx2.MockTransport(answer)) as client:
        guard_client(client, 1.0)
        if keeps is None:
            with pytest.raises(httpx2.UnsupportedProtocol, match="without https"):
                client.put(address, headers={"Authorization": "Bearer mine"})
            assert asked == []
        else:
            client.put(address, headers={"Authorization": "Bearer mine"})
            assert ("authorization" in asked[0].headers) is keeps


@pytest.mark.parametrize(("kind", "path"), [("drip", "/api/x"), ("heads", "/api/x"), ("heads", "/x")])
def test_an_answer_is_whole_in_its_time_or_none_however_it_drips(hub, kind, path):
    hub.faults = [Fault(kind)]
    began = time.monotonic()
    with httpx2.Client() as client:
        guard_client(client, 0.3)
        with pytest.raises(httpx2.ReadTimeout):
            client.get(f"{hub.endpoint}{path}")
    assert 0.25 < time.monotonic() - began < 2


def test_a_download_takes_its_time_and_each_request_of_a_connection_has_its_own(hub):
    hub.faults = [Fault(200, path="/api/", times=9, body=b"{}"), Fault("drip", path="^/x$")]
    with httpx2.Client() as client:
        guard_client(client, 0.3)
        for _ in range(4):  # of one connection, longer than one answer may take
            assert client.get(f"{hub.endpoint}/api/x").json() == {}
            time.sleep(0.1)
        with client.stream("GET", f"{hub.endpoint}/x") as download:
            began = time.monotonic()
            assert any(time.monotonic() - began > 0.5 for _ in download.iter_raw())
