"""The `hf-finetune` command. Nothing heavy is imported before a command needs it: `--help` answers at once."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hf_finetune.errors import user_errors

if TYPE_CHECKING:
    from rich.console import Console

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
    model: Annotated[str, typer.Argument(help="A run folder, model folder or Hub id.")],
    prompts: Annotated[list[str], typer.Argument(help="Texts to continue.")],
    max_new_tokens: Annotated[int, typer.Option(min=1)] = 100,
    temperature: Annotated[float, typer.Option(min=0.0, help="0 always takes the likeliest token.")] = 0.8,
    top_k: Annotated[int, typer.Option(min=1)] = 50,
    seed: int = 0,
    as_json: Json = False,
) -> None:
    """Continue prompts with a trained model."""
    from dataclasses import asdict

    from hf_finetune.config.sections import EvalSection
    from hf_finetune.evaluation.generation import continue_prompts
    from hf_finetune.models.loading import load_for_generation
    from hf_finetune.training.settings import set_up_logging

    set_up_logging()
    loaded, tokenizer = load_for_generation(model)
    settings = EvalSection(max_new_tokens=max_new_tokens, temperature=temperature, top_k=top_k, seed=seed)
    samples = continue_prompts(loaded, tokenizer, prompts, settings)
    if as_json:
        print_json([asdict(sample) for sample in samples])
        return
    for sample in samples:
        console().print(f"[bold]{escape(sample.prompt)}[/bold]{escape(sample.continuation)}", highlight=False)


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


def console() -> Console:
    from rich.console import Console

    return Console(soft_wrap=True)


def escape(text: str) -> str:
    from rich.markup import escape as escape_markup

    return escape_markup(text)


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
