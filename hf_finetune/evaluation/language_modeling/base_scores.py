"""What a run tunes, scored on its validation and test rows before the first step: did it become better?

    score_base      as training begins: from the run's own record, from the cache, or by one pass over the rows
    score_splits    at the end: the tuned model on the same rows, and the paired test of both

The sums of each row are kept in `row_scores.json` of the run folder, and those of the base in the cache as well.
"""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from accelerate.utils import broadcast_object_list
from datasets import Dataset
from peft import LoraConfig, PeftModel
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from hf_finetune.cache.entries import mark_used
from hf_finetune.cache.keys import compute_cache_key, place_in_cache
from hf_finetune.config.sections import Run
from hf_finetune.data.cache import hash_dataset
from hf_finetune.environment.facts import get_installed_versions
from hf_finetune.environment.random_state import keep_random_state
from hf_finetune.evaluation.language_modeling.metrics import make_language_statistic
from hf_finetune.evaluation.language_modeling.row_scores import make_record, read_objects, read_sums
from hf_finetune.evaluation.language_modeling.trainer_metrics import (
    CountedText,
    group_by_row,
    predict_sums,
    score_sums,
)
from hf_finetune.evaluation.statistics.bootstrap import Groups
from hf_finetune.evaluation.statistics.paired_test import compare_models
from hf_finetune.files import encode_non_finite, write_atomically
from hf_finetune.folders import MANIFEST, ROW_SCORES
from hf_finetune.models.adapters.switching_off import is_base_when_off, switch_adapter_off

logger = logging.getLogger(__name__)

Array = npt.NDArray[np.float64]


class BaseScores(TrainerCallback):
    """Score the base when training begins, wherever the model then is, on one device or over many."""

    # Inside `train`, since only there a model is prepared for its devices, once: `predict` before it would prepare the
    # model a second time. A resumed run has its trained weights by then, and its base only in the record or cache.

    def __init__(self, run: Run, trainer: Trainer, rows: Mapping[str, Dataset]) -> None:
        self.run, self.trainer, self.rows = run, trainer, rows
        self.sums: dict[str, Array] = {}
        """(rows, 3) for each split, the columns of `reduce_logits`; empty where nothing is compared."""

    @property
    def record(self) -> Path:
        return Path(self.run.output_dir, ROW_SCORES)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        for split, rows in self.rows.items():
            if split not in self.sums:
                self._score(split, rows, resumed=state.global_step > 0)

    def _score(self, split: str, rows: Dataset, *, resumed: bool) -> None:
        """Fill `sums` of a split; every rank calls it."""
        main = self.trainer.is_world_process_zero()
        made_from = self._hash_inputs(rows) if main else ""
        found, where = self._find(split, made_from, len(rows)) if main else (None, "")
        if self.trainer.args.world_size > 1:  # each process may see another cache, and all must do the same
            found, where = broadcast_object_list([found, where])
        if found is None and not self._is_at_hand(resumed):
            what = "the base cannot be scored on the %s rows: %s (hf-finetune score --base loads it afresh)"
            logger.warning(what, split, self._describe_model(resumed), extra={"code": "HF331"})
            return
        if found is None:
            logger.info("scoring the base on %s %s rows", f"{len(np.unique(rows['row'][:])):,}", split)
            with keep_random_state(self.trainer.args.device), self._as_base(resumed):
                found = predict_sums(self.trainer, rows)
        if not np.isfinite(found).all():
            logger.warning(
                "the base gives NaN or infinite losses on the %s rows, and is not compared with",
                split,
                extra={"code": "HF331"},
            )
            return
        self.sums[split] = found
        loss = found[:, 0].sum() / max(1.0, found[:, 2].sum())
        logger.info("the base on the %s rows: loss %.4f%s", split, loss, where)
        if main:
            self._keep(split, made_from, found)

    def _find(self, split: str, made_from: str, rows: int) -> tuple[Array | None, str]:
        """Find the sums, (rows, 3), in the run's own record or in the cache, and where that was."""
        # The record first: in another place, or years later, the cache is another, and a resumed run has nothing else.
        if (found := read_sums(self.record, split, made_from, rows)) is not None:
            return found, f", from {ROW_SCORES}"
        with contextlib.suppress(OSError):
            if (found := read_sums(_place(made_from), "base", made_from, rows)) is not None:
                mark_used(_place(made_from))
                return found, ", from the cache"
        return None, ""

    def _keep(self, split: str, made_from: str, sums: Array) -> None:
        """Write the sums of the base, (rows, 3), into the run's record, and into the cache where that can be."""
        record = make_record(made_from, sums)
        _write_objects(self.record, read_objects(self.record) | {split: record})
        try:
            path = _place(made_from)
            if read_sums(path, "base", made_from, len(sums)) is None:
                _write_objects(path, {"base": record})
        except OSError as problem:
            logger.warning(
                "the scores of the base are not kept for other runs: %s", problem.strerror, extra={"code": "HF332"}
            )

    def _hash_inputs(self, rows: Dataset) -> str:
        """Hash all that the scores follow from: weights, rows as tokens, precision, and the versions that compute them.

        What tokenizer and template did is in the tokens. The manifest names the weights by commit or by their sha256.
        """
        model, args, section = self.trainer.model, self.trainer.args, self.run.model
        source = json.loads(Path(self.run.output_dir, MANIFEST).read_text(encoding="utf-8"))["model"]
        versions = get_installed_versions()
        # Not in it: the size of batches and the number of processes, which move no more than the last digits of a sum,
        # and all that a base does not know of: learning rate, seed, LoRA. A sweep scores its base once.
        return compute_cache_key(
            {
                "model": source["sha256"] or [source["name"], source["revision"]],
                "rows": hash_dataset(rows),
                "dtype": section.dtype,
                "bits": [section.load_in_4bit, section.load_in_8bit],
                "autocast": [args.bf16, args.fp16],
                "device": args.device.type,
                "attention": model.config._attn_implementation,  # type: ignore[union-attr]
                "versions": {name: versions.get(name) for name in ("torch", "transformers", "hf-finetune")},
            }
        )

    def _get_adapter(self) -> LoraConfig | None:
        """The settings of the adapter in training; None where all of a model is trained."""
        # Not those of `lora:`, which may be left out where model.adapter is trained on.
        model: Any = self.trainer.accelerator.unwrap_model(self.trainer.model)
        return model.peft_config["default"] if isinstance(model, PeftModel) else None  # type: ignore[return-value]

    def _is_switched_off(self, resumed: bool) -> bool:
        config, trained = self._get_adapter(), resumed or self.run.model.adapter is not None
        return config is not None and is_base_when_off(config, trained=trained)

    def _is_at_hand(self, resumed: bool) -> bool:
        """Whether the model in training is the base as it stands, or is once its adapter is switched off."""
        config = self._get_adapter()
        # PiSSA and OLoRA take out of the base what their adapter begins with: before the first step it adds up.
        untrained = not resumed and self.run.model.adapter is None and (config is None or not config.layer_replication)
        return untrained or self._is_switched_off(resumed)

    def _describe_model(self, resumed: bool) -> str:
        if resumed:
            return f"the run goes on from trained weights, without its {ROW_SCORES}"
        return "under this adapter's settings (bias, layer_replication) it is not the model without the adapter"

    @contextlib.contextmanager
    def _as_base(self, resumed: bool) -> Iterator[None]:
        if not self._is_switched_off(resumed):
            yield
            return
        with switch_adapter_off(self.trainer.accelerator.unwrap_model(self.trainer.model)):
            yield


def score_base(run: Run, trainer: Trainer, rows: Mapping[str, Dataset]) -> BaseScores:
    """Have what `run` tunes scored on its validation and test rows as training begins; every rank calls it.

    `eval.base: false` leaves it out, and random weights have no base.
    """
    wanted = run.eval.base is not False and run.model.path is not None
    scores = BaseScores(run, trainer, {name: each for name, each in rows.items() if wanted and name != "train"})
    trainer.add_callback(scores)
    return scores


def score_splits(
    trainer: Trainer,
    rows: Mapping[str, Dataset],
    facts: Mapping[str, CountedText],
    base: BaseScores,
    groups: Mapping[str, Groups],
) -> dict[str, dict[str, Any]]:
    """Compute the metrics of each split but train, beside the base's; every rank calls it and gets all.

    `groups` has the group of each row of a split by `data.group_by`, (rows,); {} where rows are on their own.
    """
    evaluation, record = {}, read_objects(base.record) if trainer.is_world_process_zero() else {}
    for name, split in rows.items():
        if name == "train":
            continue
        sums = predict_sums(trainer, split)
        of_split = groups.get(name)
        evaluation[name] = score_sums(sums, split, facts[name], of_split)
        if name in base.sums:
            evaluation[name]["comparison"] = _compare(base.sums[name], sums, split, facts[name], of_split)
            evaluation[name]["comparison"] = {"base": str(base.run.model.path), **evaluation[name]["comparison"]}
        if name in record:
            record[name] |= {"tuned": sums.tolist(), "row": split["row"][:]}
    if record:
        _write_objects(base.record, record)
    return evaluation


def _compare(
    before: Array, after: Array, examples: Dataset, split: CountedText, groups: Groups | None
) -> dict[str, Any]:
    """Compare the sums of base and tuned model, (examples, 3) each, by row; `groups` is the group of each, (rows,)."""
    parts = [group_by_row(sums, examples, split) for sums in (before, after)]
    sides = [make_language_statistic(*each) for each in parts]
    both = make_language_statistic(*(np.concatenate(pair) for pair in zip(*parts, strict=True)))
    return {"rows": split.rows, **compare_models(sides[0], sides[1], both, split.rows, groups=groups)}


def _place(made_from: str) -> Path:
    return place_in_cache(f"base_scores-{made_from}.json")


def _write_objects(path: Path, content: Mapping[str, Any]) -> None:
    write_atomically(path, json.dumps(encode_non_finite(content), allow_nan=False), private=True)
