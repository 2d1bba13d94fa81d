"""Templates made to take all of a machine's time or memory: each ends within its bounds, whatever C code it reaches.

`templates.jsonl` has a template in each line, long ones as [text, times] pieces. `HOSTILE=all` tries all of them within
the second that a template has; else some, within a quarter of it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from resource import RUSAGE_CHILDREN, getrusage

import pytest
from chat_models import saved_parrot

from hf_finetune.chat import rendering, worker_process
from hf_finetune.chat.rendering import TemplateFailure, TemplateLimitError, render_rows

LINES = Path(__file__).with_name("templates.jsonl").read_text("utf-8").splitlines()
ALL = os.environ.get("HOSTILE") == "all"
CASES = [json.loads(line) for line in (LINES if ALL else LINES[::8])]
SECONDS, MEBIBYTES = 1.5, 300
MESSAGES = [{"role": "user", "content": "A question?"}, {"role": "assistant", "content": "An answer."}]
ROW = {"messages": MESSAGES, "tools": None, "asks": [[2, False, []]]}


def put_together(template: str | list) -> str:
    return template if isinstance(template, str) else "".join(text * times for text, times in template)


class Peak(threading.Thread):
    """Watches the most memory that a process has had, in MiB, until it ends or is no longer watched."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.status, self.done = Path(f"/proc/{number}/status"), threading.Event()
        self.before = self.most = self.read("VmRSS")

    def read(self, name: str) -> float:
        [line] = [line for line in self.status.read_text().splitlines() if line.startswith(name)]
        return int(line.split()[1]) / 1024

    def run(self) -> None:
        while not self.done.wait(0.005):
            try:
                self.most = max(self.most, self.read("VmHWM"))
            except (OSError, ValueError):  # it has ended
                return


def attack(template: str) -> tuple[str | Exception, float, float]:
    """What became of a template, the seconds it took the worker's processor, and the MiB by which that grew."""
    for _ in range(3):  # on a busy machine the first may be late, and its text then known without a worker
        rendering._slow_texts.texts.clear()
        if render_rows("{{ 1 }}", {}, [ROW]) == [["1"]]:
            break
    process = rendering._state.process
    assert process is not None
    peak = Peak(process.process.pid)
    peak.start()
    ended = getrusage(RUSAGE_CHILDREN)
    used = worker_process._read_processor_time(process.process.pid)
    [[result]] = render_rows(template, {}, [ROW])
    now = getrusage(RUSAGE_CHILDREN)
    peak.done.set()
    peak.join()
    if rendering._state.process is process:
        seconds = worker_process._read_processor_time(process.process.pid) - used
    else:
        seconds = now.ru_utime + now.ru_stime - ended.ru_utime - ended.ru_stime - used
    return result, seconds, peak.most - peak.before


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc says what a process takes")
def test_no_template_takes_more_than_its_bounds(monkeypatch):
    if not ALL:
        monkeypatch.setattr(worker_process, "TIME_LIMIT_SECONDS", 0.25)
    stopped, over = 0, []
    for case in CASES:
        template = put_together(case["template"])
        result, seconds, mebibytes = attack(template)
        stopped += isinstance(result, TemplateLimitError | TemplateFailure)
        if seconds > SECONDS or mebibytes > MEBIBYTES:
            over.append((template[:100], seconds, mebibytes))
    assert over == []
    assert stopped > 0.7 * len(CASES)  # they are what they are meant to be
    [[text]] = render_rows("{{ messages[0].content }}", {}, [ROW])
    assert text == "A question?"


def test_generate_ends_with_one_message_where_the_template_has_no_end(tmp_path):
    folder = saved_parrot(tmp_path / "model", {"a": "b"})
    (tmp_path / "model" / "chat_template.jinja").write_text(put_together(json.loads(LINES[0])["template"]))
    started = time.monotonic()
    command = [sys.executable, "-m", "hf_finetune.cli", "generate", folder, "a"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 2
    assert "the chat template did not end within 1 s on one conversation" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert len(ended.stderr.splitlines()) < 6
    assert time.monotonic() - started < 60
