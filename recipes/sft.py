"""Instruction SFT: every parameter of a causal language model is trained on the assistant's turns of conversations.

    accelerate launch --config_file accelerate_configs/cpu.yaml recipes/sft.py recipes/configs/sft.yaml

Rows are conversations in any format of data_templates; `data.loss_on` selects the trained tokens. Model, tokenizer
(with its chat template) and report are written to `output_dir`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from hf_finetune.chat.template import load_chat_template
from hf_finetune.config import as_dict, dump_yaml, load_run
from hf_finetune.data.splitting.splits import load_splits
from hf_finetune.data.tokenization.collators import RowCollator
from hf_finetune.data.tokenization.conversations import pack_examples, tokenize_splits
from hf_finetune.environment.facts import report_environment, versions
from hf_finetune.errors import user_errors
from hf_finetune.evaluation.generation.sample_callback import SamplePrompts
from hf_finetune.evaluation.language_modeling.trainer_metrics import language_model_metrics, score_split
from hf_finetune.models.files.provenance import model_source, pinned
from hf_finetune.models.generation_config import stop_after_turns
from hf_finetune.models.lengths import row_length
from hf_finetune.models.loading import load_causal_lm, load_config
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
from hf_finetune.training.packing_check import check_isolation, reads_one_row
from hf_finetune.training.saving import save_verified
from hf_finetune.training.trainers.sft import SFTTrainer


def main(argv: Sequence[str]) -> None:
    # 1. Settings
    run = pinned(resolved(load_run(argv, recipe="sft")))
    claim_run_folder(run.output_dir, resume=run.train.get("resume_from_checkpoint"))
    check_push(run)
    args = training_arguments(run)

    # 2. Data: files -> checked rows -> conversations as tokens, of which the assistant's are trained
    with args.main_process_first(desc="reading and tokenizing"):
        splits = load_splits(run.data, "conversation", args.seed)
        tokenizer = load_tokenizer(run.model)
        config = load_config(run.model, tokenizer)
        template = load_chat_template(run.data, tokenizer)
        longest = row_length(run.train, config, tokenizer)
        rows, facts = tokenize_splits(splits, tokenizer, template, run.data, longest)
        rows, facts = pack_examples(rows, facts, longest, packing=bool(run.train.get("packing")))
    if args.should_save:
        manifest = {"data": splits.facts(), "model": model_source(run.model), "versions": versions()}
        manifest |= {"seed": args.seed, "launch": launch_line()}
        open_manifest(run.output_dir, manifest, dump_yaml(run), resume=args.resume_from_checkpoint)

    # 3. Model
    model = load_causal_lm(run.model, config, facts["train"].longest, bf16=args.bf16)
    stop_after_turns(model, tokenizer)
    check_isolation(model, rows["train"])

    # 4. Trainer
    clock = LogLines(tokens_per_step(args, facts["train"].tokens / len(rows["train"])))
    sampler = SamplePrompts(tokenizer, run.eval, chat=True)
    trainer = SFTTrainer(
        model=model,
        args=args,
        train_dataset=rows["train"],
        eval_dataset=rows.get("validation"),
        processing_class=tokenizer,
        data_collator=RowCollator(tokenizer.pad_token_id, flatten=reads_one_row(model)),
        compute_metrics=language_model_metrics(facts["validation"].trained_bytes) if "validation" in facts else None,
        optimizer_cls_and_kwargs=optimizer_choice(run, args),
        callbacks=[clock, sampler, TrainableGuard(), *early_stopping(run), *checkpoint_pushes(run)],
    )
    use_log_lines(trainer, sampler)

    # 5. Train
    result = trainer.train(resume_from_checkpoint=args.resume_from_checkpoint)
    save_verified(trainer)

    # 6. Evaluate
    held_out = [name for name in ("validation", "test") if name in rows]
    evaluation = {name: score_split(trainer, rows[name], facts[name].trained_bytes) for name in held_out}
    samples = sampler.as_dicts()

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
