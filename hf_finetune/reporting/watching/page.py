"""The page of a run that is written again while the run goes on, and that reloads itself in a browser."""

from __future__ import annotations

import time
from pathlib import Path

from hf_finetune.pages import save_page
from hf_finetune.reporting.diagnosis import diagnose
from hf_finetune.reporting.page import render_page
from hf_finetune.reporting.run_log import LogReader
from hf_finetune.reporting.run_record import RunRecord, read_run
from hf_finetune.reporting.watching.view import is_waited_for

SECONDS_BETWEEN_PAGES = 10
SECONDS_BETWEEN_LOOKS = 1


def wait_for_run(folder: Path) -> None:
    """Wait as long as the run in `folder` has written nothing."""
    while is_waited_for(folder):
        time.sleep(SECONDS_BETWEEN_LOOKS)


def keep_page(folder: str, path: Path) -> RunRecord:
    """Write the page of a run to `path` every ten seconds until the run has ended; returns the run as it is then.

    The last page, also where this is interrupted, does not reload itself. Raises as `read_run` and `save_page` do.
    """
    reader = LogReader(Path(folder))
    reader.read()
    run = read_run(folder, log=reader.log)
    try:
        while run.status == "running":
            save_page(path, render_page(run, diagnose(run), reload_s=SECONDS_BETWEEN_PAGES))
            time.sleep(SECONDS_BETWEEN_PAGES)
            reader.read()
            run = read_run(folder, log=reader.log)
    finally:
        save_page(path, render_page(run, diagnose(run)))
    return run
