"""An export to ONNX or GGUF is served as a run is: what it says is what `hf-finetune generate` says of it."""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from release.export.gguf_models import chat_tokenizer, tiny
from release.serve.small_servers import Client, listening_server, served
from typer.testing import CliRunner

from hf_finetune.cli import app
from hf_finetune.config import sampling_settings
from hf_finetune.evaluation.generation.prompts import generate_responses
from hf_finetune.models import load_for_generation
from hf_finetune.release.export import ExportOptions, export_model

SAID = ["hi", "who are you and what is this", "a b c d e f g h", "12 + 30", "x", "tell me"]
EXPORTS = {"onnx": {}, "onnx of 8 bits": {"int8": True, "tolerance": 1.0}, "gguf": {"quant": "q8_0", "tolerance": 1.0}}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "run"
    tiny().save_pretrained(folder)
    chat_tokenizer().save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("kind", EXPORTS)
def test_an_export_is_served_and_says_what_generate_says_of_it(run, tmp_path, kind, caplog):
    if kind == "gguf":
        pytest.importorskip("xllamacpp")
    out = str(tmp_path / "exported")
    export_model(run, out, kind.split()[0], ExportOptions(rows=3, **EXPORTS[kind]))
    settings = sampling_settings({"temperature": 0, "max_new_tokens": 12}, str)
    samples = generate_responses(*load_for_generation(out), prompts=SAID, settings=settings)
    expected = [each.continuation for each in samples]
    assert len(set(expected)) > 1
    with caplog.at_level(logging.INFO), served(out) as running:
        client = Client(running)
        asked = [client.post("/generate", {"prompt": each, "temperature": 0, "max_new_tokens": 12}) for each in SAID]
        assert [each.json()["continuation"] for each in asked] == expected
        with listening_server(running) as address, ThreadPoolExecutor(len(SAID)) as many:

            def chat(said):
                body = {"messages": [{"role": "user", "content": said}], "temperature": 0, "max_tokens": 12}
                answer = httpx.post(f"{address}/v1/chat/completions", json=body, timeout=60)
                return answer.json()["choices"][0]["message"]["content"]

            assert [*many.map(chat, SAID)] == expected
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"prompt": "hi", "completion": "you"}\n')
    scored = CliRunner().invoke(app, ["score", out, str(rows), "--generate-rows", "0", "--json"])
    assert scored.exit_code == 0, scored.output
    # 8 bits too are rounded row by row: what stands beside a text does not change its answer.
    assert "one request at a time" not in caplog.text
