"""A GGUF file opened in llama.cpp itself, through xllamacpp."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from http.client import HTTPConnection
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray

from hf_finetune.errors import ModelError, Problem

QUIET = -1
SECONDS = 600
"""For one answer."""


class RequestRefused(Exception):
    """llama.cpp refuses a request: its reason."""


class LlamaCpp:
    """A model that llama.cpp has loaded, with or without an adapter; closed at the end of a `with`."""

    def __init__(self, model: Path, adapter: Path | None = None, *, context: int = 512, threads: int = 1) -> None:
        """Raise `ModelError` where llama.cpp does not load the file; xllamacpp is installed, as `check_export` sees."""
        import xllamacpp  # an extra

        settings = xllamacpp.CommonParams()
        settings.model.path = str(model)
        if adapter is not None:
            settings.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(str(adapter), 1.0)]
        settings.n_ctx, settings.n_parallel, settings.n_gpu_layers = context, 1, 0
        settings.warmup, settings.ui, settings.verbosity = False, False, QUIET
        settings.cpuparams.n_threads = settings.cpuparams_batch.n_threads = threads
        # Keys and values of 16 bits would be a second quantization of what is compared.
        settings.cache_type_k = settings.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
        settings.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
        # It would make room by a shorter context, without a word.
        settings.fit_params = False
        try:
            self._server: Any = xllamacpp.Server(settings)
        except (RuntimeError, ValueError) as problem:
            what = f"llama.cpp does not load it ({problem})"
            raise ModelError(Problem(what, "please report it", path=str(model), code="HF978")) from problem
        place = urlsplit(self._server.listening_address)
        self._connection = HTTPConnection(str(place.hostname), place.port, timeout=SECONDS)

    def __enter__(self) -> LlamaCpp:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """End llama.cpp and give its memory back."""
        self._connection.close()
        # Its threads end when nothing holds it.
        self._server = None

    def tokenize(self, text: str, *, special: bool = False) -> list[int]:
        """The tokens of a text alone; `special`: of control tokens that it spells as well."""
        found: list[int] = self._ask("/tokenize", {"content": text, "add_special": False, "parse_special": special})[
            "tokens"
        ]
        return found

    def render(self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]] | None = None) -> str:
        """The prompt that llama.cpp makes of a conversation. Raises `RequestRefused` where the template refuses it."""
        given = {"messages": messages, **({"tools": tools} if tools else {})}
        return str(self._ask("/apply-template", given)["prompt"])

    def continue_greedily(self, ids: Sequence[int], count: int) -> list[int]:
        """The likeliest tokens behind `ids`, up to `count`, and to the end of the answer."""
        tokens: list[int] = self._complete(ids, count)["tokens"]
        return tokens

    def find_log_probabilities(
        self, ids: Sequence[int], vocabulary: int, *, first: int | None = None
    ) -> NDArray[np.float32]:
        """The logarithms of the probabilities of the next token behind `ids`: (vocabulary,).

        Of the `first` likeliest alone, where that is given; the others have none then.
        """
        # No step is told of an end token, or of half a character: another one is taken, of which nothing is read.
        plain = [[self.tokenize("a")[0], 1e6]]
        [step] = self._complete(ids, 1, n_probs=first or vocabulary, logit_bias=plain)["completion_probabilities"]
        found = np.full(vocabulary, -np.inf, dtype=np.float32)
        for each in step["top_logprobs"]:
            found[each["id"]] = each["logprob"]
        return found

    def _complete(self, ids: Sequence[int], count: int, **more: Any) -> dict[str, Any]:
        asked = {
            "prompt": list(ids),
            "n_predict": count,
            "temperature": 0.0,
            "samplers": ["temperature"],
            "return_tokens": True,
            "cache_prompt": True,
            **more,
        }
        return self._ask("/completion", asked)

    def _ask(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        headers = {"Content-Type": "application/json"}
        self._connection.request("POST", path, json.dumps(body).encode(), headers)
        response = self._connection.getresponse()
        answer = json.loads(response.read())
        if response.status != 200:
            raise RequestRefused(str(answer.get("error", {}).get("message", answer)))
        found: dict[str, Any] = answer
        return found
