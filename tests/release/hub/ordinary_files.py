"""Files as ordinary model folders hold them, drawn by chance: much in them looks random, and nothing is a secret."""

from __future__ import annotations

import base64
import json
import random
import string
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from hf_finetune.models.tokenizer_training import train_tokenizer

ROOT = Path(__file__).resolve().parents[3]
OURS = ("docs/*.md", "recipes/configs/*.yaml", "hf_finetune/chat/templates/*", "README.md")
FAMILIES = """albert bart bert bloom camembert codegen ctrl deberta-v2 distilbert electra falcon gemma gemma2 gpt2
gpt_neox granite led llama mamba marian mbart mistral mixtral mpnet mt5 nemotron olmo opt phi phi3 qwen2 qwen3 roberta
stablelm starcoder2 t5 xglm xlm-roberta"""
HEX = "0123456789abcdef"
PIECES = string.ascii_letters + string.digits + "-_+/=."
SAID = (
    "API key: set `HF_TOKEN`; the password is that of your account", "token: see eos_token", "secret=None",
    "https://huggingface.co/org/model/blob/main/README.md?download=true&key=value", "doi:10.1000/182",
)  # fmt: skip


def list_ordinary_files(seed: int, rounds: int) -> Iterator[tuple[str, bytes]]:
    """Yield the name and the content of each file: of families, of our own texts, and of `rounds` folders."""
    chance = random.Random(seed)
    for family in FAMILIES.split():
        yield f"{family}/config.json", CONFIG_MAPPING[family]().to_json_string(use_diff=False).encode()
    for pattern in OURS:
        yield from ((path.name, path.read_bytes()) for path in ROOT.glob(pattern))
    words = (ROOT / "docs" / "understanding.md").read_text(encoding="utf-8").split()
    for number in range(rounds):
        texts = [" ".join(chance.sample(words, 30)) for _ in range(12)]
        for part in (make_tokenizer, make_vocabularies, make_records, make_pages, make_weights):
            yield from part(chance, texts, number).items()


def letters(chance: random.Random, count: int, alphabet: str = HEX) -> str:
    return "".join(chance.choices(alphabet, k=count))


def as_json(values: Any) -> bytes:
    return json.dumps(values, indent=2, ensure_ascii=False, default=str).encode()


def make_tokenizer(chance: random.Random, texts: list[str], number: int) -> dict[str, bytes]:
    kind = ("char", "word", "bpe")[number % 3]
    tokenizer = train_tokenizer(kind, texts, **({} if kind == "char" else {"vocab_size": 400}))
    named = {f"{name}_token": f"<|{name}_{number}|>" for name in ("bos", "eos", "pad")}
    return {
        "tokenizer.json": tokenizer.backend_tokenizer.to_str(pretty=True).encode(),
        "tokenizer_config.json": as_json(tokenizer.init_kwargs | {"name_or_path": f"org/{letters(chance, 8)}"} | named),
        "special_tokens_map.json": as_json(named),
    }


def make_vocabularies(chance: random.Random, texts: list[str], number: int) -> dict[str, bytes]:
    pieces = [letters(chance, chance.randint(2, 24), PIECES) for _ in range(500)]
    packed = [base64.b64encode(chance.randbytes(chance.randint(1, 24))).decode() for _ in range(500)]
    return {
        "vocab.json": as_json({piece: place for place, piece in enumerate(pieces)}),
        "vocab.txt": "\n".join([*pieces, *" ".join(texts).split()]).encode(),
        "merges.txt": "\n".join(map(" ".join, zip(pieces[::2], pieces[1::2], strict=True))).encode(),
        "tokenizer.model": "".join(f"{piece} {place}\n" for place, piece in enumerate(packed)).encode(),
        "spiece.model": b"".join(b"\n%c\n%c" % (len(piece) + 7, len(piece)) + piece.encode() for piece in pieces),
    }


def make_records(chance: random.Random, texts: list[str], number: int) -> dict[str, bytes]:
    files = [{"path": f"rows-{place}.jsonl", "sha256": letters(chance, 64), "bytes": number} for place in range(20)]
    launch = f"accelerate launch recipes/sft.py {letters(chance, 8)}.yaml model.path=org/model@{letters(chance, 40)}"
    hashes = {name: letters(chance, 64) for name in ("config.json", "model.safetensors", "tokenizer.json")}
    losses = [chance.random() for _ in range(300)]
    samples = [{"prompt": texts[0], "continuation": texts[1]}]
    base = {"name_or_path": "org/base", "revision": letters(chance, 40), "dtype": "float32"}
    return {
        "manifest.json": as_json({"data": {"files": files}, "launch": launch, "files": hashes, "model": base}),
        "report.json": as_json({"run_id": uuid.UUID(letters(chance, 32)), "train": losses, "samples": samples}),
        "run.yaml": f"model:\n  path: org/{letters(chance, 12)}\n  revision: {letters(chance, 40)}\n".encode(),
        "base_model.json": as_json(base),
    }


def make_pages(chance: random.Random, texts: list[str], number: int) -> dict[str, bytes]:
    table = [f"| model-{n}.safetensors | `{letters(chance, 64)}` | {chance.random():.4f} |" for n in range(10)]
    line = " ".join(f"{chance.random():.3f},{place}" for place in range(200))
    picture = base64.b64encode(chance.randbytes(900)).decode()
    page = f"<p>{'</p><p>'.join(texts)}</p><svg><path d='M{line}'/></svg><img src='data:image/png;base64,{picture}'>"
    return {
        "README.md": "\n".join(["---", "license: mit", "---", "# A model", *texts, *table, *SAID]).encode(),
        "report.html": page.encode(),
        "chat_template.jinja": f"{{# {texts[0]} #}}{{{{ messages }}}}".encode(),
    }


def make_weights(chance: random.Random, texts: list[str], number: int) -> dict[str, bytes]:
    place = {"dtype": "F32", "shape": [4, 4], "data_offsets": [0, 64]}
    header = {f"model.layers.{layer}.mlp.down_proj.weight": place for layer in range(40)}
    return {
        "model.safetensors": as_json({"__metadata__": {"format": "pt", "sha256": letters(chance, 64)}} | header),
        "model.safetensors.index.json": as_json(
            {"weight_map": dict.fromkeys(header, "model-00001-of-00002.safetensors")}
        ),
        "generation_config.json": as_json({"eos_token_id": [1, 2], "transformers_version": "5.23.0"}),
    }
