"""What is found in the data of a run: each with its code, where it stands, and what to do."""

from __future__ import annotations

from dataclasses import dataclass

from hf_finetune.codes.code import Code, Level
from hf_finetune.codes.table import CODES

MAX_PLACES = 100


@dataclass(frozen=True, slots=True)
class Place:
    """A line of a file, as the user wrote its path."""

    path: str
    line: int


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is found: `what` says it with its figures, `code` which kind it is."""

    code: str
    what: str
    split: str | None = None
    count: int = 0
    """How many rows, or pairs of rows, it is about; 0 where it is about the whole."""
    places: tuple[Place, ...] = ()
    """The first `MAX_PLACES` of them; of a pair both, one behind the other."""
    remedy: str = ""
    """What to do here, where that is more than what the code says."""
    pairs: bool = False
    """Whether the places are pairs: a row, and the one that it is held against."""
    weight: Level | None = None
    """How bad it is here, where that is not what the code says."""

    @property
    def about(self) -> Code:
        """What its code stands for."""
        return CODES[self.code]

    @property
    def level(self) -> Level:
        """How bad it is."""
        return self.weight or self.about.level

    def name_places(self) -> list[str]:
        """Name each place, `rows.jsonl:3`; of a pair both, `valid.jsonl:3 (and train.jsonl:7)`."""
        named = [f"{place.path}:{place.line}" for place in self.places]
        if not self.pairs:
            return named
        return [f"{one} (and {other})" for one, other in zip(named[::2], named[1::2], strict=True)]
