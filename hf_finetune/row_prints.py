"""Prints of a run's rows, by which later rows are recognized: in its folder, and never pushed.

Hashes of 64 bits under a key. It is drawn once for a user and kept in the cache, so that the rows of two runs can be
compared, and in each file beside the prints, so that a folder that is moved can still be asked.
"""

from __future__ import annotations

import io
import logging
import secrets
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hf_finetune.files import write_atomically
from hf_finetune.folders import ROW_PRINTS

logger = logging.getLogger(__name__)

Hashes = npt.NDArray[np.uint64]

KEY_BYTES = 32
_ROWS = "rows/"


@dataclass(frozen=True)
class RowPrints:
    """What a run keeps of its rows: of those that were trained the texts, of all others each row."""

    key: bytes
    texts: Hashes
    """Of the text of each training row, whatever its case, white space and label; sorted, without repeats."""
    ngrams: Hashes
    """Of runs of 13 words of training rows, the smallest so many; sorted, without repeats."""
    rows: Mapping[str, Hashes] = field(default_factory=dict)
    """By split, but train: of each row with all its fields, (rows,), in their order."""


def draw_key(cache: Path) -> bytes:
    """Return the key of this user from the file `cache`, drawn and written there where there is none.

    A key that cannot be kept serves one run.
    """
    try:
        if len(key := cache.read_bytes()) == KEY_BYTES:
            return key
    except OSError:
        pass
    key = secrets.token_bytes(KEY_BYTES)
    try:
        write_atomically(cache, key, private=True)
    except OSError as problem:
        logger.debug("the key of row prints is not kept: %s", problem)
    return key


def key_hashes(hashes: Hashes, key: bytes) -> Hashes:
    """Hash each of `hashes`, (rows,), under `key`."""
    # One by one: 10 million rows take some seconds.
    digests = b"".join(blake2b(each.tobytes(), digest_size=8, key=key).digest() for each in hashes.astype("<u8"))
    return np.frombuffer(digests, dtype="<u8").astype(np.uint64)


def write_row_prints(folder: Path, prints: RowPrints) -> None:
    """Write `prints` into a run folder, for its owner alone. Raises OSError."""
    arrays: dict[str, Any] = {
        "key": np.frombuffer(prints.key, np.uint8),
        "texts": prints.texts,
        "ngrams": prints.ngrams,
    }
    arrays |= {_ROWS + split: hashes for split, hashes in prints.rows.items()}
    content = io.BytesIO()
    np.savez(content, allow_pickle=False, **arrays)
    write_atomically(folder / ROW_PRINTS, content.getvalue(), private=True)


def read_row_prints(folder: Path) -> RowPrints | None:
    """Read the prints of a run folder; None where there are none, or, with a warning, where they are torn."""
    path = folder / ROW_PRINTS
    try:
        with zipfile.ZipFile(path) as packed:
            # As `write_row_prints` leaves it: what is compressed may be of any size.
            if any(part.compress_type != zipfile.ZIP_STORED for part in packed.infolist()):
                raise ValueError("it is compressed")
        with np.load(path, allow_pickle=False) as arrays:
            found = {name: arrays[name] for name in arrays.files}
        rows = {name.removeprefix(_ROWS): _check(each) for name, each in found.items() if name.startswith(_ROWS)}
        return RowPrints(found["key"].tobytes(), _check(found["texts"]), _check(found["ngrams"]), rows)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as problem:
        logger.warning("%s holds no prints of rows that can be read (%s)", path.name, type(problem).__name__)
        return None


def _check(hashes: npt.NDArray[np.generic]) -> Hashes:
    if hashes.dtype != np.uint64 or hashes.ndim != 1:
        raise ValueError("it holds no hashes")
    return hashes.astype(np.uint64, copy=False)
