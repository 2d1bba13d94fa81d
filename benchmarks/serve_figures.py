"""What `hf-finetune serve` answers, how fast, and what becomes of it under load.

    python benchmarks/serve_figures.py models/smollm2-135m            # about six minutes on two cores
    python benchmarks/serve_figures.py MODEL --seconds 20 --only load

equal     OpenAI's own client, streamed and plain, against `hf-finetune generate`: greedy answers to 32 prompts
overhead  a request against `generate` in the same process, one at a time: median of the ratios of pairs
load      64 clients at once against one: tokens a second, errors, memory
hangups   100 clients that go in the middle of a stream: what still runs afterwards
end       SIGTERM under load: what each client was told, seconds, exit code
schema    schemathesis on the OpenAPI description, --examples an operation (1,000), positive and negative: 5xx
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import psutil
from accelerate.utils.other import get_free_port
from openai import APIStatusError, AsyncOpenAI, OpenAI

from hf_finetune.config.sections import EvalSection
from hf_finetune.evaluation import generate_responses
from hf_finetune.models import load_for_generation
from hf_finetune.release.serve.options import Limits, ServeOptions, bind
from hf_finetune.release.serve.server import Running, load_server, run_server

PARTS = ("equal", "overhead", "load", "hangups", "end", "schema")
PROMPTS = [f"Say in one sentence what {what} is good for." for what in (
    *("a hammer", "salt", "a map", "rain", "a bridge", "sleep", "music", "a clock", "glass", "a garden", "paper"),
    *("a mirror", "fire", "a boat", "bread", "chess", "a lamp", "soap", "a ladder", "honey", "a kite", "iron", "wool"),
    *("a window", "ice", "rope", "a well", "ink", "a drum", "a needle", "a market", "a bell"),
)]  # fmt: skip
TOKENS = 32


@contextmanager
def served_in_thread(model: str, **limits: Any) -> Iterator[tuple[str, Running]]:
    """A server in a thread of this process."""
    options = ServeOptions(model, port=get_free_port(), limits=Limits(**limits))
    running = load_server(options, None)
    begun = threading.Event()
    listening = bind(options.host, options.port)
    thread = threading.Thread(target=run_server, args=(running, listening, lambda *_: begun.set()))
    thread.start()
    begun.wait()
    try:
        yield f"http://127.0.0.1:{options.port}", running
    finally:
        running.ending.ask()
        thread.join()


@contextmanager
def served_in_process(model: str, *options: str) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """`hf-finetune serve` in a process of its own."""
    port = get_free_port()
    command = [sys.executable, "-m", "hf_finetune.cli", "serve", model, "--port", str(port), *options]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    try:
        while process.poll() is None:
            try:
                if httpx.get(f"http://127.0.0.1:{port}/health").status_code == 200:
                    break
            except httpx.TransportError:
                time.sleep(0.2)
        yield f"http://127.0.0.1:{port}", process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        process.wait()


def ask(client: OpenAI, prompt: str, **more: Any) -> Any:
    messages: Any = [{"role": "user", "content": prompt}]
    return client.chat.completions.create(model="served", messages=messages, temperature=0, max_tokens=TOKENS, **more)


def measure_equality(model: str) -> None:
    loaded, tokenizer = load_for_generation(model)
    settings = EvalSection(temperature=0, max_new_tokens=TOKENS)
    expected = [each.continuation for each in generate_responses(loaded, tokenizer, PROMPTS, settings)]
    with served_in_process(model, "--name", "served") as (address, _):
        client = OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0)
        plain = [ask(client, prompt).choices[0].message.content for prompt in PROMPTS]
        streamed = []
        for prompt in PROMPTS:
            chunks = ask(client, prompt, stream=True)
            streamed.append("".join(chunk.choices[0].delta.content or "" for chunk in chunks))
    for name, found in (("plain", plain), ("streamed", streamed)):
        equal = sum(one == other for one, other in zip(found, expected, strict=True))
        print(f"equal     {name}: {equal} of {len(PROMPTS)} greedy answers are those of `hf-finetune generate`")


def measure_overhead(model: str) -> None:
    loaded, tokenizer = load_for_generation(model)
    settings = EvalSection(temperature=0, max_new_tokens=TOKENS)
    ratios = []
    with served_in_thread(model) as (address, _), httpx.Client(base_url=address, timeout=300) as client:
        for number, prompt in enumerate(PROMPTS[:13]):
            began = time.perf_counter()
            generate_responses(loaded, tokenizer, [prompt], settings)
            alone = time.perf_counter() - began
            began = time.perf_counter()
            body = {"messages": [{"role": "user", "content": prompt}], "temperature": 0, "max_tokens": TOKENS}
            client.post("/v1/chat/completions", json=body).raise_for_status()
            if number:  # the first of each warms up
                ratios.append((time.perf_counter() - began) / alone)
    more = statistics.median(ratios) - 1
    print(f"overhead  a request takes {more:+.1%} of the time of `generate` (median of {len(ratios)})")


async def run_clients(address: str, clients: int, seconds: float) -> tuple[Counter[str], int]:
    """Ask one question after the other from each of so many clients; returns what came, and the tokens."""
    until, came, tokens = time.monotonic() + seconds, Counter[str](), 0

    async def run(number: int, client: AsyncOpenAI) -> None:
        nonlocal tokens
        turn = number
        while time.monotonic() < until:
            messages: Any = [{"role": "user", "content": PROMPTS[turn % len(PROMPTS)]}]
            turn += 1
            try:
                answer = await client.chat.completions.create(
                    model="served", messages=messages, max_tokens=TOKENS, temperature=1.0
                )
                came["200"] += 1
                tokens += answer.usage.completion_tokens if answer.usage else 0
            except APIStatusError as refused:
                came[str(refused.status_code)] += 1
                await asyncio.sleep(0.2)
            except Exception as failed:
                came[type(failed).__name__] += 1
                await asyncio.sleep(0.2)

    async with AsyncOpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0, timeout=300) as client:
        await asyncio.gather(*(run(number, client) for number in range(clients)))
    return came, tokens


def measure_load(model: str, seconds: float) -> None:
    with served_in_process(model, "--name", "served") as (address, process):
        watched = psutil.Process(process.pid)
        began = time.perf_counter()
        came, tokens = asyncio.run(run_clients(address, 1, seconds / 4))
        alone = tokens / (time.perf_counter() - began)
        asyncio.run(run_clients(address, 64, 5))  # what many at once take is taken
        sizes, ended = [], threading.Event()

        def look() -> None:
            while not ended.wait(1):
                sizes.append(watched.memory_info().rss / 2**20)

        looking = threading.Thread(target=look)
        looking.start()
        began = time.perf_counter()
        came, tokens = asyncio.run(run_clients(address, 64, seconds))
        together = tokens / (time.perf_counter() - began)
        ended.set()
        looking.join()
        third = max(1, len(sizes) // 3)
        first, last = (statistics.median(part) for part in (sizes[:third], sizes[-third:]))
    print(f"load      1 client: {alone:.1f} tokens/s; 64 clients: {together:.1f}, {together / alone:.1f} times as many")
    print(f"load      {seconds:.0f} s of 64 clients: {dict(came)}; memory {first:.0f} MiB -> {last:.0f} MiB")


def measure_hangups(model: str) -> None:
    async def hang_up(client: httpx.AsyncClient, number: int) -> None:
        body = {
            "messages": [{"role": "user", "content": PROMPTS[number % 32]}],
            "max_tokens": 500,
            "stream": True,
            "temperature": 0,
        }
        async with client.stream("POST", "/v1/chat/completions", json=body) as answer:
            async for _ in answer.aiter_lines():
                if number % 3:
                    break

    async def run(address: str) -> None:
        limits = httpx.Limits(max_connections=200)
        async with httpx.AsyncClient(base_url=address, timeout=300, limits=limits) as client:
            tasks = [asyncio.create_task(hang_up(client, number)) for number in range(100)]
            await asyncio.sleep(3)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    with served_in_thread(model) as (address, running):
        asyncio.run(run(address))
        assert running.scheduler is not None
        began = time.perf_counter()
        running.scheduler.wait_until_idle(30)
        waiting, going_on = running.scheduler.counts
        seconds = time.perf_counter() - began
    print(f"hangups   100 clients have gone: {waiting} answers wait and {going_on} run {seconds:.1f} s later")


def measure_end(model: str) -> None:
    with served_in_process(model, "--name", "served", "--grace", "60") as (address, process):

        def stop() -> None:
            running = 0.0
            while running < 16:  # in the middle of answers
                time.sleep(0.2)
                counts = httpx.get(f"{address}/metrics", timeout=60).text
                running = float(counts.partition('answers{state="running"} ')[2].split()[0])
            os.kill(process.pid, signal.SIGTERM)

        threading.Thread(target=stop).start()
        came, _ = asyncio.run(run_clients(address, 64, 15))
        began = time.perf_counter()
        code = process.wait(90)
    told = {"200", "429", "503", "APIConnectionError"}
    untold = sum(count for name, count in came.items() if name not in told)
    seconds = time.perf_counter() - began
    print(
        f"end       SIGTERM among 64 clients: {dict(came)}, {untold} not told; exit code {code}, {seconds:.1f} s later"
    )


def measure_schema(model: str, examples: int) -> None:
    import hypothesis
    import schemathesis
    from schemathesis.checks import not_a_server_error

    statuses: Counter[int] = Counter()
    with served_in_thread(model, max_tokens=8, choices=2) as (address, _):
        schema = schemathesis.openapi.from_url(f"{address}/openapi.json")
        for operation in schema.get_all_operations():
            for mode in schemathesis.GenerationMode:

                @hypothesis.settings(
                    max_examples=examples, deadline=None, suppress_health_check=list(hypothesis.HealthCheck)
                )
                @hypothesis.given(case=operation.ok().as_strategy(generation_mode=mode))
                def look(case: Any) -> None:
                    response = case.call()
                    statuses[response.status_code] += 1
                    case.validate_response(response, checks=[not_a_server_error])

                try:
                    look()
                except hypothesis.errors.Unsatisfiable:
                    print(f"schema    {operation.ok().label}: nothing {mode.value} can be asked")
    print(f"schema    {sum(statuses.values()):,} requests: {dict(sorted(statuses.items()))}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--examples", type=int, default=1000)
    parser.add_argument("--only", nargs="*", choices=PARTS, default=PARTS)
    asked = parser.parse_args()
    measures = {
        "equal": lambda: measure_equality(asked.model),
        "overhead": lambda: measure_overhead(asked.model),
        "load": lambda: measure_load(asked.model, asked.seconds),
        "hangups": lambda: measure_hangups(asked.model),
        "end": lambda: measure_end(asked.model),
        "schema": lambda: measure_schema(asked.model, asked.examples),
    }
    for part in PARTS:
        if part in asked.only:
            measures[part]()


if __name__ == "__main__":
    main()
