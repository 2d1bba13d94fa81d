"""The runs that are hurt here: started from a process that has imported the stack."""

from __future__ import annotations

import pytest
from runs import Runs


@pytest.fixture(scope="session")
def runs(preloaded, tmp_path_factory) -> Runs:
    return Runs(preloaded, tmp_path_factory.mktemp("runs"))


@pytest.fixture
def every(request) -> bool:
    """Whether all trials are made, as `make faults` does."""
    return request.config.getoption("--faults")
