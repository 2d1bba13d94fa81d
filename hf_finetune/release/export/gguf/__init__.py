"""The target `gguf`: a model as one file, as llama.cpp and what is built on it read it.

exporting      the target: written, opened in llama.cpp and compared there
settings       a configuration in its words
split_rules    how a tokenizer splits text, by its names
vocabulary     a tokenizer as a file holds it
quantization   how weights are stored
writing        the file
adapters       a LoRA adapter alone
llama_cpp      llama.cpp itself
odd_texts      texts on which its tokens are held against the run's
"""

from __future__ import annotations

from hf_finetune.release.export.gguf.exporting import check, get_tolerance, open_runtime, write

__all__ = ["check", "get_tolerance", "open_runtime", "write"]
