r"""The patterns of published tokenizers, which are taken as they are.

From transformers 5.23 (its tokenizer classes, converters and GGUF table) and
https://github.com/ggml-org/llama.cpp/blob/master/src/llama-vocab.cpp. Line ends stand as `\r` and `\n` here: files
have them in either way.
"""

from __future__ import annotations

_SUFFIXES = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_BLANKS = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_SIGNS = r" ?[^\s\p{L}\p{N}]+[\r\n]*"
_SIGNS_AND_PATHS = r" ?[^\s\p{L}\p{N}]+[\r\n/]*"
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)"
_WORD = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_CASED = (rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+", rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*")

_LINEAR = (
    # GPT-2, and all that came of it; Falcon, StarCoder, Chameleon
    *(_GPT2, rf"{_GPT2}|\s+", r"[\p{P}\$\+<=>\^~\|`]+", "[0-9][0-9][0-9]", r"[0-9]", r"\d", r"\p{N}", r"\p{N}+"),
    # Llama 3, GLM 4; Qwen 2 and 3; Qwen 3.5; Seed-Coder
    rf"{_SUFFIXES}|{_WORD}|\p{{N}}{{1,3}}|{_SIGNS}|{_BLANKS}",
    rf"{_SUFFIXES}|{_WORD}|\p{{N}}|{_SIGNS}|{_BLANKS}",
    rf"{_SUFFIXES}|[^\r\n\p{{L}}\p{{N}}]?[\p{{L}}\p{{M}}]+|\p{{N}}| ?[^\s\p{{L}}\p{{M}}\p{{N}}]+[\r\n]*|{_BLANKS}",
    rf"{_SUFFIXES}|{_WORD}|\p{{N}}{{1}}| ?[^\s\p{{L}}\p{{N}}\r\n]+|{_BLANKS}",
    # cl100k as tiktoken has it: Phi-4, Ling, DBRX
    *(
        rf"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{{L}}\p{{N}}]?+\p{{L}}+|{digits}| ?[^\s\p{{L}}\p{{N}}]++[\r\n]*"
        r"|\s*[\r\n]|\s+(?!\S)|\s+"
        for digits in (r"\p{N}", r"\p{N}{1,3}")
    ),
    # o200k: gpt-oss, Llama 4, MiniMax; Mistral's tekken
    rf"{_CASED[0]}{_SUFFIXES}?|{_CASED[1]}{_SUFFIXES}?|\p{{N}}{{1,3}}|{_SIGNS_AND_PATHS}|{_BLANKS}",
    rf"{_CASED[0]}|{_CASED[1]}|\p{{N}}|{_SIGNS_AND_PATHS}|{_BLANKS}",
    rf"{_CASED[0]}|{_CASED[1]}|\p{{N}}{{1,3}}|{_SIGNS_AND_PATHS}|{_BLANKS}",
    # DeepSeek, Hunyuan, AFMoE
    r"[\r\n]",
    *(
        r"\s?\p{L}+",
        r"\s?\p{P}+",
        "[一-龥ࠀ-一가-퟿]+",
        r"\p{N}{1,3}",
        "[一-龥぀-ゟ゠-ヿ]+",
        "\\s?[!-/:-~！-／：-～‘-‟　-。]+",
    ),
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+".replace(r"\"", '"')
    + rf"| ?[\p{{P}}\p{{S}}]+[\r\n]*|{_BLANKS}",
    # Bloom; CLIP
    *(" ?[^(\\s|[.,!?…。，、।۔،])]+", " ?[^(\\s|.,!?…。，、।۔،)]+"),
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+",
    r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+",
    # Normalizers of what was made with SentencePiece
    *(" {2,}", r"\s{2,}|[\n\r\t]", r"\n", r"[\n\r\t]", "^▁+$", r"\s+"),
)
# Of SeamlessM4T, DeepSeek LLM and SuperBPE: quadratic in a run of blanks, or of digits.
QUADRATIC = (" +▁", r"\s+$", r"(?=(\d{3})+(?!\d))")

KNOWN = frozenset((*_LINEAR, *QUADRATIC))


def is_known(pattern: str) -> bool:
    """Whether a pattern is one of a published tokenizer."""
    return pattern.replace("\r", r"\r").replace("\n", r"\n") in KNOWN
