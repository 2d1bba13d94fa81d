"""What a process is given that deals with files of others: none of this one's secrets."""

from __future__ import annotations

import os

# What a Python may need to find its libraries, and the local time.
KEPT_VARIABLES = ("TZ", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "SYSTEMROOT")


def keep_variables() -> dict[str, str]:
    """The variables of the environment that such a process inherits."""
    return {name: os.environ[name] for name in KEPT_VARIABLES if name in os.environ}
