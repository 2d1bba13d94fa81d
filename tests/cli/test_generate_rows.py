"""`hf-finetune generate --input`: rows of any form, their answers alone, and a file that a kill does not change."""

from __future__ import annotations

import gzip
import json
import logging
import os
import shutil
import signal
import sys
from pathlib import Path

import pytest
import torch
from chat_models import talking_tokenizer
from transformers import LlamaConfig, LlamaForCausalLM

from hf_finetune import interruption
from hf_finetune.cli import main
from hf_finetune.config import sampling_settings
from hf_finetune.errors import ModelError, Problem
from hf_finetune.evaluation.generation import answer_file, kept_rows
from hf_finetune.evaluation.generation.prompts import generate_answer, generate_responses
from hf_finetune.models import load_for_generation

WORDS = ["who", "are", "you", "and", "what", "is", "this", "place", "called", "in", "the", "end", "of", "all", "days"]
PROMPTS = [" ".join(WORDS[number % 5 : number % 5 + 1 + number % 9]) for number in range(30)]
GREEDY = ("--temperature", "0", "--max-new-tokens", "8", "--batch-size", "3")


def save_random(folder: Path, seed: int, *, chat: bool = True) -> str:
    """A model of 96 positions whose answers are as many as its questions."""
    tokenizer = talking_tokenizer()
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=96, initializer_range=0.4, bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    if not chat:
        tokenizer.chat_template = None
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_random(tmp_path_factory.mktemp("chat"), 1)


@pytest.fixture(scope="module")
def continuer(tmp_path_factory):
    return save_random(tmp_path_factory.mktemp("plain"), 2, chat=False)


@pytest.fixture
def generate(capfdbinary, monkeypatch, tmp_path):
    """The command in this process: exit code, standard output, standard error."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["hf-finetune", "generate", *arguments])
        monkeypatch.setattr(logging.root, "handlers", [])
        capfdbinary.readouterr()
        with pytest.raises(SystemExit) as end:
            main()
        shown = capfdbinary.readouterr()
        return end.value.code or 0, shown.out.decode(), shown.err.decode()

    return run


def write(rows, name="rows.jsonl"):
    Path(name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return name


def read(name):
    return [json.loads(line) for line in Path(name).read_text().splitlines()]


def ask(path, prompts, settings, **options):
    """What `hf-finetune generate MODEL PROMPT...` answers."""
    found = generate_responses(*load_for_generation(path), prompts, sampling_settings(settings, str), **options)
    return [sample.continuation for sample in found]


def test_every_row_keeps_its_fields_and_gets_the_answer_that_it_gets_alone(generate, model):
    rows = [{"id": number, "prompt": prompt, "meta": {"a": [1.0]}} for number, prompt in enumerate(PROMPTS)]
    assert generate(model, "--input", write(rows), "--output", "answers.jsonl", *GREEDY)[0] == 0
    expected = ask(model, PROMPTS, {"temperature": 0, "max_new_tokens": 8})
    assert len({*expected}) > 10
    assert read("answers.jsonl") == [row | {"generated": text} for row, text in zip(rows, expected, strict=True)]
    assert sorted(path.name for path in Path().iterdir()) == ["answers.jsonl", "rows.jsonl"]
    assert Path("answers.jsonl").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("penalty", [1.0, 1.5])
def test_texts_are_continued_as_each_alone_beyond_the_last_position_too(generate, continuer, penalty):
    prompts = [*PROMPTS[:8], "a" * 90, "b" * 200, ""]
    more = ("--repetition-penalty", str(penalty), "--output", "a.jsonl")
    assert generate(continuer, "--input", write([{"text": text} for text in prompts]), *GREEDY, *more)[0] == 0
    expected = ask(continuer, prompts, {"temperature": 0, "max_new_tokens": 8, "repetition_penalty": penalty})
    assert [row["generated"] for row in read("a.jsonl")] == expected


def test_what_is_drawn_for_a_row_is_by_its_place_alone(generate, model):
    write([{"question": prompt} for prompt in ["what"] * 7 + PROMPTS[:6]])
    drawn = ("--max-new-tokens", "8", "--seed", "5", "--output")
    assert generate(model, "--input", "rows.jsonl", *drawn, "a.jsonl", "--batch-size", "2")[0] == 0
    assert generate(model, "--input", "rows.jsonl", *drawn, "b.jsonl", "--batch-size", "7")[0] == 0
    expected = ask(model, ["what"] * 7 + PROMPTS[:6], {"temperature": 0.8, "max_new_tokens": 8, "seed": 5})
    assert [row["generated"] for row in read("a.jsonl")] == expected
    assert Path("a.jsonl").read_bytes() == Path("b.jsonl").read_bytes()
    assert len({*expected[:7]}) > 3


def say(role, text):
    return {"role": role, "content": text}


def test_a_conversation_is_asked_up_to_its_last_question(generate, model):
    first, second = [say("user", "hi"), say("assistant", "who?")], [say("system", "be kind"), say("user", "what")]
    rows = [{"messages": [*first, say("user", "you"), say("assistant", "me")]}, {"messages": second}]
    assert generate(model, "--input", write(rows), "--output", "a.jsonl", *GREEDY, "--system", "be brief")[0] == 0
    loaded, settings = load_for_generation(model), sampling_settings({"temperature": 0, "max_new_tokens": 8}, str)
    asked = [[say("system", "be brief"), *first, say("user", "you")], second]
    expected = [generate_answer(*loaded, messages, settings).continuation for messages in asked]
    assert [row["generated"] for row in read("a.jsonl")] == expected
    sharegpt = [{"conversations": [{"from": "human", "value": "hi"}]}]
    assert generate(model, "--input", write(sharegpt), "--output", "b.jsonl", *GREEDY)[0] == 0
    alpaca = [{"instruction": "hi", "input": "you", "output": "?"}]
    assert generate(model, "--input", write(alpaca), "--output", "c.jsonl", *GREEDY)[0] == 0
    expected = ask(model, ["hi", "hi\n\nyou"], {"temperature": 0, "max_new_tokens": 8})
    assert [read(name)[0]["generated"] for name in ("b.jsonl", "c.jsonl")] == expected


@pytest.mark.parametrize("drawn", [GREEDY, ("--max-new-tokens", "8", "--batch-size", "3")])
def test_killed_in_the_middle_and_typed_again_it_is_the_file_of_an_uninterrupted_run(
    generate, model, monkeypatch, drawn
):
    write([{"prompt": prompt} for prompt in PROMPTS])
    assert generate(model, "--input", "rows.jsonl", "--output", "whole.jsonl", *drawn)[0] == 0
    command = (model, "--input", "rows.jsonl", "--output", "answers.jsonl", *drawn)
    answer, groups = answer_file.answer_window, []

    def stop_in_the_third_group(*arguments):
        groups.append(arguments)
        if len(groups) == 3:
            shutil.copytree("answers.jsonl.partial", "killed")
            os.kill(os.getpid(), signal.SIGINT)
        return answer(*arguments)

    monkeypatch.setattr(answer_file, "answer_window", stop_in_the_third_group)
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    monkeypatch.setattr(interruption, "_state", interruption._State())  # or the next test would end by this signal
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    try:
        code, _, said = generate(*command)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert code == 130
    assert "24 answered rows are kept in answers.jsonl.partial; the same command goes on behind them" in said
    assert not Path("answers.jsonl").exists()
    # What a kill leaves: nothing was tidied up, and the rows of the third group were being written.
    shutil.rmtree("answers.jsonl.partial")
    Path("killed").rename("answers.jsonl.partial")
    lines = Path("whole.jsonl").read_bytes().splitlines(keepends=True)
    assert Path("answers.jsonl.partial/1.jsonl").read_bytes() == b"".join(lines[:24])
    with open("answers.jsonl.partial/1.jsonl", "ab") as file:
        file.write(b"".join(lines[24:27])[:-9])
    groups.clear()
    monkeypatch.setattr(answer_file, "answer_window", lambda *arguments: groups.append(1) or answer(*arguments))
    code, facts, said = generate(*command, "--json")
    assert (code, len(groups)) == (0, 1), said
    assert Path("answers.jsonl").read_bytes() == Path("whole.jsonl").read_bytes()
    assert json.loads(facts).items() >= {"rows": 30, "left_out": 0, "kept": 24}.items()
    assert not Path("answers.jsonl.partial").exists()


def keep_some(model, monkeypatch, generate, *command):
    """Leave a folder with the answers to twelve rows."""
    answer, groups = answer_file.answer_window, []

    def fail_in_the_second_group(*arguments):
        groups.append(1)
        if len(groups) == 2:
            raise ModelError(Problem("the machine is gone", code="HF703"))
        return answer(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(answer_file, "answer_window", fail_in_the_second_group)
        assert generate(model, *command)[0] == 2
    assert len(Path("a.jsonl.partial/1.jsonl").read_text().splitlines()) == 12


def test_what_was_made_from_something_else_is_not_gone_on_with_and_begun_anew_where_that_is_said(
    generate, model, monkeypatch
):
    write([{"prompt": prompt} for prompt in PROMPTS])
    command = ("--input", "rows.jsonl", "--output", "a.jsonl", *GREEDY)
    keep_some(model, monkeypatch, generate, *command)
    code, _, said = generate(model, *command, "--seed", "3")
    assert code == 2
    assert "a.jsonl.partial: holds answers that were made with another --seed; type the command of before" in said
    write([{"prompt": prompt} for prompt in ["you", *PROMPTS[1:]]])
    code, _, said = generate(model, *command)
    assert (code, "holds answers to other rows than those that are asked now, from row 1 on" in said) == (2, True), said
    write([{"prompt": prompt} for prompt in PROMPTS[:4]])
    code, _, said = generate(model, *command)
    assert code == 2
    assert Path("a.jsonl.partial/1.jsonl").exists()
    write([{"prompt": prompt} for prompt in ["you", *PROMPTS[1:4]]])
    assert generate(model, *command, "--overwrite")[0] == 0
    assert [row["generated"] for row in read("a.jsonl")] == ask(
        model, ["you", *PROMPTS[1:4]], {"temperature": 0, "max_new_tokens": 8}
    )
    code, _, said = generate(model, *command)
    assert (code, "exists already" in said) == (2, True)


def test_a_full_disk_keeps_what_was_written_and_another_process_is_waited_for(generate, model, monkeypatch):
    write([{"prompt": prompt} for prompt in PROMPTS])
    command = ("--input", "rows.jsonl", "--output", "a.jsonl", *GREEDY)
    sync = os.fsync

    def be_full(descriptor):
        rows = Path("a.jsonl.partial/1.jsonl")
        if rows.exists() and rows.read_bytes().count(b"\n") > 24:
            raise OSError(28, "No space left on device")
        sync(descriptor)

    with monkeypatch.context() as patched:
        patched.setattr(kept_rows.os, "fsync", be_full)
        code, _, said = generate(model, *command)
    assert code == 5
    assert "a.jsonl.partial: cannot be written (No space left on device): 24 rows are kept, and the same" in said
    with kept_rows._lock(Path("a.jsonl.partial"), "a.jsonl.partial"):
        code, _, said = generate(model, *command)
    assert (code, "a.jsonl.partial: another process answers these rows; wait" in said) == (3, True), said
    assert generate(model, *command)[0] == 0
    assert len(read("a.jsonl")) == 30


BAD = {
    2: ({"prompt": 3}, "prompt: `prompt` must be string, found int"),
    4: ({"prompt": "caf\u00e9"}, "the tokenizer has never seen '\u00e9'"),
    5: ({"prompt": "a" * 200}, "the conversation has 2"),
}


def test_rows_that_cannot_be_answered_are_named_and_left_out(generate, model):
    rows = [BAD[number][0] if number in BAD else {"prompt": "hi", "id": number} for number in range(1, 7)]
    code, facts, said = generate(model, "--input", write(rows), "--output", "a.jsonl", *GREEDY, "--json")
    assert code == 2
    assert [row["id"] for row in read("a.jsonl")] == [1, 3, 6]
    for number, (_, what) in BAD.items():
        assert f"rows.jsonl:{number}: {what}" in said
    assert "3 of 6 rows could not be answered and were left out" in said
    assert json.loads(facts)["left_out"] == 3


def test_the_base_answers_beside_and_rows_may_come_and_go_through_pipes(generate, model, tmp_path, monkeypatch):
    base = save_random(tmp_path / "base", 7)
    rows = [{"prompt": prompt} for prompt in PROMPTS[:14]]
    both = ("--base", "--base-path", base, *GREEDY)
    assert generate(model, "--input", write(rows), "--output", "a.jsonl", *both)[0] == 0
    settings = {"temperature": 0, "max_new_tokens": 8}
    expected = zip(rows, ask(model, PROMPTS[:14], settings), ask(base, PROMPTS[:14], settings), strict=True)
    assert read("a.jsonl") == [row | {"generated": one, "base_generated": other} for row, one, other in expected]
    with open("rows.jsonl") as stdin:
        saved = os.dup(0)
        os.dup2(stdin.fileno(), 0)
        try:
            code, out, _ = generate(model, "--input", "-", *both)
        finally:
            os.dup2(saved, 0)
            os.close(saved)
    assert (code, out.encode()) == (0, Path("a.jsonl").read_bytes())
    assert generate(model, "--input", "rows.jsonl", "--output", "a.jsonl.gz", *both)[0] == 0
    assert gzip.decompress(Path("a.jsonl.gz").read_bytes()) == Path("a.jsonl").read_bytes()


MISTAKES = {
    "": "nothing is asked; write a prompt, or name a file of rows with --input",
    "hi --output a.jsonl --prefix x": "--output and --prefix are for the rows of --input, which is not given",
    "hi --input rows.jsonl": "prompts are given beside the rows of --input; leave out one of them; ",
    "hi --input rows.jsonl --columns prompt=a": "hi is not FIELD=COLUMN",
    "--input none.jsonl": "none.jsonl: no such file; name a file of rows",
    "--input rows.jsonl --output rows.jsonl": "rows.jsonl: --output: is the file to read as well",
    "--input taken.jsonl": "taken.jsonl:1: the row has `generated` already, which would be added; give",
    "--input nobody.jsonl": "nobody.jsonl:1: messages: nobody asks anything (roles: system)",
    "--input table.csv": "there is no column `messages`, `conversations`, `prompt`, ",
    "--input talk.jsonl --raw": "the rows are conversations, and the model continues texts; leave --raw out",
}


@pytest.mark.parametrize("typed", MISTAKES)
def test_a_mistake_is_one_message_and_leaves_nothing(generate, model, typed):
    write([{"prompt": "hi"}])
    write([{"prompt": "hi", "generated": "x"}], "taken.jsonl")
    write([{"messages": [say("system", "hi")]}], "nobody.jsonl")
    write([{"messages": [say("user", "hi")]}], "talk.jsonl")
    Path("table.csv").write_text("a,b\n1,2\n")
    before = sorted(path.name for path in Path().iterdir())
    output = ("--output", "answers.jsonl") if "--input" in typed and "--output" not in typed else ()
    code, out, said = generate(model, *typed.split(), *output)
    assert (code, out) == (2, "")
    assert MISTAKES[typed] in said
    assert "Traceback" not in said
    assert sorted(path.name for path in Path().iterdir()) == before


def test_a_dash_is_standard_output_and_a_folder_that_is_made_is_said(generate, model, tmp_path):
    write([{"prompt": "who are you"}])
    code, shown, _ = generate(model, "--input", "rows.jsonl", "--output", "-", *GREEDY)
    assert code == 0
    assert json.loads(shown)["prompt"] == "who are you"
    assert not Path("-").exists()
    code, _, said = generate(model, "--input", "rows.jsonl", "--output", "new/deep/answers.jsonl", *GREEDY)
    assert code == 0
    assert "there is no folder new/deep: it is made" in said
    assert [json.loads(line) for line in Path("new/deep/answers.jsonl").read_text().splitlines()] == [json.loads(shown)]


def test_a_row_without_any_field_that_asks_is_told_which_ones_do(generate, model):
    write([{"prompt": "who are you"}, {"ask me": "what is this"}, {"a": 1, "b": 2}])
    code, _, said = generate(model, "--input", "rows.jsonl", *GREEDY)
    assert code == 2
    fields = "`messages`, `conversations`, `prompt`, `instruction`, `question`, `user`, `input` or `text`"
    first = f"rows.jsonl:2: there is no field {fields}; this row has `ask me`; take it from another: --columns prompt="
    assert first in said
    assert "rows.jsonl:3: there is no field" in said
    assert "--columns prompt=FIELD [HF023]" in said


@pytest.mark.parametrize("content", ["", "\n\n"])
@pytest.mark.parametrize("asked_of", ["", "both"])
def test_a_file_without_rows_is_said_to_have_none(generate, model, content, asked_of):
    Path("rows.jsonl").write_text(content)
    both = ("--base", "--base-path", model) if asked_of else ()
    code, _, said = generate(model, "--input", "rows.jsonl", "--output", "answers.jsonl", *both, *GREEDY)
    assert code == 0
    assert said.count("rows.jsonl holds no rows, and nor does what is written of it [HF344]") == 1
    assert Path("answers.jsonl").read_bytes() == b""
    assert not Path("answers.jsonl.partial").exists()
    Path("rows.jsonl").write_text('{"prompt": "who"}\n')
    assert "holds no rows" not in generate(model, "--input", "rows.jsonl", *GREEDY)[2]
