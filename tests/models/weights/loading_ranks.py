"""Loads a model folder on each of two processes, and writes the MB that it has taken, its buffers and a code to a file.

Run by torchrun: `loading_ranks.py FOLDER`; the folder loses a weight at last, and gets `rank-0.json` and `rank-1.json`.
Of one stdout the lines of two processes and gloo's own came out mixed.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig

from hf_finetune.config.sections import ModelSection
from hf_finetune.environment.processes import init_processes
from hf_finetune.errors import ModelError
from hf_finetune.models import load_causal_lm


def read_own_memory() -> float:
    """The MB of this process that are no pages of files."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("Anonymous:"))


def main(folder: str) -> None:
    state = init_processes()
    model = ModelSection(path=folder, dtype="float32")
    config = AutoConfig.from_pretrained(folder)
    before = read_own_memory()
    loaded = load_causal_lm(model, config, 64, bf16=False)
    taken = read_own_memory() - before
    assert {each.dtype for each in loaded.parameters()} == {torch.float32}
    buffers = hashlib.sha256(b"".join(each.numpy().tobytes() for each in loaded.buffers())).hexdigest()
    if state.is_main_process:
        weights = load_file(f"{folder}/model.safetensors")
        del weights["model.norm.weight"]
        save_file(weights, f"{folder}/model.safetensors", metadata={"format": "pt"})
    state.wait_for_everyone()
    try:
        load_causal_lm(model, config, 64, bf16=False)
    except ModelError as refused:
        said = {"taken": taken, "buffers": buffers, "code": refused.problems[0].code}
        Path(folder, f"rank-{state.process_index}.json").write_text(json.dumps(said))


if __name__ == "__main__":
    main(sys.argv[1])
