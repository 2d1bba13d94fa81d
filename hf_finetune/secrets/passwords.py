"""Passwords and keys too short to show that they were drawn by chance: what is assigned to a name that says it is one.

The patterns are matched by RE2, those of assignments over bytes. What stands for a value (`<password>`, `${PASSWORD}`,
`changeme`), is computed (`os.environ[...]`, `config.token`) or names a place is none; nor is a word, or a number.
"""

from __future__ import annotations

import itertools

import re2

_PASSWORD = r"(?:passw(?:or)?d|passphrase|passcode|passwort|pwd)"
_KEY = (
    r"(?:(?:api|apps?|access|auth|secret|private|client|account|consumer|master|encryption|signing)[_. -]?key|secret"
    r"|token|credentials?|(?:^|[^a-z])pass)"
)
# password: x, "password": "x", config["password"] = "x", password: str = "x", **Password:** x, --password x
_SAYS = r"[ \t](?:is|was|ist|war|es|est)(?:[ \t]*:)?[ \t]{1,4}"
_SIGN = r"""["'`]?\]?\*{0,2}[ \t]{0,4}(?:=>|:=|={1,2}|:(?:[ \t]{0,2}[a-z]{3,12}[ \t]{0,2}=)?)\*{0,2}[ \t]{0,4}"""
_VALUE = r"""[bru]{0,2}("[^"\n]{7,80}"|'[^'\n]{7,80}'|`[^`\n]{7,80}`|[^\s"'`]{7,80})"""
_SHORTEST, _SHORTEST_KEY = 7, 8


def _assigned(name: str, sign: str = _SIGN) -> str:
    return rf"(?i)(?:{name}(?:[_-]?\d{{1,2}})?(?:{sign})|--[a-z-]{{0,20}}{name}[ \t=]{{1,4}}){_VALUE}"


# Of a password it is said in sentences, too: "my password is x".
ASSIGNED_PASSWORD, ASSIGNED_KEY = _assigned(_PASSWORD, f"{_SIGN}|{_SAYS}"), _assigned(_KEY)
# ?token=x, &api_key=x: of an address that whoever has it may use.
KEY_OF_ADDRESS = (
    r"(?i)[?&;](?:[a-z0-9]{1,20}[_.-]){0,3}(?:api[_-]?key|key|token|secret|auth|code|credential|passw(?:or)?d|pwd|pass|sig"
    r"(?:nature)?)=([^\s&#;\"'`<>()\[\]{}|\\,]{8,200})"
)

# Where a value without quotation marks ends before its blank: {a: x}, f(a=x, b=y), ?a=x&b=y, x\n of JSON.
_END = re2.compile(r"[,;|)}\]<\\]|&\w+=|&#?\w+;")
_STANDS_FOR = re2.compile(
    r"[<$%{(\[@!|].*[>})\]%|]|\$\w+|%\w+%|(?:env|ssm|vault|file|secret)[:./].*|.*(?:\$\{|\{\{|://).*"
)
_PLACE = re2.compile(r"(?:[A-Za-z]:)?[/\\]|[~.]{1,2}[/\\]")
_NAMED_FILE = re2.compile(r"[\w.-]+(?:/[\w.-]+)+")
_COMPUTED = re2.compile(r".*[(\[{].*|[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)+|[a-z0-9]+(?:_[a-z0-9]+)+|[A-Za-z_]\w*[=:].*")
_NAMES = re2.compile(r"[A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+|[\w.+-]+@[\w-]+(?:\.[A-Za-z]\w*)+")
_PLACEHOLDERS = re2.compile(
    r"(?i)your|my|the|example|change[_-]?(?:me|it)?|this|that|here|place|holder|redacted|hidden|dummy|fake|sample|default|demo|test"
    r"|insert|replace|enter|with|todo|none|null|true|false|undefined|empty|not|needed|required|optional|string|value"
    r"|passw(?:or)?d|pass|phrase|secret|token|api|access|auth|client|key|user|name|min|max|length|char(?:acter)?s?"
    r"|at|least|long|sha-?\d+|md5|base-?\d+|utf-?\d+|argon2\w*|pbkdf2|bcrypt|hash(?:ed)?|encod(?:ed|ing)|encrypted|x{2,}|abc(?:def)?|1234\d*|0{3,}|[^A-Za-z0-9]"
)
_SYMBOLS = frozenset("!@#$%^&*?~+")
_LEAST_LEFT = 4
_LEAST_TURNS = 3
_LONG_KEY = 16


def is_password(value: bytes) -> bool:
    """Whether what is assigned to a password is one: letters with digits, or with signs among them."""
    text = _read_value(value)
    if _is_none(text):
        return False
    if _NAMED_FILE.fullmatch(text) and _count_turns(text) < _LEAST_TURNS:
        return False
    inside = text.strip("!?*.")
    return any(map(str.isdigit, text)) or not _SYMBOLS.isdisjoint(inside)


def is_short_key(value: bytes) -> bool:
    """Whether what is assigned to a key or token is one: letters and digits in turn, or with signs among them."""
    text = _read_value(value)
    if len(text) < _SHORTEST_KEY or _is_none(text):
        return False
    is_mixed = any(map(str.isdigit, text)) and not _SYMBOLS.isdisjoint(text)
    return is_mixed or _count_turns(text) >= _LEAST_TURNS


def is_key_of_address(value: bytes) -> bool:
    """Whether what stands behind `?token=` is one: letters and digits in turn, or many of both."""
    text = value.decode("utf-8", "replace").rstrip(".,:!?*")
    if len(text) < _SHORTEST_KEY or _is_none(text) or not any(map(str.isdigit, text)):
        return False
    return _count_turns(text) >= _LEAST_TURNS or len(text) >= _LONG_KEY


def _count_turns(text: str) -> int:
    """Count where letters and digits of `text` stand side by side."""
    pairs = itertools.pairwise(map(_kind, text))
    return sum(one != other and "d" in (one, other) for one, other in pairs if one and other)


def _read_value(value: bytes) -> str:
    """The value that is assigned, without its quotation marks or what comes behind it; empty where it is none."""
    text = value.decode("utf-8", "replace")
    if text[0] in "\"'`":
        text = text[1:-1]
        return "" if any(map(str.isspace, text)) else text
    if _STANDS_FOR.match(text):
        return ""
    text = _END.split(text, maxsplit=1)[0].rstrip(".,;:*")
    return "" if _COMPUTED.fullmatch(text) else text


def _is_none(text: str) -> bool:
    """Whether `text` is no secret, whatever its name: too short, a word, a number, a place, or what stands for one."""
    if len(text) < _SHORTEST or not any(map(str.isalpha, text)):
        return True
    if any(shape.fullmatch(text) for shape in (_STANDS_FOR, _NAMES)) or _PLACE.match(text):
        return True
    kinds = {_kind(letter) for letter in text}
    if kinds >= {"d", "u", "l", "s"}:
        return False
    return len(_PLACEHOLDERS.sub("", text)) < _LEAST_LEFT


def _kind(letter: str) -> str:
    if letter in _SYMBOLS:
        return "s"
    return "d" if letter.isdigit() else "u" if letter.isupper() else "l" if letter.islower() else ""
