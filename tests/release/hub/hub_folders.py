"""Folders to push: the files of a small model, made without torch."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

CARD = "---\nlicense: mit\ntags:\n- test\n---\n\n# A model\n"


def weights(path: Path, seed: int = 0, size: int = 2000) -> None:
    values = np.random.default_rng(seed).normal(size=size).astype(np.float32)
    save_file({"weight": values}, path, metadata={"format": "pt"})


def model_folder(folder: Path, seed: int = 0, shards: int = 1) -> Path:
    """A model as a run leaves it, with what must never be pushed beside it."""
    folder.mkdir(parents=True)
    names = ["model.safetensors"]
    if shards > 1:
        names = [f"model-{n:05d}-of-{shards:05d}.safetensors" for n in range(1, shards + 1)]
        index = {"metadata": {}, "weight_map": {f"w{n}": name for n, name in enumerate(names)}}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    for number, name in enumerate(names):
        weights(folder / name, seed * 100 + number)
    files = {
        "config.json": '{"model_type": "llama"}\n',
        "generation_config.json": "{}\n",
        "tokenizer.json": f'{{"seed": {seed}}}\n',
        "tokenizer_config.json": "{}\n",
        "chat_template.jinja": "{{ messages }}",
        "run.yaml": "recipe: sft\n",
        "report.json": "{}\n",
        "report.html": "<p>report</p>\n",
        "README.md": CARD,
    }
    for name, text in files.items():
        (folder / name).write_text(text)
    write_manifest(folder)
    never = (
        "training_args.bin",
        "optimizer.pt",
        "pytorch_model.bin",
        "notes.txt",
        "x.pkl",
        ".env",
        "train.log",
        "my.py",
    )
    for name in never:
        (folder / name).write_text("private")
    (folder / "checkpoint-5").mkdir()
    (folder / "checkpoint-5" / "model.safetensors").write_text("private")
    return folder


def write_manifest(folder: Path) -> None:
    """As `write_run_folder` has it: of every file that was there before report.json."""
    named = [path for path in folder.iterdir() if path.is_file() and path.suffix in (".safetensors", ".json", ".jinja")]
    hashed = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in named}
    left_out = ("report.json", "manifest.json")
    files = {name: sha256 for name, sha256 in hashed.items() if name not in left_out}
    (folder / "manifest.json").write_text(json.dumps({"files": files}))


PUSHED = {
    *("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"),
    *("run.yaml", "report.json", "report.html", "README.md", "manifest.json", "model.safetensors"),
}
