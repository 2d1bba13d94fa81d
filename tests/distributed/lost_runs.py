"""Runs of two processes of which one is lost: killed at a random moment, or behind a link that is cut.

    python tests/distributed/lost_runs.py [--kills 20] [--cuts 10] [--strategies ddp,fsdp2,zero2,zero3] [--by train]
        [--restarts]

Each trial starts a run, hurts it once it has a checkpoint, and types the same command again: both processes and the
launcher must be gone within `SECONDS_TO_END`, with one line that says why, and the run that goes on must start from a
verified checkpoint and end with the weights of an uninterrupted run. With --restarts nothing is typed again, and no
cable is plugged in: the run goes on by itself, alone where the second machine is gone. Prints a line for each; exit
code 1 where one fails.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT)]

import psutil  # noqa: E402
from accelerate.utils.other import get_free_port  # noqa: E402
from distributed.matrix import TOLERANCE, compare_weights, list_strategies, make_arguments, write_rows  # noqa: E402
from distributed.two_machines import ADDRESSES, Machines, connect_two_machines  # noqa: E402
from models.scratch_models import save_chat_base  # noqa: E402
from preloaded import serve_commands  # noqa: E402

from hf_finetune.folders.checkpoints import find_verified  # noqa: E402

SECONDS_TO_END = 60.0
SECONDS_TO_START, SECONDS_TO_FINISH = 180.0, 300.0
STEPS = 16
CAUSE = re.compile(r"\[HF71[34]\]$|^interrupted|^ended by|terminate called|what\(\): ")
TRACEBACK = "Traceback (most recent call last)"
WRAPPER = """\
import sys
sys.path[:0] = [{tests!r}, {root!r}]
from distributed.slow_rank import be_a_rank
if __name__ == "__main__":
    be_a_rank()
"""

# The command itself, where machines that are left wait for the others for a time that a test names.
MEETS_SOON = """\
import os
from hf_finetune.cli import main, meeting
if __name__ == "__main__":
    meeting.SECONDS_TO_MEET = float(os.environ.get("MEET", meeting.SECONDS_TO_MEET))
    main()
"""


@dataclass
class Started:
    """A launch, and where its processes write down their ids."""

    process: subprocess.Popen[str]
    record: Path
    began: float = field(default_factory=time.monotonic)

    def find_pid(self, rank: int) -> int:
        path = self.record / str(rank)
        wait_for(path.exists, SECONDS_TO_START, self)
        return int(path.read_text())

    def end(self, seconds: float) -> tuple[int, str]:
        """Exit code of the launcher and what all have said; it is killed where it has not ended by then."""
        try:
            said, _ = self.process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            for each in (0, 1):
                if is_running(pid := self.find_pid(each)):
                    os.kill(pid, signal.SIGKILL)
            self.process.kill()
            raise
        return self.process.returncode, said


@dataclass
class Lab:
    """Starts runs in `folder`, by commands of tests/preloaded.py that `environment` has in its PATH."""

    folder: Path
    environment: Mapping[str, str]
    machines: Machines | None = None
    number: int = 0

    def prepare(self) -> None:
        """Write the rows, make the base, and the folder with the recipe."""
        write_rows(self.folder)
        save_chat_base(self.folder / "base", self.folder / "chats-even.jsonl")
        project = self.folder / "project"
        (project / "recipes").mkdir(parents=True)
        text = WRAPPER.format(tests=str(ROOT / "tests"), root=str(ROOT))
        (project / "recipes/sft.py").write_text(text, encoding="utf-8")
        (project / "meets_soon.py").write_text(MEETS_SOON, encoding="utf-8")

    def start(self, strategy: str, run: Path, by: str = "train", **more: str) -> Started:
        """Two processes on one machine; of `more` names in capitals are variables, the others settings."""
        [started] = self._start([{}], strategy, run, by, more)
        return started

    def start_machines(self, strategy: str, run: Path, by: str = "accelerate", **more: str) -> list[Started]:
        """One process on each of two machines."""
        assert self.machines is not None
        return self._start([self.machines.get_variables(side) for side in (0, 1)], strategy, run, by, more)

    def _start(
        self, places: Sequence[Mapping[str, str]], strategy: str, run: Path, by: str, more: Mapping[str, str]
    ) -> list[Started]:
        self.number += 1
        record = self.folder / f"record{self.number}"
        record.mkdir()
        settings = {
            "output_dir": run, "train.max_steps": STEPS, "train.save_steps": 2, "train.eval_strategy": "no",
            "train.lr_scheduler_type": "constant",
        } | {name: value for name, value in more.items() if "." in name}  # fmt: skip
        _, *words = make_arguments("sft-even-plain", self.folder, strategy, **settings)
        arguments = [str(ROOT / "recipes/configs/sft.yaml"), *words]
        started, port = [], str(get_free_port())
        for side, place in enumerate(places):
            machine = side if len(places) > 1 else None
            own = {**self.environment, **place} | {"STRATEGY": strategy, "RECORD": str(record)}
            own |= {name: value for name, value in more.items() if name.isupper()}
            process = subprocess.Popen(
                make_command(by, arguments, port, machine), cwd=self.folder / "project", env=own, text=True,
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
            started.append(Started(process, record))
        return started


def make_command(by: str, arguments: Sequence[str], port: str, machine: int | None) -> list[str]:
    """The command that launches a run: `hf-finetune train`, or `accelerate launch` without anything of ours.

    Under "restarts" ours goes on by itself, twice at most.
    """
    words = ["num_machines", "2", "machine_rank", str(machine), "main_process_ip", ADDRESSES[0]]
    options = ["main_process_port", port, *(words if machine is not None else [])]
    named = [f"--{word}" if place % 2 == 0 else word for place, word in enumerate(options)]
    if by in ("train", "restarts"):
        ours = [word.replace("_", "-") for word in named] if machine is not None else []
        ours += ["--num-processes", "2"] if machine is not None else []
        ours += ["--max-restarts", "2"] if by == "restarts" else []
        program = ["hf-finetune"] if machine is None else ["python", "meets_soon.py"]
        return [*program, "train", *arguments, "--on", "cpu_2proc", *ours]
    config = str(ROOT / "accelerate_configs/cpu_2proc.yaml")
    return ["accelerate", "launch", "--config_file", config, *named, "recipes/sft.py", *arguments]


def wait_for(true, seconds: float, started: Started) -> None:
    until = time.monotonic() + seconds
    while not true():
        if started.process.poll() is not None:
            raise RuntimeError(started.process.communicate()[0])
        if time.monotonic() > until:
            started.end(0)
        time.sleep(0.02)


def is_running(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@dataclass
class Trial:
    """What has become of a run that was hurt."""

    seconds: float
    """Until the last process was gone."""
    causes: list[str]
    """The lines that say why, of each launch."""
    said: list[str]
    went_on: str
    """The checkpoint from which the run went on, as it said."""
    difference: float
    """Of its weights from those of the uninterrupted run, relative to the largest."""

    def find_faults(self) -> list[str]:
        faults = [f"ended after {self.seconds:.0f} s"] if self.seconds > SECONDS_TO_END else []
        faults += [f"{len(self.causes)} lines say why"] if len(self.causes) != len(self.said) else []
        faults += [] if self.went_on else ["began again"]
        return faults + ([f"weights differ by {self.difference:.1e}"] if self.difference else [])


@dataclass
class Restarted:
    """What has become of a run that was hurt, and went on by itself."""

    seconds: float
    """Until the last command had ended, at the end of the run."""
    codes: list[int]
    """Of the commands; that of a machine that is gone is left out."""
    said: list[str]
    difference: float
    """Of its weights from those of the uninterrupted run, relative to the largest."""
    trace: float
    """The largest difference of a step's loss, relative."""
    alone: bool = False
    """Whether one of two machines has gone on alone: the first of `codes` is its."""
    reported: list[dict[str, object]] = field(default_factory=list)
    """The restarts that report.json has."""

    def find_faults(self) -> list[str]:
        alone = self.alone
        # One that lives has gone on alone, too, where the first was done, and else finds the folder in use.
        faults = [f"exit codes {self.codes}"] if self.codes[0] or self.codes[1:] not in ([], [0], [3]) else []
        most = TOLERANCE if alone else 0.0  # on another number of processes sums are rounded in another order
        faults += [f"weights differ by {self.difference:.1e}"] if self.difference > most else []
        faults += [f"losses differ by {self.trace:.1e}"] if self.trace > most else []
        again = re.findall(r"^restart \d of 2: .*\[HF727\]$", self.said[0], re.MULTILINE)
        faults += [] if len(again) == 1 else [f"{len(again)} lines say that it is started again"]
        restarts = [(each["lost"], each["machines"], each["processes"]) for each in self.reported]
        right = [("machine", [2, 1], [2, 1])] if alone else [("process", [1, 1], [2, 2])]
        faults += [] if restarts == right else [f"report.json says {self.reported}"]
        steps = re.findall(r"goes on from \S*/checkpoint-(\d+), step \d+ of", self.said[0])
        faults += [] if [str(each["step"]) for each in self.reported] == steps else ["report.json has other steps"]
        kept = re.findall(
            r"^1 process is left: .* is 2 instead of 1, for the 8 rows of a step \[HF912\]$", self.said[0], re.M
        )
        faults += ["the rows of a step"] if alone and len(kept) != 1 else []
        tells = all("; the next one is looked for [HF728]" in said for said in self.said[1:])
        return faults + ([] if tells else ["machine 1 says nothing"])


def read_losses(run: Path) -> list[float]:
    state = json.loads((run / f"checkpoint-{STEPS}/trainer_state.json").read_text())
    return [entry["loss"] for entry in state["log_history"] if "loss" in entry]


@dataclass
class Trials:
    """Hurts runs of a lab, and holds each against the uninterrupted one of its strategy."""

    lab: Lab
    draw: random.Random
    by: str = "train"
    wholes: dict[str, tuple[Path, float]] = field(default_factory=dict)

    def kill(self, strategy: str, rank: int, number: int = signal.SIGKILL, **more: str) -> Trial:
        """Kill one of two processes of a machine at a random moment behind the first checkpoint."""
        run, started = self._begin(strategy, several=False, **more)
        os.kill(started[0].find_pid(rank), number)
        return self._judge(strategy, run, started, several=False)

    def kill_and_wait(self, strategy: str, rank: int) -> Restarted:
        """Kill one of two processes that are started again by themselves, and wait for the end of the run."""
        run, [started] = self._begin(strategy, several=False, by="restarts")
        began = time.monotonic()
        os.kill(started.find_pid(rank), signal.SIGKILL)
        code, said = started.end(SECONDS_TO_FINISH)
        return self._compare(strategy, run, [code], [said], time.monotonic() - began)

    def cut_for_good(self, strategy: str, **more: str) -> Restarted:
        """Pull the cable out of the second machine: the first one goes on alone."""
        assert self.lab.machines is not None
        run, started = self._begin(strategy, several=True, by="restarts", **more)
        began = time.monotonic()
        self.lab.machines.cut(1)
        try:
            ended = [each.end(SECONDS_TO_FINISH) for each in started]
        finally:
            self.lab.machines.plug_in(1)
        codes, said = zip(*ended, strict=True)
        return self._compare(strategy, run, codes, said, time.monotonic() - began, alone=True)

    def lose_first(self, strategy: str, **more: str) -> Restarted:
        """Kill all of the first machine at once, and pull its cable: the second one goes on alone."""
        assert self.lab.machines is not None
        run, started = self._begin(strategy, several=True, by="restarts", **more)
        began = time.monotonic()
        parents = psutil.Process(started[0].find_pid(0)).parents()
        server = parents.index(psutil.Process()) - 1  # which has forked what was typed
        for each in [*reversed(parents[:server]), psutil.Process(started[0].find_pid(0))]:
            each.kill()
        self.lab.machines.cut(0)
        try:
            code, said = started[1].end(SECONDS_TO_FINISH)
            started[0].end(SECONDS_TO_END)
        finally:
            self.lab.machines.plug_in(0)
        return self._compare(strategy, run, [code], [said], time.monotonic() - began, alone=True)

    def _compare(
        self,
        strategy: str,
        run: Path,
        codes: Sequence[int],
        said: Sequence[str],
        seconds: float,
        *,
        alone: bool = False,
    ) -> Restarted:
        whole, _ = self.find_whole(strategy)
        done = codes[0] == 0
        trace = max(
            (abs(one - other) / other for one, other in zip(read_losses(run), read_losses(whole), strict=True)),
            default=float("inf"),
        ) if done else float("inf")  # fmt: skip
        difference = compare_weights(run, whole) if done else float("inf")
        reported = json.loads((run / "report.json").read_text())["distributed"].get("restarts", []) if done else []
        return Restarted(seconds, list(codes), list(said), difference, trace, alone, reported)

    def cut(self, strategy: str, side: int, **more: str) -> Trial:
        """Pull the cable out of one of two machines, and plug it in again once both have given up."""
        assert self.lab.machines is not None
        run, started = self._begin(strategy, several=True, **more)
        self.lab.machines.cut(side)
        try:
            return self._judge(strategy, run, started, several=True)
        finally:
            self.lab.machines.plug_in(side)

    def _start(self, strategy: str, run: Path, *, several: bool, by: str = "", **more: str) -> list[Started]:
        if several:
            return self.lab.start_machines(strategy, run, by or "accelerate", **more)
        return [self.lab.start(strategy, run, by or self.by, **more)]

    def find_whole(self, strategy: str) -> tuple[Path, float]:
        """The uninterrupted run, on one machine, made once, and the seconds from its first checkpoint to its last."""
        if strategy not in self.wholes:
            run = self.lab.folder / f"whole-{strategy}"
            started = self._start(strategy, run, several=False)
            wait_for_checkpoint(run, started[0])
            began = time.monotonic()
            wait_for((run / f"checkpoint-{STEPS}").exists, SECONDS_TO_FINISH, started[0])
            self.wholes[strategy] = run, time.monotonic() - began
            check_ended(started)
        return self.wholes[strategy]

    def _begin(self, strategy: str, *, several: bool, **more: str) -> tuple[Path, list[Started]]:
        _, seconds = self.find_whole(strategy)
        run = self.lab.folder / f"run{self.lab.number}"
        started = self._start(strategy, run, several=several, **more)
        wait_for_checkpoint(run, started[0])
        time.sleep(self.draw.uniform(0, 0.7 * seconds))  # behind the last step nobody waits for another
        return run, started

    def _judge(self, strategy: str, run: Path, started: list[Started], *, several: bool) -> Trial:
        began = time.monotonic()
        said = [each.end(2 * SECONDS_TO_END)[1] for each in started]
        while any(is_running(int(path.read_text())) for path in started[0].record.iterdir()):
            assert time.monotonic() < began + 2 * SECONDS_TO_END, f"a process is left: {said}"
            time.sleep(0.02)
        seconds = time.monotonic() - began
        assert not list(run.glob("*.aside")) or find_verified(run)[0] is not None
        lines = [line for each in said for line in each.splitlines()]
        # torchrun shows one of its own, where nothing of ours launches.
        ours = self.by == "train" and not several
        causes = [line for line in lines if CAUSE.search(line) or (ours and TRACEBACK in line)]
        if several and self.lab.machines is not None:
            self.lab.machines.plug_in(0)
            self.lab.machines.plug_in(1)
        again = check_ended(self._start(strategy, run, several=several))
        went_on = re.search(r"(?:from|with) \S*(checkpoint-\d+)", again[0])
        whole, _ = self.find_whole(strategy)
        difference = compare_weights(run, whole)
        return Trial(seconds, causes, said, went_on[1] if went_on else "", difference)


def wait_for_checkpoint(run: Path, started: Started) -> None:
    wait_for(lambda: any(run.glob("checkpoint-[0-9]*")), SECONDS_TO_START, started)


def check_ended(started: Sequence[Started]) -> list[str]:
    """What runs that must come to their end have said."""
    ended = [each.end(SECONDS_TO_FINISH) for each in started]
    if any(code for code, _ in ended):
        raise RuntimeError("\n".join(f"{said}\nexit code {code}" for code, said in ended))
    return [said for _, said in ended]


@contextmanager
def open_lab(folder: Path, *, machines: bool) -> Iterator[Lab]:
    """A lab in `folder`, with two machines where they are asked for. Raises `NoNamespaces`."""
    environment = os.environ | {
        "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "TOKENIZERS_PARALLELISM": "false", "HF_DATASETS_CACHE": str(folder / "cache"), "TORCH_CPP_LOG_LEVEL": "ERROR",
    }  # fmt: skip
    (programs := folder / "programs").mkdir(parents=True)
    with (
        connect_two_machines() if machines else nullcontext() as found,
        serve_commands(programs, environment) as served,
    ):
        lab = Lab(folder, served, found)
        lab.prepare()
        yield lab


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--cuts", type=int, default=10)
    parser.add_argument("--strategies", default=",".join(name for name in list_strategies() if name != "one"))
    parser.add_argument("--by", choices=["train", "accelerate"], default="train", help="what launches the processes")
    parser.add_argument("--restarts", action="store_true", help="the command goes on by itself (--max-restarts)")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    strategies, failed, longest = options.strategies.split(","), 0, 0.0
    with (
        tempfile.TemporaryDirectory() as folder,
        open_lab(Path(folder), machines=options.cuts > 0) as lab,
    ):
        trials = Trials(lab, random.Random(options.seed), options.by)
        for number in range(options.kills + options.cuts):
            strategy, side = strategies[number % len(strategies)], number // len(strategies) % 2
            kills = number < options.kills
            if options.restarts:
                lose = trials.cut_for_good if number % 2 else trials.lose_first
                again = trials.kill_and_wait(strategy, side) if kills else lose(strategy)
                faults = again.find_faults()
                failed, longest = failed + bool(faults), max(longest, again.seconds)
                cut = "cut of machine 1" if number % 2 else "machine 0 is gone"
                what = f"kill of rank {side}" if kills else cut
                print(f"{number + 1:3} {strategy:6} {what}: at its end after {again.seconds:4.1f} s")
                print(*[f"      FAULT: {each}" for each in faults], sep="\n", end="", flush=True)
                continue
            trial = trials.kill(strategy, side) if kills else trials.cut(strategy, side)
            faults = trial.find_faults()
            failed, longest = failed + bool(faults), max(longest, trial.seconds)
            what = f"kill of rank {side}" if kills else f"cut of machine {side}"
            print(f"{number + 1:3} {strategy:6} {what}: {trial.seconds:4.1f} s, went on from {trial.went_on}")
            lines = [line[:150] for line in trial.causes] + [f"FAULT: {each}" for each in faults]
            print(*[f"      {line}" for line in lines], sep="\n", flush=True)
    print(
        f"{options.kills} kills and {options.cuts} cuts; all had ended after {longest:.1f} s at most; {failed} failed"
    )
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
