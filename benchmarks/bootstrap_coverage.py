"""How often a 95 % interval that is shown holds the true figure: 500 simulated splits for each figure and regime.

    python benchmarks/bootstrap_coverage.py [--splits 500] [--rows 200] [--seed 0] [--only NAME]

The rows of a split are drawn from a population whose figure is known: by a formula for labels and losses, and for
others as the figure of a pool of rows that they are drawn from, or of very many rows. What is printed is the share of
the splits in which an interval is shown, and of these the share whose interval holds it; 500 splits place it within
about 0.02. The regimes behind the first four are hard: few rows, rare labels, few mistakes, heavy tails, rows in
groups, documents cut into windows, and figures of the rows that temperature and thresholds were fitted to.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array

from hf_finetune.evaluation.classification.calibration import fit_temperature, tune_thresholds
from hf_finetune.evaluation.classification.fitted import score_fitted
from hf_finetune.evaluation.classification.intervals import compute_label_intervals
from hf_finetune.evaluation.classification.metrics import ClassifierOutputs
from hf_finetune.evaluation.classification.statistics import make_label_statistic
from hf_finetune.evaluation.language_modeling.answers import Answer, make_answer_statistic
from hf_finetune.evaluation.language_modeling.metrics import make_language_statistic
from hf_finetune.evaluation.statistics.bootstrap import Statistic
from hf_finetune.evaluation.statistics.intervals import compute_intervals
from hf_finetune.label_set import Labels
from hf_finetune.models.decision import Decision

Array = npt.NDArray[np.float64]
Draw = Callable[[np.random.Generator, int], Statistic]
Measured = tuple[dict[str, Any], dict[str, float]]
"""The intervals of a split, and the true figures."""


@dataclass(frozen=True)
class Regime:
    """A population of splits."""

    measure: Callable[[np.random.Generator, int], Measured]
    rows: int
    names: tuple[str, ...] = field(default=())
    """The figures that are printed; all without."""


# Shares of all rows with the label of the line that are given the label of the column.
CONFUSION = np.asarray([[0.50, 0.06, 0.04], [0.05, 0.20, 0.02], [0.02, 0.03, 0.08]])
POOL = 2_000


def draw_labels(random: np.random.Generator, rows: int) -> Statistic:
    cells = random.choice(CONFUSION.size, size=rows, p=CONFUSION.ravel())
    references, chosen = np.divmod(cells, len(CONFUSION))
    probabilities = np.eye(len(CONFUSION))[chosen] * 0.7 + 0.1
    return make_label_statistic("single", probabilities, chosen, references)


def true_of_labels() -> dict[str, float]:
    right, given, predicted = np.diag(CONFUSION), CONFUSION.sum(axis=1), CONFUSION.sum(axis=0)
    return {"accuracy": right.sum(), "f1_macro": float(np.mean(2 * right / (given + predicted)))}


def draw_losses(random: np.random.Generator, rows: int) -> Statistic:
    """Rows of 20 to 400 tokens: long ones are predicted better, and all have their own difficulty."""
    tokens = random.integers(20, 401, rows)
    per_token = random.gamma(4.0, 0.5, rows) * (1.5 - tokens / 800)
    correct = random.binomial(tokens, 0.4)
    sums = np.stack([per_token * tokens, correct, tokens], axis=1).astype(float)
    return make_language_statistic(sums, tokens * 4, tokens // 2)


def true_of_losses() -> dict[str, float]:
    tokens = np.arange(20, 401)
    nll = 2.0 * (tokens * (1.5 - tokens / 800)).mean()
    loss = nll / tokens.mean()
    return {
        "loss": loss,
        "perplexity": np.exp(loss),
        "word_perplexity": np.exp(nll / (tokens // 2).mean()),
        "token_accuracy": 0.4,
        "bits_per_byte": loss / np.log(2) / 4,
    }


def draw_row_means(random: np.random.Generator, rows: int) -> Statistic:
    """Means over rows of losses: as spread as a classifier's are, and some much larger than all others."""
    losses = random.gamma([[1.0], [0.5]], [[1.0], [2.0]], (2, rows))

    def statistic(weights: Array) -> dict[str, Array]:
        usual, skewed = losses @ weights / weights.sum(axis=0)
        return {"mean_loss": usual, "skewed_mean_loss": skewed}

    return statistic


def answer_pool(seed: int) -> tuple[list[Answer], list[str]]:
    """Answers that keep, lose or change words of their references; a quarter is right."""
    random = np.random.default_rng(seed)
    words = np.asarray([f"word{number}" for number in range(300)])
    answers, references = [], []
    for length in random.integers(4, 16, POOL):
        reference = random.choice(words, length)
        kept = random.random(length) < (1.0 if random.random() < 0.25 else 0.75)
        said = np.where(kept, reference, random.choice(words, length))[: length - random.integers(0, 2)]
        text = " ".join(reference if kept.all() else said)
        answers.append(Answer(text, len(text.split()) + 1, bool(random.random() < 0.9)))
        references.append(" ".join(reference))
    return answers, references


def answer_population(seed: int) -> tuple[Draw, dict[str, float]]:
    statistic = make_answer_statistic(*answer_pool(seed))

    def draw(random: np.random.Generator, rows: int) -> Statistic:
        taken = random.integers(POOL, size=rows)
        rows_of_pool = csr_array((np.ones(rows), (taken, np.arange(rows))), shape=(POOL, rows))
        return lambda weights: statistic(rows_of_pool @ weights)

    true = statistic(np.ones((POOL, 1)))
    # No answer refuses or repeats itself: every interval holds these.
    return draw, {name: float(values[0]) for name, values in true.items() if name not in ("repetition", "refusal_rate")}


def plain(draw: Draw, true: dict[str, float], rows: int) -> Regime:
    """Rows on their own, of a population with known figures."""
    return Regime(lambda random, rows: (compute_intervals(draw(random, rows), rows)["intervals"], true), rows)


def shares(true: float, rows: int) -> Regime:
    """Rows that are right or wrong."""

    def draw(random: np.random.Generator, rows: int) -> Statistic:
        right = (random.random(rows) < true).astype(float)
        return lambda weights: {"accuracy": right @ weights / weights.sum(axis=0)}

    return plain(draw, {"accuracy": true}, rows)


def heavy_tails(spread: float, rows: int) -> Regime:
    """Losses of lognormal rows: with a spread of 1.5 the largest of 200 is usually as large as the 40 after it."""

    def draw(random: np.random.Generator, rows: int) -> Statistic:
        losses = random.lognormal(0, spread, rows)
        return lambda weights: {"loss": losses @ weights / weights.sum(axis=0)}

    return plain(draw, {"loss": float(np.exp(spread**2 / 2))}, rows)


def draw_logits(random: np.random.Generator, rows: int, prior: Array, signal: float) -> tuple[Array, npt.NDArray[Any]]:
    references = random.choice(len(prior), size=rows, p=prior)
    logits = random.normal(size=(rows, len(prior))) + np.log(prior)
    logits[np.arange(rows), references] += signal
    return 1.3 * logits, references


def classifiers(prior: list[float], signal: float, rows: int) -> Regime:
    """A classifier of labels as frequent as `prior` has it; by `signal` it finds them."""
    labels = Labels(tuple(f"label {number}" for number in range(len(prior))), "single")
    decision = Decision(labels.names, "single")

    def measure(random: np.random.Generator, rows: int) -> Measured:
        logits, references = draw_logits(random, rows, np.asarray(prior), signal)
        probabilities = decision.compute_probabilities(logits)
        found = compute_label_intervals(labels, probabilities, decision.choose(probabilities), references)
        return found["intervals"], true

    logits, references = draw_logits(np.random.default_rng(99), 200_000, np.asarray(prior), signal)
    true = true_of_decision(decision, logits, references)
    return Regime(measure, rows)


def true_of_decision(decision: Decision, logits: Array, references: npt.NDArray[Any]) -> dict[str, float]:
    probabilities = decision.compute_probabilities(logits)
    statistic = make_label_statistic("single", probabilities, decision.choose(probabilities), references)
    return {name: float(values[0]) for name, values in statistic(np.ones((len(logits), 1))).items()}


def fitted(prior: list[float], signal: float, rows: int) -> Regime:
    """Temperature and thresholds fitted to the very rows; true is what that decision is worth on others."""
    labels = Labels(tuple(f"label {number}" for number in range(len(prior))), "single")
    pool = draw_logits(np.random.default_rng(99), 20_000, np.asarray(prior), signal)

    def measure(random: np.random.Generator, rows: int) -> Measured:
        outputs = ClassifierOutputs(*draw_logits(random, rows, np.asarray(prior), signal))
        decision = Decision(labels.names, "single", temperature=fit_temperature(outputs))
        decision = tune_thresholds(outputs, decision, "f1_macro")
        return score_fitted(outputs, labels, decision).get("intervals", {}), true_of_decision(decision, *pool)

    return Regime(measure, rows, ("accuracy", "f1_macro", "balanced_accuracy", "log_loss"))


def grouped(groups: int, size: int, *, known: bool) -> Regime:
    """Rows in groups that are alike: half of what makes a row hard is its group's."""

    def measure(random: np.random.Generator, rows: int) -> Measured:
        group = np.repeat(np.arange(groups), size)
        hard = random.normal(size=groups)[group] + random.normal(size=len(group))
        right, losses = (hard < 0.8 * np.sqrt(2)).astype(float), np.exp(0.5 * hard)

        def statistic(weights: Array) -> dict[str, Array]:
            return {"accuracy": right @ weights / weights.sum(axis=0), "loss": losses @ weights / weights.sum(axis=0)}

        found = compute_intervals(statistic, len(group), groups=group if known else None)
        return found["intervals"], {"accuracy": 0.788145, "loss": float(np.exp(0.25))}

    return Regime(measure, groups * size)


def windows(documents: int) -> Regime:
    """Documents of mixed difficulty and length, each cut into windows of 64 tokens: documents are resampled."""

    def measure(random: np.random.Generator, rows: int) -> Measured:
        lengths = random.integers(100, 900, documents)
        row = np.repeat(np.arange(documents), -(-lengths // 64))
        level = np.exp(0.4 * random.normal(size=documents))[row]
        tokens = np.full(len(row), 64.0)
        sums = np.stack([level * tokens * random.gamma(20, 1 / 20, len(row)), tokens, tokens], axis=1)
        statistic = make_language_statistic(sums, 4 * tokens, tokens)
        return compute_intervals(statistic, len(row), groups=row)["intervals"], {"loss": float(np.exp(0.08))}

    return Regime(measure, documents)


def list_regimes(rows: int, seed: int) -> dict[str, Regime]:
    return {
        "losses": plain(draw_losses, true_of_losses(), rows),
        "row means": plain(draw_row_means, {"mean_loss": 1.0, "skewed_mean_loss": 1.0}, rows),
        "labels": plain(draw_labels, true_of_labels(), rows),
        "answers": plain(*answer_population(seed), rows),
        "20 losses": plain(draw_losses, true_of_losses(), 20),
        "2 % wrong of 60": shares(0.98, 60),
        "5 % wrong of 300": shares(0.95, 300),
        "heavy tails, 60 rows": heavy_tails(1.0, 60),
        "heavy tails, 200 rows": heavy_tails(1.5, 200),
        "5 positives": classifiers([0.975, 0.025], 2.5, 200),
        "a label of 10 %": classifiers([0.9, 0.1], 1.0, 400),
        "an absent label": classifiers([0.55, 0.43, 0.02], 2.0, 100),
        "three labels": classifiers([0.4, 0.3, 0.3], 1.5, 200),
        "fitted": fitted([0.7, 0.3], 1.5, 200),
        "40 groups of 8": grouped(40, 8, known=True),
        "the same, not known": grouped(40, 8, known=False),
        "40 documents": windows(40),
    }


def coverage(regime: Regime, splits: int, seed: int) -> dict[str, tuple[float, float]]:
    """For each figure the share of splits that show an interval, and of these the share whose interval holds."""
    random = np.random.default_rng(seed)
    shown: dict[str, list[bool]] = {}
    for _ in range(splits):
        found, true = regime.measure(random, regime.rows)
        for name, value in true.items():
            if not regime.names or name in regime.names:
                held = shown.setdefault(name, [])
                held += [found[name][0] <= value <= found[name][1]] if name in found else []
    return {name: (len(held) / splits, float(np.mean(held)) if held else np.nan) for name, held in shown.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--splits", type=int, default=500)
    parser.add_argument("--rows", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only")
    options = parser.parse_args()
    for name, regime in list_regimes(options.rows, options.seed).items():
        if options.only not in (None, name):
            continue
        for figure, (shown, held) in coverage(regime, options.splits, options.seed).items():
            print(f"{name:>22}  {figure:<26} shown in {shown:.3f}   held by {held:.3f}", flush=True)


if __name__ == "__main__":
    main()
