"""What six vendors say a conversation looks like, written down from their pages in plain Python: no template, no jinja.

Each function takes a conversation and the tokenizer's begin and end tokens, and returns the text up to where an answer
is asked for, which its last line adds. `SAID` is what is trained of an answer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

Conversation = list[dict[str, str]]


def chatml(conversation: Conversation, bos: str, eos: str) -> str:
    # https://github.com/openai/openai-python/blob/v0.28.1/chatml.md
    return bos + "".join(f"<|im_start|>{turn['role']}\n{turn['content']}<|im_end|>\n" for turn in conversation)


def llama_3(conversation: Conversation, bos: str, eos: str) -> str:
    # https://github.com/meta-llama/llama3/blob/main/llama/tokenizer.py (`ChatFormat`: header, stripped text, end)
    # https://www.llama.com/docs/model-cards-and-prompt-formats/meta-llama-3/
    text = bos
    for turn in conversation:
        text += "<|start_header_id|>" + turn["role"] + "<|end_header_id|>" + "\n\n"
        text += turn["content"].strip() + "<|eot_id|>"
    return text


def gemma(conversation: Conversation, bos: str, eos: str) -> str:
    # https://ai.google.dev/gemma/docs/core/prompt-structure: two roles; system-level instructions are provided
    # "directly within the initial user prompt", and the example has a blank line behind them.
    turns = [dict(turn) for turn in conversation]
    system = turns.pop(0)["content"] + "\n\n" if turns and turns[0]["role"] == "system" else ""
    text = bos
    for number, turn in enumerate(turns):
        speaker = {"user": "user", "assistant": "model"}[turn["role"]]
        before = system if number == 0 else ""
        text += f"<start_of_turn>{speaker}\n{before}{turn['content'].strip()}<end_of_turn>\n"
    return text


def mistral(conversation: Conversation, bos: str, eos: str) -> str:
    # https://github.com/mistralai/mistral-common/blob/main/src/mistral_common/tokens/tokenizers/instruct.py
    # (`InstructTokenizerV7`, with the tekken tokenizer, which puts no space between a control token and a text)
    around = {"system": ("[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]"), "user": ("[INST]", "[/INST]"), "assistant": ("", eos)}
    return bos + "".join(turn["content"].join(around[turn["role"]]) for turn in conversation)


def phi(conversation: Conversation, bos: str, eos: str) -> str:
    # https://huggingface.co/microsoft/phi-4/blob/main/tokenizer_config.json, as in
    # https://github.com/hiyouga/LLaMA-Factory/blob/main/src/llamafactory/data/template.py (`phi4`)
    return "".join(f"<|im_start|>{turn['role']}<|im_sep|>{turn['content']}<|im_end|>" for turn in conversation)


def qwen(conversation: Conversation, bos: str, eos: str) -> str:
    # https://qwen.readthedocs.io/en/latest/getting_started/concepts.html#control-tokens-chat-template; Qwen3-2507 has
    # no default system prompt, and Qwen2.5 had one.
    return chatml(conversation, "", eos)


@dataclass(frozen=True)
class Vendor:
    """One vendor's format: the text of a conversation, what asks for an answer, and what ends one."""

    write: Callable[[Conversation, str, str], str]
    asks: str
    end: str
    strips: bool = False
    writes_bos: bool = True


EOS = "<|eos|>"  # the end token of the tests' tokenizers
VENDORS = {
    "chatml": Vendor(chatml, "<|im_start|>assistant\n", "<|im_end|>"),
    "llama-3": Vendor(llama_3, "<|start_header_id|>assistant<|end_header_id|>\n\n", "<|eot_id|>", strips=True),
    "gemma": Vendor(gemma, "<start_of_turn>model\n", "<end_of_turn>", strips=True),
    "mistral": Vendor(mistral, "", EOS),
    "phi": Vendor(phi, "<|im_start|>assistant<|im_sep|>", "<|im_end|>", writes_bos=False),
    "qwen": Vendor(qwen, "<|im_start|>assistant\n", "<|im_end|>", writes_bos=False),
}


def said(vendor: Vendor, conversation: Conversation) -> list[str]:
    """What is trained: the text of each answer, and the token that ends it."""
    answers = [turn["content"] for turn in conversation if turn["role"] == "assistant"]
    return [(answer.strip() if vendor.strips else answer) + vendor.end for answer in answers]


def talk(*texts: str, system: str | None = None) -> Conversation:
    roles = ("user", "assistant")
    turns = [{"role": roles[number % 2], "content": text} for number, text in enumerate(texts)]
    return [*([] if system is None else [{"role": "system", "content": system}]), *turns]


CONVERSATIONS = [
    talk("Hi"),
    talk("Hi", "Hello."),
    talk("Hi", "Hello.", "And now?"),
    talk("Hi", "Hello.", "And now?", "Now this."),
    talk("1", "2", "3", "4", "5", "6", "7", "8"),
    talk("Hi", "Hello.", system="Be short."),
    talk("Hi", "Hello.", "And now?", system="Be short."),
    talk("Hi", "Hello.", "And now?", "Now this.", system="Be short.\nBe kind."),
    talk("Hi", "Hello.", system=""),
    talk("Hi", "Hello.", system="  \n "),
    talk("  Hi\n", "\n\n  Hello.  "),
    talk("Hi\t", " Hello.\n", "  And now? ", "\tNow this. ", system="  Be short.  "),
    talk("def f(x):\n    return x\n\n\n# why?", "Because:\n\n```\n  x\n```\n"),
    talk("Größe, naïve café", "東京, Привет 🙂 \u00a0\u2003", system="Schreib «so» – bitte"),
    talk("e\u0301 and é", "\u200d\u200b\ufeff👩\u200d👩\u200d👧"),
    talk("", "Hello?"),
    talk("Repeat nothing.", ""),
    talk("User: Hi\nAssistant: Hello", "system\nuser\nassistant\nmodel"),
    talk("{{ messages }} {% endfor %} {# no #}", "{{ bos_token }}\\n \\"),
    talk("Is 1 < 2 and 3 > 2 | [x]?", "<b>yes</b> [INST [/ <| |> <|im", "</s> <s> <|"),
]
