"""The settings of a run that take less memory: what is said where it has run out."""

from __future__ import annotations

from hf_finetune.config.sections import Run

# The setting that bounds the length of a row, and a start for whoever has not set it.
LENGTHS = {
    "sft": ("train", "max_length", 1024),
    "lora": ("train", "max_length", 1024),
    "classification": ("data", "max_length", 512),
    "continued_pretraining": ("data", "block_size", 1024),
}


def suggest_memory_settings(run: Run) -> str:
    """Name three settings for less memory, with values for this run, in the order in which to try them."""
    return "set " + ", or ".join([_suggest_batch(run), _suggest_length(run), _suggest_keeping_less(run)])


def _suggest_batch(run: Run) -> str:
    # 8 and 1 are the defaults of TrainingArguments.
    batch = int(run.train.get("per_device_train_batch_size") or 8)
    steps = int(run.train.get("gradient_accumulation_steps") or 1)
    if batch == 1:
        return "train.per_device_eval_batch_size=1 (the training batch is 1 already)"
    # 8 rows, 2 times a step, become 1 row, 16 times: the same sum, with an eighth of the activations.
    same = f"train.gradient_accumulation_steps={steps * batch}"
    return f"train.per_device_train_batch_size=1 with {same} (the same training)"


def _suggest_length(run: Run) -> str:
    section, name, default = LENGTHS.get(run.recipe, LENGTHS["sft"])
    given = run.train.get(name) if section == "train" else getattr(run.data, name)
    return f"{section}.{name}={max(1, int(given or default) // 2)}"


def _suggest_keeping_less(run: Run) -> str:
    if not (run.train.get("gradient_checkpointing") or run.train.get("activation_checkpointing")):
        return "train.gradient_checkpointing=true"
    if run.recipe == "sft":
        return "recipe: lora"
    if run.model.scratch is not None:
        return "a smaller model.scratch"
    if run.lora is not None or run.recipe == "lora":
        return "a smaller base" if run.model.load_in_4bit else "model.load_in_4bit=true"
    return "model.train_only=head" if run.recipe == "classification" else "model.dtype=bfloat16"
