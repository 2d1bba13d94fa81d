"""HF1xx: lengths and tokens."""

from __future__ import annotations

from hf_finetune.codes.code import Code

LENGTHS: dict[str, Code] = {
    "HF101": Code(
        "rows lose their end, or are left out, because they are too long",
        "warning",
        "A model that never sees how an answer ends does not learn to end one; rows that are left out teach nothing.",
        "raise train.max_length as far as the memory allows, or choose what happens with data.too_long",
    ),
    "HF102": Code(
        "rows nothing of which is trained",
        "warning",
        "They take time to read and teach nothing; where they are many, the run trains on less than it seems to.",
        "take them out, or look at one with `hf-finetune tokens RUN.yaml FILE:LINE`",
    ),
    "HF103": Code(
        "turns that end without an end token",
        "warning",
        "A model that is not taught where an answer ends goes on until it is stopped.",
        "raise train.max_length, or leave such rows out with data.too_long: drop",
    ),
    "HF104": Code(
        "empty answers",
        "warning",
        "A model that is trained on empty answers learns to say nothing.",
        "take the rows out, or fill their answers",
    ),
    "HF105": Code(
        "answers, or texts to classify, without a letter or a digit",
        "note",
        "Dots, dashes and signs alone are mostly what is left of an answer that was not written, or of a bad export.",
        "look at the rows, and take those out that say nothing",
    ),
    "HF106": Code(
        "text that the tokenizer does not know",
        "warning",
        "All of it is one token to the model: what it says is neither learned nor measured.",
        "use a tokenizer that falls back to bytes, or clean the text",
    ),
    "HF107": Code(
        "text that spells control tokens",
        "note",
        "It stays text, so that nobody who writes into the rows can end a turn; what was meant as structure is none.",
        "put reasoning into reasoning_content and calls into tool_calls, or leave it as it is",
    ),
}
