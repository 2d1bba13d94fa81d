"""The `hf-finetune` command. Nothing heavy is imported before a command needs it: `--help` answers at once."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from hf_finetune.errors import user_errors

if TYPE_CHECKING:
    from rich.console import Console

    from hf_finetune.config.sections import EvalSection
    from hf_finetune.environment import Finding, MachineFacts

app = typer.Typer(
    name="hf-finetune",
    help="Fine-tuning for the Hugging Face stack in which nothing is silent.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Dtype = Literal["float32", "bfloat16", "float16"]
Model = Annotated[str, typer.Argument(help="A run folder, model folder, adapter or Hub id.")]
BasePath = Annotated[str | None, typer.Option(help="Where the base is, if not where training found it.")]
System = Annotated[str | None, typer.Option(help="A system message.")]
MaxNewTokens = Annotated[int, typer.Option(min=1)]
Temperature = Annotated[float, typer.Option(min=0.0, help="0 always takes the likeliest token.")]
TopP = Annotated[float | None, typer.Option(help="Draw from the likeliest tokens of this probability in all.")]
TopK = Annotated[int, typer.Option(min=1, help="Draw from this many tokens.")]
RepetitionPenalty = Annotated[float, typer.Option(help="Above 1 makes tokens that are there less likely.")]


@app.command()
def train(
    run_file: Annotated[str, typer.Argument(help="The run's YAML file.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="section.key=value, as many as wanted.")] = None,
    where: Annotated[
        str, typer.Option("--on", help="Where it runs: a file of accelerate_configs, or its name.")
    ] = "cpu",
) -> None:
    """Check a run file, then launch its recipe under Accelerate. The launch line is printed first."""
    from hf_finetune.launching import launch

    raise typer.Exit(launch([run_file, *(overrides or [])], where))


@app.command()
def generate(
    model: Model,
    prompts: Annotated[list[str], typer.Argument(help="Messages to answer, or texts to continue.")],
    raw: Annotated[bool, typer.Option("--raw", help="Continue text, even if the model can chat.")] = False,
    base: Annotated[bool, typer.Option("--base", help="The base and the tuned model, side by side.")] = False,
    base_path: BasePath = None,
    system: System = None,
    max_new_tokens: MaxNewTokens = 100,
    temperature: Temperature = 0.8,
    top_p: TopP = None,
    top_k: TopK = 50,
    repetition_penalty: RepetitionPenalty = 1.0,
    seed: int = 0,
    as_json: Json = False,
) -> None:
    """Answer prompts with a chat model or adapter; continue them with a model that has no chat template."""
    settings = sampling(
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_p=top_p,
        top_k=top_k,
        repetition_penalty=repetition_penalty,
        seed=seed,
    )
    from dataclasses import asdict
    from functools import partial

    from hf_finetune.evaluation.comparison import before_and_after
    from hf_finetune.evaluation.display import sample_text, side_by_side
    from hf_finetune.evaluation.generation import respond
    from hf_finetune.models.loading import load_for_generation
    from hf_finetune.training.settings import set_up_logging

    set_up_logging()
    speak = partial(respond, prompts=prompts, settings=settings, system=system, raw=raw)
    if base:
        pairs = before_and_after(model, base_path, speak)
        if as_json:
            print_json([{"base": asdict(before), "tuned": asdict(after)} for before, after in pairs])
            return
        for before, after in pairs:
            console().print(side_by_side(before, after), soft_wrap=False)
        return
    loaded, tokenizer = load_for_generation(model, base=base_path)
    samples = speak(loaded, tokenizer)
    if as_json:
        print_json([asdict(sample) for sample in samples])
        return
    for sample in samples:
        console().print(sample_text(sample, "\n" if tokenizer.chat_template and not raw else ""))


@app.command()
def chat(
    model: Model,
    base_path: BasePath = None,
    system: System = None,
    max_new_tokens: MaxNewTokens = 512,
    temperature: Temperature = 0.8,
    top_p: TopP = None,
    top_k: TopK = 50,
    repetition_penalty: RepetitionPenalty = 1.0,
    seed: int = 0,
) -> None:
    """Talk to a chat model or adapter in the terminal; /help lists what can be said besides."""
    settings = sampling(
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_p=top_p,
        top_k=top_k,
        repetition_penalty=repetition_penalty,
        seed=seed,
    )
    from hf_finetune.evaluation.chat import Chat, Screen, run_chat
    from hf_finetune.evaluation.display import printable
    from hf_finetune.models.loading import load_for_generation
    from hf_finetune.training.settings import set_up_logging

    set_up_logging()
    loaded, tokenizer = load_for_generation(model, base=base_path)
    screen = Screen(
        write=lambda piece: print(printable(piece), end="", flush=True),
        note=lambda text: print(f"[{text}]", file=sys.stderr, flush=True),
        interactive=sys.stdin.isatty(),
    )
    opening = [] if system is None else [{"role": "system", "content": system}]
    run_chat(Chat(loaded, tokenizer, settings, screen, opening), typed_lines())


@app.command()
def merge(
    adapter: Annotated[str, typer.Argument(help="An adapter's folder or Hub id.")],
    output: Annotated[str, typer.Argument(help="The folder of the merged model.")],
    base_path: Annotated[str | None, typer.Option("--base", "--base-path", help="Where its base is now.")] = None,
    dtype: Annotated[Dtype, typer.Option(help="Of the merged weights.")] = "float32",
    data: Annotated[str | None, typer.Option(help="Held-out rows to compare on; else the run's validation.")] = None,
    tolerance: Annotated[float, typer.Option(min=0.0, help="Largest relative difference of the loss.")] = 0.01,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the folder if it exists.")] = False,
    as_json: Json = False,
) -> None:
    """Make one model of an adapter and its base, and say what that changed on held-out rows."""
    from hf_finetune.release.merge import merge_adapter
    from hf_finetune.training.settings import set_up_logging

    set_up_logging()
    facts = merge_adapter(
        adapter, output, base=base_path, dtype=dtype, data=data, tolerance=tolerance, overwrite=overwrite
    ).as_dict()
    if as_json:
        print_json(facts)
        return
    for name, value in facts.items():
        print(f"{name.replace('_', ' '):>24}  {value:.3g}" if isinstance(value, float) else f"{name:>24}  {value}")


@app.command()
def corpus(
    kind: Annotated[str, typer.Argument(help="source (text rows), docstrings (instruction) or modules (labelled).")],
    file: Annotated[Path, typer.Argument(help="The JSONL file to write.")],
    max_bytes: Annotated[int | None, typer.Option(min=1, help="Stop before the file grows larger.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file if it exists.")] = False,
    as_json: Json = False,
) -> None:
    """Write a real corpus, without a network, from the Python installation itself."""
    from dataclasses import asdict

    from hf_finetune.data.corpus import write_corpus

    facts = write_corpus(kind, file, max_bytes=max_bytes, overwrite=overwrite)
    if as_json:
        print_json(asdict(facts))
        return
    print(f"{file}: {facts.rows:,} rows, {facts.bytes / 1e6:.1f} MB from {facts.files:,} files ({facts.licence})")


@app.command()
def init(directory: Annotated[Path, typer.Argument(help="The folder to fill; made where it is missing.")]) -> None:
    """Copy recipes, configurations and data templates into a folder of your own."""
    from hf_finetune.project_files import init_project

    written = init_project(directory)
    print(f"{directory}: {len(written)} files. Next: cd {directory} and")
    print("  hf-finetune train recipes/configs/continued_pretraining.yaml --on cpu")


@app.command()
def doctor(as_json: Json = False) -> None:
    """Say what this machine can do: devices, precisions, versions against the tested ones."""
    import os
    from dataclasses import asdict

    from hf_finetune.environment import diagnose, machine_facts

    facts = machine_facts()
    findings = diagnose(facts, os.environ)
    if as_json:
        print_json({"facts": asdict(facts), "findings": [asdict(finding) for finding in findings]})
    else:
        show_machine(facts, findings)
    raise typer.Exit(2 if any(finding.level == "problem" for finding in findings) else 0)


def show_machine(facts: MachineFacts, findings: list[Finding]) -> None:
    """Print devices, versions and findings as tables."""
    from rich.table import Table

    print(f"Python {facts.python} on {facts.system}, {facts.cores} cores, {facts.disk_free_gib:.0f} GiB free here")
    devices = Table("device", "name", "memory", "capability", "precisions", box=None)
    for device in facts.devices:
        memory, precisions = f"{device.memory_gib:.0f} GiB", ", ".join(device.precisions)
        devices.add_row(device.kind, device.name, memory, device.capability, precisions)
    console().print(devices)
    print("  ".join(f"{name} {version}" for name, version in facts.versions.items()))
    for finding in findings:
        print(f"{finding.level:>7}: {finding.what}" + (f"; {finding.remedy}" if finding.remedy else ""))


def sampling(**options: Any) -> EvalSection:
    """The sampling options of a command as settings; `ConfigError` names each that is out of range."""
    from pydantic import ValidationError

    from hf_finetune.config.sections import EvalSection
    from hf_finetune.errors import ConfigError, Problem

    try:
        return EvalSection(**options)
    except ValidationError as refused:
        found = [(str(error["loc"][0]).replace("_", "-"), error["msg"]) for error in refused.errors()]
        raise ConfigError([Problem(message, key=f"--{option}") for option, message in found]) from refused


def typed_lines() -> Iterator[str]:
    """The lines of standard input; in a terminal with a prompt, where Ctrl-C takes a line back and Ctrl-D ends."""
    sys.stdin.reconfigure(errors="surrogateescape")  # type: ignore[union-attr]
    if not sys.stdin.isatty():
        yield from (line.rstrip("\r\n") for line in sys.stdin)
        return
    with suppress(ImportError):  # not on Windows, whose terminal edits lines itself
        import readline  # noqa: F401
    while True:
        try:
            line = input("> ")
        except EOFError:
            print()
            return
        except KeyboardInterrupt:
            print("\nCtrl-D or /quit ends")
            continue
        yield line


def console() -> Console:
    from rich.console import Console

    return Console(soft_wrap=True)


def print_json(value: Any) -> None:
    print(json.dumps(value, indent=2, ensure_ascii=False))


def main() -> None:
    """Entry point of the console script."""
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    logging.getLogger("hf_finetune").setLevel(logging.INFO)
    with user_errors():
        app()


if __name__ == "__main__":
    main()
