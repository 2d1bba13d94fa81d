"""Unknown names: what was meant by them, or what to do instead."""

from __future__ import annotations

from typing import NamedTuple

from hf_finetune.config.reading.deprecated import REFUSED, RENAMED
from hf_finetune.config.sections import RecipeName
from hf_finetune.config.validation.foreign_keys import SECTIONS, foreign_rows
from hf_finetune.errors import find_closest


class KnownKeys(NamedTuple):
    """The keys of a run file of `recipe`: each section ("" is the top level) with its keys."""

    recipe: RecipeName
    sections: dict[str, set[str]]

    def contains(self, key: str) -> bool:
        """Whether `section.key` is a setting."""
        section, _, name = key.rpartition(".")
        return name in self.sections.get(section, set())


def find_remedy(name: str, section: str, known: KnownKeys) -> str | None:
    """What to do about the unknown `section.name`: the key that was meant, or what another tool's key becomes here.

    A likeness stays in the section that was written; only what stands in none is looked for in all of them.
    """
    # ("lr", "train") -> "did you mean train.learning_rate?", ("max_steps", "") -> "did you mean train.max_steps?"
    folded = name.lower().replace("-", "_")
    meant = _find_foreign(folded, section, known) or _find_elsewhere(folded, section, known)
    meant = meant or _find_likeness(name, section, known)
    return f"did you mean {meant}?" if meant is not None and known.contains(meant) else meant


def is_foreign(key: str, known: KnownKeys) -> bool:
    """Whether another tool has `section.key`, as one of the rows that name their section."""
    return key in foreign_rows(known.recipe)


def find_section(name: str, known: KnownKeys) -> str | None:
    """The section of ours whose settings stand in the unknown section `name`, or None."""
    # {"training": {...}} and {"trian": {...}} -> "train"
    folded = name.lower().replace("-", "_")
    meant = SECTIONS.get(folded) or find_closest(name, known.sections[""])
    return meant if meant in known.sections else None


def _find_foreign(name: str, section: str, known: KnownKeys) -> str | None:
    rows = foreign_rows(known.recipe)
    meant = rows.get(f"{section}.{name}", rows.get(name)) or (SECTIONS.get(name) if not section else None)
    return None if meant == _join_key(section, name) else meant


def _find_elsewhere(name: str, section: str, known: KnownKeys) -> str | None:
    """Find the same name in another section, those of the stack first: `seed` is train.seed rather than eval.seed."""
    for other in ("train", "lora", *known.sections):
        if other != section and name in known.sections.get(other, set()):
            return _join_key(other, name)
    for key in (f"train.{name}", f"model.{name}"):
        if section == "" and (key in RENAMED or key in REFUSED):
            return RENAMED[key].new if key in RENAMED else REFUSED[key]
    return None


def _find_likeness(name: str, section: str, known: KnownKeys) -> str | None:
    if close := find_closest(name, known.sections.get(section, set())):
        return _join_key(section, close)
    for other, names in known.sections.items() if section == "" else ():
        if close := find_closest(name, names, cutoff=0.8):
            return _join_key(other, close)
    rows = foreign_rows(known.recipe)
    # Stricter than in a section: by chance, some of the hundreds of names that others use resemble any word.
    close = find_closest(name, rows, cutoff=0.85)
    meant = rows[close] if close else None
    return meant if meant is not None and (section == "" or meant.startswith(f"{section}.")) else None


def _join_key(section: str, name: str) -> str:
    return f"{section}.{name}" if section else name
