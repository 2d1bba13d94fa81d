"""What the instruction benchmarks share: rows, a small base model, timed runs, and one scorer for every saved model."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import transformers
from torch.nn.functional import cross_entropy
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from hf_finetune.models.saved import load_for_generation
from hf_finetune.models.tokenizer_training import train_tokenizer

HELD_OUT = 0.1
VOCABULARY = 4_096
LONGEST_ROW = 1_024
# ChatML that marks what the assistant says, with the token that ends its turn: TRL trains what is marked, and so do we.
CHAT_TEMPLATE = """{%- for message in messages -%}
{{- '<|im_start|>' + message.role + '\\n' -}}
{%- if message.role == 'assistant' -%}
{%- generation -%}{{- message.content + '<|im_end|>' -}}{%- endgeneration -%}
{%- else -%}
{{- message.content + '<|im_end|>' -}}
{%- endif -%}
{{- '\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}
"""

Conversation = dict[str, list[dict[str, str]]]

# A process of its own between a large one and the measured one: until a child runs its own program, Linux counts the
# memory of the process that started it.
MEASURE = """
import resource, subprocess, sys, time
start = time.perf_counter()
code = subprocess.call(sys.argv[2:])
usage = resource.getrusage(resource.RUSAGE_CHILDREN)
open(sys.argv[1], "w").write(f"{time.perf_counter() - start} {usage.ru_maxrss / 1024}")
sys.exit(code)
"""


@dataclass(frozen=True)
class Cost:
    seconds: float
    """From the start of the process to its end."""
    peak_mib: float
    said: str = ""


def read_conversations(path: Path) -> tuple[list[Conversation], list[Conversation]]:
    """Rows of instruction, input and output as conversations, in random order: training, and the held-out tenth."""
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        question = "\n\n".join(part for part in (row["instruction"], row.get("input")) if part)
        answer = {"role": "assistant", "content": row["output"]}
        rows.append({"messages": [{"role": "user", "content": question}, answer]})
    random.Random(0).shuffle(rows)
    held_out = int(HELD_OUT * len(rows))
    return rows[held_out:], rows[:held_out]


def write_rows(path: Path, rows: Sequence[Conversation]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def make_base(folder: Path, rows: Sequence[Conversation], *, hidden: int, layers: int) -> Path:
    """Save a Llama of random weights, and a tokenizer trained on the rows."""
    transformers.utils.logging.disable_progress_bar()
    tokenizer = train_tokenizer("bpe", [turn["content"] for row in rows for turn in row["messages"]], VOCABULARY)
    tokenizer.add_special_tokens({"extra_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    tokenizer.eos_token = "<|im_end|>"
    tokenizer.chat_template = CHAT_TEMPLATE
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=4 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 64,
        num_key_value_heads=hidden // 64,
        max_position_embeddings=LONGEST_ROW,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def run(command: Sequence[str | Path | float], variables: Mapping[str, str] | None = None) -> Cost:
    """Run a command of this environment, with these variables, to its end; ends the benchmark where it fails."""
    environment = {"OMP_NUM_THREADS": str(os.cpu_count()), **os.environ, "HF_HUB_OFFLINE": "1"} | dict(variables or {})
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    with tempfile.NamedTemporaryFile(mode="r") as figures:
        measured = [str(part) for part in (sys.executable, "-c", MEASURE, figures.name, *command)]
        done = subprocess.run(measured, capture_output=True, text=True, env=environment)
        if done.returncode:
            raise SystemExit(f"{' '.join(measured[4:])}\n{done.stdout}\n{done.stderr}")
        seconds, peak = figures.read().split()
    return Cost(float(seconds), float(peak), done.stdout + done.stderr)


def train_ours(
    recipe: str,
    folder: Path,
    base: Path,
    rows: Path,
    *,
    variables: Mapping[str, str] | None = None,
    **train: object,
) -> tuple[Cost, dict[str, Any]]:
    """Train with `recipes/{recipe}.py` on the rows, and return also its report. Names with a dot go into the run file
    as they are, others into `train:`; `variables` into the environment."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    run_file = folder.with_suffix(".yaml")
    run_file.write_text(f"recipe: {recipe}\noutput_dir: {folder}\nmodel: {{path: {base}}}\ndata: {{train: {rows}}}\n")
    settings = {name if "." in name else f"train.{name}": value for name, value in train.items()}
    overrides = [f"{name}={json.dumps(value)}" for name, value in settings.items()]
    cost = run(["hf-finetune", "train", run_file, *overrides], variables)
    return cost, json.loads((folder / "report.json").read_text())


@torch.no_grad()
def row_losses(model: Path, rows: Sequence[Conversation]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """Negative log-likelihood of what the assistant says in each row, and its tokens; of a saved model or adapter.

    One row at a time in single precision: nothing of either trainer is in it.
    """
    loaded, tokenizer = load_for_generation(str(model))
    loaded.float().eval()
    nll, counts = [], []
    for ids, trained in rendered(rows, tokenizer):
        logits = loaded(ids[None].to(loaded.device), use_cache=False).logits[0, :-1].float().cpu()
        kept = trained[1:]
        nll.append(cross_entropy(logits[kept], ids[1:][kept], reduction="sum").item())
        counts.append(int(kept.sum()))
    return np.array(nll), np.array(counts)


def rendered(
    rows: Sequence[Conversation], tokenizer: PreTrainedTokenizerFast
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Ids of each row, and which of them the template marks as the assistant's."""
    for row in rows:
        found = tokenizer.apply_chat_template(row["messages"], return_dict=True, return_assistant_tokens_mask=True)
        yield torch.tensor(found["input_ids"]), torch.tensor(found["assistant_masks"]) == 1
