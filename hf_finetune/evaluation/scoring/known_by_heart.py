"""What a language model gives away of its training rows, as a report has it."""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerFast

from hf_finetune.config.sections import Run
from hf_finetune.evaluation.canaries import read_canaries
from hf_finetune.evaluation.memorisation import exposure, memorisation_words, verbatim_share
from hf_finetune.evaluation.scoring.reading import longest_row
from hf_finetune.evaluation.scoring.rows import SPLIT, read_examples, rows_to_score

PLACES_NAMED = 20


def known_by_heart(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, run: Run) -> dict[str, Any]:
    """The canaries of `eval.canaries`, and the rows of `data.train` that the model continues word for word.

    `{"memorisation": {"canaries", "verbatim", "words"}}`, each where it was asked for; rows are named by file and line.
    """
    found: dict[str, Any] = {}
    if run.eval.canaries is not None:
        found["canaries"] = exposure(model, tokenizer, read_canaries(run.eval.canaries), seed=run.eval.seed)
    if run.eval.verbatim_prefix is not None:
        found["verbatim"] = _verbatim(model, tokenizer, run, run.eval.verbatim_prefix)
    if not found:
        return {}
    return {"memorisation": {**found, "words": memorisation_words(found.get("canaries", []), found.get("verbatim"))}}


def _verbatim(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, run: Run, prefix: int) -> dict[str, Any]:
    assert run.data.train is not None  # or `load_run` would have refused it
    splits = rows_to_score(run.data.train, run.data, None)
    examples, _ = read_examples(splits, tokenizer, run.data, longest_row(model, tokenizer))
    starts = {example.row: example.input_ids for example in reversed(examples)}  # the first window of each row
    rows = sorted(starts)
    share = verbatim_share(model, tokenizer, [starts[row] for row in rows], prefix)
    places = [splits.where(SPLIT, rows[number]) for number in share.pop("numbers")[:PLACES_NAMED]]
    return {**share, "places": [f"{path}:{line}" for path, line in places]}
