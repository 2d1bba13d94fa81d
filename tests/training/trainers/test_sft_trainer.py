"""SFTTrainer against TRL's own and against plain definitions: loss, gradients, sums, and what it leaves undone."""

from __future__ import annotations

import json
import math
import os
import subprocess
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from huggingface_hub import constants
from models.scratch_models import tiny_model, token_ids
from safetensors.torch import load_file
from torch.nn.functional import cross_entropy
from training.trainers.sft_runs import (
    FLAT,
    OURS,
    PLAIN,
    QUIET,
    epoch_of_odd_rows,
    evaluated,
    gradient_of_one_step,
    losses_of,
    packed_rows,
    trained_weights,
    trainer_of,
    uneven_rows,
)
from transformers import LlamaConfig, LlamaForCausalLM
from trl.trainer.sft_config import SFTConfig
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling
from trl.trainer.sft_trainer import SFTTrainer as TRLTrainer
from tuned_adapters import TOKENIZER, adapter_on, saved_base

from hf_finetune.data.tokenization.collators import RowCollator
from hf_finetune.data.tokenization.documents import BlockCollator
from hf_finetune.errors import ModelError
from hf_finetune.evaluation.language_modeling.trainer_metrics import language_model_metrics, reduce_logits
from hf_finetune.models.adapters.attach import attach_adapter
from hf_finetune.training.trainers.base import Trainer
from hf_finetune.training.trainers.sft import SFTTrainer

PAD = 0


def llama():
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "max_position_embeddings": 64}
    ends = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=61, num_attention_heads=4, num_key_value_heads=2, **sizes, **ends))


def with_lora(**fields):
    """An adapter that has been trained: all of it is other than zero."""
    model = tiny_model(attention="sdpa")
    model.config._name_or_path = "base"  # as if it had been loaded
    model = attach_adapter(model, {"r": 4, **fields})
    torch.manual_seed(0)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.1)
    return model


MODELS = {
    "ScratchGPT": lambda: tiny_model(attention="sdpa"),
    "tied": lambda: tiny_model(attention="sdpa", tie_word_embeddings=True),
    "Llama": llama,
    "LoRA": with_lora,
    "LoRA and head": lambda: with_lora(modules_to_save=["lm_head"]),
}
every_model = pytest.mark.parametrize("make_model", MODELS.values(), ids=MODELS)


def assert_weights_equal(ours, theirs, rtol=1e-5):
    assert ours.keys() == theirs.keys()
    moved = torch.cat([(ours[name] - theirs[name]).flatten() for name in ours])
    size = torch.cat([weight.flatten() for weight in theirs.values()])
    assert moved.norm() <= rtol * size.norm()


def gradients_of(model, loss):
    loss.backward()
    gradients = {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}
    model.zero_grad()
    return gradients


def definition(model, rows):
    """(rows, 3) in double precision, every row alone: negative log-likelihood, right predictions, predictions."""
    sums = []
    with torch.no_grad():
        for row in rows:
            labels = torch.tensor(row["labels"])[1:]
            logits = model(torch.tensor([row["input_ids"]]), use_cache=False).logits[0, :-1].double()
            kept = labels != -100
            nll = cross_entropy(logits[kept], labels[kept], reduction="sum")
            sums.append([nll.item(), (logits.argmax(-1) == labels)[kept].sum().item(), kept.sum().item()])
    return torch.tensor(sums, dtype=torch.float64)


@every_model
@pytest.mark.parametrize("loss_type", ["nll", "dft"])
@pytest.mark.parametrize("items", [None, 37])
def test_loss_and_gradients_are_those_of_trl_s_fused_head(make_model, loss_type, items, tmp_path):
    trainer = trainer_of(make_model(), tmp_path, loss_type=loss_type)
    batch = PLAIN(list(trainer.train_dataset))
    ours = trainer.compute_loss(trainer.model, dict(batch), num_items_in_batch=items)
    our_gradients = gradients_of(trainer.model, ours)
    theirs = TRLTrainer.compute_loss(trainer, trainer.model, dict(batch), num_items_in_batch=items)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=0)
    assert_weights_equal(our_gradients, gradients_of(trainer.model, theirs))


@every_model
def test_loss_and_gradients_are_those_of_plain_cross_entropy(make_model, tmp_path):
    trainer = trainer_of(make_model(), tmp_path)
    batch = PLAIN(list(trainer.train_dataset))
    ours = trainer.compute_loss(trainer.model, dict(batch))
    our_gradients = gradients_of(trainer.model, ours)
    logits = trainer.model(batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False).logits
    plain = cross_entropy(logits[:, :-1].flatten(0, 1), batch["labels"][:, 1:].flatten(), ignore_index=-100)
    torch.testing.assert_close(ours, plain, rtol=1e-5, atol=0)
    assert_weights_equal(our_gradients, gradients_of(trainer.model, plain))


@every_model
def test_under_bf16_the_loss_is_as_near_to_fp32_as_trl_s(make_model, tmp_path):
    trainer = trainer_of(make_model(), tmp_path, bf16=True)
    batch = PLAIN(list(trainer.train_dataset))
    with trainer.compute_loss_context_manager(), trainer.accelerator.autocast():
        ours = trainer.compute_loss(trainer.model, dict(batch))
        theirs = TRLTrainer.compute_loss(trainer, trainer.model, dict(batch))
    sums = definition(trainer.model.eval(), trainer.train_dataset).sum(dim=0)
    exact = (sums[0] / sums[2]).item()
    assert ours.dtype == torch.float32
    assert ours.item() == pytest.approx(theirs.item(), rel=5e-3)
    assert ours.item() == pytest.approx(exact, rel=1e-2)
    our_gradients = gradients_of(trainer.model, ours)
    assert_weights_equal(our_gradients, gradients_of(trainer.model, theirs), rtol=5e-2)


# AdamW's step is the sign of a gradient where that is near nothing, and signs of nothing differ.
SGD = {"optim": "sgd", "learning_rate": 0.1}
# Whole runs: the same rows and seed through TRL's trainer and its own collator.
RUNS = {
    "plain": {},
    "NEFTune": {"neftune_noise_alpha": 5.0},
    "label smoothing": {"label_smoothing_factor": 0.1},
    "dft": {"loss_type": "dft"},
    "gradient checkpointing": {"gradient_checkpointing": True},
    "activation checkpointing": {"activation_checkpointing": True},
    "accumulation": {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2},
}


# TRL says that it will drop label smoothing in 2.0.
@pytest.mark.filterwarnings("ignore:.label_smoothing_factor. is deprecated:FutureWarning")
@pytest.mark.parametrize("make_model", [llama, with_lora], ids=["Llama", "LoRA"])
@pytest.mark.parametrize("settings", RUNS.values(), ids=RUNS)
def test_a_run_has_the_losses_and_weights_of_a_run_of_trl(make_model, settings, tmp_path):
    settings = {"per_device_train_batch_size": 4, "max_steps": 3, **SGD} | settings
    runs = []
    for kind, collator in ((SFTTrainer, PLAIN), (TRLTrainer, DataCollatorForLanguageModeling(PAD))):
        trainer = trainer_of(make_model(), tmp_path, kind=kind, collator=collator, **settings)
        start = trained_weights(trainer.model)
        trainer.train()
        losses = losses_of(trainer)
        end = trained_weights(trainer.model)
        runs.append((losses, {name: end[name] - start[name] for name in end}))
    (ours, moved), (theirs, their_moved) = runs
    assert len(ours) == 3
    assert ours == pytest.approx(theirs, rel=1e-5)
    assert_weights_equal(moved, their_moved, rtol=1e-4)


@pytest.fixture
def whole_batch(tmp_path):
    """Loss and gradient of all rows in one batch."""
    losses, gradient = gradient_of_one_step(tmp_path, uneven_rows(), per_device_train_batch_size=8)
    sums = definition(tiny_model(attention="sdpa"), uneven_rows()).sum(dim=0)
    assert losses == pytest.approx([(sums[0] / sums[2]).item()], rel=1e-5)
    return losses, gradient


@pytest.mark.parametrize("collator", [PLAIN, FLAT], ids=["padded", "flat"])
@pytest.mark.parametrize("size", [1, 2, 4])
def test_accumulation_gives_the_gradient_of_the_whole_batch(collator, size, whole_batch, tmp_path):
    losses, gradient = gradient_of_one_step(
        tmp_path, uneven_rows(), collator, per_device_train_batch_size=size, gradient_accumulation_steps=8 // size
    )
    assert losses == pytest.approx(whole_batch[0], rel=1e-5)
    assert_weights_equal(gradient, whole_batch[1])


@pytest.mark.parametrize(("kind", "collator"), [(SFTTrainer, PLAIN), (Trainer, BlockCollator())], ids=["sft", "blocks"])
def test_32_batches_of_one_row_give_the_step_of_one_batch_of_32(kind, collator, tmp_path):
    """Means of means do not: https://github.com/huggingface/transformers/issues/34191."""
    (one, whole), (parts, added) = (
        gradient_of_one_step(
            tmp_path, uneven_rows(32), collator, kind,
            per_device_train_batch_size=size, gradient_accumulation_steps=32 // size,
        )
        for size in (32, 1)
    )  # fmt: skip
    assert parts == pytest.approx(one, rel=1e-5)
    assert_weights_equal(added, whole)


@pytest.mark.parametrize("collator", [PLAIN, FLAT], ids=["rows", "flat"])
@pytest.mark.parametrize("size", [1, None])
def test_packed_rows_give_the_gradient_of_padded_ones(collator, size, whole_batch, tmp_path):
    packed = packed_rows()
    assert 1 < len(packed) < 8
    batch = len(packed) if size is None else size
    sizes = {"per_device_train_batch_size": batch, "gradient_accumulation_steps": len(packed) // batch}
    losses, gradient = gradient_of_one_step(tmp_path, packed, collator, **sizes)
    assert losses == pytest.approx(whole_batch[0], rel=1e-5)
    assert_weights_equal(gradient, whole_batch[1])


def test_a_batch_that_trains_nothing_gives_no_loss_and_no_gradient(tmp_path):
    trainer = trainer_of(tiny_model(attention="sdpa"), tmp_path)
    batch = PLAIN([{"input_ids": [5, 6, 7], "labels": [-100, -100, -100]}])
    for items in (None, torch.tensor(0), torch.tensor(9)):
        loss = trainer.compute_loss(trainer.model, dict(batch), num_items_in_batch=items)
        gradients = gradients_of(trainer.model, loss)
        assert loss.item() == 0
        assert gradients
        assert not any(gradient.any() for gradient in gradients.values())


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory, preloaded):
    """What two processes that talk through gloo saw of the same rows."""
    folder = tmp_path_factory.mktemp("two")
    tests = Path(__file__).parent.parent.parent
    path = os.pathsep.join([str(tests), str(tests / "training"), str(tests.parent)])
    environment = {**preloaded, "PYTHONPATH": path}
    command = ["accelerate", "launch"]
    command += [
        "--config_file",
        "accelerate_configs/cpu_2proc.yaml",
        "tests/training/trainers/sft_runs.py",
        str(folder),
    ]
    done = subprocess.run(
        command, cwd=tests.parent, env=environment, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return folder, json.loads((folder / "seen.json").read_text())


def test_two_processes_give_the_gradient_of_one(two_processes, whole_batch):
    folder, seen = two_processes
    assert (seen["processes"], seen["backend"]) == (2, "gloo")
    for name in ("", "packed_"):
        assert seen[f"{name}losses"] == pytest.approx(whole_batch[0], rel=1e-5)
        assert_weights_equal(load_file(folder / f"{name}gradient.safetensors"), whole_batch[1])
    of_32 = gradient_of_one_step(folder, uneven_rows(32), per_device_train_batch_size=32)
    assert seen["many_losses"] == pytest.approx(of_32[0], rel=1e-5)
    assert_weights_equal(load_file(folder / "many_gradient.safetensors"), of_32[1])


@pytest.mark.parametrize("collator", [PLAIN, FLAT], ids=["padded", "flat"])
def test_rows_that_do_not_fill_the_last_step_of_two_processes_train_as_those_of_one(
    two_processes, collator, tmp_path, request
):
    name = request.node.callspec.id
    losses, weights, rows = epoch_of_odd_rows(tmp_path, collator, batch=4)
    found, seen = two_processes[1]["odd"][name]
    assert rows == seen == 13
    assert len(losses) == 2
    assert found == pytest.approx(losses, rel=1e-5)
    assert_weights_equal(load_file(two_processes[0] / f"odd_{name}.safetensors"), weights)


def test_two_processes_give_the_scores_of_one_where_rows_do_not_fill_their_batches(two_processes, tmp_path):
    _, seen = two_processes
    assert seen["scores"] == pytest.approx(evaluated(tmp_path, uneven_rows(11)), rel=1e-5)
    assert seen["flat_scores"] == pytest.approx(evaluated(tmp_path, packed_rows().select(range(3))), rel=1e-5)


@every_model
@pytest.mark.parametrize("collator", [PLAIN, FLAT, RowCollator(PAD, True, 8)], ids=["padded", "flat", "flat, to 8"])
def test_sums_are_those_of_each_row_alone(make_model, collator, tmp_path):
    rows = uneven_rows()
    trainer = trainer_of(make_model(), tmp_path, collator=collator)
    trainer.model.eval()
    loss, sums, labels = trainer.prediction_step(trainer.model, collator(list(rows)), prediction_loss_only=False)
    expected = definition(trainer.model, rows)
    torch.testing.assert_close(sums.double(), expected, rtol=1e-5, atol=1e-5)
    assert loss.item() == pytest.approx((expected[:, 0].sum() / expected[:, 2].sum()).item(), rel=1e-5)
    assert labels.shape == (len(rows),)  # the device keeps them for all rows of an evaluation
    assert trainer.prediction_step(trainer.model, collator(list(rows)), prediction_loss_only=True)[1:] == (None, None)


@pytest.mark.parametrize("collator", [PLAIN, FLAT], ids=["rows", "flat"])
@pytest.mark.parametrize("rows", [uneven_rows(11), packed_rows()], ids=["unpacked", "packed"])
def test_an_evaluation_is_exact_at_any_batch_size(rows, collator, tmp_path):
    examples = uneven_rows(11) if "length" in rows.column_names else uneven_rows()
    nll, right, predicted = definition(tiny_model(attention="sdpa"), examples).sum(dim=0).tolist()
    for batch in (1, 3, 16):
        scores = evaluated(tmp_path, rows, collator, batch)
        assert scores["eval_loss"] == pytest.approx(nll / predicted, rel=1e-5)
        assert scores["eval_token_accuracy"] == pytest.approx(right / predicted)


@pytest.mark.parametrize(("kind", "collator"), [(SFTTrainer, PLAIN), (Trainer, BlockCollator())], ids=["sft", "blocks"])
def test_the_loss_of_an_evaluation_with_a_row_that_is_nan_is_nan(kind, collator, tmp_path):
    """transformers (5.23) takes the mean of the batches that are finite."""
    rows = uneven_rows(6)
    reduce = {} if kind is SFTTrainer else {"preprocess_logits_for_metrics": reduce_logits}
    metrics = language_model_metrics(SimpleNamespace(scored_bytes=1))
    args = SFTConfig(output_dir=str(tmp_path), **OURS, **QUIET, per_device_eval_batch_size=1)
    common = {"train_dataset": rows, "eval_dataset": rows, "processing_class": TOKENIZER, "data_collator": collator}
    trainer = kind(tiny_model(attention="sdpa"), args, compute_metrics=metrics, **common, **reduce)
    assert math.isfinite(trainer.evaluate()["eval_loss"])
    counts = Counter(token for row in rows for token in set(row["input_ids"][:-1]))
    one = next(token for token, count in counts.items() if count == 1)
    with torch.no_grad():
        trainer.model.get_input_embeddings().weight[one] = math.nan
    assert math.isnan(trainer.evaluate()["eval_loss"])


def test_an_evaluation_between_steps_drops_nothing_out(tmp_path):
    trainer = trainer_of(tiny_model(attention="sdpa", hidden_dropout=0.5), tmp_path)
    trainer.model.train()
    assert trainer.evaluate()["eval_loss"] == trainer_of(tiny_model(attention="sdpa"), tmp_path).evaluate()["eval_loss"]


def test_a_model_under_the_trainer_still_gives_every_logit(tmp_path):
    model, ids = tiny_model(attention="sdpa"), token_ids(2, 9)
    with torch.no_grad():
        before = model(ids).logits
        trainer = trainer_of(model, tmp_path)
        trainer.compute_loss(model, PLAIN(list(uneven_rows())))
        assert torch.equal(model(ids).logits, before)


def test_a_loss_that_fails_leaves_the_head_as_it_was(tmp_path):
    model, ids = tiny_model(attention="sdpa"), token_ids(2, 9)
    trainer = trainer_of(model, tmp_path)
    with pytest.raises(IndexError), torch.no_grad():
        trainer.compute_loss(model, PLAIN([{"input_ids": [5, 999], "labels": [-100, 6]}]))
    assert model(ids).logits.shape == (2, 9, 61)


@pytest.mark.filterwarnings("ignore:.return_outputs=True.:FutureWarning")
def test_outputs_are_given_to_who_asks_for_them(tmp_path):
    trainer = trainer_of(tiny_model(attention="sdpa"), tmp_path, collator=FLAT)
    batch = FLAT(list(uneven_rows()))
    loss, outputs = trainer.compute_loss(trainer.model, dict(batch), return_outputs=True)
    assert outputs.logits.shape == (*batch["input_ids"].shape, 61)
    torch.testing.assert_close(loss, trainer.compute_loss(trainer.model, dict(batch)), rtol=1e-5, atol=0)


def test_adapters_of_a_quantized_base_keep_their_precision_and_weights(tmp_path):
    model = adapter_on(saved_base(tmp_path / "base", hidden_size=64), {"r": 4}, load_in_4bit=True)
    before = trained_weights(model)
    trainer = trainer_of(model, tmp_path / "run", max_steps=2, learning_rate=1e-3)
    after = trained_weights(trainer.model)
    assert {weight.dtype for weight in after.values()} == {torch.float32}
    assert all(torch.equal(after[name], before[name]) for name in before)
    trainer.train()
    moved = trained_weights(trainer.model)
    assert all(not torch.equal(moved[name], before[name]) for name in before if "lora_B" in name)


def test_weights_that_are_quantized_are_not_trained_without_an_adapter(tmp_path):
    model = adapter_on(saved_base(tmp_path / "base", hidden_size=64), {"r": 4}, load_in_4bit=True).get_base_model()
    with pytest.raises(ModelError, match=r"model\.path: its weights are quantized \(bitsandbytes\), and cannot"):
        trainer_of(model, tmp_path / "run", max_steps=1)


def test_a_checkpoint_has_no_model_card(tmp_path):
    model = adapter_on(saved_base(tmp_path / "base"))
    trainer = trainer_of(model, tmp_path / "run", max_steps=1, save_strategy="steps", save_steps=1)
    trainer.train()
    assert (tmp_path / "run" / "checkpoint-1" / "adapter_model.safetensors").exists()
    assert not list(tmp_path.rglob("README.md"))


@pytest.fixture
def asked_of_the_hub(monkeypatch):
    """Paths that are asked of a server in the Hub's place, with telemetry allowed as it is for a user."""
    asked = []

    class Hub(BaseHTTPRequestHandler):
        def do_HEAD(self):
            asked.append(self.path)
            self.send_response(404)
            self.end_headers()

        do_GET = do_POST = do_HEAD

        def log_message(self, *args):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.delenv("CI", raising=False)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", False)
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        yield asked
        server.shutdown()


def test_nothing_is_sent_where_trl_sends_what_is_trained_and_on_what(asked_of_the_hub, tmp_path):
    trainer_of(tiny_model(), tmp_path, max_steps=1).train()
    time.sleep(0.5)
    assert asked_of_the_hub == []
    trainer_of(tiny_model(), tmp_path, kind=TRLTrainer, collator=DataCollatorForLanguageModeling(PAD))
    deadline = time.monotonic() + 20
    while "/api/telemetry/trl/SFTTrainer" not in asked_of_the_hub and time.monotonic() < deadline:
        time.sleep(0.05)
    # In order, from one thread: what ours had sent would have come before it.
    assert [path for path in asked_of_the_hub if "telemetry" in path] == ["/api/telemetry/trl/SFTTrainer"]
