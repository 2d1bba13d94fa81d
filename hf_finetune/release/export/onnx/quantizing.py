"""A graph in 8 bits, and what that gives: sizes, and the speed beside float32."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx

from hf_finetune.models.onnx_folders.session import GRAPH, WEIGHTS, Array, Session
from hf_finetune.release.export.onnx.blocks import quantize_blocks
from hf_finetune.release.export.onnx.files import measure_size, save_graph

logger = logging.getLogger(__name__)

TURNS = 7
TURN_SECONDS = 0.2
SMALLER = 2.0
"""Times as small as float32 that 8 bits should be."""
TIMED_TOKENS = 64


def quantize(folder: Path) -> dict[str, Any]:
    """Quantize the weights of a folder's graph to 8 bits, in place; activations are quantized as they come.

    Returns the sizes, and how many times as fast as in float32 the graph now reads a text, measured in turns. A warning
    says where it is not half as large, or no faster.
    """
    with TemporaryDirectory(dir=folder) as name:
        before = Path(name)
        for file in (folder / GRAPH, folder / WEIGHTS):
            if file.exists():
                file.rename(before / file.name)
        model = onnx.load(before / GRAPH)
        quantize_blocks(model)
        save_graph(model, folder)
        del model
        figures = {"bytes": measure_size(folder), "bytes_in_float32": measure_size(before)}
        speed = _compare_speeds(Session(before), Session(folder))
    smaller = figures["bytes_in_float32"] / figures["bytes"]
    _warn_of_little(smaller, speed)
    return figures | {"times_smaller": smaller, "times_as_fast": speed}


def _warn_of_little(smaller: float, speed: float) -> None:
    if smaller < SMALLER:
        what = "in 8 bits the graph is %.1f times smaller than in float32, and not %g times"
        logger.warning(what, smaller, SMALLER, extra={"code": "HF974"})
    if speed < 1:
        what = "in 8 bits the graph reads a text at %.2f times the speed of float32 on this machine: it is slower"
        logger.warning(what, speed, extra={"code": "HF974"})


def _compare_speeds(before: Session, after: Session) -> float:
    """How many times as fast `after` runs as `before`: the median of turns in which both run, one after the other."""
    inputs = _make_inputs(before)
    once = _time(lambda: before.run(inputs), 1)
    times = max(1, round(TURN_SECONDS / max(once, 1e-6)))
    # The first run makes its buffers.
    after.run(inputs)
    turns = [_time(lambda: before.run(inputs), times) / _time(lambda: after.run(inputs), times) for _ in range(TURNS)]
    return median(turns)


def _make_inputs(session: Session) -> dict[str, Array]:
    """One text of 64 tokens, with nothing before it."""
    ids = np.ones((1, TIMED_TOKENS), dtype=np.int64)
    known = {
        "input_ids": ids,
        "attention_mask": ids,
        "position_ids": np.arange(TIMED_TOKENS)[None],
        "token_type_ids": 0 * ids,
    }
    return {name: known[name] if name in known else session.make_empty(name, 1) for name in session.inputs}


def _time(call: Callable[[], object], times: int) -> float:
    start = time.perf_counter()
    for _ in range(times):
        call()
    return time.perf_counter() - start
