"""What every test gets: no network, one thread, a cache of its own, and small real things to test with."""

from __future__ import annotations

import os

# Before torch and the Hugging Face libraries are imported: they read these once.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session", autouse=True)
def datasets_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Arrow files of the tests go to a folder of this session, in child processes too."""
    folder = tmp_path_factory.mktemp("datasets-cache")
    os.environ["HF_DATASETS_CACHE"] = str(folder)
    import datasets

    datasets.config.HF_DATASETS_CACHE = folder
    datasets.disable_progress_bars()
    return folder


@pytest.fixture
def project_root() -> Path:
    return ROOT
