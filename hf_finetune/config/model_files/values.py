"""The type and the bounds of each value of a model's JSON files that is read: all that are wrong are found at once."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, TypedDict, Union

import msgspec
from msgspec import Meta

from hf_finetune.config.model_files.ranges import OF_DRAWING
from hf_finetune.config.reading.document import format_key_path, format_value
from hf_finetune.config.validation.hf_settings import load_table
from hf_finetune.errors import Problem

# Of no published model: the longest context is of 10 million tokens, the largest vocabulary of a million words.
LARGEST_NUMBER = 2**40
LARGEST_SIZE = 2**31 - 1

# A model of speech has 30,000 for its sounds.
MOST_ADDED = 100_000
LONGEST_TOKEN = 4_096
"""Characters. Published ones have a thousand at most, of blanks; tokenizers (0.23) takes 2 GB for one of 20 MB."""

Size = Annotated[int, Meta(ge=1, le=LARGEST_SIZE)]
SizeOrNone = Annotated[int, Meta(ge=0, le=LARGEST_SIZE)]
# -1 is written for "none" by models that were converted.
TokenId = Annotated[int, Meta(ge=-1, le=LARGEST_SIZE)]
TokenIds = TokenId | Annotated[list[TokenId], Meta(max_length=1_000)] | None
# Each is compared with at every step; Whisper suppresses 90 tokens.
BannedIds = Annotated[list[TokenId], Meta(max_length=10_000)]
# Which of these go together, and that none is below 0, is seen when the settings are settled.
Amount = Annotated[int, Meta(ge=-LARGEST_SIZE, le=LARGEST_SIZE)]
Text = str | None
Section = dict[str, Any] | None
Number = int | float

# Sizes under the names that the architectures of transformers have for them. A list is of the layers, one by one.
COUNTS_OF_LAYERS = (
    *("num_hidden_layers", "n_layer", "n_layers", "num_layers", "encoder_layers", "decoder_layers"),
    *("num_decoder_layers", "num_encoder_layers"),
)
COUNTS_OF_EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")
WIDTHS = (
    *("vocab_size", "hidden_size", "n_embd", "d_model", "dim", "n_ctx"),
    *("num_attention_heads", "n_head", "n_heads", "num_heads", "max_position_embeddings", "n_positions"),
)
WIDTHS_OR_NONE = (
    *("intermediate_size", "n_inner", "ffn_dim", "d_ff", "d_kv", "head_dim", "num_key_value_heads", "type_vocab_size"),
    *("moe_intermediate_size", "shared_expert_intermediate_size", "embedding_size", "word_embed_proj_dim"),
    *("num_experts_per_tok", "state_size", "conv_kernel", "q_lora_rank", "kv_lora_rank", "sliding_window"),
)
IDS = ("bos_token_id", "eos_token_id", "pad_token_id", "sep_token_id", "decoder_start_token_id")

OF_CONFIG: Mapping[str, Any] = {
    **dict.fromkeys((*COUNTS_OF_LAYERS, *WIDTHS), Size | list[SizeOrNone] | None),
    **dict.fromkeys((*COUNTS_OF_EXPERTS, *WIDTHS_OR_NONE), SizeOrNone | list[SizeOrNone] | None),
    **dict.fromkeys(IDS, TokenIds),
    **dict.fromkeys(("model_type", "problem_type", "tokenizer_class", "transformers_version", "_name_or_path"), Text),
    **dict.fromkeys(("dtype", "torch_dtype"), Text),
    **dict.fromkeys(("text_config", "quantization_config", "id2label", "label2id"), Section),
    **dict.fromkeys(("architectures", "layer_types"), list[str] | None),
    "num_labels": SizeOrNone | None,
}
OF_GENERATION: Mapping[str, Any] = {
    **dict.fromkeys(IDS, TokenIds),
    **dict.fromkeys(("forced_bos_token_id", "forced_eos_token_id"), TokenIds),
    **dict.fromkeys(("suppress_tokens", "begin_suppress_tokens"), BannedIds | None),
    "bad_words_ids": Annotated[list[BannedIds], Meta(max_length=10_000)] | None,
    **dict.fromkeys(
        ("max_length", "min_length", "max_new_tokens", "min_new_tokens", "num_beams", "top_k"), Amount | None
    ),
    **OF_DRAWING,
}


class _NamedTemplate(TypedDict):
    name: str
    template: str


Piece = Annotated[str, Meta(max_length=LONGEST_TOKEN)]


class _AddedToken(TypedDict):
    content: Piece


Token = Piece | _AddedToken | None
OF_TOKENIZER: Mapping[str, Any] = {
    "model_max_length": Number | None,  # 1e30 is written for "none"
    "tokenizer_class": Text,
    "chat_template": str | list[_NamedTemplate] | dict[str, str] | None,
    "added_tokens_decoder": Annotated[dict[str, _AddedToken], Meta(max_length=MOST_ADDED)] | None,
    **dict.fromkeys(("padding_side", "truncation_side"), Literal["left", "right"] | None),
    **dict.fromkeys(("bos_token", "eos_token", "unk_token", "pad_token"), Token),
    **dict.fromkeys(("sep_token", "cls_token", "mask_token"), Token),
    **dict.fromkeys(("extra_special_tokens", "additional_special_tokens"), list[Token] | dict[str, Token] | None),
    "model_specific_special_tokens": dict[str, Token] | None,
    "model_input_names": list[str] | None,
    "split_special_tokens": bool | None,
    "auto_map": dict[str, Any] | list[str | None] | None,
}
OF_BASE: Mapping[str, Any] = {
    "name_or_path": Annotated[str, Meta(pattern=r"\A[^\x00]+\Z", max_length=4096)],
    **dict.fromkeys(("revision", "fingerprint"), Text),
    "dtype": str,
    **dict.fromkeys(("quantization", "classifier"), Section),
    "vocab_size": Size | None,
    "started_from": dict[str, str] | None,
    "tokenizer_probe": list[TokenId] | None,
}
OF_CLASSIFIER: Mapping[str, Any] = {
    "id2label": dict[Annotated[str, Meta(pattern=r"\A[0-9]{1,9}\Z")], str],
    "problem_type": Text,
    "pad_token_id": TokenId | None,
}
# peft (0.21) compares each name with each module, and with each other name: 30,000 of them take it a minute. It writes
# the shortest ends of names that tell them apart, and so a few dozen.
MANY_NAMES, MANY_KEYS, MANY_NUMBERS = Meta(max_length=5_000), Meta(max_length=10_000), Meta(max_length=100_000)
_TYPES: Mapping[str, Any] = {
    "bool": bool,
    "int": Size,
    "float": Number,
    "str": str,
    "dict": Annotated[dict[str, Any], MANY_KEYS],
    "list": Annotated[list[Any], MANY_KEYS],
    "list[str]": Annotated[list[str], MANY_NAMES],
    "list[int]": Annotated[list[SizeOrNone], MANY_NUMBERS],
    "null": None,
}
# An adapter that was PiSSA's has a root of two in these; whole numbers are all that a run file may have.
_OF_ADAPTER: Mapping[str, Any] = {
    "lora_alpha": Annotated[float, Meta(ge=0, le=1e9)],
    "lora_dropout": Annotated[float, Meta(ge=0, lt=1)],
    "alpha_pattern": Annotated[dict[str, Annotated[float, Meta(ge=0, le=1e9)]], MANY_KEYS] | None,
    "rank_pattern": Annotated[dict[str, Size], MANY_KEYS] | None,
    "runtime_config": Section,
}


def list_adapter_types() -> Mapping[str, Any]:
    """The type of each setting of an adapter: those of `lora:` in a run file, and of what only peft itself writes."""
    fields: dict[str, dict[str, Any]] = load_table()["LoraConfig"]
    return {name: _build_type(field) for name, field in fields.items()} | dict(_OF_ADAPTER)


def _build_type(field: Mapping[str, Any]) -> Any:
    # {"types": ["null", "str"], "choices": ["SEQ_CLS", ...]} of task_type -> Literal["SEQ_CLS", ...] | None
    words = {**_TYPES, "str": Literal[tuple(field["choices"])]} if "choices" in field else _TYPES
    return Union[tuple(words[word] for word in field["types"])]  # noqa: UP007 - the members are known at run time only


_STEP = re.compile(r"\.(\w+)|\[(\d+|\.\.\.)\]")
_WORDS = {
    "int": "a whole number",
    "float": "a number",
    "str": "text",
    "object": "a section of keys",
    "array": "a list",
    "bool": "true or false",
    "null": "nothing",
    "|": "or",
}


def find_wrong_values(values: Mapping[str, Any], types: Mapping[str, Any], shown: str) -> Iterator[Problem]:
    """Yield a problem for each value of another type than `types` says, and for each number that no model has."""
    yield from find_wrong_types(values, types, shown)
    for path, value in iterate_leaves(values):
        if isinstance(value, int) and abs(value) > LARGEST_NUMBER and path[0] not in types:
            yield Problem("is a number that no model has", CORRECT, shown, key=format_key_path(path), code="HF504")


def find_wrong_types(
    values: Mapping[str, Any], types: Mapping[str, Any], shown: str, section: str = ""
) -> Iterator[Problem]:
    """Yield a problem for each value of another type than `types` says; `section` is the prefix of their keys."""
    for key, kind in types.items():
        if key not in values:
            continue
        try:
            msgspec.convert(values[key], kind)
        except (msgspec.ValidationError, OverflowError) as problem:
            place, found = _find_place(values[key], str(problem))
            what = f"{found} cannot be used ({_explain(problem)})"
            yield Problem(what, CORRECT, shown, key=section + key + place, code="HF504")


CORRECT = "correct it in a copy of the model, or copy the model's folder again"


def _find_place(value: Any, said: str) -> tuple[str, str]:
    """Find what msgspec refuses inside a value: "- at `$[0].name`" -> ("[0].name", "a list"), which stands there."""
    place = ""
    for name, number in _STEP.findall(said.partition(" - at `$")[2]):
        if number == "...":
            return place, "one of its keys or values"  # msgspec does not say which
        value = value[name] if name else value[int(number)]
        place += f".{name}" if name else f"[{number}]"
    return place, format_value(value)


def _explain(problem: Exception) -> str:
    """The reason in words: "Expected `int | null`, got `str` - at `$.x`" -> "not a whole number or nothing".

    "Object missing required field `content`" -> "without content".
    """
    said = str(problem).partition(" - at ")[0].partition(", got ")[0].replace("`", "")
    if said.startswith("Object missing"):
        return f"without {said.rpartition(' ')[2]}"
    if said.startswith("Invalid enum value"):
        return "not one of those that there are"
    if not said.startswith("Expected "):
        return said[:1].lower() + said[1:]
    words = said.removeprefix("Expected ").split()
    return "not " + " ".join(_WORDS.get(word, word.removesuffix(".0")) for word in words)


def iterate_leaves(values: Mapping[str, Any]) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield every value that is neither list nor object, with the keys that lead to it."""
    # {"a": {"b": [1, 2]}} -> (("a", "b", "1"), 2), (("a", "b", "0"), 1); a loop, since a file may nest to any depth.
    rest: list[tuple[tuple[str, ...], Any]] = [((), values)]
    while rest:
        keys, value = rest.pop()
        if isinstance(value, dict):
            rest += [((*keys, str(key)), inner) for key, inner in value.items()]
        elif isinstance(value, list):
            rest += [((*keys, str(number)), inner) for number, inner in enumerate(value)]
        else:
            yield keys, value
