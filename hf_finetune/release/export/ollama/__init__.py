"""The target `ollama`: a GGUF file and its Modelfile, whose template in Go is proved to give the prompts of the run.

exporting      the target
shapes         what a chat template writes, found by rendering, and a template in Go that writes the same
rendering      such a template rendered: by Go itself, or by our own reader
render.go      the program for that, which gives a template what Ollama gives it
go_subset      our own reader, of the part of Go's template language that is written here
modelfile      the Modelfile
"""

from __future__ import annotations

from hf_finetune.release.export.ollama.exporting import check, get_tolerance, open_runtime, write

__all__ = ["check", "get_tolerance", "open_runtime", "write"]
