"""An adapter and its base -> one merged model, which is compared with them before it is kept."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from peft import PeftModel
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerFast

from hf_finetune.chat.template import find_end_token_ids, trust_named_template
from hf_finetune.errors import CannotWriteError, ConfigError, ModelError, Problem, advise_writing, find_writing_code
from hf_finetune.files import fill_folder_atomically, hash_file
from hf_finetune.folders import check_replaceable
from hf_finetune.folders.decision_record import DECISION
from hf_finetune.models.adapters.loading import (
    attach_saved_adapter,
    is_quantized,
    load_adapter,
    load_adapter_tokenizer,
    load_base,
    read_adapter_record,
    suppress_peft_warnings,
)
from hf_finetune.models.classification_head import get_auto_class, is_classifier, read_labels, unwrap_adapter
from hf_finetune.models.files.adapter import ADAPTER_WEIGHTS, BaseRecord, fetch_adapter, write_base_record
from hf_finetune.models.generation_config import settle_generation, stop_after_turns
from hf_finetune.models.lengths import get_max_length
from hf_finetune.models.loading import load_safely
from hf_finetune.release.comparison_rows import load_comparison_rows
from hf_finetune.release.measurement import (
    Measurement,
    compute_relative_difference,
    find_largest_difference,
    find_scale,
    measure_model,
)
from hf_finetune.reporting.card import write_card
from hf_finetune.shell import shell_path

logger = logging.getLogger(__name__)

Dtype = Literal["float32", "bfloat16", "float16"]

DTYPES: dict[object, Dtype] = {
    torch.float32: "float32",
    torch.bfloat16: "bfloat16",
    torch.float16: "float16",
}

# Largest difference of the logits, as a share of the largest logit, if everything is float32: W x + B A x and
# (W + B A) x are the same sums in another order.
ROUNDING = 1e-4


@dataclass(frozen=True, slots=True)
class MergeResult:
    """What merging changed: the adapter on its base compared with the merged model as saved in `output`."""

    output: str
    dtype: str
    rows: int
    max_logit_difference: float
    loss_before: float
    loss_after: float
    relative_loss_difference: float

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def merge_adapter(
    adapter: str,
    output: str,
    *,
    base: str | None = None,
    dtype: Dtype | None = None,
    data: str | None = None,
    tolerance: float = 0.01,
    overwrite: bool = False,
    trust_chat_template: str | None = None,
) -> MergeResult:
    """Merge `adapter` into its base, save the model in `dtype`, load it again and compare it on held-out rows.

    `dtype` is by default that of the base's files, and float32 where a weight is beyond the range of float16. A 4- or
    8-bit base is dequantized first, and the weights are added in float32. The model is written aside, and renamed once
    it has been compared. Raises `ModelError`, and leaves no `output`, if the mean loss differs by more than `tolerance`
    (relative), or if all is float32 and the logits differ by more than rounding; `ConfigError` if `output` may not be
    replaced, or `trust_chat_template` is not the hash of its template; `CannotWriteError` if it cannot be written.
    """
    target = Path(output)
    check_replaceable(output, overwrite=overwrite)
    folder, record = fetch_adapter(adapter), read_adapter_record(adapter, base)
    _check_place(target, [folder, Path(record.name_or_path)])
    tokenizer = _load_tokenizer(adapter, record, trust_chat_template)
    model, _ = load_adapter(adapter, base, tokenizer)
    settle_generation(unwrap_adapter(model), record.name_or_path)
    quantized = is_quantized(unwrap_adapter(model))
    labels = read_labels(model.config) if is_classifier(unwrap_adapter(model)) else None
    rows = load_comparison_rows(data, folder, tokenizer, get_max_length(tokenizer, model.config), labels)
    logger.info("measuring the adapter on its base")
    before = measure_model(model, rows, labels)
    device, generation = model.device, unwrap_adapter(model).generation_config if labels is None else None
    del model  # a machine that just holds one model does not hold two
    try:
        logger.info("adding the adapter to the weights of its base")
        merged, saved_in = _cast(_merge(folder, record, device), dtype or _find_stored_dtype(record))
        exact = saved_in == record.dtype == "float32" and not quantized
        if generation is not None:
            merged.generation_config = generation  # that of the base as it is stored may be one that cannot be saved
        with fill_folder_atomically(target, partial(check_replaceable, output, overwrite=overwrite)) as aside:
            logger.info("writing %s", shell_path(output))
            _save(merged, tokenizer, aside, folder)
            write_base_record(aside, replace(record, started_from=_describe_adapter(adapter, folder)))
            merged = _reload(merged, aside, saved_in, device)
            facts = replace(_compare(before, measure_model(merged, rows, labels)), output=output, dtype=saved_in)
            _check_same(facts, before, tolerance, exact=exact)
            write_card(aside, made_from=folder, called=target)
    except OSError as problem:
        raise explain_unwritten(problem, output) from problem
    return facts


def _load_tokenizer(adapter: str, record: BaseRecord, trusted: str | None) -> PreTrainedTokenizerFast:
    """Load an adapter's tokenizer, and no weights. Raises `ModelError` where its template exceeds a limit."""
    tokenizer = load_adapter_tokenizer(adapter, record)
    trust_named_template(tokenizer, trusted)
    if tokenizer.chat_template and record.classifier is None:
        # Saving asks for the ends of turns, and rows may be rendered: a template that cannot be is refused now.
        find_end_token_ids(tokenizer)
    return tokenizer


def _reload(merged: PreTrainedModel, folder: Path, dtype: Dtype, device: torch.device) -> PreTrainedModel:
    """Load the merged model again, since saving and loading can lose weights, as of a tied head that is one no more."""
    # https://github.com/huggingface/transformers/issues/45127
    logger.info("loading it again, and measuring it on the same rows")
    loaded: PreTrainedModel = get_auto_class(merged).from_pretrained(folder, dtype=dtype, device_map={"": device})
    loaded.eval()
    return loaded


def explain_unwritten(problem: OSError, output: str) -> CannotWriteError:
    what = f"cannot be written ({problem.strerror or problem})"
    remedy, code = advise_writing(problem.errno, "make room, or name another folder"), find_writing_code(problem.errno)
    return CannotWriteError(Problem(what, remedy, path=output, code=code))


def _check_place(target: Path, read: Sequence[Path]) -> None:
    place = target.resolve()
    if any(place == path.resolve() or place in path.resolve().parents for path in read):
        what = "the merged model would take the place of the adapter or of its base"
        raise ConfigError(Problem(what, "name another folder", path=str(target), code="HF707"))


def _find_stored_dtype(record: BaseRecord) -> Dtype:
    """Find the precision of the base's files; float32 where it is none that is saved."""
    config: PreTrainedConfig = load_safely(AutoConfig, record.name_or_path, record.revision)
    return DTYPES.get(config.dtype, "float32")


def _cast(model: PreTrainedModel, dtype: Dtype) -> tuple[PreTrainedModel, Dtype]:
    """Cast a model in float32 to `dtype`, unless a weight is beyond its range, and say which precision it has."""
    largest = torch.finfo(getattr(torch, dtype)).max
    beyond = sum(int((weight.abs() > largest).sum()) for weight in model.parameters())
    if beyond:
        logger.warning(
            "saved in float32: %s weights are beyond the range of %s", f"{beyond:,}", dtype, extra={"code": "HF942"}
        )
        return model, "float32"
    logger.info("the merged weights are saved in %s (--dtype)", dtype)
    return model.to(getattr(torch, dtype)), dtype


def _merge(folder: Path, record: BaseRecord, device: torch.device) -> PreTrainedModel:
    """Load the base in float32 and add the adapter to it."""
    return add_to_base(attach_saved_adapter(load_base_in_float32(record, device=device), folder))


def add_to_base(adapted: PeftModel) -> PreTrainedModel:
    """Add an adapter, in place, to the weights of the base under it, which is returned."""
    with suppress_peft_warnings():
        merged: PreTrainedModel = adapted.merge_and_unload(safe_merge=True)
    return merged


def load_base_in_float32(record: BaseRecord, *, device: torch.device) -> PreTrainedModel:
    """Load an adapter's base in float32; one in 4 or 8 bits is dequantized."""
    as_trained = record if record.quantization is not None else replace(record, dtype="float32")
    model = load_base(as_trained, device=device)
    if is_quantized(model):
        # The adapter was trained on the quantized weights: added to the original ones, or rounded to 4 bits again, it
        # gives another model. https://github.com/unslothai/unsloth-zoo/pull/810 https://github.com/huggingface/peft/issues/2321
        model.dequantize(dtype=torch.float32)
        # transformers 5.23 leaves these flags set, and peft would look for quantized layers. Can go once `dequantize`
        # clears them, as it does `quantization_method`: https://github.com/huggingface/transformers/issues/39295
        for flag in ("is_loaded_in_4bit", "is_loaded_in_8bit"):
            model.__dict__.pop(flag, None)
    loaded: PreTrainedModel = model.float()
    return loaded


def _save(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, folder: Path, adapter: Path) -> None:
    if not is_classifier(model):
        stop_after_turns(model, tokenizer)
    # A classifier takes the last token before the padding, and refuses batches without it:
    # https://github.com/huggingface/transformers/issues/34055
    elif model.config.pad_token_id is None:
        model.config.pad_token_id = tokenizer.pad_token_id
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    if is_classifier(model) and (adapter / DECISION).exists():
        shutil.copy(adapter / DECISION, folder)


def _describe_adapter(name: str, folder: Path) -> dict[str, str]:
    """By what `score` finds the run, whose folder tells which rows were trained."""
    # Not the prints of its rows: a merged folder is passed on, and by them its reader could test for a row.
    return {"name_or_path": name, "sha256": hash_file(folder / ADAPTER_WEIGHTS)}


def _compare(before: Measurement, after: Measurement) -> MergeResult:
    relative = compute_relative_difference(before.loss, after.loss)
    largest = find_largest_difference(before, after)
    return MergeResult("", "", len(before.logits), largest, before.loss, after.loss, relative)


def _check_same(facts: MergeResult, before: Measurement, tolerance: float, *, exact: bool) -> None:
    # `not a <= b` and not `a > b`, so that a NaN fails.
    if not facts.relative_loss_difference <= tolerance:
        what = f"the merged model differs: {_format_facts(facts)}; at most {tolerance:.2%} was allowed"
        remedy = "merge in float32 (--dtype float32), or allow more with --tolerance"
        raise ModelError(Problem(what, remedy, path=facts.output, code="HF941"))
    if exact and not facts.max_logit_difference <= ROUNDING * find_scale(before):
        what = f"the merged model differs: {_format_facts(facts)}; in float32 only rounding may differ"
        raise ModelError(
            Problem(what, "this is a bug of hf-finetune or of peft: please report it", path=facts.output, code="HF941")
        )


def _format_facts(facts: MergeResult) -> str:
    return (
        f"mean loss on {facts.rows} rows {facts.loss_before:.4f} before, {facts.loss_after:.4f} after "
        f"({facts.relative_loss_difference:.3%} apart), largest logit difference {facts.max_logit_difference:.1e}"
    )
