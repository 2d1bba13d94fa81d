"""The target `onnx`: a graph for onnxruntime, with tokenizer, configuration and decision beside it.

graphs      what is traced: a language model with its cache, a classifier with its decision
writing     the graph traced and written, in 8 bits on request
files       in one file, or with the weights beside it
blocks      weights in 8 bits, block by block
quantizing  the graph in 8 bits, and what that gives
"""

from __future__ import annotations

from hf_finetune.release.export.onnx.writing import check, get_tolerance, open_runtime, write

__all__ = ["check", "get_tolerance", "open_runtime", "write"]
