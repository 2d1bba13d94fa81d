"""Settings that conflict. Each check reads settings that are valid by themselves, and names the key to change.

A check skips settings that have a problem already: one mistake, one message.

train.py           steps, schedule, saving and evaluation
mappings.py        what the stack passes on as keyword arguments
sharding.py        what splits a model over processes
sizes.py           a new model against the memory of the machine
sft.py             conversations: lengths, packing, templates
lora.py            what peft would pass over, or refuse only once the base is loaded
classification.py  labels, balance, thresholds
stream.py          `data.stream`: shards, steps, what is never all there
score.py           what a saved model can be asked
saved.py           whether a command can do what is asked of a saved model
paths.py           what is read is there; what is written is nobody's
machine.py         precision and kernels that this machine has
launch/            the accelerate configuration beside the run
metric.py          `train.metric_for_best_model`
hub.py             where a push goes, under which license
"""

from __future__ import annotations

from typing import Any, get_args

from hf_finetune.config.checks.classification import LABELLED_FORMATS, check_classification
from hf_finetune.config.checks.hub import check_hub
from hf_finetune.config.checks.launch import check_launch
from hf_finetune.config.checks.lora import check_lora
from hf_finetune.config.checks.machine import check_machine, check_packages
from hf_finetune.config.checks.mappings import check_mappings
from hf_finetune.config.checks.metric import check_metric
from hf_finetune.config.checks.paths import check_inputs, check_output_dir, check_resume
from hf_finetune.config.checks.score import check_score
from hf_finetune.config.checks.sft import check_sft
from hf_finetune.config.checks.sharding import check_sharding
from hf_finetune.config.checks.sizes import check_sizes
from hf_finetune.config.checks.stream import check_stream
from hf_finetune.config.checks.train import check_train
from hf_finetune.config.reading.document import RunDocument, refuse_given
from hf_finetune.config.sections import ConversationFormat, DocumentFormat, RecipeName, TextFileFormat
from hf_finetune.config.validation.hf_settings import SFT_RECIPES
from hf_finetune.environment.hardware import detect_hardware

DOCUMENT_FORMATS = get_args(DocumentFormat)
CONVERSATION_FORMATS = get_args(ConversationFormat)
# Settings of `data` that only some recipes read.
BLOCK_SETTINGS = ("block_size", "isolate_documents")
CHAT_SETTINGS = (
    *("chat_template", "trust_chat_template", "chat_template_kwargs", "system", "fold_system", "template_date"),
    *("loss_on", "train_on_prefill", "too_long", "max_dropped"),
)


def cross_check(document: RunDocument, run: Any, recipe: RecipeName) -> None:
    """Compare the checked settings `run` with each other, with the machine and with the folders."""
    _check_model(document, run, recipe)
    _check_data(document, run, recipe)
    _check_recipe_sections(document, run, recipe)
    check_train(document, run)
    check_mappings(document, run)
    check_sharding(document, run)
    check_sizes(document, run)
    check_metric(document, run, recipe)
    check_sft(document, run, recipe, detect_hardware())
    check_stream(document, run, recipe)
    check_lora(document, run)
    check_classification(document, run, recipe)
    check_score(document, run, recipe)
    check_launch(document, run, detect_hardware())
    check_machine(document, run, detect_hardware())
    check_packages(document, run)
    check_hub(document, run)
    check_inputs(document, run)
    check_output_dir(document, run)
    check_resume(document, run)


def _check_model(document: RunDocument, run: Any, recipe: RecipeName) -> None:
    model = run.model
    trains_adapter = recipe == "lora" or (recipe == "classification" and run.lora is not None)
    if model.path is None and model.scratch is None and model.adapter is None and not document.is_refused("model"):
        document.refuse(("model",), "neither model.path nor model.scratch is given", "give one of them", code="HF605")
    if model.path is not None and model.scratch is not None:
        document.refuse(
            ("model", "scratch"), "is given together with model.path", "keep one (the other: null)", code="HF606"
        )
    elif not document.is_refused("model.tokenizer"):
        _check_tokenizer(document, model)
    if model.adapter is not None and recipe not in ("lora", "score") and not document.is_refused("model.adapter"):
        document.refuse(("model", "adapter"), "belongs to the recipe lora", "leave it out", code="HF608")
    if model.scratch is not None and model.revision is not None:
        document.refuse(("model", "revision"), "belongs to model.path", "leave it out", code="HF607")
    # Adapters are trained in float32 whatever the base has; full weights in float16 fail only at the first step, with
    # "Attempting to unscale FP16 gradients": https://github.com/huggingface/transformers/issues/23165
    if model.dtype == "float16" and not (trains_adapter or recipe == "score"):
        what = "float16 weights cannot be trained: their gradients vanish"
        document.refuse(("model", "dtype"), what, "use float32, with train.fp16 or train.bf16 for speed", code="HF630")
    _check_quantization(document, model, recipe, adapter=trains_adapter)


def _check_tokenizer(document: RunDocument, model: Any) -> None:
    key = ("model", "tokenizer")
    if model.tokenizer is None:
        if model.scratch is not None:
            remedy = "add model.tokenizer, such as {train: {kind: bpe, vocab_size: 4096}}"
            document.refuse(key, "is missing; a new model has no tokenizer of its own", remedy, code="HF605")
        return
    if isinstance(model.tokenizer, str):
        return
    if model.path is not None:
        what = "a new tokenizer would not fit the trained embeddings of model.path"
        document.refuse(key, what, "leave it out, or start with model.scratch", code="HF632")
    training = model.tokenizer.train
    if training.kind != "char" and training.vocab_size is None:
        what = f"a {training.kind} tokenizer needs the size of its vocabulary"
        document.refuse((*key, "train", "vocab_size"), what, "add vocab_size, such as 4096", code="HF605")


def _check_quantization(document: RunDocument, model: Any, recipe: RecipeName, *, adapter: bool) -> None:
    if model.save_dtype is not None and (adapter or recipe == "score"):
        what = "an adapter is saved in float32" if adapter else "a model that is scored is not saved"
        document.refuse(("model", "save_dtype"), what, "leave it out", code="HF607")
    names = [name for name in ("load_in_4bit", "load_in_8bit") if getattr(model, name)]
    if len(names) == 2:
        document.refuse(
            ("model", "load_in_8bit"), "is given together with model.load_in_4bit", "keep one", code="HF606"
        )
        return
    for name in names:
        if model.scratch is not None:
            document.refuse(
                ("model", name), "a model from random weights cannot be quantized", "leave it out", code="HF631"
            )
        elif not adapter and recipe != "score":
            what = "quantized weights cannot be trained, only adapters on them"
            remedy = "add a section lora, or leave it out" if recipe == "classification" else ""
            document.refuse(("model", name), what, remedy or "use the recipe lora, or leave it out", code="HF630")


def _check_data(document: RunDocument, run: Any, recipe: RecipeName) -> None:
    data = run.data
    for split in ("validation", "test"):
        fraction = f"{split}_fraction"
        both = getattr(data, split) is not None and getattr(data, fraction) is not None
        if both and not document.is_refused(f"data.{split}", f"data.{fraction}"):
            document.refuse(("data", fraction), f"is given together with data.{split}", "keep one", code="HF606")
    if not document.is_refused("data.validation_fraction", "data.test_fraction"):
        total = (data.validation_fraction or 0) + (data.test_fraction or 0)
        if total >= 1:
            what = f"validation_fraction and test_fraction sum to {total:g}, which leaves no training rows"
            document.refuse(("data", "test_fraction"), what, "make them smaller", code="HF621")
    split_here = data.validation_fraction is not None or data.test_fraction is not None
    # Groups are also what intervals and tests of files of their own resample, in training as in scoring.
    effective = {"stratify_by": split_here, "group_by": split_here or data.validation or data.test or recipe == "score"}
    for name, has_effect in effective.items():
        skip = document.is_refused(f"data.{name}", "data.validation_fraction", "data.test_fraction")
        if getattr(data, name) is not None and not has_effect and not skip:
            remedy = "add data.validation_fraction, or leave it out"
            document.refuse(("data", name), "nothing is split, so it would have no effect", remedy, code="HF607")
        elif getattr(data, name) is not None and data.format in get_args(TextFileFormat):
            document.refuse(("data", name), "rows of a text file have no fields", "leave it out", code="HF622")
    _check_format(document, data, run.model.scratch, recipe)


def _check_format(document: RunDocument, data: Any, scratch: Any, recipe: RecipeName) -> None:
    pretraining = recipe == "continued_pretraining"
    if pretraining:
        _check_kind(document, data.format, DOCUMENT_FORMATS, "documents, which continued_pretraining reads")
        positions = scratch.max_position_embeddings if scratch is not None else None
        if positions is not None and data.block_size is not None and data.block_size > positions:
            what = f"{data.block_size} tokens are more than the {positions} positions of the model"
            document.refuse(
                ("data", "block_size"), what, "lower it, or raise model.scratch.max_position_embeddings", code="HF628"
            )
    elif recipe in SFT_RECIPES:
        _check_kind(document, data.format, CONVERSATION_FORMATS, f"conversations, which {recipe} reads")
    elif recipe == "classification":
        _check_kind(document, data.format, LABELLED_FORMATS, f"labelled texts, which {recipe} reads")
    if not pretraining:
        refuse_given(document, "data", data, BLOCK_SETTINGS, "belongs to the recipe continued_pretraining")
    if recipe not in (*SFT_RECIPES, "score"):
        refuse_given(document, "data", data, CHAT_SETTINGS, "belongs to the recipes sft and lora")
    if recipe not in (*SFT_RECIPES, "classification"):
        refuse_given(document, "data", data, ("allow_empty",), "belongs to the recipes sft, lora and classification")


def _check_kind(document: RunDocument, given: str, fitting: tuple[str, ...], kind: str) -> None:
    if given not in ("auto", *fitting):
        remedy = f"choose one of auto, {', '.join(fitting)}"
        document.refuse(("data", "format"), f"{given} rows are not {kind}", remedy, code="HF620")


def _check_recipe_sections(document: RunDocument, run: Any, recipe: RecipeName) -> None:
    if run.lora is not None and recipe not in ("lora", "classification"):
        document.refuse(("lora",), "belongs to the recipes lora and classification", "leave it out", code="HF608")
    if recipe == "lora" and run.lora is None and run.model.adapter is None and not document.is_refused("lora"):
        document.refuse(
            ("lora",), "is missing; the recipe lora needs it", "add a section such as lora: {r: 16}", code="HF605"
        )
    if run.eval.prompts and recipe not in ("continued_pretraining", *SFT_RECIPES):
        what = "belongs to the recipes continued_pretraining, sft and lora"
        document.refuse(("eval", "prompts"), what, "leave it out", code="HF608")
    elif run.eval.prompts == "validation" and recipe not in SFT_RECIPES:
        document.refuse(
            ("eval", "prompts"), "documents ask no questions", "write prompts of your own as a list", code="HF622"
        )
