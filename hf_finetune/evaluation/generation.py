"""Prompts -> continuations or answers of a causal language model, the same for the same seed and without a trace."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from transformers import PreTrainedModel, PreTrainedTokenizerFast

from hf_finetune.config.sections import EvalSection
from hf_finetune.data.chat import encode_prompt, end_token_ids
from hf_finetune.data.tokenization import encode_documents
from hf_finetune.data.turns import Message
from hf_finetune.errors import ConfigError, ModelError, Problem
from hf_finetune.evaluation.speaking import Speaker, generate_ids, own_ends, speaking
from hf_finetune.evaluation.streaming import TextPieces, TokenStream, text_after
from hf_finetune.models.tokenizers import unknown_pieces

logger = logging.getLogger(__name__)

Write = Callable[[str], object]


@dataclass(frozen=True)
class Sample:
    """A prompt and its continuation, or a message and its answer."""

    prompt: str
    continuation: str
    tokens: int
    """Tokens that were generated, the end token included."""
    finished: bool
    """The model ended the text itself; otherwise `max_new_tokens` did, or for an answer the model's last position."""
    prompt_tokens_cut: int
    """Tokens at the start of the prompt for which the model has no position; never of a conversation."""
    seed: int


def continue_prompts(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, prompts: Sequence[str], settings: EvalSection
) -> list[Sample]:
    """Continue each prompt as the beginning of a document; prompt number `i` has the seed `settings.seed + i`.

    Where the model's positions run out, the later half of the text is kept and generation goes on from there.
    Random states, training mode and the model's own generation settings are afterwards what they were.
    Raises `ModelError` as `check_prompts` does.
    """
    check_prompts(tokenizer, prompts)
    samples = []
    for index, prompt in enumerate(prompts):
        with speaking(model, tokenizer, settings, index) as speaker:
            samples.append(_continue(speaker, prompt, settings.seed + index))
    return samples


def answer_prompts(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    prompts: Sequence[str],
    settings: EvalSection,
    system: str | None = None,
) -> list[Sample]:
    """Answer each prompt as a user's only message, under the tokenizer's chat template; seeds as `continue_prompts`.

    Raises `ModelError` as `check_prompts` and `answer` do.
    """
    check_prompts(tokenizer, prompts)
    unknown = unwritable(tokenizer, system or "")
    if unknown:
        raise ModelError(Problem(f"the tokenizer has never seen {unknown}", "leave it out", key="--system"))
    opening: list[Message] = [] if system is None else [{"role": "system", "content": system}]
    chats = [[*opening, {"role": "user", "content": prompt}] for prompt in prompts]
    return [answer(model, tokenizer, chat, settings, number) for number, chat in enumerate(chats)]


def respond(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    prompts: Sequence[str],
    settings: EvalSection,
    *,
    system: str | None = None,
    raw: bool = False,
) -> list[Sample]:
    """Answer prompts where the tokenizer has a chat template, else, or where `raw` asks for it, continue them.

    Raises `ConfigError` where text to continue is given a system message.
    """
    if tokenizer.chat_template and not raw:
        return answer_prompts(model, tokenizer, prompts, settings, system)
    if system is not None:
        what = "a text that is continued takes no system message"
        raise ConfigError(Problem(what, "leave --system out; for --raw, write it into the prompt"))
    return continue_prompts(model, tokenizer, prompts, settings)


def answer(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    messages: Sequence[Message],
    settings: EvalSection,
    number: int = 0,
    write: Write | None = None,
) -> Sample:
    """Answer the last of `messages`; answer number `number` has the seed `settings.seed + number`.

    The answer ends before the token that ends an assistant's turn, and at the model's last position at the latest: the
    conversation is never cut. `write` gets its text in pieces, as it is drawn. A repetition penalty counts the answer's
    own tokens alone: those of the conversation would hold the end token down. No trace, as with `continue_prompts`.
    Raises `ModelError` where the conversation leaves no position to answer in, and `DataError` where the template
    refuses it.
    """
    ids = encode_prompt(tokenizer, list(messages))
    ends = {*end_token_ids(tokenizer), *own_ends(model)}
    with speaking(model, tokenizer, settings, number, ends) as speaker:
        room = settings.max_new_tokens
        if speaker.positions is not None:
            room = min(room, speaker.positions - len(ids))
        if room < 1:
            what = f"the conversation has {len(ids):,} tokens, the model takes {speaker.positions:,} with its answer"
            raise ModelError(Problem(what, "shorten it"))
        pieces = TextPieces(tokenizer, ids)
        stream = TokenStream(_writer(pieces, ends, write)) if write else None
        [new] = generate_ids(speaker, [ids], room, streamer=stream)
        if write is not None:
            write(pieces.rest())
    return _sample(speaker, str(messages[-1]["content"]), ids, new, settings.seed + number)


def _writer(pieces: TextPieces, ends: set[int], write: Write) -> Callable[[int], object]:
    return lambda token: None if token in ends else write(pieces.add(token))


def check_prompts(tokenizer: PreTrainedTokenizerFast, prompts: Sequence[str]) -> None:
    """Raise `ModelError`, naming all pieces of all prompts, where the tokenizer cannot write a prompt."""
    problems = []
    for index, prompt in enumerate(prompts):
        unknown = unwritable(tokenizer, prompt)
        if unknown:
            what = f"the tokenizer has never seen {unknown}"
            problems.append(Problem(what, "leave it out of the prompt", key=f"eval.prompts[{index}]"))
    if problems:
        raise ModelError(problems)


def unwritable(tokenizer: PreTrainedTokenizerFast, text: str) -> str:
    """The pieces of `text` that the tokenizer cannot write, named and listed; "" where it can write all."""
    pieces = _surrogates(text) or unknown_pieces(tokenizer, text)
    return ", ".join(_named(piece) for piece in pieces)


def _surrogates(text: str) -> list[str]:
    # What Python makes of bytes on a command line that are not UTF-8; no tokenizer takes it.
    return sorted({character for character in text if "\ud800" <= character <= "\udfff"})


def _named(piece: str) -> str:
    return f"{piece!r} (U+{ord(piece):04X})" if len(piece) == 1 else repr(piece)


def _continue(speaker: Speaker, prompt: str, seed: int) -> Sample:
    tokenizer, positions = speaker.tokenizer, speaker.positions
    ids = encode_documents(tokenizer, [prompt])[0]
    if tokenizer.bos_token_id is not None:
        ids = [tokenizer.bos_token_id, *ids]
    # Without a begin token a document follows the end of another.
    ids = ids or [tokenizer.eos_token_id]
    cut = 0 if positions is None else max(0, len(ids) - (positions - 1))
    if cut:
        logger.warning("a prompt of %d tokens does not fit %d positions: %d are cut", len(ids), positions, cut)
    new: list[int] = []
    window, most = ids[cut:], speaker.settings.max_new_tokens
    while len(new) < most:
        room = most - len(new) if positions is None else min(most - len(new), positions - len(window))
        [step] = generate_ids(speaker, [window], room, penalise_prompt=True)
        new += step
        if step[-1] in speaker.ends:
            break
        if positions is not None:
            window = [*window, *step][-max(1, positions // 2) :]
    return _sample(speaker, prompt, ids, new, seed, cut)


def _sample(speaker: Speaker, prompt: str, ids: list[int], new: list[int], seed: int, cut: int = 0) -> Sample:
    finished = new[-1] in speaker.ends
    continuation = text_after(speaker.tokenizer, ids, new[:-1] if finished else new)
    return Sample(prompt, continuation, len(new), finished, cut, seed)
