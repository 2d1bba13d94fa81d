"""Files of a model's folder that can be read to an end: regular ones, and none of a size that no model has."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hf_finetune.errors import Problem
from hf_finetune.files import is_of_kernel

MEBIBYTE = 1024**2
# Gemma's tokenizer.json has 32 MiB, the index of DeepSeek's 91,991 weights 9.
LARGEST = 16 * MEBIBYTE
LARGEST_INDEX = 64 * MEBIBYTE
LARGEST_VOCABULARY = 256 * MEBIBYTE
INDEX = "model.safetensors.index.json"
# As the tokenizers of transformers (5.23) name theirs.
VOCABULARIES = (
    *("tokenizer.json", "vocab", "merges", "added_tokens", "tokenizer.model", "spiece", "sentencepiece", "tekken"),
    *("bpe.codes", "byte_maps", "dict.txt", "emoji", "entity_vocab", "normalizer", "prophetnet.tokenizer", "spm"),
    *("source.spm", "target.spm", "target_vocab", "word_pronunciation", "word_shape"),
)
OTHERS = (
    *("config.", "generation_config", "adapter_config", "base_model", "tokenizer_config", "special_tokens_map"),
    *("chat_template", "decision", INDEX),
)
WEIGHTS = ".safetensors"
MORE_TEMPLATES = "additional_chat_templates"
MOST_TEMPLATES = 100
TEXTS = (".json", ".jinja", ".txt", ".model", ".yaml")

_KINDS = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFDIR: "a folder",
}
_NEVER = (stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFCHR, stat.S_IFBLK)
"""What no file of a model is: opening it may wait for ever. A folder may have a name such as theirs."""
_PLAIN = "only regular files are read: copy the model's folder again"


def find_irregular(folder: Path, shown: str) -> list[Problem]:
    """Find the files of a model that are none, that lead in a circle, or that are larger than any of their kind.

    Beside those of the folder itself only its templates are opened by a library, each by its name.
    """
    inside = folder / MORE_TEMPLATES
    templates = sorted(inside.iterdir()) if inside.is_dir() else []
    if len(templates) > MOST_TEMPLATES:
        what = f"has {len(templates):,} templates, and a model has at most {MOST_TEMPLATES}"
        return [Problem(what, "copy the model's folder again", f"{shown}/{MORE_TEMPLATES}", code="HF502")]
    paths = [*sorted(folder.iterdir()), *templates]
    return [problem for path in paths for problem in look_at_file(path, f"{shown}/{path.relative_to(folder)}")]


def look_at_file(path: Path, shown: str, *, opened: bool = False) -> Iterator[Problem]:
    """Yield what is wrong with a path that a library may open; `shown` is its name in the message.

    One of another name than a model's files have is `opened` where a setting of the model names it.
    """
    named = opened or path.name.startswith((*VOCABULARIES, *OTHERS)) or path.name.endswith(".jinja")
    read = opened or path.name.endswith((*TEXTS, WEIGHTS))
    if not (named or read):
        return
    try:
        status = path.stat()
    except FileNotFoundError:
        if read:
            yield Problem("is a link that leads to nothing", _PLAIN, shown, code="HF002")
        return
    except OSError as problem:  # ELOOP: two links, each to the other
        yield Problem(f"cannot be opened ({problem.strerror})", _PLAIN, shown, code="HF002")
        return
    kind = stat.S_IFMT(status.st_mode)
    if is_of_kernel(path):
        yield Problem("is no file but a window into the system", _PLAIN, shown, code="HF002")
    elif kind in _NEVER or (read and kind != stat.S_IFREG):
        yield Problem(f"is {_KINDS.get(kind, 'no file')}", _PLAIN, shown, code="HF002")
    elif named and kind == stat.S_IFREG and status.st_size > (most := get_largest(path.name)):
        what = f"has {status.st_size:,} bytes, and such a file of a model has at most {most:,}"
        yield Problem(what, "copy the model's folder again", shown, code="HF502")
    elif not os.access(path, os.R_OK):
        yield Problem("cannot be read (Permission denied)", "check its permissions", shown, code="HF002")


def get_largest(name: str) -> int:
    """The most bytes that a file of this name may have."""
    if name == INDEX:
        return LARGEST_INDEX
    return LARGEST_VOCABULARY if name.startswith(VOCABULARIES) and not name.endswith(".jinja") else LARGEST


def read_object(file: Path) -> dict[str, Any] | None:
    """Read the object in a JSON file; None where there is no such file, or it holds none, of which loading tells more.

    A pipe is never waited for, and no more is read than a file of the name may have.
    """
    try:
        if not file.is_file() or is_of_kernel(file) or file.stat().st_size > get_largest(file.name):
            return None
        values = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):  # RecursionError: brackets nested 100,000 deep
        return None
    return values if isinstance(values, dict) else None
