"""An interactive chat: input lines in, pieces of answers and notices out."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedModel, PreTrainedTokenizerFast

from hf_finetune.chat.rendering import Message
from hf_finetune.chat.template import encode_prompt
from hf_finetune.config.sections import EvalSection
from hf_finetune.data.reading.formats import FORMATS
from hf_finetune.data.reading.json_line import LineError
from hf_finetune.data.reading.row_decoder import RowDecoder
from hf_finetune.errors import (
    CannotWriteError,
    DataError,
    FinetuneError,
    ModelError,
    Problem,
    advise_unless_limited,
    find_writing_code,
)
from hf_finetune.evaluation.generation.prompts import format_unknown_pieces, generate_answer
from hf_finetune.files import open_private
from hf_finetune.interruption import forget_signal
from hf_finetune.models.lengths import get_max_length

HELP = """\
/system TEXT  begin again with a system message; without TEXT, with none
/reset        begin again; the system message stays
/save FILE    append the conversation to FILE as a row that recipes/sft.py can train on
/help         show this
/quit         end, as Ctrl-D does; Ctrl-C stops an answer
A line that begins with a space is never a command."""

# The markers of Qwen3, DeepSeek-R1 and most models that reason; their templates write them from `reasoning_content`.
THINK_START, THINK_END = "<think>", "</think>"


@dataclass(frozen=True, slots=True)
class ChatDisplay:
    """Where a chat is displayed."""

    write: Callable[[str], object]
    """Takes the pieces of an answer, and a line feed after it."""
    note: Callable[[str], object]
    """Takes notices about the conversation, whole lines without a line feed."""
    interactive: bool = False
    """Ctrl-C stops the answer and not the chat."""


@dataclass(frozen=True, slots=True)
class ChatSession:
    """The state of a chat."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerFast
    settings: EvalSection
    screen: ChatDisplay
    messages: list[Message]
    """As a `messages` row has them: the system message first where there is one, then whole exchanges."""


def run_chat(chat: ChatSession, lines: Iterable[str]) -> None:
    """Answer each line, or run it as a command if it begins with `/`, until the lines end or one is `/quit`.

    `chat.messages` holds the opening system message, or nothing, and each exchange is appended to it. An error about
    one line is a notice and leaves the conversation as it was. Raises `ModelError` if the model has no chat template,
    and `DataError` if the template takes no system message.
    """
    check_chat(chat.tokenizer, chat.messages)
    if chat.screen.interactive:
        chat.screen.note("say something; /help lists the commands, /quit or Ctrl-D ends")
    for line in lines:
        try:
            if line.startswith("/"):
                name, _, argument = line.strip().partition(" ")
                if not _run_command(chat, name, argument.strip()):
                    return
            elif line.strip():
                _answer_line(chat, line)
        except FinetuneError as problem:
            chat.screen.note(str(problem))


def check_chat(tokenizer: PreTrainedTokenizerFast, opening: list[Message]) -> None:
    """Raise `ModelError` or `DataError` if no conversation can begin with `opening`."""
    if not tokenizer.chat_template:
        remedy = "fine-tune it with recipes/sft.py, or let it continue text: `hf-finetune generate --raw`"
        raise ModelError(Problem("the model has no chat template to talk with", remedy, code="HF352"))
    for message in opening:
        _check_writable(tokenizer, message["content"])
    encode_prompt(tokenizer, [*opening, {"role": "user", "content": "A"}])


def _check_writable(tokenizer: PreTrainedTokenizerFast, text: str) -> None:
    unknown = format_unknown_pieces(tokenizer, text)
    if unknown:
        raise ModelError(Problem(f"the tokenizer has never seen {unknown}", "say it without", code="HF353"))


def _run_command(chat: ChatSession, name: str, argument: str) -> bool:
    """Run a command such as `/save`; returns False if it ends the chat."""
    opening = [message for message in chat.messages if message["role"] == "system"]
    if name == "/system":
        opening = [{"role": "system", "content": argument}] if argument else []
        check_chat(chat.tokenizer, opening)
    if name in ("/reset", "/system"):
        chat.messages[:] = opening
        chat.screen.note("the conversation begins again" + (", under a system message" if opening else ""))
    elif name == "/save":
        if not argument:
            raise DataError(Problem("/save needs the name of a file: /save chats.jsonl", code="HF601"))
        save_conversation(chat.messages, argument)
        chat.screen.note(f"appended to {argument}: a row of {len(chat.messages)} messages")
    elif name != "/quit":
        lines = HELP.splitlines() if name == "/help" else [f"there is no {name}; /help lists what there is"]
        # Each by itself: a note is one line, in which a line feed is shown as what it is.
        for line in lines:
            chat.screen.note(line)
    return name != "/quit"


def _answer_line(chat: ChatSession, line: str) -> None:
    """Answer one line; question and answer join the conversation unless the answer is empty."""
    _check_writable(chat.tokenizer, line)
    messages = [*chat.messages, {"role": "user", "content": line}]
    reply, finished = _generate_reply(chat, _truncate_history(chat, messages))
    if not str(reply["content"]).strip():
        chat.screen.note("the model said nothing: the question is taken back")
        return
    # Trained on, an answer that was cut off would teach the model to stop in mid-sentence.
    chat.messages[:] = [*messages, reply if finished else {**reply, "train": False}]


def _generate_reply(chat: ChatSession, messages: list[Message]) -> tuple[Message, bool]:
    """Return the assistant's message, shown as it is generated, and whether the model ended it itself."""
    screen, most, pieces = chat.screen, chat.settings.max_new_tokens, list[str]()

    def show(piece: str) -> None:
        pieces.append(piece)
        screen.write(piece)

    number = sum(message["role"] == "assistant" for message in chat.messages)
    try:
        sample = generate_answer(chat.model, chat.tokenizer, messages, chat.settings, number, show)
    except KeyboardInterrupt:
        screen.write("\n")
        if not screen.interactive:
            raise
        forget_signal()
        screen.note("stopped")
        return _parse_reply(chat.tokenizer, "".join(pieces)), False
    screen.write("\n")
    if not sample.finished:
        full = "--max-new-tokens allows more" if sample.tokens == most else "the model takes no more"
        screen.note(f"cut off after {sample.tokens:,} tokens: {full}")
    return _parse_reply(chat.tokenizer, sample.continuation), sample.finished


def _truncate_history(chat: ChatSession, messages: list[Message]) -> list[Message]:
    """Drop the oldest exchanges until `max_new_tokens`, or half of the positions if that is less, are free.

    system, user 1, assistant 1, user 2 becomes system, user 2: a template may insist on roles that alternate.
    """
    positions = get_max_length(chat.tokenizer, chat.model.config)
    opening = sum(message["role"] == "system" for message in messages)
    # `train` is a key of our rows, not of messages as templates know them.
    fitting = [{key: value for key, value in message.items() if key != "train"} for message in messages]
    left_out = 0
    if positions is None:
        return fitting
    most = positions - min(chat.settings.max_new_tokens, positions // 2)
    while len(fitting) > opening + 1 and len(encode_prompt(chat.tokenizer, fitting)) > most:
        del fitting[opening : opening + 2]
        left_out += 1
    if left_out:
        chat.screen.note(f"answered without the first exchanges ({left_out}): the model takes {positions:,} tokens")
    return fitting


def _parse_reply(tokenizer: PreTrainedTokenizerFast, text: str) -> Message:
    """Parse a reply into `content` and `reasoning_content`, the keys of which chat templates write the two parts.

    "<think>\\nhm\\n</think>\\n\\nYes." -> content "Yes.", reasoning_content "hm"; only if `</think>` is an added token.
    """
    reasoning, end, content = text.partition(THINK_END)
    if not end or THINK_END not in tokenizer.get_added_vocab():
        return {"role": "assistant", "content": text}
    reasoning = reasoning.strip().removeprefix(THINK_START).strip()
    kept = {"reasoning_content": reasoning} if reasoning else {}
    return {"role": "assistant", "content": content.lstrip("\n"), **kept}


def save_conversation(messages: list[Message], name: str) -> None:
    """Append the conversation to the file `name`, which may begin with `~`, as one `messages` row.

    Raises `DataError` if our own reader would reject the row, as one without a finished answer, or `name` is that of
    something else, and `CannotWriteError`.
    """
    line = _write_row(messages, name)
    try:
        file = Path(name).expanduser()
        _check_place(file)
        with open(file, "ab+", opener=open_private) as rows:
            # The last line may lack its line feed; a row written behind it would make one broken line of two rows.
            unended = rows.tell() > 0 and _read_last_byte(file) != b"\n"
            rows.write((b"\n" if unended else b"") + line + b"\n")
    except (OSError, RuntimeError, ValueError) as problem:  # a home folder that there is not; a character 0
        reason = problem.strerror if isinstance(problem, OSError) else problem
        what = f"not saved: it cannot be written ({reason or problem})"
        number = problem.errno if isinstance(problem, OSError) else None
        remedy, code = advise_unless_limited(number, "name another file"), find_writing_code(number)
        raise CannotWriteError(Problem(what, remedy, path=name, code=code)) from problem


def _write_row(messages: list[Message], name: str) -> bytes:
    answers = [message for message in messages if message["role"] == "assistant"]
    if not answers:
        raise DataError(
            Problem("nothing to save yet: the model has answered nothing", "say something first", code="HF354")
        )
    if all(answer.get("train") is False for answer in answers):
        what = "not saved: every answer was cut off, and from these a model would learn to stop in mid-sentence"
        raise DataError(Problem(what, "let the model finish one; chat --max-new-tokens allows more", code="HF354"))
    row = {"messages": messages}
    line = json.dumps(row, ensure_ascii=False).encode()
    try:
        RowDecoder(FORMATS["messages"], (), row).decode_line(line, name)
    except LineError as fault:
        raise DataError(Problem(f"not saved: {fault.reason}", "/reset begins again", code=fault.code)) from fault
    return line


def _check_place(file: Path) -> None:
    """Raise `DataError` where no row can be appended to `file`, by what stands there; OSError."""
    what, remedy = "", "name a new file"
    if file.is_dir():
        what, remedy = "it is a folder", f"name a file in it, such as {file / 'chats.jsonl'}"
    elif not file.parent.is_dir():
        what, remedy = f"there is no folder {file.parent}", "make it first, or name another file"
    elif file.exists() and not file.is_file():
        what = "it is neither a file nor a folder"
    elif file.is_file() and not _holds_rows(file):
        what = "it holds something else than rows, and is not written to"
    if what:
        raise DataError(Problem(f"not saved: {what}", remedy, path=str(file), code="HF354"))


def _holds_rows(file: Path) -> bool:
    """Whether a file is empty, or begins as one of JSON lines does."""
    with file.open("rb") as rows:
        return rows.read(1) in (b"", b"{")


def _read_last_byte(file: Path) -> bytes:
    with file.open("rb") as rows:
        rows.seek(-1, 2)
        return rows.read()
