"""To whom the token goes: the Hub alone, by https where the Hub is asked by https."""

from __future__ import annotations

import httpx2
import pytest
from huggingface_hub import constants

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
