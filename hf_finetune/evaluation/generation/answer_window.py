"""Rows that are asked together -> their token ids, and their answers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from transformers import PreTrainedModel, PreTrainedTokenizerFast

from hf_finetune.chat.given_up import name_row
from hf_finetune.chat.rendering import Message, TemplateLimitError
from hf_finetune.chat.template import encode_prompt, find_end_token_ids
from hf_finetune.config.sections import EvalSection
from hf_finetune.errors import DataError, ModelError, Problem
from hf_finetune.evaluation.generation.asked_rows import Asked, list_asked
from hf_finetune.evaluation.generation.batch import Request, answer_requests
from hf_finetune.evaluation.generation.prompts import continue_prompt, encode_beginning, format_unknown_pieces
from hf_finetune.evaluation.generation.session import generation_session, get_eos_token_ids
from hf_finetune.evaluation.language_modeling.answers import Answer
from hf_finetune.evaluation.prediction.rows import Window
from hf_finetune.models.classification_head import unwrap_adapter
from hf_finetune.models.lengths import get_max_length


@dataclass(frozen=True, slots=True)
class Speaker:
    """A model, and how it is asked."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerFast
    settings: EvalSection
    batch_size: int
    chats: bool
    """Rows are answered under the chat template; otherwise prompts are continued."""
    system: str | None = None

    @property
    def max_positions(self) -> int | None:
        return get_max_length(self.tokenizer, unwrap_adapter(self.model).config)


@dataclass(slots=True)
class PreparedRows:
    """What is asked of a window, by the places of its rows."""

    requests: list[Request] = field(default_factory=list)
    long: dict[int, str] = field(default_factory=dict)
    """Prompts that are continued beyond the model's positions, each alone."""
    problems: list[Problem] = field(default_factory=list)
    """One for each row that cannot be answered."""

    @property
    def places(self) -> list[int]:
        return sorted([*(request.place for request in self.requests), *self.long])


def prepare_rows(speaker: Speaker, window: Window, file: str) -> PreparedRows:
    """Tokenize what each row of a window asks. Raises `DataError` where the chat template exceeds its limits."""
    prepared = PreparedRows()
    for place, asked in enumerate(list_asked(window)):
        number = window.numbers[place]
        try:
            with name_row(file, number):
                _prepare_row(speaker, prepared, place, asked)
        except TemplateLimitError as refused:
            raise DataError([replace(each, path=file, line=number) for each in refused.problems]) from refused
        except (DataError, ModelError) as refused:
            prepared.problems += [replace(each, path=file, line=number) for each in refused.problems]
    return prepared


def _prepare_row(speaker: Speaker, prepared: PreparedRows, place: int, asked: Asked) -> None:
    tokenizer, positions, most = speaker.tokenizer, speaker.max_positions, speaker.settings.max_new_tokens
    if isinstance(asked, str) and not speaker.chats:
        _check_known(tokenizer, [asked])
        ids = encode_beginning(tokenizer, asked)
        # The rows of a batch move together; one that goes beyond the model's last position moves its window alone.
        if positions is None or len(ids) + most <= positions:
            prepared.requests.append(Request(place, ids, most))
        else:
            prepared.long[place] = asked
        return
    messages, tools = ([{"role": "user", "content": asked}], None) if isinstance(asked, str) else asked
    _check_known(tokenizer, [str(message["content"] or "") for message in messages])
    ids = encode_prompt(tokenizer, _put_system(speaker.system, messages), tools)
    room = most if positions is None else min(most, positions - len(ids))
    if room < 1:
        what = f"the conversation has {len(ids):,} tokens, the model takes {positions:,} with its answer"
        raise ModelError(Problem(what, "shorten it", code="HF355"))
    prepared.requests.append(Request(place, ids, room))


def _check_known(tokenizer: PreTrainedTokenizerFast, texts: Sequence[str]) -> None:
    for text in texts:
        if unknown := format_unknown_pieces(tokenizer, text):
            raise ModelError(Problem(f"the tokenizer has never seen {unknown}", "leave it out", code="HF353"))


def _put_system(system: str | None, messages: list[Message]) -> list[Message]:
    """The messages behind a system message, unless they have one."""
    if system is None or messages[0]["role"] in ("system", "developer"):
        return messages
    return [{"role": "system", "content": system}, *messages]


def answer_window(speaker: Speaker, prepared: PreparedRows, numbers: Sequence[int]) -> Iterator[tuple[int, Answer]]:
    """Yield the answers with their places, batch by batch; the row at place `i` is drawn as number `numbers[i]`.

    Each is the answer that `generate_answer` or `continue_prompts` would give: see `generate_batch`.
    """
    model, tokenizer, settings = speaker.model, speaker.tokenizer, speaker.settings
    ends = {*find_end_token_ids(tokenizer), *get_eos_token_ids(model)} if speaker.chats else None
    if prepared.requests:
        with generation_session(model, tokenizer, settings, 0, ends) as session:
            size, penalized = speaker.batch_size, not speaker.chats
            yield from answer_requests(session, prepared.requests, numbers, size, penalize_prompt=penalized)
    for place, prompt in prepared.long.items():
        number = numbers[place]
        with generation_session(model, tokenizer, settings, number) as session:
            sample = continue_prompt(session, prompt, settings.seed + number)
        yield place, Answer(sample.continuation, sample.tokens, sample.finished)
