"""The chat loop: what is typed in, what comes out, and what is kept."""

from __future__ import annotations

import json
import os
import signal
import stat

import pytest
from chat_models import parrot, talking_tokenizer
from models.scratch_models import tiny_model

from hf_finetune.chat.template import encode_prompt
from hf_finetune.config.sections import DataSection, EvalSection
from hf_finetune.data.reading.formats import restore_messages
from hf_finetune.data.splitting.splits import load_splits
from hf_finetune.errors import DataError, ModelError
from hf_finetune.evaluation.generation import chat_session as chat_module
from hf_finetune.evaluation.generation.chat_session import HELP, ChatDisplay, ChatSession, run_chat
from hf_finetune.evaluation.generation.prompts import generate_answer
from hf_finetune.models.tokenizer_training import train_tokenizer

TOKENIZER = talking_tokenizer()
SAYS_ABC = {"\n": "a", "a": "b", "b": "c"}
ENDLESS = {"\n": "a", "a": "b", "b": "a"}
GREEDY = EvalSection(temperature=0, max_new_tokens=20)


def user(text):
    return {"role": "user", "content": text}


def assistant(text, **more):
    return {"role": "assistant", "content": text, **more}


def talk(lines, model=None, *, opening=(), tokenizer=TOKENIZER, settings=GREEDY, **screen):
    """Chat over `lines`: what was written, the notes, and the messages that are kept."""
    written, notes, messages = [], [], list(opening)
    if model is None:
        model = parrot(tokenizer, SAYS_ABC)
    shown = ChatDisplay(**{"write": written.append, "note": notes.append} | screen)
    run_chat(ChatSession(model, tokenizer, settings, shown, messages), lines)
    return "".join(written), notes, messages


def saved_rows(file):
    rows = load_splits(DataSection(train=str(file)), "conversation", 0).rows["train"]
    return [restore_messages(row["messages"]) for row in rows]


def test_each_line_is_answered_and_kept():
    written, notes, messages = talk(["hi", "  ", "", "/quit", "never"])
    assert (written, notes) == ("abc\n", [])
    assert messages == [user("hi"), assistant("abc")]


def test_each_answer_is_to_the_whole_conversation_and_has_a_seed_of_its_own():
    model = tiny_model(vocab_size=len(TOKENIZER), max_position_embeddings=512)
    settings = EvalSection(temperature=1.0, max_new_tokens=10, seed=7)
    written, _, messages = talk(["hi", "go on"], model, settings=settings)
    first = generate_answer(model, TOKENIZER, messages[:1], settings, 0)
    second = generate_answer(model, TOKENIZER, [user("hi"), assistant(first.continuation), user("go on")], settings, 1)
    assert written == f"{first.continuation}\n{second.continuation}\n"
    assert second.seed == 8


def test_answers_come_in_pieces():
    pieces = []
    talk(["hi"], write=pieces.append)
    assert pieces == ["a", "b", "c", "", "\n"]


def test_reset_and_system_begin_again():
    told = {"role": "system", "content": "Be kind."}
    lines = ["hi", "/reset", "/system Be kind.", "yes", "/reset", "no"]
    _, notes, messages = talk(lines)
    assert messages == [told, user("no"), assistant("abc")]
    assert notes == ["the conversation begins again", *2 * ["the conversation begins again, under a system message"]]
    assert talk(["hi", "/system"], opening=[told])[2] == []


def test_a_system_message_reaches_the_model():
    model = tiny_model(vocab_size=len(TOKENIZER), max_position_embeddings=512)
    told = [{"role": "system", "content": "Be kind."}]
    expected = generate_answer(model, TOKENIZER, [*told, user("hi")], GREEDY).continuation
    assert talk(["hi"], model, opening=told)[0] == talk(["/system Be kind.", "hi"], model)[0] == f"{expected}\n"


def test_help_lists_every_command_and_an_unknown_one_is_said():
    _, notes, _ = talk(["/help", "/halp", "/etc/hosts"])
    assert notes[:-2] == HELP.splitlines()  # each a note of its own, which is one line in a terminal
    assert [command in HELP for command in ("/system", "/reset", "/save", "/help", "/quit")] == [True] * 5
    assert "there is no /halp" in notes[-2]


def test_a_space_before_it_makes_a_command_a_message():
    tokenizer = with_slash()
    messages = talk([" /help me?"], parrot(tokenizer, SAYS_ABC), tokenizer=tokenizer)[2]
    assert messages == [user(" /help me?"), assistant("abc")]


def with_slash():
    tokenizer = train_tokenizer("char", ["abcdefghijklmnopqrstuvwxyz /?UA:\n"])
    tokenizer.chat_template = TOKENIZER.chat_template
    return tokenizer


def test_a_saved_conversation_is_a_row_that_our_reader_takes(tmp_path):
    file = tmp_path / "chats.jsonl"
    lines = ["/system Be kind.", "hi", "/save", f"/save {file}", "/reset", "yes", "and", f"/save {file}"]
    _, notes, messages = talk(lines)
    told = {"role": "system", "content": "Be kind."}
    assert saved_rows(file) == [[told, user("hi"), assistant("abc")], messages]
    assert "/save needs the name of a file: /save chats.jsonl [HF601]" in notes
    assert f"appended to {file}: a row of 3 messages" in notes
    assert notes[-1] == f"appended to {file}: a row of 5 messages"


def test_a_row_goes_on_a_line_of_its_own_and_to_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    file = tmp_path / "my chats.jsonl"
    file.write_text('{"messages": [{"role": "user", "content": "é"}, {"role": "assistant", "content": "x"}]}')
    talk(["hi", "/save ~/my chats.jsonl"])
    assert saved_rows(file) == [[user("é"), assistant("x")], [user("hi"), assistant("abc")]]
    assert file.read_text().endswith("}\n")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("", "it is a folder; name a file in it, such as {}/chats.jsonl [HF354]"),
        ("missing/chats.jsonl", "there is no folder {}/missing; make it first, or name another file [HF354]"),
        ("x" * 300, "it cannot be written (File name too long); name another file [HF701]"),
        (
            "~nobody-of-this-name/x",
            "it cannot be written (Could not determine home directory.); name another file [HF701]",
        ),
        ("a\0b", "it cannot be written (embedded null byte); name another file [HF701]"),
        ("pipe", "it is neither a file nor a folder; name a new file [HF354]"),
    ],
)
def test_where_nothing_can_be_saved_it_is_said_why_and_the_chat_goes_on(tmp_path, name, said):
    os.mkfifo(tmp_path / "pipe")
    place = name if name.startswith("~") else f"{tmp_path}/{name}"
    written, notes, _ = talk(["hi", f"/save {place}", "hi"])
    assert written == "abc\nabc\n"
    shown = place.rstrip("/").replace("\0", "\\x00")
    assert notes == [f"{shown}: not saved: {said.format(tmp_path)}"]


def test_a_file_without_rights_is_named(tmp_path, monkeypatch):
    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(chat_module, "open_private", refuse)  # root, as which tests may run, has all rights
    _, notes, _ = talk(["hi", f"/save {tmp_path}/new.jsonl"])
    said = "not saved: it cannot be written (Permission denied); name another file [HF701]"
    assert notes == [f"{tmp_path}/new.jsonl: {said}"]


def test_a_file_of_something_else_is_not_written_to_and_a_new_one_is_its_owners_alone(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "empty.jsonl").write_text("")
    names = ("notes.txt", "empty.jsonl", "new.jsonl")
    _, notes, _ = talk(["hi", *(f"/save {tmp_path / name}" for name in names)])
    assert "not saved: it holds something else than rows" in notes[0]
    assert (tmp_path / "notes.txt").read_text() == "mine"
    assert saved_rows(tmp_path / "empty.jsonl") == saved_rows(tmp_path / "new.jsonl")
    assert stat.S_IMODE((tmp_path / "new.jsonl").stat().st_mode) == 0o600


def test_a_conversation_without_an_answer_is_not_saved(tmp_path):
    file = tmp_path / "chats.jsonl"
    _, notes, _ = talk([f"/save {file}", "/system Be kind.", f"/save {file}"])
    said = "nothing to save yet: the model has answered nothing; say something first [HF354]"
    assert notes[0] == notes[2] == said
    _, notes, _ = talk([f"/save {file}"], opening=[assistant("")])
    assert notes[0].startswith("not saved: ")
    assert notes[0].endswith("; /reset begins again [HF028]")
    assert not file.exists()


def test_an_answer_that_was_cut_off_is_said_kept_and_never_trained(tmp_path):
    file, model = tmp_path / "chats.jsonl", parrot(TOKENIZER, ENDLESS)
    _, notes, messages = talk(["hi", f"/save {file}"], model)
    assert notes[0] == "cut off after 20 tokens: --max-new-tokens allows more"
    assert messages == [user("hi"), assistant("ab" * 10, train=False)]
    assert notes[1].startswith("not saved: every answer was cut off, and from these")
    assert notes[1].endswith("; let the model finish one; chat --max-new-tokens allows more [HF354]")
    talk(["and", f"/save {file}"], opening=[user("hi"), assistant("ab", train=False)])
    assert json.loads(file.read_text())["messages"][1] == assistant("ab", train=False)
    assert len(saved_rows(file)) == 1


def test_the_end_of_the_positions_is_said():
    positions = len(encode_prompt(TOKENIZER, [user("hi")])) + 5
    written, notes, _ = talk(["hi"], parrot(TOKENIZER, ENDLESS, positions=positions))
    assert written == "ababa\n"
    assert notes == ["cut off after 5 tokens: the model takes no more"]


def test_an_empty_answer_takes_the_question_back():
    written, notes, messages = talk(["hi"], parrot(TOKENIZER, {}))
    assert (written, messages) == ("\n", [])
    assert notes == ["the model said nothing: the question is taken back"]


def test_the_oldest_exchanges_make_room_and_stay_in_what_is_saved(tmp_path, monkeypatch):
    told, one = {"role": "system", "content": "Be kind."}, len("User:\nhi|\nAssistant:\nabc|\n")
    model = parrot(TOKENIZER, SAYS_ABC, positions=4 * one)
    seen = []

    def spy(model, tokenizer, messages, *rest):
        seen.append([message["content"] for message in messages])
        return generate_answer(model, tokenizer, messages, *rest)

    monkeypatch.setattr(chat_module, "generate_answer", spy)
    written, notes, messages = talk(["A", "B", "C", "D", f"/save {tmp_path}/c"], model, opening=[told])
    assert written == 4 * "abc\n"
    assert seen[1] == ["Be kind.", "A", "abc", "B"]
    assert seen[3] == ["Be kind.", "C", "abc", "D"]
    assert "answered without the first exchanges (2)" in notes[-2]
    assert len(messages) == len(saved_rows(f"{tmp_path}/c")[0]) == 9


def test_a_message_that_does_not_fit_is_refused_and_the_conversation_goes_on():
    written, notes, messages = talk(["hi", "x" * 100, "hi"], parrot(TOKENIZER, SAYS_ABC, positions=100))
    assert written == "abc\nabc\n"
    assert "the model takes 100 with its answer" in notes[-1] or "the model takes 100 with its answer" in notes[-2]
    assert len(messages) == 4


def test_characters_that_the_tokenizer_lacks_are_named():
    written, notes, messages = talk(["é", "a\udcff", "/system é"])
    assert (written, messages) == ("", [])
    assert "U+00E9" in notes[0]
    assert "U+DCFF" in notes[1]
    assert "U+00E9" in notes[2]


@pytest.fixture
def interruptible():
    """What runs in the background of a shell ignores Ctrl-C, these tests with it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_an_interruption_stops_the_answer_and_not_the_chat(interruptible):
    written = []

    def write(piece):
        written.append(piece)
        if "".join(written) == "aba":
            os.kill(os.getpid(), signal.SIGINT)

    model = parrot(TOKENIZER, ENDLESS)
    _, notes, messages = talk(["hi", "/quit"], model, write=write, interactive=True)
    assert notes == ["say something; /help lists the commands, /quit or Ctrl-D ends", "stopped"]
    assert messages[1] == assistant("aba", train=False)
    written.clear()
    with pytest.raises(KeyboardInterrupt):
        talk(["hi"], model, write=write)


def test_a_model_without_a_template_is_told_what_to_do():
    plain = train_tokenizer("char", ["abc"])
    with pytest.raises(ModelError, match=r"recipes/sft\.py.*generate --raw"):
        talk([], object(), tokenizer=plain)


def test_a_template_that_takes_no_system_message_is_found_before_the_first_line():
    tokenizer = with_slash()
    tokenizer.chat_template = "{{ raise_exception('no system') if messages[0].role == 'system' }}A{{ eos_token }}"
    with pytest.raises(DataError, match="no system"):
        talk(["hi"], opening=[{"role": "system", "content": "a"}], tokenizer=tokenizer)
    _, notes, messages = talk(["hi", "/system a"], tokenizer=tokenizer, model=parrot(tokenizer, {"A": "a"}))
    assert "no system" in notes[-1]
    assert messages == []  # it ended at once, as the end token follows "A"


def test_thoughts_are_kept_apart_as_templates_take_them(tmp_path):
    tokenizer = talking_tokenizer()
    tokenizer.add_tokens(["<think>", "</think>"])
    thinks = {"\n": "<think>", "<think>": "h", "h": "m", "m": "</think>", "</think>": "o", "o": "k"}
    written, _, messages = talk(["A", f"/save {tmp_path}/c"], parrot(tokenizer, thinks), tokenizer=tokenizer)
    assert written == "<think>hm</think>ok\n"
    assert messages[1] == assistant("ok", reasoning_content="hm")
    assert saved_rows(f"{tmp_path}/c") == [messages]
    assert talk(["A"])[2][1] == assistant("abc")


def test_a_thought_that_the_prompt_began_is_one_too():
    tokenizer = talking_tokenizer()
    tokenizer.add_tokens(["<think>", "</think>"])
    thinks = {"\n": "h", "h": "</think>", "</think>": "k"}
    assert talk(["A"], parrot(tokenizer, thinks), tokenizer=tokenizer)[2][1] == assistant("k", reasoning_content="h")


def test_what_is_noted_for_training_is_not_shown_to_the_template():
    tokenizer = talking_tokenizer()
    tokenizer.chat_template = (
        "{% for message in messages if message.train is defined %}{{ raise_exception('seen') }}{% endfor %}"
        + tokenizer.chat_template
    )
    written, _, messages = talk(["hi", "and"], parrot(tokenizer, ENDLESS), tokenizer=tokenizer)
    assert written == 2 * ("ab" * 10 + "\n")
    assert [message.get("train") for message in messages] == [None, False, None, False]
