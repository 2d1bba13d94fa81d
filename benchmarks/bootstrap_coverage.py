"""How often a 95 % interval holds the true figure: 500 simulated splits for each figure.

    python benchmarks/bootstrap_coverage.py [--splits 500] [--rows 200] [--seed 0]

The rows of a split are drawn from a population whose figure is known: by a formula for labels and losses, and for
answers as the figure of a pool of 2,000 rows that they are drawn from. What is printed is the share of the splits
whose interval holds it; 500 splits place it within about 0.02.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array

from hf_finetune.evaluation.classification.statistics import make_label_statistic
from hf_finetune.evaluation.language_modeling.answers import Answer, make_answer_statistic
from hf_finetune.evaluation.language_modeling.metrics import make_language_statistic
from hf_finetune.evaluation.statistics.bootstrap import Statistic, bootstrap_intervals

Array = npt.NDArray[np.float64]
Draw = Callable[[np.random.Generator, int], Statistic]

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


def coverage(draw: Draw, true: dict[str, float], rows: int, splits: int, seed: int) -> dict[str, float]:
    """For each figure of `true` the share of the splits whose interval holds it."""
    random = np.random.default_rng(seed)
    held = dict.fromkeys(true, 0)
    for split in range(splits):
        found = bootstrap_intervals(draw(random, rows), rows, seed=split)
        for name, value in true.items():
            held[name] += found[name][0] <= value <= found[name][1]
    return {name: number / splits for name, number in held.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--splits", type=int, default=500)
    parser.add_argument("--rows", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    populations = {
        "losses": (draw_losses, true_of_losses()),
        "row means": (draw_row_means, {"mean_loss": 1.0, "skewed_mean_loss": 1.0}),
        "labels": (draw_labels, true_of_labels()),
        "answers": answer_population(options.seed),
    }
    for name, (draw, true) in populations.items():
        for figure, share in coverage(draw, true, options.rows, options.splits, options.seed).items():
            print(f"{name:>10}  {figure:<18} true {true[figure]:8.4f}   held by {share:.3f}", flush=True)


if __name__ == "__main__":
    main()
