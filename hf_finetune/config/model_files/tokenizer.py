"""What of a tokenizer's files takes a library minutes, or all memory, when it builds the tokenizer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path

import msgspec
from msgspec import Raw

from hf_finetune.config.bounds import LARGEST_VOCABULARY
from hf_finetune.config.model_files.growth import WORD_KEY, find_growing_texts, find_long_frames, find_long_words
from hf_finetune.config.model_files.regular import read_object
from hf_finetune.config.model_files.tried.find import REGEX, SECTIONS, find_slow_patterns
from hf_finetune.config.model_files.values import CORRECT, LONGEST_TOKEN, MOST_ADDED
from hf_finetune.config.reading.document import format_value
from hf_finetune.errors import Problem

TOKENIZER, TEKKEN = "tokenizer.json", "tekken.json"
VOCAB, MERGES, ADDED = "vocab.json", "merges.txt", "added_tokens.json"
LONGEST_PADDING = 2**24
# Gemma 3 has 514,906, which tokenizers (0.23) makes 600 MiB of.
MOST_MERGES = 2**20

Shapes = Mapping[str, tuple[int, ...]]


def find_faults_of_tokenizer(folder: Path, shown: str, shapes: Shapes) -> Iterator[Problem]:
    """Yield all that is wrong with the files of a tokenizer; `shapes` are those of its model's weights."""
    yield from _check_tokenizer(folder / TOKENIZER, f"{shown}/{TOKENIZER}", shapes)
    yield from _check_tekken(folder / TEKKEN, f"{shown}/{TEKKEN}")
    if not (folder / TOKENIZER).exists():
        yield from _check_old_files(folder, shown)


def _check_tokenizer(file: Path, place: str, shapes: Shapes) -> Iterator[Problem]:
    """Yield what is slow or grows, and lengths that tokenizers (0.23) allocates at once: Rust aborts the process."""
    if not file.exists():
        return
    parts = msgspec.json.decode(file.read_bytes(), type=dict[str, Raw])
    yield from _check_added(parts, shapes, place)
    for key in ("padding", "truncation"):
        given = msgspec.json.decode(parts[key]) if key in parts else None
        for name, value in given.items() if isinstance(given, dict) else ():
            number = value.get("Fixed") if isinstance(value, dict) else value
            if isinstance(number, int | float) and not 0 <= number <= LONGEST_PADDING:
                what = f"{format_value(number)} tokens are longer than any text of a model"
                yield Problem(what, CORRECT, place, key=f"{key}.{name}", code="HF552")
    sections = {key: msgspec.json.decode(parts[key]) for key in SECTIONS if key in parts}
    yield from find_growing_texts(sections, place)
    yield from find_long_frames(sections.get("post_processor"), place)
    yield from find_slow_patterns(sections, place)
    try:
        model = msgspec.json.decode(parts.get("model", Raw(b"{}")), type=dict[str, Raw])
    except msgspec.DecodeError:
        return  # no object: whoever builds it says so
    yield from find_long_words({WORD_KEY: msgspec.json.decode(model.get(WORD_KEY, Raw(b"null")))}, place)
    pieces, merges = _read_pieces(model.get("vocab", Raw(b"{}"))), _read_list(model.get("merges", Raw(b"[]")))
    yield from _check_vocabulary(pieces, len(merges), place, "model.")


def _check_added(parts: Mapping[str, Raw], shapes: Shapes, place: str) -> Iterator[Problem]:
    """Yield a problem for more added tokens than the model has rows: transformers (5.23) adds them one by one."""
    added = _read_list(parts.get("added_tokens", Raw(b"[]")))
    largest = max((size for shape in shapes.values() for size in shape), default=0)
    if len(added) > (most := min(largest or MOST_ADDED, MOST_ADDED)):
        what = f"{len(added):,} added tokens, and the model has at most {most:,}"
        yield Problem(what, CORRECT, place, key="added_tokens", code="HF552")
        return
    for number, each in enumerate(map(msgspec.json.decode, added)):
        content = each.get("content") if isinstance(each, dict) else None
        if isinstance(content, str) and len(content) > LONGEST_TOKEN:
            yield _name_long_token(content, place, f"added_tokens[{number}].content")


def _check_old_files(folder: Path, shown: str) -> Iterator[Problem]:
    """Yield the same of the files that a tokenizer is made of where there is no tokenizer.json."""
    merges = 0
    if (folder / MERGES).is_file():
        with (folder / MERGES).open("rb") as file:
            merges = sum(block.count(b"\n") for block in iter(lambda: file.read(2**20), b""))
    for name, count in ((VOCAB, merges), (ADDED, 0)):
        if (folder / name).is_file():
            yield from _check_vocabulary([*(read_object(folder / name) or {})], count, f"{shown}/{name}", "")


def _check_vocabulary(pieces: list[str], merges: int, place: str, section: str) -> Iterator[Problem]:
    if len(pieces) > LARGEST_VOCABULARY:
        what = f"{len(pieces):,} pieces, and no model has more than {LARGEST_VOCABULARY:,}"
        yield Problem(what, CORRECT, place, key=f"{section}vocab" if section else None, code="HF552")
    long = (piece for piece in pieces if len(piece) > LONGEST_TOKEN)
    yield from (_name_long_token(piece, place, f"{section}vocab" if section else None) for piece in islice(long, 1))
    # Each merge that is no repetition is another way to cut a piece in two.
    if merges and merges > (most := min(sum(map(len, pieces)), MOST_MERGES)):
        what = f"{merges:,} merges are more than {len(pieces):,} pieces can be made by (at most {most:,})"
        yield Problem(what, CORRECT, place, key=f"{section}merges" if section else None, code="HF552")


def _name_long_token(token: str, place: str, key: str | None) -> Problem:
    what = f"a token of {len(token):,} characters is longer than any of a model (at most {LONGEST_TOKEN:,})"
    return Problem(what, CORRECT, place, key=key, code="HF552")


def _read_list(raw: Raw) -> list[Raw]:
    """The parts of a list, none of them built; [] for what is none: whoever builds it says so."""
    try:
        return msgspec.json.decode(raw, type=list[Raw])
    except msgspec.DecodeError:
        return []


def _read_pieces(raw: Raw) -> list[str]:
    """The pieces of a vocabulary: {"a": 0, ...}, or [["a", -1.5], ...] of a Unigram."""
    try:
        read = msgspec.json.decode(raw, type=dict[str, Raw] | list[tuple[str, Raw]])
    except msgspec.DecodeError:
        return []  # whoever builds it says so
    return [*read] if isinstance(read, dict) else [piece for piece, _ in read]


def _check_tekken(file: Path, place: str) -> Iterator[Problem]:
    """Yield the pattern of Mistral's own format where it is slow: transformers (5.23) converts it as it stands."""
    settings = (read_object(file) or {}).get("config")
    if isinstance(settings, dict):
        yield from find_slow_patterns({"config": {"pattern": {REGEX: settings.get("pattern")}}}, place)
