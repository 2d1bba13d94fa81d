"""`hf-finetune train`: from a run file to the processes that run its recipe."""

from __future__ import annotations

import gc
import logging
import os
import runpy
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from hf_finetune.cli.stuck import take_signals_beside
from hf_finetune.config import (
    VISIBLE,
    Run,
    check_launch_file,
    check_visible,
    load_run,
    named_gpus,
    read_launch_file,
    read_recipe_name,
)
from hf_finetune.environment import (
    check_port,
    check_tasks,
    check_versions,
    describe_threads,
    detect_hardware,
    find_machines,
    find_project_file,
    find_shipped,
    list_left,
    share_threads,
)
from hf_finetune.errors import ConfigError, Problem, suggest
from hf_finetune.folders import check_not_in_use, hold_run_folder
from hf_finetune.interruption import LAUNCHER, describe_next, describe_when_stopped, end_stopped
from hf_finetune.privacy import shorten
from hf_finetune.reporting import describe_kept, get_resume, say_folder_outside
from hf_finetune.shell import shell_line
from hf_finetune.training import apply_defaults
from hf_finetune.typed_again import ALLOW_CHANGED, check_not_moved, check_typed_again, keep_rows_of_a_step

logger = logging.getLogger(__name__)

TORCHRUN = ("torch.distributed.elastic", "torch.distributed.launcher", "torch.distributed.run")


def launch(
    argv: Sequence[str],
    where: str,
    *,
    allow_changed: bool = False,
    machines: Mapping[str, Any] | None = None,
    typed: Sequence[str] | None = None,
) -> int:
    """Check the run, print its launch line and run that line; returns the recipe's exit code.

    `argv` is the run file and its overrides, `where` a file of accelerate_configs or its name; a run goes on with
    other settings where `allow_changed` says so. `machines` are options of accelerate that say which of several
    machines this is, None where they are not given; `typed` is the whole command, where it has more than these.
    Raises `ConfigError` before anything is launched, where the machine lacks what `where` asks for, too.
    """
    check_versions()
    config = find_accelerate_config(where)
    typed = typed or list_typed(argv, where, machines or {})
    started = _start_here(config, where, typed, machines or {})
    recipe = read_recipe_name(argv[0], argv[1:])
    run = load_run(argv, recipe, say_notes=False)  # the recipe says them
    check_not_moved(argv, run)
    _look_at_folder(run, started, allow_changed=allow_changed)
    if recipe != "score":
        kept = partial(describe_kept, run.output_dir, typed, get_resume(run.train), pushes=run.hub is not None)
        describe_when_stopped(partial(kept, began=time.time()))
    use_cpu = bool(run.train.get("use_cpu"))
    check_launch_file(where, started.settings, detect_hardware(), use_cpu=use_cpu, run=run, path=config)
    if run.hub is not None:
        from hf_finetune.release import check_push  # huggingface_hub: not for runs that stay here

        check_push(run)  # the recipe asks again; here it costs no import of torch
    script = find_project_file("recipes", f"{recipe}.py")
    os.environ["HF_FINETUNE_CONFIG_FILE"] = f"{config.parent.name}/{config.name}"
    options = ["--config_file", str(config), *started.options]
    arguments = [*options, str(script), *argv, *([ALLOW_CHANGED] if allow_changed else [])]
    share_threads(os.environ, max(1, started.local))
    say_folder_outside(run.output_dir)
    if started.said:
        logger.info("%s", started.said)
    logger.info("%s\n", shorten(shell_line(["accelerate", "launch", *arguments])))
    logger.info("%s%s", f"{started.local} processes of " if started.local > 1 else "", describe_threads())
    _check_rows(run)
    logger.info("loading the libraries")
    if not started.said:
        return _run_accelerate_launch(arguments)
    logger.info("the machines wait for each other, for a quarter of an hour")
    with take_signals_beside():
        return _run_accelerate_launch(arguments)


@dataclass(frozen=True, slots=True)
class _Started:
    """What is started on this machine."""

    settings: dict[str, Any]
    """Of the launch file, with what the command line and the environment say in their place."""
    options: list[str]
    """Those of them, as options of accelerate."""
    machine: int
    processes: int
    local: int
    said: str


def list_typed(argv: Sequence[str], where: str, options: Mapping[str, Any]) -> list[str]:
    """The command that was typed, as words; of `options` those that are not None."""
    given = [(f"--{name.replace('_', '-')}", str(value)) for name, value in options.items() if value is not None]
    return ["hf-finetune", "train", *argv, "--on", where, *(word for option in given for word in option)]


def _start_here(config: Path, where: str, typed: Sequence[str], given: Mapping[str, Any]) -> _Started:
    """Find what is to be started on this machine. Raises `ConfigError` where it cannot be."""
    settings = read_launch_file(config)
    machines = find_machines(settings, {**given, **list_left(os.environ)}, os.environ, file=str(config))
    check_tasks(os.environ, shell_line(typed), machines.count)
    check_port(machines)
    settings |= machines.as_settings()
    check_visible(where, settings, os.environ)
    if (ids := named_gpus(settings)) is not None:
        os.environ[VISIBLE] = ids  # as accelerate will; the driver reads it once, when it is first asked
    options = [word for name, value in machines.as_settings().items() for word in (f"--{name}", str(value))]
    said = machines.describe() if machines.count > 1 else ""
    return _Started(settings, options, machines.rank, machines.processes, machines.local, said)


def _look_at_folder(run: Run, started: _Started, *, allow_changed: bool) -> None:
    """Hold the run folder where this process trains itself, and raise where it is in use, or its run another."""
    # torchrun starts a process of its own for one alone, too, and the first of them will hold it.
    if started.processes == 1 and started.settings.get("distributed_type", "NO") == "NO":
        hold_run_folder(run.output_dir)
    elif started.machine == 0:  # whose first process may have it already, on the others
        check_not_in_use(run.output_dir)
    if run.model.adapter is None:  # which decides on settings; the recipe asks it again, after seconds of imports
        asked = keep_rows_of_a_step(apply_defaults(run), started.processes, os.environ, says=True)
        check_typed_again(asked, started.processes, allow_changed=allow_changed)


def _check_rows(run: Run) -> None:
    """Read the rows of a small run; the recipe does it again, after seconds of imports."""
    from hf_finetune.data import check_scored_rows, check_trained_rows  # datasets: not for settings that are refused

    check = check_scored_rows if run.recipe == "score" else check_trained_rows
    check(run)


def find_accelerate_config(where: str) -> Path:
    """Find the accelerate configuration that `--on` names. Raises `ConfigError`."""
    for candidate in (Path(where), find_project_file("accelerate_configs", f"{where}.yaml")):
        if candidate.is_file():
            return candidate
    names = sorted(path.stem for path in find_shipped("accelerate_configs").glob("*.yaml"))
    remedy = f"{suggest(where, names)} There are {', '.join(names)}".lstrip()
    raise ConfigError(Problem(f"--on {where}: no such file or name", remedy, code="HF601"))


def _run_accelerate_launch(arguments: list[str]) -> int:
    """What `accelerate launch` does, less its traceback; returns the exit code of the recipe, which it would hide."""
    # The imports make a million objects that stay, which the collector would walk again and again.
    gc.set_threshold(100_000, 20, 20)
    # Read when torch is loaded. DDP's advice to look for no unused parameters, which a model with a frozen part or an
    # adapter may have, and frames of C++ for each signal.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    from accelerate.commands import launch as accelerate_launch
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    # It looks for another port by itself.
    warnings.filterwarnings("ignore", r"Port `\d+` is already in use", UserWarning)
    _hide_torchrun()
    # One process needs no child: torch is imported here already, and would be once more there.
    accelerate_launch.simple_launcher = _run_here
    os.environ[LAUNCHER] = str(os.getpid())
    try:
        accelerate_launch.launch_command(accelerate_launch.launch_command_parser().parse_args(arguments))
    except subprocess.CalledProcessError as failure:
        return _read_exit_code(failure.returncode, 0)
    except ChildFailedError as failure:
        rank, first = failure.get_first_failure()
        return _read_exit_code(first.exitcode, rank)
    finally:
        del os.environ[LAUNCHER]
    return 0


def _hide_torchrun() -> None:
    """Hide what torchrun logs: its table of failed ranks, and its line for each signal, would bury our own."""
    # Its loggers have levels of their own (torch 2.13, `elastic/utils/logging.py`), so that one above them says nothing
    # of theirs; they are made as its modules are imported.
    import torch.distributed.run  # noqa: F401

    for name in list(logging.root.manager.loggerDict):
        if name.startswith(TORCHRUN):
            logging.getLogger(name).setLevel(logging.CRITICAL)


def _run_here(args: Any) -> None:
    """Run the one process of a launch as this process, with the arguments and environment that it would have."""
    from accelerate.utils.launch import prepare_simple_launcher_cmd_env

    command, environment = prepare_simple_launcher_cmd_env(args)
    os.environ.update(environment)
    if command[0] != sys.executable:  # mpirun, for several processes on CPUs
        subprocess.run(command, check=True)
        return
    _, script, *sys.argv[1:] = command
    sys.argv[0] = script
    sys.path.insert(0, str(Path(script).parent))  # as `python script` has it
    runpy.run_path(script, run_name="__main__")


def _read_exit_code(code: int, rank: int) -> int:
    """The exit code of a process that failed; where a signal has ended it, which says nothing itself, that is said."""
    # A process that a signal ended has a negative code; a shell says 128 + signal.
    number = -code if code < 0 else code - 128
    if number in (signal.SIGINT, signal.SIGTERM):
        end_stopped(number)
    if code != 0 and number in signal.valid_signals():
        why = " (the system ends a process so that takes too much memory)" if number == signal.SIGKILL else ""
        name = signal.Signals(number).name
        logger.error("process %d was ended by %s%s; %s", rank, name, why, describe_next(), extra={"code": "HF714"})
    return 128 - code if code < 0 else code
