"""What a checkpoint says beside its weights, looked at whole before anything is made of it.

    trainer_state.json               what transformers counts: step, log, best value
    state.json, state.safetensors    optimizer, schedule, loss scale, random generators of each rank, callbacks

The manifest of a checkpoint tells of damage. It is no signature: whoever changes a file may change its sum as well,
and a folder that was handed on may say anything. No torch: only what the tensors are is read, and not their values.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain, islice
from pathlib import Path
from typing import Any

from hf_finetune.folders.encoded_state import decode_state
from hf_finetune.folders.ownership import TRAINER_STATE
from hf_finetune.folders.record_kinds import (
    MAX_RECORD_BYTES,
    SEEN,
    STATE_KINDS,
    TRAINER_STATE_KINDS,
    find_wrong_kinds,
    is_amount,
    read_record,
    show_key,
)

STATE, STATE_TENSORS = "state.json", "state.safetensors"
MAX_FAULTS = 100
# A step has its own entry, one of each set of rows that it is evaluated on, and what the callbacks of a user log.
MOST_LOGGED, LONGEST_LOGGED = 64, 500

_TRAINER_NEEDS = ("global_step", "max_steps", "epoch", "log_history", "stateful_callbacks")
_RANK_NEEDS = ("since_logged", "total", "logged_step", "initial_step", "runtime_s", "random", "left", "stops")
_OF_SEEN = frozenset({"rows", "tokens", "trained_tokens"})
_NUMPY_KEYS = _PYTHON_KEYS = 624  # of a Mersenne twister


@dataclass(frozen=True)
class TensorInfo:
    """What a file of tensors says of one of them."""

    dtype: str
    """As safetensors names it: F32, I64, U8."""
    shape: tuple[int, ...]


def find_record_faults(checkpoint: Path, step: int | None, known: Collection[str] | None = None) -> list[str]:
    """What is wrong with what a checkpoint of this step says, a few words each; at most `MAX_FAULTS`.

    The step is None where no manifest says it. `known` are the keys that this version of transformers takes of
    trainer_state.json, where they are to be compared.
    """
    named = chain(
        (f"{TRAINER_STATE}: {what}" for what in _look_at_trainer(checkpoint, step, known)),
        (f"{STATE}: {what}" for what in _look_at_state(checkpoint)),
        _look_at_tensors(checkpoint),
    )
    return list(islice(named, MAX_FAULTS))


def read_progress(checkpoint: Path) -> dict[str, Any]:
    """trainer_state.json of a checkpoint without its log; {} where it says what no run has written."""
    path = checkpoint / TRAINER_STATE
    try:
        found = path.stat()
    except OSError:
        return {}
    return dict(_read_progress(path, found.st_mtime_ns, found.st_size))


# It is asked for at several points of a start, and the log in it may have 100 MB.
@lru_cache(maxsize=8)
def _read_progress(path: Path, changed: int, size: int) -> dict[str, Any]:
    try:
        state = read_record(path, MAX_RECORD_BYTES)
    except (OSError, ValueError):
        return {}
    if not isinstance(state, dict) or next(_look_at_counts(state), None) is not None:
        return {}
    return {key: value for key, value in state.items() if key != "log_history"}


def _look_at_trainer(checkpoint: Path, step: int | None, known: Collection[str] | None) -> Iterator[str]:
    state = yield from _read_object(checkpoint / TRAINER_STATE)
    if state is None:
        return
    yield from _look_at_counts(state)
    if step is not None and is_amount(state.get("global_step")) and state["global_step"] != step:
        yield f"global_step is {state['global_step']:,}, and the checkpoint is of step {step:,}"
    for key in state:
        # A later version of transformers may write more than this one; none of its names is no name of Python.
        if not (key.isascii() and key.isidentifier()) or (known is not None and key not in known):
            yield f"{show_key(key)} is no key that transformers writes"


def _look_at_counts(state: Mapping[str, Any]) -> Iterator[str]:
    yield from find_wrong_kinds(state, TRAINER_STATE_KINDS)
    yield from _find_missing(state, _TRAINER_NEEDS, "")
    callbacks, log, best = (state.get(name) for name in ("stateful_callbacks", "log_history", "best_global_step"))
    if isinstance(callbacks, dict):
        seen = callbacks.get(SEEN)
        if not isinstance(seen, dict) or seen.keys() != _OF_SEEN:
            yield f"stateful_callbacks.{SEEN} does not count {', '.join(sorted(_OF_SEEN))}"
        yield from _look_at_callbacks(callbacks)
    step = state.get("global_step")
    if not is_amount(step):
        return
    if is_amount(best) and best > step:
        yield f"best_global_step is {best:,}, after the step of the checkpoint, {step:,}"
    yield from _look_at_log(log if isinstance(log, list) else [], step)


def _look_at_callbacks(callbacks: Mapping[str, Any]) -> Iterator[str]:
    """What transformers keeps of its callbacks: their arguments and attributes, or a list of those of several."""
    for name, kept in callbacks.items():
        each_kept = kept if isinstance(kept, list) else [kept]
        for each in each_kept if name != SEEN else ():
            parts = [each.get(part, {}) for part in ("args", "attributes")] if isinstance(each, dict) else [None]
            if not all(isinstance(part, dict) for part in parts):
                yield f"stateful_callbacks.{show_key(name)} holds no arguments and attributes"
                break


def _look_at_log(log: Sequence[Any], last: int) -> Iterator[str]:
    # What its entries say beside their steps is shown, and computed with by nobody.
    steps = Counter(entry["step"] for entry in log if isinstance(entry, dict) and is_amount(entry.get("step")))
    for step, count in steps.items():
        if count > MOST_LOGGED:
            yield f"log_history has {count:,} entries of step {step:,}, and no run logs more than {MOST_LOGGED}"
    for number, entry in enumerate(log):
        for key in entry if isinstance(entry, dict) else ():
            if not key.isprintable() or len(key) > LONGEST_LOGGED:
                yield f"log_history.{number} has the key {show_key(key)}, and none is so long, or not to be printed"
        step = entry.get("step") if isinstance(entry, dict) else None
        if isinstance(entry, dict) and "step" not in entry:
            yield f"log_history.{number} has no step"
        elif is_amount(step) and step > last:
            yield f"log_history.{number}.step is {step:,}, after the step of the checkpoint, {last:,}"


def _look_at_state(checkpoint: Path) -> Iterator[str]:
    encoded = yield from _read_object(checkpoint / STATE)
    if encoded is None:
        return
    try:
        tensors = describe_tensors(checkpoint / STATE_TENSORS)
        state = decode_state(encoded, tensors.__getitem__)
    except (OSError, KeyError, TypeError, ValueError, RecursionError):
        yield f"holds what no run writes, or names tensors that {STATE_TENSORS} does not hold"
        return
    if not isinstance(state, dict):
        yield "is no object"
        return
    yield from find_wrong_kinds(state, STATE_KINDS)
    yield from _find_missing(state, ("ranks", "callbacks"), "")
    # They are copied into the model as they are, once their names and shapes fit.
    if isinstance(state.get("beside"), dict):
        no_tensors = [name for name, each in state["beside"].items() if not isinstance(each, TensorInfo)]
        yield from (f"beside.{show_key(str(name))} is no tensor" for name in no_tensors)
    yield from _look_at_our_callbacks(state.get("callbacks"))
    ranks = state.get("ranks")
    if ranks == []:
        yield "ranks is empty"
    for number, rank in enumerate(ranks if isinstance(ranks, list) else []):
        if isinstance(rank, dict):
            yield from _look_at_rank(rank, f"ranks.{number}")


def _look_at_our_callbacks(callbacks: Any) -> Iterator[str]:
    """What their kinds do not say: that all is there."""
    holders = callbacks if isinstance(callbacks, dict) else {}
    if isinstance(lines := holders.get("LogLines"), dict):
        yield from _find_missing(lines, ("training_seconds", "joules"), "callbacks.LogLines.")
    if isinstance(guard := holders.get("TrainingGuard"), dict):
        yield from _find_missing(guard, ("skipped", "watch"), "callbacks.TrainingGuard.")
    samples = holders.get("SamplePrompts")
    for number, sample in enumerate(samples if isinstance(samples, list) else []):
        if isinstance(sample, dict):
            yield from _find_missing(sample, ("step", "prompt", "continuation"), f"callbacks.SamplePrompts.{number}.")


def _look_at_rank(rank: Mapping[str, Any], place: str) -> Iterator[str]:
    yield from _find_missing(rank, _RANK_NEEDS, f"{place}.")
    since, left, random = (rank.get(name) for name in ("since_logged", "left", "random"))
    if "since_logged" in rank and not (isinstance(since, TensorInfo) and since.shape == () and since.dtype[0] in "FB"):
        yield f"{place}.since_logged is no tensor of one number"
    if isinstance(left, dict):
        yield from _find_missing(left, ("evaluate", "save", "epoch_end"), f"{place}.left.")
    if isinstance(random, dict) and not _are_generators(random):
        yield f"{place}.random is no state of random generators"


def _are_generators(random: Mapping[str, Any]) -> bool:
    """Whether these are states that the generators can be in.

    numpy (2.4) believes any position in its 624 keys, and reads what stands in memory behind them.
    """
    if not {"python", "numpy", "torch"} <= random.keys() or not isinstance(random.get("cuda", []), list):
        return False
    return (
        _is_python_generator(random["python"])
        and _is_numpy_generator(random["numpy"])
        and all(_is_bytes(each) for each in (random["torch"], *random.get("cuda", [])))
    )


def _is_python_generator(state: Any) -> bool:
    if not (isinstance(state, tuple) and len(state) == 3 and state[0] == 3 and isinstance(state[1], tuple)):
        return False
    # A version, 624 words with the position behind them, and what is left of a pair of normal numbers.
    *keys, position = state[1] or (None,)
    words = len(keys) == _PYTHON_KEYS and all(is_amount(key) and key < 2**32 for key in keys)
    return words and is_amount(position) and position <= _PYTHON_KEYS and isinstance(state[2], float | None)


def _is_numpy_generator(state: Any) -> bool:
    if not (isinstance(state, tuple) and len(state) == 5):
        return False
    name, keys, position, has_gauss, cached = state
    return (
        name == "MT19937"
        and keys == TensorInfo("I64", (_NUMPY_KEYS,))
        and is_amount(position)
        and position <= _NUMPY_KEYS
        and has_gauss in (0, 1)
        and isinstance(cached, float)
    )


def _is_bytes(tensor: Any) -> bool:
    return isinstance(tensor, TensorInfo) and tensor.dtype == "U8" and len(tensor.shape) == 1


def _look_at_tensors(checkpoint: Path) -> Iterator[str]:
    for path in sorted(checkpoint.rglob("*.safetensors")):
        try:
            describe_tensors(path)
        except (OSError, ValueError):
            yield f"{show_key(path.relative_to(checkpoint).as_posix())} is no file of tensors"


def describe_tensors(path: Path) -> dict[str, TensorInfo]:
    """What a file of safetensors holds, by its header, which safetensors looks at whole.

    Raises OSError, or ValueError where it is none.
    """
    from safetensors import SafetensorError, safe_open  # not before a run goes on from a checkpoint

    try:
        with safe_open(path, framework="np") as file:
            parts = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118  # not a mapping
            return {name: TensorInfo(part.get_dtype(), tuple(part.get_shape())) for name, part in parts.items()}
    except SafetensorError as problem:
        raise ValueError("is no file of tensors") from problem


def _read_object(path: Path) -> Any:
    """Yield what is wrong with the file as a whole; return its object, None where it has none."""
    try:
        found = read_record(path, MAX_RECORD_BYTES)
    except ValueError as problem:
        yield str(problem)
    except OSError as problem:
        yield f"cannot be read ({problem.strerror})"
    else:
        if isinstance(found, dict):
            return found
        yield "is no object"
    return None


def _find_missing(holder: Mapping[Any, Any], names: Sequence[str], place: str) -> Iterator[str]:
    return (f"{place}{name} is missing" for name in names if name not in holder)
