"""What the processes that read no weights hold until they are sent some: the same model, of zeros."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from accelerate import PartialState
from models.architectures import FAMILIES, save_family
from models.scratch_models import VARIANTS, tiny_config
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
)

from hf_finetune.models.loading import load_safely
from hf_finetune.models.weights.sending import give_room, sends_weights

ROOT = Path(__file__).resolve().parents[3]
RANKS = Path(__file__).with_name("loading_ranks.py")
# Each has a buffer, a tie, or a state of its own.
SPREAD = ("llama", "gemma3_text", "gpt2", "gpt_neox", "bloom", "falcon", "mixtral", "mamba", "qwen3_next", "bert")


def find_class(family):
    return AutoModelForCausalLM if FAMILIES[family].kind == "decoder" else AutoModelForSequenceClassification


def find_ties(model):
    names = {}
    for name, each in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(each), []).append(name)
    return sorted(names.values())


@pytest.mark.parametrize("family", SPREAD)
def test_a_model_that_was_given_room_and_then_weights_is_the_one_that_was_loaded(family, tmp_path):
    save_family(tmp_path, family)
    options = {"dtype": torch.float32, "output_loading_info": True}
    torch.manual_seed(0)
    whole, info = load_safely(find_class(family), str(tmp_path), None, **options)
    room, told = load_safely(find_class(family), str(tmp_path), None, device_map={"": "meta"}, **options)
    assert told == info
    give_room(room)
    weights, made = dict(whole.named_parameters()), dict(room.named_parameters())
    described = [
        [(name, each.shape, each.dtype, each.requires_grad) for name, each in of_model.items()]
        for of_model in (weights, made)
    ]
    assert described[0] == described[1]
    assert find_ties(room) == find_ties(whole)
    assert not any(each.any() for each in made.values())
    with torch.no_grad():
        for name, each in made.items():
            each.copy_(weights[name])
    for name, each in whole.named_buffers():
        module, _, last = name.rpartition(".")
        setattr(room.get_submodule(module), last, each)
    everything = (each for module in room.modules() for each in [*vars(module).values(), *module.buffers()])
    assert not any(isinstance(each, torch.Tensor) and each.is_meta for each in everything)
    tokens = torch.arange(4, 12)[None]
    with torch.no_grad():
        torch.testing.assert_close(room.eval()(tokens).logits, whole.eval()(tokens).logits)


def test_only_the_first_of_two_processes_reads_the_weights(tmp_path):
    config = LlamaConfig(vocab_size=64, hidden_size=768, intermediate_size=2048, num_hidden_layers=4)
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(tmp_path)
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(RANKS), str(tmp_path)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    done = subprocess.run([sys.executable, *command], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    first, second = (json.loads((tmp_path / f"rank-{rank}.json").read_text()) for rank in range(2))
    # In float32: 4 bytes for each of 28 million.
    assert first["taken"] > 100
    assert second["taken"] < 20
    assert first["buffers"] == second["buffers"]
    assert first["code"] == second["code"] == "HF527"  # what is wrong with a folder is said by all of them


def draw_on(folder, *launcher):
    folder.mkdir()
    command = [sys.executable, *launcher, str(RANKS.with_name("drawing_ranks.py")), str(folder)]
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    environment = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(each.read_text()) for each in sorted(folder.iterdir())]


def test_only_the_first_of_two_processes_draws_a_new_model_and_all_go_on_as_if_each_had(tmp_path):
    [alone] = draw_on(tmp_path / "one")
    first, second = draw_on(tmp_path / "two", "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
    # 28 million numbers of 4 bytes.
    assert first["taken"] > 100
    assert second["taken"] < 20
    assert first["weights"] == alone["weights"]
    assert (first["zeros"], second["zeros"]) == (False, True)
    assert first["buffers"] == second["buffers"] == alone["buffers"]
    # Dropout and the order of the rows are what they are where each draws the model.
    assert first["random"] == second["random"] == alone["random"]


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("auto", [AutoModelForCausalLM, AutoModelForSequenceClassification])
def test_a_new_model_that_was_given_room_and_then_weights_is_the_one_that_was_drawn(auto, variant):
    config = tiny_config(**VARIANTS[variant])
    drawn = auto.from_config(config)
    with torch.device("meta"):
        room = auto.from_config(config)
    give_room(room)
    assert find_ties(room) == find_ties(drawn)
    for name, each in drawn.named_buffers():
        module, _, last = name.rpartition(".")
        setattr(room.get_submodule(module), last, each)
    everything = (each for module in room.modules() for each in [*vars(module).values(), *module.buffers()])
    assert not any(isinstance(each, torch.Tensor) and each.is_meta for each in everything)
    made = dict(room.named_parameters())
    with torch.no_grad():
        for name, each in drawn.named_parameters():
            made[name].copy_(each)
    tokens = torch.arange(4, 12)[None]
    with torch.no_grad():
        torch.testing.assert_close(room.eval()(tokens).logits, drawn.eval()(tokens).logits)


@pytest.mark.parametrize(
    ("environment", "sends"),
    [
        ({}, True),
        ({"ACCELERATE_USE_FSDP": "true", "FSDP_CPU_RAM_EFFICIENT_LOADING": "true"}, True),
        ({"ACCELERATE_USE_FSDP": "true", "FSDP_CPU_RAM_EFFICIENT_LOADING": "false"}, False),
        ({"ACCELERATE_USE_FSDP": "true"}, False),
    ],
)
def test_weights_are_sent_where_the_engine_sends_them(environment, sends, monkeypatch):
    for name in ("ACCELERATE_USE_FSDP", "FSDP_CPU_RAM_EFFICIENT_LOADING"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert not sends_weights(LlamaConfig(), {})  # one process has nobody to send them to
    monkeypatch.setitem(PartialState._shared_state, "num_processes", 2)
    assert sends_weights(LlamaConfig(), {}) == sends
    assert not sends_weights(LlamaConfig(), {"quantization_config": object()})
    assert not sends_weights(LlamaConfig(quantization_config={"quant_method": "bitsandbytes"}), {})
