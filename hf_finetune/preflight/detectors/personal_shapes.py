"""What names a person, by its shape: for each kind a pattern of RE2 over bytes, and what only looks like it.

Patterns are of one line each. What stands before a number decides where its digits do not: `Tel.` or `Order`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import re2

from hf_finetune.preflight.detectors.number_checks import (
    has_iban_country,
    is_card_number,
    is_iban,
    is_public_ipv4,
    is_public_ipv6,
)

Kind = Literal["email", "phone", "iban", "card", "ip", "ssn", "key", "url_password"]


@dataclass(frozen=True, slots=True)
class Shape:
    """One way in which a kind is written. The whole match is checked, or its last group if it has one."""

    kind: Kind
    pattern: str
    check: Callable[[str, str, str], bool]
    """Given what was found, and what stands before and behind it on its line."""


@dataclass(frozen=True, slots=True)
class Compiled:
    """All shapes, compiled."""

    all: Any
    """An `re2.Set`: which of them are in a text at all, in one pass."""
    each: tuple[tuple[Shape, Any], ...]
    """Each with its pattern."""


SEEN_BEFORE = 40
"""Bytes before a match that its check is given, and 2 behind it."""

# The "mp" is what a pattern of letters leaves of .mp3 and .mp4.
_FILES = {"png", "jpg", "jpeg", "gif", "svg", "webp", "js", "css", "py", "html", "json", "md", "txt", "ts", "tsx", "mp"}
# What nobody can have: https://www.rfc-editor.org/rfc/rfc2606, https://www.rfc-editor.org/rfc/rfc6761
_RESERVED = re2.compile(r"(?i)(?:.*\.)?(?:example\.(?:com|net|org)|(?:test|example|invalid|localhost))")
_PLACEHOLDERS = {"password", "passwd", "pass", "pwd", "secret", "token", "user", "username", "key", "apikey"}
_TEL = (
    r"(?i)(?:phone|\btel(?:e[fp]\w{1,6})?\b|\bt(?:é|e)l\b|\bmobile?\b|\bhandy\b|\bcell\b|\bcelular|\bfax"
    r"|whatsapp|\bsms\b|\b(?:call|text|ring|dial|reach)(?: (?:me|us|him|her|them))?|电话|電話|手机|携帯)"
    r"\.?(?:[ :=*\"'>(-]|number|nummer|num(?:é|e)ro|n(?:ú|u)mero|\bno\b\.?|\bnr\b\.?|\bis\b"
    r"|\bat\b|\bon\b|番号|号码|は|是|：){0,6}"
)
_OF_TEL = re2.compile(rf"{_TEL}$")
# "Order no. ", "SKU: ", "# ": digits in one piece behind these are no card and no phone.
_OF_OTHER = re2.compile(
    r"(?i)(?:\b(?:orders?|invoice|tracking|ticket|ref(?:erence)?|id|isbn|issn|sku|serial|batch|part|item|product|case"
    r"|model|article|artikel|bestellung|commande|pedido|zip|postcode|version|commit|build|account|transaction"
    r"|upc|ean|doi|iban|number|no|nr)\b|#|№)[^0-9A-Za-z]{0,4}"
    r"(?:(?:number|no|nr|code|id)\b[^0-9A-Za-z]{0,4}(?:is |was )?)?$"
)
_OF_VERSION = re2.compile(
    r"(?i)(?:\bv|\bver|version|release|build|rev(?:ision)?|firmware|driver|section|chapter|§|[a-z]/)[^0-9A-Za-z]{0,3}$"
)
# Of a bank account number with a digit that is wrong what stands before: "DE89 3704 ".
_OF_IBAN = re2.compile(r"(?i)\b([A-Z]{2})[0-9]{2}(?:[ -]?[A-Z0-9]{4}){0,7}[ -]?[A-Z0-9]{0,3}$")
# What a number of four small parts needs before it to be an address, and no version: "ping 8.8.8.8".
_OF_ADDRESS = re2.compile(
    r"(?i)(?:\b(?:ipv?4?|address(?:es)?|addr|hosts?|server|dns|ping|traceroute|nslookup|dig|whois|ssh|curl|resolver"
    r"|nameserver|gateway|router|client|peer|remote|src|dst|logins?|adresse|serveur|servidor)\b"
    r"[^0-9A-Za-z]{0,4}(?:(?:is|was|to|at|of|from|ist|von)\b[^0-9A-Za-z]{0,3}){0,2}|//)$"
)
_DATE = re2.compile(
    r"\(?(?:0?[1-9]|[12][0-9]|3[01])[./ -](?:0?[1-9]|1[0-2])[./ -](?:19|20)[0-9]{2}|(?:19|20)[0-9]{2}[-./].*"
)
# Codes of places in the United States, and what has the shape of a number of their social security.
_AMERICAN = re2.compile(r"[0-9]{5}-[0-9]{4}|[0-9]{3}-[0-9]{2}-[0-9]{4}")
_LONGEST_PHONE = 15  # https://www.itu.int/rec/T-REC-E.164
_SHORTEST_PHONE, _SHORTEST_NATIONAL, _LONGEST_NATIONAL = 7, 9, 12


def _stands_alone(before: str, behind: str) -> bool:
    """Whether it is no part of a longer word or number, such as 0.4242424242424242 or a hash."""
    # A point ends a sentence as often as it goes on with a number: "4242." stands alone, and "4242.42" does not.
    ends = behind[:1] if behind[:1] not in (".", ",", "-", ":") else behind[1:2]
    return not (before[-1:].isalnum() or before[-1:] in ("_", ".", "-", "/", "$")) and not (
        ends.isdigit() or (behind[:1].isalpha() or behind[:1] in ("_", "="))
    )


def _is_email(found: str, before: str, behind: str) -> bool:
    local, _, host = found.rpartition("@")
    # git@github.com:owner/name, and logo@2x.png
    is_path = behind[:1] == ":" and behind[1:2].isalpha()
    return (
        not is_path
        and before[-1:] != "/"
        and host.rpartition(".")[2].lower() not in _FILES
        and local != "git"
        and not _RESERVED.fullmatch(host)
    )


def _is_of_iban(before: str) -> bool:
    """Whether digits go on with what begins as a bank account number does: one with a wrong digit is no phone."""
    begun = _OF_IBAN.search(before)
    return begun is not None and has_iban_country(begun.group(1))


def _count_digits(phone: str) -> int:
    """Count the digits of a number without its extension."""
    # "212.555.0100 ext. 12" -> 10: an `x` or an `e` begins the extension.
    return sum(map(str.isdigit, phone.lower().partition("x")[0].partition("e")[0]))


def _is_phone(found: str, before: str, behind: str) -> bool:
    # Two digits more than E.164 has, for the 00 that is dialed in place of a plus.
    if not (_SHORTEST_PHONE <= _count_digits(found) <= _LONGEST_PHONE + 2) or not _stands_alone(before, behind):
        return False
    if _is_of_iban(before):
        return False
    if found.isdigit() and _OF_OTHER.search(before) and not _OF_TEL.search(before):
        return False
    return not (_DATE.match(found) or _OF_VERSION.search(before))


def _is_national(found: str, before: str, behind: str) -> bool:
    if not _SHORTEST_NATIONAL <= _count_digits(found) <= _LONGEST_NATIONAL or _AMERICAN.fullmatch(found):
        return False
    return _is_phone(found, before, behind) and not (_OF_OTHER.search(before) and not _OF_TEL.search(before))


def _is_card(found: str, before: str, behind: str) -> bool:
    return (
        _stands_alone(before, behind)
        and is_card_number(found)
        and not (_is_other_number(found, before) or _is_of_iban(before))
    )


def _is_other_number(found: str, before: str) -> bool:
    """Whether what stands before says that it is a number of something else; one in groups of four is none."""
    return " " not in found and "-" not in found and bool(_OF_OTHER.search(before)) and "card" not in before.lower()


def _is_ssn(found: str, before: str, behind: str) -> bool:
    # Numbers that are never given out: https://secure.ssa.gov/poms.nsf/lnx/0110201035
    area, group, serial = found[:3], found[4:6], found[7:]
    given = area not in ("000", "666") and area < "900" and group != "00" and serial != "0000"
    is_other = _OF_OTHER.search(before) and not before.lower().rstrip(" :#").endswith(
        ("ssn", "security number", "ssn no")
    )
    return given and _stands_alone(before, behind) and behind[:1] != "-" and not is_other


def _is_ipv4(found: str, before: str, behind: str) -> bool:
    # https://93.184.215.14:443/ has an address, and lib/93.184.215.14 the version of something.
    if before[-1:] == "/" and before[-2:] != "//":
        return False
    alone = _stands_alone(before.removesuffix("//"), "" if behind[:1] in (":", "/") else behind)
    is_named = bool(_OF_ADDRESS.search(before))
    return alone and is_public_ipv4(found, is_named=is_named) and not _OF_VERSION.search(before)


def _is_ipv6(found: str, before: str, behind: str) -> bool:
    alone = not any(each.isalnum() or each == ":" for each in (before[-1:], behind[:1]))
    return alone and is_public_ipv6(found)


def _is_url_password(found: str, before: str, behind: str) -> bool:
    value = found.lower()
    # What documentation writes: ${TOKEN}, <password>, xxxx, ***.
    return not (value in _PLACEHOLDERS or set(value) <= set("x*.") or any(sign in value for sign in "<>{}$[]("))


_HEX = "[0-9A-Fa-f]{1,4}"
_EXTENSION = r"(?: ?(?:x|ext\.? ?)[0-9]{1,6})?"
# The surest first, since what one has taken no other finds: what holds an @, then what has check digits or a form of
# its own, and phone numbers, which are mere digits, last.
SHAPES = (
    Shape(
        "url_password",
        r"\b[a-zA-Z][a-zA-Z0-9+.-]{1,20}://[^\s/:@\"'<>]{0,64}:([^\s/@\"'<>]{2,128})@[\w.-]",
        _is_url_password,
    ),
    Shape("email", r"[A-Za-z0-9][A-Za-z0-9._%+'-]{0,63}@(?:[A-Za-z0-9-]{1,63}\.){1,8}[A-Za-z]{2,24}", _is_email),
    Shape(
        "iban",
        r"\b[A-Z]{2}[0-9]{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?\b",
        lambda found, *_: is_iban(found),
    ),
    Shape("card", r"[0-9](?:[ -]?[0-9]){11,18}", _is_card),
    Shape("ssn", r"[0-9]{3}-[0-9]{2}-[0-9]{4}", _is_ssn),
    Shape("ip", r"(?:[0-9]{1,3}\.){3}[0-9]{1,3}", _is_ipv4),
    Shape("ip", rf"(?:{_HEX}:){{7}}{_HEX}|{_HEX}(?::{_HEX}){{0,6}}::(?:{_HEX}(?::{_HEX}){{0,6}})?", _is_ipv6),
    # +49 (0) 30 901820, 001-335-504-9258x12
    Shape(
        "phone",
        r"(?:\+|\b00)[1-9](?:[ ./-]{0,2}\(?[0-9]{1,13}\)?){1,7}" + _EXTENSION,
        _is_phone,
    ),
    # (212) 555-0100, 212.555.0100 x12
    Shape(
        "phone",
        r"(?:\b1[-. ])?(?:\([2-9][0-9]{2}\) ?|\b[2-9][0-9]{2}[-. ])[2-9][0-9]{2}[-. ]?[0-9]{4}" + _EXTENSION,
        _is_national,
    ),
    # 01 23 45 67 89, (030) 901820, 090-1234-5678
    Shape(
        "phone",
        r"(?:\(0[0-9]{1,5}\)[ -]{0,2}|\b0[0-9]{1,4}[ ./-])(?:[0-9]{5,8}|[0-9]{2,5}(?:[ .-][0-9]{2,5}){1,4})",
        _is_national,
    ),
    # Tel. 32804796692
    Shape("phone", rf"{_TEL}(\+?\(?[0-9](?:[ ./()-]{{0,2}}[0-9]){{6,14}})", _is_phone),
)


@cache
def compile_shapes() -> Compiled:
    """Compile the patterns of all shapes."""
    options = re2.Options()
    # A byte is a character then, and é two: in a group, (?:é|e), it is matched whole, in a class, [ée], by half.
    options.encoding = re2.Options.Encoding.LATIN1
    # Its automaton is thrown away and built anew whenever it outgrows its memory, which is 8 MiB by default.
    options.max_mem = 64 << 20
    together = re2.Set.SearchSet(options)
    for shape in SHAPES:
        together.Add(shape.pattern.encode())
    together.Compile()
    return Compiled(together, tuple((shape, re2.compile(shape.pattern.encode(), options)) for shape in SHAPES))
