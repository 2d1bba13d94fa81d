"""Which test provokes which message: watched while the tests run, written down in `message_sites.json`.

`pytest tests --record-messages=FOLDER` writes what each test provoked; `python tests/message_recorder.py FOLDER` then
brings the table up to date. In every other run, a test that the table names has to provoke the messages of its own.
"""

from __future__ import annotations

import functools
import json
import logging
import os
import sys
from collections import defaultdict
from collections.abc import Callable, Generator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from message_sites import ROOT, Site, find_message_sites

from hf_finetune.errors import FinetuneError, Problem

TABLE = Path(__file__).with_name("message_sites.json")
OURS = (str(ROOT / "hf_finetune"), str(ROOT / "recipes"))
MAX_FRAMES = 4  # from a Problem to the call that has it made, such as `document.refuse`
MAX_LINES = 5
COLUMNS = 100

provoked: set[str] = set()
too_long: list[str] = []


@functools.cache
def sites_by_path() -> dict[str, list[Site]]:
    sites = defaultdict(list)
    for site in find_message_sites():
        sites[str(site.path)].append(site)
    return sites


def load_table() -> dict[str, str | None]:
    """The name of each message site, and the test that provokes it, None where there is none."""
    return json.loads(TABLE.read_text(encoding="utf-8"))


@functools.cache
def sites_of_tests() -> dict[str, set[str]]:
    tests = defaultdict(set)
    for name, test in load_table().items():
        if test is not None:
            tests[test].add(name)
    return tests


def note_place(path: str, line: int) -> None:
    provoked.update(site.name for site in sites_by_path().get(path, ()) if site.covers(path, line))


def watch(made: type) -> None:
    """Let each object of a class say where it was made."""
    original: Callable[..., None] = made.__init__

    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        frame: FrameType | None = sys._getframe(1)
        for _ in range(MAX_FRAMES):
            if frame is None:
                break
            if (path := frame.f_code.co_filename).startswith(OURS):
                note_place(path, frame.f_lineno)
            frame = frame.f_back
        original(self, *args, **kwargs)
        if isinstance(self, Problem):  # an error has a line for each of its problems
            check_length(str(self))

    made.__init__ = __init__


def check_length(message: str) -> None:
    # As a terminal wraps them.
    if sum(len(line) // COLUMNS + 1 for line in message.split("\n")) > MAX_LINES:
        too_long.append(message)


def watch_messages() -> None:
    from hf_finetune.chat.assistant_mask import ChatTemplateError
    from hf_finetune.data.reading.json_line import LineError

    for made in (Problem, FinetuneError, LineError, ChatTemplateError):
        watch(made)
    make_record = logging.getLogRecordFactory()

    def watched(*args: Any, **kwargs: Any) -> logging.LogRecord:
        record = make_record(*args, **kwargs)
        if record.levelno >= logging.WARNING and record.pathname.startswith(OURS):
            note_place(record.pathname, record.lineno)
            check_length(record.getMessage())
        return record

    logging.setLogRecordFactory(watched)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--record-messages", metavar="FOLDER", help="write down which test provokes which message")


def pytest_configure(config: pytest.Config) -> None:
    watch_messages()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None]:
    provoked.clear()
    too_long.clear()
    yield
    if folder := item.config.getoption("--record-messages"):
        Path(folder).mkdir(parents=True, exist_ok=True)
        line = json.dumps({"test": item.nodeid, "sites": sorted(provoked), "too_long": too_long})
        with open(Path(folder, os.environ.get("PYTEST_XDIST_WORKER", "main")), "a", encoding="utf-8") as record:
            record.write(line + "\n")
    else:
        assert not too_long, "a message has more than five lines"
        missing = sites_of_tests().get(item.nodeid, set()) - provoked
        assert not missing, f"{TABLE.name} says that this test provokes {missing}"


def main(folder: str) -> None:
    """Write the table anew: a site keeps its test where that provokes it still, else the first that does is taken.

    Tests that were not recorded keep their sites: a few that ran are enough to add a message.
    """
    lines = [line for path in sorted(Path(folder).iterdir()) for line in path.read_text("utf-8").splitlines()]
    tests = defaultdict(list)
    ran = set()
    for record in map(json.loads, lines):
        ran.add(record["test"])
        for name in record["sites"]:
            tests[name].append(record["test"])
    old = load_table() if TABLE.exists() else {}
    table = {}
    for site in find_message_sites():
        found = sorted(tests[site.name], key=lambda test: (len(test), test))
        kept = old.get(site.name)
        stays = kept in found or (kept is not None and kept not in ran)
        table[site.name] = kept if stays else next(iter(found), None)
    TABLE.write_text(json.dumps(table, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(len(table), sum(test is not None for test in table.values()))


if __name__ == "__main__":
    main(sys.argv[1])
