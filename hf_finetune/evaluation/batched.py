"""Many prompts -> their answers, some at a time."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from hf_finetune.config.sections import EvalSection
from hf_finetune.data.chat import end_token_ids
from hf_finetune.errors import ModelError, Problem
from hf_finetune.evaluation.answer_figures import Answer
from hf_finetune.evaluation.speaking import Speaker, generate_ids, own_ends, seeded, speaking
from hf_finetune.evaluation.streaming import text_after

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Request:
    place: int
    """Among the prompts of the caller."""
    ids: list[int]
    room: int
    """Tokens that are generated at most."""


def generate_batched(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    prompts: Sequence[Sequence[int]],
    settings: EvalSection,
    *,
    batch_size: int,
) -> list[Answer]:
    """Answer prompts of token ids, `batch_size` at a time and the longest first; the answers are in their order.

    An answer ends where `answer` ends one. At temperature 0 its text is that of one prompt at a time, but for ties
    that rounding breaks (bfloat16 has many). Otherwise what is drawn depends on the batch: the same prompts, seed and
    `batch_size` give the same answers, another `batch_size` gives others. A repetition penalty counts the answer's own
    tokens. A prompt that leaves no room for `max_new_tokens`, or for half of the model's positions where that is less,
    loses its first tokens; how many do is logged. Where memory runs out the batch is halved; raises `ModelError` where
    a single prompt is too much. Leaves no trace, as `continue_prompts`.
    """
    ends = {*end_token_ids(tokenizer), *own_ends(model)}
    answers: dict[int, Answer] = {}
    with speaking(model, tokenizer, settings, 0, ends) as speaker:
        waiting = _requests(speaker, prompts)
        while waiting:
            batch = [request for request in waiting[:batch_size] if request.room == waiting[0].room]
            found = _answer(speaker, batch, settings.seed + len(answers))
            if found is None:
                batch_size = max(1, len(batch) // 2)
                logger.warning("memory ran out answering %d prompts at once: %d from here on", len(batch), batch_size)
                clear_device_cache(garbage_collection=True)
                continue
            answers |= found
            waiting = waiting[len(batch) :]
    return [answers[place] for place in range(len(prompts))]


def _requests(speaker: Speaker, prompts: Sequence[Sequence[int]]) -> list[_Request]:
    """Longest prompt first, which finds out at once whether the memory is enough; those with the same room together."""
    tokenizer, positions, most = speaker.tokenizer, speaker.positions, speaker.settings.max_new_tokens
    least = most if positions is None else max(1, min(most, positions // 2))
    requests, cut = [], 0
    for place, prompt in enumerate(prompts):
        # Without a token there is nothing to go on from; where there is no begin token, a text follows another's end.
        ids = [*prompt] or [tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id]
        room = most
        if positions is not None:
            cut += len(ids) > positions - least
            ids = ids[-(positions - least) :]
            room = min(most, positions - len(ids))
        requests.append(_Request(place, ids, room))
    if cut:
        what = "%d of %d prompts are cut at their start: of %s positions, %d are for the answer"
        logger.warning(what, cut, len(prompts), f"{positions:,}", least)
    return sorted(requests, key=lambda request: (request.room, -len(request.ids)))


def _answer(speaker: Speaker, batch: Sequence[_Request], seed: int) -> dict[int, Answer] | None:
    """Answers by place, or None where they need more memory than there is."""
    try:
        with seeded(speaker.model.device, seed):
            rows = generate_ids(speaker, [request.ids for request in batch], batch[0].room)
    except RuntimeError as error:
        if not should_reduce_batch_size(error):
            raise
        if len(batch) == 1:
            what = f"there is no memory to answer a single prompt of {len(batch[0].ids):,} tokens"
            raise ModelError(Problem(what, "lower eval.max_new_tokens, or use a smaller model")) from error
        return None
    pairs = zip(batch, rows, strict=True)
    return {request.place: _text(speaker, request.ids, new) for request, new in pairs}


def _text(speaker: Speaker, ids: list[int], new: list[int]) -> Answer:
    finished = new[-1] in speaker.ends
    return Answer(text_after(speaker.tokenizer, ids, new[:-1] if finished else new), len(new), finished)
