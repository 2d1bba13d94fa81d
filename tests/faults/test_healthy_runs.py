"""Runs in which nothing is wrong: no guard stops them or warns of them, and its limits are far from their losses."""

from __future__ import annotations

import pytest
from models.scratch_models import save_chat_base
from runs import SCRATCH

from hf_finetune.training.callbacks.loss_watch import EXPLODED, EXPLODED_BY, WINDOW, LossWatch
from hf_finetune.training.checkpoints.record import FEWEST_LOSSES, KEPT_LOSSES, find_bound

STEPS = 60
QUIET = (
    "train.bf16=false", "train.eval_strategy=no", "train.save_strategy=no", "train.load_best_model_at_end=false",
    f"train.max_steps={STEPS}", "eval.max_new_tokens=2",
)  # fmt: skip
NO_BEST = ("train.metric_for_best_model=null", "train.early_stopping_patience=null")
RECIPES = {
    "continued_pretraining": (*SCRATCH, "eval.prompts=[]", "train.optim=adamw_torch"),
    "classification": (*SCRATCH, *NO_BEST),
    "sft": ("eval.prompts=[]", "train.per_device_train_batch_size=4"),
    "lora": ("eval.prompts=[]", "train.per_device_train_batch_size=1"),
}
RATES = (1e-4, 1e-3, 5e-3)
SEEDS = (1, 2)
RUNS = [(recipe, rate, seed) for rate in RATES for seed in SEEDS for recipe in RECIPES]


@pytest.mark.parametrize(("recipe", "rate", "seed"), RUNS)
def test_a_healthy_run_is_neither_stopped_nor_warned_of(
    run_recipe, tmp_path, project_root, monkeypatch, caplog, every, recipe, rate, seed
):
    if not every and (recipe, rate, seed) != RUNS[0]:
        pytest.skip("one of the long trials: --faults")
    losses: list[float] = []
    look = LossWatch.look

    def looked(self: LossWatch, loss: float, *args: float | None, **more: bool) -> None:
        losses.append(loss)
        look(self, loss, *args, **more)
        assert self.warned == []

    monkeypatch.setattr(LossWatch, "look", looked)
    named = [f"train.learning_rate={rate}", f"train.seed={seed}"]
    if recipe in ("sft", "lora"):
        base = save_chat_base(tmp_path / "base", project_root / "data_templates" / "user_assistant.jsonl")
        named.append(f"model.path={base}")
    run_recipe(recipe, *QUIET, *RECIPES[recipe], *named)  # no run of ours is without a guard
    assert len(losses) == STEPS
    near = find_nearness(losses)
    print(f"\n{recipe}, rate {rate}, seed {seed}: {losses[0]:.3g} -> {losses[-1]:.3g}, at most {near} of the limits")
    assert max(near) < 1


def find_nearness(losses: list[float]) -> tuple[float, float]:
    """How near the median of a window comes to an explosion, and a step to what is refused after a checkpoint."""
    first, rest = sorted(losses[:WINDOW]), losses[WINDOW:]
    limit = EXPLODED * first[WINDOW // 2 - 1] + EXPLODED_BY
    windows = [sorted(rest[end - WINDOW : end])[WINDOW // 2] for end in range(WINDOW, len(rest) + 1)]
    bounds = [
        losses[step] / (find_bound(losses[max(0, step - KEPT_LOSSES) : step]) or float("inf"))
        for step in range(FEWEST_LOSSES, len(losses))
    ]
    return round(max(windows) / limit, 2), round(max(bounds), 2)
