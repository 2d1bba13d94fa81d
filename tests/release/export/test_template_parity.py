"""A conversation is one prompt, whoever renders it, or the export is refused with both sides."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
from release.export.gguf_models import chat_tokenizer
from transformers import PreTrainedTokenizerFast

from hf_finetune.chat.built_in import read_built_in
from hf_finetune.errors import ModelError
from hf_finetune.release.export.conversations import CONVERSATIONS, Conversation
from hf_finetune.release.export.template_parity import (
    Refused,
    check_templates,
    find_difference,
    render_by,
    render_by_folder,
)


def with_template(name: str) -> PreTrainedTokenizerFast:
    tokenizer = copy.deepcopy(chat_tokenizer())
    tokenizer.chat_template = read_built_in(name)
    return tokenizer


def test_there_are_twenty_conversations_and_each_waits_for_an_answer() -> None:
    assert len(CONVERSATIONS) == 20
    assert {each.messages[-1]["role"] for each in CONVERSATIONS.values()} == {"user", "tool"}
    roles = [message["role"] for each in CONVERSATIONS.values() for message in each.messages]
    assert {"system", "user", "assistant", "tool"} == set(roles)
    # Ollama would make one message of two neighbors of one role.
    for each in CONVERSATIONS.values():
        assert all(one["role"] != other["role"] for one, other in zip(each.messages, each.messages[1:], strict=False))


def test_a_template_is_equal_to_itself_and_refuses_alike() -> None:
    tokenizer = with_template("chatml")
    [found] = check_templates(tokenizer, {"again": render_by(tokenizer)})
    assert (found.conversations, found.equal, found.refused) == (20, 18, 2)
    assert found.as_dict() == {"conversations": 20, "equal": 18, "refused_by_both": 2}


def test_a_folder_that_is_loaded_afresh_is_compared(tmp_path: Path) -> None:
    tokenizer = with_template("plain")
    tokenizer.save_pretrained(tmp_path)
    [found] = check_templates(tokenizer, {"folder": render_by_folder(tmp_path)})
    assert found.equal == 20
    (tmp_path / "chat_template.jinja").write_text(read_built_in("plain").replace("'Assistant:\\n'", "'Assistant: '"))
    with pytest.raises(ModelError, match=r"'one question' is another prompt from character 69 on") as refused:
        check_templates(tokenizer, {"the folder": render_by_folder(tmp_path)})
    assert r"Assistant: '" in str(refused.value)
    assert r"Assistant:\n' by the run's tokenizer" in str(refused.value)


def test_a_side_that_refuses_alone_is_a_difference_unless_it_was_said() -> None:
    tokenizer = with_template("qwen")
    ours = render_by(tokenizer)

    def without_tools(conversation: Conversation) -> str:
        if conversation.tools:
            raise Refused("no tools")
        return ours(conversation)

    with pytest.raises(ModelError, match=r"it refuses it \(no tools\), and the run's tokenizer renders it.*'tools'"):
        check_templates(tokenizer, {"it": without_tools})
    [found] = check_templates(tokenizer, {"it": without_tools}, ["tools", "a tool that was called"])
    assert (found.equal, found.not_offered) == (18, ("tools", "a tool that was called"))
    with pytest.raises(
        ModelError, match=r"it renders it, and the run's tokenizer refuses it \(the chat template refuses"
    ):
        check_templates(with_template("chatml"), {"it": lambda conversation: "text"} | {"it": ours})


def test_a_tokenizer_without_a_template_has_nothing_to_compare() -> None:
    tokenizer = copy.deepcopy(chat_tokenizer())
    tokenizer.chat_template = None
    assert check_templates(tokenizer, {"it": lambda conversation: "text"}) == []


@pytest.mark.parametrize(("one", "other", "place"), [("abc", "abd", 2), ("ab", "abc", 2), ("", "a", 0)])
def test_the_first_difference_is_found(one: str, other: str, place: int) -> None:
    assert find_difference(one, other) == find_difference(other, one) == place
