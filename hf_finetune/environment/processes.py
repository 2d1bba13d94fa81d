"""The processes of a launch, as accelerate runs them, and whether they were started for the same run."""

from __future__ import annotations

import hashlib
import json
import os
import time
import uuid
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list, gather_object

from hf_finetune.environment.machines import find_own_address, note_addresses
from hf_finetune.errors import CannotWriteError, ConfigError, FinetuneError, Problem
from hf_finetune.files import explain_unwritable
from hf_finetune.ranks import describe_self, keep_connections_watched, remember_processes

_MOST_NAMED = 5
_SECONDS_TO_BE_SEEN = 5.0


def init_processes() -> PartialState:
    """Initialize `PartialState`; call it before a model is loaded. Without a launch it is a single process."""
    # Without an accelerator, `PartialState()` takes each of two processes for the only one, unless told `cpu=True`
    # (accelerate 1.15; related: https://github.com/huggingface/accelerate/issues/2741). DeepSpeed finds its processes
    # itself, on the CPU under DS_ACCELERATOR=cpu.
    by_deepspeed = os.environ.get("ACCELERATE_USE_DEEPSPEED") == "true"
    return PartialState(cpu=not (torch.accelerator.is_available() or by_deepspeed))


def know_processes() -> None:
    """Let each process of the run know the others, to say which is gone. Every process calls it, at once."""
    state = PartialState()
    if state.num_processes > 1:
        keep_connections_watched()
        found = gather_object([(describe_self(state.process_index), find_own_address())])
        remember_processes([process for process, _ in found])
        note_addresses(dict(address for _, address in found))


def describe_processes(state: Any = None) -> dict[str, Any]:
    """Describe how the work was really distributed: the `distributed` part of the report.

    `state`: the `AcceleratorState` of a Trainer, which alone knows its sharding and precision; else `PartialState()`.
    """
    state = state or PartialState()
    return {
        "strategy": state.distributed_type.value,
        "processes": state.num_processes,
        "backend": state.backend,
        "device": state.device.type,
        "threads_per_process": torch.get_num_threads(),
        **({"mixed_precision": state.mixed_precision} if hasattr(state, "mixed_precision") else {}),
    }


def find_different(found: Sequence[Mapping[str, str]]) -> dict[int, list[str]]:
    """The processes that differ from most of the others, each with the names of what differs; {} where none does."""
    whole = [tuple(sorted(each.items())) for each in found]
    # Of as many of each kind the first one's counts: `Counter` keeps the order in which they came.
    usual = dict(Counter(whole).most_common(1)[0][0])
    different = {}
    for rank, each in enumerate(found):
        names = [name for name in {**usual, **each} if each.get(name) != usual.get(name)]
        if names:
            different[rank] = names
    return different


def check_same(facts: Mapping[str, Any], what: str, remedy: str, error: type[FinetuneError], code: str) -> None:
    """Raise `error` on all processes where some have other `facts` than most: each of those is named, and what differs.

    They are compared by hash, for a value may be a text of the user's. Every process calls it, at once.
    """
    prints = {name: _hash(value) for name, value in facts.items()}
    place = f" (machine {os.environ['GROUP_RANK']})" if os.environ.get("GROUP_WORLD_SIZE", "1") != "1" else ""
    found = gather_object([(place, prints)])
    different = find_different([each for _, each in found])
    if not different:
        return
    problems = []
    for rank, names in islice(different.items(), _MOST_NAMED):
        more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
        who = f"process {rank}{found[rank][0]} of {len(found)}"
        shown = f"{who} has {what} than {len(found) - len(different)} of them: {', '.join(names[:_MOST_NAMED])}{more}"
        problems.append(Problem(shown, remedy, code=code))
    raise error(problems, total=len(different))


def raise_together(problem: Exception | None) -> None:
    """Raise on every rank what one of them has found; the others have nothing to add."""
    for each in gather_object([problem]):
        if each is not None:
            raise each


def check_shared(folder: Path) -> None:
    """Raise `ConfigError` on all processes where a file that the first one writes into `folder` is not there for all.

    By its name, which no process has asked for before: what a network file system remembers and how the clocks of the
    machines go plays no part. Every process calls it, at once.
    """
    state = PartialState()
    if state.num_processes == 1:
        return
    [name] = broadcast_object_list([f".shared-{uuid.uuid4().hex}.aside"])  # of a killed run it is swept
    path = folder / name
    refused: Problem | None = None
    if state.is_main_process:
        try:
            path.touch()
        except OSError as problem:  # the others would wait for what never comes
            refused = explain_unwritable(folder, problem)
    [refused] = broadcast_object_list([refused])
    if refused is not None:
        raise CannotWriteError(refused)
    seen = gather_object([_is_seen(path)])
    if state.is_main_process:
        path.unlink(missing_ok=True)
    if blind := [rank for rank, sees in enumerate(seen) if not sees]:
        who = f"process{'es' * (len(blind) > 1)} {', '.join(map(str, blind[:_MOST_NAMED]))}"
        what = f"{who} of {len(seen)} cannot see in {folder} what process 0 writes there"
        remedy = "name a folder that all machines share (NFS, Lustre ...): they read checkpoints and results from it"
        raise ConfigError(Problem(what, remedy, key="output_dir", code="HF726"))


def _is_seen(path: Path) -> bool:
    until = time.monotonic() + _SECONDS_TO_BE_SEEN
    while not path.exists():
        if time.monotonic() > until:
            return False
        time.sleep(0.1)
    return True


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()
