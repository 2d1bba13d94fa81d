"""Instruction SFT: every parameter of a causal language model is trained on the assistant's turns of conversations.

    accelerate launch --config_file accelerate_configs/cpu.yaml recipes/sft.py recipes/configs/sft.yaml

Rows are conversations in any format of data_templates; `data.loss_on` selects the trained tokens. Model, tokenizer
(with its chat template) and report are written to `output_dir`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from hf_finetune.chat import load_chat_template
from hf_finetune.data import RowCollator, load_splits, pack_examples, tokenize_conversations
from hf_finetune.errors import user_errors
from hf_finetune.evaluation import SamplePrompts, fill_prompts, language_model_metrics, score_base, score_splits
from hf_finetune.models import load_causal_lm, load_config, load_tokenizer, row_length, stop_after_turns
from hf_finetune.release import push_checkpoints
from hf_finetune.run import finish_run, record_inputs, start_run
from hf_finetune.training import SFTTrainer, check_packing, early_stopping, make_guard, make_optimizer, needs_flat


def main(argv: Sequence[str]) -> None:
    # 1. Settings
    run, args = start_run(argv, recipe="sft")

    # 2. Data: files -> checked rows -> conversations as tokens, of which the assistant's are trained
    splits = load_splits(run.data, "conversation", args.seed, trained=(run, args))
    tokenizer = load_tokenizer(run.model)
    config = load_config(run.model, tokenizer)
    template = load_chat_template(run.data, tokenizer)
    max_length = row_length(run.train, config, tokenizer)
    rows, facts = tokenize_conversations(splits, tokenizer, template, run.data, max_length)
    rows, facts = pack_examples(rows, facts, max_length, packing=bool(run.train.get("packing")))
    record_inputs(run, args, splits)

    # 3. Model
    model = load_causal_lm(run.model, config, facts["train"].longest, bf16=args.bf16, tokenizer=tokenizer)
    stop_after_turns(model, tokenizer)
    check_packing(model, rows["train"])

    # 4. Trainer
    sampler = SamplePrompts(tokenizer, fill_prompts(run.eval, splits, tokenizer, max_length), chat=True)
    trainer = SFTTrainer(
        model=model,
        args=args,
        train_dataset=rows["train"],
        eval_dataset=rows.get("validation"),
        processing_class=tokenizer,
        data_collator=RowCollator(tokenizer.pad_token_id, flatten=needs_flat(model)),
        compute_metrics=language_model_metrics(facts.get("validation")),
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
