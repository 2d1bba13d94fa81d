"""Real runs of transformers' Trainer that are made to go one way or another, in a second each."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset
from transformers import PrinterCallback, Trainer, TrainingArguments, set_seed

from hf_finetune.models.scratch_gpt import ScratchGPTConfig, ScratchGPTForCausalLM

WIDTH = 32
PEOPLE = ("Ada", "Bo", "Cy", "Dee", "Eli", "Fay")
DOINGS = ("sees", "likes", "meets", "calls", "helps")


class Rows(Dataset):
    def __init__(self, text: str) -> None:
        ids = torch.tensor([min(ord(character), 127) for character in text])
        self.ids = ids[: len(ids) // WIDTH * WIDTH].view(-1, WIDTH)

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, number: int) -> dict[str, torch.Tensor]:
        return {"input_ids": self.ids[number], "labels": self.ids[number]}


def sentences(draw: random.Random, characters: int) -> str:
    """A language with a grammar, and more sentences than a small model sees."""
    text = ""
    while len(text) < characters:
        text += f"{draw.choice(PEOPLE)} {draw.choice(DOINGS)} {draw.choice(PEOPLE)} at {draw.randrange(1, 13)}. "
    return text[:characters]


def real_run(kind: str, folder: Path, seed: int = 7, **settings: Any) -> Path:
    """Train a run of a kind; its trainer_state.json is in the folder."""
    draw = random.Random(seed)
    set_seed(seed)
    text, fields = sentences(draw, 60_000), {"learning_rate": 1e-2, "max_steps": 100, "lr_scheduler_type": "cosine"}
    if kind == "overfit":
        text, fields["max_steps"] = text[: 12 * WIDTH], 120
    elif kind == "underfit":
        fields |= {"max_steps": 30, "logging_steps": 2, "eval_steps": 3, "lr_scheduler_type": "constant"}
    elif kind == "diverge":
        fields |= {"learning_rate": 30.0, "optim": "sgd", "max_grad_norm": 0.0, "lr_scheduler_type": "constant"}
    elif kind == "plateau":
        text, fields["lr_scheduler_type"] = "".join(draw.sample(text, len(text))), "constant"
    elif kind == "low_rate":
        fields["learning_rate"] = 2e-6
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "max_position_embeddings": WIDTH}
    model = ScratchGPTForCausalLM(ScratchGPTConfig(vocab_size=128, pad_token_id=0, **sizes))
    quiet = {"report_to": "none", "disable_tqdm": True, "save_strategy": "no", "use_cpu": True}
    every = {"logging_steps": 5, "eval_strategy": "steps", "eval_steps": 10, "per_device_train_batch_size": 8}
    args = TrainingArguments(str(folder), seed=seed, **{**quiet, **every, **fields, **settings})
    held_out = Rows(sentences(random.Random(seed + 1), 40 * WIDTH))
    if kind == "plateau":
        held_out = Rows("".join(draw.sample(text, 40 * WIDTH)))
    trainer = Trainer(model=model, args=args, train_dataset=Rows(text), eval_dataset=held_out)
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    trainer.save_state()
    return folder
