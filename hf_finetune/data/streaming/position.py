"""Where a part of a stream begins: all that decides what comes next, beside the shards and the settings."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field, replace
from typing import Annotated, Any

import msgspec
import numpy as np
import numpy.typing as npt

# Small enough for what becomes of them: an int32 of a token, an int64 of a row.
Count = Annotated[int, msgspec.Meta(ge=0, lt=2**62)]
TokenId = Annotated[int, msgspec.Meta(ge=0, lt=2**31)]


class SavedTokens(msgspec.Struct, forbid_unknown_fields=True):
    """`Carried`, as a checkpoint has it."""

    ids: list[TokenId]
    starts: list[Count]
    rows: list[Count]


class SavedPosition(msgspec.Struct, forbid_unknown_fields=True):
    """`Position`, as a checkpoint has it."""

    pass_number: Count
    turn: Count
    row: Count
    byte: Count
    line: Count
    skip: Count
    carried: SavedTokens
    read: dict[str, Count]


@dataclass(frozen=True)
class Carried:
    """The tokens of documents that fill no block yet: (tokens,) each."""

    ids: npt.NDArray[np.int32]
    starts: npt.NDArray[np.bool_]
    """True where a document starts."""
    rows: npt.NDArray[np.int64]
    """The row of each token."""

    @classmethod
    def nothing(cls) -> Carried:
        return cls(np.empty(0, np.int32), np.empty(0, np.bool_), np.empty(0, np.int64))

    def as_dict(self) -> dict[str, list[int]]:
        """JSON-ready: fewer numbers than a block has tokens."""
        # The places of the starts: a document has hundreds of tokens, and one of them is its first.
        return {
            "ids": self.ids.tolist(),
            "starts": np.flatnonzero(self.starts).tolist(),
            "rows": self.rows.tolist(),
        }

    @classmethod
    def restore(cls, saved: SavedTokens) -> Carried:
        """What `as_dict` has returned. Raises ValueError for what is none."""
        count = len(saved.ids)
        if len(saved.rows) != count or any(start >= count for start in saved.starts):
            raise ValueError("tokens without a row, or starts behind them")
        starts = np.zeros(count, np.bool_)
        starts[saved.starts] = True
        return cls(np.array(saved.ids, np.int32), starts, np.array(saved.rows, np.int64))


@dataclass(frozen=True)
class Position:
    """The chunk that a part begins in, what was carried into that chunk, and how much of it is used."""

    pass_number: int = 0
    """From 0: how often the shards were read to their end."""
    turn: int = 0
    """The shard by its turn in the order of the pass."""
    row: int = 0
    """The line of the first row of the chunk, or the number of the row in a table; 0 is the beginning."""
    byte: int = 0
    line: int = 1
    """A byte at or before that row, and the line that begins there."""
    skip: int = 0
    """Examples of the chunk that belong to earlier parts."""
    carried: Carried = field(default_factory=Carried.nothing)
    read: Counter[str] = field(default_factory=Counter)
    """Counts of all that was read up to the chunk: rows, tokens, shards ..."""

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        # Plain values, and no pickle: a checkpoint is gone on from on other machines, and by other versions.
        return asdict(replace(self, carried=None, read=None)) | {  # type: ignore[arg-type]
            "carried": self.carried.as_dict(),
            "read": dict(self.read),
        }

    @classmethod
    def restore(cls, saved: SavedPosition) -> Position:
        """What `as_dict` has returned. Raises ValueError for what is none."""
        given = msgspec.structs.asdict(saved)
        return cls(**given | {"carried": Carried.restore(saved.carried), "read": Counter(saved.read)})

    @classmethod
    def from_dict(cls, saved: dict[str, Any]) -> Position:
        """The same of its JSON; raises ValueError."""
        return cls.restore(msgspec.convert(saved, SavedPosition))
