"""Weights of a graph in 8 bits by blocks, asked of onnxruntime beside the same graph in float32."""

from __future__ import annotations

import numpy as np
import onnxruntime as ort
import pytest
from gguf.constants import GGMLQuantizationType
from gguf.quants import dequantize, quantize
from onnx import TensorProto, helper, numpy_helper

from hf_finetune.release.export.onnx.blocks import quantize_blocks, round_to_8_bits

ROWS, SIZE, WIDE = 50, 64, 96
RANDOM = np.random.default_rng(0)
TABLE = RANDOM.standard_normal((ROWS, SIZE)).astype(np.float32)
UP = RANDOM.standard_normal((SIZE, WIDE)).astype(np.float32)
DOWN = RANDOM.standard_normal((WIDE, SIZE)).astype(np.float32)
IDS = np.array([[3, 0, ROWS - 1], [7, 7, 1]])


def make_model(nodes, weights, inputs, outputs):
    given = [helper.make_tensor_value_info(name, kind, None) for name, kind in inputs.items()]
    found = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs]
    held = [numpy_helper.from_array(weight, name) for name, weight in weights.items()]
    graph = helper.make_graph(nodes, "g", given, found, held)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def run(model, **inputs):
    return ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, inputs)


def make_tied():
    """Embeddings, a product and back, and a head whose weights are the embeddings, as torch traces it."""
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["hidden"]),
        helper.make_node("MatMul", ["hidden", "up"], ["wide"]),
        helper.make_node("MatMul", ["wide", "down"], ["narrow"]),
        helper.make_node("Transpose", ["table"], ["head"], perm=[1, 0]),
        helper.make_node("MatMul", ["narrow", "head"], ["logits"]),
    ]
    weights = {"table": TABLE, "up": UP, "down": DOWN}
    return make_model(nodes, weights, {"ids": TensorProto.INT64}, ["hidden", "logits"])


def test_numbers_are_those_of_llama_cpps_q8_0():
    numbers, scales = round_to_8_bits(TABLE)
    assert (numbers.shape, scales.shape) == ((ROWS, SIZE // 32, 32), (ROWS, SIZE // 32))
    found = ((numbers.astype(np.float32) - 128) * scales[..., None]).reshape(TABLE.shape)
    # Its scales have 16 bits.
    theirs = dequantize(quantize(TABLE, GGMLQuantizationType.Q8_0), GGMLQuantizationType.Q8_0)
    np.testing.assert_allclose(found, theirs, atol=2e-3)
    assert np.abs(found - TABLE).max() <= scales.max() / 2 + 1e-6
    assert np.abs(found - TABLE).max() > 1e-3


def test_zeros_stay_zeros_and_a_rest_is_padded():
    numbers, scales = round_to_8_bits(np.zeros((2, 40), dtype=np.float32))
    assert numbers.shape == (2, 2, 32)
    assert set(numbers.flatten().tolist()) == {128}
    assert not scales.any()


def test_products_embeddings_and_a_tied_head_are_computed_from_one_copy():
    model = make_tied()
    before = run(model, ids=IDS)
    quantize_blocks(model)
    after = run(model, ids=IDS)
    numbers, scales = round_to_8_bits(TABLE)
    rows = ((numbers.astype(np.float32) - 128) * scales[..., None]).reshape(TABLE.shape)
    np.testing.assert_allclose(after[0], rows[IDS], atol=1e-6)
    assert after[1].shape == before[1].shape
    # Three products, each with an error of a few thousandths of what it sums.
    assert 0 < np.abs(after[1] - before[1]).max() < 0.03 * np.abs(before[1]).max()
    held = {each.name: each for each in model.graph.initializer}
    assert not {"table", "up", "down"} & {*held}
    assert sum(each.dims[0] == ROWS and each.data_type == TensorProto.UINT8 for each in held.values()) == 1
    assert all(each.data_type == TensorProto.UINT8 or len(each.dims) == 2 for each in held.values())


def test_a_few_large_numbers_cost_the_others_nothing():
    """As in every language model: of one scale a tensor, what is small beside them would be rounded to nothing."""
    hidden = RANDOM.standard_normal((1, 8, SIZE)).astype(np.float32)
    hidden[..., 5] = 2_000
    weight = UP.copy()
    weight[:32] = 0  # the block of the large ones says nothing, so that the others are seen
    model = make_model(
        [helper.make_node("MatMul", ["hidden", "up"], ["wide"])],
        {"up": weight},
        {"hidden": TensorProto.FLOAT},
        ["wide"],
    )
    (before,) = run(model, hidden=hidden)
    quantize_blocks(model)
    (after,) = run(model, hidden=hidden)
    assert np.abs(after - before).max() < 0.02 * np.abs(before).max()
    scale = 2_000 / 127
    by_tensor = np.rint(hidden / scale) * scale @ weight
    assert np.abs(by_tensor - before).max() > 0.5 * np.abs(before).max()


@pytest.mark.parametrize("size", [40, 7])
def test_a_size_that_is_no_multiple_of_a_block_is_multiplied_and_not_looked_up(size):
    table = RANDOM.standard_normal((ROWS, size)).astype(np.float32)
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["hidden"]),
        helper.make_node("MatMul", ["hidden", "up"], ["wide"]),
    ]
    weights = {"table": table, "up": RANDOM.standard_normal((size, WIDE)).astype(np.float32)}
    model = make_model(nodes, weights, {"ids": TensorProto.INT64}, ["wide"])
    (before,) = run(model, ids=IDS)
    quantize_blocks(model)
    (after,) = run(model, ids=IDS)
    assert 0 < np.abs(after - before).max() < 0.03 * np.abs(before).max()
    assert {node.op_type for node in model.graph.node} == {"Gather", "MatMulNBits"}


@pytest.mark.parametrize(("turned", "biased"), [(0, False), (0, True), (1, True)])
def test_a_product_in_one_operator_with_its_bias_is_quantized(turned, biased):
    """As torch traces the layers of GPT-2, (in, out) and without, and the heads of classifiers, (out, in)."""
    bias = RANDOM.standard_normal(WIDE).astype(np.float32)
    weights = {"up": np.ascontiguousarray(UP.T) if turned else UP, "bias": bias}
    node = helper.make_node("Gemm", ["hidden", "up", *(["bias"] if biased else [])], ["wide"], transB=turned)
    model = make_model([node], weights, {"hidden": TensorProto.FLOAT}, ["wide"])
    hidden = RANDOM.standard_normal((5, SIZE)).astype(np.float32)
    quantize_blocks(model)
    (found,) = run(model, hidden=hidden)
    expected = hidden @ UP + biased * bias
    assert 0 < np.abs(found - expected).max() < 0.03 * np.abs(expected).max()
    assert [node.op_type for node in model.graph.node] == ["MatMulNBits", *(["Add"] if biased else [])]


def test_a_weight_that_a_branch_takes_too_stays():
    branch = helper.make_graph(
        [helper.make_node("MatMul", ["hidden", "up"], ["inner"])],
        "b",
        [],
        [helper.make_tensor_value_info("inner", TensorProto.FLOAT, None)],
    )
    nodes = [
        helper.make_node("If", ["which"], ["chosen"], then_branch=branch, else_branch=branch),
        helper.make_node("MatMul", ["hidden", "up"], ["wide"]),
    ]
    inputs = {"hidden": TensorProto.FLOAT, "which": TensorProto.BOOL}
    model = make_model(nodes, {"up": UP}, inputs, ["wide", "chosen"])
    quantize_blocks(model)
    hidden = RANDOM.standard_normal((1, 3, SIZE)).astype(np.float32)
    wide, chosen = run(model, hidden=hidden, which=np.array(True))
    np.testing.assert_allclose(chosen, hidden @ UP, atol=1e-4)
    assert 0 < np.abs(wide - chosen).max() < 0.03 * np.abs(chosen).max()


def test_the_operators_are_named_in_the_graph():
    model = make_tied()
    quantize_blocks(model)
    assert {each.domain: each.version for each in model.opset_import} == {"": 18, "com.microsoft": 1}
