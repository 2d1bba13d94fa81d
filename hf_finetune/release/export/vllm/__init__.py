"""The target `vllm`: a model folder in fewer bits, in the format `compressed-tensors`.

quantizing  which products are quantized, and how: `--quant`
writing     what is refused, the folder, and the folder opened again
"""

from __future__ import annotations

from hf_finetune.release.export.vllm.writing import check, get_tolerance, open_runtime, write

__all__ = ["check", "get_tolerance", "open_runtime", "write"]
