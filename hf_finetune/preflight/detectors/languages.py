"""In which languages texts are, as far as that can be told of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache
from typing import Any

# Of so many texts a share is known to six points.
ENOUGH = 300
MOST_READ = 2_000
# Of sentences of 22 languages, cut to 10 characters, 96 of 100 that py3langid 0.4 is so sure of are in the language
# that it names, and as many or more of longer ones; of all of these 60 of 100 at 10 characters, 95 at 60.
_SURE = 0.5
_LEAST_SHARE = 0.02


@dataclass(frozen=True, slots=True)
class Languages:
    """The languages of a sample of texts."""

    shares: dict[str, float] = field(default_factory=dict)
    """By their ISO 639-1 codes, of the texts that can be told, the most frequent first; below 2 % they are left out."""
    told: int = 0
    """Texts whose language can be told."""
    too_short: int = 0
    """Those that are too short for it, or of no language."""

    def describe(self) -> str:
        """`en 85%, de 12%, others 3%; 20 of 320 rows are too short to tell`; "" where there is nothing to say."""
        listed = [f"{name} {share:.0%}" for name, share in self.shares.items()]
        # What is left out of a hundred, as it would be rounded.
        others = 1 - sum(self.shares.values())
        if self.shares and others >= 0.005:
            listed.append(f"others {others:.0%}")
        sampled = self.told + self.too_short
        if not self.too_short:
            return ", ".join(listed)
        rows, are = ("row", "is") if sampled == 1 else ("rows", "are" if self.too_short > 1 else "is")
        untold = f"{self.too_short:,} of {sampled:,} {rows} {are} too short to tell"
        return "; ".join([", ".join(listed), untold]) if listed else untold


def detect_languages(texts: Iterable[str]) -> Languages:
    """Tell the languages of texts, until there are enough whose language can be told."""
    counts, too_short = Counter[str](), 0
    for text in texts:
        name, sure = _load_identifier().classify(text[:MOST_READ])
        if sure >= _SURE:
            counts[str(name)] += 1
        else:
            too_short += 1
        if counts.total() >= ENOUGH:
            break
    total = counts.total()
    shares = {name: count / total for name, count in counts.most_common() if count / total >= _LEAST_SHARE}
    return Languages(shares, total, too_short)


@cache
def _load_identifier() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier  # a second, for its model

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
