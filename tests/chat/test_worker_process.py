"""The worker that renders templates: killed, forked, limited, used by many at once, it gives the same texts."""

from __future__ import annotations

import logging
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import threading
import time

import psutil
import pytest
from datasets import Dataset

from hf_finetune.chat import rendering, worker_process
from hf_finetune.chat.built_in import read_built_in
from hf_finetune.chat.rendering import (
    RemoteTemplate,
    TemplateLimitError,
    end_worker,
    hash_template,
    is_trusted,
    render_rows,
    trust_template,
)
from hf_finetune.environment.bare_process import KEPT_VARIABLES
from hf_finetune.errors import MachineError

ECHO = "{% for m in messages %}{{ m.content }}{% endfor %}"
SLOW = "{% for i in range(90000) %}{% endfor %}" + ECHO


@pytest.fixture(autouse=True)
def worker_of_its_own():
    end_worker()
    yield
    end_worker()


def rows_of(*texts: str) -> list[dict]:
    return [
        {"messages": [{"role": "user", "content": text}], "tools": None, "asks": [[1, False, []]]} for text in texts
    ]


def texts_of(template: str, *texts: str) -> list:
    return [result for [result] in render_rows(template, {}, rows_of(*texts))]


def worker() -> psutil.Process:
    return psutil.Process(rendering._state.process.process.pid)


def test_a_worker_that_is_killed_in_the_middle_of_a_batch_is_replaced_and_no_row_is_lost():
    texts_of(ECHO, "a")
    first, texts = worker(), [str(number) for number in range(60)]
    killer = threading.Timer(0.03, lambda: os.kill(first.pid, signal.SIGKILL))
    killer.start()
    assert texts_of(SLOW, *texts) == texts
    killer.join()
    assert worker().pid != first.pid


# Stands for C code that ends its process, as one that runs out of stack does.
CRASH = "{% if 'crash' in messages[0].content %}{{ messages[0].__class__ }}{% endif %}" + ECHO


def test_the_row_on_which_it_dies_again_and_again_is_named_and_the_others_are_rendered(monkeypatch):
    boot = worker_process.BOOT.replace("runpy.run_path", "os = __import__('os'); runpy.run_path")
    crash = "import jinja2.sandbox as s, os; s.SandboxedEnvironment.unsafe_undefined = lambda *a: os.abort(); "
    monkeypatch.setattr(worker_process, "BOOT", boot.replace("runpy.run_path", crash + "runpy.run_path"))
    one, bad, other = texts_of(CRASH, "a", "crash", "b")
    assert (one, other) == ("a", "b")
    assert isinstance(bad, TemplateLimitError)
    assert "ended the process that renders it (signal 6)" in str(bad)
    assert "trust" not in str(bad)  # it would end the process that trusts it


def test_a_row_that_takes_too_long_or_too_much_is_named_and_the_others_are_rendered(monkeypatch):
    monkeypatch.setattr(worker_process, "TIME_LIMIT_SECONDS", 0.3)
    template = (
        "{% if messages[0].content == 'long' %}{{ (messages|length)|round(-999999999) }}{% endif %}"
        "{% if messages[0].content == 'large' %}{{ messages[0].content * 10 ** 10 }}{% endif %}" + ECHO
    )
    one, long, other, large, last = texts_of(template, "a", "long", "b", "large", "c")
    assert (one, other, last) == ("a", "b", "c")
    assert "did not end within 0.3 s" in str(long)
    assert "took more than 256 MiB" in str(large)


def test_a_worker_that_does_not_start_ends_the_run_with_one_message(monkeypatch):
    monkeypatch.setattr(worker_process, "BOOT", "raise SystemExit(3)")
    with pytest.raises(MachineError, match=r"does not start \(.*exit code 3\)") as refused:
        texts_of(ECHO, "a")
    assert len(str(refused.value).splitlines()) == 1


def test_a_system_that_starts_no_process_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "executable", str(tmp_path / "no python"))
    with pytest.raises(MachineError, match="does not start"):
        texts_of(ECHO, "a")


def rendered_in(batch: dict) -> dict:
    return {"rendered": texts_of(ECHO, *batch["text"]), "worker": [worker().pid] * len(batch["text"])}


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_each_process_of_datasets_map_has_a_worker_of_its_own():
    texts_of(ECHO, "a")
    ours = worker().pid
    rows = Dataset.from_dict({"text": [str(number) for number in range(40)]})
    done = rows.map(rendered_in, batched=True, batch_size=10, num_proc=2)
    assert done["rendered"] == rows["text"]
    assert len({*done["worker"]}) == 2
    assert ours not in done["worker"]
    assert texts_of(ECHO, "a") == ["a"]
    assert worker().pid == ours


def _render_in_child(queue: multiprocessing.Queue) -> None:
    queue.put(texts_of(ECHO, "child"))


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_process_that_is_forked_while_a_batch_is_rendered_has_no_part_in_it():
    found: list = []
    texts = [str(number) for number in range(40)]
    busy = threading.Thread(target=lambda: found.append(texts_of(SLOW, *texts)))
    busy.start()
    time.sleep(0.2)
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=_render_in_child, args=(queue,))
    child.start()
    assert queue.get(timeout=30) == ["child"]
    child.join()
    busy.join()
    assert found == [texts]


def test_threads_take_turns():
    found: dict[int, list] = {}

    def render(number: int) -> None:
        found[number] = [texts_of(ECHO, f"{number} {each}")[0] for each in range(30)]

    threads = [threading.Thread(target=render, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {number: [f"{number} {each}" for each in range(30)] for number in range(2)}


def test_it_inherits_no_secret_and_no_file_and_ends_with_its_parent(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_TOKEN", "a secret")
    with (tmp_path / "rows").open("w") as rows:
        os.set_inheritable(rows.fileno(), True)
        texts_of(ECHO, "a")
        assert "HF_TOKEN" not in worker().environ()
        assert str(tmp_path / "rows") not in {file.path for file in worker().open_files()}
    program = (
        "import os\nfrom hf_finetune.chat import rendering\n"
        "rendering.render_rows('{{ 1 }}', {}, [{'messages': [], 'tools': None, 'asks': [[0, False, []]]}])\n"
        "print(rendering._state.process.process.pid, flush=True)\nos.kill(os.getpid(), 9)"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    number = int(ended.stdout)
    for _ in range(100):
        if not psutil.pid_exists(number):
            return
        time.sleep(0.1)
    raise AssertionError("the worker outlives its parent")


def test_it_is_given_no_variable_but_what_python_needs_and_loads_nothing_that_reaches_a_network(monkeypatch):
    monkeypatch.setenv("AN_ACCOUNT", "of somebody")
    end_worker()
    texts_of(ECHO, "a")
    # What Python itself sets as it starts.
    assert set(worker().environ()) <= {*KEPT_VARIABLES, "LC_CTYPE", "__CF_USER_TEXT_ENCODING"}
    program = f"import runpy; runpy.run_path({worker_process.worker.__file__!r}); import sys; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    assert "jinja2.sandbox" in loaded
    assert not {"socket", "_socket", "ssl", "http.client", "urllib.request", "asyncio", "httpx2", "requests"} & {
        *loaded
    }


def test_ctrl_c_does_not_reach_it():
    texts_of(ECHO, "a")
    before = worker().pid
    os.kill(before, signal.SIGINT)
    assert texts_of(ECHO, "b") == ["b"]
    assert worker().pid == before


def test_an_interrupted_batch_leaves_no_answers_for_the_next():
    # Commands that ran in this process before have their own way with Ctrl-C.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)

    def interrupt() -> None:
        # To this thread: one that another thread gets does not end the wait for an answer.
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    timer = threading.Timer(0.3, interrupt)
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        texts_of(SLOW, *(f"a{number}" for number in range(4000)))  # texts of a slow template are kept
    timer.join()
    signal.signal(signal.SIGINT, before)
    assert texts_of(ECHO, "b", "c") == ["b", "c"]


PROGRAM_UNDER_LIMITS = """
import resource, psutil
resource.setrlimit(resource.RLIMIT_CPU, (1000, 2000))
resource.setrlimit(resource.RLIMIT_AS, ({memory}, resource.RLIM_INFINITY))
from hf_finetune.chat import rendering
row = {{"messages": [], "tools": None, "asks": [[0, False, []]]}}
print(rendering.render_rows("{{{{ ('a' * 10 ** 8)|length }}}}", {{}}, [row])[0][0])
worker = psutil.Process(rendering._state.process.process.pid)
print(worker.rlimit(resource.RLIMIT_AS)[0], worker.rlimit(resource.RLIMIT_CPU), worker.rlimit(resource.RLIMIT_CORE)[0])
"""


@pytest.mark.skipif(not hasattr(psutil.Process, "rlimit"), reason="the limits of a process are read on Linux alone")
def test_its_limits_are_ours_and_a_lower_one_of_the_process_stays(monkeypatch):
    texts_of(ECHO, "a")
    memory, (soft, _) = worker().rlimit(resource.RLIMIT_AS)[0], worker().rlimit(resource.RLIMIT_CPU)
    now = worker().memory_info().vms
    assert now < memory < now + 260 * 2**20
    assert 1 <= soft <= 3
    boot = "import resource; resource.setrlimit(resource.RLIMIT_AS, (150 * 2**20, resource.RLIM_INFINITY)); "
    monkeypatch.setattr(worker_process, "BOOT", boot + worker_process.BOOT)
    end_worker()
    [lower] = texts_of("{{ ('a' * 10 ** 8 * 2)|length }}", "a")
    assert "took more than" in str(lower)
    assert texts_of(ECHO, "b") == ["b"]
    assert worker().rlimit(resource.RLIMIT_AS)[0] == 150 * 2**20


def test_without_limits_of_the_system_the_clock_alone_bounds_a_template_and_that_is_said(monkeypatch, caplog):
    monkeypatch.setattr(worker_process, "TIME_LIMIT_SECONDS", 0.3)
    monkeypatch.setattr(worker_process, "BOOT", "import sys; sys.modules['resource'] = None; " + worker_process.BOOT)
    with caplog.at_level(logging.WARNING):
        assert texts_of(ECHO, "a") == ["a"]
    assert (
        "bounded by a clock alone: this system lets no process limit its memory and its processor time" in caplog.text
    )
    [endless] = texts_of("{{ 12345678|round(-999999999) }}", "a")
    assert "did not end within 0.3 s" in str(endless)


def test_templates_that_ship_and_those_that_are_trusted_are_rendered_in_the_process_itself(monkeypatch):
    monkeypatch.setattr(worker_process, "BOOT", "raise SystemExit(3)")
    monkeypatch.setattr(rendering, "_trusted", set())
    source = read_built_in("chatml")
    assert is_trusted(source)
    assert not is_trusted(source + " ")
    assert "hi" in texts_of(source, "hi")[0]
    own = ECHO + "{# mine #}"
    with pytest.raises(MachineError):
        texts_of(own, "hi")
    trust_template(own)
    assert texts_of(own, "hi") == ["hi"]
    assert len(hash_template(own)) == 64


@pytest.mark.parametrize("text", ["\ud800", "é \0 \x85 \u2028 😀", "\n", '"\\'])
def test_texts_come_back_as_they_went_or_are_refused_where_they_are_no_text(text):
    [result] = texts_of(ECHO, text)
    assert "surrogates not allowed" in str(result) if text == "\ud800" else result == text


def test_what_cannot_be_sent_is_refused_for_its_row_alone():
    rows = rows_of("a", "b")
    rows[0]["messages"][0]["n"] = 10**5000
    [[refused], [other]] = render_rows(ECHO, {}, rows)
    assert isinstance(refused, ValueError)
    assert other == "b"


def test_a_worker_that_answers_in_another_form_than_asked_is_not_believed():
    """What escapes a sandbox writes what it likes: to the parent it is a text or an error, never more."""
    for answer in ([1], {"kind": "SystemExit", "what": "x", "line": None}, {"kind": "limit"}, 7, None, ["a", "b"]):
        [result] = rendering._spread(answer, 1)
        assert isinstance(rendering._read_result(result, ECHO), Exception)
    assert [rendering._read_result(each, ECHO) for each in rendering._spread(["a"], 1)] == ["a"]


def test_a_template_of_transformers_callers_is_rendered_by_it():
    assert RemoteTemplate("{{ messages|length }}{{ a }}").render(messages=[{"role": "user"}], a=2) == "12"
