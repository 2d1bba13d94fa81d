"""Counts for Prometheus; every label is from a fixed set."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from prometheus_client import CollectorRegistry, Counter, Histogram, disable_created_metrics, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

SECONDS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0)


class _Queue(Collector):
    """How many answers wait and run, asked when they are looked at."""

    def __init__(self, counts: Callable[[], tuple[int, int]]) -> None:
        self.counts = counts

    def collect(self) -> list[GaugeMetricFamily]:
        family = GaugeMetricFamily("hf_finetune_answers", "Answers that wait, and that are generated", labels=["state"])
        for state, count in zip(("waiting", "running"), self.counts(), strict=True):
            family.add_metric([state], count)
        return [family]


class Meter:
    """The counts of one server."""

    def __init__(self, counts: Callable[[], tuple[int, int]]) -> None:
        """`counts`: how many answers wait, and how many are generated."""
        # For the whole process, which is this server's.
        disable_created_metrics()  # type: ignore[no-untyped-call]  # a second line for each, of when its counting began
        # Of its own: the library's holds counts of this Python, and two servers in one process would meet there.
        self.registry = CollectorRegistry()
        self.registry.register(_Queue(counts))
        on = self.registry
        self._requests = Counter("hf_finetune_requests", "Requests by path and status", ["path", "status"], registry=on)
        self._seconds = Histogram(
            "hf_finetune_request_seconds",
            "From a request to the end of its answer",
            ["path"],
            buckets=SECONDS,
            registry=on,
        )
        self._tokens = Counter("hf_finetune_tokens", "Tokens that were generated", ["model"], registry=on)
        self._prompt_tokens = Counter("hf_finetune_prompt_tokens", "Tokens that were read", ["model"], registry=on)
        self._refusals = Counter("hf_finetune_refusals", "What filters have refused", ["what"], registry=on)

    def count_request(self, path: str, status: int, seconds: float) -> None:
        self._requests.labels(path, str(status)).inc()
        self._seconds.labels(path).observe(seconds)

    def count_tokens(self, model: str, tokens: int) -> None:
        self._tokens.labels(model).inc(tokens)

    def count_prompt(self, model: str, tokens: int) -> None:
        self._prompt_tokens.labels(model).inc(tokens)

    def count_refusal(self, what: Literal["prompt", "answer"]) -> None:
        self._refusals.labels(what).inc()

    def write(self) -> bytes:
        """All counts, in Prometheus' text form."""
        return generate_latest(self.registry)
