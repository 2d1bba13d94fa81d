"""Many prompts -> their answers, generated in batches of similar length."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from hf_finetune.chat.template import find_end_token_ids
from hf_finetune.config.sections import EvalSection
from hf_finetune.data.tokenization.text import get_start_token_id
from hf_finetune.errors import ModelError, Problem
from hf_finetune.evaluation.generation.session import (
    GenerationSession,
    decode_answer,
    generate_ids,
    generation_session,
    get_eos_token_ids,
    make_generator,
    predict_next,
)
from hf_finetune.evaluation.language_modeling.answers import Answer

logger = logging.getLogger(__name__)

# How the logits after a prompt may differ with padding before it, as a share of the largest.
PADDING_TOLERANCE = 1e-4
PADDING_TOLERANCE_IN_LOW_PRECISION = 5e-2
PROBED_TOKENS = 8


@dataclass(frozen=True, slots=True)
class Request:
    place: int
    """Index among the caller's prompts."""
    ids: list[int]
    max_new_tokens: int


def generate_batch(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    prompts: Sequence[Sequence[int]],
    settings: EvalSection,
    *,
    batch_size: int,
    numbers: Sequence[int] | None = None,
) -> list[Answer]:
    """Answer prompts of token ids, `batch_size` at a time, the longest first; returns them in the prompts' order.

    An answer stops where `generate_answer` would stop. At temperature 0 it is the answer to the prompt alone, except
    for ties that rounding breaks (bfloat16 has many). Above, each prompt has a seed of its own, `settings.seed` + its
    number in `numbers`, by default its place: neither `batch_size` nor the prompts beside it change its answer, and
    equal prompts get different ones. The repetition penalty counts the answer's tokens.
    A prompt that does not leave `max_new_tokens` positions (or half of the model's, if that is less) loses its first
    tokens; how many prompts do is logged. Out of memory, the batch size is halved; raises `ModelError` where memory is
    too small for a single prompt. All states are restored, as by `continue_prompts`.
    """
    ends = {*find_end_token_ids(tokenizer), *get_eos_token_ids(model)}
    with generation_session(model, tokenizer, settings, 0, ends) as session:
        requests = _build_requests(session, prompts)
        answers = dict(answer_requests(session, requests, numbers or range(len(prompts)), batch_size))
    return [answers[place] for place in range(len(prompts))]


def answer_requests(
    session: GenerationSession,
    requests: Sequence[Request],
    numbers: Sequence[int],
    batch_size: int,
    *,
    penalize_prompt: bool = False,
) -> Iterator[tuple[int, Answer]]:
    """Yield the answers with their places, batch by batch; see `generate_batch`.

    Under `penalize_prompt` the repetition penalty counts the tokens of the prompts, too.
    """
    # Equal `max_new_tokens` together, the longest first so that memory runs out at once or not at all.
    waiting = sorted(requests, key=lambda request: (request.max_new_tokens, -len(request.ids)))
    # And so would padding be.
    penalized = penalize_prompt and session.settings.repetition_penalty != 1
    can_pad = not penalized and _can_pad(session, waiting)
    while waiting:
        batch = [request for request in waiting[:batch_size] if _fit_together(waiting[0], request, can_pad=can_pad)]
        found = _answer_batch(session, batch, numbers, penalize_prompt=penalized)
        if found is None:
            batch_size = max(1, len(batch) // 2)
            logger.warning(
                "out of memory answering %d prompts at once: %d from here on",
                len(batch),
                batch_size,
                extra={"code": "HF350"},
            )
            clear_device_cache(garbage_collection=True)
            continue
        yield from found.items()
        waiting = waiting[len(batch) :]


def _build_requests(session: GenerationSession, prompts: Sequence[Sequence[int]]) -> list[Request]:
    """Cut prompts to fit."""
    # 1,024 positions and max_new_tokens 800: every prompt must leave 512 positions, so one of 700 tokens keeps its last
    # 512 and may generate 512; one of 100 tokens keeps all and may generate 800.
    positions, most = session.max_positions, session.settings.max_new_tokens
    least = most if positions is None else max(1, min(most, positions // 2))
    requests, cut = [], 0
    for place, prompt in enumerate(prompts):
        # A model cannot generate after nothing.
        ids = [*prompt] or [get_start_token_id(session.tokenizer)]
        room = most
        if positions is not None:
            cut += len(ids) > positions - least
            ids = ids[-(positions - least) :]
            room = min(most, positions - len(ids))
        requests.append(Request(place, ids, room))
    if cut:
        what = "%d of %d prompts are cut at their start: of %s positions, %d are for the answer"
        logger.warning(what, cut, len(prompts), f"{positions:,}", least, extra={"code": "HF351"})
    return requests


def _can_pad(session: GenerationSession, requests: Sequence[Request]) -> bool:
    """Whether the model reads a padded prompt as it reads the prompt alone; True where no two differ in length."""
    # The states of RWKV and RecurrentGemma run over the padding, whatever the attention mask says (transformers 5.23).
    lengths = {len(request.ids) for request in requests}
    if len(lengths) < 2:
        return True
    ids = requests[0].ids[:PROBED_TOKENS] if len(requests[0].ids) > 1 else requests[-1].ids[:PROBED_TOKENS]
    try:
        padded, alone = (predict_next(session, rows)[-1] for rows in ([ids, ids[:1]], [ids[:1]]))
    except RuntimeError as error:
        if not should_reduce_batch_size(error):
            raise
        # Whoever answers them will say that memory ran out.
        return False
    tolerance = PADDING_TOLERANCE if session.model.dtype == torch.float32 else PADDING_TOLERANCE_IN_LOW_PRECISION
    can_pad = bool((padded - alone).abs().max() <= tolerance * alone.abs().max())
    if not can_pad:
        logger.info("padding changes what this model answers: prompts of one length are answered together")
    return can_pad


def _fit_together(first: Request, other: Request, *, can_pad: bool) -> bool:
    same_length = len(first.ids) == len(other.ids)
    return first.max_new_tokens == other.max_new_tokens and (can_pad or same_length)


def _answer_batch(
    session: GenerationSession, batch: Sequence[Request], numbers: Sequence[int], *, penalize_prompt: bool
) -> dict[int, Answer] | None:
    """Return the answers by place, or None if memory ran out; raises `ModelError` if it did for a single prompt."""
    # Made anew for a batch that is tried again in halves.
    generators = [make_generator(session.settings, numbers[request.place]) for request in batch]
    try:
        prompts, most = [request.ids for request in batch], batch[0].max_new_tokens
        rows = generate_ids(session, prompts, most, generators=generators, penalize_prompt=penalize_prompt)
    except RuntimeError as error:
        # accelerate knows the messages of CUDA, cuDNN and the CPU's allocator, which raise different errors.
        if not should_reduce_batch_size(error):
            raise
        if len(batch) == 1:
            what = f"there is no memory to answer a single prompt of {len(batch[0].ids):,} tokens"
            raise ModelError(
                Problem(what, "lower eval.max_new_tokens, or use a smaller model", code="HF703")
            ) from error
        return None
    pairs = zip(batch, rows, strict=True)
    return {request.place: decode_answer(session, request.ids, new) for request, new in pairs}
