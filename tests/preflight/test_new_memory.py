"""The formula of the memory of a step against the peak of steps that were made; the figures of the rules."""

from __future__ import annotations

import ctypes
import gc
import math
from pathlib import Path

import psutil
import pytest
import torch
from transformers import AutoModel, AutoModelForCausalLM, BertConfig, LlamaConfig

from hf_finetune.preflight.plan import rules
from hf_finetune.preflight.plan.memory import WITHIN, Step, count_adapter, estimate_memory
from hf_finetune.preflight.plan.models import measure_shape
from hf_finetune.preflight.plan.roles import assign_roles
from hf_finetune.preflight.plan.write import format_value

SIZES = {"hidden_size": 256, "num_hidden_layers": 4, "num_attention_heads": 8, "intermediate_size": 1_024}
ROWS, LENGTH = 4, 128


def measure_peak(work) -> int:
    """Bytes that the process has more of at the most while `work` is done."""
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew: proc(5)
    before = psutil.Process().memory_info().rss
    work()
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.split("VmHWM:")[1].split()[0]) - before


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="Linux tells the peak of a process")
@pytest.mark.parametrize("kind", ["decoder", "encoder"])
def test_the_estimate_is_within_its_factor_of_the_peak_of_real_steps(kind):
    config = LlamaConfig(vocab_size=8_000, **SIZES) if kind == "decoder" else BertConfig(vocab_size=8_000, **SIZES)

    def train() -> None:
        model = (AutoModelForCausalLM if kind == "decoder" else AutoModel).from_config(config).train()
        optimizer = torch.optim.AdamW(model.parameters())
        ids = torch.randint(10, 7_000, (ROWS, LENGTH))
        for _ in range(2):
            if kind == "decoder":
                loss = model(input_ids=ids, labels=ids).loss
            else:
                loss = model(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state.mean()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()

    shape = measure_shape(config, classifier=kind == "encoder")
    step = Step(shape.parameters, ROWS * LENGTH, scored=LENGTH if shape.dropout else 0)
    estimate, measured = estimate_memory(shape, step).total, measure_peak(train)
    assert 1 / WITHIN < measured / estimate < WITHIN, (measured, estimate_memory(shape, step))


def test_the_parameters_of_an_adapter_are_two_thin_matrices_for_each_linear_layer():
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    config = LlamaConfig(vocab_size=100, **sizes)
    model = AutoModelForCausalLM.from_config(config).model  # without the head, which gets none
    linear = [layer for layer in model.modules() if isinstance(layer, torch.nn.Linear)]
    wanted = sum(16 * (layer.in_features + layer.out_features) for layer in linear)
    assert count_adapter(measure_shape(config, classifier=False), 16) == wanted


def test_the_learning_rate_of_an_adapter_is_that_of_the_published_formula():
    assert rules.lora_rate(2_000).value == 5e-4  # where the formula's factor is 1
    assert rules.lora_rate(4_096).value == pytest.approx(5e-4 * (2_000 / 4_096) ** 0.781, rel=0.05)
    assert rules.lora_rate(64).value == 5e-3  # as far as small models were tried


@pytest.mark.parametrize(("rows", "share"), [(4, 0.0), (5, 0.2), (1_000, 0.2), (4_000, 0.1), (100_000, 0.01)])
def test_as_many_rows_are_held_out_as_an_interval_needs(rows, share):
    assert rules.held_out_share(rows, 400) == share


def test_four_hundred_rows_tell_an_accuracy_to_five_points():
    from scipy.stats import binomtest

    interval = binomtest(200, 400).proportion_ci(method="wilson")
    assert rules.half_width(400) == pytest.approx((interval.high - interval.low) / 2, rel=0.02)


@pytest.mark.parametrize(
    ("files", "roles"),
    [
        (["test.jsonl"], {"train": ["test.jsonl"]}),
        (["a/train.jsonl", "a/valid.jsonl"], {"train": ["a/train.jsonl"], "validation": ["a/valid.jsonl"]}),
        (["x-dev.csv", "x-training.csv"], {"train": ["x-training.csv"], "validation": ["x-dev.csv"]}),
        (["val.jsonl", "test.jsonl"], {"train": ["val.jsonl", "test.jsonl"]}),
        (["rows.jsonl", "rows.test.jsonl.gz"], {"train": ["rows.jsonl"], "test": ["rows.test.jsonl.gz"]}),
        (["contest.jsonl", "may.jsonl"], {"train": ["contest.jsonl", "may.jsonl"]}),
    ],
)
def test_the_names_of_several_files_tell_their_roles(files, roles):
    assert assign_roles(files) == roles


@pytest.mark.parametrize(
    "value", ["no", "a: b", "# x", "日本", "a'b\"c", "5", "", "~", "a/b.c", 1e-4, 0.0013, True, [1, "x y"]]
)
def test_a_value_is_read_again_as_it_was(value):
    import yaml

    read = yaml.safe_load(f"key: {format_value(value)} # why")["key"]
    assert (float(read) if isinstance(value, float) else read) == value
    assert not isinstance(value, float) or math.isfinite(value)
