"""HF1xx: lengths and tokens."""

from __future__ import annotations

from hf_finetune.codes.code import Code

LENGTHS: dict[str, Code] = {
    "HF101": Code(
        "rows lose their end, or are left out, because they are too long",
        "warning",
        "A model that never sees how an answer ends does not learn to end one; what is cut or "
        "left out teaches nothing.",
        "raise train.max_length, of a classifier data.max_length, as far as the memory allows, or choose what happens "
        "with data.too_long",
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
    "HF111": Code(
        "more rows would be left out than the run allows",
        "error",
        "A model that is trained on what is left has learned from other rows than its file holds, and nobody would "
        "notice.",
        "raise train.max_length, choose what becomes of long rows with data.too_long, or allow the share in "
        "data.max_dropped",
    ),
    "HF112": Code(
        "a row is longer than train.max_length, and none may be left out",
        "error",
        "With data.too_long: error the run promises that each row is trained whole, and this one cannot be.",
        "shorten the row or raise train.max_length, or choose drop, cut or split for data.too_long",
    ),
    "HF113": Code(
        "a length in tokens that the model does not take",
        "error",
        "For positions behind its limit a model has no embedding, or none that was ever trained. Where neither the "
        "model nor its tokenizer has a limit, none can be taken from them.",
        "write a number that the model takes, or leave the setting out where it has a limit",
    ),
    "HF121": Code(
        "no document has any text",
        "error",
        "Without a single token there is nothing to train a model or a tokenizer on, and nothing to score.",
        "look at the files that the run names, and at the field that its rows are read from",
    ),
    "HF122": Code(
        "the tokenizer gives up on a text",
        "error",
        "The patterns of some tokenizers go back and forth in a long repetition without end, and the library stops "
        "with no tokens at all: the row cannot be trained or scored.",
        "shorten what repeats in the text, or use another tokenizer",
    ),
    "HF123": Code(
        "the tokenizer changes the text of rows",
        "warning",
        "What is trained is what the tokens decode to, and that is not what the rows say: it is lower case, other "
        "spaces, or lacks characters.",
        "look at such a row with `hf-finetune tokens RUN.yaml FILE:LINE`, and use a tokenizer that keeps what "
        "matters to you",
    ),
}
