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
transformers.warning("type \\x1b[31mX\\nsaved to /etc")
ours.info("two\\nlines")
import warnings
warnings.warn("keys\\n" + "k" * 10_000)
"""


def test_no_line_is_shown_twice_in_a_row_no_detail_of_the_stack_and_no_line_of_a_library_like_ours(
    environment_of_a_user,
):
    run = [sys.executable, "-c", PROGRAM]
    done = subprocess.run(run, env=environment_of_a_user, capture_output=True, text=True, check=True, timeout=120)
    shown = done.stderr.splitlines()
    assert shown[:4] == ["twice", "between", "twice", "[transformers] something else"]
    assert shown[4:8] == ["[transformers] type \\x1b[31mX", "    saved to /etc", "two", "lines"]
    assert shown[8].endswith("UserWarning: keys")
    assert shown[9].startswith("    kkkk")
    assert shown[9].endswith(" characters more)")
    assert len(done.stderr) < 3_000
