"""What a GGUF file answers, held against the run: in 16 bits, in 8, and as an adapter alone over its base.

    python benchmarks/gguf_figures.py RUN [ROWS]

RUN is the folder of a LoRA adapter of a chat model, such as runs/python_tools. For each of its held-out rows (ROWS, by
default 64) llama.cpp continues the prompt by 32 tokens, greedily. The perplexity is measured twice: of the weights in
the file by transformers on every row, and by llama.cpp itself, whose arithmetic is in 8 bits as well, on as many rows
as have about a thousand trained tokens.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from math import exp
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from hf_finetune.models.saved import load_for_generation
from hf_finetune.release import ExportOptions, check_export, export_model
from hf_finetune.release.comparison_rows import ComparisonRow, load_comparison_rows
from hf_finetune.release.export.gguf.llama_cpp import LlamaCpp

TOKENS = 1_000
FIRST = 256
"""Of the likeliest tokens that llama.cpp is asked for at each place; all of them, where the token is not among them."""
EXPORTS = {"f16": {"quant": "f16"}, "q8_0": {"quant": "q8_0"}, "adapter alone, f16": {"adapter_only": True}}


def measure_theirs(file: Path, rows: Sequence[ComparisonRow], vocabulary: int) -> float:
    """The mean loss of llama.cpp on the trained tokens of `rows`."""
    losses = []
    with LlamaCpp(file, threads=torch.get_num_threads()) as theirs:
        for ids, places in map(find_places, rows):
            for place in places:
                found = theirs.find_log_probabilities(ids[:place], vocabulary, first=FIRST)[ids[place]]
                if found == -float("inf"):
                    found = theirs.find_log_probabilities(ids[:place], vocabulary)[ids[place]]
                losses.append(-float(found))
    return sum(losses) / len(losses)


def find_places(row: ComparisonRow) -> tuple[list[int], list[int]]:
    """The ids of a row, and the places of those that are trained."""
    return row.inputs["input_ids"][0].tolist(), (row.labels[0] >= 0).nonzero().flatten().tolist()


@torch.no_grad()
def measure_ours(model: torch.nn.Module, rows: Sequence[ComparisonRow]) -> float:
    losses = []
    for row in rows:
        ids, places = find_places(row)
        found = torch.log_softmax(model(input_ids=torch.tensor([ids])).logits[0].float(), -1)
        losses += [-float(found[place - 1, ids[place]]) for place in places if place]
    return sum(losses) / len(losses)


def take_rows(rows: Sequence[ComparisonRow]) -> list[ComparisonRow]:
    """The first rows, with about `TOKENS` trained tokens."""
    taken, count = [], 0
    for row in rows:
        if count < TOKENS:
            taken.append(row)
            count += len(find_places(row)[1])
    return taken


def main(run: str, rows: int = 64) -> None:
    model, tokenizer = load_for_generation(run, dtype=torch.float32)
    few = take_rows(load_comparison_rows(None, Path(run), tokenizer, 512, None, most=rows))
    ours = measure_ours(model, few)
    vocabulary = model.config.vocab_size
    del model
    with TemporaryDirectory() as place:
        for name, asked in EXPORTS.items():
            output = str(Path(place, asked.get("quant", "adapter")))
            to, options = "gguf", ExportOptions(rows=rows, tolerance=1.0, **asked)  # a figure, and no refusal
            check_export(run, output, to, options)
            result = export_model(run, output, to, options)
            figures, own = result.figures, result.own_figures
            print(
                f"{name}: {figures.equal_answers} of {figures.rows} answers equal ({figures.ties} of the others ties)"
            )
            print(f"  {own['bytes'] / 1e6:,.1f} MB, {own['texts_with_equal_tokens']} texts with equal tokens")
            print(f"  perplexity {exp(figures.loss_before):.4f} -> {exp(figures.loss_after):.4f} of its weights")
            if "quant" in asked:
                theirs = measure_theirs(Path(output, "model.gguf"), few, vocabulary)
                ratio = exp(theirs - ours) - 1
                print(f"  perplexity {exp(ours):.4f} -> {exp(theirs):.4f} by llama.cpp ({ratio:+.3%}, {len(few)} rows)")


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
