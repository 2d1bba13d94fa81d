"""What fitting a temperature does to other rows: 60 small classifiers, each measured on rows that nothing has seen.

    python benchmarks/calibration.py [--classifiers 60] [--held-out 2000] [--seed 0]

Each classifier is trained by scikit-learn on rows drawn at random: 2 to 6 labels, some of them wrong, a linear model or
a small network, regularized hardly or much, which makes it too sure of itself or not sure enough. Its validation split
has 10 to 400 rows. Compared on the held-out rows, row by row, are no temperature, one that is always fitted, without a
prior, and ours, which few rows leave near 1 and which is kept where rows that it was not fitted to gain.
"""

from __future__ import annotations

import argparse
import math
import warnings
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize_scalar

from hf_finetune.evaluation.classification.calibration import choose_temperature, compute_smoothed_log_loss
from hf_finetune.evaluation.classification.metrics import ClassifierOutputs, compute_row_losses

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Outcome:
    """Log-losses of the held-out rows: (rows,) each."""

    validation: int
    plain: Array
    always: Array
    ours: Array

    @property
    def is_kept(self) -> bool:
        return not np.array_equal(self.plain, self.ours)

    def test_worse(self) -> float:
        """How many standard errors ours is worse than no temperature; 0 where none is kept."""
        change = self.ours - self.plain
        error = float(change.std(ddof=1)) / math.sqrt(len(change))
        return float(change.mean()) / error if error else 0.0


def train_classifier(seed: int, held_out: int) -> tuple[ClassifierOutputs, ClassifierOutputs]:
    """Train one, and return its outputs for validation and for the held-out rows."""
    from sklearn.datasets import make_classification
    from sklearn.linear_model import LogisticRegression
    from sklearn.neural_network import MLPClassifier

    random = np.random.default_rng(seed)
    labels, train, validation = int(random.integers(2, 7)), int(random.integers(60, 400)), int(random.integers(10, 401))
    rows, references = make_classification(
        train + validation + held_out,
        n_features=20,
        n_informative=8,
        n_classes=labels,
        n_clusters_per_class=1,
        flip_y=float(random.uniform(0, 0.3)),
        class_sep=float(random.uniform(0.5, 1.5)),
        random_state=seed,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a model that has not converged is one, too
        if random.random() < 0.5:
            model = LogisticRegression(C=float(10 ** random.uniform(-3, 3)), max_iter=300)
        else:
            model = MLPClassifier((16,), alpha=float(10 ** random.uniform(-4, 1)), max_iter=150, random_state=seed)
        model.fit(rows[:train], references[:train])
    logits = np.log(np.clip(model.predict_proba(rows[train:]), 1e-12, 1))
    outputs = ClassifierOutputs(logits, references[train:])
    return outputs.select_rows(np.arange(validation)), outputs.select_rows(np.arange(validation, len(logits)))


def fit_always(outputs: ClassifierOutputs) -> float:
    """The temperature with the lowest smoothed log-loss, whatever it does to other rows."""
    bounds = (math.log(0.05), math.log(20))
    found = minimize_scalar(
        lambda each: compute_smoothed_log_loss(outputs, math.exp(each)), bounds=bounds, method="bounded"
    )
    return math.exp(found.x)


def measure_classifier(seed: int, held_out: int) -> Outcome:
    validation, others = train_classifier(seed, held_out)
    temperatures = (1.0, fit_always(validation), choose_temperature(validation))
    losses = [compute_row_losses(others.logits / each, others.references) for each in temperatures]
    return Outcome(len(validation.references), *losses)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--classifiers", type=int, default=60)
    parser.add_argument("--held-out", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    found = [measure_classifier(options.seed + each, options.held_out) for each in range(options.classifiers)]
    print(f"{sum(each.is_kept for each in found)} of {len(found)} keep a temperature")
    for few, many in ((0, 50), (50, 150), (150, 1000), (0, 1000)):
        some = [each for each in found if few <= each.validation < many]
        plain, always, ours = np.mean([(each.plain.mean(), each.always.mean(), each.ours.mean()) for each in some], 0)
        print(f"validation rows {few:>3} to {many:>4}: none {plain:.4f}  always {always:.4f}  ours {ours:.4f}")
    worse = [each.test_worse() for each in found]
    print(f"worse than none by over 1.96 standard errors: {sum(each > 1.96 for each in worse)}; most: {max(worse):.2f}")
    change = np.array([each.ours.mean() - each.always.mean() for each in found])
    error = change.std(ddof=1) / math.sqrt(len(change))
    print(f"ours less always, paired over classifiers: {change.mean():+.4f} (standard error {error:.4f})")


if __name__ == "__main__":
    main()
