"""Chat templates of many model families, each with a small tokenizer that has the tokens it writes."""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from pathlib import Path

import trl
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

TEMPLATES = Path(trl.__file__).parent / "chat_templates"

TEXT = [
    "The quick brown fox jumps over the lazy dog. Pack my box with five dozen liquor jugs!",
    "User: what is 2 + 2? Assistant: 4. system\nuser\nassistant\ntool\nfunction name arguments",
    '{"name": "search", "arguments": {"query": "weather in Paris", "days": 3}}  \n\n  def f(x):\n    return x',
    "Größe, naïve café, 東京, Привет, emoji 🙂, tabs\t\tand   spaces",
]


@dataclass(frozen=True)
class Family:
    """A template of TRL's shelf, the kind of tokenizer that its models have, and its begin and end tokens."""

    name: str
    kind: str  # bytes, metaspace (Llama 2's normalizer), unigram
    bos: str | None
    eos: str
    turn: str
    """What the model says in a turn whose text is {}, written down from the template by hand."""
    plain_tokens: tuple[str, ...] = ()
    """Added tokens that are not `special`, as `<think>` in Qwen."""
    system: bool = True
    tools: bool = False
    strips: bool = False
    """The template strips the text of messages."""
    writes_bos: bool = True
    last_turn: str | None = None
    """Where the last turn of a conversation ends otherwise."""


CALLS = ("<tool_call>", "</tool_call>")
THOUGHTS = ("<think>", "</think>")
DEEPSEEK = "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"

FAMILIES = [
    Family("qwen2_5", "bytes", None, "<|im_end|>", "{}<|im_end|>", CALLS, tools=True),
    Family("qwen3", "bytes", None, "<|im_end|>", "{}<|im_end|>", THOUGHTS + CALLS, tools=True),
    Family("qwen3_instruct_2507", "bytes", None, "<|im_end|>", "{}<|im_end|>", CALLS, tools=True),
    Family("llama3", "bytes", "<|begin_of_text|>", "<|eot_id|>", "{}<|eot_id|>", strips=True),
    Family("llama3_2", "bytes", "<|begin_of_text|>", "<|eot_id|>", "{}<|eot_id|>", strips=True),
    Family("gemma", "unigram", "<bos>", "<eos>", "{}<end_of_turn>", system=False, strips=True),
    Family("gemma3", "unigram", "<bos>", "<eos>", "{}<end_of_turn>", strips=True),
    Family("phi3", "metaspace", "<s>", "<|endoftext|>", "{}<|end|>", writes_bos=False),
    Family("phi3_5", "metaspace", "<s>", "<|endoftext|>", "{}<|end|>", writes_bos=False),
    Family("deepseekv3", "bytes", *DEEPSEEK, "{}<｜end▁of▁sentence｜>", tools=True),
    Family("deepseek_r1_distill", "bytes", *DEEPSEEK, "{}<｜end▁of▁sentence｜>", THOUGHTS),
    Family("cohere", "bytes", "<BOS_TOKEN>", "<|END_OF_TURN_TOKEN|>", "{}<|END_OF_TURN_TOKEN|>", strips=True),
    Family("cohere2", "bytes", "<BOS_TOKEN>", "<|END_OF_TURN_TOKEN|>", "{}<|END_RESPONSE|><|END_OF_TURN_TOKEN|>"),
    Family("glm4moe", "bytes", None, "<|endoftext|>", "{}<|user|>", THOUGHTS + CALLS, strips=True),
    Family(
        "gptoss",
        "bytes",
        "<|startoftext|>",
        "<|return|>",
        "<|channel|>final<|message|>{}<|end|>",
        writes_bos=False,
        last_turn="<|channel|>final<|message|>{}<|return|>",
    ),
    Family("lfm2", "bytes", "<|startoftext|>", "<|im_end|>", "{}<|im_end|>"),
    Family(
        "nemotron_3_nano",
        "bytes",
        "<s>",
        "<|im_end|>",
        "</think>{}<|im_end|>",
        THOUGHTS + CALLS,
        strips=True,
        writes_bos=False,
    ),
]

TOKEN = re.compile(r"<\|[\w▁]+\|>|<｜[\w▁]+｜>|<(?:start_of_turn|end_of_turn|bos|eos|pad|BOS_TOKEN)>|\[gMASK\]|<sop>")


@functools.cache
def tokenizer_of(family: Family) -> PreTrainedTokenizerFast:
    """A tokenizer of the family's kind, its template set, the tokens of the template added."""
    template = (TEMPLATES / f"{family.name}.jinja").read_text()
    special = sorted({*TOKEN.findall(template), *([family.bos] if family.bos else []), family.eos, "<|pad|>"})
    backend = make_backend(family.kind)
    backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    backend.add_tokens([AddedToken(token, special=False, normalized=False) for token in family.plain_tokens])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=family.bos,
        eos_token=family.eos,
        pad_token="<|pad|>",
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = template
    return tokenizer


def make_backend(kind: str) -> Tokenizer:
    if kind == "bytes":
        backend = Tokenizer(models.BPE())
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        backend.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(vocab_size=500, initial_alphabet=alphabet, show_progress=False)
        backend.train_from_iterator(TEXT, trainer)
        return backend
    pieces = [f"<0x{byte:02X}>" for byte in range(256)]
    if kind == "unigram":  # Gemma: spaces as a letter, no prefix, unknown characters in bytes
        vocab = [("<unk>", 0.0), *((piece, -20.0) for piece in pieces)]
        vocab += [(word, -5.0 - len(word) / 10) for word in _words()]
        backend = Tokenizer(models.Unigram(vocab, unk_id=0, byte_fallback=True))
        backend.normalizer = normalizers.Replace(" ", "▁")
        backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
        return backend
    letters = sorted({letter for text in TEXT for letter in text.replace(" ", "▁")})
    vocab = {piece: index for index, piece in enumerate(["<unk>", *pieces, *letters, "▁t", "▁th", "▁the", "he"])}
    merges = [("▁", "t"), ("▁t", "h"), ("▁th", "e"), ("h", "e")]
    backend = Tokenizer(models.BPE(vocab, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    backend.decoder = decoders.Sequence(steps)
    return backend


def _words() -> list[str]:
    letters = {letter for text in TEXT for letter in text.replace(" ", "▁")}
    words = {f"▁{word}" for text in TEXT for word in text.split() if len(word) > 2}
    return sorted(letters | words)
