"""Score a saved language model: its metrics, its base's, the effect of swapped words, memorization, harness tasks."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import numpy as np
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from hf_finetune.config.sections import Run
from hf_finetune.data.splitting.splits import Splits
from hf_finetune.evaluation.probes.counterfactuals import swap_effect
from hf_finetune.evaluation.scoring.counterfactual_rows import swapped
from hf_finetune.evaluation.scoring.lm_eval_harness import harness_scores
from hf_finetune.evaluation.scoring.log_likelihood import Measured, joined, measure
from hf_finetune.evaluation.scoring.memorization import known_by_heart
from hf_finetune.evaluation.scoring.result import Scored, model_path, parameters_of
from hf_finetune.evaluation.scoring.rows import rows_to_score
from hf_finetune.evaluation.statistics.bootstrap import intervals_of
from hf_finetune.evaluation.statistics.paired_test import compare, forgetting
from hf_finetune.models.base_and_tuned import base_of_model, before_and_after
from hf_finetune.models.saved import load_for_generation

logger = logging.getLogger(__name__)

JUDGES = {"comparison": compare, "forgetting": forgetting}


def score_language_model(run: Run, splits: Splits) -> Scored:
    """Compute the log-likelihood of every row and answer those with a prompt; the same for the base under `eval.base`.

    Raises `ConfigError` and `ModelError` if the base or what `eval` asks for is not there.
    """
    path, settings = model_path(run), run.eval
    rows = {"comparison": splits}
    if settings.forget is not None:
        rows["forgetting"] = rows_to_score(settings.forget, run.data, None)

    def read(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> dict[str, Measured]:
        return {name: measure(model, tokenizer, each, run.data, settings) for name, each in rows.items()}

    def read_all(
        model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast
    ) -> tuple[dict[str, Measured], dict[str, Any], dict[str, int]]:
        measured = read(model, tokenizer)
        effects = _measure_swaps(model, tokenizer, run, splits, measured["comparison"])
        more = effects | known_by_heart(model, tokenizer, run)
        if settings.harness:
            more["harness"] = harness_scores(model, tokenizer, settings.harness, settings.batch_size)
        return measured, more, parameters_of(model)

    before: Mapping[str, Measured] = {}
    if settings.base is False:
        after, more, parameters = read_all(*load_for_generation(path))
    else:
        # `eval.base: true` is the base that the files of the model name.
        named = None if settings.base is True else settings.base
        before, (after, more, parameters) = before_and_after(path, named, read, read_all)
        more |= {name: _compare(name, before[name], after[name]) for name in before}
        more["comparison"]["base"] = named or base_of_model(path)
    if "forgetting" in more:
        more["forgetting"]["data"] = ", ".join(file.path for file in rows["forgetting"].files)
    tuned = after["comparison"]
    statistic = tuned.make_statistic()
    metrics = {**tuned.compute_metrics(), "intervals": intervals_of(statistic, tuned.rows)}
    # If only some rows were answered, a slice has too few of them for metrics of its own.
    answered_all = len(tuned.answers) == tuned.rows
    sliced = statistic if answered_all else tuned.select_rows(np.arange(tuned.rows)).make_statistic()
    return Scored({**metrics, **more, **_describe_decoding(run, tuned)}, sliced, tuned.facts, parameters)


def _compare(name: str, before: Measured, after: Measured) -> dict[str, Any]:
    both = joined(before, after).make_statistic()
    return {"rows": before.rows, **JUDGES[name](before.make_statistic(), after.make_statistic(), both, before.rows)}


def _measure_swaps(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, run: Run, splits: Splits, tuned: Measured
) -> dict[str, Any]:
    """Measure the effect of swapping words on the metrics of log-likelihood; no answers are generated."""
    effects = {}
    without_answers = run.eval.model_copy(update={"generate_rows": 0})
    for name in run.eval.swaps:
        rows, changed = swapped(splits, name)
        if changed is None:
            logger.warning("no row has a word of the list %s: nothing was swapped", name)
            continue
        after = measure(model, tokenizer, changed, run.data, without_answers)
        before = tuned.select_rows(rows)
        both = joined(before, after).make_statistic()
        effects[name] = swap_effect(before.make_statistic(), after.make_statistic(), both, len(rows))
    return {"swaps": effects} if effects else {}


def _describe_decoding(run: Run, tuned: Measured) -> dict[str, Any]:
    """Return `decoding` of the report, the settings that the answers were generated with; {} if there are none."""
    if not tuned.answers:
        return {}
    names = ("temperature", "top_k", "top_p", "repetition_penalty", "max_new_tokens", "batch_size", "seed")
    how = {name: getattr(run.eval, name) for name in names}
    greedy = how["temperature"] == 0
    left_out = ("temperature", "top_k", "top_p", "seed") if greedy else ()
    return {
        "decoding": {"rows": len(tuned.answers), "greedy": greedy}
        | {name: value for name, value in how.items() if name not in left_out}
    }
