"""Continued pretraining of a causal language model, or pretraining of a GPT from scratch.

    accelerate launch --config_file accelerate_configs/cpu.yaml recipes/continued_pretraining.py \
        recipes/configs/continued_pretraining.yaml train.max_steps=50

Rows are documents ({"text": ...}, or a .txt file), joined by end tokens and packed into blocks. `model.path` continues
a model; `model.scratch` starts a ScratchGPT. Model, tokenizer and report are written to `output_dir`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from hf_finetune.config import as_dict, dump_yaml, load_run
from hf_finetune.data.splitting.splits import load_splits
from hf_finetune.data.tokenization.documents import collate_blocks, pack_splits
from hf_finetune.environment.facts import report_environment, versions
from hf_finetune.errors import user_errors
from hf_finetune.evaluation.generation.sample_callback import SamplePrompts
from hf_finetune.evaluation.language_modeling.trainer_metrics import language_model_metrics, reduce_logits, score_split
from hf_finetune.models.files.provenance import model_source, pinned
from hf_finetune.models.lengths import block_size
from hf_finetune.models.loading import load_causal_lm, load_config
from hf_finetune.models.parameters import count_parameters
from hf_finetune.models.tokenizers import load_tokenizer
from hf_finetune.release.hub import check_push, checkpoint_pushes, push_run
from hf_finetune.reporting.run_folder import RunReport, claim_run_folder, open_manifest, write_run_folder
from hf_finetune.training.arguments import early_stopping, resolved, training_arguments
from hf_finetune.training.callbacks import use_log_lines
from hf_finetune.training.callbacks.log_lines import LogLines
from hf_finetune.training.facts import distributed_facts, launch_line, new_run_id, tokens_per_step, train_facts
from hf_finetune.training.muon import optimizer_choice
from hf_finetune.training.saving import save_verified
from hf_finetune.training.trainers.base import Trainer


def main(argv: Sequence[str]) -> None:
    # 1. Settings
    run = pinned(resolved(load_run(argv, recipe="continued_pretraining")))
    claim_run_folder(run.output_dir, resume=run.train.get("resume_from_checkpoint"))
    check_push(run)
    args = training_arguments(run)

    # 2. Data: files -> checked rows -> blocks of tokens
    with args.main_process_first(desc="reading, tokenizing and packing"):
        splits = load_splits(run.data, "document", args.seed)
        tokenizer = load_tokenizer(run.model, splits.rows["train"])
        config = load_config(run.model, tokenizer)
        block = block_size(run.data, config, tokenizer)
        blocks, facts = pack_splits(splits.rows, tokenizer, block, isolate=run.data.isolate_documents)
    if args.should_save:
        manifest = {"data": splits.facts(), "model": model_source(run.model), "versions": versions()}
        manifest |= {"seed": args.seed, "launch": launch_line()}
        open_manifest(run.output_dir, manifest, dump_yaml(run), resume=args.resume_from_checkpoint)

    # 3. Model
    model = load_causal_lm(run.model, config, block, bf16=args.bf16)

    # 4. Trainer
    clock = LogLines(tokens_per_step(args, block))
    sampler = SamplePrompts(tokenizer, run.eval)
    trainer = Trainer(
        model=model,
        args=args,
        train_dataset=blocks["train"],
        eval_dataset=blocks.get("validation"),
        processing_class=tokenizer,
        data_collator=collate_blocks,
        compute_metrics=language_model_metrics(facts["validation"].text_bytes) if "validation" in facts else None,
        preprocess_logits_for_metrics=reduce_logits,
        optimizer_cls_and_kwargs=optimizer_choice(run, args),
        callbacks=[clock, sampler, *early_stopping(run), *checkpoint_pushes(run)],
    )
    use_log_lines(trainer, sampler)

    # 5. Train
    result = trainer.train(resume_from_checkpoint=args.resume_from_checkpoint)
    save_verified(trainer)

    # 6. Evaluate
    held_out = [name for name in ("validation", "test") if name in blocks]
    evaluation = {name: score_split(trainer, blocks[name], facts[name].text_bytes) for name in held_out}
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
