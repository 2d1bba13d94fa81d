"""Score a saved language model: its metrics, its base's, the effect of swapped words, memorization, harness tasks."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from hf_finetune.config.sections import Run
from hf_finetune.data.splitting.one_split import load_rows
from hf_finetune.data.splitting.splits import Splits
from hf_finetune.evaluation.probes.counterfactuals import measure_swap_effect
from hf_finetune.evaluation.scoring.counterfactual_rows import swap_rows
from hf_finetune.evaluation.scoring.lm_eval_harness import run_harness
from hf_finetune.evaluation.scoring.log_likelihood import (
    LanguageModelScores,
    concatenate_scores,
    count_longer_references,
    evaluate_language_model,
)
from hf_finetune.evaluation.scoring.memorization import measure_memorization
from hf_finetune.evaluation.scoring.result import ScoreResult, count_by_component, get_model_path
from hf_finetune.evaluation.scoring.run_settings import TokenSettings, read_token_settings
from hf_finetune.evaluation.statistics.paired_test import Wording, compare_models, measure_forgetting
from hf_finetune.models.base_and_tuned import find_base, find_origin, run_base_and_tuned
from hf_finetune.models.saved import find_trained_dtype, load_for_generation
from hf_finetune.privacy import redact

logger = logging.getLogger(__name__)


def score_language_model(run: Run, splits: Splits) -> ScoreResult:
    """Compute the log-likelihood of every row and answer those with a prompt; the same for the base under `eval.base`.

    Raises `ConfigError` and `ModelError` if the base or what `eval` asks for is not there.
    """
    path, settings = get_model_path(run), run.eval
    tokens = read_token_settings(path, run.data)
    rows = {"comparison": splits}
    if settings.forget is not None:
        rows["forgetting"] = load_rows(settings.forget, run.data, None)

    def read(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> dict[str, LanguageModelScores]:
        return {name: evaluate_language_model(model, tokenizer, each, tokens, settings) for name, each in rows.items()}

    def read_all(
        model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast
    ) -> tuple[dict[str, LanguageModelScores], dict[str, Any], dict[str, int]]:
        measured = read(model, tokenizer)
        decoding = _describe_decoding(run, measured["comparison"], tokenizer)
        effects = _measure_swaps(model, tokenizer, run, splits, measured["comparison"], tokens)
        more = effects | measure_memorization(model, tokenizer, run, tokens)
        if settings.harness:
            more["harness"] = run_harness(model, tokenizer, settings.harness, settings.batch_size)
        return measured, more | decoding, count_by_component(model)

    before: Mapping[str, LanguageModelScores] = {}
    if not settings.base:
        after, more, parameters = read_all(*load_for_generation(path, dtype=find_trained_dtype(path)))
    else:
        # `eval.base: true` is the base that the files of the model name.
        named = None if settings.base is True else settings.base
        before, (after, more, parameters) = run_base_and_tuned(path, named, read, read_all)
        wording = Wording() if named is None else Wording("the other model")
        more |= {name: _compare(name, before[name], after[name], wording) for name in before}
        more["comparison"]["base"] = named or find_base(path)
        if origin := find_origin(path):
            more["comparison"]["started_from"] = origin
    if "forgetting" in more:
        more["forgetting"]["data"] = ", ".join(redact([file.path for file in rows["forgetting"].files]))
    tuned = after["comparison"]
    statistic = tuned.make_statistic()
    metrics = {**tuned.compute_metrics(), **tuned.compute_intervals()}
    # If only some rows were answered, a slice has too few of them for metrics of its own.
    answered_all = len(tuned.answers) == tuned.rows
    sliced = statistic if answered_all else tuned.select_rows(np.arange(tuned.rows)).make_statistic()
    return ScoreResult({**metrics, **more}, sliced, tuned.facts, parameters)


def _compare(name: str, before: LanguageModelScores, after: LanguageModelScores, wording: Wording) -> dict[str, Any]:
    both, rows = concatenate_scores(before, after).make_statistic(), before.rows
    sides = before.make_statistic(), after.make_statistic()
    if 0 < len(after.answers) < rows:  # figures of answers are of those alone
        wording = replace(wording, rows=f"rows ({len(after.answers):,} of them answered)")
    if name == "forgetting":
        return {"rows": rows, **measure_forgetting(*sides, both, rows, groups=before.groups)}
    return {"rows": rows, **compare_models(*sides, both, rows, groups=before.groups, wording=wording)}


def _measure_swaps(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    run: Run,
    splits: Splits,
    tuned: LanguageModelScores,
    tokens: TokenSettings,
) -> dict[str, Any]:
    """Measure the effect of swapping words on the metrics of log-likelihood; no answers are generated."""
    effects = {}
    without_answers = run.eval.model_copy(update={"generate_rows": 0})
    for name in run.eval.swaps:
        rows, changed = swap_rows(splits, name)
        if changed is None:
            logger.warning("no row has a word of the list %s: nothing was swapped", name, extra={"code": "HF324"})
            continue
        after = evaluate_language_model(model, tokenizer, changed, tokens, without_answers)
        before = tuned.select_rows(rows)
        both = concatenate_scores(before, after).make_statistic()
        sides = before.make_statistic(), after.make_statistic()
        effects[name] = measure_swap_effect(*sides, both, len(rows), groups=before.groups)
    return {"swaps": effects} if effects else {}


def _describe_decoding(run: Run, tuned: LanguageModelScores, tokenizer: PreTrainedTokenizerFast) -> dict[str, Any]:
    """Return `decoding` of the report, the settings that the answers were generated with; {} if there are none.

    References that no answer of `eval.max_new_tokens` can match are counted in it, and warned of.
    """
    if not tuned.answers:
        return {}
    names = ("temperature", "top_k", "top_p", "repetition_penalty", "max_new_tokens", "batch_size", "seed")
    how = {name: getattr(run.eval, name) for name in names}
    greedy = how["temperature"] == 0
    left_out = ("temperature", "top_k", "top_p", "seed") if greedy else ()
    longer = count_longer_references(tuned.references, tokenizer, run.eval.max_new_tokens)
    if longer:
        what = "exact match cannot be above 0 for %s of %s answers: their references are longer than %d tokens, %s"
        remedy = "where answers are cut (--max-new-tokens, eval.max_new_tokens)"
        logger.warning(
            what, f"{longer:,}", f"{len(tuned.answers):,}", run.eval.max_new_tokens, remedy, extra={"code": "HF325"}
        )
    return {
        "decoding": {"rows": len(tuned.answers), "greedy": greedy, "longer_references": longer}
        | {name: value for name, value in how.items() if name not in left_out}
    }
