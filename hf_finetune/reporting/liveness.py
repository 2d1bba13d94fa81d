"""Whether a run is at work, as far as its folder shows; nothing is locked or written."""

from __future__ import annotations

import socket
import time
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

from hf_finetune.folders import LOCK, LOG
from hf_finetune.folders.lock import is_born, read_owner
from hf_finetune.reporting.files import get_part
from hf_finetune.reporting.run_log import RunLog

QUIET_S = 300.0
"""So long a run on another host may write nothing, or ten times as long as between its lines."""
LINES_COMPARED = 20


def seems_alive(folder: Path, log: RunLog) -> bool:
    """Whether an unfinished run is at work: its process holds the folder, and nothing has said that training ended.

    A process on another host, or in another container, is taken for alive as long as it writes something. Clocks of two
    hosts may differ by minutes.
    """
    if log.ended is not None or (owner := read_owner(folder / LOCK)) is None:
        return False
    if owner.host == socket.gethostname():
        return is_born(owner)
    times = [path.stat().st_mtime for path in (folder / LOG, folder / LOCK) if path.is_file()]
    return time.time() - max(times, default=0.0) < max(QUIET_S, 10 * find_gap(log))


def find_gap(log: RunLog) -> float:
    """Seconds between the last lines of a log, as a rule: the median; 0 where there are no two."""
    times = log.times[-LINES_COMPARED:]
    gaps = [later - earlier for earlier, later in pairwise(times) if later >= earlier]
    return median(gaps) if gaps else 0.0


def goes_beyond(log: RunLog, report: Mapping[str, Any]) -> bool:
    """Whether the log is of a finished run that is trained on: `report` (report.json) is of its earlier end."""
    train = get_part(report, "train")
    steps, planned = train.get("steps"), train.get("max_steps")
    further = isinstance(steps, int) and log.step > steps
    return further or (isinstance(planned, int) and log.max_steps is not None and log.max_steps > planned)
