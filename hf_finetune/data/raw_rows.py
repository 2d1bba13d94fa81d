"""The rows of a split with all of their fields, read again from its files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hf_finetune.data.lines import line_blocks, read_chunks
from hf_finetune.data.sources import TEXT_FORMATS
from hf_finetune.data.splits import Splits
from hf_finetune.data.strict_json import strict_object
from hf_finetune.errors import ConfigError, Problem


def raw_rows(splits: Splits, split: str, max_line_bytes: int, key: str) -> Iterator[dict[str, Any]]:
    """Yield each row of `split` as its file has it, in the order of the split.

    Raises `ConfigError`, for the setting `key`, where rows have no fields, or a source is not a local file.
    """
    places = splits.places[split]
    if splits.format in TEXT_FORMATS:
        raise ConfigError(Problem("rows of a text file have no fields", "leave it out", key=key))
    for number, shown in enumerate(places.files):
        if not Path(shown).expanduser().is_file():
            what = f"{shown} is not a local file, whose rows could be read again"
            raise ConfigError(Problem(what, "save the data set as JSONL and name that", key=key))
        wanted = set(places.line[places.file == number].tolist())
        path = Path(shown).expanduser()
        for block in line_blocks(read_chunks(path, shown), max_line_bytes):
            for line, text in enumerate(block.lines, block.first_line):
                if line in wanted:
                    yield strict_object(text)
