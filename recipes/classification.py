"""Text classification with an encoder, a decoder or a ScratchGPT: full fine-tuning, the head alone, or LoRA.

    accelerate launch --config_file accelerate_configs/cpu.yaml recipes/classification.py recipes/configs/spam.yaml

Rows are texts with a label, several labels or a number; `model.train_only` and `lora:` select the trained weights.
Model, tokenizer, decision (temperature and thresholds) and report are written to `output_dir`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from hf_finetune.data import (
    TextCollator,
    balance_classes,
    freeze_labels,
    get_padded_width,
    load_splits,
    tokenize_labelled,
)
from hf_finetune.errors import user_errors
from hf_finetune.evaluation import (
    classification_metrics,
    fit_decision,
    predict_saved,
    predict_split,
    score_with_baselines,
    show_mistakes,
)
from hf_finetune.models import (
    attach_adapter,
    load_classifier,
    load_config,
    load_tokenizer,
    match_labels,
    set_trainable,
    text_length,
)
from hf_finetune.release import push_checkpoints
from hf_finetune.run import finish_run, record_inputs, start_run
from hf_finetune.training import (
    ClassificationLoss,
    ClassificationTrainer,
    early_stopping,
    make_guard,
    make_optimizer,
    save_decision,
)


def main(argv: Sequence[str]) -> None:
    # 1. Settings
    run, args = start_run(argv, recipe="classification")

    # 2. Data: files -> checked rows -> labels frozen from the training rows -> tokens
    splits = load_splits(run.data, "labelled", args.seed)
    labels = freeze_labels(splits, run.data)
    tokenizer = load_tokenizer(run.model, splits.rows["train"], needs_end=False)
    config = load_config(run.model, tokenizer)
    labels = match_labels(labels, config, run.model, run.data)
    max_length = text_length(run.data, config, tokenizer)
    rows, facts = tokenize_labelled(splits, tokenizer, labels, run.data, max_length)
    rows, facts, weights = balance_classes(rows, facts, labels, run.data.balance, args.seed)
    record_inputs(run, args, splits)

    # 3. Model
    longest, pad = facts["train"].longest, tokenizer.pad_token_id
    model = load_classifier(run.model, config, labels, longest, bf16=args.bf16, pad_token_id=pad)
    set_trainable(model, run.model.train_only)
    model = model if run.lora is None else attach_adapter(model, run.lora)

    # 4. Trainer
    trainer = ClassificationTrainer(
        model=model,
        args=args,
        train_dataset=rows["train"],
        eval_dataset=rows.get("validation"),
        processing_class=tokenizer,
        data_collator=TextCollator(pad, get_padded_width(run.data, facts)),
        compute_loss_func=ClassificationLoss(labels.kind, weights, run.data.balance, args.label_smoothing_factor),
        compute_metrics=classification_metrics(labels),
        optimizer_cls_and_kwargs=make_optimizer(run, args),
        callbacks=[make_guard(run, splits), *early_stopping(run), *push_checkpoints(run)],
    )

    # 5. Train
    result = trainer.train(resume_from_checkpoint=args.resume_from_checkpoint)
    trainer.save_verified()

    # 6. Evaluate: temperature and thresholds are fitted to validation, and saved with the model
    scored = [name for name in ("validation", "test") if name in rows]
    outputs = {name: predict_split(trainer, rows[name], splits.groups.get(name)) for name in scored}
    decision = fit_decision(outputs.get("validation"), labels, run.eval)
    rounded = save_decision(trainer, decision)
    outputs = predict_saved(trainer, rows, outputs, rounded)
    evaluation = score_with_baselines(outputs, labels, decision, splits, seed=args.seed)
    samples = show_mistakes(outputs, labels, decision, splits, run.eval)

    # 7. Report and push
    finish_run(run, trainer, result, facts, evaluation, samples)


if __name__ == "__main__":
    with user_errors():
        main(sys.argv[1:])
