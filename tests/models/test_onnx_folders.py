"""ONNX folders of others: nothing is read from beside them, and what is no model of ours is one message."""

from __future__ import annotations

import importlib.util

import onnx
import pytest
from onnx import TensorProto, helper
from tuned_adapters import TOKENIZER
from tuned_classifiers import saved_backbone

from hf_finetune.errors import MachineError, ModelError
from hf_finetune.models.onnx_folders import session as sessions
from hf_finetune.models.onnx_folders.session import Session
from hf_finetune.models.saved import load_for_generation, load_for_prediction


def write_graph(folder, location=None, **names):
    """A graph that adds a weight to its input; the weight is in the file `location`, if one is named."""
    weight = helper.make_tensor("weight", TensorProto.FLOAT, [1], [1.0])
    if location is not None:
        weight.ClearField("float_data")
        weight.data_location = TensorProto.EXTERNAL
        weight.external_data.add(key="location", value=location)
    values = {name: helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in ("a", "b")}
    node = helper.make_node("Add", ["a", "weight"], ["b"])
    graph = helper.make_graph([node], "g", [values["a"]], [values["b"]], [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    return folder


@pytest.mark.parametrize("location", ["/etc/passwd", "../weights", "sub/model.onnx.data", "model.onnx.data"])
def test_a_graph_reads_no_weights_from_elsewhere(tmp_path, location):
    (tmp_path / "elsewhere").write_bytes(b"\0\0\0\0")
    if location == "model.onnx.data":
        (tmp_path / location).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ModelError, match=f"would read weights from '{location}', which is no file of its own"):
        Session(write_graph(tmp_path, location))


def test_weights_beside_a_graph_are_read(tmp_path):
    (tmp_path / "model.onnx.data").write_bytes(b"\0\0\0\0")
    assert Session(write_graph(tmp_path, "model.onnx.data")).outputs == ["b"]


def test_what_is_no_graph_is_one_message(tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"no protobuf at all")
    with pytest.raises(ModelError, match=r"model\.onnx: is no ONNX model that onnxruntime opens \(.*export it again"):
        Session(tmp_path)
    empty = onnx.ModelProto()
    (tmp_path / "model.onnx").write_bytes(empty.SerializeToString() or b"\x08\x09")
    with pytest.raises(ModelError, match="is no ONNX model that onnxruntime opens"):
        Session(tmp_path)


def test_without_onnxruntime_one_message_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr(sessions.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MachineError, match="holds an ONNX model, for which the package onnx is not installed"):
        Session(write_graph(tmp_path))
    assert importlib.util.find_spec("onnx") is None


def test_a_graph_that_is_no_model_with_a_cache_is_refused(tmp_path):
    folder = saved_backbone(tmp_path / "model", "llama")
    (folder / "model.safetensors").unlink()
    write_graph(folder)
    with pytest.raises(ModelError, match=r"model\.onnx: has no input_ids among its inputs and outputs; export it with"):
        load_for_generation(str(folder))
    with pytest.raises(ModelError, match="is no text classifier but a language model"):
        load_for_prediction(str(folder))
    assert TOKENIZER.pad_token_id == 0
