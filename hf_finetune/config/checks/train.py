"""Settings of `train:` that conflict, which Trainer checks after the model is loaded or not at all."""

from __future__ import annotations

from typing import Any

from hf_finetune.config.reading.document import RunDocument, format_value
from hf_finetune.metric_info import METRIC_SCHEDULES

_MIN_LR_SCHEDULERS = ("cosine_with_min_lr", "cosine_warmup_with_min_lr")


def check_train(document: RunDocument, run: Any) -> None:
    """Check the settings of `train` against each other, and against the rows that there are to evaluate on."""
    _check_duration(document, run)
    _check_evaluation(document, run)
    _check_best_model(document, run)
    _check_early_stopping(document, run)
    _check_guard(document, run)
    _check_schedule(document, run)
    _check_workers(document, run)


def _check_duration(document: RunDocument, run: Any) -> None:
    if run.train.max_steps < 1 and run.train.max_steps != -1:
        what = f"must be at least 1, not {run.train.max_steps}"
        document.refuse(("train", "max_steps"), what, "leave it out to train for train.num_train_epochs", code="HF603")
    # 0.25 is every quarter of the run and 25 every 25 steps, but 2.5 is neither.
    for name in ("logging_steps", "eval_steps", "save_steps"):
        steps = getattr(run.train, name)
        if steps is not None and steps > 1 and steps != int(steps):
            what = f"{format_value(steps)} is neither a number of steps nor a share of them"
            document.refuse(("train", name), what, "write a whole number, or a share below 1", code="HF603")


def _check_evaluation(document: RunDocument, run: Any) -> None:
    if document.is_refused("train.eval_strategy", "data.validation", "data.validation_fraction"):
        return
    if run.data.validation is not None or run.data.validation_fraction is not None:
        return
    remedy = "add data.validation or data.validation_fraction"
    if run.train.eval_strategy != "no":
        document.refuse(("train", "eval_strategy"), "there is nothing to evaluate on", remedy, code="HF661")
    elif run.train.eval_on_start:
        document.refuse(("train", "eval_on_start"), "there is nothing to evaluate on", remedy, code="HF661")


def _check_best_model(document: RunDocument, run: Any) -> None:
    """Check Trainer's own rules for keeping the best checkpoint."""
    # Before they were errors, load_best_model_at_end changed save_steps without a word:
    # https://github.com/huggingface/transformers/pull/12786
    train = run.train
    if document.is_refused("train.eval_strategy", "train.save_strategy", "train.load_best_model_at_end"):
        return
    if train.save_strategy == "best" and train.eval_strategy == "no":
        document.refuse(("train", "save_strategy"), "best needs evaluations", "set train.eval_strategy", code="HF660")
    elif train.save_strategy == "best" and not (train.metric_for_best_model or train.load_best_model_at_end):
        remedy = "set train.metric_for_best_model, such as loss"
        document.refuse(("train", "save_strategy"), "best needs a metric", remedy, code="HF662")
    if not train.load_best_model_at_end or train.save_strategy == "best":
        return
    key = ("train", "load_best_model_at_end")
    if train.eval_strategy == "no":
        document.refuse(
            key, "needs evaluations, and train.eval_strategy is no", "set train.eval_strategy", code="HF660"
        )
    elif train.eval_strategy != train.save_strategy:
        what = f"needs a checkpoint at each evaluation, but eval_strategy is {train.eval_strategy}"
        what += f" and save_strategy {train.save_strategy}"
        document.refuse(key, what, "make both steps or both epoch", code="HF640")
    elif train.eval_strategy == "steps":
        _check_save_steps(document, train)


def _check_save_steps(document: RunDocument, train: Any) -> None:
    if document.is_refused("train.save_steps", "train.eval_steps", "train.logging_steps"):
        return
    save, evaluate = train.save_steps, train.eval_steps or train.logging_steps
    # In millionths, as Trainer compares: 0.1 % 0.02 is 3.5e-18 and not 0, though 0.1 is five times 0.02
    # (https://github.com/huggingface/transformers/pull/38217).
    remedy = f"make save_steps a multiple of {format_value(evaluate)}"
    if (save < 1) != (evaluate < 1):
        document.refuse(
            ("train", "save_steps"),
            "one of save_steps and eval_steps is a share, the other a count",
            remedy,
            code="HF640",
        )
    elif round(save * 1_000_000) % round(evaluate * 1_000_000):
        what = f"{format_value(save)} is not a multiple of eval_steps, {format_value(evaluate)}"
        what += ", as load_best_model_at_end needs"
        document.refuse(("train", "save_steps"), what, remedy, code="HF640")


def _check_early_stopping(document: RunDocument, run: Any) -> None:
    train = run.train
    skip = document.is_refused("train.early_stopping_patience", "train.eval_strategy")
    if train.early_stopping_patience is None:
        if train.early_stopping_threshold is not None and not skip:
            what = "has no effect without train.early_stopping_patience"
            document.refuse(("train", "early_stopping_threshold"), what, "add early_stopping_patience", code="HF607")
        return
    key = ("train", "early_stopping_patience")
    if train.eval_strategy == "no" and not skip:
        document.refuse(
            key, "needs evaluations, and train.eval_strategy is no", "set train.eval_strategy", code="HF660"
        )
    elif not (train.load_best_model_at_end or train.metric_for_best_model) and not document.is_refused(
        "train.load_best_model_at_end", "train.metric_for_best_model"
    ):
        remedy = "set train.load_best_model_at_end: true, or train.metric_for_best_model"
        document.refuse(key, "needs to know which metric is best", remedy, code="HF662")


def _check_guard(document: RunDocument, run: Any) -> None:
    skips = document.is_refused("train.on_nonfinite") or run.train.on_nonfinite == "skip"
    if run.train.max_nonfinite_skips is not None and not skips:
        what = "has no effect without train.on_nonfinite: skip"
        document.refuse(("train", "max_nonfinite_skips"), what, "add on_nonfinite: skip", code="HF607")


def _check_schedule(document: RunDocument, run: Any) -> None:
    train, key = run.train, ("train", "lr_scheduler_type")
    name, extra = train.lr_scheduler_type, train.lr_scheduler_kwargs
    given = extra if isinstance(extra, dict) else {}
    if name in METRIC_SCHEDULES and train.eval_strategy == "no" and not document.is_refused("train.eval_strategy"):
        document.refuse(key, f"{name} needs evaluations", "set train.eval_strategy", code="HF660")
    if isinstance(extra, str) or document.is_refused("train.lr_scheduler_kwargs"):
        return
    # Trainer creates the scheduler after the model is loaded, and raises only there.
    if name in _MIN_LR_SCHEDULERS and len(given.keys() & {"min_lr", "min_lr_rate"}) != 1:
        document.refuse(key, f"{name} needs a floor", "add train.lr_scheduler_kwargs: {min_lr_rate: 0.1}", code="HF641")
    if name == "warmup_stable_decay" and "num_decay_steps" not in given:
        document.refuse(
            key, f"{name} needs its decay", "add train.lr_scheduler_kwargs: {num_decay_steps: 100}", code="HF641"
        )


def _check_workers(document: RunDocument, run: Any) -> None:
    train = run.train
    if train.dataloader_num_workers or document.is_refused("train.dataloader_num_workers"):
        return
    for name in ("dataloader_prefetch_factor", "dataloader_persistent_workers"):
        if getattr(train, name):
            document.refuse(
                ("train", name), "needs workers", "set train.dataloader_num_workers, or leave it out", code="HF609"
            )
