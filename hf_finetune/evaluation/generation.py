"""Prompts -> continuations of a causal language model, the same for the same seed and without a trace in the run."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerFast

from hf_finetune.config.sections import EvalSection
from hf_finetune.data.tokenization import encode_documents
from hf_finetune.errors import ModelError, Problem
from hf_finetune.models.tokenizers import effective_max_length, unknown_pieces

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Sample:
    """A prompt and its continuation."""

    prompt: str
    continuation: str
    tokens: int
    """Tokens that were generated, the end token included."""
    finished: bool
    """The model ended the text itself; otherwise `max_new_tokens` did."""
    prompt_tokens_cut: int
    """Tokens at the start of the prompt for which the model has no position."""
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
    with _evaluating(model):
        for index, prompt in enumerate(prompts):
            with _seeded(model.device, settings.seed + index):
                samples.append(_continue(model, tokenizer, prompt, settings, settings.seed + index))
    return samples


def check_prompts(tokenizer: PreTrainedTokenizerFast, prompts: Sequence[str]) -> None:
    """Raise `ModelError`, naming all pieces of all prompts, where the tokenizer cannot write a prompt."""
    problems = []
    for index, prompt in enumerate(prompts):
        unknown = _surrogates(prompt) or unknown_pieces(tokenizer, prompt)
        if unknown:
            what = f"the tokenizer has never seen {', '.join(_named(piece) for piece in unknown)}"
            problems.append(Problem(what, "leave it out of the prompt", key=f"eval.prompts[{index}]"))
    if problems:
        raise ModelError(problems)


def _surrogates(text: str) -> list[str]:
    # What Python makes of bytes on a command line that are not UTF-8; no tokenizer takes it.
    return sorted({character for character in text if "\ud800" <= character <= "\udfff"})


def _named(piece: str) -> str:
    return f"{piece!r} (U+{ord(piece):04X})" if len(piece) == 1 else repr(piece)


def _continue(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, prompt: str, settings: EvalSection, seed: int
) -> Sample:
    ids = encode_documents(tokenizer, [prompt])[0]
    if tokenizer.bos_token_id is not None:
        ids = [tokenizer.bos_token_id, *ids]
    # Without a begin token a document follows the end of another.
    ids = ids or [tokenizer.eos_token_id]
    positions = effective_max_length(tokenizer, model.config)
    cut = 0 if positions is None else max(0, len(ids) - (positions - 1))
    if cut:
        logger.warning("a prompt of %d tokens does not fit %d positions: %d are cut", len(ids), positions, cut)
    new = _generate(model, tokenizer, ids[cut:], settings, positions)
    finished = new[-1] == tokenizer.eos_token_id
    written = str(tokenizer.decode(ids + (new[:-1] if finished else new)))
    return Sample(
        prompt=prompt,
        # Not the new tokens by themselves: some decoders drop the space before the first word of a text.
        continuation=written[len(tokenizer.decode(ids)) :],
        tokens=len(new),
        finished=finished,
        prompt_tokens_cut=cut,
        seed=seed,
    )


def _generate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    window: list[int],
    settings: EvalSection,
    positions: int | None,
) -> list[int]:
    new: list[int] = []
    while len(new) < settings.max_new_tokens:
        room = settings.max_new_tokens - len(new)
        if positions is not None:
            room = min(room, positions - len(window))
        input_ids = torch.tensor([window], device=model.device)  # (1, seq)
        output = model.generate(  # type: ignore[operator]
            input_ids,
            attention_mask=torch.ones_like(input_ids),
            generation_config=_generation_config(tokenizer, settings, room),
        )
        step = output[0, len(window) :].tolist()
        new += step
        if step[-1] == tokenizer.eos_token_id:
            break
        if positions is not None:
            window = [*window, *step][-max(1, positions // 2) :]
    return new


def _generation_config(
    tokenizer: PreTrainedTokenizerFast, settings: EvalSection, max_new_tokens: int
) -> GenerationConfig:
    sampling: dict[str, float] = {"do_sample": False}
    if settings.temperature > 0:
        sampling = {"do_sample": True, "temperature": settings.temperature, "top_k": settings.top_k or 0}
    return GenerationConfig(
        max_new_tokens=max_new_tokens,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
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
def _seeded(device: torch.device, seed: int) -> Iterator[None]:
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
