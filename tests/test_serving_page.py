"""docs/serving.md says what is so: its commands, paths, limits and example are those of the program."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
from dataclasses import fields
from pathlib import Path

import pytest
import typer
from chat_models import saved_parrot
from release.serve.small_servers import SAYS_HEY, Client, listening_server, served

from hf_finetune.cli import app
from hf_finetune.release.serve.filters import REFUSAL
from hf_finetune.release.serve.options import Limits
from hf_finetune.release.serve.votes import _summarize, format_summary

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "serving.md").read_text(encoding="utf-8")
SERVE = typer.main.get_command(app).commands["serve"]


def test_commands_and_options_of_the_page_are_those_of_the_program():
    options = {name: parameter for parameter in SERVE.params for name in parameter.opts if name.startswith("--")}
    assert set(re.findall(r"`(--[a-z-]+)", PAGE)) | {"--host", "--filter", "--print-vllm", "--votes"} <= set(options)
    lines = [
        *re.findall(r"^    \$ (hf-finetune .+)$", PAGE, re.MULTILINE),
        *re.findall(r"`(hf-finetune serve [^`]+)`", PAGE),
    ]
    assert len(lines) > 8
    for line in lines:
        words = shlex.split(line)
        assert words[1] == "serve"
        SERVE.make_context("serve", words[2:])
    defaults = dict(re.findall(r"^\| `(--[a-z-]+)` \| ([\d,]+)", PAGE, re.MULTILINE))
    assert len(defaults) == 7
    for name, said in defaults.items():
        scale = 2**20 if name == "--max-body-bytes" else 1
        assert options[name].default == int(said.replace(",", "")) * scale, name


def test_the_limits_of_the_command_are_those_of_a_server_in_a_notebook():
    names = {"body_bytes": "max_body_bytes", "prompt_tokens": "max_prompt_tokens", "seconds": "timeout"}
    names |= {name: f"max_{name}" for name in ("choices", "running", "waiting")} | {"grace_seconds": "grace"}
    defaults = {parameter.name: parameter.default for parameter in SERVE.params}
    for field in fields(Limits):
        assert field.default == defaults[names.get(field.name, field.name)], field.name


def test_the_example_and_the_paths_of_the_page_are_what_a_server_answers(tmp_path, capsys):
    (example,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    with served(saved_parrot(tmp_path / "sft", SAYS_HEY)) as running:
        with listening_server(running) as address:
            plain = example.replace("boil an egg", "walk").replace("http://127.0.0.1:8000", address)
            exec(compile(f"{plain}client.close()", "docs/serving.md", "exec"), {})  # ours, not a user's
        assert capsys.readouterr().out == "hey.\n"
        running.ending.asked.clear()
        described = Client(running).get("/openapi.json").json()["paths"]
    told = {path for _, path in re.findall(r"^\| `(GET|POST) (/[^`]*)`", PAGE, re.MULTILINE)}
    known = {path for path in described if not path.startswith("/page/")} | {"/", "/openapi.json"}
    assert told == known - {"/v1/models/{name}"} | {"/classify"}


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not here")
def test_the_lines_of_curl_get_an_answer_whole_and_in_pieces(tmp_path):
    (example,) = re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL)
    with served(saved_parrot(tmp_path / "sft", SAYS_HEY)) as running, listening_server(running) as address:
        typed = example.replace("boil an egg", "walk").replace("http://127.0.0.1:8000", address)
        # In front of each: no bar of progress in what is compared.
        done = subprocess.run(["bash", "-ec", typed.replace("curl ", "curl -s ")], capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr
    plain, *events = done.stdout.decode().replace("}data: ", "}\ndata: ", 1).splitlines()
    assert json.loads(plain)["choices"][0]["message"]["content"] == "hey."
    lines = [line.removeprefix("data: ") for line in events if line]
    assert lines[-1] == "[DONE]"
    pieces = [json.loads(line)["choices"][0]["delta"].get("content") or "" for line in lines[:-1]]
    assert "".join(pieces) == "hey."


def test_what_the_page_quotes_is_what_is_said():
    assert f"`{REFUSAL}`" in PAGE
    line = format_summary(_summarize("sft", "base", {"won": 20, "lost": 4, "tied": 2}))
    assert f"    {line}\n" in PAGE
