"""What a client is told of fields that cannot be taken: by the names that it wrote, in no words of a library."""

from __future__ import annotations

import json
import re

import pytest
from pydantic import ValidationError

from hf_finetune.release.serve.api.field_messages import explain_refused
from hf_finetune.release.serve.api.schemas import REQUESTS, ChatRequest, ClassifyRequest, CompletionRequest

PLAIN = {
    "ChatRequest": {"messages": [{"role": "user", "content": "a"}]},
    "CompletionRequest": {"prompt": "a"},
    "GenerateRequest": {"prompt": "a"},
    "ClassifyRequest": {"text": "a"},
    "CompareRequest": {"prompt": "a", "first": "b", "second": "c"},
    "VoteRequest": {"comparison": "a", "choice": "tie"},
}
SECRET = "qqsecretqq"
WRONG = [SECRET * 300, -1, 1.5, True, None, [], {}, [SECRET, 1], [[1, SECRET]], [{}], "", {"str": SECRET}, [[]]]
# How pydantic speaks of types, and of the forms of a field that it has tried.
OF_PYDANTIC = re.compile(r"str\b|constrained|literal|Input|\bdict|\bint\b|valid |union|Annotated|bool\b|float|\btuple")


def explain(kind, body):
    with pytest.raises(ValidationError) as refused:
        kind.model_validate_json(json.dumps(body))
    return explain_refused(kind, refused.value)


@pytest.mark.parametrize("kind", REQUESTS, ids=lambda kind: kind.__name__)
def test_a_wrong_value_of_any_field_is_one_message_with_its_name_and_what_it_takes(kind):
    plain, refused_fields = PLAIN[kind.__name__], set()
    for name in kind.model_fields:
        for value in WRONG:
            body = {**plain, name: value}
            try:
                kind.model_validate_json(json.dumps(body))
            except ValidationError:
                error = explain(kind, body)
                place, said = error.message.split(":", 1)
                assert re.match(rf"{name}\b", place)
                assert re.match(rf"{name}\b", error.param)
                assert "takes" in said or "is not offered here" in said or "is not a field" in said, error.message
                # A key that a client has made up is repeated, and no value.
                assert not OF_PYDANTIC.search(error.message.replace(f"{name}.str", ""))
                assert SECRET not in error.message
                refused_fields.add(name)
    assert refused_fields == set(kind.model_fields)


def bounds_of(schema):
    """The least and the largest number that any form of a field takes; none where it takes no number."""
    for form in schema.get("anyOf", [schema]):
        # What takes one value alone is not offered, and says that.
        idle = "const" in form or (form.get("minimum"), form.get("maximum")) == (0, 0)
        if form.get("type") in ("integer", "number") and not idle:
            least, most = form.get("minimum", form.get("exclusiveMinimum")), form.get("maximum")
            yield least, form["exclusiveMaximum"] - 1 if most is None else most


@pytest.mark.parametrize("kind", REQUESTS, ids=lambda kind: kind.__name__)
def test_a_number_out_of_bounds_is_told_both_bounds(kind):
    for name, schema in kind.model_json_schema()["properties"].items():
        for least, most in bounds_of(schema):
            for wrong in (least - 1, most + 1):
                said = explain(kind, {**PLAIN[kind.__name__], name: wrong}).message
                shown = [number.replace(",", "") for number in re.findall(r"-?[\d,.]*\d", said)]
                assert [*map(float, shown)] == [float(least), float(most)], said


def test_the_bounds_that_are_told_are_those_of_this_server():
    with pytest.raises(ValidationError) as refused:
        ChatRequest.model_validate_json(json.dumps({**PLAIN["ChatRequest"], "n": 0, "max_tokens": 0}))
    said = explain_refused(ChatRequest, refused.value, {"n": 3, "max_tokens": 4096, "max_new_tokens": 1}).message
    assert said == "n: takes a whole number from 1 to 3; max_tokens: takes a whole number from 1 to 4,096"


@pytest.mark.parametrize(
    ("kind", "given", "message"),
    [
        (ChatRequest, {"stop": 1}, "stop: takes a text of 1 to 256 characters or a list of at most 16 texts of"),
        (ChatRequest, {"presence_penalty": 1}, "presence_penalty: is not offered here: leave it out, or give 0"),
        (ChatRequest, {"logit_bias": {"1": 2}}, "logit_bias: is not offered here: leave it out, or give {}"),
        (CompletionRequest, {"suffix": "a"}, "suffix: is not offered here: leave it out"),
        (CompletionRequest, {"prompt": {"str": 1}}, "prompt: takes a text, a list of 1 to 64 texts, a list of"),
        (ChatRequest, {"n": 200}, "n: takes a whole number from 1 to 128"),
        (ChatRequest, {"repetition_penalty": 0}, "repetition_penalty: takes a number above 0 and of at most 10"),
        (ClassifyRequest, {"top_k": "1"}, "top_k: takes a whole number from 1 to 2,147,483,647"),
        (ChatRequest, {"seed": 2**63}, f"seed: takes a whole number from -{2**63:,} to {2**63 - 1:,}"),
        (ChatRequest, {"temprature": 1}, "temprature: is not a field that this server knows (did you mean temperature"),
        (
            ChatRequest,
            {"messages": [{"role": "bot", "content": [{"type": "image_url"}]}]},
            'messages[0].role: takes "system", "developer", "user", "assistant" or "tool"; '
            "messages[0].content: takes a text or a list of objects with type and text",
        ),
        (ChatRequest, {"tools": [{"type": "function"}]}, "tools[0].function: is missing, and takes an object"),
        (ChatRequest, {"response_format": {"type": "json_object"}}, 'response_format.type: takes "text" alone'),
    ],
)
def test_what_is_said_of_a_field(kind, given, message):
    assert explain(kind, {**PLAIN[kind.__name__], **given}).message.startswith(message)


def test_a_body_of_many_wrong_values_is_explained_in_few_words():
    error = explain(ChatRequest, {"messages": [{"role": "user", "content": 1, "x" * 5000: 1}] * 2000})
    assert len(error.message) < 4000
    assert error.message.endswith("more fields")
    assert explain(ChatRequest, []).message == "the body has to be an object with messages"
