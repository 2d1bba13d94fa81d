"""What the log of a process shows."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import logging
from hf_finetune.environment import set_up_logging
set_up_logging()
ours, transformers = logging.getLogger("hf_finetune.data"), logging.getLogger("transformers.trainer_utils")
for line in ("twice", "twice", "between", "twice"):
    ours.info(line)
transformers.warning("mtime may not be reliable on this filesystem, falling back to numerical ordering")
transformers.warning("something else")
"""


def test_no_line_is_shown_twice_in_a_row_and_no_detail_of_the_stack(environment_of_a_user):
    run = [sys.executable, "-c", PROGRAM]
    done = subprocess.run(run, env=environment_of_a_user, capture_output=True, text=True, check=True, timeout=120)
    assert done.stderr.splitlines() == ["twice", "between", "twice", "[transformers] something else"]
