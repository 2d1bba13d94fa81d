"""A graph as files: whole in one, or with its weights beside it where it is larger than one may be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
from onnxscript import ir

from hf_finetune.models.onnx_folders.session import GRAPH, WEIGHTS

# protobuf takes no message of 2 GiB.
MOST_INLINE = 2**31 - 2**24


def save_traced(traced: Any, folder: Path) -> None:
    """Write a graph that torch has traced."""
    weights = sum(value.const_value.nbytes for value in traced.graph.initializers.values() if value.const_value)
    # Inline where it can be: a graph without a file beside it cannot lead to another one.
    ir.save(traced, folder / GRAPH, external_data=WEIGHTS if weights > MOST_INLINE else None)


def save_graph(model: onnx.ModelProto, folder: Path) -> None:
    """Write a graph whose weights are in memory."""
    if model.ByteSize() > MOST_INLINE:
        onnx.save(model, folder / GRAPH, save_as_external_data=True, location=WEIGHTS)
    else:
        onnx.save(model, folder / GRAPH)


def measure_size(folder: Path) -> int:
    """The bytes of a folder's graph and of the weights beside it."""
    return sum(file.stat().st_size for file in (folder / GRAPH, folder / WEIGHTS) if file.exists())
