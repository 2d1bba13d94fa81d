"""What a run asks of its stream, and what the checkpoint that it goes on from knows of it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import msgspec

from hf_finetune.config.sections import Run
from hf_finetune.data.streaming.position import Count, Position, SavedPosition
from hf_finetune.errors import ConfigError, Problem
from hf_finetune.folders.checkpoint_records import read_progress
from hf_finetune.metric_info import say_count

STREAM_KEY = "hf_finetune_stream"
"""Under which a checkpoint's trainer_state.json keeps where the stream stands."""


Size = Annotated[int, msgspec.Meta(ge=1, lt=2**40)]


class SavedStream(msgspec.Struct, forbid_unknown_fields=True):
    """What a checkpoint keeps of a stream; `PartFeed.save` writes it."""

    part: Count
    start: SavedPosition
    next: SavedPosition
    sha256: str
    examples: Size
    rows_per_step: Size
    chunk_bytes: Size
    last: Count
    shards: Size


@dataclass(frozen=True)
class StreamPlan:
    """How a stream is cut into parts, all of which are whole optimizer steps of equal size."""

    folder: Path
    """Of the run: parts belong to one run alone."""
    seed: int
    rows_per_step: int
    max_steps: int
    steps_per_part: int | None
    """`data.stream_part`."""
    packing: bool = False
    """`train.packing`."""
    step: int = 0
    """The optimizer step of the checkpoint that the run goes on from."""
    saved: SavedStream | None = None
    """What that checkpoint keeps of the stream."""


def plan_stream(run: Run, args: Any) -> StreamPlan:
    """The plan of a run with these `TrainingArguments`.

    Raises `ConfigError` where the checkpoint is of steps of another size: the parts would be others.
    """
    # Of all processes together: each part is divided among them, whatever their number.
    rows = args.train_batch_size * args.world_size * args.gradient_accumulation_steps
    seed = args.seed if args.data_seed is None else args.data_seed
    packing = bool(run.train.get("packing"))
    plan = StreamPlan(Path(run.output_dir), seed, rows, args.max_steps, run.data.stream_part, packing)
    if not args.resume_from_checkpoint:
        return plan
    step, saved = read_saved(Path(args.resume_from_checkpoint))
    if saved.rows_per_step != rows:
        asked = f"a step of {say_count(rows, 'row')}"
        what = f"{asked}, and the run began with {saved.rows_per_step:,}: parts would not fit"
        remedy = "set batch size, accumulation and processes as they were, or start a new run in another output_dir"
        raise ConfigError(Problem(what, remedy, key="data.stream", code="HF901"))
    return replace(plan, step=step, saved=saved)


def read_saved(checkpoint: Path) -> tuple[int, SavedStream]:
    """The step of a checkpoint, and what it keeps of the stream. Raises `ConfigError` where it keeps none."""
    try:
        state = read_progress(checkpoint)
        saved = msgspec.convert(state["stateful_callbacks"][STREAM_KEY], SavedStream)
        for position in (saved.start, saved.next):
            Position.restore(position)
        return msgspec.convert(state["global_step"], Count), saved
    except (KeyError, ValueError) as problem:
        what = f"{checkpoint} does not say where a stream stands"
        remedy = "go on with the settings that the run began with, or start a new run in another output_dir"
        raise ConfigError(Problem(what, remedy, key="data.stream", code="HF906")) from problem
