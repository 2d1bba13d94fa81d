"""The ids of one sentence: by them a saved model or adapter knows the tokenizer that it was trained with."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from transformers import PreTrainedTokenizerFast

from hf_finetune.config.model_files.regular import read_object
from hf_finetune.errors import ModelError, Problem
from hf_finetune.folders import CHECKPOINT, MANIFEST
from hf_finetune.models.files.adapter import BASE_RECORD
from hf_finetune.models.files.locate import find_file

# Its key in manifest.json, and in base_model.json.
PROBE = "tokenizer_probe"

# Words, case, numbers, blanks, other scripts: where two tokenizers differ, they differ here.
SENTENCE = "The 3 quick brown foxes jumped 1,024 times:\n\tnaïve, Größe, 東京, Привет 🙂  def f(x): return x**2"


def probe_tokenizer(tokenizer: PreTrainedTokenizerFast) -> list[int]:
    """The ids (tokens,) of the sentence, with the special tokens that the tokenizer puts around a text."""
    ids: list[int] = tokenizer.backend_tokenizer.encode(SENTENCE).ids
    return ids


def check_trained_tokenizer(tokenizer: PreTrainedTokenizerFast, name: str, revision: str | None = None) -> None:
    """Raise `ModelError` where the whole model `name`, a folder or Hub id, was trained with another tokenizer.

    Known of what a run of ours has left, by its manifest.json (a checkpoint's is that of the folder around it), and of
    what was merged here, by its base_model.json.
    """
    around = str(Path(name).parent) if CHECKPOINT.fullmatch(Path(name).name) else name
    for folder, file in ((name, MANIFEST), (around, MANIFEST), (name, BASE_RECORD)):
        path = find_file(folder, file, revision)
        trained = None if path is None else (read_object(Path(path)) or {}).get(PROBE)
        if isinstance(trained, list):
            check_tokenizer_probe(tokenizer, trained, name)
            return


def check_tokenizer_probe(tokenizer: PreTrainedTokenizerFast, trained: Sequence[int], path: str) -> None:
    """Raise `ModelError` where the sentence has other ids than those that it had in training, `trained`."""
    now = probe_tokenizer(tokenizer)
    if now == [*trained]:
        return
    special = set(tokenizer.all_special_ids)
    dropped = [index for index in trained if index in special and index not in now]
    rest = [index for index in trained if index not in dropped]
    if dropped and rest == now:
        names = " and ".join(tokenizer.convert_ids_to_tokens(dropped))
        what = f"its tokenizer leaves out {names}, which stood around every text in training"
    else:
        what = "its tokenizer is not the one of the training: a sentence of ours becomes other tokens"
    raise ModelError(Problem(what, "put back the tokenizer files that were saved with it", path=path, code="HF555"))


def check_first_token(tokenizer: PreTrainedTokenizerFast, *, reads_first: bool, reads_bos: bool) -> None:
    """Raise `ModelError` where a tokenizer leaves out the token that its model has learned to begin a text with.

    `reads_first`: an encoder, which begins with [CLS]. `reads_bos`: a trained classifier, whose tokenizer says by
    `add_bos_token` that it begins with BOS.
    """
    wanted = tokenizer.cls_token_id if reads_first else None
    if wanted is None and reads_bos and tokenizer.init_kwargs.get("add_bos_token") is True:
        wanted = tokenizer.bos_token_id
    if wanted is None or wanted in tokenizer.backend_tokenizer.encode("a").ids:
        return
    what = f"the tokenizer puts no {tokenizer.convert_ids_to_tokens(wanted)} before a text, as the model was trained"
    remedy = "put its post_processor back into tokenizer.json, or use the model's own tokenizer"
    raise ModelError(Problem(what, remedy, key="model.tokenizer", code="HF555"))
