"""A conversation with a model: lines in, pieces of answers and notices out."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedModel, PreTrainedTokenizerFast

from hf_finetune.config.sections import EvalSection
from hf_finetune.data.chat import encode_prompt
from hf_finetune.data.decoding import RowDecoder
from hf_finetune.data.formats import FORMATS
from hf_finetune.data.strict_json import BadLine
from hf_finetune.data.turns import Message
from hf_finetune.errors import CannotWriteError, DataError, FinetuneError, ModelError, Problem
from hf_finetune.evaluation.generation import answer, unwritable
from hf_finetune.models.tokenizers import effective_max_length

HELP = """\
/system TEXT  begin again with a system message; without TEXT, with none
/reset        begin again; the system message stays
/save FILE    append the conversation to FILE as a row that recipes/sft.py can train on
/help         show this
/quit         end, as Ctrl-D does; Ctrl-C stops an answer
A line that begins with a space is never a command."""

THOUGHT, THOUGHT_END = "<think>", "</think>"


@dataclass(frozen=True, slots=True)
class Screen:
    """Where a chat appears."""

    write: Callable[[str], object]
    """Takes the pieces of an answer, and a line feed after it."""
    note: Callable[[str], object]
    """Takes what is said about the conversation, whole lines without a line feed."""
    interactive: bool = False
    """Someone is watching: an interruption (Ctrl-C) stops the answer, not the chat."""


@dataclass(frozen=True, slots=True)
class Chat:
    """A conversation under way."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerFast
    settings: EvalSection
    screen: Screen
    messages: list[Message]
    """As a `messages` row has them: the system message first where there is one, then whole exchanges."""


def run_chat(chat: Chat, lines: Iterable[str]) -> None:
    """Answer each line, or do what it says where it begins with `/`, until the lines end or one is `/quit`.

    `chat.messages` holds the opening system message, or nothing, and grows by what is said. What goes wrong with one
    line is a notice, and the conversation stays as it was. Raises `ModelError` where the model has no chat template,
    and `DataError` where that takes no system message.
    """
    check_chat(chat.tokenizer, chat.messages)
    for line in lines:
        try:
            if line.startswith("/"):
                if not _obey(chat, *_command(line)):
                    return
            elif line.strip():
                _exchange(chat, line)
        except FinetuneError as problem:
            chat.screen.note(str(problem))


def check_chat(tokenizer: PreTrainedTokenizerFast, opening: list[Message]) -> None:
    """Raise `ModelError` or `DataError` where no conversation can begin with `opening`."""
    if not tokenizer.chat_template:
        remedy = "fine-tune it with recipes/sft.py, or let it continue text: hf-finetune generate --raw"
        raise ModelError(Problem("the model has no chat template to talk with", remedy))
    for message in opening:
        _check_writable(tokenizer, message["content"])
    encode_prompt(tokenizer, [*opening, {"role": "user", "content": "A"}])


def _check_writable(tokenizer: PreTrainedTokenizerFast, text: str) -> None:
    unknown = unwritable(tokenizer, text)
    if unknown:
        raise ModelError(Problem(f"the tokenizer has never seen {unknown}", "say it without"))


def _command(line: str) -> tuple[str, str]:
    name, _, argument = line.strip().partition(" ")
    return name, argument.strip()


def _obey(chat: Chat, name: str, argument: str) -> bool:
    """Do what a command says; False ends the chat."""
    opening = [message for message in chat.messages if message["role"] == "system"]
    if name == "/system":
        opening = [{"role": "system", "content": argument}] if argument else []
        check_chat(chat.tokenizer, opening)
    if name in ("/reset", "/system"):
        chat.messages[:] = opening
        chat.screen.note("the conversation begins again" + (", under a system message" if opening else ""))
    elif name == "/save":
        if not argument:
            raise DataError("/save needs the name of a file")
        save_conversation(chat.messages, Path(argument).expanduser())
        chat.screen.note(f"appended to {argument}")
    elif name != "/quit":
        chat.screen.note(HELP if name == "/help" else f"there is no {name}; /help lists what there is")
    return name != "/quit"


def _exchange(chat: Chat, line: str) -> None:
    """Put one line to the model; question and answer are kept unless the answer is empty."""
    _check_writable(chat.tokenizer, line)
    asked = [*chat.messages, {"role": "user", "content": line}]
    said, ended = _reply(chat, _what_fits(chat, asked))
    if not str(said["content"]).strip():
        chat.screen.note("the model said nothing: the question is taken back")
        return
    # An answer that was cut off is no example of where to end.
    chat.messages[:] = [*asked, said if ended else {**said, "train": False}]


def _reply(chat: Chat, messages: list[Message]) -> tuple[Message, bool]:
    """The assistant's message, written as it is drawn, and whether the model ended it itself."""
    screen, most, pieces = chat.screen, chat.settings.max_new_tokens, list[str]()

    def shown(piece: str) -> None:
        pieces.append(piece)
        screen.write(piece)

    number = sum(message["role"] == "assistant" for message in chat.messages)
    try:
        sample = answer(chat.model, chat.tokenizer, messages, chat.settings, number, shown)
    except KeyboardInterrupt:
        screen.write("\n")
        if not screen.interactive:
            raise
        screen.note("stopped")
        return _as_message(chat.tokenizer, "".join(pieces)), False
    screen.write("\n")
    if not sample.finished:
        full = "--max-new-tokens allows more" if sample.tokens == most else "the model takes no more"
        screen.note(f"cut off after {sample.tokens:,} tokens: {full}")
    return _as_message(chat.tokenizer, sample.continuation), sample.finished


def _what_fits(chat: Chat, messages: list[Message]) -> list[Message]:
    """`messages` without the oldest exchanges, so that a full answer or half the positions are free for the answer."""
    positions = effective_max_length(chat.tokenizer, chat.model.config)
    opening = sum(message["role"] == "system" for message in messages)
    fitting, left_out = [_plain(message) for message in messages], 0
    if positions is None:
        return fitting
    most = positions - min(chat.settings.max_new_tokens, positions // 2)
    while len(fitting) > opening + 1 and len(encode_prompt(chat.tokenizer, fitting)) > most:
        del fitting[opening : opening + 2]
        left_out += 1
    if left_out:
        chat.screen.note(f"answered without the first exchanges ({left_out}): the model takes {positions:,} tokens")
    return fitting


def _plain(message: Message) -> Message:
    return {key: value for key, value in message.items() if key != "train"}


def _as_message(tokenizer: PreTrainedTokenizerFast, text: str) -> Message:
    """What the assistant said, its thoughts apart where its tokens mark them, as templates take both."""
    thought, end, said = text.partition(THOUGHT_END)
    if not end or THOUGHT_END not in tokenizer.get_added_vocab():
        return {"role": "assistant", "content": text}
    thought = thought.strip().removeprefix(THOUGHT).strip()
    kept = {"reasoning_content": thought} if thought else {}
    return {"role": "assistant", "content": said.lstrip("\n"), **kept}


def save_conversation(messages: list[Message], file: Path) -> None:
    """Append one `messages` row to `file`.

    Raises `DataError` where our own reader would reject it, as a conversation without a finished answer, and
    `CannotWriteError`.
    """
    row = {"messages": messages}
    line = json.dumps(row, ensure_ascii=False).encode()
    try:
        RowDecoder(FORMATS["messages"], (), row).line(line, str(file))
    except BadLine as fault:
        raise DataError(Problem(f"not saved: {fault.reason}", "let the model finish an answer first")) from fault
    try:
        with file.open("ab+") as rows:
            unended = rows.tell() > 0 and _last_byte(file) != b"\n"
            rows.write((b"\n" if unended else b"") + line + b"\n")
    except OSError as problem:
        what = f"not saved: it cannot be written ({problem.strerror or problem})"
        raise CannotWriteError(Problem(what, "name another file", path=str(file))) from problem


def _last_byte(file: Path) -> bytes:
    with file.open("rb") as rows:
        rows.seek(-1, 2)
        return rows.read()
