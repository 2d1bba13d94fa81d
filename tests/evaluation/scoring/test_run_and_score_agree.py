"""The end of a run and `score` give one figure for one thing, to 1e-6, whatever the rows, and the right one."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from models.scratch_models import tiny_model
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from hf_finetune.config import build_run
from hf_finetune.evaluation.scoring import load_scored_rows, score_model
from hf_finetune.models.tokenizer_training import train_tokenizer

ROOT = Path(__file__).resolve().parents[3]
WORDS = ("red", "cat", "blue", "dog", "saw", "one", "fox")
FIGURES = ("loss", "perplexity", "word_perplexity", "token_accuracy", "bits_per_byte")
QUICK = ("train.max_steps=1", "train.bf16=false", "eval.prompts=[]", "eval.base=false", "train.eval_strategy=no")
PLAIN = ("train.load_best_model_at_end=false", "data.validation_fraction=null")

Rows = list[dict[str, Any]]


def say(number: int, words: int) -> str:
    """A text of so many words, another one for each number."""
    return " ".join(WORDS[(number * 5 + place * place) % 7] for place in range(words)) + f" {number}"


def documents(sizes: Callable[[int], int], more: str = "") -> Callable[[int, int], Rows]:
    return lambda first, count: [{"text": say(first + n, sizes(n)) + more} for n in range(count)]


def questions(sizes: Callable[[int], int], more: str = "") -> Callable[[int, int], Rows]:
    return lambda first, count: [
        {"question": f"{say(first + n, 2)}?", "answer": say(first + n, sizes(n)) + more} for n in range(count)
    ]


def turns(first: int, count: int) -> Rows:
    roles = ("user", "assistant") * 2
    return [
        {"messages": [{"role": role, "content": say(first + n + k, 2 + n % 5)} for k, role in enumerate(roles)]}
        for n in range(count)
    ]


def prompts(first: int, count: int) -> Rows:
    return [{"prompt": f"{say(first + n, 2)}: ", "completion": say(first + n, 3)} for n in range(count)]


def empty_ones(first: int, count: int) -> Rows:
    return [{"text": say(first + n, 4) if n % 3 else " "} for n in range(count)]


@dataclass(frozen=True)
class Kind:
    """A kind of file, and how it is trained and read."""

    recipe: str
    rows: Callable[[int, int], Rows]
    settings: tuple[str, ...] = ()
    tokenizer: str = "bpe"
    """How the base's tokenizer was trained; "-bos" takes its begin token away, "-one" has one for begin and end."""


SHORT, LONG = documents(lambda n: 1 + n % 2), documents(lambda n: 40 + 9 * (n % 6))
BF16 = ("train.bf16=true", "train.learning_rate=0.05")
BLOCK = ("data.block_size=32",)
KINDS = {
    "short documents": Kind("continued_pretraining", SHORT, BLOCK),
    "short documents, isolated": Kind("continued_pretraining", SHORT, (*BLOCK, "data.isolate_documents=true")),
    "long documents": Kind("continued_pretraining", LONG, BLOCK),
    "long documents, isolated": Kind("continued_pretraining", LONG, (*BLOCK, "data.isolate_documents=true")),
    "documents in blocks of the model's length": Kind("continued_pretraining", LONG),
    "some empty documents": Kind("continued_pretraining", empty_ones, BLOCK),
    "multi-byte documents": Kind("continued_pretraining", documents(lambda n: 3 + n, " Ünïcødé кот 猫 😀"), BLOCK),
    "unknown characters": Kind("continued_pretraining", documents(lambda n: 3 + n, " кот 😀"), BLOCK, "char"),
    "unknown words": Kind("continued_pretraining", documents(lambda n: 3 + n, " zebra"), BLOCK, "word"),
    "a tokenizer without a begin token": Kind("continued_pretraining", SHORT, BLOCK, "bpe-bos"),
    "one token for begin and end": Kind("continued_pretraining", SHORT, BLOCK, "bpe-one"),
    "conversations": Kind("sft", questions(lambda n: 1 + n)),
    "packed conversations": Kind("sft", questions(lambda n: 1 + n), ("train.packing=true", "train.max_length=128")),
    "conversations that are cut": Kind("sft", questions(lambda n: 9 * n), ("train.max_length=40",)),
    "conversations that are split": Kind(
        "sft", questions(lambda n: 9 * n), ("train.max_length=40", "data.too_long=split")
    ),
    "long conversations left out": Kind(
        "sft", questions(lambda n: 9 * n), ("train.max_length=40", "data.too_long=drop", "data.max_dropped=1.0")
    ),
    "all turns trained": Kind("sft", turns, ("data.loss_on=all",)),
    "the last turn trained": Kind("sft", turns, ("data.loss_on=last",)),
    "multi-byte conversations": Kind("sft", questions(lambda n: 3 + n, " Ünïcødé кот 猫 😀")),
    "unknown characters in conversations": Kind("sft", questions(lambda n: 3 + n, " кот 😀"), (), "char"),
    "prompts as they stand": Kind("sft", prompts),
    "prompts under a template": Kind("sft", prompts, ("data.chat_template=plain",)),
    "under autocast": Kind("sft", questions(lambda n: 1 + n), BF16),
    "documents under autocast": Kind("continued_pretraining", SHORT, (*BLOCK, *BF16)),
    "an adapter": Kind(
        "lora",
        questions(lambda n: 1 + n),
        ("lora.r=2", "train.packing=true", "train.load_best_model_at_end=false", "train.save_strategy=no"),
    ),
}


def save_base(folder: Path, tokenizer_kind: str) -> str:
    kind, _, change = tokenizer_kind.partition("-")
    texts = [say(number, 9) + "?:" for number in range(60)]
    tokenizer = train_tokenizer(kind, texts, None if kind == "char" else 300)
    if change == "one":
        tokenizer.bos_token = tokenizer.eos_token
    elif change == "bos":
        tokenizer.bos_token = None
    tokenizer.save_pretrained(folder)
    special = {name: getattr(tokenizer, name) for name in ("pad_token_id", "bos_token_id", "eos_token_id")}
    tiny_model(vocab_size=len(tokenizer), max_position_embeddings=256, **special).save_pretrained(folder)
    return str(folder)


def write(path: Path, rows: Rows) -> str:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def score(model: Path, rows: str) -> dict[str, Any]:
    values = {"model": {"path": str(model)}, "data": {"test": rows}, "output_dir": "?", "eval": {"generate_rows": 0}}
    run = build_run(values, "score")
    return score_model(run, load_scored_rows(run)).evaluation


@pytest.mark.parametrize("name", KINDS)
def test_a_run_ends_with_the_figures_that_score_gives_for_the_same_file(run_recipe, tmp_path, name):
    kind = KINDS[name]
    base = save_base(tmp_path / "base", kind.tokenizer)
    train, held_out = (
        write(tmp_path / "train.jsonl", kind.rows(0, 12)),
        write(tmp_path / "rows.jsonl", kind.rows(50, 24)),
    )
    files = (
        f"model.path={base}",
        f"data.train={train}",
        f"data.validation={held_out}",
        "data.validation_fraction=null",
    )
    named = () if kind.recipe != "continued_pretraining" else ("model.scratch=null", "model.tokenizer=null")
    if kind.recipe == "continued_pretraining" and not any("block_size" in each for each in kind.settings):
        named += ("data.block_size=null",)
    report = run_recipe(kind.recipe, *files, *named, *QUICK, *kind.settings)
    of_run, scored = report["evaluation"]["validation"], score(tmp_path / "run", held_out)
    for figure in FIGURES:
        assert plain(figure, scored[figure]) == pytest.approx(plain(figure, of_run[figure]), rel=1e-6), figure
        one, other = (each["intervals"].get(figure) for each in (scored, of_run))
        assert (one is None) == (other is None)
        if one and other:
            assert [plain(figure, end) for end in one] == pytest.approx([plain(figure, end) for end in other], rel=1e-5)
    if kind.recipe == "continued_pretraining" and BF16[0] not in kind.settings:
        size = next((int(each.split("=")[1]) for each in kind.settings if "block_size" in each), 256)
        texts = [row["text"] for row in kind.rows(50, 24) if row["text"].strip()]
        expected = read_by_hand(tmp_path / "run", texts, size)
        assert {each: plain(each, of_run[each]) for each in expected} == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("name", ["multi-byte conversations", "unknown characters in conversations"])
def test_bytes_are_those_of_the_answers_as_they_stand_in_the_file(run_recipe, tmp_path, name, capsys):
    kind = KINDS[name]
    base, rows = save_base(tmp_path / "base", kind.tokenizer), kind.rows(50, 24)
    held_out, train = write(tmp_path / "rows.jsonl", rows), write(tmp_path / "train.jsonl", kind.rows(0, 12))
    files = (
        f"model.path={base}",
        f"data.train={train}",
        f"data.validation={held_out}",
        "data.validation_fraction=null",
    )
    report = run_recipe("sft", *files, *QUICK)
    of_run, counted = report["evaluation"]["validation"], report["data"]["validation"]
    nats = of_run["loss"] * counted["trained_tokens"]
    size = sum(len(row["answer"].encode()) for row in rows)
    assert of_run["bits_per_byte"] == pytest.approx(nats / math.log(2) / size, rel=1e-6)
    # Of " кот 😀" a tokenizer of the letters of WORDS knows the spaces alone.
    unknown = 4 * len(rows) if kind.tokenizer == "char" else 0
    assert counted["unknown"] == unknown
    said = f"validation: {unknown / counted['trained_tokens']:.1%} of the predicted tokens ({unknown}) are unknown"
    assert (said in capsys.readouterr().err) == bool(unknown)


def plain(figure: str, value: float) -> float:
    """A perplexity by its logarithm: of 17 nats a word, the seventh digit of the nats is the sixth of e**17."""
    return math.log(value) if figure.endswith("perplexity") else value


def read_by_hand(folder: Path, texts: list[str], size: int) -> dict[str, float]:
    """The figures by plain transformers: each document alone, behind a begin token, in windows that share a token."""
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    nll, right, tokens = 0.0, 0, 0
    for text in texts:
        ids = torch.tensor([begin_and_end(tokenizer, text)])
        for start in range(0, ids.shape[1] - 1, size - 1):
            window = ids[:, start : start + size]
            with torch.no_grad():
                logits = model(window).logits[0, :-1].double()
            targets = window[0, 1:]
            nll += torch.nn.functional.cross_entropy(logits, targets, reduction="sum").item()
            right += int((logits.argmax(-1) == targets).sum())
            tokens += len(targets)
    size_in_bytes, words = sum(len(text.encode()) for text in texts), sum(len(text.split()) for text in texts)
    return {
        "loss": nll / tokens,
        "token_accuracy": right / tokens,
        "bits_per_byte": nll / math.log(2) / size_in_bytes,
        "word_perplexity": nll / words,
    }


def begin_and_end(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    begin = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
    return [begin, *tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
