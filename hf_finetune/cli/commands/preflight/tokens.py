"""`hf-finetune tokens`: a text, or a row of a run as it would be trained, token by token."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hf_finetune.cli.terminal import Json, Trust, make_console, print_json, say
from hf_finetune.errors import ConfigError, DataError, Problem

if TYPE_CHECKING:
    from hf_finetune.preflight import TokenView

RUN_FILES = (".yaml", ".yml")


def tokens(
    source: Annotated[str, typer.Argument(metavar="MODEL|RUN.yaml", help="A model folder or Hub id, or a run file.")],
    shown: Annotated[
        str, typer.Argument(metavar="TEXT|FILE:LINE", help="A text, - for standard input; of a run file, a row.")
    ],
    settings: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Settings of the run, over those of its file.")
    ] = None,
    chat: Annotated[bool, typer.Option("--chat", help="Put the text under the chat template, as a question.")] = False,
    html: Annotated[Path | None, typer.Option(metavar="PAGE", help="Write a page, with the ids on hover.")] = None,
    trust_chat_template: Trust = None,
    as_json: Json = False,
) -> None:
    """Show a text, or a row of a run as it would be trained, token by token."""
    of_run = source.endswith(RUN_FILES)
    _check_asked(source, settings or [], of_run=of_run, chat=chat, trusted=trust_chat_template)
    if html is not None:
        check_page(html)
    views = _view_row(source, shown, settings or []) if of_run else _view_text(source, shown, trust_chat_template, chat)
    if html is not None:
        from hf_finetune.pages import save_page
        from hf_finetune.preflight import render_page

        save_page(html, render_page(views, title=shown if of_run else "Tokens", kind=source))
        say(f"{html} is written", file=sys.stderr if as_json else sys.stdout)
    if as_json:
        print_json([view.as_dict() for view in views])
    elif html is None:
        print_views(views, as_list=not of_run)


def _check_asked(source: str, settings: list[str], *, of_run: bool, chat: bool, trusted: str | None) -> None:
    """Raise `ConfigError` naming each word that does not go with a model, or with a run file."""
    from hf_finetune.config import check_template_hash

    problems = []
    if not of_run and settings:
        remedy = "put quotes around a text of several words"
        problems.append(
            Problem(f"{settings[0]!r} is a setting of a run, and {source!r} no run file", remedy, code="HF601")
        )
    if of_run and chat:
        problems.append(Problem("a row is shown as it is trained", "leave it out", key="--chat", code="HF601"))
    if of_run and trusted is not None:
        what, key = "a run names it in data.trust_chat_template", "--trust-chat-template"
        problems.append(Problem(what, "leave it out", key=key, code="HF601"))
    if problems:
        raise ConfigError(problems)
    check_template_hash(trusted)


def check_page(page: Path) -> None:
    """Raise `ConfigError` where no page can be written, or a file of somebody else stands."""
    from hf_finetune.pages import is_writable_page

    check_folder(page, "--html")
    if not is_writable_page(page):
        remedy = "name another file with --html"
        problem = Problem("is there already, and no page of ours", remedy, path=str(page), key="--html", code="HF705")
        raise ConfigError(problem)


def check_folder(path: Path, option: str) -> None:
    """Raise `ConfigError` for what is no name of a file, and say that a folder is made: before anything is read."""
    from hf_finetune.folders import say_new_folder

    if str(path) == "-":
        what = "is no name of a file"
        raise ConfigError(Problem(what, "name a file, such as page.html", str(path), key=option, code="HF706"))
    say_new_folder(path)


def _view_text(model: str, text: str, trusted: str | None, chat: bool) -> list[TokenView]:
    """View a text under the tokenizer of a model, of which nothing else is loaded."""
    from hf_finetune.chat import trust_named_template
    from hf_finetune.config import ModelSection
    from hf_finetune.environment import set_up_logging
    from hf_finetune.models import load_tokenizer
    from hf_finetune.preflight import view_text

    given = _read_standard_input() if text == "-" else text
    set_up_logging()
    tokenizer = load_tokenizer(ModelSection(path=model), needs_end=False)
    trust_named_template(tokenizer, trusted)
    return [view_text(tokenizer, given, chat=chat)]


def _read_standard_input() -> str:
    """The whole of standard input but its last line feed. Raises `DataError` where it is not UTF-8."""
    from hf_finetune.preflight import MOST_CHARACTERS

    # A character has four bytes of UTF-8 at most: one byte more than all of these is too long, whatever it says.
    written = sys.stdin.buffer.read(4 * MOST_CHARACTERS + 1)
    try:
        # Cut off inside a character it is too long all the same, which is said where it is looked at.
        errors = "ignore" if len(written) > 4 * MOST_CHARACTERS else "strict"
        return written.decode("utf-8", errors).removesuffix("\n")
    except UnicodeDecodeError as problem:
        what = f"standard input is not UTF-8 (byte {problem.start:,})"
        raise DataError(Problem(what, "convert it, as by iconv", code="HF003")) from problem


def _view_row(run_file: str, row: str, settings: list[str]) -> list[TokenView]:
    """View a row of a run, by its file and line, as it would be trained."""
    path, _, line = row.rpartition(":")
    if not path or not line.isdecimal():
        raise ConfigError(Problem(f"{row!r} names no row", "write FILE:LINE, as rows.jsonl:12", code="HF603"))
    from hf_finetune.config import load_run, read_recipe_name
    from hf_finetune.environment import set_up_logging
    from hf_finetune.preflight import check_line, find_row, load_run_rows, load_token_settings, view_rows

    run = load_run([run_file, *settings], read_recipe_name(run_file, settings))
    set_up_logging()
    if not run.data.stream:  # which is refused at once
        check_line(run.data, path, int(line))
    splits = load_run_rows(run)
    split, number = find_row(splits, path, int(line))
    made = load_token_settings(run, splits)
    return view_rows(splits, split, made, [number])


def print_views(views: list[TokenView], *, as_list: bool) -> None:
    """Print views, in colors where the terminal has them."""
    from hf_finetune.preflight import list_tokens, render_legend, render_terminal

    if as_list:
        for view in views:
            for line in list_tokens(view):
                say(line)
        return
    console = make_console()
    color = console.is_terminal and not console.no_color
    for view in views:
        console.print(render_terminal(view, color=color), soft_wrap=False)
    console.print(render_legend(color=color), soft_wrap=False)
