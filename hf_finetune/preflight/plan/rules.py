"""Learning rates, batches, epochs and sizes by published rules: each function returns a figure and its source."""

from __future__ import annotations

import math
from typing import NamedTuple

REFERENCE_HIDDEN = 2_000
LLAMA_EXPONENT = 0.781
LORA_FACTOR = 10
LORA_RANK = 16
BASE_RATE = 5e-5
REPEATS = 4
"""Passes over the same text that are about as good as new text."""
TOKENS_PER_PARAMETER = 20


class Rule(NamedTuple):
    """A figure, and where it comes from."""

    value: float
    source: str


def round_figure(value: float, digits: int = 2) -> float:
    """Round to so many digits: 0.00132 -> 0.0013."""
    return float(f"{value:.{digits - 1}e}")


def _scaled_rate(hidden: int) -> float:
    return BASE_RATE * float((REFERENCE_HIDDEN / hidden) ** LLAMA_EXPONENT)


def lora_rate(hidden: int) -> Rule:
    """The learning rate of an adapter on a model of this hidden size."""
    rate = min(max(LORA_FACTOR * _scaled_rate(hidden), 1e-4), 5e-3)
    formula = f"10 x 5e-5 x (2000 / {hidden:,} hidden)^0.781"
    return Rule(round_figure(rate), f"{formula}: LoRA Without Regret (Schulman et al. 2025) and its cookbook")


def full_rate(parameters: int, hidden: int) -> Rule:
    """The learning rate of all parameters of a pretrained model that learns to answer."""
    if parameters >= 6e9:
        return Rule(5e-6, "Tülu 3's for 8 B parameters (Lambert et al. 2024, arXiv:2411.15124)")
    if parameters >= 1e9:
        return Rule(2e-5, "the default of TRL's SFTConfig")
    rate = round_figure(min(_scaled_rate(hidden), 2e-4))
    return Rule(
        rate, f"5e-5 x (2000 / {hidden:,} hidden)^0.781: a tenth of an adapter's, as LoRA Without Regret has it"
    )


def classifier_rate(parameters: int) -> Rule:
    """The learning rate of a pretrained model with a new head."""
    rate = 5e-5 if parameters < 5e7 else 3e-5 if parameters < 2e8 else 2e-5
    return Rule(rate, "of 5e-5, 3e-5 and 2e-5 (BERT, Devlin et al. 2019, A.3) that for a model of this size")


def continued_rate(parameters: int) -> Rule:
    """The learning rate of a pretrained model that reads on."""
    rate = 1e-4 if parameters < 1e9 else 2e-5
    return Rule(rate, "warmed up again and decayed, below that of pretraining (Gupta et al. 2023, arXiv:2308.04014)")


def classifier_epochs(rows: int, *, scratch: bool) -> Rule:
    """Passes over labelled rows; the best is kept."""
    if scratch:
        return Rule(20 if rows < 2_000 else 10, "random weights have more to learn; the best pass is kept")
    if rows < 2_000:
        passes = 20 if rows < 500 else 10
        return Rule(passes, "few rows need more passes (Mosbach et al. 2021, arXiv:2006.04884: 20); the best is kept")
    return Rule(4 if rows < 10_000 else 3, "of 2, 3 and 4 (BERT, Devlin et al. 2019, A.3)")


def answer_epochs(rows: int) -> Rule:
    """Passes over conversations."""
    if rows >= 10_000:
        return Rule(2, "as Tülu 3 and SmolLM2 have it")
    return Rule(3 if rows >= 100 else 5, "as Alpaca (2023) has it for tens of thousands; the best pass is kept")


def text_epochs(tokens: int) -> Rule:
    """Passes over text of a model that reads on."""
    if tokens >= 50_000_000:
        return Rule(1, "enough text to read once")
    return Rule(REPEATS if tokens < 5_000_000 else 2, "up to 4 are about as good as new text (Muennighoff et al. 2023)")


def scratch_epochs(steps_a_pass: int) -> Rule:
    """Passes over text of a model from random weights: enough for some hundred steps, where the text is short."""
    # Of 40 steps a pass 10 passes, and 30 at the most, however short the text is.
    passes = min(max(REPEATS, math.ceil(400 / max(1, steps_a_pass))), 30)
    source = "4 are about as good as new text (Muennighoff et al. 2023)"
    return Rule(passes, source if passes == REPEATS else f"{source}; a short text needs more for 400 steps")


def answer_batch(rows: int) -> Rule:
    """Rows of a step."""
    size = next((size for least, size in ((2_000, 32), (500, 16), (100, 8)) if rows >= least), 4)
    return Rule(size, "small: adapters lose to full tuning at large ones (LoRA Without Regret); QLoRA's table has 16")


def classifier_batch(rows: int) -> Rule:
    """Rows of a step."""
    return Rule(32 if rows >= 5_000 else 16 if rows >= 300 else 8, "16 or 32 (BERT, A.3), fewer of few rows")


def choose_preset(tokens: int, *, fast: bool) -> tuple[str, str]:
    """The size of a model from random weights, by the tokens that it will read, four passes included."""
    # 12 x layers x hidden**2, without embeddings: 12 layers of 512 are 37.7 M, and 6 of 384 are 10.6 M.
    sizes = (("small", 37_700_000), ("tiny", 10_600_000)) if fast else (("tiny", 10_600_000),)
    read = REPEATS * tokens
    name = next((name for name, size in sizes if read >= TOKENS_PER_PARAMETER * size), "nano")
    why = f"20 tokens a parameter (Chinchilla, Hoffmann et al. 2022), of about {tokens:,} tokens read up to 4 times"
    return name, why


def choose_vocabulary(characters: int) -> int:
    """The size of a vocabulary that is trained on so much text: each token should occur often enough to be learned."""
    sizes = ((50_000_000, 16_384), (2_000_000, 4_096), (300_000, 1_024))
    return next((size for least, size in sizes if characters >= least), 512)


def held_out_share(rows: int, wanted: int) -> float:
    """The share of rows for validation: `wanted` rows, a fifth at most; 0.0 where there are too few to spare any."""
    return 0.0 if rows < 5 else max(0.01, math.ceil(100 * min(0.2, wanted / rows)) / 100)


def half_width(rows: int) -> float:
    """Half of the 95 % interval of an accuracy of one half, by so many rows: 0.05 by 400."""
    return 1.96 * 0.5 / math.sqrt(max(1, rows))
