"""Tokenizers: load one or train one on the run's text, and check that it fits the model."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import AutoTokenizer, PreTrainedConfig, PreTrainedTokenizerFast

from hf_finetune.chat.special_tokens import get_control_tokens
from hf_finetune.config.model_files.tokenizer import TOKENIZER
from hf_finetune.config.paths import find_ready_made, is_missing
from hf_finetune.config.sections import ModelSection, TokenizerSection
from hf_finetune.errors import DataError, ModelError, Problem
from hf_finetune.folders import suggest_path
from hf_finetune.models.files.config_faults import check_config
from hf_finetune.models.files.foreign_errors import ForeignError, foreign_errors
from hf_finetune.models.files.language_models import check_language_model
from hf_finetune.models.files.locate import find_file
from hf_finetune.models.files.panics import hold_back_panics
from hf_finetune.models.files.untrusted import CODE, check_untrusted_files
from hf_finetune.models.tokenizer_probe import check_first_token
from hf_finetune.models.tokenizer_training import PAD, load_or_train

if TYPE_CHECKING:
    from datasets import Dataset  # a second and a half, and a saved tokenizer needs no rows

logger = logging.getLogger(__name__)


# Padding tokens that published vocabularies contain while `pad_token` is not set.
PAD_NAMES = (PAD, "<pad>", "[PAD]", "<|padding|>", "<|finetune_right_pad_id|>")
# Encoders that were trained on texts which begin with [CLS].
FIRST_TOKEN = (
    *("albert", "bert", "big_bird", "camembert", "convbert", "deberta", "deberta-v2", "distilbert", "electra", "ernie"),
    *("longformer", "mobilebert", "modernbert", "mpnet", "nystromformer", "rembert", "roberta"),
    *("roberta-prelayernorm", "roformer", "squeezebert", "xlm-roberta", "xlm-roberta-xl"),
)
_NO_TOKENIZER = "copy the model's folder again, with its tokenizer files"


def load_tokenizer(
    model: ModelSection, rows: Dataset | None = None, *, needs_end: bool = True
) -> PreTrainedTokenizerFast:
    """Load the tokenizer that the run names, or train it on the `text` column of `rows`; it has a padding token.

    `rows` is read only under `model.tokenizer.train`, in batches, where no earlier run has trained on them. Code in the
    tokenizer's folder is never run. Pass `needs_end=False` for classifiers: they need no end token, and encoders have
    none. Raises `ModelError` where there is no tokenizer, and for one without a fast implementation, one that would
    read files of other folders, or one without a required end token, and under `needs_end` for a model that cannot
    write; `DataError` where there is no text to train on.
    """
    if needs_end and model.path is not None:
        check_language_model(model.path, model.revision)  # before an encoder is refused for its tokenizer
    if isinstance(model.tokenizer, TokenizerSection):
        if rows is None or "text" not in rows.column_names:
            raise DataError(
                Problem(
                    "a tokenizer is trained on `text` rows", "name a tokenizer", key="model.tokenizer", code="HF556"
                )
            )
        train = model.tokenizer.train
        return load_or_train(train.kind, rows, train.vocab_size)
    if model.tokenizer is not None:
        tokenizer = _load_fast(model.tokenizer, None, "model.tokenizer")
    elif model.path is not None:
        tokenizer = _load_fast(model.path, model.revision, "model.path")
    else:
        remedy = "name a folder or a Hub id, or `train: {kind: bpe, vocab_size: 4096}`"
        raise ModelError(Problem("a model from scratch needs a tokenizer", remedy, key="model.tokenizer", code="HF556"))
    ensure_special_tokens(tokenizer, needs_end=needs_end)
    return tokenizer


def _load_fast(name: str, revision: str | None, key: str) -> PreTrainedTokenizerFast:
    command = find_ready_made(name)
    remedy = "name a folder that holds tokenizer.json, or a Hub id that is cached or can be reached"
    if command is not None:
        remedy = f"make it with: {command}"
    elif is_missing(name):
        remedy = suggest_path(name, remedy)
    if os.path.isdir(name) and not any(map(_is_tokenizer_file, Path(name).iterdir())):
        raise ModelError(
            Problem(f"{name!r} holds no tokenizer: no tokenizer.json", _NO_TOKENIZER, key=key, code="HF551")
        )
    try:
        commit = check_untrusted_files(name, revision)
        check_config(name, commit)  # which is read, too, and would be a fault of the tokenizer
        find_file(name, TOKENIZER, commit)  # a download shows its progress
        with hold_back_panics(), foreign_errors():  # tokenizers 0.23 raises an `Exception` for a malformed file
            tokenizer = AutoTokenizer.from_pretrained(
                name, revision=commit or revision or "main", trust_remote_code=False
            )
            if isinstance(tokenizer, PreTrainedTokenizerFast):
                tokenizer.backend_tokenizer.encode("a")  # some settings panic with the first text
    except (OSError, ForeignError) as error:
        reason = str(error).strip().split("\n", 1)[0]
        if "contains custom code" in reason:  # transformers 5.23, which would ask whether it may run
            what = f"the tokenizer of {name!r} is one that only code of its repository can build (auto_map)"
            raise ModelError(Problem(what, CODE, key=key, code="HF507")) from error
        raise ModelError(
            Problem(f"no tokenizer can be loaded from {name!r}: {reason}", remedy, key=key, code="HF551")
        ) from error
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        what = f"the tokenizer of {name!r} is a {type(tokenizer).__name__}, which has no fast implementation"
        raise ModelError(Problem(what, "convert it to a tokenizer.json first", key=key, code="HF551"))
    # From a folder with a config.json and no tokenizer files, transformers 5.23 makes a tokenizer with an empty
    # vocabulary and raises nothing. Can go when it raises.
    if tokenizer.vocab.keys() <= tokenizer.added_tokens_encoder.keys():
        raise ModelError(Problem(f"the tokenizer of {name!r} has no vocabulary", remedy, key=key, code="HF551"))
    return tokenizer


def _is_tokenizer_file(path: Path) -> bool:
    return path.name.startswith(("tokenizer", "vocab", "spiece", "sentencepiece", "merges", "tekken"))


def ensure_special_tokens(tokenizer: PreTrainedTokenizerFast, *, needs_end: bool = True) -> None:
    """Set a padding token where the tokenizer has none, and log which; the vocabulary never grows.

    It is a token of the vocabulary with one of the usual names, else the end token. A classifier that finds the pooled
    position by the padding id must then not append an end token to the text. Raises `ModelError` where there is no end
    token and `needs_end`, or nothing to pad with.
    """
    # Padding with the end token is safe here because labels are masked by length. transformers 5.23's language modeling
    # collator masks by id, so that no end token is learned: https://github.com/huggingface/transformers/issues/23530
    if tokenizer.eos_token_id is None and needs_end:
        remedy = "set `eos_token` in its tokenizer_config.json"
        raise ModelError(
            Problem("the tokenizer has no end token to end documents with", remedy, key="model.tokenizer", code="HF554")
        )
    if tokenizer.pad_token_id is not None:
        return
    usual = next((name for name in PAD_NAMES if name in tokenizer.vocab), tokenizer.eos_token)
    if usual is None:
        remedy = "set `pad_token` in its tokenizer_config.json"
        raise ModelError(
            Problem("the tokenizer has no token to pad texts with", remedy, key="model.tokenizer", code="HF554")
        )
    tokenizer.pad_token = usual
    logger.info("the tokenizer has no padding token: %r (%d) is used", tokenizer.pad_token, tokenizer.pad_token_id)


def check_tokenizer_fits(tokenizer: PreTrainedTokenizerFast, config: PreTrainedConfig, rows: int | None = None) -> None:
    """Raise `ModelError` where the tokenizer cannot belong to the model.

    Its ids must have rows in the embedding (`rows`, where it will have more than `config` says), the model's begin and
    end ids must be special tokens of it, and it must begin a text as the model was trained (`check_first_token`).
    """
    # Which special token is not compared: an instruct model may end on <|im_end|> where its base's tokenizer has
    # <|endoftext|>. But where the id is an ordinary word, the tokenizer is one of another vocabulary.
    problems = []
    text: Any = config.get_text_config()  # that of a model of texts and images stands inside
    largest = max(tokenizer.vocab.values())
    if largest >= max(text.vocab_size, rows or 0):
        what = f"the tokenizer's largest id is {largest:,}, the model has embeddings for {text.vocab_size:,} tokens"
        problems.append(
            Problem(what, "use the tokenizer that the model was trained with", key="model.tokenizer", code="HF555")
        )
    special = {index for index, token in tokenizer.added_tokens_decoder.items() if token.special}
    for name, ids in (("begin", text.bos_token_id), ("end", text.eos_token_id)):
        for index in ids if isinstance(ids, list) else [ids]:
            # An id without an embedding is a default that nobody set: GPT2Config says 50256 for any vocabulary.
            if index is None or index >= text.vocab_size or index in special:
                continue
            what = f"the model's {name} token is id {index:,}, which is no special token of this tokenizer"
            problems.append(
                Problem(what, "use the tokenizer that the model was trained with", key="model.tokenizer", code="HF555")
            )
    if problems:
        raise ModelError(problems)
    trained = any(name.endswith("ForSequenceClassification") for name in config.architectures or ())
    check_first_token(tokenizer, reads_first=config.model_type in FIRST_TOKEN, reads_bos=trained)


def find_unknown_pieces(tokenizer: PreTrainedTokenizerFast, text: str) -> list[str]:
    """List the distinct pieces of `text` (characters or words) that the tokenizer encodes as its unknown token."""
    if tokenizer.unk_token_id is None:
        return []
    (encoded,) = get_control_tokens(tokenizer, only_special=True).encode_plain([text])
    spans = zip(encoded.ids, encoded.offsets, strict=True)
    return list(dict.fromkeys(text[start:end] for index, (start, end) in spans if index == tokenizer.unk_token_id))
