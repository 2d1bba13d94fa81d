"""The `hf-finetune` command. Nothing heavy is imported before a command needs it: `--help` answers at once.

commands/          one file a command
answering.py       `hf-finetune generate --input`
launcher.py        `hf-finetune train`: from a run file to the processes that run its recipe
restarts.py        `--max-restarts`: it goes on by itself where a process or a machine was lost
meeting.py         where machines meet again after one was lost
stuck.py           a signal for a launch that waits for other machines
option_tables.py   what each command calls the settings of a run file
row_files.py       files of rows that are read and written
terminal.py        shared options, and how commands write and read
"""

from __future__ import annotations

import logging
import os
import platform
import sys
from typing import Annotated

import typer

from hf_finetune.cli.commands.cache import cache
from hf_finetune.cli.commands.diagnose import diagnose
from hf_finetune.cli.commands.doctor import doctor
from hf_finetune.cli.commands.generate import chat, generate
from hf_finetune.cli.commands.init import init
from hf_finetune.cli.commands.model import model
from hf_finetune.cli.commands.predict import predict
from hf_finetune.cli.commands.preflight.check import check
from hf_finetune.cli.commands.preflight.corpus import corpus
from hf_finetune.cli.commands.preflight.explain import explain
from hf_finetune.cli.commands.preflight.new import new
from hf_finetune.cli.commands.preflight.rows import rows
from hf_finetune.cli.commands.preflight.tokens import tokens
from hf_finetune.cli.commands.release.export import export
from hf_finetune.cli.commands.release.merge import merge
from hf_finetune.cli.commands.release.push import push
from hf_finetune.cli.commands.release.serve import serve
from hf_finetune.cli.commands.report import report
from hf_finetune.cli.commands.score import score
from hf_finetune.cli.commands.train import train
from hf_finetune.cli.commands.watch import watch
from hf_finetune.cli.option_tables import SettingsCommand, name_own_options
from hf_finetune.cli.terminal import EscapingGroup, say, watch_output
from hf_finetune.environment import __version__, escape_logged_lines, find_versions
from hf_finetune.errors import user_errors

VERSIONS = ("torch", "transformers", "trl", "peft", "datasets", "accelerate")

app = typer.Typer(
    name="hf-finetune",
    cls=EscapingGroup,
    help="Fine-tuning for the Hugging Face stack in which nothing is silent.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
# One flat list: `hf-finetune train --help` and so on, in the order in which a project needs them.
for command in (
    *(new, check, train, watch, score, predict, generate, chat, merge, export, serve, report, diagnose, push),
    *(corpus, rows, tokens, explain, model, init, doctor, cache),
):
    app.command(cls=SettingsCommand if command in (train, check) else None)(name_own_options(command))


def print_versions(asked: bool) -> None:
    """Print our version, Python's and those of the stack, none of which is imported, and end."""
    if asked:
        ours = {"hf-finetune": __version__, "python": platform.python_version()}
        for name, version in (ours | find_versions(VERSIONS)).items():
            say(f"{name} {version}")
        raise typer.Exit


# `is_eager`: no command has to be named beside it.
Version = Annotated[
    bool, typer.Option("--version", callback=print_versions, is_eager=True, help="Print the versions and end.")
]


@app.callback()
def read_options(version: Version = False) -> None:
    """Take the options that stand before any command."""


def main() -> None:
    """Entry point of the console script."""
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    escape_logged_lines()
    logging.getLogger("hf_finetune").setLevel(logging.INFO)
    if sys.platform != "win32":
        os.environ.setdefault("TERM", "dumb")  # of a terminal of which nothing is known
    with user_errors(), watch_output():
        app()
