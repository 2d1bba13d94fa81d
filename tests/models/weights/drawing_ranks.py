"""Draws a new GPT on each of two processes; what each has taken, and what it is at, goes to `rank-0.json` and `-1`.

Run by torchrun: `drawing_ranks.py FOLDER`. By itself it is the one process that all is compared with.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterable
from pathlib import Path

import torch
import transformers
from models.scratch_models import tiny_config
from models.weights.loading_ranks import read_own_memory
from torch import Tensor

from hf_finetune.config.sections import ModelSection, ScratchSection
from hf_finetune.environment.processes import init_processes
from hf_finetune.models import load_causal_lm


def hash_tensors(tensors: Iterable[Tensor]) -> str:
    return hashlib.sha256(b"".join(each.detach().numpy().tobytes() for each in tensors)).hexdigest()


def main(folder: str) -> None:
    state = init_processes()
    config = tiny_config(hidden_size=768, num_hidden_layers=4, num_attention_heads=12)
    transformers.set_seed(0)
    before = read_own_memory()
    drawn = load_causal_lm(ModelSection(scratch=ScratchSection()), config, 64, bf16=False)
    said = {
        "taken": read_own_memory() - before,
        "weights": hash_tensors(drawn.parameters()),
        "zeros": not any(each.any() for each in drawn.parameters()),
        "buffers": hash_tensors(drawn.buffers()),
        "random": hash_tensors([torch.get_rng_state()]),
    }
    Path(folder, f"rank-{state.process_index}.json").write_text(json.dumps(said))


if __name__ == "__main__":
    main(sys.argv[1])
