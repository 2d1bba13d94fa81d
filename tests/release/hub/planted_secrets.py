"""Secrets of every kind of tests/hostile/secrets.jsonl, drawn anew, in every form in which a file may hold them."""

from __future__ import annotations

import base64
import json
import random
import re
import string
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hf_finetune.release.hub.search.places import Sought, find_places

KINDS = [
    json.loads(line)
    for line in (Path(__file__).parents[2] / "hostile" / "secrets.jsonl").read_text(encoding="utf-8").splitlines()
]
ALPHABETS = {
    "alnum": string.ascii_letters + string.digits,
    "upper": string.ascii_uppercase + string.digits,
    "letter": string.ascii_lowercase,
    "sign": "!@#*?",
    "small": string.ascii_lowercase + string.digits,
    "digit": string.digits,
    "hex": "0123456789abcdef",
    "url": string.ascii_letters + string.digits + "_-",
    "base64": string.ascii_letters + string.digits + "+/",
}


def find_secrets(content: bytes) -> list[tuple[int, str]]:
    """The lines of `content` with a secret, each with its kind, by line."""
    return sorted(find_places(content, Sought()).secrets.items())


def draw_secret(kind: dict[str, Any], chance: random.Random) -> tuple[str, str]:
    """The text with a secret as it stands in a file, and the part of it that nobody may see."""
    drawn: dict[str, str] = {}

    def draw(found: re.Match[str]) -> str:
        letters = ALPHABETS[found[1]]
        drawn[found[0]] = "".join(chance.choices(letters, k=int(found[2])))
        return drawn[found[0]]

    text = re.sub(r"\{(\w+):(\d+)\}", draw, kind["shape"])
    return text, drawn.get(kind.get("value", ""), text)


def halves(text: str, chance: random.Random) -> tuple[str, str]:
    place = chance.randint(len(text) // 3, 2 * len(text) // 3)
    return text[:place], text[place:]


def escaped(text: str, chance: random.Random, form: str) -> str:
    """Some of the letters of `text`, and the first, as an escape."""
    chosen = {0, *chance.sample(range(len(text)), len(text) // 3)}
    return "".join(form.format(ord(letter)) if place in chosen else letter for place, letter in enumerate(text))


def between(before: str, middle: str, after: str = "\n") -> Callable[[str], bytes]:
    return lambda text: f"first line\n{before}{middle % text}{after}last line\n".encode()


def wrapped(text: str) -> str:
    """In base64, 40 letters a line, as mail and keys are."""
    packed = base64.b64encode(f"note: {text}\n".encode()).decode()
    return "\n".join(packed[start : start + 40] for start in range(0, len(packed), 40))


def cut(text: str, chance: random.Random, *by: str) -> bytes:
    """In three parts, with a text between each two."""
    first, rest = halves(text, chance)
    second, third = rest[: len(rest) // 2], rest[len(rest) // 2 :]
    return f"<p>It is {first}{by[0]}{second}{by[-1]}{third} here.</p>\n".encode()


def quoted(text: str) -> str:
    """In quoted-printable as mail has it, in lines of 20 letters or a few more."""
    letters = [f"={ord(each):02X}" if each in "=_ :/" or number % 5 == 0 else each for number, each in enumerate(text)]
    return "=\n".join("".join(letters[start : start + 16]) for start in range(0, len(letters), 16))


def listed(text: str, form: str, between: str) -> bytes:
    return f"x: {between.join(form.format(byte) for byte in text.encode())}\n".encode()


def dumped(text: str) -> str:
    """As a dump of 16 bytes a line shows it, two bytes together."""
    pairs = [text.encode()[start : start + 2].hex() for start in range(0, len(text), 2)]
    return "\n".join(" ".join(pairs[start : start + 8]) for start in range(0, len(pairs), 8))


OCTAL = chr(92) + "{:03o}"
# How a text may stand in a file: (name, what the file holds).
FORMS: dict[str, Callable[[str, random.Random], bytes]] = {
    "plain": lambda text, chance: f"first\nnote {text}\nlast\n".encode(),
    "behind a name": lambda text, chance: f"first\nmy_{text} and more\n".encode(),
    "in JSON": lambda text, chance: json.dumps({"a": [1], "b": {"c": text}}, indent=2).encode(),
    "escaped in JSON": lambda text, chance: (
        ('{"a": "' + escaped(json.dumps(text)[1:-1], chance, "\\u{:04x}") + '"}').encode()
        if "\\" not in json.dumps(text)
        else json.dumps({"a": text}).encode()
    ),
    "JSON in JSON": lambda text, chance: json.dumps({"a": json.dumps({"b": f"x\n{text}"})}).encode(),
    "escaped in YAML": lambda text, chance: (
        f'a: "{escaped(text.replace(chr(34), chr(39)), chance, chr(92) + "x{:02x}")}"\n'.encode()
    ),
    "of HTML": lambda text, chance: f"<p>{escaped(text, chance, '&#{};')}</p>\n".encode(),
    "of an address": lambda text, chance: f"https://x.org/?q={escaped(text, chance, '%{:02X}')}\n".encode(),
    "of Markdown": lambda text, chance: (
        f"It is {text.replace('_', chr(92) + '_').replace('-', chr(92) + '-')} here\n".encode()
    ),
    "a comment of a template": lambda text, chance: f"{{# {text} #}}{{{{ messages }}}}".encode(),
    "put together in a template": lambda text, chance: "{{% set x = '{}' ~ \"{}\" %}}".format(
        *halves(text, chance)
    ).encode(),
    "put together in code": lambda text, chance: '"{}" + "{}"'.format(*halves(text.replace('"', "'"), chance)).encode(),
    "over two lines": lambda text, chance: "x\n  {}\n  {}\ny\n".format(*halves(text, chance)).encode(),
    "over two lines of a comment": lambda text, chance: "# {}\n# {}\n".format(*halves(text, chance)).encode(),
    "UTF-16": lambda text, chance: f"first\n{text}\n".encode("utf-16"),
    "UTF-16, the other way round": lambda text, chance: f"first\n{text}\n".encode("utf-16-be"),
    "a list of letters": lambda text, chance: json.dumps({"a": list(text)}, indent=chance.choice((None, 1))).encode(),
    "letters with signs between": lambda text, chance: f"It is {chance.choice('-.|').join(text)} here\n".encode(),
    "bits": lambda text, chance: listed(text, "{:08b}", chance.choice(("", " "))),
    "base64": lambda text, chance: f"x: {base64.b64encode(text.encode()).decode()}\n".encode(),
    "base64 within": lambda text, chance: (
        f"x: {base64.b64encode(b'a: ' + text.encode() + b' and so on').decode()}\n".encode()
    ),
    "base64 for addresses": lambda text, chance: f"x: {base64.urlsafe_b64encode(text.encode()).decode()}\n".encode(),
    "base64 over lines": lambda text, chance: f"x:\n{wrapped(text)}\n".encode(),
    "base64 twice": lambda text, chance: b"x: " + base64.b64encode(base64.b64encode(text.encode())) + b"\n",
    "hexadecimal": lambda text, chance: f"x: {text.encode().hex()}\n".encode(),
    "letters that are not seen": lambda text, chance: "x {}\u200b{}\n".format(*halves(text, chance)).encode(),
    "wide letters": lambda text, chance: (
        "x " + "".join(chr(ord(a) + 0xFEE0) if "!" <= a <= "~" else a for a in text)
    ).encode(),
    "metadata of weights": lambda text, chance: json.dumps({"__metadata__": {"format": "pt", "by": text}}).encode(),
    "a piece of a tokenizer": lambda text, chance: json.dumps(
        {"model": {"vocab": {"a": 0, "\u0120" + text: 1}}}
    ).encode(),
    "a piece of a sentencepiece model": lambda text, chance: (
        b"\x0a\x0e\x0a\x05<unk>\x15" + f"\u2581{text}".encode() + b"\x15\x00\x01"
    ),
    "octal escapes": lambda text, chance: f'x = "{escaped(text.replace(chr(34), chr(39)), chance, OCTAL)}"\n'.encode(),
    "escapes in braces": lambda text, chance: (
        f"x = `{escaped(text.replace(chr(96), chr(39)), chance, f'{chr(92)}u{{{{{{:x}}}}}}')}`\n".encode()
    ),
    "quoted-printable": lambda text, chance: f"a mail\n{quoted(text)}\nits end\n".encode(),
    "hexadecimal, with blanks": lambda text, chance: listed(text, "{:02x}", " "),
    "hexadecimal, with colons": lambda text, chance: listed(text, "{:02X}", ":"),
    "hexadecimal, in code": lambda text, chance: listed(text, "0x{:02x}", ", "),
    "hexadecimal, as a dump": lambda text, chance: f"x\n{dumped(text)}\nend\n".encode(),
    "numbers of letters": lambda text, chance: listed(text, "{}", ", "),
    "spelled": lambda text, chance: f"It is {' '.join(text.replace(' ', ''))}\n".encode(),
    "base32": lambda text, chance: f"x: {base64.b32encode(text.encode()).decode()}\n".encode(),
    "base85": lambda text, chance: b"x: " + base64.b85encode(f"note {text}".encode()) + b"\n",
    "ascii85": lambda text, chance: b"x: " + base64.a85encode(f"note {text}".encode(), adobe=True) + b"\n",
    "percent signs in base64": lambda text, chance: (
        b"x: " + base64.b64encode(f"q={escaped(text, chance, '%{:02X}')}".encode()) + b"\n"
    ),
    "cut by tags": lambda text, chance: cut(text, chance, "<b></b>", '</span><span class="x">'),
    "cut by comments": lambda text, chance: cut(text, chance, "<!-- -->", "{# #}"),
    "cut by emphasis": lambda text, chance: cut(text, chance, "**", "*"),
    "cut by soft hyphens": lambda text, chance: cut(text, chance, "\u00ad", "&shy;"),
    "cut by what is not seen": lambda text, chance: cut(text, chance, "&ZeroWidthSpace;", "\ufe0f\u2060"),
}
