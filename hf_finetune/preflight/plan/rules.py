"""Learning rates, batches, epochs and sizes by published rules: each function returns a figure and its source."""

from __future__ import annotations

import math
from typing import NamedTuple

from hf_finetune.data.reading.formats import Kind
from hf_finetune.metric_info import choose_verb, say_count

REFERENCE_HIDDEN = 2_000
LLAMA_EXPONENT = 0.781
LORA_FACTOR = 10
LORA_RANK = 16
BASE_RATE = 5e-5
STEPS_FROM_SCRATCH, MOST_PASSES = 400, 30
REPEATS = 4
"""Passes over the same text that are about as good as new text."""
TOKENS_PER_PARAMETER = 20
LEAST_HELD_OUT = 5
"""Rows, or groups of them, of which one can be spared."""
SMALLEST = 850_000
"""Parameters of the preset nano, with the smallest vocabulary."""
LEAST_TOKENS = 10_000
"""Of a text that is read: of fewer it is said that they are few."""


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
    """Passes over labelled rows."""
    if scratch:
        return Rule(20 if rows < 2_000 else 10, "random weights have more to learn")
    if rows < 2_000:
        passes = 20 if rows < 500 else 10
        return Rule(passes, "few rows need more passes (Mosbach et al. 2021, arXiv:2006.04884: 20)")
    return Rule(4 if rows < 10_000 else 3, "of 2, 3 and 4 (BERT, Devlin et al. 2019, A.3)")


def answer_epochs(rows: int) -> Rule:
    """Passes over conversations."""
    if rows >= 10_000:
        return Rule(2, "as Tülu 3 and SmolLM2 have it")
    if rows >= 100:
        return Rule(3, "as Alpaca (2023) has it, for 52,000 rows")
    return Rule(5, "so few rows are few steps; Alpaca (2023) has 3 for 52,000")


def text_epochs(tokens: int) -> Rule:
    """Passes over text of a model that reads on."""
    if tokens >= 50_000_000:
        return Rule(1, "enough text to read once")
    return Rule(REPEATS if tokens < 5_000_000 else 2, "up to 4 are about as good as new text (Muennighoff et al. 2023)")


def scratch_epochs(steps_a_pass: int) -> Rule:
    """Passes over text of a model from random weights: enough for some hundred steps, where the text is short."""
    # Of 40 steps a pass 10 passes, and 30 at the most, however short the text is.
    wanted = max(REPEATS, math.ceil(STEPS_FROM_SCRATCH / max(1, steps_a_pass)))
    source = f"{REPEATS} are about as good as new text (Muennighoff et al. 2023)"
    if wanted <= REPEATS:
        return Rule(REPEATS, source)
    if wanted <= MOST_PASSES:
        return Rule(wanted, f"for some {STEPS_FROM_SCRATCH} steps, as the text is short: {source}, and more are less")
    steps = f"{say_count(MOST_PASSES * steps_a_pass, 'step')} where {STEPS_FROM_SCRATCH} are wanted"
    return Rule(MOST_PASSES, f"the most, some {steps}: {source}, and more are less")


def answer_batch(rows: int, *, adapter: bool) -> Rule:
    """Rows of a step."""
    size = next((size for least, size in ((2_000, 32), (500, 16), (100, 8)) if rows >= least), 4)
    source = "small: adapters lose to full tuning at large ones (LoRA Without Regret); QLoRA's table has 16"
    return Rule(at_most(size, rows), source if adapter else "fewer of few rows, so that a pass has some steps")


def at_most(size: int, rows: int) -> int:
    """`size`, a power of two, or the largest one that is no more than there are rows."""
    return min(size, 1 << (max(1, rows).bit_length() - 1))


def classifier_batch(rows: int) -> Rule:
    """Rows of a step."""
    size = 32 if rows >= 5_000 else 16 if rows >= 300 else 8
    return Rule(at_most(size, rows), "16 or 32 (BERT, A.3), fewer of few rows")


def choose_preset(tokens: int, *, fast: bool) -> tuple[str, str]:
    """The size of a model from random weights, by the tokens that it will read, four passes included."""
    # 12 x layers x hidden**2, without embeddings: 12 layers of 512 are 37.7 M, and 6 of 384 are 10.6 M.
    sizes = (("small", 37_700_000), ("tiny", 10_600_000)) if fast else (("tiny", 10_600_000),)
    read = REPEATS * tokens
    chinchilla = f"{TOKENS_PER_PARAMETER} tokens a parameter (Chinchilla, Hoffmann et al. 2022)"
    passes = f"{REPEATS} passes over about {say_count(tokens, 'token')} are {read:,}"
    for name, size in sizes:
        if read >= TOKENS_PER_PARAMETER * size:
            return name, f"{chinchilla}, and {passes}"
    name, size = sizes[-1]
    return "nano", f"the smallest: {name} is for {size * TOKENS_PER_PARAMETER:,} tokens by {chinchilla}, and {passes}"


def choose_vocabulary(characters: int) -> int:
    """The size of a vocabulary that is trained on so much text: each token should occur often enough to be learned."""
    sizes = ((50_000_000, 16_384), (2_000_000, 4_096), (300_000, 1_024))
    return next((size for least, size in sizes if characters >= least), 512)


def explain_few_tokens(tokens: int, block: int, *, scratch: bool) -> str | None:
    """Why so much text teaches nothing that can be relied on; None where it is enough."""
    if tokens >= LEAST_TOKENS:
        return None
    why = f"that is {say_count(max(1, tokens // block), 'block')} of {block:,}"
    if scratch:
        wanted = f"{TOKENS_PER_PARAMETER * SMALLEST // 10**6:,} million"
        why = f"the smallest model is for {wanted}, by {TOKENS_PER_PARAMETER} a parameter (Chinchilla)"
    return f"about {say_count(tokens, 'token')} of text {_teach(tokens)} little: {why}"


def explain_few_rows(kind: Kind, rows: int, labels: int) -> str | None:
    """Why so many rows, repeats left out, teach nothing that can be relied on; None where they are enough.

    `labels`: how many there are; 0 where quantities are predicted.
    """
    told = f"{say_count(rows, 'different row')} {_teach(rows)} little"
    if kind != "labelled":
        why = "OpenAI's guide to fine-tuning takes no fewer than 10, and sees clear gains from 50 to 100 on"
        return f"{told}: {why}" if rows < 50 else None
    if labels and rows < 8 * labels:
        why = "SetFit, which is made for few rows, is measured from 8 of each label on (Tunstall et al. 2022)"
        return f"{told} of {say_count(labels, 'label')}: {why}"
    why = "below 1,000 two runs of one file may differ much (Zhang et al. 2021, arXiv:2006.05987)"
    return f"{told}: {why}" if rows < 50 else None


def explain_few_held_out(rows: int, *, accuracy: bool) -> str | None:
    """Why an evaluation by so many rows shows little; None where they are enough for a hint."""
    said = f"about {say_count(rows, 'row')} {choose_verb(rows, 'is', 'are')} held out"
    if accuracy and half_width(rows) >= 0.2:
        return f"{said}, by which an accuracy is known to {100 * half_width(rows):.0f} points or better"
    return f"{said}: a loss by so few is a hint and no measurement" if not accuracy and rows < 10 else None


def _teach(number: int) -> str:
    return choose_verb(number, "teaches", "teach")


def held_out_share(rows: int, wanted: int) -> float:
    """The share of rows for validation: `wanted` rows, a fifth at most; 0.0 where there are too few to spare any."""
    return 0.0 if rows < LEAST_HELD_OUT else max(0.01, math.ceil(100 * min(0.2, wanted / rows)) / 100)


def half_width(rows: int) -> float:
    """Half of the 95 % interval of an accuracy of one half, by so many rows: 0.05 by 400."""
    return 1.96 * 0.5 / math.sqrt(max(1, rows))
