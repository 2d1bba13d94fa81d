"""One run of each recipe on a tiny model of a family, each held against plain transformers and peft.

A run raises `FinetuneError` where it was refused, and fails where it is wrong.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from peft import PeftModel
from safetensors.torch import load_file
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

import hf_finetune as hf
from hf_finetune.config.sections import EvalSection
from hf_finetune.errors import FinetuneError
from hf_finetune.evaluation.generation.batch import generate_batch
from hf_finetune.evaluation.generation.streaming import decode_after
from hf_finetune.models.saved import load_for_generation
from hf_finetune.release.merge import merge_adapter

CHATS = [("hi", "hello you"), ("who are you?", "a"), ("one two", "three"), ("say yes", "yes yes yes")]
TEXTS = [("good and kind", "plus"), ("bad", "minus"), ("so good", "plus"), ("so very bad it is", "minus")]
TRAINED_CHATS = [("hello", "hi there"), ("what?", "a b c"), ("four five", "six"), ("say no", "no no")]
TRAINED_TEXTS = [("kind", "plus"), ("evil", "minus"), ("very nice it is", "plus"), ("bad and sad", "minus")]
PROMPTS = ["hi", "say yes or no, please", "a longer prompt than all others"]

TRAIN: Mapping[str, Any] = {
    "max_steps": 2,
    "per_device_train_batch_size": 4,
    "learning_rate": 1e-2,
    "use_cpu": True,
    "save_strategy": "no",
    "eval_strategy": "no",
    "report_to": "none",
    "disable_tqdm": True,
    "bf16": False,
}


def write_rows(folder: Path) -> None:
    """Write conversations and labelled texts, to train on and to measure with."""
    for name, chats, texts in (("train", TRAINED_CHATS, TRAINED_TEXTS), ("test", CHATS, TEXTS)):
        rows = [{"user": one, "assistant": other} for one, other in chats]
        (folder / f"{name}-chats.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        rows = [{"text": text, "label": label} for text, label in texts]
        (folder / f"{name}-texts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def run_sft(base: Path, out: Path, rows: Path) -> None:
    result = hf.train({"recipe": "sft", **_chat_settings(base, out, rows)})
    saved = AutoModelForCausalLM.from_pretrained(out).eval()
    _check_loss(result.report["evaluation"]["validation"]["loss"], compute_chat_loss(saved, out))
    _check_trained(base, saved)
    _check_config(base, out)


def run_lora(base: Path, out: Path, rows: Path) -> None:
    result = hf.train({"recipe": "lora", **_chat_settings(base, out, rows), "lora": {"r": 2}})
    plain = AutoModelForCausalLM.from_pretrained(base).eval()
    before = compute_chat_loss(plain, out)
    adapted = PeftModel.from_pretrained(plain, str(out)).eval()
    loss = compute_chat_loss(adapted, out)
    _check_loss(result.report["evaluation"]["validation"]["loss"], loss)
    assert abs(loss - before) > 1e-4, "the adapter changes nothing"


def run_merge(base: Path, out: Path, rows: Path) -> None:
    """Merge the adapter of `run_lora`, in the folder beside."""
    adapter = out.with_name("lora")
    merge_adapter(str(adapter), str(out))
    merged = AutoModelForCausalLM.from_pretrained(out).eval()
    plain = AutoModelForCausalLM.from_pretrained(base).eval()
    adapted = PeftModel.from_pretrained(plain, str(adapter)).eval()
    ids = torch.tensor([_tokenize_chat(*CHATS[3], AutoTokenizer.from_pretrained(out))[0]])
    with torch.no_grad():
        torch.testing.assert_close(merged(ids).logits, adapted(ids).logits, atol=1e-4, rtol=1e-4)
    _check_tied(base, merged)
    _check_config(base, out)


def run_classification(base: Path, out: Path, rows: Path) -> None:
    model = {"path": str(base)}
    data = {"train": str(rows / "train-texts.jsonl"), "validation": str(rows / "test-texts.jsonl")}
    hf.train({"recipe": "classification", "output_dir": str(out), "model": model, "data": data, "train": TRAIN})
    saved = AutoModelForSequenceClassification.from_pretrained(out).eval()
    tokenizer = AutoTokenizer.from_pretrained(out)
    predicted = hf.predict(out, [text for text, _ in TEXTS])
    for (text, _), row in zip(TEXTS, predicted, strict=True):
        inputs = tokenizer(text, return_tensors="pt")
        with torch.no_grad():
            scores = saved(**inputs).logits[0].softmax(-1)
        found = torch.tensor([row["scores"][saved.config.id2label[number]] for number in range(2)])
        torch.testing.assert_close(found, scores, atol=1e-5, rtol=1e-4)
        assert row["label"] == saved.config.id2label[int(scores.argmax())]
    _check_trained(base, saved)


def run_score(base: Path, out: Path, rows: Path) -> None:
    settings = {"output_dir": str(out), "model": {"path": str(base)}, "data": {"test": str(rows / "test-chats.jsonl")}}
    result = hf.score({**settings, "eval": {"max_new_tokens": 4}})
    plain = AutoModelForCausalLM.from_pretrained(base).eval()
    _check_loss(result.report["evaluation"]["test"]["loss"], compute_chat_loss(plain, base))
    _check_answers(base, plain)


def _check_answers(base: Path, plain: PreTrainedModel) -> None:
    """Greedy answers of one batch are those that each prompt gets alone, from one forward pass for each token."""
    model, tokenizer = load_for_generation(str(base))
    prompts = [tokenizer(prompt)["input_ids"] for prompt in PROMPTS]
    settings = EvalSection(temperature=0.0, max_new_tokens=6)
    together = generate_batch(model, tokenizer, prompts, settings, batch_size=len(prompts))
    ends = tokenizer.convert_tokens_to_ids(["<|eos|>", "<|im_end|>"])
    for ids, answer in zip(prompts, together, strict=True):
        found = list(ids)
        while len(found) < len(ids) + 6 and found[-1] not in ends:
            with torch.no_grad():
                found.append(int(plain(torch.tensor([found]), use_cache=False).logits[0, -1].argmax()))
        new = found[len(ids) :]
        assert answer.finished == (new[-1] in ends)
        assert answer.text == decode_after(tokenizer, ids, new[:-1] if answer.finished else new)


def compute_chat_loss(model: torch.nn.Module, folder: Path) -> float:
    """Mean negative log-likelihood of the answers' tokens, one row at a time: the loop that anybody would write."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    total, count = 0.0, 0
    for chat in CHATS:
        ids, start, stop = _tokenize_chat(*chat, tokenizer)
        with torch.no_grad():
            logits: Tensor = model(torch.tensor([ids]), use_cache=False).logits[0]
        total += F.cross_entropy(logits[start - 1 : stop - 1], torch.tensor(ids[start:stop]), reduction="sum").item()
        count += stop - start
    return total / count


def _tokenize_chat(prompt: str, answer: str, tokenizer: PreTrainedTokenizerFast) -> tuple[list[int], int, int]:
    """The ids of a conversation under the folder's template, and where its answer with <|im_end|> starts and stops."""
    asked = tokenizer.apply_chat_template(
        [{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True
    )
    before, inside, after = (
        tokenizer(text, add_special_tokens=False)["input_ids"] for text in (asked, f"{answer}<|im_end|>", "\n")
    )
    return [*before, *inside, *after], len(before), len(before) + len(inside)


def _chat_settings(base: Path, out: Path, rows: Path) -> dict[str, Any]:
    data = {"train": str(rows / "train-chats.jsonl"), "validation": str(rows / "test-chats.jsonl")}
    return {"output_dir": str(out), "model": {"path": str(base)}, "data": data, "train": TRAIN}


def _check_loss(found: float, expected: float) -> None:
    assert abs(found - expected) <= 1e-5 * max(1.0, abs(expected)), f"loss {found}, plain {expected}"


def _check_trained(base: Path, saved: PreTrainedModel) -> None:
    """Every weight of the base that is in the saved model has moved, and what was one weight is one."""
    before = load_file(base / "model.safetensors")
    after = saved.state_dict()
    after |= {name.removeprefix(f"{saved.base_model_prefix}."): weight for name, weight in after.items()}
    common = [name for name in before if name in after and after[name].is_floating_point()]
    still = [name for name in common if torch.equal(before[name], after[name])]
    assert common
    assert len(still) <= len(common) // 4, f"{len(still)} of {len(common)} have not moved: {still}"
    _check_tied(base, saved)


def _check_tied(base: Path, saved: PreTrainedModel) -> None:
    if (head := saved.get_output_embeddings()) is not None:
        stored = json.loads((base / "config.json").read_text())
        assert (head.weight is saved.get_input_embeddings().weight) == saved.config.tie_word_embeddings
        assert stored["tie_word_embeddings"] == saved.config.tie_word_embeddings


MAY_DIFFER = {"transformers_version", "dtype", "use_cache", "pad_token_id", "eos_token_id"}


def _check_config(base: Path, out: Path) -> None:
    one, other = (_flatten(json.loads((folder / "config.json").read_text())) for folder in (base, out))
    changed = {
        key: (one.get(key), other.get(key)) for key in one.keys() | other.keys() if one.get(key) != other.get(key)
    }
    assert {key for key in changed if key.rpartition(".")[2] not in MAY_DIFFER} == set(), changed


def _flatten(values: Any, place: str = "") -> dict[str, Any]:
    if not isinstance(values, dict):
        return {place: values}
    leaves: dict[str, Any] = {}
    for key, value in values.items():
        leaves |= _flatten(value, f"{place}.{key}" if place else key)
    return leaves


RUNS: Mapping[str, Callable[[Path, Path, Path], None]] = {
    "sft": run_sft,
    "lora": run_lora,
    "merge": run_merge,
    "classification": run_classification,
    "score": run_score,
}
CELLS = tuple(RUNS)


def run_cells(base: Path, folder: Path, rows: Path) -> dict[str, str | None]:
    """Make every run on a base, each in a folder of its name; the message of those that were refused, None of others.

    Fails where a run was neither right nor refused.
    """
    found: dict[str, str | None] = {}
    for name, run in RUNS.items():
        try:
            run(base, folder / name, rows)
            found[name] = None
        except FinetuneError as refused:
            found[name] = str(refused)
    return found
