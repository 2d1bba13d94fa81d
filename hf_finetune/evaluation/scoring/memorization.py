"""Memorization of a language model, for the report: its canaries, and rows that it continues verbatim."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerFast

from hf_finetune.config.paths import list_source_paths
from hf_finetune.config.sections import Run
from hf_finetune.data.corpora.canaries import read_canaries
from hf_finetune.data.splitting.one_split import SPLIT, load_rows
from hf_finetune.evaluation.probes.memorization import compute_exposure, describe_memorization, measure_verbatim
from hf_finetune.evaluation.scoring.result import get_model_path
from hf_finetune.evaluation.scoring.rows import read_examples
from hf_finetune.evaluation.scoring.run_settings import TokenSettings
from hf_finetune.files import hash_file
from hf_finetune.privacy import redact

logger = logging.getLogger(__name__)

MAX_PLACES = 20


def measure_memorization(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, run: Run, tokens: TokenSettings
) -> dict[str, Any]:
    """Measure exposure of the canaries of `eval.canaries`, and verbatim continuation of the rows of `data.train`.

    Returns `{"memorization": {"canaries", "verbatim", "words"}}` with what was asked for, {} if nothing was; rows are
    named by file and line. Raises as `read_canaries`, `compute_exposure` and `measure_verbatim` do.
    """
    found: dict[str, Any] = {}
    if run.eval.canaries is not None or run.eval.verbatim_prefix is not None:
        logger.info("measuring what it knows by heart")
    if run.eval.canaries is not None:
        found["canaries"] = compute_exposure(model, tokenizer, read_canaries(run.eval.canaries), seed=run.eval.seed)
    if run.eval.verbatim_prefix is not None:
        found["verbatim"] = _measure_verbatim(model, tokenizer, run, tokens)
    if not found:
        return {}
    words = describe_memorization(found.get("canaries", []), found.get("verbatim"))
    asked = [run.eval.canaries] if run.eval.canaries else []
    asked += list_source_paths(run.data.train) if "verbatim" in found else []
    unseen = [path for path in asked if not _was_trained_on(get_model_path(run), path)]
    if unseen:
        words.insert(0, f"not among the training data of the run's manifest: {', '.join(redact(unseen))}")
        logger.warning("%s", words[0], extra={"code": "HF327"})
    return {"memorization": {**found, "words": words}}


def _was_trained_on(model: str, path: str) -> bool:
    """Whether the run in `model` was trained on the file, by its manifest; True if there is no manifest."""
    manifest = Path(model, "manifest.json")
    if not manifest.is_file() or not Path(path).is_file():
        return True
    files = json.loads(manifest.read_text(encoding="utf-8"))["data"]["files"]
    return hash_file(Path(path)) in {file["sha256"] for file in files}


def _measure_verbatim(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, run: Run, tokens: TokenSettings
) -> dict[str, Any]:
    prefix = run.eval.verbatim_prefix
    assert run.data.train is not None  # `load_run` refuses one without the other
    assert prefix is not None
    splits = load_rows(run.data.train, run.data, None, of_hub="train")
    read = read_examples(splits, tokenizer, tokens, tokens.limit_length(model, tokenizer))
    starts = {example.row: example.input_ids for example in reversed(read.examples)}  # the first window of each row
    rows = sorted(starts)
    share = measure_verbatim(model, tokenizer, [starts[row] for row in rows], prefix)
    places = [splits.locate(SPLIT, rows[number]) for number in share.pop("numbers")[:MAX_PLACES]]
    return {**share, "places": [f"{path}:{line}" for path, line in places]}
