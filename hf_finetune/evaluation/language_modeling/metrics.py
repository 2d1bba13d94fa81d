"""The figures of a language model over rows of text, through the metric modules and for many resamples at once."""

from __future__ import annotations

import math
import tempfile

import numpy as np
import numpy.typing as npt

from hf_finetune.evaluation.statistics.bootstrap import Statistic

Array = npt.NDArray[np.float64]


def compute_language_metrics(sums: Array, row_bytes: Array, row_words: Array) -> dict[str, float]:
    """Loss, perplexity per token and per word, token accuracy and bits per byte of all rows together.

    `sums` (rows, 3) are those of `reduce_logits`; `row_bytes` and `row_words`, (rows,) each, are the UTF-8 bytes and
    the words between white space of the text that was predicted. Without any word there is no perplexity per word.
    The sums are exact, so that the order of the rows and the processes that they came from do not matter.
    """

    # `evaluate` takes half a second to import, which a run without evaluation need not spend.
    from hf_finetune.evaluation.metrics.bits_per_byte import BitsPerByte
    from hf_finetune.evaluation.metrics.cross_entropy import CrossEntropy
    from hf_finetune.evaluation.metrics.perplexity import Perplexity
    from hf_finetune.evaluation.metrics.token_accuracy import TokenAccuracy
    from hf_finetune.evaluation.metrics.word_perplexity import WordPerplexity

    nll_sums, correct, tokens = np.asarray(sums, dtype=np.float64).reshape(-1, 3).T
    predicted = {"nll_sums": nll_sums, "tokens": tokens.astype(np.int64)}
    words = {"nll_sums": nll_sums, "words": np.asarray(row_words).astype(np.int64)}
    # A metric makes a folder even when it keeps everything in memory.
    with tempfile.TemporaryDirectory() as folder:
        kept = {"keep_in_memory": True, "cache_dir": folder}
        return {
            "loss": CrossEntropy(**kept).compute(**predicted)["cross_entropy"],
            **Perplexity(**kept).compute(**predicted),
            **(WordPerplexity(**kept).compute(**words) if np.any(row_words) else {}),
            **TokenAccuracy(**kept).compute(correct=correct.astype(np.int64), tokens=predicted["tokens"]),
            **BitsPerByte(**kept).compute(nll_sums=nll_sums, total_bytes=int(np.sum(row_bytes))),
        }


def make_language_statistic(sums: Array, row_bytes: Array, row_words: Array) -> Statistic:
    """What `compute_language_metrics` gives the rows of resamples; a row counts by its tokens, words or bytes.

    Weights may be any that are not negative; a figure is NaN where nothing that it divides by counts.
    """
    parts = np.stack([*np.asarray(sums, dtype=np.float64).reshape(-1, 3).T, row_bytes, row_words])  # (5, rows)
    has_words = bool(np.any(row_words))

    def statistic(weights: Array) -> dict[str, Array]:
        nll, correct, tokens, total_bytes, words = parts @ weights
        loss = _ratio(nll, tokens)
        return {
            "loss": loss,
            "perplexity": _exp(loss),
            **({"word_perplexity": _exp(_ratio(nll, words))} if has_words else {}),
            "token_accuracy": _ratio(correct, tokens),
            "bits_per_byte": _ratio(nll / math.log(2), total_bytes),
        }

    return statistic


def _exp(values: Array) -> Array:
    with np.errstate(over="ignore"):  # infinite beyond the largest float
        return np.asarray(np.exp(values))


def _ratio(top: Array, bottom: Array) -> Array:
    return np.asarray(np.divide(top, bottom, out=np.full_like(top, np.nan), where=bottom > 0))
