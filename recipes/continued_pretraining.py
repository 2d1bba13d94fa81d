"""Continued pretraining of a causal language model, or pretraining of a GPT from scratch.

    accelerate launch --config_file accelerate_configs/cpu.yaml recipes/continued_pretraining.py \
        recipes/configs/continued_pretraining.yaml train.max_steps=50

Rows are documents ({"text": ...}, or a .txt file), joined by end tokens and packed into blocks. `model.path` continues
a model; `model.scratch` starts a ScratchGPT. Model, tokenizer and report are written to `output_dir`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from hf_finetune.data import BlockCollator, load_splits, pack_splits
from hf_finetune.errors import user_errors
from hf_finetune.evaluation import SamplePrompts, language_model_metrics, reduce_logits, score_base, score_splits
from hf_finetune.models import block_size, load_causal_lm, load_config, load_tokenizer
from hf_finetune.release import push_checkpoints
from hf_finetune.run import finish_run, record_inputs, start_run
from hf_finetune.training import Trainer, check_packing, early_stopping, make_guard, make_optimizer, needs_flat


def main(argv: Sequence[str]) -> None:
    # 1. Settings
    run, args = start_run(argv, recipe="continued_pretraining")

    # 2. Data: files -> checked rows -> blocks of tokens
    splits = load_splits(run.data, "document", args.seed, trained=(run, args))
    tokenizer = load_tokenizer(run.model, splits.rows.get("train"))
    config = load_config(run.model, tokenizer)
    block = block_size(run.data, config, tokenizer)
    rows, facts = pack_splits(
        splits.rows,
        tokenizer,
        block,
        isolate=run.data.isolate_documents,
        locate=splits.locate,
        num_proc=run.data.num_proc,
        stream=splits.stream,
    )
    record_inputs(run, args, splits)

    # 3. Model
    model = load_causal_lm(run.model, config, block, bf16=args.bf16)
    check_packing(model, rows["train"])

    # 4. Trainer
    sampler = SamplePrompts(tokenizer, run.eval)
    trainer = Trainer(
        model=model,
        args=args,
        train_dataset=rows["train"],
        eval_dataset=rows.get("validation"),
        processing_class=tokenizer,
        data_collator=BlockCollator(bounds=needs_flat(model)),
        compute_metrics=language_model_metrics(facts.get("validation")),
        preprocess_logits_for_metrics=reduce_logits,
        optimizer_cls_and_kwargs=make_optimizer(run, args),
        callbacks=[sampler, make_guard(run, splits), *early_stopping(run), *push_checkpoints(run)],
    )
    base = score_base(run, trainer, rows)  # before the first step, on the rows of step 6

    # 5. Train
    result = trainer.train(resume_from_checkpoint=args.resume_from_checkpoint)
    trainer.save_verified()

    # 6. Evaluate
    evaluation = score_splits(trainer, rows, facts, base, splits.groups)
    samples = sampler.as_dicts()

    # 7. Report and push
    finish_run(run, trainer, result, facts, evaluation, samples)


if __name__ == "__main__":
    with user_errors():
        main(sys.argv[1:])
