"""Rows are given to real processes: the results, the counts and what is refused are those of a single one."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import nullcontext, suppress

import psutil
import pyarrow as pa
import pytest
from datasets import Features, Value

from hf_finetune.cache.keys import place_in_cache
from hf_finetune.chat.template import load_chat_template
from hf_finetune.config.sections import DataSection
from hf_finetune.data import cache, workers
from hf_finetune.data.labels.freeze import freeze_labels
from hf_finetune.data.splitting.splits import load_splits
from hf_finetune.data.tokenization import batches
from hf_finetune.data.tokenization.conversations import tokenize_conversations
from hf_finetune.data.tokenization.documents import pack_splits
from hf_finetune.data.tokenization.labelled import tokenize_labelled
from hf_finetune.data.workers import map_ahead, map_rows
from hf_finetune.errors import CannotWriteError, DataError, OutOfMemory, Problem
from hf_finetune.models.tokenizer_training import train_tokenizer

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="rows are given to other processes on Linux")

TOKENIZER = train_tokenizer("char", ["".join(map(chr, range(32, 127))) + "\n"])


@pytest.fixture(autouse=True)
def _many_small_batches(monkeypatch):
    monkeypatch.setattr(batches, "ROWS_PER_BATCH", 3)
    monkeypatch.setattr(workers, "count_cores", lambda: 3)


class Work:
    """Doubles numbers, and counts them."""

    def __init__(self, do=lambda number: 2 * number):
        self.do, self.counts = do, Counter()

    def read(self, first, table):
        return [first, *table.column("number").to_pylist()]

    def encode(self, read):
        return [self.do(number) for number in read]

    def build(self, encoded):
        self.counts["rows"] += len(encoded) - 1
        return encoded

    def collect(self):
        return self.counts

    def merge(self, collected):
        self.counts.update(collected)


def cut(numbers, size=2):
    return [(at, pa.table({"number": numbers[at : at + size]})) for at in range(0, len(numbers), size)]


def test_results_come_in_order_however_long_each_takes():
    def slowly(number):
        time.sleep(0.02 * (number % 3))
        return number

    work = Work(slowly)
    found = list(map_rows(work, cut([*range(40)]), 3))
    assert found == [[at, at, at + 1] for at in range(0, 40, 2)]
    assert work.counts == {"rows": 40}


def test_other_processes_do_it_where_there_are_batches_enough():
    where = lambda _: os.getpid()  # noqa: E731
    several = {pid for pids in map_rows(Work(where), cut([*range(40)]), 3) for pid in pids}
    assert len(several) == 3
    assert os.getpid() not in several
    few = cut([*range(2 * (workers.FEWEST_BATCHES - 1))])
    assert {pid for pids in map_rows(Work(where), few, 3) for pid in pids} == {os.getpid()}
    assert not multiprocessing.active_children()


def make_rows(becomes):
    for number in range(30):
        text = f"{number} {'ab<|eos|> ' if number % 7 == 0 else 'abc ' * (number % 5)}"
        if becomes == "conversation":
            turns = [("user", text), ("assistant", text * 2)] * (1 + number % 3)
            yield {"messages": [{"role": role, "content": said} for role, said in turns]}
        elif becomes == "document":
            yield {"text": text if number % 6 else " "}
        else:
            yield {"text": text, "label": ["x", "y"][number % 2]}


def tokenize(becomes, path, num_proc, monkeypatch, folder):
    """The tokens of rows, and their counts, made anew."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", folder)
    template = "chatml" if becomes == "conversation" else None
    data = DataSection(train=str(path), validation_fraction=0.5, num_proc=num_proc, chat_template=template)
    if becomes == "conversation":
        data = data.model_copy(update={"max_dropped": 0.9})
    splits = load_splits(data, becomes, seed=0)
    if becomes == "conversation":
        template = load_chat_template(data, TOKENIZER)
        return tokenize_conversations(splits, TOKENIZER, template, data, 170)
    if becomes == "document":
        return pack_splits(splits.rows, TOKENIZER, 8, isolate=True, locate=splits.locate, num_proc=num_proc)
    return tokenize_labelled(splits, TOKENIZER, freeze_labels(splits, data), data, 9)


@pytest.mark.parametrize("becomes", ["conversation", "document", "labelled"])
def test_tokens_and_counts_are_the_same_for_any_number_of_processes(becomes, tmp_path, monkeypatch):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in make_rows(becomes)))
    known = []
    for number in (1, 2, 3):
        rows, facts = tokenize(becomes, path, number, monkeypatch, tmp_path / str(number))
        files = {each.name: each.read_bytes() for each in place_in_cache(".").glob("*.arrow")}
        known.append((files, facts, {name: table.to_dict() for name, table in rows.items()}))
    assert known[0] == known[1] == known[2]
    assert len(known[0][0]) >= 3  # rows, and two splits of tokens


def test_every_refused_row_is_named_whichever_process_finds_it(tmp_path):
    path = tmp_path / "rows.jsonl"
    rows = [{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]} for _ in range(24)]
    for number in (2, 9, 22):
        rows[number]["messages"].insert(0, {"role": "tool", "content": "c"})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    said = []
    for number in (1, 3):
        data = DataSection(train=str(path), chat_template="gemma", num_proc=number)
        splits, template = load_splits(data, "conversation", seed=0), load_chat_template(data, TOKENIZER)
        with pytest.raises(DataError) as refused:
            tokenize_conversations(splits, TOKENIZER, template, data, 600)
        said.append(str(refused.value))
    assert said[0] == said[1]
    assert [problem.line for problem in refused.value.problems] == [3, 10, 23]


def test_a_template_that_renders_for_ever_is_given_up_by_every_process(tmp_path):
    template = tmp_path / "for_ever.jsonl.jinja"
    # Not on the neutral conversations that a template is tried with.
    template.write_text(
        "{% for m in messages %}{{ m.role }}: {{ m.content }}{{ eos_token }}"
        "{% if 'spin' in m.content %}{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
        "{% endif %}{% endfor %}"
    )
    turns = [{"role": "user", "content": "spin"}, {"role": "assistant", "content": "b"}]
    path = tmp_path / "rows.jsonl"
    path.write_text((json.dumps({"messages": turns}) + "\n") * 24)
    said = []
    for number in (1, 2):
        data = DataSection(train=str(path), chat_template=str(template), num_proc=number)
        splits = load_splits(data, "conversation", seed=0)
        with pytest.raises(DataError, match="did not end within 1 s") as refused:
            tokenize_conversations(splits, TOKENIZER, load_chat_template(data, TOKENIZER), data, 600)
        said.append(str(refused.value))
        assert [problem.line for problem in refused.value.problems] == [1, 2, 3]
    assert said[0] == said[1]


def test_what_a_process_raises_is_raised_here_in_its_place():
    def divide(number):
        return 12 // (number - 20)

    seen = []
    with pytest.raises(ZeroDivisionError) as raised:
        seen.extend(map_rows(Work(divide), cut([*range(40)]), 2))
    assert len(seen) == 10
    assert "in divide" in raised.value.__notes__[0]
    assert not multiprocessing.active_children()


def test_an_exception_that_does_not_come_through_a_pipe_is_told_by_its_trace():
    class Own(Exception):
        pass

    def fail(number):
        raise Own("so it is")

    with pytest.raises(RuntimeError, match="so it is"):
        list(map_rows(Work(fail), cut([*range(40)]), 2))


def test_rows_refused_before_an_error_are_counted_with_it():
    def refuse(number):
        if number == 30:
            raise DataError(Problem("too much"))
        return number

    work = Work(refuse)
    with pytest.raises(DataError, match="too much"):
        list(map_rows(work, cut([*range(40)]), 2))
    assert work.counts["rows"] >= 30


def test_a_process_that_is_killed_ends_the_run_with_its_signal_and_a_remedy():
    def killed(number):
        if number == 20:
            os.kill(os.getpid(), signal.SIGKILL)
        return number

    with pytest.raises(OutOfMemory, match=r"ended before its time \(signal 9\).*data\.num_proc: 1"):
        list(map_rows(Work(killed), cut([*range(40)]), 2))
    assert not multiprocessing.active_children()


def test_results_that_are_wanted_no_more_leave_no_process():
    results = map_rows(Work(), cut([*range(400)]), 2)
    next(results)
    assert len(multiprocessing.active_children()) == 2
    results.close()
    assert not multiprocessing.active_children()


# A shell has what it runs in the background ignore Ctrl-C, and so would all that is started there.
RUN = """
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.path[:0] = {paths!r}
import pyarrow as pa
from hf_finetune.data.workers import map_rows
class Work:
    def read(self, first, table):
        return first
    def encode(self, first):
        time.sleep({work})
        return first
    def build(self, first):
        return first
    def collect(self): ...
    def merge(self, collected): ...
for result in map_rows(Work(), [(at, pa.table({{"number": [at]}})) for at in range(2_000)], 2):
    print(result, flush=True)
    time.sleep({use})
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(("work", "use"), [(0.2, 0), (0, 0.2)])
def test_processes_end_with_the_one_that_started_them(number, work, use):
    run = subprocess.Popen(
        [sys.executable, "-c", RUN.format(paths=sys.path, work=work, use=use)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        assert run.stdout.readline()
        children = psutil.Process(run.pid).children()
        assert len(children) == 2
        time.sleep(0.1)
        # Ctrl-C, and what a scheduler sends, reach them all.
        (os.kill if number == signal.SIGKILL else os.killpg)(run.pid, number)
        run.communicate(timeout=20)
        assert not psutil.wait_procs(children, timeout=5)[1]
    finally:
        with suppress(ProcessLookupError):
            os.killpg(run.pid, signal.SIGKILL)
        run.communicate()


def test_an_entry_that_cannot_be_written_leaves_no_process(monkeypatch):
    monkeypatch.setattr(cache, "write_sidecar", lambda *_: None)
    schema = Features({"number": Value("int64")})

    def build():
        for result in map_rows(Work(), cut([*range(400)]), 2):
            yield pa.record_batch({"number": result}, schema.arrow_schema)

    class Full:
        def write(self, data):
            raise OSError(28, "No space left on device")

        def flush(self):
            pass

    monkeypatch.setattr(cache, "open_atomically", lambda *_, **__: nullcontext(Full()))
    with pytest.raises(CannotWriteError, match="No space") as kept:  # its frames are kept as well
        cache.build_cached_dataset("rows", "full", schema, build)
    assert not multiprocessing.active_children(), kept


def test_of_large_batches_one_at_a_time_is_worked_on(monkeypatch, tmp_path):
    monkeypatch.setattr(workers, "LARGE", 100)

    def note(number):
        (tmp_path / f"{number}.begin").touch()
        time.sleep(0.02)
        others = len(list(tmp_path.glob("*.begin"))) - len(list(tmp_path.glob("*.end"))) - 1
        (tmp_path / f"{number}.end").touch()
        return others

    found = [others for result in map_rows(Work(note), cut([*range(100, 120)], 1), 3) for others in result]
    assert found == [0] * 40


def test_more_processes_than_cores_are_not_started_and_that_is_said(caplog):
    caplog.set_level("INFO")
    workers._say_once.cache_clear()
    assert workers.count_processes(8) == workers.count_processes(8) == 3
    assert caplog.text.count("data.num_proc is 8, and 3 are used") == 1
    assert (workers.count_processes(None), workers.count_processes(2)) == (3, 2)


def test_what_is_worked_on_ahead_comes_in_order_and_raises_in_its_place():
    def divide(number):
        return 12 // number

    seen = []
    with pytest.raises(ZeroDivisionError):
        seen.extend(map_ahead(divide, [1, 2, 3, 0, 4]))
    assert seen == [12, 6, 4]
    assert list(map_ahead(divide, [])) == []
