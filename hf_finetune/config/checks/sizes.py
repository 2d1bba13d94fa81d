"""The weights of a new model against the memory of the machine, before any is allocated."""

from __future__ import annotations

from typing import Any

from hf_finetune.config.reading.document import RunDocument
from hf_finetune.memory import format_size

BYTES_A_WEIGHT = 4
"""A model from random weights is built in float32, on the CPU, whatever it is trained on."""
# Those of the smallest preset, whatever the preset: what is not given makes nothing larger here.
_NANO = {"hidden_size": 128, "num_hidden_layers": 4, "ngram_order": 1, "ngram_vocab_size": 4096}


def check_sizes(document: RunDocument, run: Any) -> None:
    """Refuse a `model.scratch` whose weights alone are more than all memory: at the setting that has most of them."""
    scratch = run.model.scratch
    if scratch is None or document.is_refused("model.scratch"):
        return
    given = {name: getattr(scratch, name) or least for name, least in _NANO.items()}
    inner, positions = scratch.intermediate_size or given["hidden_size"], scratch.max_position_embeddings or 1
    learned = positions if scratch.family == "gpt2" or scratch.preset == "gpt2" else 0
    # Of a block two square matrices at least, and two of the feed-forward part; of n-grams a table a length.
    counts = {
        "num_hidden_layers": given["num_hidden_layers"] * given["hidden_size"] * (2 * given["hidden_size"] + 2 * inner),
        "ngram_vocab_size": (given["ngram_order"] - 1) * given["ngram_vocab_size"] * given["hidden_size"],
        "max_position_embeddings": learned * given["hidden_size"],
    }
    needed, there = sum(counts.values()) * BYTES_A_WEIGHT, _read_memory()
    if needed > there:
        most = max(counts, key=counts.__getitem__)
        what = f"the weights take {format_size(needed)} or more, and this machine has {format_size(there)}"
        document.refuse(
            ("model", "scratch", most), what, "make it smaller, or another setting of model.scratch", code="HF703"
        )


def _read_memory() -> int:
    import psutil  # with the first new model, not with every command

    return int(psutil.virtual_memory().total + psutil.swap_memory().total)
