"""What may leave the machine: secrets, the home folder and private paths are taken out of every text, here alone."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path, PurePath, PureWindowsPath
from typing import Any

from hf_finetune.shell import shell_line, shell_words

# Access tokens and keys, by the shape that their issuers publish; all are case-sensitive, and none is a part of a word.
SECRETS = {
    "a Hugging Face token": r"(?:hf|api_org)_[A-Za-z0-9]{20,}",
    "an AWS key": r"(?:AKIA|ASIA|ABIA|ACCA)[0-9A-Z]{16}\b",
    "a GitHub token": r"(?:gh[pousr]_[A-Za-z0-9]{20,}|github_pat_[A-Za-z0-9_]{20,})",
    "a GitLab token": r"(?:gl(?:pat|dt|ft|soat|rt|ptt|oas|cbt|agent|imt)-|GR1348941)[A-Za-z0-9_-]{20,}",
    "a Slack token": r"(?:xox[abeoprs]-|xapp-[0-9]-)[A-Za-z0-9-]{10,}",
    "a Google key": r"(?:AIza[0-9A-Za-z_-]{35}|GOCSPX-[0-9A-Za-z_-]{28}|ya29\.[0-9A-Za-z_-]{20,})",
    "a Stripe key": r"(?:[rs]k_live_[0-9A-Za-z]{16,}|whsec_[0-9A-Za-z]{32,})",
    "an API key (sk-)": r"sk-[\w-]{20,}",
    "a PyPI token": r"pypi-AgE[0-9A-Za-z_-]{30,}",
    "a private key": (
        r"-----? ?BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY(?: BLOCK)? ?-----?|PuTTY-User-Key-File-[0-9]"
        r"|AGE-SECRET-KEY-1[0-9A-Z]{50,}"
    ),
    "a signed web token": r"eyJ[A-Za-z0-9_-]{8,}\.eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}",
    "a key of a service": (
        r"(?:npm_[A-Za-z0-9]{36}|r8_[A-Za-z0-9]{37}|gsk_[A-Za-z0-9]{40,}|dapi[0-9a-f]{32}|do[opr]_v1_[0-9a-f]{64}"
        r"|shp(?:at|ca|pa|ss)_[0-9a-fA-F]{32}|dp\.pt\.[A-Za-z0-9]{40,}|lin_api_[A-Za-z0-9]{40}|ntn_[A-Za-z0-9]{40,}"
        r"|pplx-[A-Za-z0-9]{48}|xai-[A-Za-z0-9]{60,}|dckr_pat_[\w-]{20,}|hvs\.[\w-]{24,}|PMAK-[0-9a-f]{24}-[0-9a-f]{34}"
        r"|ATATT3[\w=-]{60,}|AKCp[0-9A-Za-z]{60,}|wandb_v1_[\w-]{40,}|nvapi-[\w-]{60,}|fw_[A-Za-z0-9]{24}\b"
        r"|tgp_v1_[\w-]{40,}|lsv2_(?:pt|sk)_[0-9a-f]{32}_[0-9a-f]{10}|sntry[su]_[\w=+/-]{60,}|SG\.[\w-]{22}\.[\w-]{43})"
    ),
}
_OF_AN_API_KEY = re.compile(
    rb"(?=[^0-9]*[0-9])[^A-Z]*[A-Z]|sk-ant-[a-z]+[0-9]+-|sk-(?:proj|svcacct|admin|or)-[^0-9]*[0-9]"
)


def is_secret(found: bytes) -> bool:
    """Whether what has the shape of a secret is one: `sk-learn-pipeline-of-many-words` is none."""
    return not found.startswith(b"sk-") or _OF_AN_API_KEY.match(found) is not None


@cache
def _compile_secrets() -> tuple[Any, dict[str, Any]]:
    """The shape of any secret, behind what stands before it, and that of each kind, by RE2 over bytes."""
    # In time that grows with the text alone: messages and pushed files hold what others wrote. With the first message,
    # not with every command: 15 ms.
    import re2

    options = re2.Options()
    options.encoding = re2.Options.Encoding.LATIN1
    any_kind = re2.compile(rf"(^|[^A-Za-z0-9])({'|'.join(SECRETS.values())})".encode(), options)
    return any_kind, {kind: re2.compile(f"(?:{shape})".encode(), options) for kind, shape in SECRETS.items()}


def hide_secrets(text: str) -> str:
    """`text` with `(a secret)` for each secret of `SECRETS`."""
    any_kind, _ = _compile_secrets()
    shown = any_kind.sub(
        lambda found: found[1] + (b"(a secret)" if is_secret(found[2]) else found[2]), encode_whole(text)
    )
    return bytes(shown).decode("utf-8", "surrogatepass")


def find_secret_kind(text: str) -> str | None:
    """Return which kind of secret of `SECRETS` is in `text`, or None."""
    any_kind, kinds = _compile_secrets()
    for found in any_kind.finditer(encode_whole(text)):
        if is_secret(found[2]):
            return next(kind for kind, shape in kinds.items() if shape.fullmatch(found[2]))
    return None


def encode_whole(text: str) -> bytes:
    """`text` in UTF-8, halves of pairs of surrogates, too."""
    return text.encode("utf-8", "surrogatepass")


# What a terminal obeys, but the tab and the line feed: C0, DEL and C1, signs that turn the direction of writing, and
# halves of pairs of surrogates, which no stream can write.
MOST_SHOWN = 4_000
"""Characters of one thing that others have written, in a message: a name, a prompt, a command line."""
_OBEYED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def escape_for_terminal(text: str) -> str:
    """`text` as a terminal or a log may show it: what one obeys becomes `\\x1b`; tabs and line feeds stay."""
    return _OBEYED.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)


OF_LINES = {"of_lines": True}
"""`extra=OF_LINES`: what is logged has lines on purpose, and whoever made it has escaped what is in them."""


def escape_json(document: str) -> str:
    """A JSON document that says the same, in which nothing is left that a terminal obeys."""
    return _OBEYED.sub(lambda found: f"\\u{ord(found[0]):04x}", document)


JOINERS = "\u200c\u200d"


def escape_control_characters(text: str) -> str:
    """Make `text` one line that is safe to print: of what is not printable line feeds become escapes, too.

    The joiner and the non-joiner stay: by them a family of emoji is one picture, and Persian words are spelled.
    """
    # A name in a data file could otherwise clear the screen, or set the title of the terminal.
    kept = (letter.isprintable() or letter in JOINERS for letter in text)
    return "".join(
        letter if plain else letter.encode("unicode_escape").decode("ascii")
        for letter, plain in zip(text, kept, strict=True)
    )


def shorten(text: str, most: int = MOST_SHOWN) -> str:
    """`text` as a message shows it: of a longer one the beginning and the end, which says what to do."""
    return text if len(text) <= most else f"{text[: most * 3 // 4]} … {text[-most // 4 :]}"


def list_homes() -> list[str]:
    """The names of the home folder and of the working folder, by whichever links: no path that is pushed has one."""
    named = (str(Path.home()), os.environ.get("PWD", ""), os.getcwd())
    names = {each for name in named if name for each in (os.path.normpath(name), os.path.realpath(name))}
    return sorted(name for name in names if len(Path(name).parts) > 1)


def hide_home(value: Any) -> Any:
    """Write the home folder as `~` in each path of `value`, which is JSON-like; it is opened again from there."""
    if isinstance(value, Mapping):
        return {key: hide_home(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [hide_home(item) for item in value]
    if not isinstance(value, str):
        return value
    # By its own name or by that which its links lead to: /home/ann and /data/ann may be one.
    names = dict.fromkeys((str(Path.home()), os.path.realpath(Path.home())))
    home = next((name for name in names if value.startswith(name) and value[len(name) :][:1] in ("", *"/\\")), None)
    if home is None:
        return value
    # C:\Users\ann\x -> ~/x, which is a path on every system.
    rest = value[len(home) :]
    return "~" + (rest.replace("\\", "/") if isinstance(Path.home(), PureWindowsPath) else rest)


def make_portable(name: str) -> str:
    """Return `name` relative to the working folder if it is inside, else with the home folder written as `~`.

    For what is opened again from where it is written, such as the base of an adapter; what only tells others where
    something was is redacted.
    """
    # In /home/ann/work: /home/ann/work/out -> out, /home/ann/models/x -> ~/models/x, org/name -> org/name.
    path = Path(name)
    inside = path.is_absolute() and path.is_relative_to(Path.cwd())
    return path.relative_to(Path.cwd()).as_posix() if inside else str(hide_home(name))


def leave_out_row_prompts(report: Any) -> Any:
    """Return what report.json holds without samples whose prompt `eval.prompts` does not name: it is a row's."""
    if not isinstance(report, Mapping) or not isinstance(report.get("samples"), list):
        return report
    settings = report.get("settings")
    evaluation = settings.get("eval") if isinstance(settings, Mapping) else None
    typed = evaluation.get("prompts") if isinstance(evaluation, Mapping) else None
    asked = [each.get("prompt") if isinstance(each, Mapping) else None for each in report["samples"]]
    named = typed if isinstance(typed, list) else []
    pairs = zip(report["samples"], asked, strict=True)
    kept = [each for each, prompt in pairs if prompt is None or prompt in named]
    return {**report, "samples": kept}


# Keys whose values are texts for people and names of labels ("/people/person/born"), which are shown as they are.
TEXTS = {
    *("prompt", "prompts", "continuation", "text", "label", "labels", "predicted"),
    *("intended_use", "limits", "personal_data"),
}
# The key of a command line, which is redacted word by word.
COMMAND = "launch"


def redact(value: Any) -> Any:
    """Return `value` as others may see it: of each path outside the working folder the last part alone, no secrets.

    The one rule for everything that leaves a run: manifest, report.json, report.html, the model card, trackers' logs
    and what is pushed. A path inside the working folder is written relative to it. `value` is JSON-like; keys, and the
    values of those in `TEXTS`, stay. Redacting twice changes nothing more.
    """
    if isinstance(value, Mapping):
        return {key: _redact_item(key, item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [redact(item) for item in value]
    if isinstance(value, PurePath):
        return redact(str(value))
    if not isinstance(value, str):
        return value
    # What is left of ":/C:/\\" is a path again; this ends, since what is left is shorter each time.
    while (left := redact_text(value)) != value:
        value = left
    return hide_secrets(value)


def _redact_item(key: Any, item: Any) -> Any:
    if key == COMMAND and isinstance(item, str):
        return redact_command(item)
    return item if key in TEXTS else redact(item)


def redact_command(line: str) -> str | None:
    """Redact a command word by word, so that a quoted path with blanks is one path; None if it is not ours."""
    words = shell_words(line)
    return None if words is None else shell_line(redact(words))


# What an absolute path begins with on any system, and one that leaves the folder it is in.
_START = (
    r"(?:/+(?=[^\s/])|\.\.[\\/]|~(?:[A-Za-z_][\w.-]*)?[\\/]|file:(?:[\\/]+(?:[A-Za-z]:[\\/])?|[A-Za-z]:[\\/])"
    r"|\\(?:\\|(?=[^\\/\s]+\\))|[A-Za-z]:(?:[\\/]|(?=[^\s\\/:]+\\)))"
)
_PATH = re.compile(rf"/|{_START}", re.IGNORECASE)
_OUTSIDE = re.compile(r"[/\\~]|[A-Za-z]:|(?:.*[\\/])?\.\.(?:[\\/]|\Z)", re.DOTALL)
# A home folder of any system, slashes forward: its last part is the name of a user.
_HOME = re.compile(
    r"/*(?:[?.]/)?(?:[a-z]:/?|(?:mnt/[a-z]|export|var)/)?(?:users|home|documents and settings)/[^/]+", re.IGNORECASE
)
# Before a path: key= (also twice), the -o of an option, the scheme of sqlite:///x.
_LEAD = re.compile(
    r"(?:-{0,2}[A-Za-z_][\w.\[\]-]*=|-[A-Za-z](?=[/\\~])|[A-Za-z][\w+.-]+:(?=/(?!/)|///))*", re.IGNORECASE
)
# In a sentence a slash after any of these is one of a relative path, an address, a ratio or a tag.
_BEHIND = r"(?<![\w/\\.~<%)\]}$*?-])(?<!:(?=//[^/]))"
_QUOTED = re.compile(rf"(['\"`])({_START}[^'\"`\n]*)\1", re.IGNORECASE)
_NEXT = rf"(?!{_BEHIND}{_START})"
# A path in a sentence may hold blanks: all up to the last slash before the next path, or on its line, is taken for it.
_WITHIN = re.compile(
    rf"{_BEHIND}(?:{_START}|(?:[\w.-]+[\\/])+\.\.[\\/])"
    rf"(?:(?:{_NEXT}.)*{_NEXT}[\\/])?(?:{_NEXT}[^\s'\"`,;|<>()\[\]{{}}\\/])*",
    re.IGNORECASE,
)
MAX_YAML_BYTES = 256 * 1024
MAX_YAML_DEPTH = 16
_BRACKET = re.compile(r"[\[\]{}]")
# A longer list is read as a sentence: PyYAML reads some 100,000 characters a second.
_LONGEST_LIST = 20_000


def redact_text(text: str) -> str:
    """Redact one text: a path, a setting (`key=path`), a list in YAML, or a sentence with paths in it."""
    if not any(sign in text for sign in "/\\~"):
        return text
    if _PATH.match(text):
        return redact_path(text)
    lead = _LEAD.match(text)
    if lead is not None and lead[0]:
        is_text = lead[0].partition("=")[0].rpartition(".")[2] in TEXTS
        return text if is_text else lead[0] + redact_text(text[lead.end() :])
    if text.startswith(("[", "{")) and len(text) <= _LONGEST_LIST and (listed := redact_yaml(text)) is not None:
        return listed.rstrip("\n")
    text = _QUOTED.sub(lambda found: found[1] + redact_path(found[2]) + found[1], text)
    return _WITHIN.sub(lambda found: redact_path(found[0]), text)


def redact_path(path: str) -> str:
    """Return `path` relative to the working folder if it is inside, else its last part."""
    # ../../clients/acme/x -> x, C:\Users\ann\x -> x, file:///C:/x -> x, ../.. -> ../..; ~, /home/ann, C:\Users\ann -> ~
    plain = re.sub(r"^file:(?://[^/\\]*(?=/))?", "", path, flags=re.IGNORECASE)
    if re.match(r"~[/\\]", plain):
        plain = f"{Path.home()}{plain[1:]}"
    here = os.path.relpath(plain) if plain.startswith("/") else os.path.normpath(plain)
    if not _OUTSIDE.match(here):
        return here
    whole = os.path.normpath(plain.replace("\\", "/"))
    names = [part for part in whole.split("/") if part not in ("", ".", "..")]
    if whole == str(Path.home()) or _HOME.fullmatch(whole) or (names and names[-1].startswith("~")):
        return "~"
    return names[-1] if names else path


def has_open_brackets(text: str) -> bool:
    """Whether so many brackets are open at once, quoted or not, that PyYAML would take seconds to say so."""
    # Its time grows with the square of the depth (6.0): 2,000 of them take three seconds.
    depth = 0
    for found in _BRACKET.finditer(text):
        depth = depth + 1 if found[0] in "[{" else max(0, depth - 1)
        if depth > 8 * MAX_YAML_DEPTH:
            return True
    return False


def redact_yaml(text: str) -> str | None:
    """Redact a YAML document, whose types and styles stay, and comments if nothing is changed; None if torn or long."""
    import yaml  # here, for `hf-finetune --help` must not wait for it

    if len(text) > MAX_YAML_BYTES or has_open_brackets(text):
        return None
    try:
        root = yaml.compose(text, Loader=yaml.BaseLoader)
        if root is None or not _redact_scalars(root, set()):
            return text
    except (yaml.YAMLError, RecursionError):
        return None
    return str(yaml.serialize(root, Dumper=yaml.BaseDumper, allow_unicode=True, width=math.inf))


def _redact_scalars(node: Any, seen: set[int]) -> bool:
    """Redact the texts under a `yaml.Node` in place; whether that changed any. An alias is the same node again."""
    if id(node) in seen:
        return False
    seen.add(id(node))
    if node.id == "scalar":
        before, node.value = node.value, redact(node.value)
        return bool(before != node.value)
    items = node.value
    if node.id == "mapping":
        items = [part for pair in node.value if str(pair[0].value) not in TEXTS for part in pair]
    changed = [_redact_scalars(item, seen) for item in items]
    return any(changed)
