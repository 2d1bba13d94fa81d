"""Every command that is shown is read back by a real bash as the words that it was made of."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from hf_finetune.cli import app
from hf_finetune.config.sections import HubSection
from hf_finetune.pages import escape_invisible
from hf_finetune.privacy import redact
from hf_finetune.release.hub import format_resume_command
from hf_finetune.release.hub.transfer import PushOptions
from hf_finetune.reporting.card import make_unknown_run, render_card
from hf_finetune.reporting.page.record import build_reproduction
from hf_finetune.shell import shell_line, shell_path, shell_quote, shell_words
from hf_finetune.training.facts import format_launch_line

BASH = shutil.which("bash")
pytestmark = pytest.mark.skipif(BASH is None, reason="there is no bash")

# What a shell or Markdown makes something of, beside any text; what no argument can hold is left out.
PARTS = [
    *("`", "```\n", "~~~", "'", '"', "\\", "$(touch PWNED)", "`touch PWNED`", "${HOME}", "\n", "\r\n", "\x1b[31m", "!"),
    *("-", "--", "~", "*", "?", "[a]", "{a,b}", ";", "&", "|", "<", ">", "(", ")", "#", " ", "\t", "\u00a0", "\u202e"),
    *("=", "é", "世", "\U0001f469", "\udcff", "\x7f", "\x85", "$'\\x41'", "\\x41", "<!--", "</code>", "%s"),
]
LETTERS = st.characters(exclude_characters="\0", exclude_categories=["Cs"])
HOSTILE = st.lists(st.sampled_from(PARTS) | st.text(LETTERS, max_size=8), max_size=6).map("".join)
FOUND = 'explain `; touch PWNED; `'  # fmt: skip


def read_by_bash(command: str, *, words: int = 0) -> list[str]:
    """What bash makes of the command's words, after the first `words` of them; the command itself is not run."""
    checked = subprocess.run([BASH, "-n", "-c", "--", raw(command)], capture_output=True, check=False)
    assert (checked.returncode, checked.stderr) == (0, b""), command
    done = subprocess.run([BASH, "-c", b'printf "%s\\0" ' + raw(command)], capture_output=True, check=True)
    return [word.decode("utf-8", "surrogateescape") for word in done.stdout.split(b"\0")[words:-1]]


def raw(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


@settings(max_examples=150)
@given(st.lists(HOSTILE, min_size=1, max_size=3))
@example([f"eval.prompts=['{FOUND}']"])
@example(["", "-rf", "\n", "`", "\udcff"])
def test_a_line_is_read_back_by_bash_and_by_us_and_nothing_has_to_be_escaped_in_it(words):
    line = shell_line(words)
    assert line.isprintable()
    assert "`" not in line
    assert escape_invisible(line) == line
    assert read_by_bash(line) == words
    assert shell_words(line) == words


@settings(max_examples=150)
@given(st.lists(HOSTILE, max_size=3))
def test_the_lines_of_older_runs_are_read_and_those_that_a_shell_would_act_on_are_not(words):
    assert shell_words(shlex.join(words)) == words


ACTED_ON = ["a; b", "a `b`", "a $(b)", "a $b", 'a "$b"', "a 'b", "a > b", "a & b", "a\\\nb", "~/a", "a # b", "$'\\n'"]


@pytest.mark.parametrize("line", ACTED_ON)
def test_a_line_that_is_not_of_words_alone_is_none_of_ours(line):
    assert shell_words(line) is None


def test_a_path_that_begins_like_an_option_is_a_path():
    assert [shell_path(path) for path in ("-rf", "runs/a", Path("runs/a b"))] == ["./-rf", "runs/a", "'runs/a b'"]


def shown_in_the_card(run) -> list[str]:
    text = render_card(run)
    [block] = re.findall(r"^```bash\n(.*?)\n```$", text, re.MULTILINE | re.DOTALL)
    return [block, *re.findall(r"^Or with hf-finetune: `([^`]*)`\.$", text, re.MULTILINE)]


@settings(max_examples=40)
@given(override=HOSTILE, folder=HOSTILE.filter(lambda name: name.strip("/\\") and "\udcff" not in name))
@example(override=f"['{FOUND}']", folder="`touch PWNED`")
def test_card_and_page_show_the_command_that_was_typed(tmp_path_factory, override, folder):
    place = tmp_path_factory.mktemp("model")
    (place / "config.json").write_text("{}")
    typed = ["accelerate", "launch", "recipes/sft.py", "run.yaml", f"eval.prompts=[{override}]"]
    run = replace(make_unknown_run(place), name=folder, manifest=redact({"launch": shell_line(typed)}))
    launch, use = shown_in_the_card(run)
    assert read_by_bash(launch) == typed
    program, verb, model, text = read_by_bash(use)
    assert (program, verb, text) == ("hf-finetune", "generate", "a text")
    assert model.removeprefix("./") == folder
    assert not model.startswith("-")
    [code] = [block.text for block in build_reproduction(run) if block.kind == "code"]
    assert read_by_bash(escape_invisible(code)) == typed


def test_a_launch_line_that_would_do_more_than_launch_is_shown_nowhere():
    run = replace(make_unknown_run(Path("nowhere")), manifest=redact({"launch": "accelerate launch x; touch PWNED"}))
    assert "The command is not known." in render_card(run)
    assert not [block for block in build_reproduction(run) if block.kind == "code"]


@settings(max_examples=30)
@given(st.lists(HOSTILE, min_size=1, max_size=2))
def test_the_launch_line_of_a_run_is_what_was_typed(overrides):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["recipes/sft.py", "run.yaml", *overrides])
        patch.setenv("HF_FINETUNE_CONFIG_FILE", "my configs/cpu `x`.yaml")
        typed = read_by_bash(format_launch_line())
    assert typed == [
        *("accelerate", "launch", "--config_file", "my configs/cpu `x`.yaml", "recipes/sft.py", "run.yaml"), *overrides
    ]  # fmt: skip


@settings(max_examples=30)
@given(HOSTILE, HOSTILE.filter(bool))
def test_the_command_that_pushes_again_names_the_folder_and_the_message(folder, message):
    command = format_resume_command(folder, PushOptions(message=message), "me/model")
    words = read_by_bash(command)
    assert words[:2] + words[3:] == ["hf-finetune", "push", "me/model", *(["--message", message])]
    assert words[2].removeprefix("./") == folder.removeprefix("./")
    assert read_by_bash(format_resume_command(folder, HubSection(repo_id="me/model")))[3:] == ["me/model"]


def test_the_next_steps_of_init_go_into_the_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = "-my `touch PWNED` 'files'"
    done = CliRunner().invoke(app, ["init", "--", folder])
    assert done.exit_code == 0
    command = re.search(r"Next: (cd .*) and$", done.output, re.MULTILINE)[1]
    assert read_by_bash(command) == ["cd", f"./{folder}"]


def test_no_command_is_made_without_quoting(project_root):
    """Whoever shows a command uses hf_finetune.shell: shlex does not know what a card or a terminal makes of it."""
    for path in (project_root / "hf_finetune").rglob("*.py"):
        assert path.name == "shell.py" or "import shlex" not in path.read_text(), path


def test_what_is_quoted_is_left_alone_where_nothing_needs_it():
    assert shell_quote("train.max_steps=50") == "train.max_steps=50"
    assert shell_quote("eval.prompts=['a b']") == shlex.quote("eval.prompts=['a b']")
