"""Which languages the rows are in, by a sample."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

ENOUGH = 300
SHORTEST = 20
"""Characters, below which nothing can be told."""
MOST_READ = 2_000


def find_languages(texts: Iterable[str]) -> dict[str, float]:
    """The share of the sampled texts in each language, the most frequent first; those below 2 % are left out."""
    import py3langid  # a second, for its model

    counts: Counter[str] = Counter()
    for text in texts:
        if len(text) >= SHORTEST:
            counts[str(py3langid.classify(text[:MOST_READ])[0])] += 1
        if counts.total() >= ENOUGH:
            break
    total = counts.total()
    return {name: count / total for name, count in counts.most_common() if count / total >= 0.02}
