"""An ONNX graph opened in onnxruntime, after a look at where its weights are."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from hf_finetune.errors import MachineError, ModelError, Problem
from hf_finetune.models.files.foreign_errors import shorten_reason

GRAPH = "model.onnx"
WEIGHTS = "model.onnx.data"
"""Of a graph of more than 2 GiB, beside it."""

Array = npt.NDArray[Any]


def is_onnx_folder(path: str) -> bool:
    """Whether a folder holds an ONNX graph and no other weights."""
    folder = Path(path)
    return (folder / GRAPH).is_file() and not any(folder.glob("*.safetensors"))


class Session:
    """A graph in onnxruntime: named arrays -> named arrays."""

    def __init__(self, folder: Path) -> None:
        """Open the graph of a folder. Raises `ModelError` where it cannot be, `MachineError` without onnxruntime."""
        _require_onnxruntime(folder)
        _check_weight_places(folder / GRAPH)
        import onnxruntime as ort

        options = ort.SessionOptions()
        # Else as many as the machine has cores.
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3  # errors
        try:
            self._session = ort.InferenceSession(folder / GRAPH, options, providers=["CPUExecutionProvider"])
        except Exception as problem:  # onnxruntime's errors have no common base but this
            raise _make_unusable_error(folder, shorten_reason(str(problem))) from problem
        self.inputs = {each.name: each for each in self._session.get_inputs()}
        self.outputs = [each.name for each in self._session.get_outputs()]

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Run the graph on those of `inputs` that it has."""
        found = self._session.run(None, {name: array for name, array in inputs.items() if name in self.inputs})
        return dict(zip(self.outputs, found, strict=True))

    def make_empty(self, name: str, batch: int) -> Array:
        """Make the array of an input that has nothing in it yet: (batch, heads, 0, size)."""
        entry = self.inputs[name]
        shape = [size if isinstance(size, int) else 0 for size in entry.shape]
        kind = np.int64 if "int64" in entry.type else np.float16 if "float16" in entry.type else np.float32
        return np.zeros((batch, *shape[1:]), dtype=kind)


def _require_onnxruntime(folder: Path) -> None:
    if absent := [name for name in ("onnx", "onnxruntime") if importlib.util.find_spec(name) is None]:
        what = f"holds an ONNX model, for which the package {absent[0]} is not installed"
        remedy = 'in the clone of hf-finetune: pip install ".[onnx]"'
        raise MachineError(Problem(what, remedy, path=str(folder), code="HF711"))


def _check_weight_places(graph: Path) -> None:
    """Raise `ModelError` where a graph would read its weights from a file that is none of its folder."""
    # onnxruntime opens what the graph names: https://github.com/advisories/GHSA-cmw6-hcpp-c6jp
    import onnx

    try:
        model = onnx.load(graph, load_external_data=False)
    except Exception as problem:  # of protobuf
        raise _make_unusable_error(graph.parent, shorten_reason(str(problem))) from problem
    for tensor in _iterate_tensors(model.graph):
        places = [entry.value for entry in tensor.external_data if entry.key == "location"]
        beside = graph.parent / WEIGHTS
        if any(place != WEIGHTS for place in places) or (places and (beside.is_symlink() or not beside.is_file())):
            what = f"would read weights from {places[0]!r}, which is no file of its own ({WEIGHTS})"
            raise ModelError(Problem(what, "use a copy that is whole", path=str(graph), code="HF508"))


def _iterate_tensors(graph: Any) -> Iterator[Any]:
    """All tensors of a graph, those inside of its nodes and of their graphs included."""
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    for node in graph.node:
        for attribute in node.attribute:
            yield from (attribute.t, *attribute.tensors)
            for inner in (attribute.g, *attribute.graphs):
                yield from _iterate_tensors(inner)


def _make_unusable_error(folder: Path, reason: str) -> ModelError:
    what = f"is no ONNX model that onnxruntime opens ({reason})"
    return ModelError(Problem(what, "export it again", path=str(folder / GRAPH), code="HF501"))
