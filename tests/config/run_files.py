"""A run file that loads in the working folder of these tests."""

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
