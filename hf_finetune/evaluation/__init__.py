"""Model and rows -> metrics with intervals.

metrics/            a shelf of `evaluate.Metric` modules over the same formulas
statistics/         bootstrap intervals, the paired test of two models, slices of rows
classification/     metrics, calibration, thresholds, baselines and mistakes of classifiers
language_modeling/  loss, perplexity, bits per byte, beside the base's; answers beside references
generation/         prompts -> answers, one by one, of a file of rows, streamed, in a chat, while a run trains
prediction/         a classifier labels a file of any length
probes/             memorization and counterfactual swaps of words
scoring/            all of these for a saved model, beside its base: recipes/score.py
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hf_finetune.lazy_imports import import_lazily

if TYPE_CHECKING:
    from hf_finetune.evaluation.classification.baselines import score_with_baselines
    from hf_finetune.evaluation.classification.calibration import fit_decision
    from hf_finetune.evaluation.classification.metrics import classification_metrics, predict_saved, predict_split
    from hf_finetune.evaluation.classification.mistakes import show_mistakes
    from hf_finetune.evaluation.generation.answer_file import (
        AnswerStats,
        AskedFile,
        RowsAsked,
        choose_batch_size,
    )
    from hf_finetune.evaluation.generation.chat_session import ChatDisplay, ChatSession, run_chat
    from hf_finetune.evaluation.generation.display import format_sample, format_side_by_side
    from hf_finetune.evaluation.generation.kept_rows import AnswerFolder, keep_answers, pass_on_answers
    from hf_finetune.evaluation.generation.prompts import Sample, check_responses, generate_responses, try_template
    from hf_finetune.evaluation.generation.row_prompts import fill_prompts
    from hf_finetune.evaluation.generation.sample_callback import SamplePrompts
    from hf_finetune.evaluation.language_modeling.base_scores import score_base, score_splits
    from hf_finetune.evaluation.language_modeling.trainer_metrics import (
        language_model_metrics,
        reduce_logits,
        score_split,
    )
    from hf_finetune.evaluation.prediction.predict import PredictionOptions, predict_file
    from hf_finetune.evaluation.scoring import load_scored_rows, score_model, with_greedy_decoding
    from hf_finetune.evaluation.scoring.result import ScoreResult
    from hf_finetune.evaluation.statistics.bootstrap import bootstrap_intervals
    from hf_finetune.evaluation.statistics.paired_test import compare_models

__all__ = [
    "AnswerFolder",
    "AnswerStats",
    "AskedFile",
    "ChatDisplay",
    "ChatSession",
    "PredictionOptions",
    "RowsAsked",
    "Sample",
    "SamplePrompts",
    "ScoreResult",
    "bootstrap_intervals",
    "check_responses",
    "choose_batch_size",
    "classification_metrics",
    "compare_models",
    "fill_prompts",
    "fit_decision",
    "format_sample",
    "format_side_by_side",
    "generate_responses",
    "keep_answers",
    "language_model_metrics",
    "load_scored_rows",
    "pass_on_answers",
    "predict_file",
    "predict_saved",
    "predict_split",
    "reduce_logits",
    "run_chat",
    "score_base",
    "score_model",
    "score_split",
    "score_splits",
    "score_with_baselines",
    "show_mistakes",
    "try_template",
    "with_greedy_decoding",
]

__getattr__, __dir__ = import_lazily(__name__)
