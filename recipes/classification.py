"""Text classification with an encoder, a decoder or a ScratchGPT: full fine-tuning, the head alone, or LoRA.

    accelerate launch --config_file accelerate_configs/cpu.yaml recipes/classification.py recipes/configs/spam.yaml

Rows are texts with a label, several labels or a number; `model.train_only` and `lora:` select the trained weights.
Model, tokenizer, decision (temperature and thresholds) and report are written to `output_dir`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from hf_finetune.config import as_dict, dump_yaml, load_run
from hf_finetune.data.labels.freeze import freeze_labels
from hf_finetune.data.splitting.splits import load_splits
from hf_finetune.data.tokenization.collators import TextCollator
from hf_finetune.data.tokenization.labelled import balance_classes, padded_width, tokenize_labelled
from hf_finetune.environment.facts import report_environment, versions
from hf_finetune.errors import user_errors
from hf_finetune.evaluation.classification.baselines import add_baselines
from hf_finetune.evaluation.classification.calibration import fit_decision
from hf_finetune.evaluation.classification.metrics import classification_metrics, predict_split, score_split
from hf_finetune.evaluation.classification.mistakes import show_mistakes
from hf_finetune.models.adapters.attach import attach_adapter
from hf_finetune.models.classifiers import choose_trained, load_classifier
from hf_finetune.models.files.provenance import model_source, pinned
from hf_finetune.models.lengths import text_length
from hf_finetune.models.loading import load_config
from hf_finetune.models.parameters import count_parameters
from hf_finetune.models.tokenizers import load_tokenizer
from hf_finetune.release.hub import check_push, checkpoint_pushes, push_run
from hf_finetune.reporting.run_folder import RunReport, claim_run_folder, open_manifest, write_run_folder
from hf_finetune.training.arguments import early_stopping, resolved, training_arguments
from hf_finetune.training.callbacks import use_log_lines
from hf_finetune.training.callbacks.log_lines import LogLines
from hf_finetune.training.callbacks.trainable_guard import TrainableGuard
from hf_finetune.training.facts import distributed_facts, launch_line, new_run_id, tokens_per_step, train_facts
from hf_finetune.training.muon import optimizer_choice
from hf_finetune.training.saving import save_decision, save_verified
from hf_finetune.training.trainers.classification import ClassificationLoss, ClassificationTrainer


def main(argv: Sequence[str]) -> None:
    # 1. Settings
    run = pinned(resolved(load_run(argv, recipe="classification")))
    claim_run_folder(run.output_dir, resume=run.train.get("resume_from_checkpoint"))
    check_push(run)
    args = training_arguments(run)

    # 2. Data: files -> checked rows -> labels frozen from the training rows -> tokens
    with args.main_process_first(desc="reading and tokenizing"):
        splits = load_splits(run.data, "labelled", args.seed)
        labels = freeze_labels(splits, run.data)
        tokenizer = load_tokenizer(run.model, splits.rows["train"], needs_end=False)
        config = load_config(run.model, tokenizer)
        rows, facts = tokenize_labelled(splits, tokenizer, labels, run.data, text_length(run.data, config, tokenizer))
        rows, facts, weights = balance_classes(rows, facts, labels, run.data.balance, args.seed)
    if args.should_save:
        manifest = {"data": splits.facts(), "model": model_source(run.model), "versions": versions()}
        manifest |= {"seed": args.seed, "launch": launch_line()}
        open_manifest(run.output_dir, manifest, dump_yaml(run), resume=args.resume_from_checkpoint)

    # 3. Model
    longest, pad = facts["train"].longest, tokenizer.pad_token_id
    model = load_classifier(run.model, config, labels, longest, bf16=args.bf16, pad_token_id=pad)
    choose_trained(model, run.model.train_only)
    model = model if run.lora is None else attach_adapter(model, run.lora)

    # 4. Trainer
    clock = LogLines(tokens_per_step(args, facts["train"].tokens / len(rows["train"])))
    trainer = ClassificationTrainer(
        model=model,
        args=args,
        train_dataset=rows["train"],
        eval_dataset=rows.get("validation"),
        processing_class=tokenizer,
        data_collator=TextCollator(pad, padded_width(run.data, facts)),
        compute_loss_func=ClassificationLoss(labels.kind, weights, run.data.balance, args.label_smoothing_factor),
        compute_metrics=classification_metrics(labels),
        optimizer_cls_and_kwargs=optimizer_choice(run, args),
        callbacks=[clock, TrainableGuard(), *early_stopping(run), *checkpoint_pushes(run)],
    )
    use_log_lines(trainer)

    # 5. Train
    result = trainer.train(resume_from_checkpoint=args.resume_from_checkpoint)
    save_verified(trainer)

    # 6. Evaluate
    outputs = {name: predict_split(trainer, rows[name]) for name in ("validation", "test") if name in rows}
    decision = fit_decision(outputs.get("validation"), labels, run.eval)
    save_decision(trainer, decision)
    if trainer.is_world_process_zero():
        evaluation = {name: score_split(found, labels, decision) for name, found in outputs.items()}
        add_baselines(evaluation, splits, labels, seed=args.seed)
        samples = show_mistakes(outputs.get("validation"), labels, decision, splits, run.eval)

    # 7. Report and push
    if trainer.is_world_process_zero():
        report = RunReport(
            recipe=run.recipe,
            run_id=new_run_id(),
            status="done",
            settings=as_dict(run),
            data={name: counted.as_dict() for name, counted in facts.items()},
            parameters=count_parameters(trainer.model).as_dict(),
            train=train_facts(trainer, result, clock),
            evaluation=evaluation,
            samples=samples,
            distributed=distributed_facts(trainer),
            environment=report_environment(),
        )
        write_run_folder(run.output_dir, report)
        push_run(run)


if __name__ == "__main__":
    with user_errors():
        main(sys.argv[1:])
