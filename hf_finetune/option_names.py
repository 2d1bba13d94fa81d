"""Settings of a run file, which messages name, as the options of the command that was typed."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

from hf_finetune.shell import shell_line


@dataclass(frozen=True, slots=True)
class OptionNames:
    """What a command calls the settings that it takes as options."""

    options: Mapping[str, str] = field(default_factory=dict)
    """Setting -> option: {"eval.base": "--base"}; "" for one that the command does not have."""
    otherwise: str = ""
    """The remedy where each that a message knows is a setting that the command does not have."""
    instead: Mapping[str, str] = field(default_factory=dict)
    """Such a setting -> the remedy where a message knows it alone, in the place of `otherwise`."""


_SETTINGS = OptionNames()  # no command: settings have their own names
_NAMES: ContextVar[OptionNames] = ContextVar("option_names", default=_SETTINGS)
_MAPS = re.compile(r'(?P<setting>data\.(?:columns|labels)): \{(?P<pairs>(?:"(?:[^"\\]|\\.)*"|[^{}"])*)\}')
_WORD = r'"(?:[^"\\]|\\.)*"|[^,:"]+'
_PAIR = re.compile(rf"({_WORD}): ({_WORD})(?:, |$)")
_ALTERNATIVES = re.compile(r"(; |,? or (?=raise |set |add |name |run ))")


@contextmanager
def name_options(names: OptionNames) -> Iterator[None]:
    """Name settings by the options of a command in every message that is made in the block."""
    token = _NAMES.set(names)
    try:
        yield
    finally:
        _NAMES.reset(token)


def name_key(key: str | None) -> str | None:
    """The key of a message as the user typed it: "eval.by" -> "--by", "eval.prompts[0]" -> "prompt 1".

    None for what is no option.
    """
    setting, _, place = (key or "").partition("[")
    option = _NAMES.get().options.get(setting)
    if option is None:
        return key
    counted = place[:-1].isdecimal() and option and not option.startswith("-")
    return f"{option} {int(place[:-1]) + 1}" if counted else option or None


def name_settings(text: str) -> str:
    """Write the options for the settings in a sentence: "`data.columns: {text: body}`" -> "`--columns text=body`".

    From Python an argument is written as one: "eval.seed: 3" -> `seed="3"`.
    """
    options = _NAMES.get().options
    if not options:
        return text
    text = _MAPS.sub(lambda found: _write_map(found, options), text)
    return _make_pattern(options).sub(lambda found: _write_option(found, options), text)


def name_remedy(remedy: str) -> str:
    """The same for a remedy, without the ways out that the command does not have.

    "split it, or raise data.max_line_bytes" -> "split it".
    """
    names = _NAMES.get()
    absent = {setting: option for setting, option in names.options.items() if not option}
    if not absent or not _make_pattern(absent).search(remedy):
        return name_settings(remedy)
    otherwise = next((told for setting, told in names.instead.items() if setting in remedy), names.otherwise)
    pieces = _ALTERNATIVES.split(remedy)
    kept = ""
    for place in range(0, len(pieces), 2):
        if not _make_pattern(absent).search(pieces[place]):
            kept += (pieces[place - 1] if kept else "") + pieces[place]
    return name_settings(kept.rstrip(", ")) or otherwise


def _make_pattern(options: Mapping[str, str]) -> re.Pattern[str]:
    # `eval.base: true` is `--base`, `eval.seed: 3` is `--seed 3`, and `data.train` no part of `data.train_more`.
    settings = "|".join(map(re.escape, options))
    return re.compile(rf"(?<![\w.])(?P<setting>{settings})(?!\w|\.\w)(?:: (?P<value>\w+))?")


def _write_option(found: re.Match[str], options: Mapping[str, str]) -> str:
    option, value = options[found["setting"]], found["value"]
    if value in (None, "true"):
        return option or found["setting"].partition(".")[2]
    if not option:
        return f"{found['setting'].partition('.')[2]}: {value}"
    return f"{option} {value}" if option.startswith("-") else f'{option}="{value}"'


def _write_map(found: re.Match[str], options: Mapping[str, str]) -> str:
    option = options.get(found["setting"])
    if not option:
        return found[0]
    words = [shell_line(["=".join(pair)]) for pair in _iterate_pairs(found["pairs"])]
    # `--columns` takes what follows it; an option of its own for each label.
    return f"{option} {(' ' if found['setting'] == 'data.columns' else f' {option} ').join(words)}"


def _iterate_pairs(pairs: str) -> Iterator[tuple[str, str]]:
    # Each begins where the last one ended: to look for one at every letter takes quadratic time.
    place = 0
    while found := _PAIR.match(pairs, place):
        yield _read_word(found[1]), _read_word(found[2])
        place = found.end()


def _read_word(written: str) -> str:
    return str(json.loads(written)) if written[:1] == '"' else written
