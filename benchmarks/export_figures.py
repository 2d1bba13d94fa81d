"""How near `hf-finetune export` comes to the model: nine kinds of folders, in float32 and in 8 bits.

    python benchmarks/export_figures.py [KIND ...] [--rows 64] [--lora-base FOLDER] [--minilm FOLDER]

Small models are trained for some steps on this project's own pages, so that their answers are those of a model that has
learned something. Each is exported to ONNX twice, and compared on rows that it was not trained on: the largest
difference of a logit, how many greedy answers of 32 tokens are the same, and in 8 bits what the loss, or of a
classifier the accuracy, becomes, how many times smaller the graph is, and how many times as fast it reads 64 tokens.
One kind is a LoRA on such a model, merged in memory. The last two are a classifier on the real MiniLM and a LoRA on a
real chat model; each is left out where its folder is not there.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from machine import describe_machine
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    GPT2Config,
    LlamaConfig,
    PreTrainedModel,
    Qwen2Config,
)

from hf_finetune.config.sections import ModelSection
from hf_finetune.models.adapters.attach import attach_adapter, save_adapter
from hf_finetune.models.loading import load_causal_lm
from hf_finetune.models.scratch_gpt import ScratchGPTConfig
from hf_finetune.models.tokenizer_training import train_tokenizer
from hf_finetune.release import ExportOptions, export_model

PAGES = Path(__file__).resolve().parent.parent / "docs"
VOCABULARY, SEQ, BATCH = 2_000, 64, 8
SHAPE = {"hidden_size": 256, "num_hidden_layers": 4, "num_attention_heads": 8}
FREE = {
    "max_position_embeddings": 256,
    "vocab_size": VOCABULARY,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
GATED = {"intermediate_size": 512, "num_key_value_heads": 4}
LANGUAGE: dict[str, Callable[[], Any]] = {
    "ScratchGPT gpt2": lambda: ScratchGPTConfig(family="gpt2", **SHAPE, **FREE),
    "ScratchGPT modern": lambda: ScratchGPTConfig(family="modern", **SHAPE, **FREE),
    "ScratchGPT llama-like": lambda: ScratchGPTConfig(
        family="modern", hidden_act="silu", gated_mlp=True, qk_norm=False, **SHAPE, **FREE
    ),
    "Llama": lambda: LlamaConfig(**SHAPE, **GATED, **FREE),
    "Qwen2": lambda: Qwen2Config(**SHAPE, **GATED, **FREE),
    "GPT-2": lambda: GPT2Config(n_embd=256, n_layer=4, n_head=8, n_positions=256, **FREE),
}
SMALL_LORA = "LoRA on Llama"


def read_lines(page: str) -> list[str]:
    lines = (PAGES / page).read_text(encoding="utf-8").splitlines()
    return [line.strip() for line in lines if len(line.split()) > 6]


def write_rows(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def train(model: PreTrainedModel, batches: Callable[[int], dict[str, torch.Tensor]], steps: int, rate: float) -> None:
    optimizer = torch.optim.AdamW([each for each in model.parameters() if each.requires_grad], lr=rate)
    model.train()
    for step in range(steps):
        model(**batches(step)).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    model.eval()


def draw_blocks(tokenizer: Any, lines: list[str]) -> Callable[[int], dict[str, torch.Tensor]]:
    ids = torch.tensor(tokenizer("\n".join(lines), add_special_tokens=False)["input_ids"])

    def batch(step: int) -> dict[str, torch.Tensor]:
        generator = torch.Generator().manual_seed(step)
        starts = torch.randint(len(ids) - SEQ, (BATCH,), generator=generator).tolist()
        block = torch.stack([ids[start : start + SEQ] for start in starts])
        return {"input_ids": block, "labels": block}

    return batch


def make_language_model(kind: str, folder: Path, tokenizer: Any, lines: list[str]) -> None:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(LANGUAGE[kind]())
    train(model, draw_blocks(tokenizer, lines), 150, 1e-3)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def make_small_lora(folder: Path, tokenizer: Any, lines: list[str], pages: list[str]) -> None:
    """An adapter over a Llama that was trained on the pages, which it turns to other ones."""
    base = folder.with_name("base")
    make_language_model("Llama", base, tokenizer, lines)
    make_lora(folder, str(base), pages)


def make_lora(folder: Path, base: str, lines: list[str]) -> None:
    tokenizer = AutoTokenizer.from_pretrained(base)
    section = ModelSection(path=base)
    model = load_causal_lm(section, AutoConfig.from_pretrained(base), SEQ, bf16=False)
    torch.manual_seed(0)
    adapted: Any = attach_adapter(model, {})
    train(adapted, draw_blocks(tokenizer, lines), 8, 1e-3)
    adapted.save_pretrained(folder)
    save_adapter(adapted, folder)
    tokenizer.save_pretrained(folder)


def make_classifier(folder: Path, base: str | None, tokenizer: Any, rows: list[dict[str, Any]]) -> None:
    torch.manual_seed(0)
    labels = {"id2label": {0: "codes", 1: "pages"}, "label2id": {"codes": 0, "pages": 1}}
    if base is None:
        config = BertConfig(**SHAPE, **FREE, intermediate_size=1_024, **labels)
        model = AutoModelForSequenceClassification.from_config(config)
    else:
        tokenizer = AutoTokenizer.from_pretrained(base)
        model = AutoModelForSequenceClassification.from_pretrained(base, **labels)

    def batch(step: int) -> dict[str, torch.Tensor]:
        some = [rows[(step * BATCH + place) % len(rows)] for place in range(BATCH)]
        encoded = tokenizer(
            [row["text"] for row in some], padding=True, truncation=True, max_length=SEQ, return_tensors="pt"
        )
        return {**encoded, "labels": torch.tensor([labels["label2id"][row["label"]] for row in some])}

    train(model, batch, 60 if base is None else 20, 3e-4 if base is None else 5e-5)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def show(kind: str, folder: Path, data: str, rows: int, aside: Path) -> None:
    """Export to float32 and to 8 bits, and print one line of the table."""
    options = {"data": data, "rows": rows, "tolerance": 1e9}
    plain = export_model(str(folder), str(aside / "float32"), "onnx", ExportOptions(**options)).as_dict()["figures"]
    small = export_model(str(folder), str(aside / "int8"), "onnx", ExportOptions(**options, int8=True)).as_dict()[
        "figures"
    ]
    quality = f"loss {small['loss_before']:.4f} -> {small['loss_after']:.4f} ({small['relative_loss_difference']:.2%})"
    if "accuracy_after" in small:
        quality += f", accuracy {small['accuracy_before']:.3f} -> {small['accuracy_after']:.3f}"
    print(
        f"| {kind} | {plain['max_logit_difference']:.1e} (of {plain['logit_scale']:.1f}) "
        f"| {plain['equal_answers']} of {plain['rows']} | {quality} | {small['equal_answers']} of {small['rows']} "
        f"| {small['bytes_in_float32'] / 1e6:.1f} -> {small['bytes'] / 1e6:.1f} MB, {small['times_smaller']:.2f} "
        f"| {small['times_as_fast']:.2f} |",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kinds", nargs="*")
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--lora-base", default="models/smollm2-135m")
    parser.add_argument("--minilm", default="models/minilm")
    asked = parser.parse_args()
    pages, codes = read_lines("data-formats.md") + read_lines("recipes.md"), read_lines("codes.md")
    lines, held_out = pages[: -asked.rows], pages[-asked.rows :]
    labelled = [
        {"text": text, "label": name}
        for pair in zip(pages, codes, strict=False)
        for text, name in zip(pair, ("pages", "codes"), strict=True)
    ]
    tokenizer = train_tokenizer("bpe", pages + codes, VOCABULARY)
    real = {"BERT": None, "MiniLM": asked.minilm, "LoRA": asked.lora_base}
    there = [kind for kind, base in real.items() if base is None or Path(base).is_dir()]
    kinds = asked.kinds or [*LANGUAGE, SMALL_LORA, *there]
    print(f"{describe_machine()}, {torch.get_num_threads()} threads")
    print("| kind | logits | answers | in 8 bits | answers | size, times smaller | times as fast |\n|" + "---|" * 7)
    for kind in kinds:
        with tempfile.TemporaryDirectory() as name:
            folder, aside = Path(name, "model"), Path(name)
            texts = write_rows(aside / "texts.jsonl", [{"text": text} for text in held_out])
            rows = write_rows(aside / "labelled.jsonl", labelled[-asked.rows :])
            if kind in LANGUAGE:
                make_language_model(kind, folder, tokenizer, lines)
            elif kind == SMALL_LORA:
                make_small_lora(folder, tokenizer, lines, codes)
            elif kind == "LoRA":
                make_lora(folder, asked.lora_base, lines)
            else:
                make_classifier(folder, real[kind], tokenizer, labelled[: -asked.rows])
            show(kind, folder, texts if kind in (*LANGUAGE, SMALL_LORA, "LoRA") else rows, asked.rows, aside)


if __name__ == "__main__":
    main()
