"""What clients ask and are told: without a socket."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import logging
import time

import pytest
import torch
from chat.chat_families import FAMILIES, tokenizer_of
from chat_models import saved_parrot, talking_tokenizer
from release.serve.small_servers import NEVER_ENDS, SAYS_HEY, Client, served
from tuned_adapters import TIED, adapter_on, save, saved_base, train

from hf_finetune.chat.template import encode_prompt
from hf_finetune.config.sections import EvalSection
from hf_finetune.errors import CannotWriteError
from hf_finetune.evaluation import generate_responses
from hf_finetune.models import load_for_generation
from hf_finetune.release.serve.api import chat, guards
from hf_finetune.release.serve.api.answers import Answers
from hf_finetune.release.serve.api.errors import ApiError
from hf_finetune.release.serve.engine.jobs import Finished, Piece
from hf_finetune.release.serve.engine.tools import ToolForm, Tools, find_tools, parse_answer
from hf_finetune.release.serve.filters import REFUSAL
from hf_finetune.release.serve.votes import open_votes

KEY = "a-key-of-sixteen-letters"


@pytest.fixture(scope="module")
def hey(tmp_path_factory):
    """A model that says `hey.` to everything, or goes on behind a text of one of its letters."""
    folder = tmp_path_factory.mktemp("served") / "hey"
    return saved_parrot(folder, SAYS_HEY, positions=64)


@pytest.fixture(scope="module")
def running(hey):
    with served(hey, limits={"max_tokens": 40, "choices": 3, "body_bytes": 2000}) as running:
        yield running


@pytest.fixture
def client(running):
    return Client(running)


def events(answer):
    lines = [line.removeprefix("data: ") for line in answer.text.split("\n\n") if line]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


def refused(answer, status, words):
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert words in error["message"]
    return error


def test_answers_are_those_of_generate_plain_streamed_and_by_the_short_path(client, hey):
    model, tokenizer = load_for_generation(hey)
    for number, prompt in enumerate(("hi", "who are you?", "A")):
        settings = EvalSection(max_new_tokens=12, seed=number)
        [expected] = generate_responses(model, tokenizer, [prompt], settings)
        sampled = {"temperature": 0.8, "top_k": 50, "seed": number}
        plain = client.chat(prompt, max_tokens=12, **sampled).json()
        assert plain["choices"][0]["message"]["content"] == expected.continuation
        assert plain["choices"][0]["finish_reason"] == ("stop" if expected.finished else "length")
        assert plain["usage"]["completion_tokens"] == expected.tokens
        streamed = events(client.chat(prompt, max_tokens=12, stream=True, **sampled))
        pieces = [each["choices"][0]["delta"].get("content") or "" for each in streamed]
        assert "".join(pieces) == expected.continuation
        short = client.post("/generate", {"prompt": prompt, "max_new_tokens": 12, "seed": number}).json()
        assert (short["continuation"], short["tokens"]) == (expected.continuation, expected.tokens)
        [continued] = generate_responses(model, tokenizer, [prompt], settings, raw=True)
        text = client.post("/v1/completions", {"prompt": prompt, "max_tokens": 12, **sampled}).json()
        assert text["choices"][0]["text"] == continued.continuation


def test_a_stream_says_how_much_was_used_where_that_is_asked(client):
    chunks = events(client.chat(stream=True, stream_options={"include_usage": True}))
    assert [each["usage"] for each in chunks[:-1]] == [None] * (len(chunks) - 1)
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"]["completion_tokens"] == len("hey.") + 1
    assert [each["choices"][0]["finish_reason"] for each in chunks[:-1]] == [None] * (len(chunks) - 2) + ["stop"]


def test_several_answers_differ_by_their_seeds_and_are_the_same_again(client):
    first, again = (client.chat(n=3, temperature=1.5, seed=7).json()["choices"] for _ in range(2))
    said = [each["message"]["content"] for each in first]
    assert said == [each["message"]["content"] for each in again]
    assert len(set(said)) > 1
    alone = client.chat(temperature=1.5, seed=8).json()["choices"][0]["message"]["content"]
    assert alone == said[1]


def test_a_stop_string_is_no_part_of_the_answer(client):
    choice = client.chat(stop=["y."]).json()["choices"][0]
    assert (choice["message"]["content"], choice["finish_reason"]) == ("he", "stop")
    chunks = events(client.chat(stop="ey", stream=True))
    assert "".join(each["choices"][0]["delta"].get("content") or "" for each in chunks) == "h"


def test_probabilities_are_those_of_the_model(client):
    # Logits of 10, 8 for "z" and 0 for all others.
    vocabulary = len(talking_tokenizer())
    tokens = client.chat(logprobs=True, top_logprobs=2, max_tokens=2).json()["choices"][0]["logprobs"]["content"]
    scores = torch.zeros(vocabulary)
    scores[:2] = torch.tensor([10.0, 8.0])
    expected = scores.log_softmax(0)[:2].tolist()
    assert [each["token"] for each in tokens] == ["h", "e"]
    assert tokens[0]["bytes"] == [ord("h")]
    assert [each["logprob"] for each in tokens[1]["top_logprobs"]] == pytest.approx(expected, abs=2e-4)
    assert [each["token"] for each in tokens[1]["top_logprobs"]] == ["e", "z"]
    written = client.post("/v1/completions", {"prompt": "h", "logprobs": 2, "temperature": 0}).json()["choices"][0]
    assert written["logprobs"]["tokens"] == list("ey.")
    assert written["logprobs"]["text_offset"] == [0, 1, 2]
    assert written["logprobs"]["top_logprobs"][0]["z"] == pytest.approx(expected[1], abs=2e-4)


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({"model": "gpt-4"}, 404, "`gpt-4` does not exist"),
        ({"messages": []}, 400, "messages"),
        ({"messages": [{"role": "user"}]}, 400, "has no content"),
        ({"messages": [{"role": "user", "content": "☃"}]}, 400, "the tokenizer has never seen"),
        ({"messages": [{"role": "user", "content": "a" * 70}]}, 400, "tokens, and at most 63 are taken"),
        ({"max_tokens": 41}, 400, "max_tokens is 41, and this server takes 1 to 40"),
        ({"max_completion_tokens": 41}, 400, "max_completion_tokens is 41, and this server takes 1 to 40"),
        ({"max_tokens": 0}, 400, "max_tokens: takes a whole number from 1 to 40"),
        ({"n": 4}, 400, "4 answers are asked for, and one request may have 1 to 3"),
        ({"n": 0}, 400, "n: takes a whole number from 1 to 3"),
        ({"temperature": 3}, 400, "temperature"),
        ({"temperature": "1"}, 400, "temperature"),
        ({"presence_penalty": 0.5}, 400, "presence_penalty"),
        ({"frobnicate": 1}, 400, "frobnicate: is not a field that this server knows"),
        ({"top_logprobs": 2}, 400, "needs logprobs"),
        ({"response_format": {"type": "json_object"}}, 400, "response_format"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_cannot_be_done_is_refused_in_the_form_of_openai_and_nothing_is_repeated(client, body, status, words):
    refused(client.chat(**body), status, words)


def test_what_changes_nothing_is_taken(client):
    neutral = {
        "presence_penalty": 0,
        "frequency_penalty": 0.0,
        "logit_bias": {},
        "tools": None,
        "user": "me",
        "stop": None,
    }
    assert client.say(**neutral, response_format={"type": "text"}, top_p=1, max_completion_tokens=10) == "hey."
    parts = [{"role": "developer", "content": "a"}, {"role": "user", "content": [{"type": "text", "text": "hi"}]}]
    assert client.post("/v1/chat/completions", {"messages": parts, "temperature": 0}).status_code == 200
    assert client.say(temperature=5e-324) == "hey."
    assert client.say(temperature=1, top_p=0.0) == "hey."


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b'{"messages": NaN}', b"[" * 1500, b'{"messages":"\xff"}', b'{"prompt":"\\ud800"}', b"\x00"],
    ids=range(8),
)
def test_what_is_no_json_is_refused_and_not_repeated(client, body):
    for path in ("/v1/chat/completions", "/v1/completions", "/generate", "/page/compare"):
        answer = client.request("POST", path, content=body, headers={"Content-Type": "application/json"})
        assert answer.status_code == 400, (path, answer.text)
    answer = client.request("POST", "/generate", content=body, headers={"Content-Type": "text/plain"})
    refused(answer, 415, "has to be JSON")


def test_bodies_are_bounded_and_paths_that_are_none_are_said(client):
    refused(client.chat("a" * 3000), 413, "longer than 2,000 bytes")
    language = (
        "`hey` is a language model, which is asked by POST at /v1/chat/completions, /v1/completions and /generate"
    )
    refused(client.get("/v2/none"), 404, f"/v2/none is no path of this server: {language}")
    refused(client.post("/classify", {"text": "a"}), 404, f"/classify is no path of this server: {language}")
    refused(client.get("/generate"), 405, "GET is not taken here, POST is")
    refused(client.get("/v1/models/gpt-4"), 404, "does not exist")
    before = client.count('hf_finetune_requests_total{path="other",status="404"}')
    client.get("/anything/that/a/client/thinks/of")
    assert client.count('hf_finetune_requests_total{path="other",status="404"}') == before + 1


def test_a_body_that_does_not_come_is_not_waited_for(running, monkeypatch):
    monkeypatch.setattr(guards, "SECONDS_FOR_BODY", 0.05)

    async def slow():
        yield b"{"
        await asyncio.sleep(5)

    answer = Client(running).request("POST", "/generate", content=slow(), headers={"Content-Type": "application/json"})
    refused(answer, 408, "has not come")


def test_a_body_that_does_not_come_does_not_keep_a_server_that_ends(monkeypatch):
    monkeypatch.setattr(guards, "SECONDS_BETWEEN", 0.01)
    came, sent = [], []

    async def receive():
        came.append(None)
        if len(came) > 1:
            await asyncio.sleep(5)
        return {"type": "http.request", "body": b"{", "more_body": True}

    async def send(message):
        sent.append(message)

    rules = guards.Rules(None, 100, lambda: len(came) > 1, lambda *_: None, frozenset())
    scope = {"type": "http", "path": "/generate", "method": "POST", "headers": [(b"host", b"127.0.0.1")]}
    began = time.monotonic()
    asyncio.run(guards.Guard(None, rules)(scope, receive, send))
    assert sent[0]["status"] == 503
    assert time.monotonic() - began < 4


def test_texts_to_complete_may_be_several_and_be_tokens(client):
    ids = talking_tokenizer().get_vocab()
    both = client.post("/v1/completions", {"prompt": ["h", "e"], "n": 1, "temperature": 0}).json()["choices"]
    assert [(each["index"], each["text"]) for each in both] == [(0, "ey."), (1, "y.")]
    tokens = client.post("/v1/completions", {"prompt": [[ids["h"]], [ids["e"]]], "temperature": 0}).json()["choices"]
    assert [each["text"] for each in tokens] == ["ey.", "y."]
    refused(
        client.post("/v1/completions", {"prompt": [10**6]}),
        400,
        "token 1,000,000 is none: those of the tokenizer are 0 to 61",
    )
    streamed = events(client.post("/v1/completions", {"prompt": ["h", "e"], "temperature": 0, "stream": True}))
    said = [
        "".join(each["choices"][0]["text"] for each in streamed if each["choices"][0]["index"] == place)
        for place in (0, 1)
    ]
    assert said == ["ey.", "y."]


def test_without_a_key_pages_of_other_sites_are_refused(client):
    body = {"messages": [{"role": "user", "content": "hi"}]}
    for headers, words in (
        ({"Origin": "https://example.com"}, "pages of other sites"),
        ({"Origin": "null"}, "pages of other sites"),
        ({"Origin": "http://[::1"}, "pages of other sites"),
        ({"Host": "rebound.example.com"}, "own address alone"),
        ({"Host": "[::1"}, "own address alone"),
    ):
        refused(client.request("POST", "/v1/chat/completions", json=body, headers=headers), 403, words)
    ours = {"Origin": "http://127.0.0.1:8000", "Host": "127.0.0.1:8000"}
    assert client.request("POST", "/v1/chat/completions", json=body, headers=ours).status_code == 200


def test_a_key_is_asked_for_everything_but_the_page_and_the_health(hey, caplog):
    with caplog.at_level(logging.DEBUG, "hf_finetune"), served(hey, KEY) as running:
        nobody, guessing = Client(running), Client(running, Authorization="Bearer wrong-key-of-sixteen")
        for path in ("/v1/models", "/metrics", "/openapi.json", "/page/votes"):
            assert refused(nobody.get(path), 401, "missing or wrong")["code"] == "invalid_api_key"
            refused(guessing.get(path), 401, "missing or wrong")
            refused(Client(running, Authorization=f"Basic {KEY}").get(path), 401, "missing or wrong")
        refused(nobody.chat(), 401, "missing or wrong")
        page = nobody.get("/")
        assert page.status_code == nobody.get("/health").status_code == 200
        assert KEY not in page.text
        known = Client(running, Authorization=f"Bearer {KEY}")
        assert known.say() == "hey."
        # With a key any name may lead here, as behind a proxy.
        assert known.request("GET", "/v1/models", headers={"Host": "models.example.com"}).status_code == 200
    assert KEY not in caplog.text


def test_a_server_that_ends_says_so(hey):
    with served(hey) as running:
        client = Client(running)
        running.ending.ask()
        answer = client.chat()
        refused(answer, 503, "takes no more requests")
        assert answer.headers["Retry-After"] == "1"
        assert client.get("/health").json() == {"status": "ending"}
        assert "hf_finetune_requests_total" in client.get("/metrics").text


def test_too_many_are_told_to_come_back_and_too_long_is_told_too(tmp_path):
    endless = saved_parrot(tmp_path / "endless", NEVER_ENDS, positions=10**6)
    limits = {"running": 1, "waiting": 1, "max_tokens": 10**5, "seconds": 0.3, "choices": 4}
    with served(endless, limits=limits) as running:
        client = Client(running)
        answer = client.chat(n=3)
        assert refused(answer, 429, "come back in a moment")["type"] == "rate_limit_error"
        assert answer.headers["Retry-After"] == "1"
        refused(client.chat(), 503, "longer than this server allows")
        streamed = client.chat(stream=True)
        assert streamed.status_code == 200
        assert "longer than this server allows" in streamed.text.split("\n\n")[-2]
        assert "[DONE]" not in streamed.text
        assert running.scheduler.counts == (0, 0)


def test_counts_are_those_of_what_was_asked(hey):
    with served(hey) as running:
        client = Client(running)
        for _ in range(3):
            client.chat()
        client.chat(frobnicate=1)
        path = 'path="/v1/chat/completions"'
        assert client.count(f'hf_finetune_requests_total{{{path},status="200"}}') == 3
        assert client.count(f'hf_finetune_requests_total{{{path},status="400"}}') == 1
        assert client.count('hf_finetune_tokens_total{model="hey"}') == 3 * (len("hey.") + 1)
        assert client.count('hf_finetune_prompt_tokens_total{model="hey"}') > 0
        assert client.count('hf_finetune_answers{state="running"}') == 0


def test_nothing_that_a_client_says_is_logged(hey, caplog, monkeypatch):
    with caplog.at_level(logging.DEBUG, "hf_finetune"), served(hey) as running:
        client = Client(running)
        client.chat("secretive")
        client.chat("secretive", frobnicate=1)
        lane = running.application.app  # a fault of ours, with the words of a client in it
        monkeypatch.setattr("hf_finetune.release.serve.api.chat.encode_prompt", lambda _, said, __: {}[str(said)])
        refused(client.chat("secretive"), 500, "the server has failed")
        assert lane is running.application.app
    assert "secretive" not in caplog.text
    assert "KeyError" in caplog.text


def test_adapters_over_one_base_say_what_each_says_alone(tmp_path):
    base = saved_base(tmp_path / "base", **TIED)
    for number, name in enumerate(("one", "two")):
        torch.manual_seed(number)
        save(train(adapter_on(base, {"r": 4 + 4 * number, "lora_alpha": 64}), 3 + 5 * number), tmp_path / name)
    prompts, settings = ["The cat", "a", "why so"], EvalSection(temperature=0, max_new_tokens=8)
    paths = {"one": tmp_path / "one", "two": tmp_path / "two", "base": base}
    expected = {
        name: [each.continuation for each in generate_responses(*load_for_generation(str(path)), prompts, settings)]
        for name, path in paths.items()
    }
    assert expected["one"] != expected["two"] != expected["base"] != expected["one"]
    for model, adapters in ((str(base), ("one", "two")), (str(tmp_path / "one"), ("two",))):
        given = {name: str(tmp_path / name) for name in adapters}
        with served(model, adapters=given) as running:
            client = Client(running)
            assert sorted(each["id"] for each in client.get("/v1/models").json()["data"]) == ["base", "one", "two"]
            answers = {name: [] for name in paths}
            for prompt in prompts:  # one after the other, each by another one
                for name in paths:
                    body = {"model": name, "prompt": prompt, "temperature": 0, "max_tokens": 8}
                    answers[name].append(client.post("/v1/completions", body).json()["choices"][0]["text"])
            assert answers == expected


# Written down from the templates: what stands before a call, and where its arguments are.
CALLS = {
    "qwen2_5": ("<tool_call>", "arguments"),
    "qwen3": ("<tool_call>", "arguments"),
    "qwen3_instruct_2507": ("<tool_call>", "arguments"),
    "llama3_2": ("", "parameters"),
}


@pytest.mark.parametrize("name", [*CALLS, "glm4moe", "gemma3"])
def test_calls_are_read_as_the_template_writes_them(name):
    found = find_tools(tokenizer_of(next(family for family in FAMILIES if family.name == name)))
    assert found.taken == (name != "gemma3")
    if name not in CALLS:  # the name of a function stands outside of the JSON: calls stay text
        assert found.form is None
        return
    start, arguments = CALLS[name]
    call = json.dumps({"name": "add", arguments: {"a": 1}})
    parsed = parse_answer(found.form, f"Well.\n{start}\n{call}\n</tool_call>" if start else call)
    assert [each["function"] for each in parsed.calls] == [{"name": "add", "arguments": '{"a": 1}'}]
    assert parsed.content == ("Well." if start else "")
    for broken in ("", "no call", f"{start} {{", f"{start} [1]", f"{start}{'[' * 5000}"):
        assert parse_answer(found.form, broken).calls == []
        assert parse_answer(found.form, broken).content == broken


def test_tools_are_written_into_the_prompt_as_the_template_has_them(client):
    tool = {"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties": {}}}}
    lane = client.running.scheduler._lots["hey"].lane
    messages = [{"role": "user", "content": "hi"}]
    assert lane.tools.taken
    assert chat.encode_chat(lane, messages, [tool])[0] == encode_prompt(lane.tokenizer, messages, [tool])
    without = dataclasses.replace(lane, tools=Tools(False, None))
    with pytest.raises(ApiError, match="hey takes no tools"):
        chat.encode_chat(without, messages, [tool])


def test_a_call_in_a_stream_is_told_whole_and_never_as_text(hey, monkeypatch):
    tools = [{"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties": {}}}}]
    call = '<tool_call>{"name": "add", "arguments": {"a": 1}}</tool_call>'
    form = ToolForm("<tool_call>", "name", "arguments")
    monkeypatch.setattr(chat, "encode_chat", lambda *_: ([3], form))
    said = iter(["So. " + call, "So. " + call, "So. <tool", "So. <tool"])

    async def follow(self):
        text = next(said)
        for place in range(0, len(text), 3):
            yield 0, Piece(text[place : place + 3])
        yield 0, Finished("stop", len(text))

    monkeypatch.setattr(Answers, "follow", follow)
    with served(hey) as running:
        client = Client(running)
        for calls, text in ((1, "So."), (0, "So. <tool")):
            choice = client.chat(tools=tools).json()["choices"][0]
            deltas = [each["choices"][0]["delta"] for each in events(client.chat(tools=tools, stream=True))]
            assert (choice["message"]["content"] or "") == text
            assert "".join(each.get("content") or "" for each in deltas).strip() == text
            told = [one for each in deltas for one in each.get("tool_calls", [])]
            assert [one["function"] for one in told] == [{"name": "add", "arguments": '{"a": 1}'}] * calls
            assert choice["finish_reason"] == ("tool_calls" if calls else "stop")


def test_words_are_refused_in_prompts_and_answers_and_counted(hey, tmp_path):
    words = tmp_path / "words.txt"
    words.write_text("# not to be said\nBad  Apples\nHey\n禁句\n", encoding="utf-8")
    with served(hey, filters=(str(words),)) as running:
        client = Client(running)
        choice = client.chat("are bad, APPLES good").json()["choices"][0]
        assert (choice["message"]["content"], choice["finish_reason"]) == (REFUSAL, "content_filter")
        # The answer to it would be "hey."
        assert client.say("hi") == REFUSAL
        chunks = events(client.chat("hi", stream=True))
        assert "".join(each["choices"][0]["delta"].get("content") or "" for each in chunks) == REFUSAL
        assert client.post("/generate", {"prompt": "bad apples"}).json()["finish_reason"] == "content_filter"
        text = client.post("/v1/completions", {"prompt": "bad apples"}).json()["choices"][0]
        assert (text["text"], text["finish_reason"]) == (REFUSAL, "content_filter")
        assert client.post("/v1/completions", {"prompt": "e", "temperature": 0}).json()["choices"][0]["text"] == "y."
        assert client.count('hf_finetune_refusals_total{what="prompt"}') == 3
        assert client.count('hf_finetune_refusals_total{what="answer"}') == 2


def test_votes_that_cannot_be_written_are_said_at_the_start(tmp_path):
    with pytest.raises(CannotWriteError, match=r"votes.jsonl: --votes: cannot be written \(No such file"):
        open_votes(str(tmp_path / "nowhere" / "votes.jsonl"))


def test_two_models_are_compared_blind_and_votes_end_in_a_rate(tmp_path, hey):
    saved_parrot(tmp_path / "other", {"\n": "N", "N": "o"}, positions=64)
    (tmp_path / "other" / "run.yaml").write_text(f"model: {{path: {hey}}}\n", encoding="utf-8")
    votes = tmp_path / "votes.jsonl"
    sides = set()
    with served(str(tmp_path / "other"), base=True, votes=str(votes)) as running:
        client = Client(running)
        for _ in range(12):
            compared = client.post(
                "/page/compare", {"prompt": "hi", "first": "other", "second": "base", "temperature": 0}
            )
            shown = compared.json()
            assert "models" not in shown
            assert set(shown["answers"].values()) == {"No", "hey."}
            side = next(side for side, said in shown["answers"].items() if said == "No")
            sides.add(side)
            vote = {"comparison": shown["comparison"], "choice": side}
            told = client.post("/page/vote", vote).json()
            assert told["models"][side] == "other"
            refused(client.post("/page/vote", vote), 404, "has been judged")
        tied = client.post("/page/compare", {"prompt": "hi", "first": "other", "second": "base", "blind": False}).json()
        assert set(tied["models"].values()) == {"other", "base"}
        [summary] = client.post("/page/vote", {"comparison": tied["comparison"], "choice": "tie"}).json()["summary"]
    assert sides == {"left", "right"}
    # Of "other" against the base: 12 won and 1 tied of 13. Wilson (1927) by hand.
    share, rows, z = 12.5 / 13, 13, 1.959964
    center = (share + z**2 / (2 * rows)) / (1 + z**2 / rows)
    half = z / (1 + z**2 / rows) * (share * (1 - share) / rows + z**2 / (4 * rows**2)) ** 0.5
    assert {name: summary[name] for name in ("model", "against", "votes", "won", "lost", "tied")} == {
        "model": "other", "against": "base", "votes": 13, "won": 12, "lost": 0, "tied": 1,
    }  # fmt: skip
    assert summary["win_rate"] == pytest.approx(share)
    assert summary["interval"] == pytest.approx([center - half, min(1, center + half)], abs=1e-6)
    rows_written = [json.loads(line) for line in votes.read_text(encoding="utf-8").splitlines()]
    assert len(rows_written) == 13
    assert votes.stat().st_mode & 0o077 == 0
    with served(str(tmp_path / "other"), base=True, votes=str(votes)) as running:
        assert Client(running).get("/page/votes").json() == {"kept": True, "summary": [summary]}
