"""The target `llama`: a ScratchGPT as an ordinary folder of a published architecture.

conversion  which architecture computes the same, or what is in the way; the model itself
writing     what is refused, and the folder
on_the_way  the same for a target that is made of it
"""

from __future__ import annotations

from hf_finetune.release.export.llama.writing import check, get_tolerance, open_runtime, write

__all__ = ["check", "get_tolerance", "open_runtime", "write"]
