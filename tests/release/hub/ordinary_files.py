"""Files as ordinary model folders hold them, drawn by chance: much in them looks random, and nothing is a secret."""

from __future__ import annotations

import base64
import hashlib
import json
import random
import string
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from hf_finetune.models.tokenizer_training import train_tokenizer

ROOT = Path(__file__).resolve().parents[3]
FAMILIES = (
    "albert bart bert bigbird_pegasus blenderbot bloom camembert codegen cohere ctrl deberta-v2 distilbert electra ernie "
    "falcon flaubert gemma gemma2 gpt2 gpt_bigcode gpt_neo gpt_neox gptj granite helium jamba led llama longformer lxmert "
    "mamba marian mbart mistral mixtral mobilebert mpnet mpt mt5 nemotron olmo olmo2 opt pegasus persimmon phi phi3 "
    "qwen2 qwen2_moe qwen3 roberta rwkv squeezebert stablelm starcoder2 t5 umt5 xglm xlm xlm-roberta xlnet zamba"
).split()
HEX = "0123456789abcdef"


def letters(chance: random.Random, alphabet: str, count: int) -> str:
    return "".join(chance.choices(alphabet, k=count))


def list_ordinary_files(seed: int, rounds: int) -> Iterator[tuple[str, bytes]]:
    """Yield the name and the content of each file: `rounds` folders, the configurations of families, and our own texts."""
    chance = random.Random(seed)
    yield from list_configs()
    for path in [*ROOT.glob("docs/*.md"), *ROOT.glob("recipes/configs/*.yaml"), *ROOT.glob("hf_finetune/chat/templates/*"), ROOT / "README.md"]:  # fmt: skip
        yield path.name, path.read_bytes()
    words = (ROOT / "docs" / "understanding.md").read_text(encoding="utf-8").split()
    for number in range(rounds):
        yield from list_folder(chance, words, number)


def list_configs() -> Iterator[tuple[str, bytes]]:
    for family in FAMILIES:
        if family in CONFIG_MAPPING:
            yield f"{family}/config.json", CONFIG_MAPPING[family]().to_json_string(use_diff=False).encode()


def list_folder(chance: random.Random, words: list[str], number: int) -> Iterator[tuple[str, bytes]]:
    texts = [" ".join(chance.sample(words, 30)) for _ in range(12)]
    kind = ("char", "word", "bpe")[number % 3]
    tokenizer = train_tokenizer(kind, texts, vocab_size=400) if kind != "char" else train_tokenizer(kind, texts)
    yield "tokenizer.json", tokenizer.backend_tokenizer.to_str(pretty=True).encode()
    yield (
        "tokenizer_config.json",
        as_json({**tokenizer.init_kwargs, "name_or_path": f"org/model-{letters(chance, HEX, 8)}"}),
    )
    yield (
        "special_tokens_map.json",
        as_json({name: f"<|{name}_{number}|>" for name in ("bos_token", "eos_token", "pad_token")}),
    )
    pieces = [
        letters(chance, string.ascii_letters + string.digits + "-_+/=.", chance.randint(2, 24)) for _ in range(100)
    ]
    yield "vocab.json", as_json({piece: place for place, piece in enumerate(pieces)})
    yield "vocab.txt", "\n".join(chance.choices(words, k=500)).encode()
    yield "merges.txt", "\n".join(" ".join(pair) for pair in zip(pieces[::2], pieces[1::2], strict=True)).encode()
    yield (
        "tokenizer.model",
        b"".join(base64.b64encode(chance.randbytes(chance.randint(1, 24))) + b" %d\n" % place for place in range(400)),
    )
    yield "spiece.model", b"".join(b"\n%c\n%c" % (len(piece) + 7, len(piece)) + piece.encode() for piece in pieces)
    yield "card", make_card(chance, texts)
    yield from list_records(chance, texts)
    header = {
        f"model.layers.{layer}.mlp.down_proj.weight": {"dtype": "F32", "shape": [4, 4], "data_offsets": [0, 64]}
        for layer in range(40)
    }
    yield "model.safetensors", as_json({"__metadata__": {"format": "pt", "sha256": letters(chance, HEX, 64)}} | header)
    yield "model.safetensors.index.json", as_json({"metadata": {"total_size": 64}, "weight_map": dict.fromkeys(header, "model-00001-of-00002.safetensors")})  # fmt: skip
    yield "generation_config.json", as_json({"eos_token_id": [1, 2], "transformers_version": "5.23.0"})


def list_records(chance: random.Random, texts: list[str]) -> Iterator[tuple[str, bytes]]:
    files = [{"path": f"rows-{n}.jsonl", "sha256": letters(chance, HEX, 64), "bytes": 1_000 + n} for n in range(20)]
    names = ("config.json", "model.safetensors", "tokenizer.json")
    manifest = {
        "data": {"files": files, "splits": {"train": {"sha256": letters(chance, HEX, 64)}}},
        "versions": {"torch": "2.13.0+cpu", "hf_finetune": letters(chance, HEX, 40)},
        "launch": f"accelerate launch recipes/sft.py run-{letters(chance, HEX, 8)}.yaml model.path=org/model@{letters(chance, HEX, 40)}",
        "files": {name: hashlib.sha256(chance.randbytes(9)).hexdigest() for name in names},
        "model": {"name": "org/base", "revision": letters(chance, HEX, 40)},
    }
    yield "manifest.json", as_json(manifest)
    report = {
        "run_id": f"{letters(chance, HEX, 8)}-{letters(chance, HEX, 4)}-4{letters(chance, HEX, 3)}-a{letters(chance, HEX, 3)}-{letters(chance, HEX, 12)}",
        "train": {"loss": [chance.random() for _ in range(300)], "tokens_per_s": 1234.5},
        "samples": [{"prompt": texts[0], "continuation": texts[1]}],
    }
    yield "report.json", as_json(report)
    yield "report.html", f"<html><body><p>{'</p><p>'.join(texts)}</p><svg><path d='M{' '.join(str(chance.random()) for _ in range(100))}'/></svg><img src='data:image/png;base64,{base64.b64encode(chance.randbytes(900)).decode()}'></body></html>".encode()  # fmt: skip
    yield (
        "run.yaml",
        f"recipe: sft\nmodel:\n  path: org/model-{letters(chance, HEX, 12)}\ntrain:\n  learning_rate: 1e-4\n".encode(),
    )
    yield (
        "base_model.json",
        as_json({"name_or_path": "org/base", "revision": letters(chance, HEX, 40), "dtype": "float32"}),
    )


def make_card(chance: random.Random, texts: list[str]) -> bytes:
    lines = [f"| model-{n}.safetensors | `{letters(chance, HEX, 64)}` | {chance.random():.4f} |" for n in range(10)]
    commit = letters(chance, HEX, 40)
    address = f"https://huggingface.co/org/model/blob/{commit}/README.md?download=true&key=value"
    more = [
        "API key: set `HF_TOKEN`; the password is that of your account",
        "token: see eos_token",
        "secret=None",
        address,
    ]
    return "\n".join(
        ["---", "license: mit", "---", "# A model", *texts[:9], *lines, *more, f"doi:10.1000/{commit[:9]}"]
    ).encode()


def as_json(values: Any) -> bytes:
    return json.dumps(values, indent=2, ensure_ascii=False, default=str).encode()
