"""Ctrl-C and SIGTERM at any time: one line, exit code 130 or 143, no traceback, and no process left behind."""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import re
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil
import pytest
from accelerate.utils.other import get_free_port
from chat_models import saved_parrot
from saved_records import put_records

from hf_finetune.cache.keys import find_cache
from hf_finetune.cli.terminal import read_terminal_lines
from hf_finetune.interruption import RECIPES, Terminated, catch_signals, find_signal, unwind_when_stopped
from hf_finetune.reporting import describe_kept

ROOT = Path(__file__).resolve().parent.parent
COMMANDS = Path(sys.executable).parent
CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}
SAID = {signal.SIGINT: "interrupted (Ctrl-C): ", signal.SIGTERM: "ended by SIGTERM: "}
LONG = (
    "recipes/configs/char_model.yaml", "model.scratch.hidden_size=32", "model.scratch.num_hidden_layers=1",
    "model.scratch.num_attention_heads=2", "train.max_steps=100000", "train.logging_steps=2",
    "train.save_strategy=steps", "train.save_steps=2", "train.save_total_limit=2", "eval.prompts=[]",
)  # fmt: skip
RARELY = ("train.eval_strategy=no",)
ALWAYS = ("train.eval_strategy=steps", "train.eval_steps=2", "train.per_device_eval_batch_size=1")


def be_a_command() -> None:
    """Reached by Ctrl-C, which what runs in the background of a shell ignores, and killed where the tests are."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


class Running:
    """A command whose standard error is read as it comes."""

    def __init__(self, environment: dict[str, str], command: Sequence[str]) -> None:
        self.said = ""
        self.process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True, start_new_session=True, preexec_fn=be_a_command,
        )  # fmt: skip
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def close(self) -> None:
        self._reader.join()
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            stream.close()

    def _read(self) -> None:
        for line in self.process.stderr:
            self.said += line

    def wait_for(self, marker: str, seconds: float = 200) -> None:
        end = time.monotonic() + seconds
        while not re.search(marker, self.said, re.MULTILINE):
            assert self.process.poll() is None, self.said
            assert time.monotonic() < end, self.said
            time.sleep(0.02)

    def wait_until_it_listens(self) -> None:
        """Until it has a handler for SIGTERM: what comes before that is Python's own start."""
        status = Path(f"/proc/{self.process.pid}/status")
        while not int(re.search(r"SigCgt:\s+(\w+)", status.read_text())[1], 16) & 1 << (signal.SIGTERM - 1):
            time.sleep(0.005)

    def stop(self, number: int, *, group: bool = False) -> tuple[int, str]:
        """Exit code and what was said after the signal, once the process and all that it started have ended."""
        before = len(self.said)
        children = psutil.Process(self.process.pid).children(recursive=True)
        (os.killpg if group else os.kill)(self.process.pid, number)
        code = self.process.wait(60)
        self._reader.join(60)
        _, alive = psutil.wait_procs(children, timeout=30)
        assert alive == [], "processes are left behind"
        return code, self.said[before:]


@pytest.fixture
def start(environment_of_a_user) -> Iterator[object]:
    started: list[Running] = []

    def run(*command: str) -> Running:
        started.append(Running(environment_of_a_user, command))
        return started[-1]

    yield run
    for each in started:
        if each.process.poll() is None:
            os.killpg(each.process.pid, signal.SIGKILL)
            each.process.wait()
        each.close()


@pytest.fixture
def hf_finetune(start):
    return lambda *arguments: start(sys.executable, "-m", "hf_finetune.cli", *arguments)


def is_one_line(said: str, number: int) -> bool:
    last = said.splitlines()[-1]
    # Nor a line of torchrun's log, "W1130 21:40:42.076000 29814 torch/.../agent/server/api.py:753] ...".
    others = re.search(r"Traceback|^.{0,2}[A-Z]\d{4} \d\d:\d\d:\d\d\.", said, re.MULTILINE)
    return last.startswith(SAID[number]) and not others and said.count(SAID[number]) == 1


# When, by what was said and seconds after it; and whether it trains by then.
TIMES = [
    (signal.SIGINT, None, 0.0, RARELY),
    (signal.SIGTERM, None, 0.05, RARELY),
    (signal.SIGINT, None, 0.2, RARELY),
    (signal.SIGINT, "accelerate launch", 0.0, RARELY),
    (signal.SIGTERM, "accelerate launch", 1.0, RARELY),
    (signal.SIGINT, "accelerate launch", 2.5, RARELY),
    (signal.SIGTERM, "^train: ", 0.0, RARELY),
    (signal.SIGTERM, "^step +4/.*validation", 0.3, ALWAYS),
]


@pytest.mark.parametrize(("number", "marker", "seconds", "settings"), TIMES)
def test_a_training_that_is_stopped_says_what_is_kept(hf_finetune, tmp_path, number, marker, seconds, settings):
    running = hf_finetune("train", *LONG, *settings, f"output_dir={tmp_path}/run")
    running.wait_until_it_listens() if marker is None else running.wait_for(marker)
    time.sleep(seconds)
    code, said = running.stop(number, group=number == signal.SIGINT)
    assert code == CODES[number], running.said
    assert is_one_line(said, number), running.said
    if marker is not None and "step" in marker:
        check_kept(said, tmp_path / "run", 100000)


def check_kept(said: str, run: Path, steps: int) -> None:
    """The line names a checkpoint that is there, and is of the step that the line says."""
    kept, step = re.search(rf"(\S+/checkpoint-\d+) is kept, step (\d+) of {steps}; go on with: ", said).groups()
    assert kept == f"{run}/checkpoint-{step}"
    assert json.loads(Path(kept, "trainer_state.json").read_text())["global_step"] == int(step)


def test_ctrl_c_in_mid_training_names_a_command_that_goes_on(hf_finetune, preloaded, tmp_path):
    settings = [each.replace("=100000", "=40") for each in LONG]
    running = hf_finetune("train", *settings, *RARELY, f"output_dir={tmp_path}/run", "--on", "cpu")
    running.wait_for("^step +6/")
    code, said = running.stop(signal.SIGINT, group=True)
    assert code == 130
    assert is_one_line(said, signal.SIGINT), running.said
    check_kept(said, tmp_path / "run", 40)
    command = re.search(r"go on with: (hf-finetune .*)", said)[1]
    again = subprocess.run(
        ["bash", "-c", command], cwd=ROOT, env=preloaded, capture_output=True, text=True, check=False
    )
    assert again.returncode == 0, again.stderr
    assert re.search(rf"goes on from {tmp_path}/run/checkpoint-\d+, step \d+ of 40", again.stderr)
    assert (tmp_path / "run" / "report.json").is_file()


@pytest.mark.parametrize(
    ("number", "group", "marker", "seconds"),
    [
        (signal.SIGINT, True, "^step +4/", 0.0),
        (signal.SIGTERM, False, "^step +4/", 0.0),
        (signal.SIGINT, True, "accelerate launch", 4.0),
    ],
)
def test_two_processes_end_together_with_one_line(hf_finetune, tmp_path, number, group, marker, seconds):
    running = hf_finetune("train", *LONG, *RARELY, "--on", "cpu_2proc", f"output_dir={tmp_path}/run")
    running.wait_for(marker)
    time.sleep(seconds)
    code, said = running.stop(number, group=group)
    assert code == CODES[number], running.said
    assert is_one_line(said, number), running.said


def test_ctrl_c_typed_in_a_terminal_ends_two_processes_with_our_lines_alone(environment_of_a_user, tmp_path):
    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    command = ["train", *LONG, *RARELY, "--on", "cpu_2proc", f"output_dir={tmp_path}/run"]
    with subprocess.Popen(
        [sys.executable, "-m", "hf_finetune.cli", *command],
        cwd=ROOT, env=environment_of_a_user | {"TERM": "xterm-256color"}, stdin=theirs, stdout=theirs, stderr=theirs,
        start_new_session=True, preexec_fn=lambda: (be_a_command(), fcntl.ioctl(theirs, termios.TIOCSCTTY, 0)),
    ) as process:  # fmt: skip
        os.close(theirs)
        shown = read_until(ours, b"step +4/")
        # As a key is typed: the terminal sends the signal to the launcher and to its processes.
        os.write(ours, b"\x03")
        behind = read_until(ours, None)
        os.close(ours)
    lines = [re.sub(r"\x1b\[[^A-Za-z]*[A-Za-z]", "", line).strip() for line in behind.splitlines()]
    assert process.returncode == 130, shown + behind
    assert is_one_line("\n".join(line.removeprefix("^C") for line in lines if line), signal.SIGINT), behind


def read_until(terminal: int, marker: bytes | None, seconds: float = 200) -> str:
    """What a terminal shows until the marker has come, or until nobody has it any more."""
    shown, end = b"", time.monotonic() + seconds
    while (marker is None or not re.search(marker, shown)) and time.monotonic() < end:
        try:
            shown += os.read(terminal, 65_536)
        except OSError:  # Linux's end of a terminal
            break
    return shown.decode(errors="replace")


@pytest.mark.parametrize("machine", [0, 1])
def test_a_machine_that_waits_for_another_one_is_ended_by_a_signal(hf_finetune, tmp_path, machine):
    # torch waits in C++, where Python takes no signal.
    place = ["--num-machines", "2", "--num-processes", "2", "--machine-rank", str(machine)]
    place += ["--main-process-ip", "127.0.0.1", "--main-process-port", str(get_free_port())]
    waiting = hf_finetune("train", *LONG, *RARELY, "--on", "cpu_2proc", *place, f"output_dir={tmp_path}/run")
    waiting.wait_for("the machines wait for each other")
    time.sleep(4.0)
    number = (signal.SIGINT, signal.SIGTERM)[machine]
    code, said = waiting.stop(number)
    assert code == CODES[number]
    assert is_one_line(said, number)


def test_what_accelerate_launch_started_ends_with_it(start, tmp_path):
    config = "accelerate_configs/cpu.yaml"
    launch = (str(COMMANDS / "accelerate"), "launch", "--config_file", config, "recipes/continued_pretraining.py")
    running = start(*launch, *LONG, *RARELY, f"output_dir={tmp_path}/run")
    running.wait_for("^step +4/")
    _, said = running.stop(signal.SIGTERM)
    assert "is kept, step" in said
    assert f"go on with: accelerate launch --config_file {config} recipes/continued_pretraining.py recipes/" in said
    assert said.rstrip().endswith(f"output_dir={tmp_path}/run")


@pytest.mark.parametrize(("number", "seconds"), [(signal.SIGINT, 0.8), (signal.SIGTERM, 2.0), (signal.SIGINT, 3.5)])
def test_a_command_that_is_stopped_while_it_imports_says_so(hf_finetune, tmp_path, number, seconds):
    model = saved_parrot(tmp_path / "model", {"\n": "a", "a": "b", "b": "a"}, positions=50_000)
    running = hf_finetune("generate", model, "hi", "--max-new-tokens", "49000", "--temperature", "0")
    running.wait_until_it_listens()
    time.sleep(seconds)
    code, said = running.stop(number)
    assert code == CODES[number]
    assert is_one_line(said, number), running.said
    assert "nothing was finished; the same command begins again" in said


def test_a_chat_is_ended_by_sigterm_in_the_middle_of_an_answer(hf_finetune, tmp_path):
    model = saved_parrot(tmp_path / "model", {"\n": "a", "a": "b", "b": "a"}, positions=50_000)
    chat = hf_finetune("chat", model, "--max-new-tokens", "49000", "--temperature", "0")
    chat.process.stdin.write("hi\n")
    chat.process.stdin.flush()
    assert chat.process.stdout.read(8) == "abababab"
    code, said = chat.stop(signal.SIGTERM)
    assert code == 143
    assert is_one_line(said, signal.SIGTERM)
    assert "what /save has written is kept" in said


ENDING = """
import atexit, sys, time
sys.argv = ["recipes/sft.py"]
from hf_finetune.errors import user_errors
import multiprocessing.spawn  # as torch does
atexit.register(lambda: (print("ending", file=sys.stderr, flush=True), time.sleep(1.5)))
with user_errors():
    pass
"""


@pytest.mark.parametrize("number", CODES)
def test_a_signal_behind_the_last_line_changes_nothing_and_a_second_one_ends_at_once(start, number):
    for times in (1, 2):
        ending = start(sys.executable, "-c", ENDING)
        ending.wait_for("ending")
        for _ in range(times - 1):
            os.kill(ending.process.pid, number)
            time.sleep(0.7)
        code, said = ending.stop(number)
        assert code == (0 if times == 1 else 128 + number)
        assert said == ""


WORKER = """
import multiprocessing, sys
sys.argv = ["recipes/sft.py"]
from hf_finetune.interruption import is_script_of_a_run
def tell():
    print(is_script_of_a_run())
if __name__ == "__main__":
    tell()
    worker = multiprocessing.get_context("spawn").Process(target=tell)
    worker.start()
    worker.join()
"""


def test_a_worker_that_is_spawned_is_no_script_of_a_run(tmp_path, environment_of_a_user):
    (tmp_path / "sft.py").write_text(WORKER)
    done = subprocess.run(
        [sys.executable, str(tmp_path / "sft.py")],
        env=environment_of_a_user,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["True", "False"]


def test_what_a_signal_was_turned_into_is_known_by_its_time_alone(monkeypatch):
    assert find_signal(KeyboardInterrupt()) == signal.SIGINT
    assert find_signal(Terminated()) == signal.SIGTERM
    assert find_signal(ImportError("KeyboardInterrupt: <EMPTY MESSAGE>")) is None
    state = sys.modules["hf_finetune.interruption"]._state
    monkeypatch.setattr(state, "number", signal.SIGINT)
    monkeypatch.setattr(state, "came", time.monotonic())
    assert find_signal(ImportError("KeyboardInterrupt: <EMPTY MESSAGE>")) == signal.SIGINT
    assert find_signal(SystemExit(130)) == signal.SIGINT  # typer's
    assert find_signal(SystemExit(0)) is None
    monkeypatch.setattr(state, "came", time.monotonic() - 60)
    assert find_signal(ImportError("no module")) is None


def test_the_scripts_whose_imports_are_guarded_are_the_recipes():
    assert sorted(RECIPES) == sorted(path.name for path in (ROOT / "recipes").glob("*.py"))


def place_entry(cache):
    path = find_cache(cache) / f"rows-{'0' * 32}.arrow"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"rows")
    return path


def test_what_is_kept_is_a_checkpoint_the_model_or_the_whole_run(tmp_path, monkeypatch):
    typed = ["hf-finetune", "train", "a b.yaml", "train.resume_from_checkpoint=x/checkpoint-1"]
    say = "hf-finetune train 'a b.yaml'"
    nothing = "nothing is kept, no checkpoint had been saved (train.save_strategy, train.save_steps); begin again with"
    assert describe_kept(str(tmp_path / "none"), typed) == f"{nothing}: {say}"
    (tmp_path / "manifest.json").write_text("{}")
    assert describe_kept(str(tmp_path), typed) == f"{nothing}: {say}"
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    began, cached = time.time(), place_entry(tmp_path / "cache")
    assert describe_kept(str(tmp_path), typed, began=began).startswith(
        "the rows that were read and tokenized are in the cache"
    )
    os.utime(cached, (began - 1, began - 1))  # of an earlier run
    assert describe_kept(str(tmp_path), typed, began=began) == f"{nothing}: {say}"
    (tmp_path / "model.safetensors").write_text("")
    model = f"{tmp_path} keeps the trained model, which was not measured yet; begin again with: {say}"
    assert describe_kept(str(tmp_path), typed) == model
    (tmp_path / "checkpoint-4").mkdir()
    put_records(tmp_path / "checkpoint-4", 4, 9)
    kept = f"{tmp_path}/checkpoint-4 is kept, step 4 of 9; go on with: {say}"
    assert describe_kept(str(tmp_path), typed) == kept
    (tmp_path / "report.json").write_text("{}")
    assert describe_kept(str(tmp_path), typed) == f"the run is complete, its report is {tmp_path}/report.html"
    os.utime(tmp_path / "report.json", (1, 1))  # of a run that was trained on
    assert describe_kept(str(tmp_path), typed) == kept


def test_a_ctrl_c_that_discards_a_line_explains_no_later_error(monkeypatch):
    typed = iter([lambda: os.kill(os.getpid(), signal.SIGINT), lambda: "hello"])

    class Terminal:
        def isatty(self):
            return True

        def reconfigure(self, **options): ...

    monkeypatch.setattr(sys, "stdin", Terminal())
    monkeypatch.setattr("builtins.input", lambda prompt: next(typed)())
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    try:
        with catch_signals():
            unwind_when_stopped()
            assert next(read_terminal_lines()) == "hello"
            assert find_signal(RuntimeError("of the answer")) is None
    finally:
        signal.signal(signal.SIGINT, before)
