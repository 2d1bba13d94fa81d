"""A causal language model made ready to generate, and put back as it was."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerFast
from transformers.generation.logits_process import RepetitionPenaltyLogitsProcessor
from transformers.generation.streamers import BaseStreamer

from hf_finetune.config.sections import EvalSection
from hf_finetune.models.tokenizers import effective_max_length


@dataclass(frozen=True, slots=True)
class Speaker:
    """A model that generates, and how."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerFast
    settings: EvalSection
    ends: list[int]
    positions: int | None


def own_ends(model: PreTrainedModel) -> list[int]:
    """What the model's own generation settings end at: published chat models list more tokens than their template."""
    own: Any = model.generation_config and model.generation_config.eos_token_id
    return [] if own is None else own if isinstance(own, list) else [own]


@contextmanager
def speaking(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    settings: EvalSection,
    number: int,
    ends: set[int] | None = None,
) -> Iterator[Speaker]:
    """The model seeded for text number `number`, and in evaluation mode; both are undone."""
    # Not the `PeftModel` around it, whose `generate` puts its own generation settings into the base for good.
    inner: PreTrainedModel = model if isinstance(model, PreTrainedModel) else model.get_base_model()
    positions = effective_max_length(tokenizer, inner.config)
    speaker = Speaker(inner, tokenizer, settings, sorted(ends or {tokenizer.eos_token_id}), positions)
    with _evaluating(inner), seeded(inner.device, settings.seed + number):
        yield speaker


def generate_ids(
    speaker: Speaker,
    prompts: Sequence[Sequence[int]],
    room: int,
    *,
    penalise_prompt: bool = False,
    streamer: BaseStreamer | None = None,
) -> list[list[int]]:
    """Draw up to `room` tokens after each prompt, all at once; the token that ends a text is the last of it.

    Shorter prompts are padded at their left, so that all go on from the same column; the mask keeps the padding out of
    attention and of the count of positions. A repetition penalty counts the drawn tokens, and those of the prompt only
    under `penalise_prompt`, for which there must be no padding.
    """
    model, penalty = speaker.model, speaker.settings.repetition_penalty
    longest = max(map(len, prompts))
    padding = [longest - len(ids) for ids in prompts]
    rows = [[speaker.tokenizer.pad_token_id] * blank + [*ids] for blank, ids in zip(padding, prompts, strict=True)]
    mask = [[0] * blank + [1] * (longest - blank) for blank in padding]
    unpenalised = 0 if penalise_prompt else longest
    output = model.generate(  # type: ignore[operator]
        torch.tensor(rows, device=model.device),  # (batch, seq)
        attention_mask=torch.tensor(mask, device=model.device),
        generation_config=_generation_config(speaker, room),
        logits_processor=[] if penalty == 1 else [RepetitionPenaltyLogitsProcessor(penalty, unpenalised)],
        streamer=streamer,
    )
    return [_up_to_end(new, speaker.ends) for new in output[:, longest:].tolist()]


def _up_to_end(new: list[int], ends: list[int]) -> list[int]:
    """What stands behind a text's end fills up its row, while others go on."""
    end = next((place for place, token in enumerate(new) if token in ends), len(new))
    return new[: end + 1]


def _generation_config(speaker: Speaker, max_new_tokens: int) -> GenerationConfig:
    tokenizer, settings = speaker.tokenizer, speaker.settings
    sampling: dict[str, float] = {"do_sample": False}
    if settings.temperature > 0:
        sampling = {"do_sample": True, "temperature": settings.temperature, "top_k": settings.top_k or 0}
        sampling |= {} if settings.top_p is None else {"top_p": settings.top_p}
    return GenerationConfig(
        max_new_tokens=max_new_tokens,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=speaker.ends,
        pad_token_id=tokenizer.pad_token_id,
        use_cache=True,
        **sampling,
    )


@contextmanager
def _evaluating(model: PreTrainedModel) -> Iterator[None]:
    """Dropout off, and none of the generation settings that came with the model."""
    training = {module: module.training for module in model.modules()}
    generation_config = model.generation_config
    # What `generate` is not told it takes from here: a published model's top_p or repetition penalty would slip in.
    model.generation_config = GenerationConfig()
    model.eval()
    try:
        yield
    finally:
        model.generation_config = generation_config
        for module, was_training in training.items():
            module.training = was_training


@contextmanager
def seeded(device: torch.device, seed: int) -> Iterator[None]:
    """Seed the generators that sampling draws from and put them back; `torch.manual_seed` would seed every GPU."""
    generators = [torch.default_generator]
    if device.type == "cuda":
        generators.append(torch.cuda.default_generators[device.index or 0])
    states = [generator.get_state() for generator in generators]
    try:
        for generator in generators:
            generator.manual_seed(seed)
        yield
    finally:
        for generator, state in zip(generators, states, strict=True):
            generator.set_state(state)
