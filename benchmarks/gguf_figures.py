"""What a GGUF file answers, held against the run: in 16 bits, in 8, and as an adapter alone over its base.

    python benchmarks/gguf_figures.py RUN [ROWS]

RUN is the folder of a LoRA adapter of a chat model, such as runs/python_tools. For each of its held-out rows (ROWS, by
default 64) llama.cpp continues the prompt by 32 tokens, greedily, and the run does in float32. The perplexity is that
of llama.cpp itself, whose arithmetic has the bits of the file, on as many rows as have about 500 trained tokens.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from math import exp
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from hf_finetune.config.sections import EvalSection
from hf_finetune.evaluation.generation.session import generate_ids, generation_session
from hf_finetune.models.adapters.loading import read_adapter_record
from hf_finetune.models.saved import load_for_generation
from hf_finetune.release.comparison_rows import ComparisonRow, load_comparison_rows
from hf_finetune.release.export.compare import ANSWER_TOKENS, find_prompt
from hf_finetune.release.export.gguf.adapters import write_adapter
from hf_finetune.release.export.gguf.llama_cpp import LlamaCpp
from hf_finetune.release.export.gguf.odd_texts import check_tokens
from hf_finetune.release.export.gguf.writing import About, find_end_ids, write_model

TOKENS = 500
FIRST = 256
"""Of the likeliest tokens that llama.cpp is asked for at each place; all of them, where the token is not among them."""
BATCH = 16


def find_places(row: ComparisonRow) -> tuple[list[int], list[int]]:
    """The ids of a row, and the places of those that are trained."""
    return row.inputs["input_ids"][0].tolist(), (row.labels[0, 1:] >= 0).nonzero().flatten().add(1).tolist()


def take_rows(rows: Sequence[ComparisonRow]) -> list[ComparisonRow]:
    """The first rows, with about `TOKENS` trained tokens."""
    taken, count = [], 0
    for row in rows:
        if count < TOKENS:
            taken.append(row)
            count += len(find_places(row)[1])
    return taken


def answer(model: Any, tokenizer: Any, prompts: Sequence[list[int]]) -> list[list[int]]:
    """The greedy answers of the run, in batches of prompts that are about as long."""
    order = sorted(range(len(prompts)), key=lambda number: len(prompts[number]))
    found: dict[int, list[int]] = {}
    ends = set(find_end_ids(tokenizer, model.generation_config))
    with generation_session(model, tokenizer, EvalSection(temperature=0.0), 0, ends) as session:
        for start in range(0, len(order), BATCH):
            batch = order[start : start + BATCH]
            answers = generate_ids(session, [prompts[number] for number in batch], ANSWER_TOKENS)
            found.update(zip(batch, answers, strict=True))
    return [found[number] for number in range(len(prompts))]


@torch.no_grad()
def measure_ours(model: Any, rows: Sequence[ComparisonRow]) -> float:
    """The mean loss of the run on the trained tokens of `rows`."""
    losses = []
    for ids, places in map(find_places, rows):
        found = torch.log_softmax(model(input_ids=torch.tensor([ids])).logits[0].float(), -1)  # (seq, vocab)
        losses += [-float(found[place - 1, ids[place]]) for place in places]
    return sum(losses) / len(losses)


def measure_theirs(theirs: LlamaCpp, rows: Sequence[ComparisonRow], vocabulary: int) -> float:
    """The mean loss of llama.cpp on the same."""
    losses = []
    for ids, places in map(find_places, rows):
        for place in places:
            found = theirs.find_log_probabilities(ids[:place], vocabulary, first=FIRST)[ids[place]]
            if found == -float("inf"):
                found = theirs.find_log_probabilities(ids[:place], vocabulary)[ids[place]]
            losses.append(-float(found))
    return sum(losses) / len(losses)


def main(run: str, count: int = 64) -> None:
    model: Any
    model, tokenizer = load_for_generation(run, dtype=torch.float32)
    rows = load_comparison_rows(None, Path(run), tokenizer, 512, None, most=count)
    prompts, few = [find_prompt(row) for row in rows], take_rows(rows)
    expected, ours = answer(model, tokenizer, prompts), measure_ours(model, few)
    vocabulary, about = model.config.vocab_size, About("figures")
    print(f"the run: {len(prompts)} answers, perplexity {exp(ours):.4f} on {len(few)} rows", flush=True)

    def hold(name: str, file: Path, adapter: Path | None = None) -> None:
        """Print how many answers llama.cpp gives alike, and its perplexity."""
        with LlamaCpp(file, adapter, threads=torch.get_num_threads()) as theirs:
            check_tokens(theirs, tokenizer)
            answers = [theirs.continue_greedily(prompt, ANSWER_TOKENS) for prompt in prompts]
            equal = sum(one == other for one, other in zip(answers, expected, strict=True))
            print(f"{name}: {equal} of {len(prompts)} answers equal, {file.stat().st_size / 1e6:,.1f} MB", flush=True)
            loss = measure_theirs(theirs, few, vocabulary)
        print(f"{name}: perplexity {exp(loss):.4f} by llama.cpp ({exp(loss - ours) - 1:+.3%})", flush=True)

    with TemporaryDirectory() as place:
        merged = model.merge_and_unload()
        for quant in ("f16", "q8_0"):
            write_model(Path(place, f"{quant}.gguf"), merged, tokenizer, quant, about)
            hold(quant, Path(place, f"{quant}.gguf"))
        base = AutoModelForCausalLM.from_pretrained(read_adapter_record(run).name_or_path, dtype=torch.float32)
        write_adapter(Path(place, "adapter.gguf"), Path(run), base.config, "figures")
        for quant in ("f16", "q8_0"):
            write_model(Path(place, "base.gguf"), base, tokenizer, quant, about)
            hold(f"adapter alone over {quant}", Path(place, "base.gguf"), Path(place, "adapter.gguf"))


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
