"""`hf-finetune serve`: a model behind HTTP."""

from __future__ import annotations

from functools import partial
from typing import Annotated

import typer

from hf_finetune.cli.terminal import BasePath, Model, Trust, announce, parse_adapters, say

Adapters = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME=DIR", help="Adapters of one base, by name: a=runs/a b=runs/b"),
]
MoreAdapters = Annotated[list[str] | None, typer.Argument(metavar="[NAME=DIR]...", help="After --adapters.")]
Name = Annotated[str | None, typer.Option(help="What the model is called; else its folder's name.")]
Base = Annotated[bool, typer.Option("--base", help="Serve what the model was tuned from, too, as `base`.")]
Host = Annotated[str, typer.Option(help="Where to listen; another than this machine's own needs a key.")]
Port = Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")]
KeyFile = Annotated[
    str | None, typer.Option(metavar="FILE", help="The key that clients have to show; else HF_FINETUNE_API_KEY.")
]
Filter = Annotated[
    list[str] | None,
    typer.Option(metavar="WORDS.txt|RUN=LABEL", help="Refuse prompts and answers with these words, or of this label."),
]
Votes = Annotated[str | None, typer.Option(metavar="FILE", help="Keep the votes of the page at / in this JSONL file.")]
MaxTokens = Annotated[int, typer.Option(min=1, help="Tokens of one answer.")]
MaxPrompt = Annotated[int | None, typer.Option(min=1, help="Tokens of one prompt; else what the model takes.")]
MaxBody = Annotated[int, typer.Option(min=1024, help="Bytes of one request.")]
MaxChoices = Annotated[int, typer.Option(min=1, help="Answers to one request.")]
MaxRunning = Annotated[int, typer.Option(min=1, help="Answers that are generated at once.")]
MaxWaiting = Annotated[int, typer.Option(min=0, help="Answers that wait; more are told to come back.")]
Timeout = Annotated[float, typer.Option(min=1.0, help="Seconds of one request.")]
Grace = Annotated[float, typer.Option(min=0.0, help="Seconds that running answers get when the server is to end.")]
PrintVllm = Annotated[bool, typer.Option("--print-vllm", help="Print how vLLM and TGI serve it instead, and end.")]


def serve(
    model: Model,
    more: MoreAdapters = None,
    adapters: Adapters = None,
    name: Name = None,
    base: Base = False,
    base_path: BasePath = None,
    host: Host = "127.0.0.1",
    port: Port = 8000,
    api_key_file: KeyFile = None,
    filter: Filter = None,
    votes: Votes = None,
    max_tokens: MaxTokens = 1024,
    max_prompt_tokens: MaxPrompt = None,
    max_body_bytes: MaxBody = 2**20,
    max_choices: MaxChoices = 8,
    max_running: MaxRunning = 32,
    max_waiting: MaxWaiting = 128,
    timeout: Timeout = 300.0,
    grace: Grace = 30.0,
    trust_chat_template: Trust = None,
    print_vllm: PrintVllm = False,
) -> None:
    """Serve a model, its adapters or a classifier: OpenAI's API, /generate, /classify, /metrics, a page at /."""
    from hf_finetune.config import check_saved_model, check_template_hash

    named = parse_adapters(adapters, more)
    check_template_hash(trust_chat_template)
    for path in (model, *named.values()):  # before torch is imported
        check_saved_model(path, "serve", model if named and path != model else None if base else base_path)
    from hf_finetune.release import Limits, ServeOptions, format_other_servers, serve_model

    counts = (max_body_bytes, max_prompt_tokens, max_tokens, max_choices, max_running, max_waiting)
    limits = Limits(*counts, seconds=timeout, grace_seconds=grace)
    files = {"key_file": api_key_file, "votes": votes, "trust_chat_template": trust_chat_template}
    options = ServeOptions(
        model, name, named, base, base_path, host, port, filters=tuple(filter or ()), limits=limits, **files
    )
    # Nothing is loaded for it.
    if print_vllm:
        for line in format_other_servers(options):
            say(line)
        return
    serve_model(options, partial(_begin, model), _say_address)


def _begin(model: str) -> None:
    """Say what is loaded; then torch is imported."""
    announce(model)
    from hf_finetune.environment import set_up_logging
    from hf_finetune.models import hold_commits

    set_up_logging()
    hold_commits()


def _say_address(host: str, port: int) -> None:
    shown = f"[{host}]" if ":" in host else host
    say(f"serving at http://{shown}:{port} (OpenAI's API at /v1, a page at /); Ctrl-C ends", flush=True)
