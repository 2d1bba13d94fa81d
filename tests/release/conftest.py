"""A Hub on loopback, and huggingface_hub in this process set to it as HF_ENDPOINT sets it when it is imported."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants
from huggingface_hub.utils import close_session, disable_progress_bars
from release.hub.hub_folders import model_folder
from release.hub.hub_server import WRITE, Hub, running_hub

from hf_finetune.release.hub import retries as hub_requests


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    # huggingface_hub 2.4 uploads with an argument that its HTTP client has since renamed.
    warnings.filterwarnings("ignore", "Use 'content=", DeprecationWarning)
    disable_progress_bars()
    with running_hub() as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.endpoint)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(hub_requests, "FIRST_WAIT", 0.01)
        monkeypatch.setenv("HF_TOKEN", WRITE)
        close_session()
        yield hub
        close_session()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return model_folder(tmp_path / "model")
