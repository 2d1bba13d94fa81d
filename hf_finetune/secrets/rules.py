"""The rules of what is a secret: tokens by the shape of their issuer, and values that stand beside a telling name.

All are matched by RE2, in time that grows with the text alone, and over bytes. Those of detect-secrets are taken from
the library, so that they are kept up to date with it; its rules that are no expressions of RE2, or that take ordinary
entries of a vocabulary for keys, are left out: rules of ours have the same kinds.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import re2

from hf_finetune.privacy import SECRETS, is_secret
from hf_finetune.secrets.passwords import (
    ASSIGNED_KEY,
    ASSIGNED_PASSWORD,
    KEY_OF_ADDRESS,
    is_key_of_address,
    is_password,
    is_short_key,
)
from hf_finetune.secrets.service_keys import KEYED_ADDRESSES, SERVICE_KEYS

# Kinds of detect-secrets that any vocabulary, card or list of addresses is full of.
_LEFT_OUT = {"Artifactory Credentials", "Public IP (ipv4)", "JSON Web Token"}
_BEFORE = "(?:^|[^A-Za-z0-9])"

# The name of what is a secret, then its value.
_NAMES = (
    r"(?:[a-z0-9]+[_.-])*(?:(?:api|apps?|access|auth|secret|private|client|account|session|bearer|refresh|deploy|bot|hub"
    r"|master|encryption|signing|storage|shared|service|webhook|license)[_. -]?(?:key|token|secret)|apikey|secret"
    r"|passw(?:or)?d|passphrase|pwd|credentials?|authorization|(?:[a-z]+_)?key|token)"
)
_ASSIGNED = (
    rf"(?i)(?:^|[^a-z0-9_]){_NAMES}[\"'`]?\s{{0,4}}(?:[:=]|=>|:=|,|\s)\s{{0,4}}[\"'`]?(?:bearer |basic |token )?"
    r"([A-Za-z0-9+/_=.~-]{16,200})"
)
# curl -u name:password, <add key="ClearTextPassword" value="..."/> of NuGet and <password>...</password> of Maven
_OF_A_USER = r"curl[^\n]{0,300}[ \t](?:-u|--user)[ =]{1,2}[\"']?[^\s:\"']{1,60}:([^\s\"']{8,80})"
_OF_XML = (
    r"(?i)key=[\"'](?:cleartext)?password[\"']\s{1,4}value=(\"[^\"\n]{8,80}\"|'[^'\n]{8,80}')"
    r"|<[\w.-]{0,40}password>([^<>\s]{8,80})</"
)
# Of a UUID, which many services give out, 36 letters; hexadecimal digits as a rule 32, 40 or 64.
_HEX = frozenset("0123456789abcdefABCDEF-")
_SHORTEST_HEX = 32
_BITS_A_LETTER = 3.4
_FEWEST_LETTERS = 9


@dataclass(frozen=True)
class Found:
    """A secret in bytes: what it looks like, where it begins, and where it ends."""

    kind: str
    start: int
    end: int


@dataclass(frozen=True)
class _Rule:
    kind: str
    pattern: str
    check: Callable[[bytes], bool] | None = None
    of_a_line: bool = False
    """Whether it holds within a line alone: a word and what the next line begins with look like a password."""


@dataclass(frozen=True)
class _Compiled:
    all: Any
    """An `re2.Set`: which of the rules are in a text at all, in one pass."""
    rules: tuple[tuple[_Rule, Any], ...]


def find_secrets(text: bytes, *, joined: bool = False) -> Iterator[Found]:
    """Yield every secret in `text`, whose lines have been `joined` or not, by rule and then by place."""
    compiled = _compile_rules()
    for number in sorted(compiled.all.Match(text) or ()):
        rule, shape = compiled.rules[number]
        if joined and rule.of_a_line:
            continue
        for found in shape.finditer(text):
            # The last group is the secret itself, where a rule has one: its name may stand lines before it.
            start, end = found.span(found.lastindex or 0)
            if rule.check is None or rule.check(text[start:end]):
                yield Found(rule.kind, start, end)


@cache
def _compile_rules() -> _Compiled:
    options = re2.Options()
    options.encoding = re2.Options.Encoding.LATIN1
    options.log_errors = False
    options.max_mem = 256 << 20
    rules = [_Rule(kind, f"{_BEFORE}({shape})", is_secret) for kind, shape in SECRETS.items()]
    rules.append(_Rule("a key of a service", f"{_BEFORE}({'|'.join(SERVICE_KEYS.values())})", is_drawn))
    rules.append(_Rule("an address that is a key", f"({'|'.join(KEYED_ADDRESSES)})"))
    rules.append(_Rule("a key or password", _ASSIGNED, is_random))
    rules.append(_Rule("a key or password", _OF_A_USER, is_password, of_a_line=True))
    rules.append(_Rule("a key or password", _OF_XML, is_password, of_a_line=True))
    rules.append(_Rule("a key or password", ASSIGNED_PASSWORD, is_password, of_a_line=True))
    rules.append(_Rule("a key or password", ASSIGNED_KEY, is_short_key, of_a_line=True))
    rules.append(_Rule("a key in an address", KEY_OF_ADDRESS, is_key_of_address, of_a_line=True))
    rules += _list_library_rules(options)
    together = re2.Set.SearchSet(options)
    for rule in rules:
        together.Add(rule.pattern)
    together.Compile()
    return _Compiled(together, tuple((rule, re2.compile(rule.pattern.encode(), options)) for rule in rules))


def _list_library_rules(options: Any) -> Iterator[_Rule]:
    # Here, for it takes a third of a second to import.
    from detect_secrets.core.plugins.util import get_mapping_from_secret_type_to_class
    from detect_secrets.plugins.base import RegexBasedDetector

    detectors: dict[str, Any] = get_mapping_from_secret_type_to_class()
    for kind, detector in detectors.items():
        if not issubclass(detector, RegexBasedDetector) or kind in _LEFT_OUT:
            continue
        for shape in detector.denylist:
            pattern = ("(?i)" if shape.flags & shape.flags.__class__(2) else "") + shape.pattern
            try:
                re2.compile(pattern.encode(), options)
            except re2.error:  # it looks ahead or behind
                continue
            yield _Rule(f"a secret ({kind})", pattern)


def is_random(value: bytes) -> bool:
    """Whether a value is drawn by chance, as keys are, and no name, path or sentence of words."""
    text = value.decode("ascii").strip("=.")
    if not (any(letter.isdigit() for letter in text) and any(letter.isalpha() for letter in text)):
        return False
    if _HEX.issuperset(text):
        return len(text) >= _SHORTEST_HEX and _measure_bits(text) > 2.5
    # Letters and digits alternate in a key; in `all-MiniLM-L6-v2/checkpoint-100` words stand between the signs.
    return _measure_bits(text) > _BITS_A_LETTER and _count_turns(text) >= max(4, len(text) // 6)


def is_drawn(value: bytes) -> bool:
    """Whether what has the shape of a key is one, and no name of words or row of one letter with the same beginning."""
    return any(byte in b"0123456789" for byte in value) and len(set(value)) >= _FEWEST_LETTERS


def _measure_bits(text: str) -> float:
    """Compute the entropy of a letter of `text`, in bits."""
    counts = Counter(text).values()
    return -sum(count / len(text) * math.log2(count / len(text)) for count in counts)


def _count_turns(text: str) -> int:
    """Count where `text` goes from digits, capitals or small letters to others of them; a capitalized word is one."""
    kinds = [
        "d" if letter.isdigit() else "u" if letter.isupper() else "l" if letter.islower() else "" for letter in text
    ]
    pairs = itertools.pairwise(kinds)
    return sum(one != other and bool(one and other) and (one, other) != ("u", "l") for one, other in pairs)
