"""What may leave the machine: secrets, the home folder and private paths are taken out of every text, here alone."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hf_finetune.shell import shell_line, shell_words

# Access tokens and keys, by the shape that their issuer gives them; all are case-sensitive. Most shapes are also in
# https://github.com/Yelp/detect-secrets/tree/master/detect_secrets/plugins
SECRETS = {
    "a Hugging Face token": r"\b(?:hf|api_org)_[A-Za-z0-9]{20,}",
    "an AWS key": r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b",
    "a GitHub token": r"\b(?:gh[pousr]_[A-Za-z0-9]{20,}|github_pat_[A-Za-z0-9_]{20,})",
    "a GitLab token": r"\bglpat-[A-Za-z0-9_-]{20,}",
    "a Slack token": r"\bxox[abeoprs]-[A-Za-z0-9-]{10,}",
    "a Google key": r"\bAIza[0-9A-Za-z_-]{35}",
    "a Stripe key": r"\b[rs]k_live_[0-9A-Za-z]{16,}",
    # With a digit and a capital, so that "sk-learn-pipeline-of-many-words" is none.
    "an API key (sk-)": r"\bsk-(?=[\w-]*[0-9])(?=[\w-]*[A-Z])[\w-]{20,}",
    "a PyPI token": r"\bpypi-AgE[0-9A-Za-z_-]{30,}",
    "a private key": r"-----BEGIN (?:[A-Z]+ )*PRIVATE KEY-----",
    "a signed web token": r"\beyJ[A-Za-z0-9_-]{8,}\.eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}",
}
SECRET = re.compile("|".join(f"(?:{shape})" for shape in SECRETS.values()), re.ASCII)


def find_secret_kind(text: str) -> str | None:
    """Return which kind of secret of `SECRETS` is in `text`, or None."""
    found = SECRET.search(text)
    if found is None:
        return None
    return next(kind for kind, shape in SECRETS.items() if re.search(shape, found[0], re.ASCII))


def escape_control_characters(text: str) -> str:
    """Make `text` safe to print: control and ANSI escape characters become `\\x1b`-style escapes."""
    # A name in a data file could otherwise clear the screen, or set the title of the terminal.
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode("ascii")
        for character in text
    )


def make_portable(name: str) -> str:
    """Return `name` relative to the working folder if it is inside, else with the home folder written as `~`."""
    # In /home/ann/work: /home/ann/work/out -> out, /home/ann/models/x -> ~/models/x, org/name -> org/name.
    path = Path(name)
    for start, sign in ((Path.cwd(), ""), (Path.home(), "~")):
        if path.is_absolute() and path.is_relative_to(start):
            return str(Path(sign) / path.relative_to(start))
    return name


def shown_path(path: str) -> str:
    """`path` as a reader elsewhere may see it: relative as it was typed, of any other the last part alone."""
    parts = re.split(r"[\\/]", path.rstrip("\\/"))
    outside = path.startswith(("/", "~", "\\")) or ".." in parts or re.match(r"[A-Za-z]:", path)
    return parts[-1] if outside else path


# A name with blanks in it is a path where it begins like one; other text with blanks is left as it is.
_ABSOLUTE = re.compile(r"(~?/|\\\\|[A-Za-z]:[\\/])[^\n]*\Z")


def without_places(value: Any) -> Any:
    """`value` with paths shortened that would say where on a machine they are: in text, and in lists of it."""
    if isinstance(value, list):
        return [without_places(item) for item in value]
    if isinstance(value, Mapping):
        return {key: without_places(item) for key, item in value.items()}
    if not isinstance(value, str):
        return value
    return shown_path(value) if _ABSOLUTE.match(value) or not any(map(str.isspace, value)) else value


def command_without_places(line: str) -> str | None:
    """A command line with the paths in it shortened likewise, those of `key=path` too; None where it is not ours."""
    given = shell_words(line)
    if given is None:
        return None
    pairs = (word.rpartition("=") for word in given)
    return shell_line(f"{key}{equals}{without_places(value)}" for key, equals, value in pairs)


def _without_home(value: Any) -> Any:
    """A user's name is no part of what is published."""
    if isinstance(value, dict):
        return {key: _without_home(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_home(item) for item in value]
    return value.replace(f"{Path.home()}/", "~/") if isinstance(value, str) else value
