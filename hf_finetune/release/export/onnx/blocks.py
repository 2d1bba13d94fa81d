"""The weights of a graph in 8 bits, by blocks of 32 along the axis that is summed: llama.cpp's `q8_0` in ONNX.

The operators are onnxruntime's own (`com.microsoft`): `MatMulNBits` for products, `GatherBlockQuantized` for tables.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from hf_finetune.models.onnx_folders.session import Array

BITS, BLOCK = 8, 32
ZERO = 128
"""What stands for 0 where no other number is said: the operators hold numbers from 0 to 255."""
# What is multiplied with the weights is rounded to 8 bits too, by blocks as they are. By one scale a tensor, as
# `quantize_dynamic` does it, the few large numbers in a language model leave little of the others: 5 % of the loss of
# SmolLM2-135M, and by blocks 0.1 %.
ACCURACY_LEVEL = 4
DOMAIN = "com.microsoft"


@dataclass(frozen=True, slots=True)
class _Packed:
    """Rows in 8 bits, in the graph under these names."""

    weights: str
    """(rows, blocks, 32)"""
    scales: str
    """(rows, blocks)"""
    rows: int
    size: int
    """Of a row: along it numbers are summed."""


@dataclass(frozen=True, slots=True)
class _Weights:
    """Those of a graph: in float32, and what has been made of them."""

    graph: GraphProto
    whole: Mapping[str, TensorProto]
    turned: Mapping[str, str]
    """Outputs of nodes that transpose a weight -> that weight; torch traces a head that is tied to the embeddings so.
    """
    packed: dict[tuple[str, bool], _Packed] = field(default_factory=dict)

    def pack(self, name: str, *, by_column: bool) -> _Packed:
        """Put the rows or columns of a weight into the graph in 8 bits; once, whoever uses them."""
        key = (name, by_column)
        if key not in self.packed:
            matrix: Array = numpy_helper.to_array(self.whole[name])
            matrix = matrix.T if by_column else matrix
            packed = _Packed(f"{name}_q8", f"{name}_scales", *matrix.shape)
            for part, array in zip((packed.weights, packed.scales), round_to_8_bits(matrix), strict=True):
                self.graph.initializer.append(numpy_helper.from_array(array, part))
            self.packed[key] = packed
        return self.packed[key]


def quantize_blocks(model: ModelProto) -> None:
    """Quantize the products with weights and the tables of a graph in place; its weights are in memory."""
    # Not by onnxruntime's `MatMulNBitsQuantizer`: it leaves embeddings, and heads tied to them, in float32, half of a
    # small model; and to import it sets up the root logger, which then shows each operator.
    graph = model.graph
    whole = {each.name: each for each in graph.initializer if _is_matrix(each)}
    turned = {node.output[0]: node.input[0] for node in graph.node if _turns(node, whole)}
    weights = _Weights(graph, whole, turned)
    nodes = [made for node in graph.node for made in _convert(node, weights)]
    _drop_unused(graph, nodes, weights)
    if all(each.domain != DOMAIN for each in model.opset_import):
        model.opset_import.append(helper.make_opsetid(DOMAIN, 1))


def round_to_8_bits(matrix: Array) -> tuple[Array, Array]:
    """(rows, size) -> whole numbers (rows, blocks, 32), and what they are multiplied with (rows, blocks)."""
    rows, size = matrix.shape
    padded = np.pad(matrix, ((0, 0), (0, -size % BLOCK))).reshape(rows, -1, BLOCK)
    scales = np.abs(padded).max(axis=-1) / np.float32(ZERO - 1)
    # A block of zeros has no scale.
    numbers = np.rint(padded / np.where(scales == 0, 1, scales)[..., None]) + ZERO
    return numbers.astype(np.uint8), scales.astype(np.float32)


def _is_matrix(tensor: TensorProto) -> bool:
    return tensor.data_type == TensorProto.FLOAT and len(tensor.dims) == 2


def _turns(node: NodeProto, whole: Mapping[str, TensorProto]) -> bool:
    return node.op_type == "Transpose" and node.input[0] in whole


def _convert(node: NodeProto, weights: _Weights) -> Iterator[NodeProto]:
    """A node as it is, or what does the same with a weight in 8 bits."""
    if node.op_type == "MatMul" and node.input[1] in weights.whole:
        yield _multiply(node, weights.pack(node.input[1], by_column=True), node.output[0])
    elif node.op_type == "MatMul" and node.input[1] in weights.turned:
        yield _multiply(node, weights.pack(weights.turned[node.input[1]], by_column=False), node.output[0])
    elif _is_product_and_sum(node) and node.input[1] in weights.whole:
        packed = weights.pack(node.input[1], by_column=not _read_attributes(node).get("transB"))
        biased = len(node.input) == 3
        product = f"{node.output[0]}_product" if biased else node.output[0]
        yield _multiply(node, packed, product)
        if biased:
            yield helper.make_node("Add", [product, node.input[2]], list(node.output))
    elif _looks_up_rows(node, weights.whole):
        yield from _look_up(node, weights.pack(node.input[0], by_column=False))
    else:
        yield node


def _is_product_and_sum(node: NodeProto) -> bool:
    """Whether a node is a product, with a bias or without, as the layers of GPT-2 and the heads of classifiers are."""
    found = _read_attributes(node)
    plain = found.get("alpha", 1.0) == found.get("beta", 1.0) == 1.0 and not found.get("transA")
    return node.op_type == "Gemm" and plain


def _read_attributes(node: NodeProto) -> dict[str, Any]:
    return {each.name: helper.get_attribute_value(each) for each in node.attribute}


def _looks_up_rows(node: NodeProto, whole: Mapping[str, TensorProto]) -> bool:
    by_row = _read_attributes(node).get("axis", 0) == 0
    # What is padded to whole blocks cannot be put together again by a reshape.
    return node.op_type == "Gather" and by_row and node.input[0] in whole and whole[node.input[0]].dims[1] % BLOCK == 0


def _multiply(node: NodeProto, packed: _Packed, output: str) -> NodeProto:
    return helper.make_node(
        "MatMulNBits",
        [node.input[0], packed.weights, packed.scales],
        [output],
        name=node.name,
        domain=DOMAIN,
        N=packed.rows,
        K=packed.size,
        bits=BITS,
        block_size=BLOCK,
        accuracy_level=ACCURACY_LEVEL,
    )


def _look_up(node: NodeProto, packed: _Packed) -> Iterator[NodeProto]:
    """Rows by their numbers, block by block, so that the weights are in the form that products take."""
    name, ids = node.output[0], node.input[1]
    yield _make_constant(f"{name}_last", [-1])
    yield helper.make_node("Unsqueeze", [packed.scales, f"{name}_last"], [f"{name}_scales"])
    # (rows, blocks, 32) -> (batch, seq, blocks, 32)
    yield helper.make_node(
        "GatherBlockQuantized",
        [packed.weights, ids, f"{name}_scales"],
        [f"{name}_blocks"],
        name=node.name,
        domain=DOMAIN,
        bits=BITS,
        block_size=BLOCK,
        gather_axis=0,
        quantize_axis=2,
    )
    yield helper.make_node("Shape", [ids], [f"{name}_axes"])
    yield _make_constant(f"{name}_size", [packed.size])
    yield helper.make_node("Concat", [f"{name}_axes", f"{name}_size"], [f"{name}_shape"], axis=0)
    # (batch, seq, blocks, 32) -> (batch, seq, size)
    yield helper.make_node("Reshape", [f"{name}_blocks", f"{name}_shape"], [name])


def _make_constant(name: str, numbers: list[int]) -> NodeProto:
    return helper.make_node("Constant", [], [name], value=numpy_helper.from_array(np.array(numbers, dtype=np.int64)))


def _drop_unused(graph: GraphProto, nodes: list[NodeProto], weights: _Weights) -> None:
    """Leave out the weights in float32, and what transposed them, where nothing takes them any more."""
    used = {*_list_inputs(nodes), *(each.name for each in graph.output)}
    kept = [node for node in nodes if node.output[0] not in weights.turned or node.output[0] in used]
    unused = {name for name, _ in weights.packed} - {*_list_inputs(kept)}
    # Copies: to delete a node of the graph empties what was taken from it.
    copies = [NodeProto.FromString(node.SerializeToString()) for node in kept]
    del graph.node[:]
    graph.node.extend(copies)
    for place in reversed(range(len(graph.initializer))):
        if graph.initializer[place].name in unused:
            del graph.initializer[place]


def _list_inputs(nodes: Iterable[NodeProto]) -> Iterator[str]:
    """All that nodes take, those in the graphs of branches and loops included: these see the weights around them."""
    for node in nodes:
        yield from node.input
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                yield from _list_inputs(inner.node)
