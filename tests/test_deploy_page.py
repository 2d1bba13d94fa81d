"""docs/deploy.md says what is so: its commands and options are those of the program, its bounds those of the code."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import typer

from hf_finetune.cli import app
from hf_finetune.config.sections import ScratchSection
from hf_finetune.models.gguf_folders.families import FAMILIES
from hf_finetune.models.scratch_gpt import ScratchGPTConfig
from hf_finetune.models.scratch_presets import PRESETS, build_scratch_config
from hf_finetune.release.export import compare, values
from hf_finetune.release.export.conversations import CONVERSATIONS
from hf_finetune.release.export.gguf import exporting as gguf
from hf_finetune.release.export.gguf.odd_texts import TEXTS
from hf_finetune.release.export.gguf.quantization import QUANTS
from hf_finetune.release.export.gguf.split_rules import NAMES
from hf_finetune.release.export.llama import conversion
from hf_finetune.release.export.llama import writing as llama_writing
from hf_finetune.release.export.onnx import writing
from hf_finetune.release.export.options import ROWS
from hf_finetune.release.export.targets import OF_LLAMA_CPP, TARGETS
from hf_finetune.release.export.vllm import writing as vllm
from hf_finetune.release.export.vllm.quantizing import GROUPS
from hf_finetune.release.export.vllm.quantizing import PRESETS as QUANTIZATIONS

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "deploy.md").read_text(encoding="utf-8")


def test_commands_and_options_of_the_page_are_those_of_the_program():
    commands = typer.main.get_command(app).commands
    options = {parameter.opts[0] for parameter in commands["export"].params if parameter.opts[0].startswith("--")}
    assert set(re.findall(r"^\| `(--[a-z0-9-]+)`", PAGE, re.MULTILINE)) == options
    for line in re.findall(r"^(?:\$ |.+ \| `)hf-finetune ([^`\n]+)", PAGE, re.MULTILINE):
        name, *words = shlex.split(line)
        commands[name].make_context(name, words)


def test_every_target_has_its_words():
    row = next(line for line in PAGE.splitlines() if line.startswith("| `--to`"))
    assert set(re.findall(r"`([a-z]+)`", row)) == {*TARGETS}


def test_bounds_are_those_of_the_code():
    assert f"greedy, {compare.ANSWER_TOKENS} tokens after each prompt" in PAGE
    assert f"{ROWS} unless you say otherwise" in PAGE
    assert f"version of the operators, {values.OPSETS[0]} to {values.OPSETS[-1]}" in PAGE
    assert writing.IN_FLOAT32.most == compare.ROUNDING == 1e-4
    assert f"may then differ by {writing.IN_INT8.most:.0%}".replace("%", " %") in PAGE
    assert llama_writing.SAME.most == 1e-5
    assert "Logits may differ by 1e-5 of the largest one" in PAGE


def test_the_architectures_that_a_scratch_gpt_can_be_are_those_of_the_code():
    section = PAGE.partition("## A GPT from scratch as a published architecture")[2]
    rows = dict(re.findall(r"^\|.*\| `(\w+)` \| (yes|with another activation alone)", section, re.MULTILINE))
    assert rows.keys() == conversion.ARCHITECTURES.keys()
    assert tuple(name for name in rows if rows[name] != "yes") == conversion.TRANSFORMERS_ALONE


def test_the_presets_that_llama_cpp_computes_are_all_but_those_that_the_page_names():
    named = re.findall(r"`([a-z0-9-]+)`", PAGE.partition("(the presets ")[2].partition(" among")[0])
    fits = {name: conversion.find_architecture(configure(name), OF_LLAMA_CPP) for name in PRESETS}
    assert set(named) == {name for name, fit in fits.items() if fit.obstacles}
    published = {name: conversion.describe_published(configure("tiny"), name) for name in conversion.ARCHITECTURES}
    assert {*OF_LLAMA_CPP} == {name for name, config in published.items() if config.model_type in FAMILIES}


def configure(preset: str) -> ScratchGPTConfig:
    special = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    return build_scratch_config(ScratchSection(preset=preset), vocab_size=300, **special)


def test_what_gguf_holds_is_what_the_page_says():
    table = re.findall(r"^\| (`[a-z0-9_`, ]+`) \| [0-9., ]+ \| (.+) \|$", PAGE, re.MULTILINE)
    named = {name: said for names, said in table for name in re.findall(r"`([a-z0-9_]+)`", names)}
    assert named.keys() == QUANTS.keys()
    assert {name: f"{most:.0%}".replace("%", " %") for name, most in gguf.TOLERANCES.items()} == {
        name: said for name, said in named.items() if name != "f32"
    }
    section = PAGE.partition("## GGUF")[2]
    kinds = re.findall(r"`([a-z0-9_]+)`", section.partition("Models of the kinds")[2].partition(" are written")[0])
    assert set(kinds) == set(FAMILIES)
    rules = re.findall(r"`([a-z0-9-]+)`", section.partition("that splits text (")[2].partition(")")[0])
    assert set(rules) == set(NAMES.values())
    assert f"{len(TEXTS)} odd texts" in PAGE
    assert len(CONVERSATIONS) == 20


def test_what_vllm_is_given_is_what_the_page_says():
    section = PAGE.partition("## A quantized folder for vLLM")[2]
    rows = re.findall(r"^\| `(\w+)`.* \| (\d+) % \|$", section, re.MULTILINE)
    assert {name: int(most) / 100 for name, most in rows} == vllm.TOLERANCES
    assert [name for name, _ in rows] == [*TARGETS["vllm"].quants] == [*QUANTIZATIONS]
    assert f"`{vllm.DEFAULT_QUANT}` (without it)" in section
    assert f"a scale for each {GROUPS[0]} ({' or '.join(map(str, GROUPS[1:]))} where rows do not divide)" in section
