"""A server at a port: OpenAI's own client, clients that hang up, a signal in the middle of answers."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
from concurrent.futures import ThreadPoolExecutor

import httpx
import openai
import pytest
from accelerate.utils.other import get_free_port
from chat_models import saved_parrot
from release.serve.small_servers import NEVER_ENDS, SAYS_HEY, listening_server, served, wait_until
from typer.testing import CliRunner

from hf_finetune.cli import app
from hf_finetune.errors import ConfigError
from hf_finetune.release.serve.options import bind, let_in
from hf_finetune.release.serve.server import Ending

MESSAGES = [{"role": "user", "content": "hi"}]


@pytest.fixture(scope="module")
def hey(tmp_path_factory):
    return saved_parrot(tmp_path_factory.mktemp("server") / "hey", SAYS_HEY)


@pytest.fixture(scope="module")
def endless(tmp_path_factory):
    return saved_parrot(tmp_path_factory.mktemp("server") / "endless", NEVER_ENDS, positions=10**6)


def test_the_client_of_openai_reads_answers_streams_models_and_errors(hey):
    key = "a-key-of-sixteen-letters"
    with (
        served(hey, key) as running,
        listening_server(running) as address,
        openai.OpenAI(base_url=f"{address}/v1", api_key=key, max_retries=0) as client,
    ):
        assert [model.id for model in client.models.list()] == ["hey"]
        given = {"model": "hey", "messages": MESSAGES, "temperature": 0, "logprobs": True, "top_logprobs": 2}
        answer = client.chat.completions.create(**given)
        assert answer.choices[0].message.content == "hey."
        assert answer.choices[0].logprobs.content[0].top_logprobs[1].token == "z"
        with client.chat.completions.create(**given, stream=True, stream_options={"include_usage": True}) as stream:
            chunks = list(stream)
        assert "".join(each.choices[0].delta.content or "" for each in chunks[:-1]) == "hey."
        assert chunks[-1].usage.completion_tokens == answer.usage.completion_tokens == 5
        assert client.completions.create(model="hey", prompt="h", temperature=0).choices[0].text == "ey."
        with pytest.raises(openai.NotFoundError, match="`gpt-4` does not exist"):
            client.chat.completions.create(model="gpt-4", messages=MESSAGES)
        with pytest.raises(openai.BadRequestError, match="server takes 1 to 1,024"):
            client.chat.completions.create(model="hey", messages=MESSAGES, max_tokens=5000)
        with (
            openai.OpenAI(base_url=f"{address}/v1", api_key="wrong", max_retries=0) as other,
            pytest.raises(openai.AuthenticationError),
        ):
            other.models.list()


def test_clients_that_hang_up_leave_no_answer_running(endless):
    limits = {"max_tokens": 10**5, "running": 16, "waiting": 100}
    with served(endless, limits=limits) as running, listening_server(running) as address:

        async def hang_up(client, number):
            body = {"messages": MESSAGES, "stream": number % 2 == 0, "n": 1 + number % 3}
            body |= {"max_tokens": 10**5, "temperature": 0}
            async with client.stream("POST", "/v1/chat/completions", json=body) as answer:
                async for _ in answer.aiter_lines():
                    if number % 4 == 0:
                        return

        async def run():
            async with httpx.AsyncClient(base_url=address, timeout=60) as client:
                tasks = [asyncio.create_task(hang_up(client, number)) for number in range(40)]
                while sum(running.scheduler.counts) < 30:
                    await asyncio.sleep(0.01)
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

        asyncio.run(run())
        wait_until(lambda: running.scheduler.counts == (0, 0))


def ask(address, tokens, **more):
    body = {"messages": MESSAGES, "max_tokens": tokens, "temperature": 0, **more}
    return httpx.post(f"{address}/v1/chat/completions", json=body, timeout=60)


def test_what_runs_when_the_end_is_asked_for_is_finished_and_no_more_is_taken(endless):
    with (
        served(endless, limits={"max_tokens": 10**5, "grace_seconds": 60}) as running,
        ThreadPoolExecutor(4) as clients,
        listening_server(running) as address,
    ):
        long = clients.submit(ask, address, 1500)
        wait_until(lambda: running.scheduler.counts == (0, 1))
        running.ending.ask()
        late = ask(address, 5)
        assert late.status_code == 503
        assert late.json()["error"]["code"] == "stopping"
        assert long.result().status_code == 200
        assert long.result().json()["usage"]["completion_tokens"] == 1500


def test_what_outlasts_the_time_of_grace_is_told(endless):
    with (
        served(endless, limits={"max_tokens": 10**5, "grace_seconds": 0.1}) as running,
        ThreadPoolExecutor(4) as clients,
        listening_server(running) as address,
    ):
        plain = clients.submit(ask, address, 10**5)
        streamed = clients.submit(ask, address, 10**5, stream=True)
        wait_until(lambda: running.scheduler.counts == (0, 2))
        running.ending.ask()
        assert plain.result().status_code == 503
        assert plain.result().json()["error"]["message"] == "the server ends"
        assert "the server ends" in streamed.result().text.split("\n\n")[-2]


def test_a_second_signal_waits_for_nobody():
    ending = Ending()
    ending.ask()
    assert (ending.asked.is_set(), ending.at_once.is_set()) == (True, False)
    ending.ask()
    assert ending.at_once.is_set()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_command_with_0_once_what_runs_is_finished(endless, number):
    port, handlers = get_free_port(), [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)]
    address = f"http://127.0.0.1:{port}"

    def is_there():
        with contextlib.suppress(httpx.TransportError):
            return httpx.get(f"{address}/health").status_code == 200

    def is_running():
        return 'hf_finetune_answers{state="running"} 1.0' in httpx.get(f"{address}/metrics").text

    def ask_and_end():
        wait_until(is_there)
        with ThreadPoolExecutor(1) as clients:
            answer = clients.submit(ask, address, 1000)
            wait_until(is_running)
            os.kill(os.getpid(), number)
            return answer.result()

    with ThreadPoolExecutor(1) as other:
        answer = other.submit(ask_and_end)
        command = ["serve", endless, "--port", str(port), "--max-tokens", "100000"]
        done = CliRunner().invoke(app, command, catch_exceptions=False)
        assert answer.result().json()["usage"]["completion_tokens"] == 1000
    assert done.exit_code == 0
    assert f"serving at {address} (OpenAI's API at /v1, a page at /); Ctrl-C ends" in done.output
    assert [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)] == handlers


def test_an_address_that_is_taken_is_refused_before_anything_is_loaded(monkeypatch):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(ConfigError, match=rf"port {port} of 127.0.0.1 is in use.*\[HF871\]"):
            bind("127.0.0.1", port)
    with pytest.raises(ConfigError, match=r"cannot be listened at.*--host|--host: 192.0.2.1:0 cannot be listened at"):
        bind("192.0.2.1", 0)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: (_ for _ in ()).throw(socket.gaierror(-2, "unknown")))
    with pytest.raises(ConfigError, match=r"--host: no.such.host:80 cannot be listened at \(unknown"):
        bind("no.such.host", 80)


def test_of_two_servers_that_take_one_address_the_second_to_let_in_is_refused():
    with bind("127.0.0.1", 0) as first, bind("127.0.0.1", first.getsockname()[1]) as second:
        let_in(first)
        with pytest.raises(ConfigError, match=r"is in use.*\[HF871\]"):
            let_in(second)
