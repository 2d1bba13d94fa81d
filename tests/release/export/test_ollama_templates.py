"""A template in Go, as Ollama reads it, gives the prompts of the chat template that it was made of."""

from __future__ import annotations

import copy

import pytest
from release.export.gguf_models import chat_tokenizer
from release.export.test_template_parity import with_template
from transformers import PreTrainedTokenizerFast

from hf_finetune.config.checks.paths import OUR_TEMPLATES
from hf_finetune.errors import MachineError, ModelError
from hf_finetune.release.export.conversations import CONVERSATIONS, Conversation
from hf_finetune.release.export.ollama import rendering
from hf_finetune.release.export.ollama.exporting import WITH_TOOLS
from hf_finetune.release.export.ollama.go_subset import GoError, render_go
from hf_finetune.release.export.ollama.modelfile import write_modelfile
from hf_finetune.release.export.ollama.rendering import (
    find_go,
    make_ollama_renderer,
    render_by_go,
    render_by_subset,
)
from hf_finetune.release.export.ollama.shapes import find_shape, write_go
from hf_finetune.release.export.template_parity import Refused, check_templates

SMOLLM = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are SmolLM<|im_end|>\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
ZEPHYR = (
    "{% for message in messages %}\n{{ '<|' + message['role'] + '|>\n' + message['content'] + eos_token }}\n"
    "{% if loop.last and add_generation_prompt %}\n{{ '<|assistant|>' }}\n{% endif %}\n{% endfor %}"
)
OTHERS = {"smollm2": SMOLLM, "zephyr": ZEPHYR}


def tokenizer_of(name: str) -> PreTrainedTokenizerFast:
    if name in OUR_TEMPLATES:
        return with_template(name)
    tokenizer = copy.deepcopy(chat_tokenizer())
    tokenizer.chat_template = OTHERS[name]
    return tokenizer


def say(*texts: str) -> Conversation:
    return Conversation(tuple({"role": "user", "content": text} for text in texts))


@pytest.mark.parametrize("name", [*OUR_TEMPLATES, *OTHERS])
def test_the_template_in_go_gives_the_prompts_of_the_chat_template(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rendering, "find_go", lambda: None)
    tokenizer = tokenizer_of(name)
    who, render = make_ollama_renderer(write_go(find_shape(tokenizer), ""), "")
    [found] = check_templates(tokenizer, {who: render}, WITH_TOOLS)
    assert found.equal == 20 - found.refused - len(found.not_offered) >= 18
    assert who.endswith("since Go is not installed)")


def test_our_reader_of_go_templates_says_what_go_says() -> None:
    go = find_go()
    if go is None:
        pytest.skip("needs Go")
    odd = [say(" \t\r\n\x0b\x0cx\n "), say("   "), say("a", "b"), say("")]
    odd += [Conversation(({"role": "tool", "content": "x"},)), Conversation(({"role": "assistant", "content": "x"},))]
    odd += [Conversation(({"role": "system", "content": "s"}, {"role": "assistant", "content": "x"}))]
    templates = [write_go(find_shape(tokenizer_of(name)), "") for name in (*OUR_TEMPLATES, *OTHERS)]
    asked = [(template, each) for template in templates for each in (*CONVERSATIONS.values(), *odd)]
    by_go = render_by_go(go, asked)
    for (template, conversation), expected in zip(asked, by_go, strict=True):
        found = render_by_subset(template, conversation)
        if conversation == odd[2] and isinstance(expected, str):  # Ollama makes one message of neighbors
            found = render_by_subset(template, say("a\n\nb"))
        assert isinstance(found, Refused) == isinstance(expected, Refused), (conversation, expected)
        assert isinstance(found, Refused) or found == expected
    assert sum(isinstance(each, Refused) for each in by_go) >= 5 * len(templates)


def test_a_begin_token_that_ollama_writes_is_not_in_the_template() -> None:
    tokenizer = with_template("llama-3")
    shape = find_shape(tokenizer)
    template = write_go(shape, "<|im_start|>")
    assert shape.lead.startswith("<|im_start|>")
    assert "<|im_start|>" not in template
    _, render = make_ollama_renderer(template, "<|im_start|>")
    assert check_templates(tokenizer, {"it": render})[0].equal == 18


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("{{ messages[-1].content }}</s>", "it leaves the text of a message out"),
        (SMOLLM + "{{ strftime_now('%d %b %Y') }}", "it asks what day it is"),
        (
            SMOLLM.replace("for message in messages", "for message in messages[-2:]"),
            "it leaves the text of a message out",
        ),
        (SMOLLM.replace("+ '<|im_end|>'", "+ ('' if loop.last else '<|im_end|>')"), "where others follow"),
    ],
)
def test_a_template_that_does_more_is_refused(template: str, said: str) -> None:
    tokenizer = copy.deepcopy(chat_tokenizer())
    tokenizer.chat_template = template
    with pytest.raises(ModelError, match="the chat template cannot be said in Go, as Ollama has templates") as refused:
        find_shape(tokenizer)
    assert said in str(refused.value)


def test_go_that_does_not_run_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rendering, "find_go", lambda: "/bin/false")
    with pytest.raises(MachineError, match="Go does not run the program"):
        make_ollama_renderer("{{ .System }}", "")


@pytest.mark.parametrize(
    ("source", "data", "expected"),
    [
        ("a {{- .X -}} b", {"X": "x"}, "axb"),
        ('{{ if eq .X "}}" }}yes{{ else }}no{{ end }}', {"X": "}}"}, "yes"),
        ("{{ if .A }}1{{ else if .B }}2{{ else }}3{{ end }}", {"A": "", "B": "b"}, "2"),
        ("{{ range $n, $e := .L }}{{ $n }}{{ .V }}{{ end }}", {"L": [{"V": "a"}, {"V": "b"}]}, "0a1b"),
        ('{{ define "t" }}<{{ . }}>{{ end }}{{ template "t" .X }}', {"X": "x"}, "<x>"),
    ],
)
def test_the_part_of_go_that_is_read(source: str, data: dict, expected: str) -> None:
    assert render_go(source, data) == expected


@pytest.mark.parametrize("source", ["{{ printf .X }}", '{{ index "ab" 2 }}', "{{ .X", '{{ slice "a" 2 }}'])
def test_another_part_of_go_is_an_error(source: str) -> None:
    with pytest.raises(GoError):
        render_go(source, {"X": ""})


def test_the_modelfile_says_template_ends_sampling_and_license() -> None:
    template = write_go(find_shape(with_template("chatml")), "")
    text = write_modelfile(template, ["<|im_end|>", '"'], {"temperature": 0.7, "repetition_penalty": 1.1}, "apache-2.0")
    assert text.startswith('FROM ./model.gguf\nTEMPLATE """{{- ')
    assert text.count('"""') == 2
    assert text.endswith(
        'PARAMETER stop "<|im_end|>"\nPARAMETER stop "\\""\nPARAMETER temperature 0.7\nPARAMETER repeat_penalty 1.1\n'
        'LICENSE "apache-2.0"\n'
    )
    assert write_modelfile(None, [], {}, None) == "FROM ./model.gguf\n"
