"""`hf-finetune train --max-restarts`: what is started again, what is not, and how machines meet in between."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest
from accelerate.utils.other import get_free_port

from hf_finetune.cli import meeting, restarts
from hf_finetune.cli.meeting import Left, NotMet, Place, attend_meeting, hold_meeting
from hf_finetune.environment import Restart, check_tasks, count_restarts, list_left, list_restarts, name_restart
from hf_finetune.errors import LeftAlone

RUN = """\
recipe: continued_pretraining
model: {scratch: {preset: nano}, tokenizer: {train: {kind: char}}}
data: {train: rows.jsonl}
output_dir: runs/first
"""
# Ends with the next of the codes that its words name; a negative one is a signal's.
COMMAND = """\
import os, signal, sys
restart = os.environ["HF_FINETUNE_RESTART"]
if addresses := os.environ.get("ALL_MACHINES"):  # as the processes note them once they have met
    open(os.environ["HF_FINETUNE_ADDRESSES"], "w").write(addresses)
open("started", "a").write(restart + "\\n")
open("restarts", "w").write(os.environ["HF_FINETUNE_RESTARTS"])
if step := os.environ.get("STEPS", "").split():  # as the processes note it once they train
    open(os.environ["HF_FINETUNE_STEP"], "w").write(step[int(restart.split()[0])])
code = int(sys.argv[1:][int(restart.split()[0])])
if code < 0:
    os.kill(os.getpid(), -code)
sys.exit(code)
"""


@pytest.fixture
def start(tmp_path, monkeypatch):
    """Run a command that ends with these codes, once for each start; returns the exit code, and what was started."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run.yaml").write_text(RUN)
    (tmp_path / "rows.jsonl").touch()
    (tmp_path / "command.py").write_text(COMMAND)
    # Here the children of this process are those of other tests, too.
    monkeypatch.setattr(restarts, "end_left_behind", lambda: None)
    monkeypatch.setattr(restarts, "adopt_orphans", lambda: None)

    def run(*codes: int, most: int = 2, **given: object) -> tuple[int, list[str]]:
        monkeypatch.setattr(sys, "argv", ["command.py", *map(str, codes)])
        code = restarts.start_again(["run.yaml"], "cpu_2proc", given, most, ["hf-finetune", "train", "run.yaml"])
        return code, (tmp_path / "started").read_text().splitlines()

    return run


def test_a_run_is_started_again_as_often_as_it_loses_a_process_and_no_more(start, tmp_path, caplog):
    checkpoint = tmp_path / "runs/first/checkpoint-4"
    checkpoint.mkdir(parents=True)
    (checkpoint / "trainer_state.json").touch()
    assert start(-signal.SIGKILL, 8, 0) == (0, ["0", "1", "2"])
    assert caplog.messages == [
        "restart 1 of 2: a process or a machine was lost (exit code 137); it goes on from runs/first/checkpoint-4, or "
        "the newest before it that verifies",
        "restart 2 of 2: a process or a machine was lost (exit code 8); it goes on from runs/first/checkpoint-4, or "
        "the newest before it that verifies",
    ]


def test_what_is_started_again_knows_of_all_restarts_before_it(start, monkeypatch, tmp_path):
    monkeypatch.setenv("STEPS", "0 4 8")
    assert start(-signal.SIGKILL, 8, 0)[0] == 0
    [first, second] = list_restarts({"HF_FINETUNE_RESTARTS": (tmp_path / "restarts").read_text()})
    assert first == Restart(1, 4, "process", 137, (1, 1), (2, 2))
    # Which is known to nobody before it trains.
    assert second == Restart(2, None, "process", 8, (1, 1), (2, 2))


def test_a_restart_that_did_not_come_to_train_has_no_step(start, tmp_path):
    assert start(-signal.SIGKILL, -signal.SIGKILL, 0)[0] == 0
    restarts = list_restarts({"HF_FINETUNE_RESTARTS": (tmp_path / "restarts").read_text()})
    assert [each.step for each in restarts] == [None, None]


def test_where_all_restarts_are_used_it_ends_as_the_last_one(start, caplog):
    assert start(137, 134, most=1) == (134, ["0", "1"])
    assert caplog.messages[0].endswith("(exit code 137); it goes on from the beginning")
    said, how = caplog.messages[1].split("; ", 1)
    assert said == "all restarts are used (1 of 1)"
    assert how.endswith("begin again with: hf-finetune train run.yaml")


@pytest.mark.parametrize("code", [0, 1, 2, 3, 4, 5, 6, 7, 130, 143, -signal.SIGTERM])
def test_what_would_come_again_or_was_asked_for_is_not_started_again(start, code):
    assert start(code, 0) == (code if code >= 0 else 128 - code, ["0"])


def test_a_signal_goes_to_the_run_alone_which_is_not_started_again(start, tmp_path):
    # Its launcher kills what does not end by the signal.
    (tmp_path / "command.py").write_text("import time; open('started', 'w').write('0'); time.sleep(60)")

    def stop() -> None:
        while not (tmp_path / "started").exists():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    (thread := threading.Thread(target=stop)).start()
    assert start(0) == (143, ["0"])
    thread.join()
    assert signal.getsignal(signal.SIGTERM) is before


LEAVES = """
import subprocess, sys, time
from hf_finetune.cli import restarts
restarts.SECONDS_TO_FOLLOW = 0.2
restarts.adopt_orphans()
said = subprocess.run(["sh", "-c", "sleep 60 >/dev/null & echo $!"], stdout=subprocess.PIPE, text=True, check=True)
restarts.end_left_behind()
print(said.stdout)
"""


def test_nothing_is_left_of_a_run_when_it_is_started_again():
    done = subprocess.run([sys.executable, "-c", LEAVES], capture_output=True, text=True, check=True)
    with pytest.raises(ProcessLookupError):
        os.kill(int(done.stdout), 0)


def of_two(port: int, rank: int) -> dict[str, object]:
    address = {"main_process_ip": "127.0.0.1", "main_process_port": port}
    return {"num_machines": 2, "machine_rank": rank, "num_processes": 4, **address}


def test_the_first_machine_goes_on_without_one_that_does_not_come(start, monkeypatch, caplog, tmp_path):
    monkeypatch.setattr(meeting, "SECONDS_TO_MEET", 0.1)
    alone = "1 num_machines=1 machine_rank=0 num_processes=2"
    assert start(8, 0, **of_two(get_free_port(), 0)) == (0, ["0", alone])
    assert "it goes on with 1 machine of 2, from the beginning" in caplog.messages[-1]
    [restart] = list_restarts({"HF_FINETUNE_RESTARTS": (tmp_path / "restarts").read_text()})
    assert restart == Restart(1, None, "machine", 8, (2, 1), (4, 2))


def test_a_machine_whose_first_one_is_gone_ends_and_says_so(start, monkeypatch, tmp_path):
    monkeypatch.setattr(meeting, "SECONDS_TO_MEET", 0.1)
    port = get_free_port()
    with pytest.raises(LeftAlone) as left:
        start(8, 0, **of_two(port, 1))
    said = f"the first machine (127.0.0.1, port {port}) did not meet this one within 0.1 s: it is gone, or its run has"
    assert str(left.value).startswith(said)
    assert left.value.exit_code == 8
    assert (tmp_path / "started").read_text() == "0\n"


def of_three(port: int, rank: int) -> dict[str, object]:
    # Of all addresses of a loopback, a network that ends here, the first machine's is one where nobody listens.
    return of_two(port, rank) | {"num_machines": 3, "num_processes": 6, "main_process_ip": "127.0.0.9"}


def test_where_the_first_machine_is_lost_the_next_one_takes_its_place(start, monkeypatch, caplog):
    monkeypatch.setattr(meeting, "SECONDS_TO_MEET", 1.0)
    monkeypatch.setenv("ALL_MACHINES", '["127.0.0.9", "127.0.0.1", "127.0.0.1"]')
    place = Place("127.0.0.1", get_free_port(), 3, 1, first=1)
    caplog.set_level("INFO")
    with Guest(place, 2) as guest:
        taken = "1 num_machines=2 machine_rank=0 num_processes=4 main_process_ip=127.0.0.1"
        assert start(8, 0, **of_three(place.port, 1)) == (0, ["0", taken])
    assert guest.found == Left(2, 1)
    said = f"the first machine (127.0.0.9, port {place.port}) did not meet this one within 1 s: it is gone, or its run "
    assert said + "has ended; the next one is looked for" in caplog.messages
    assert "it goes on with 2 machines of 3, from the beginning" in caplog.messages[-1]


def test_the_last_machine_looks_for_each_that_was_before_it_and_goes_on_alone(start, monkeypatch):
    monkeypatch.setattr(meeting, "SECONDS_TO_MEET", 0.1)
    monkeypatch.setenv("ALL_MACHINES", '["127.0.0.9", "127.0.0.8", "127.0.0.1"]')
    alone = "1 num_machines=1 machine_rank=0 num_processes=2 main_process_ip=127.0.0.1"
    began = time.monotonic()
    assert start(8, 0, **of_three(get_free_port(), 2)) == (0, ["0", alone])
    # A first machine that is only cut off has had as long again to go on, and has the run folder.
    assert time.monotonic() - began > 3 * 0.1


def test_a_machine_that_was_given_up_is_not_taken_in_behind_the_next():
    place = Place("127.0.0.1", get_free_port(), 3, 1, first=1)
    with Guest(place, 0, seconds=0.5):
        assert hold_meeting(place, seconds=0.5) == Left(1, 0)


def test_both_machines_start_again_where_a_process_was_lost(start):
    place = Place("127.0.0.1", get_free_port(), 2, 1)
    with Guest(place, 1) as guest:
        assert start(137, 0, **of_two(place.port, 0)) == (0, ["0", "1"])
    assert guest.found == Left(2, 1)


class Guest(threading.Thread):
    """A machine that comes to a meeting."""

    def __init__(self, place: Place, machine: int, code: int = 8, seconds: float = 10) -> None:
        super().__init__()
        self.place, self.machine, self.code, self.seconds = place, machine, code, seconds
        self.found: Left | NotMet | None = None

    def run(self) -> None:
        self.found = attend_meeting(self.place, self.machine, self.code, goes_on=self.code == 8, seconds=self.seconds)

    def __enter__(self) -> Guest:
        self.start()
        return self

    def __exit__(self, *raised: object) -> None:
        self.join()


def test_those_who_are_left_are_numbered_anew():
    place = Place("127.0.0.1", get_free_port(), 4, 2)
    with Guest(place, 3) as last, Guest(place, 1) as second:
        assert hold_meeting(place, seconds=1) == Left(3, 0)
    assert (second.found, last.found) == (Left(3, 1), Left(3, 2))


def test_a_machine_that_has_failed_by_itself_ends_the_run_on_all():
    place = Place("127.0.0.1", get_free_port(), 3, 1)
    what = "machine 1 has ended for a reason that a restart would meet again"
    with Guest(place, 1, code=5) as guest:
        assert hold_meeting(place, seconds=10) == NotMet(f"{what} (exit code 5)")
    assert guest.found == NotMet(what)


def test_strangers_at_the_port_are_no_machines_and_a_late_one_is_told_so():
    place = Place("127.0.0.1", get_free_port(), 2, 1)
    with socket.create_server(("127.0.0.1", place.port)) as other:
        # Another program, which listens and says nothing: a run that goes on has its own store there.
        meeting_over = attend_meeting(place, 1, 8, goes_on=True, seconds=0.1)
    assert isinstance(meeting_over, NotMet)
    assert "has gone on without this one, which came too late" in meeting_over.what
    assert other.fileno() == -1

    def come(said: bytes) -> None:
        while True:
            try:
                with socket.create_connection(("127.0.0.1", place.port)) as stranger:
                    stranger.sendall(said)
                return
            except OSError:
                time.sleep(0.01)

    threads = [threading.Thread(target=come, args=(said,)) for said in (b"", b"GET / HTTP/1.1\r\n\r\n", b"\x00" * 12)]
    for each in threads:
        each.start()
    assert hold_meeting(place, seconds=0.5) == Left(1, 0)
    for each in threads:
        each.join()


def test_what_is_started_again_knows_how_often_and_on_which_machines():
    assert (count_restarts({}), list_left({})) == (None, {})
    again = name_restart(1, {"num_machines": 2, "machine_rank": 1})
    assert (count_restarts(again), list_left(again)) == (1, {"num_machines": 2, "machine_rank": 1})
    # Slurm has started three tasks, one for each machine, of which two are left.
    tasks = {"SLURM_PROCID": "0", "SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "3"}
    check_tasks(tasks | again, "", 2)
