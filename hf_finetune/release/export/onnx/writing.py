"""A model traced into an ONNX graph, written and opened again."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerFast
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

from hf_finetune.errors import ModelError, Problem
from hf_finetune.models.classification_head import has_classification_head
from hf_finetune.models.files.foreign_errors import shorten_reason
from hf_finetune.models.onnx_folders.graph_models import OnnxClassifier
from hf_finetune.models.saved import is_sequence_classifier, load_for_generation, load_for_prediction
from hf_finetune.release.export.onnx.files import measure_size, save_traced
from hf_finetune.release.export.onnx.graphs import Graph, build_classifier_graph, build_language_graph
from hf_finetune.release.export.onnx.quantizing import quantize
from hf_finetune.release.export.options import ExportOptions
from hf_finetune.release.export.runtimes import Floats, Ints, Runtime, TransformersLanguageModel
from hf_finetune.release.export.source import Source, save_companions
from hf_finetune.release.export.targets import Tolerance, Written

logger = logging.getLogger(__name__)

DEFAULT_OPSET = 18
IN_FLOAT32 = Tolerance("logits", 1e-4)
IN_INT8 = Tolerance("loss", 0.02)


def check(config: PreTrainedConfig, tokenizer: PreTrainedTokenizerFast, options: ExportOptions, path: str) -> None:
    """Raise `ModelError` for a model without a key-value cache."""
    if has_classification_head(config):
        return
    known: Any = MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None)
    if known is None or known._is_stateful:
        what = f"is a {config.model_type}, whose state is no cache of keys and values, as an ONNX graph has it"
        raise ModelError(Problem(what, "export a transformer", path=path, code="HF972"))


def get_tolerance(options: ExportOptions) -> Tolerance:
    return IN_INT8 if options.int8 else IN_FLOAT32


def write(source: Source, folder: Path, options: ExportOptions) -> Written:
    """Write the graph and what goes beside it."""
    model: Any = source.model
    if source.labels is None:
        graph = build_language_graph(model)
    else:
        graph = build_classifier_graph(model, source.decision, _find_inputs(model, source.tokenizer))
    save_traced(_trace(graph, options.opset or DEFAULT_OPSET, source.path), folder)
    save_companions(source, folder)
    figures = quantize(folder) if options.int8 else {"bytes": measure_size(folder)}
    return Written(("what the run keeps of its rows (row_prints.npz), its checkpoints and its report",), figures)


def _find_inputs(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> list[str]:
    """The inputs of a classifier that its tokenizer makes."""
    taken = signature(model.forward).parameters
    return [
        "input_ids",
        *(
            name
            for name in ("attention_mask", "token_type_ids")
            if name in taken and (name == "attention_mask" or name in tokenizer.model_input_names)
        ),
    ]


def _trace(graph: Graph, opset: int, path: str) -> Any:
    """Trace a graph by transformers' own exporter. Raises `ModelError` where it cannot be."""
    from transformers.exporters.configs import OnnxConfig
    from transformers.exporters.exporter_onnx import OnnxExporter

    dynamic = {name: dict.fromkeys(axes, torch.export.Dim.DYNAMIC) for name, axes in graph.axes.items()}
    config = OnnxConfig(dynamic_shapes=dynamic, opset_version=opset)
    model: Any = graph.module
    try:
        with _quiet():
            traced, _ = OnnxExporter().export_program(model, graph.inputs, config)
    except Exception as problem:  # torch.export and torch.onnx raise of all kinds what they cannot trace
        what = f"cannot be traced into an ONNX graph ({shorten_reason(str(problem))})"
        remedy = "export another architecture, or report it"
        raise ModelError(Problem(what, remedy, path=path, code="HF972")) from problem
    _name_axes(traced, graph)
    values: list[Any] = [*traced.graph.inputs, *traced.graph.outputs]
    for value in values:
        value.name = graph.names.get(value.name, value.name)
    _forget_where_traced(traced)
    return traced


def _name_axes(traced: Any, graph: Graph) -> None:
    """Name the axes of inputs and outputs, which torch calls s26 or s70."""
    from onnxscript import ir

    known: dict[str, str] = {}
    for value in traced.graph.inputs:
        known |= {str(value.shape[axis]): name for axis, name in graph.axes.get(value.name, {}).items()}
    for value in (*traced.graph.inputs, *traced.graph.outputs):
        value.shape = ir.Shape([known.get(str(size), size) for size in value.shape])


def _forget_where_traced(traced: Any) -> None:
    """Take out what torch notes of each operator: lines of code with paths of this machine, most of a small graph."""
    for graph in traced.graphs():
        values = {id(value): value for node in graph for value in (*node.inputs, *node.outputs) if value is not None}
        for noted in (graph, *graph, *values.values(), *graph.inputs, *graph.initializers.values()):
            noted.metadata_props.clear()
            noted.doc_string = None


@contextmanager
def _quiet() -> Iterator[None]:
    """Hide what exporters print of their steps, and say of versions and of operators that are not used."""
    loggers = [
        logging.getLogger(name) for name in ("torch.onnx", "torch.export", "transformers", "onnxscript", "onnx_ir")
    ]
    before = [each.level for each in loggers]
    try:
        for each in loggers:
            each.setLevel(logging.CRITICAL)
        with warnings.catch_warnings(), torch.no_grad(), redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for each, level in zip(loggers, before, strict=True):
            each.setLevel(level)


def open_runtime(folder: Path, options: ExportOptions) -> Runtime:
    """Open an export in onnxruntime."""
    if is_sequence_classifier(str(folder)):
        return _OnnxDecisions(load_for_prediction(str(folder))[0])
    return TransformersLanguageModel(*load_for_generation(str(folder)))


class _OnnxDecisions:
    """A classifier whose decision is its graph's own."""

    def __init__(self, model: PreTrainedModel) -> None:
        assert isinstance(model, OnnxClassifier)
        self.model = model

    def classify(self, inputs: Mapping[str, Ints]) -> tuple[Floats, Ints]:
        found = self.model.run(**{name: torch.from_numpy(ids) for name, ids in inputs.items()})
        decision = found.get("decision")
        return found["logits"][0], np.zeros(0, dtype=np.int64) if decision is None else decision[0]

    def close(self) -> None:
        pass
