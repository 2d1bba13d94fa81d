"""Values that are not finite, put into a run at each of its steps: it stops at that step, and names their rows.

A few of the 300 trials here, and all of them under `pytest tests/faults --faults`.
"""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file
from transformers import TrainerCallback, TrainingArguments

from hf_finetune.data.tokenization.documents import BlockCollator
from hf_finetune.errors import NonFiniteError
from hf_finetune.models.scratch_gpt.configuration_scratch_gpt import ScratchGPTConfig
from hf_finetune.models.scratch_gpt.modeling_scratch_gpt import ScratchGPTForCausalLM
from hf_finetune.training.callbacks.guard import TrainingGuard
from hf_finetune.training.trainers.base import Trainer

STEPS, SAVED_EVERY = 60, 10
BATCH, ACCUMULATED = 2, 2
ROWS = 300  # the first two tokens of a row spell its number
WORDS = Dataset.from_dict(
    {
        "input_ids": [[row // 20, row % 20, *(row * place % 19 for place in range(3, 9))] for row in range(ROWS)],
        "row": list(range(ROWS)),
    }
)
WORDS = WORDS.add_column("labels", WORDS["input_ids"][:])
KINDS = ("logit", "gradient", "weight", "learning_rate", "loss")


class Injection(TrainerCallback):
    """Puts a value into one row of step `step`, and into that row whenever it is computed again."""

    def __init__(self, kind: str, step: int) -> None:
        self.kind, self.step, self.random = kind, step, random.Random(f"{kind} {step}")
        self.value = self.random.choice([math.nan, math.inf])
        self.victim: int | None = None
        self.poisoned = False  # whether the batch that is being computed holds it
        self.step_rows: list[int] = []
        self.before: dict[str, torch.Tensor] = {}

    def attach(self, trainer: Trainer) -> None:
        model, compute_loss = trainer.model, trainer.compute_loss
        weights = [weight for name, weight in model.named_parameters() if "embed" not in name]
        self.weight, self.optimizer = self.random.choice(weights), lambda: trainer.optimizer
        self.micro, self.row = self.random.randrange(ACCUMULATED), self.random.randrange(BATCH)
        model.get_output_embeddings().register_forward_hook(self._change_logits)
        self.weight.register_hook(self._change_gradient)

        def compute(model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
            self.rows = [20 * first + second for first, second, *_ in inputs["input_ids"].tolist()]
            if trainer.state.global_step == self.step - 1 and len(self.step_rows) < BATCH * ACCUMULATED:
                self.step_rows += self.rows
                if len(self.step_rows) == BATCH * (self.micro + 1):
                    self.victim = self.rows[self.row]
            self.poisoned = self.victim in self.rows
            loss = compute_loss(model, inputs, *args, **kwargs)
            return loss * self.value if self.poisoned and self.kind == "loss" else loss

        trainer.compute_loss = compute

    def on_step_begin(self, args, state, control, model, **kwargs):
        if state.global_step != self.step - 1:
            return
        self.before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
        if self.kind == "weight":
            self._put_into(self.weight.data)
        if self.kind == "learning_rate":
            self.optimizer().param_groups[-1]["lr"] = self.value

    def _put_into(self, values: torch.Tensor) -> torch.Tensor:
        values.view(-1)[self.random.randrange(values.numel())] = self.value
        return values

    def _change_logits(self, head, states, logits):
        if self.poisoned and self.kind == "logit":
            logits = logits.clone()
            self._put_into(logits[self.rows.index(self.victim), :-1])  # nothing is predicted by the last
        return logits

    def _change_gradient(self, gradient):
        return self._put_into(gradient.clone()) if self.poisoned and self.kind == "gradient" else gradient


def train(folder: Path, injection: Injection, guard: TrainingGuard, **settings: Any) -> Trainer:
    torch.manual_seed(0)
    config = ScratchGPTConfig(vocab_size=20, hidden_size=16, num_hidden_layers=1, num_attention_heads=2)
    defaults = {"max_steps": STEPS, "save_strategy": "steps", "save_steps": SAVED_EVERY, "save_total_limit": 1}
    args = TrainingArguments(
        str(folder),
        per_device_train_batch_size=BATCH,
        gradient_accumulation_steps=ACCUMULATED,
        use_cpu=True,
        report_to="none",
        disable_tqdm=True,
        logging_steps=1,
        dataloader_pin_memory=False,
        **defaults | settings,
    )
    model = ScratchGPTForCausalLM(config)
    trainer = Trainer(model, args, train_dataset=WORDS, data_collator=BlockCollator(), callbacks=[guard, injection])
    injection.attach(trainer)
    trainer.injected = injection
    return trainer


def stop(folder: Path, kind: str, step: int, **settings: Any) -> None:
    """One trial, and what must hold of it."""
    injection = Injection(kind, step)
    guard = TrainingGuard(locate=lambda row: ("rows.jsonl", row + 1))
    trainer = train(folder, injection, guard, **settings)
    with pytest.raises(NonFiniteError) as stopped:
        trainer.train()
    assert stopped.value.exit_code == 4
    assert trainer.state.global_step == step - 1
    (entry,) = json.loads((folder / "nonfinite.json").read_text())
    assert (folder / "nonfinite.json").stat().st_mode & 0o777 == 0o600
    causes = {"logit": "loss", "weight": "weights"}
    assert (entry["step"], entry["action"], entry["cause"]) == (step, "stopped", causes.get(kind, kind))
    expected = injection.step_rows if kind in ("weight", "learning_rate") else [injection.victim]
    assert entry["rows"] == [{"file": "rows.jsonl", "line": row + 1} for row in sorted(expected)]
    changed = {name for name, weight in trainer.model.named_parameters() if not weight.equal(injection.before[name])}
    assert len(changed) == (kind == "weight")
    if kind in ("weight", "gradient"):
        (name,) = (name for name, weight in trainer.model.named_parameters() if weight is injection.weight)
        assert entry["weights"] == [name]
    if kind not in ("weight", "learning_rate"):
        assert f"rows.jsonl:{injection.victim + 1}: the {entry['cause']} of this row" in str(stopped.value)
    kept = (step - 1) // SAVED_EVERY * SAVED_EVERY
    if kept:
        state = load_file(folder / f"checkpoint-{kept}" / "model.safetensors")
        assert all(bool(values.isfinite().all()) for values in state.values())
    logged = [line for line in trainer.state.log_history if "loss" in line]
    assert len(logged) == step - 1
    assert all(math.isfinite(line["loss"]) for line in logged)


@pytest.mark.parametrize("kind", KINDS)
def test_a_value_that_is_not_finite_stops_the_run_at_its_step(kind, tmp_path, request):
    steps = range(1, STEPS + 1) if request.config.getoption("--faults") else (1, 12)
    for step in steps:
        stop(tmp_path / str(step), kind, step)


def test_so_it_does_where_gradients_are_not_clipped(tmp_path):
    stop(tmp_path, "gradient", 2, max_grad_norm=0.0, save_strategy="no")


def test_a_resumed_run_has_left_out_what_the_first_one_did(tmp_path):
    """Skipped at step 3, saved at 4, resumed: the count, the weights and the mean loss are those of one run."""
    trained, losses = [], []
    for resume in (None, str(tmp_path / "checkpoint-4")):
        guard = TrainingGuard("skip")
        trainer = train(tmp_path, Injection("logit", 3), guard, max_steps=8, save_steps=4, save_total_limit=None)
        losses.append(trainer.train(resume_from_checkpoint=resume).training_loss)
        trained.append(trainer.model.state_dict())
        assert guard.skipped_steps == 1
        assert [entry["step"] for entry in json.loads((tmp_path / "nonfinite.json").read_text())] == [3]
    assert all(values.equal(trained[1][name]) for name, values in trained[0].items())
    assert losses[0] == losses[1]
    assert math.isfinite(losses[0])
