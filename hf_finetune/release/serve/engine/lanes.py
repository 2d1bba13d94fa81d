"""The names that are served: a model, or one adapter of it."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable
from dataclasses import dataclass

import torch
from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerFast
from transformers.cache_utils import DynamicLayer

from hf_finetune.chat.template import find_end_token_ids
from hf_finetune.config.sections import EvalSection
from hf_finetune.errors import ModelError, Problem
from hf_finetune.evaluation.generation.session import generate_ids, generation_session, get_eos_token_ids
from hf_finetune.models.classification_head import unwrap_adapter
from hf_finetune.models.lengths import get_max_length
from hf_finetune.release.serve.engine.batch import Batch
from hf_finetune.release.serve.engine.tools import Tools, find_tools

logger = logging.getLogger(__name__)

PROBED_TOKENS, PROBED_STEPS = 8, 4
# How the logits of a padded row may differ, as a share of the largest: those of `generate_batch`.
TOLERANCE, TOLERANCE_IN_LOW_PRECISION = 1e-4, 5e-2


@dataclass(frozen=True, slots=True)
class Lane:
    """A model as it is served under one name."""

    name: str
    model: PreTrainedModel
    """Without a `PeftModel` around it."""
    tokenizer: PreTrainedTokenizerFast
    """For prompts."""
    decoder: PreTrainedTokenizerFast
    """A copy of it, for answers."""
    tools: Tools
    switch: Callable[[], object]
    """Makes the model compute as what is served under this name."""
    positions: int | None
    """Tokens of a prompt and its answer; None where the model has no limit."""
    turn_ends: frozenset[int]
    """Tokens that end an answer in a chat; empty where the model cannot chat."""
    text_ends: frozenset[int]
    """Tokens that end a text."""
    batches: bool
    """Whether rows can be generated together."""
    kind: str = "tuned"
    """Or `base`."""

    @property
    def chats(self) -> bool:
        return bool(self.turn_ends)


def make_lane(
    name: str, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, switch: Callable[[], object], kind: str
) -> Lane:
    """Make a lane of a loaded model in evaluation mode. Raises `ModelError` where it cannot be served step by step."""
    inner = unwrap_adapter(model)
    switch()
    turn_ends = {*find_end_token_ids(tokenizer), *get_eos_token_ids(inner)} if tokenizer.chat_template else set()
    text_ends = frozenset({tokenizer.eos_token_id} - {None})
    ids = [index % len(tokenizer) for index in range(3, 3 + PROBED_TOKENS)]
    plain = _has_plain_cache(inner, ids)
    batches = plain and _ignores_padding(inner, ids)
    if not batches:
        why = "what stands beside a text changes its answer (padding, or 8 bits that are scaled together)"
        why = why if plain else "its cache is not of keys and values alone, to which others could be put"
        logger.info("%s answers one request at a time: %s", name, why)
    _check_steps(inner, tokenizer, ids, name, plain=batches)
    # Encoding may set how it truncates, which a tokenizer of Rust refuses ("Already borrowed") while it decodes for
    # another thread.
    decoder, tools = copy.deepcopy(tokenizer), find_tools(tokenizer) if turn_ends else Tools(False, None)
    return Lane(
        name,
        inner,
        tokenizer,
        decoder,
        tools,
        switch,
        get_max_length(tokenizer, inner.config),
        frozenset(turn_ends),
        text_ends,
        batches,
        kind,
    )


def _has_plain_cache(model: PreTrainedModel, ids: list[int]) -> bool:
    """Whether all that the model keeps of a text is keys and values of its tokens."""
    own = DynamicCache(config=model.config)
    if any(not isinstance(layer, DynamicLayer) or hasattr(layer, "conv_states") for layer in own.layers):
        return False
    batch = Batch(model)
    try:
        batch.join([ids])
    except (AttributeError, TypeError, ValueError, NotImplementedError):  # a model with a cache of its own
        return False
    layers = batch.cache.layers
    return bool(layers) and all(type(each) is DynamicLayer and each.keys is not None for each in layers)


def _ignores_padding(model: PreTrainedModel, ids: list[int]) -> bool:
    """Whether the model reads a padded prompt as it reads the prompt alone, and goes on in the same way."""
    # A longer row first, so that the shorter one is padded; then a step, which reads what was padded.
    together, alone = Batch(model), Batch(model)
    together.join([ids])
    for batch in (together, alone):
        batch.join([ids[:2]])
        batch.step([ids[2]] * len(batch))
    ours, theirs = together.logits[-1], alone.logits[-1]
    tolerance = TOLERANCE if model.dtype == torch.float32 else TOLERANCE_IN_LOW_PRECISION
    return bool((ours - theirs).abs().max() <= tolerance * theirs.abs().max())


def _check_steps(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, ids: list[int], name: str, *, plain: bool
) -> None:
    """Raise `ModelError` where a few steps of ours are not what `generate` says."""
    with generation_session(model, tokenizer, EvalSection(temperature=0), 0) as session:
        [expected] = generate_ids(session, [ids], PROBED_STEPS)
    # A model may need what only its `prepare_inputs_for_generation` makes, which no signature shows.
    batch, found = Batch(model, plain_cache=plain), list[int]()
    batch.join([ids])
    while len(found) < len(expected):
        found.append(int(batch.logits.argmax()))
        batch.step(found[-1:])
    if found != expected:
        what = "generates step by step something else than `hf-finetune generate` says"
        raise ModelError(Problem(what, "use that command for it", path=name, code="HF876"))
