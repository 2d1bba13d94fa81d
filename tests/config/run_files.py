"""Run files that load in the working folder of these tests."""

from __future__ import annotations

VALID = """\
recipe: continued_pretraining
model:
  scratch: {preset: nano}
  tokenizer: {train: {kind: bpe, vocab_size: 300}}
data:
  train: train.jsonl
train:
  max_steps: 5
output_dir: runs/first
"""

VALID_SFT = """\
recipe: sft
model: {path: base}
data:
  train: train.jsonl
train:
  max_steps: 5
output_dir: runs/first
"""

VALID_LORA = VALID_SFT.replace("recipe: sft", "recipe: lora").replace("output_dir", "lora: {r: 4}\noutput_dir")

VALID_CLASSIFICATION = VALID_SFT.replace("recipe: sft", "recipe: classification")
