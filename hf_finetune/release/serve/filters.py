"""What a prompt and an answer have to pass: word lists, and classifiers of our own recipe."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hf_finetune.errors import ConfigError, Problem

if TYPE_CHECKING:
    from hf_finetune.release.serve.labelling import Labeller

REFUSAL = "This cannot be answered here."
OPTION = "--filter"
MOST_WORD_BYTES = 2**22
_WORD = re.compile(r"\w+")
# From here on are scripts that write no blanks between words, Thai and its neighbors before.
_FIRST_UNBLANKED, _THAI = 0x2E80, range(0x0E00, 0x10A0)


@dataclass(frozen=True, slots=True)
class WordList:
    """Words and phrases, found without regard to case and to what stands between words."""

    phrases: frozenset[str]
    """Words with a blank between them."""
    lengths: tuple[int, ...]
    """Of the phrases, in words."""
    parts: tuple[str, ...]
    """Of scripts without blanks: found anywhere."""

    def finds(self, text: str) -> bool:
        plain = _fold(text)
        words = _WORD.findall(plain)
        return any(part in plain for part in self.parts) or any(
            " ".join(words[place : place + length]) in self.phrases
            for length in self.lengths
            for place in range(len(words) - length + 1)
        )


@dataclass(frozen=True, slots=True)
class LabelFilter:
    """A classifier, and the labels that are refused."""

    labeller: Labeller
    labels: frozenset[str]

    async def finds(self, texts: Sequence[str]) -> bool:
        named = await self.labeller.name_labels(texts)
        return any(self.labels & set(labels) for labels in named)


@dataclass(frozen=True, slots=True)
class Filters:
    """All filters of a server; false where there is none."""

    words: tuple[WordList, ...] = ()
    classifiers: tuple[LabelFilter, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.words or self.classifiers)

    async def refuse(self, texts: Sequence[str]) -> bool:
        """Whether one of the texts is refused."""
        # Words first: they cost nothing, and a model takes its time.
        if any(words.finds(text) for words in self.words for text in texts):
            return True
        for each in self.classifiers:
            if await each.finds([text for text in texts if text.strip()]):
                return True
        return False

    def close(self) -> None:
        for each in self.classifiers:
            each.labeller.close()


def check_filters(given: Sequence[str]) -> None:
    """Raise `ConfigError` for what is no filter, as far as can be told before a model is loaded."""
    for each in given:
        path, labels = split_filter(each)
        if Path(path).is_file():
            read_words(path)
        elif not labels:
            what = f"{each!r} is neither a word list nor a classifier with the labels that it refuses"
            raise ConfigError(Problem(what, "write WORDS.txt or RUN=LABEL", key=OPTION, code="HF875"))


def load_filters(given: Sequence[str]) -> Filters:
    """Load all filters. Raises `ConfigError`, and as `open_classifier` does."""
    words, classifiers = [], []
    for each in given:
        path, labels = split_filter(each)
        if Path(path).is_file():
            words.append(read_words(path))
        else:
            classifiers.append(_load_classifier(path, labels))
    return Filters(tuple(words), tuple(classifiers))


def split_filter(given: str) -> tuple[str, list[str]]:
    """`RUN=LABEL,LABEL` -> its path and labels; a file's name has none."""
    if Path(given).is_file():
        return given, []
    # From the right: the path may have an equals sign, too.
    path, _, labels = given.rpartition("=")
    return (path, [label for label in labels.split(",") if label]) if path else (given, [])


def _load_classifier(path: str, labels: Sequence[str]) -> LabelFilter:
    # Not at the head: word lists are looked at before torch is imported.
    from hf_finetune.evaluation.prediction.predict import PredictionOptions, open_classifier
    from hf_finetune.release.serve.labelling import Labeller

    classifier = open_classifier(path, PredictionOptions())
    known = () if classifier.decision is None else classifier.decision.labels
    unknown = [label for label in labels if label not in known]
    if unknown:
        what = f"{', '.join(unknown)}: no label of this classifier, which has {', '.join(known) or 'none'}"
        raise ConfigError(Problem(what, "name those that are to be refused", path, key=OPTION, code="HF875"))
    return LabelFilter(Labeller(classifier), frozenset(labels))


def read_words(name: str) -> WordList:
    """Read a word list: a word or phrase a line; lines that begin with # say something about it."""
    try:
        with open(name, "rb") as file:
            read = file.read(MOST_WORD_BYTES + 1)
        text = read.decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as problem:
        why = problem.strerror if isinstance(problem, OSError) else "it is not UTF-8"
        raise ConfigError(
            Problem(f"the word list cannot be read ({why})", "save it as UTF-8", name, key=OPTION, code="HF875")
        ) from problem
    lines = [line.strip() for line in text.splitlines()]
    entries = [_fold(line) for line in lines if line and not line.startswith("#")]
    # `\w+` takes a whole Chinese sentence for one word.
    parts = [each for each in entries if any(map(_is_unblanked, each))]
    phrases = {" ".join(_WORD.findall(each)) for each in entries if each not in parts} - {""}
    if len(read) > MOST_WORD_BYTES or not (parts or phrases):
        what = "is longer than 4 MiB" if len(read) > MOST_WORD_BYTES else "holds no word"
        raise ConfigError(Problem(what, "name a list with a word or phrase a line", name, key=OPTION, code="HF875"))
    return WordList(frozenset(phrases), tuple(sorted({each.count(" ") + 1 for each in phrases})), tuple(parts))


def _is_unblanked(letter: str) -> bool:
    return ord(letter) >= _FIRST_UNBLANKED or ord(letter) in _THAI


def _fold(text: str) -> str:
    return unicodedata.normalize("NFKC", text).casefold()
