"""What is logged of a fault of this program: where it stands, and no word of what clients have sent."""

from __future__ import annotations

import logging

logger = logging.getLogger(__name__)


def log_fault(what: str, error: BaseException) -> None:
    """Log the traceback of `error` without its message, in which a library may quote what it was given."""
    plain = RuntimeError(f"{type(error).__name__}, whose words are not shown")
    where = (RuntimeError, plain, error.__traceback__)
    logger.error("%s: a fault of this program", what, exc_info=where, extra={"code": "HF879"})
