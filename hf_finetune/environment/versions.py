"""The version of the package, and those of the packages that it stands on."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterable

__version__ = "0.1.0"


def find_versions(names: Iterable[str]) -> dict[str, str]:
    """Look up installed versions without importing the packages; those that are not installed are left out."""
    found = {}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
