"""A model's folder -> one description: what its JSON files say, the shapes of its weights, and all that is wrong."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Raw

from hf_finetune.config.model_files.amounts import find_too_much
from hf_finetune.config.model_files.patterns import find_wrong_patterns
from hf_finetune.config.model_files.ranges import OF_NUMBERS
from hf_finetune.config.model_files.regular import MORE_TEMPLATES, find_irregular, read_object
from hf_finetune.config.model_files.sizes import (
    Shapes,
    Stored,
    find_false_quantization,
    find_impossible_sizes,
    find_small_weights,
    find_too_many_labels,
    find_whole_numbers,
    iterate_sections,
    read_weights,
)
from hf_finetune.config.model_files.tokenizer import TOKENIZER, find_faults_of_tokenizer
from hf_finetune.config.model_files.values import (
    CORRECT,
    OF_BASE,
    OF_CLASSIFIER,
    OF_CONFIG,
    OF_GENERATION,
    OF_TOKENIZER,
    find_wrong_types,
    find_wrong_values,
    list_adapter_types,
)
from hf_finetune.config.reading.document import format_value
from hf_finetune.errors import Problem

ADAPTER, CONFIG, BASE_RECORD = "adapter_config.json", "config.json", "base_model.json"
GENERATION, TOKENIZER_CONFIG = "generation_config.json", "tokenizer_config.json"
SPECIAL_TOKENS = "special_tokens_map.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
ELSEWHERE = {CONFIG: ("configuration_files", CONFIG), TOKENIZER_CONFIG: ("fast_tokenizer_files", TOKENIZER)}
"""Keys by which transformers (5.23) reads another file than the one that is looked at here: tokenizer.4.0.0.json."""
CHAT_TEMPLATE = "chat_template.jinja"
JSON_FILES = (CONFIG, ADAPTER, BASE_RECORD, TOKENIZER, TOKENIZER_CONFIG, GENERATION, SPECIAL_TOKENS)


@dataclass(frozen=True)
class ModelFiles:
    """What the files of a folder say, read once and only where they can be: {} for what is not there or is damaged."""

    folder: Path

    @cached_property
    def config(self) -> Mapping[str, Any]:
        return self._read(CONFIG)

    @cached_property
    def adapter(self) -> Mapping[str, Any]:
        return self._read(ADAPTER)

    @cached_property
    def base(self) -> Mapping[str, Any]:
        return self._read(BASE_RECORD)

    @cached_property
    def generation(self) -> Mapping[str, Any]:
        return self._read(GENERATION)

    @cached_property
    def tokenizer(self) -> Mapping[str, Any]:
        return self._read(TOKENIZER_CONFIG)

    @cached_property
    def special_tokens(self) -> Mapping[str, Any]:
        return self._read(SPECIAL_TOKENS)

    @cached_property
    def weights(self) -> Mapping[str, Stored]:
        """The model's weights, by their names in its safetensors."""
        return read_weights(self.folder)

    @cached_property
    def shapes(self) -> Shapes:
        """Of the model's weights."""
        return {name: stored.shape for name, stored in self.weights.items()}

    @cached_property
    def adapter_weights(self) -> Mapping[str, Stored]:
        return read_weights(self.folder, ADAPTER_WEIGHTS)

    @cached_property
    def adapter_shapes(self) -> Shapes:
        """Of the adapter's weights."""
        return {name: stored.shape for name, stored in self.adapter_weights.items()}

    def _read(self, name: str) -> Mapping[str, Any]:
        return read_object(self.folder / name) or {}


def find_faults(folder: Path, shown: str) -> list[Problem]:
    """Find all that is wrong with the files of a model's folder; `shown` is its name in the messages.

    Milliseconds: no weights are read, and a tokenizer.json is checked and not built; its patterns, where they are those
    of no published tokenizer, are tried in seconds. What is found in a first look (a
    pipe, a copy that was cut off) is said alone, since what such a file holds says nothing.
    """
    if not folder.is_dir():
        return []
    looks = (find_irregular, _find_damage, find_small_weights)
    if problems := next(filter(None, ([*look(folder, shown)] for look in looks)), None):
        return problems
    files = ModelFiles(folder)
    return [
        *_check_config(files, shown),
        *find_wrong_values(files.generation, OF_GENERATION, f"{shown}/{GENERATION}"),
        *find_wrong_values(files.tokenizer, OF_TOKENIZER, f"{shown}/{TOKENIZER_CONFIG}"),
        *find_wrong_values(files.special_tokens, OF_TOKENIZER, f"{shown}/{SPECIAL_TOKENS}"),
        *find_faults_of_tokenizer(folder, shown, files.shapes),
        *_check_adapter(files, f"{shown}/{ADAPTER}"),
        *find_whole_numbers(files.adapter_weights, f"{shown}/{ADAPTER_WEIGHTS}"),
        *_check_base(files, f"{shown}/{BASE_RECORD}"),
    ]


def _find_damage(folder: Path, shown: str) -> Iterator[Problem]:
    """Yield the JSON files that hold no object, as a copy that was cut off leaves them."""
    for name in JSON_FILES:
        file = folder / name
        if not file.exists():
            continue
        try:
            # `Raw` is checked and not built: a tokenizer.json has megabytes.
            msgspec.json.decode(file.read_text(encoding="utf-8"), type=dict[str, Raw])
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            what = "is empty" if not file.stat().st_size else "is damaged: it holds no JSON object"
            yield Problem(what, "copy the model's folder again", f"{shown}/{name}", code="HF501")
        else:
            if name == TOKENIZER:
                continue
            if (values := read_object(file)) is None:
                yield Problem(
                    "has a number of thousands of digits, or is nested too deep",
                    CORRECT,
                    f"{shown}/{name}",
                    code="HF502",
                )
                continue
            yield from find_too_much(values, f"{shown}/{name}")
            key, usual = ELSEWHERE.get(name, ("", ""))
            if values.get(key) not in (None, [], [usual]):
                what = "names files that would be read in place of the usual one"
                yield Problem(what, "take it out in a copy of the model", f"{shown}/{name}", key=key, code="HF508")
    for file in (folder / CHAT_TEMPLATE, *folder.glob(f"{MORE_TEMPLATES}/*.jinja")):
        try:
            file.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            place = f"{shown}/{file.relative_to(folder)}"
            yield Problem("is not UTF-8", "save it as UTF-8", place, code="HF003")
        except FileNotFoundError:
            continue


def _check_config(files: ModelFiles, shown: str) -> Iterator[Problem]:
    place = f"{shown}/{CONFIG}"
    wrong = [*find_wrong_values(files.config, OF_CONFIG, place)]
    text = files.config.get("text_config")
    if isinstance(text, dict):
        inside = find_wrong_values(text, OF_CONFIG, place)
        wrong += [
            Problem(each.what, each.remedy, place, key=f"text_config.{each.key}", code=each.code) for each in inside
        ]
    for section, values in iterate_sections(files.config):
        wrong += find_wrong_types(values, OF_NUMBERS, place, section)
    yield from wrong
    yield from find_false_quantization(files.config, files.weights, place)
    named = {each.key for each in wrong}
    for problem in find_impossible_sizes(files.config, files.shapes, place):
        if problem.key not in named:
            yield problem


def _check_adapter(files: ModelFiles, place: str) -> Iterator[Problem]:
    if not (files.folder / ADAPTER).exists():
        return
    yield from find_wrong_values(files.adapter, list_adapter_types(), place)
    for key, what, remedy in find_wrong_patterns(files.adapter):
        yield Problem(what, remedy, place, key=key, code="HF588")
    largest = max((size for shape in files.adapter_shapes.values() for size in shape), default=None)
    ranks = {"r": files.adapter.get("r"), "rank_pattern": files.adapter.get("rank_pattern")}
    for key, given in ranks.items():
        for rank in given.values() if isinstance(given, dict) else [given]:
            if largest is not None and isinstance(rank, int) and rank > largest:
                yield Problem(
                    f"{format_value(rank)} is more than any size of its weights ({largest:,})",
                    CORRECT,
                    place,
                    key=key,
                    code="HF503",
                )


def _check_base(files: ModelFiles, place: str) -> Iterator[Problem]:
    if not (files.folder / BASE_RECORD).exists():
        return
    yield from find_wrong_values(files.base, OF_BASE, place)
    if "name_or_path" not in files.base:
        yield Problem("is missing", CORRECT, place, key="name_or_path", code="HF504")
    for key in files.base.keys() - OF_BASE.keys():
        yield Problem(
            "is no key of such a file",
            "a newer version may have written it: use that one",
            place,
            key=key,
            code="HF504",
        )
    classifier = files.base.get("classifier")
    if isinstance(classifier, dict):
        for problem in find_wrong_values(classifier, OF_CLASSIFIER, place):
            yield Problem(problem.what, problem.remedy, place, key=f"classifier.{problem.key}", code=problem.code)
        rows = {shape[0] for shape in files.adapter_shapes.values() if shape}
        yield from find_too_many_labels("classifier.", classifier, rows, place)
    started = files.base.get("started_from")
    if isinstance(started, dict) and "name_or_path" not in started:
        yield Problem("names no adapter", CORRECT, place, key="started_from", code="HF504")
