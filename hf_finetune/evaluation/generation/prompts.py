"""Prompts -> continuations or chat answers of a causal language model: reproducible, and without side effects.

answer(model, tokenizer, [{"role": "user", "content": "Hi"}], EvalSection(temperature=0)).continuation
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from transformers import PreTrainedModel, PreTrainedTokenizerFast

from hf_finetune.chat.rendering import Message, TemplateLimitError
from hf_finetune.chat.slow_templates import count_rendered
from hf_finetune.chat.template import encode_prompt, find_end_token_ids
from hf_finetune.config.sections import EvalSection
from hf_finetune.data.tokenization.text import encode_documents, get_start_token_id
from hf_finetune.environment.progress_lines import ProgressLines
from hf_finetune.errors import ConfigError, DataError, ModelError, Problem
from hf_finetune.evaluation.generation.session import (
    GenerationSession,
    decode_answer,
    generate_ids,
    generation_session,
    get_eos_token_ids,
)
from hf_finetune.evaluation.generation.streaming import IncrementalDetokenizer, TokenStreamer
from hf_finetune.models.tokenizers import find_unknown_pieces

logger = logging.getLogger(__name__)

WriteText = Callable[[str], object]


@dataclass(frozen=True)
class Sample:
    """A prompt and its continuation, or a message and its answer; the fields are those of `samples` in report.json."""

    prompt: str
    continuation: str
    tokens: int
    """Generated tokens, the end token included."""
    finished: bool
    """The model ended the text itself; otherwise `max_new_tokens` did, or for an answer the model's last position."""
    prompt_tokens_cut: int
    """Tokens cut at the start of the prompt, for which the model has no position; a conversation is never cut."""
    seed: int


def continue_prompts(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, prompts: Sequence[str], settings: EvalSection
) -> list[Sample]:
    """Continue each prompt as the beginning of a document; prompt number `i` has the seed `settings.seed + i`.

    Where the model's positions run out, the later half of the text becomes the prompt for the rest.
    Random states, training mode and the model's generation config are restored afterwards.
    Raises `ModelError` as `check_prompts` does.
    """
    check_prompts(tokenizer, prompts)
    samples: list[Sample] = []
    progress = ProgressLines("texts continued", len(prompts))
    for index, prompt in enumerate(prompts):
        with generation_session(model, tokenizer, settings, index) as session:
            samples.append(_continue_prompt(session, prompt, settings.seed + index))
        progress.log_if_due(len(samples))
    return samples


def answer_prompts(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    prompts: Sequence[str],
    settings: EvalSection,
    system: str | None = None,
) -> list[Sample]:
    """Answer each prompt as the only user message, under the tokenizer's chat template; seeds as `continue_prompts`.

    Raises `ModelError` as `check_prompts` and `generate_answer` do, and `DataError` naming each prompt that the
    template refuses.
    """
    chats = _build_chats(tokenizer, prompts, system)
    samples: list[Sample] = []
    progress = ProgressLines("messages answered", len(chats))
    for number, chat in enumerate(chats):
        samples.append(generate_answer(model, tokenizer, chat, settings, number))
        progress.log_if_due(len(samples))
    return samples


def _build_chats(tokenizer: PreTrainedTokenizerFast, prompts: Sequence[str], system: str | None) -> list[list[Message]]:
    """Make a conversation of each prompt, once all are found to be such that they can be rendered and encoded."""
    check_prompts(tokenizer, prompts)
    unknown = format_unknown_pieces(tokenizer, system or "")
    if unknown:
        raise ModelError(
            Problem(f"the tokenizer has never seen {unknown}", "leave it out", key="--system", code="HF353")
        )
    opening: list[Message] = [] if system is None else [{"role": "system", "content": system}]
    chats = [[*opening, {"role": "user", "content": prompt}] for prompt in prompts]
    _check_chats(tokenizer, chats)
    return chats


def _check_chats(tokenizer: PreTrainedTokenizerFast, chats: Sequence[list[Message]]) -> None:
    """Raise `DataError` naming each prompt that the template rejects, before the first one is answered."""
    problems: list[Problem] = []
    for index, chat in enumerate(chats):
        try:
            with count_rendered(index, len(chats), "prompts"):
                encode_prompt(tokenizer, chat)
        except (DataError, TemplateLimitError) as refused:
            problems += [replace(each, key=f"eval.prompts[{index}]") for each in refused.problems]
            if isinstance(refused, TemplateLimitError):  # which takes a second for each
                break
    if problems:
        raise DataError(problems)


def generate_responses(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    prompts: Sequence[str],
    settings: EvalSection,
    *,
    system: str | None = None,
    raw: bool = False,
) -> list[Sample]:
    """Answer prompts if the tokenizer has a chat template; without one, or under `raw`, continue them.

    Raises `ConfigError` for a system message with prompts to continue, and as the function that it calls.
    """
    if tokenizer.chat_template and not raw:
        return answer_prompts(model, tokenizer, prompts, settings, system)
    _refuse_system(system)
    return continue_prompts(model, tokenizer, prompts, settings)


def check_responses(
    tokenizer: PreTrainedTokenizerFast, prompts: Sequence[str], *, system: str | None = None, raw: bool = False
) -> None:
    """Raise what `generate_responses` would raise of the prompts and the chat template, before a model is loaded."""
    if tokenizer.chat_template and not raw:
        _build_chats(tokenizer, prompts, system)
        return
    _refuse_system(system)
    check_prompts(tokenizer, prompts)


def try_template(tokenizer: PreTrainedTokenizerFast, opening: Sequence[Message]) -> None:
    """Render a first message behind `opening` before a model is loaded. Raises `ModelError` for a template of no end.

    What else it refuses it may take in another conversation.
    """
    with suppress(DataError):
        encode_prompt(tokenizer, [*opening, {"role": "user", "content": "x"}])


def _refuse_system(system: str | None) -> None:
    if system is not None:
        what = "a text that is continued takes no system message"
        raise ConfigError(Problem(what, "leave --system out; for --raw, write it into the prompt", code="HF601"))


def generate_answer(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    messages: Sequence[Message],
    settings: EvalSection,
    number: int = 0,
    write: WriteText | None = None,
) -> Sample:
    """Answer the last of `messages`; answer number `number` has the seed `settings.seed + number`.

    The answer stops at the token that ends an assistant's turn, or at the model's last position: the conversation is
    never cut. `write` gets the text in pieces, as it is generated. The repetition penalty counts the tokens of the
    answer alone. All states are restored, as by `continue_prompts`.
    Raises `ModelError` where the conversation leaves no position for an answer, and `DataError` where the template
    rejects it.
    """
    ids = encode_prompt(tokenizer, list(messages))
    ends = {*find_end_token_ids(tokenizer), *get_eos_token_ids(model)}
    with generation_session(model, tokenizer, settings, number, ends) as session:
        room, positions = settings.max_new_tokens, session.max_positions
        if positions is not None:
            room = min(room, positions - len(ids))
        if room < 1:
            what = f"the conversation has {len(ids):,} tokens, the model takes {positions:,} with its answer"
            raise ModelError(Problem(what, "shorten it", code="HF355"))
        pieces = IncrementalDetokenizer(tokenizer, ids)
        stream = TokenStreamer(_make_token_writer(pieces, ends, write)) if write else None
        [new] = generate_ids(session, [ids], room, streamer=stream)
        if write is not None:
            write(pieces.flush())
    return _make_sample(session, str(messages[-1]["content"]), ids, new, settings.seed + number)


def _make_token_writer(pieces: IncrementalDetokenizer, ends: set[int], write: WriteText) -> Callable[[int], object]:
    return lambda token: None if token in ends else write(pieces.add(token))


def check_prompts(tokenizer: PreTrainedTokenizerFast, prompts: Sequence[str]) -> None:
    """Raise `ModelError` where the tokenizer cannot encode a prompt, naming every unknown piece of all prompts."""
    problems = []
    for index, prompt in enumerate(prompts):
        unknown = format_unknown_pieces(tokenizer, prompt)
        if unknown:
            what = f"the tokenizer has never seen {unknown}"
            problems.append(Problem(what, "leave it out of the prompt", key=f"eval.prompts[{index}]", code="HF353"))
    if problems:
        raise ModelError(problems)


def format_unknown_pieces(tokenizer: PreTrainedTokenizerFast, text: str) -> str:
    """List the pieces of `text` that the tokenizer cannot encode, as `'☃' (U+2603), '☂' (U+2602)`; "" if it can."""
    # Surrogates stand for command-line bytes that are not UTF-8 (PEP 383): no tokenizer takes them.
    surrogates = sorted({character for character in text if "\ud800" <= character <= "\udfff"})
    pieces = surrogates or find_unknown_pieces(tokenizer, text)
    return ", ".join(f"{piece!r} (U+{ord(piece):04X})" if len(piece) == 1 else repr(piece) for piece in pieces)


def encode_beginning(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    """Tokenize the beginning of a document, for a model to continue: (tokens,) ids, at least one."""
    ids = list(encode_documents(tokenizer, [text])[0])
    return ids if ids and tokenizer.bos_token_id is None else [get_start_token_id(tokenizer), *ids]


def _continue_prompt(session: GenerationSession, prompt: str, seed: int) -> Sample:
    """Continue a document beyond the model's positions.

    4 positions, prompt [1, 2, 3]: the model reads [1, 2, 3] and generates 4; then it reads the later half [3, 4] and
    generates 5 and 6; then [5, 6], and so on up to `max_new_tokens`. A longer prompt loses its first tokens.
    """
    tokenizer, positions = session.tokenizer, session.max_positions
    ids = encode_beginning(tokenizer, prompt)
    cut = 0 if positions is None else max(0, len(ids) - (positions - 1))
    if cut:
        logger.warning(
            "a prompt of %d tokens does not fit %d positions: %d are cut",
            len(ids),
            positions,
            cut,
            extra={"code": "HF351"},
        )
    new: list[int] = []
    window, most = ids[cut:], session.settings.max_new_tokens
    while len(new) < most:
        room = most - len(new) if positions is None else min(most - len(new), positions - len(window))
        [step] = generate_ids(session, [window], room, penalize_prompt=True)
        new += step
        if step[-1] in session.eos_token_ids:
            break
        if positions is not None:
            window = [*window, *step][-max(1, positions // 2) :]
    return _make_sample(session, prompt, ids, new, seed, cut)


def _make_sample(
    session: GenerationSession, prompt: str, ids: list[int], new: list[int], seed: int, cut: int = 0
) -> Sample:
    decoded = decode_answer(session, ids, new)
    return Sample(prompt, decoded.text, decoded.tokens, decoded.finished, cut, seed)
