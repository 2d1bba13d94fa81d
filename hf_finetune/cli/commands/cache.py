"""`hf-finetune cache`: what earlier runs have read and tokenized."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hf_finetune.cli.terminal import Json, print_json, say
from hf_finetune.errors import CannotWriteError, ConfigError, Problem
from hf_finetune.memory import format_size

if TYPE_CHECKING:
    from hf_finetune.cache import Entry, OtherFile

NAMES_SHOWN = 3

_AGE = re.compile(r"(\d{1,6})([dh])")
_SIZE = re.compile(r"0|(\d{1,9}(?:\.\d{1,3})?) ?([KMGT]i?B?|B)", re.IGNORECASE)
_SECONDS = {"d": 86_400, "h": 3_600}
_BYTES = {"B": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


def cache(
    older_than: Annotated[
        str | None, typer.Option("--older-than", help="Remove what no run has used for so long: 30d, 12h.")
    ] = None,
    to: Annotated[str | None, typer.Option("--to", help="Remove what was used longest ago, down to: 10GB.")] = None,
    verify: Annotated[bool, typer.Option("--verify", help="Remove what is not as it was written.")] = False,
    as_json: Json = False,
) -> None:
    """List what earlier runs have read and tokenized, and remove what is old, too much or damaged."""
    from hf_finetune.cache import (
        choose_to_remove,
        find_own_cache,
        is_damaged,
        list_entries,
        list_others,
        remove_entry,
        sweep_cache,
    )

    seconds, size = _read_age(older_than), _read_size(to)
    folder = find_own_cache()
    try:
        swept = sweep_cache(folder) if folder.is_dir() else 0
        entries = list_entries(folder)
        removed = choose_to_remove(entries, older_than=seconds, to_size=size, now=time.time())
        damaged = [each for each in entries if verify and each not in removed and is_damaged(each)]
        for each in (*removed, *damaged):
            remove_entry(each)
        others = list_others(folder)
    except OSError as problem:
        what = f"the cache cannot be read or changed ({problem.strerror})"
        raise CannotWriteError(
            Problem(what, "allow it, or set HF_DATASETS_CACHE", path=str(folder), code="HF701")
        ) from problem
    kept = [each for each in entries if each not in removed and each not in damaged]
    if as_json:
        groups = {"entries": kept, "removed": removed, "damaged": damaged}
        told = {name: [_describe(each) for each in group] for name, group in groups.items()}
        beside = [{"name": each.path.name, "what": each.kind, "bytes": each.size} for each in others]
        print_json({"folder": str(folder), **told, "leftovers": swept, "others": beside})
        return
    _say_entries(folder, kept)
    _say_others(others)
    for word, group in (("removed", removed), ("damaged, removed", damaged)):
        if group:
            say(f"{word}: {len(group):,} entries, {_add_up(group)}")
    if verify and not damaged:
        say("all entries are as they were written")
    if swept:
        say(f"swept: {swept:,} files that killed processes had left")


def _describe(entry: Entry) -> dict[str, str | int]:
    from hf_finetune.cache import KINDS

    used = datetime.fromtimestamp(entry.used).astimezone().isoformat(timespec="seconds")
    what = KINDS.get(entry.kind, entry.kind)
    return {"name": entry.path.name, "kind": entry.kind, "what": what, "bytes": entry.size, "used": used}


def _say_entries(folder: Path, entries: list[Entry]) -> None:
    from hf_finetune.cache import KINDS

    say(f"{folder}: {len(entries):,} entries, {_add_up(entries)}")
    width = max(map(len, KINDS.values()))
    of_kind: dict[str, list[Entry]] = {}
    for entry in entries:
        used = datetime.fromtimestamp(entry.used).astimezone().strftime("%Y-%m-%d %H:%M")
        name = KINDS.get(entry.kind, entry.kind)
        say(f"  {used}  {format_size(entry.size):>10}  {name:<{width}} {entry.path.stem.rpartition('-')[2]}")
        of_kind.setdefault(name, []).append(entry)
    for name, some in sorted(of_kind.items()):
        say(f"{name}: {_count(some, 'entry', 'entries')}, {_add_up(some)}")


def _say_others(others: list[OtherFile]) -> None:
    """Say what is there besides, and is not removed: some of it belongs to processes that run."""
    for kind in sorted({each.kind for each in others}):
        some = [each for each in others if each.kind == kind]
        named = [each.path.name for each in some[:NAMES_SHOWN]] + ["..."] * (len(some) > NAMES_SHOWN)
        size = format_size(sum(each.size for each in some))
        say(f"besides, {kind}: {_count(some, 'file', 'files')}, {size} ({', '.join(named)})")


def _count(some: Sequence[object], one: str, many: str) -> str:
    return f"{len(some):,} {one if len(some) == 1 else many}"


def _add_up(entries: list[Entry]) -> str:
    return format_size(sum(entry.size for entry in entries))


def _read_age(written: str | None) -> float | None:
    if written is None:
        return None
    found = _AGE.fullmatch(written)
    if found is None:
        raise ConfigError(
            Problem(f"--older-than {written!r} is no length of time", "write it as 30d or 12h", code="HF603")
        )
    return float(found[1]) * _SECONDS[found[2]]


def _read_size(written: str | None) -> int | None:
    if written is None:
        return None
    found = _SIZE.fullmatch(written)
    if found is None:
        raise ConfigError(Problem(f"--to {written!r} is no size", "write it as 10GB or 500MB", code="HF603"))
    return int(float(found[1]) * _BYTES[found[2][0].upper()]) if found[1] else 0
