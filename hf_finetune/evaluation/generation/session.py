"""A causal language model set up for `generate` (eval mode, own generation config, seeded), and restored afterwards."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerFast
from transformers.generation.logits_process import (
    LogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)
from transformers.generation.streamers import BaseStreamer

from hf_finetune.config.sections import EvalSection
from hf_finetune.environment.random_state import keep_random_state
from hf_finetune.errors import NonFiniteError, Problem
from hf_finetune.evaluation.generation.streaming import decode_after
from hf_finetune.evaluation.language_modeling.answers import Answer
from hf_finetune.models.classification_head import unwrap_adapter
from hf_finetune.models.lengths import get_max_length
from hf_finetune.models.verification import round_for_flash
from hf_finetune.models.weights.sharding import bind_to


@dataclass(frozen=True, slots=True)
class GenerationSession:
    """A model that is ready to generate, with its tokenizer and settings."""

    model: PreTrainedModel
    """Without a `PeftModel` around it; its adapter is still active."""
    tokenizer: PreTrainedTokenizerFast
    settings: EvalSection
    eos_token_ids: list[int]
    """Tokens that end a text."""
    max_positions: int | None
    """None where the model has no limit."""
    generate: Callable[..., Any]
    """The model's `generate`, for a model that is split over processes, too."""
    generator: torch.Generator
    """What the next tokens of text number `number` are drawn by."""


def get_eos_token_ids(model: PreTrainedModel) -> list[int]:
    """Return the end tokens of the model's generation config: published chat models list more than their template."""
    own: Any = model.generation_config and model.generation_config.eos_token_id
    return [] if own is None else own if isinstance(own, list) else [own]


@contextmanager
def generation_session(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    settings: EvalSection,
    number: int,
    ends: set[int] | None = None,
) -> Iterator[GenerationSession]:
    """Set up the model to generate text number `number`, seeded with `settings.seed + number`; restore it on exit.

    `ends` are the tokens that end the text, by default the tokenizer's EOS alone.
    """
    # peft 0.21: `PeftModel.generate` assigns its own generation config to the base and leaves it there. `generate` of
    # the base itself runs the adapter layers just the same.
    inner = unwrap_adapter(model)
    positions = get_max_length(tokenizer, inner.config)
    ended_by, generator = sorted(ends or {tokenizer.eos_token_id}), make_generator(settings, number)
    generate: Any = inner.generate  # of a model that is split itself accelerate has bound it
    if inner is not model:
        generate = bind_to(model, generate)
    session = GenerationSession(inner, tokenizer, settings, ended_by, positions, generate, generator)
    # An adapter's base in training has the forward of its class: accelerate rounds the whole model's alone.
    modes = _blank_generation_config(inner), set_eval_mode(inner), keep_random_state(inner.device)
    with modes[0], modes[1], modes[2], round_for_flash(inner):
        yield session


def make_generator(settings: EvalSection, number: int) -> torch.Generator:
    """Make the generator of text number `number`: on the CPU, so that every device draws the same."""
    return torch.Generator().manual_seed(settings.seed + number)


def generate_ids(
    session: GenerationSession,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    *,
    generators: Sequence[torch.Generator] = (),
    penalize_prompt: bool = False,
    streamer: BaseStreamer | None = None,
) -> list[list[int]]:
    """Generate up to `max_new_tokens` tokens after each prompt, as one batch; returns the new ids of each prompt.

    `generators` draws the tokens of each prompt, by default that of the session the tokens of the only one. The token
    that ends a text is the last of its ids. Prompts are padded on the left; the attention mask keeps the
    padding out of attention and out of the position ids. The repetition penalty counts generated tokens, and those of
    the prompt only under `penalize_prompt`, for which there must be no padding. Raises `NonFiniteError` for NaN or
    infinite logits.
    """
    penalty = session.settings.repetition_penalty
    input_ids, attention_mask = _pad_left(session, prompts)
    longest = input_ids.shape[1]
    # Of a chat, the end token of earlier turns would be held down in every answer; without the columns of the prompt
    # the padding, which may be that token, is not counted either: https://github.com/huggingface/transformers/issues/26902
    unpenalized = 0 if penalize_prompt else longest
    output = session.generate(
        input_ids,
        attention_mask=attention_mask,
        generation_config=_make_generation_config(session, max_new_tokens),
        logits_processor=[
            FiniteLogits(),
            *([] if penalty == 1 else [RepetitionPenaltyLogitsProcessor(penalty, unpenalized)]),
            *make_sampler(session.settings, generators or [session.generator]),
        ],
        streamer=streamer,
    )  # (batch, seq + new)
    return [_cut_after_end(new, session.eos_token_ids) for new in output[:, longest:].tolist()]


def predict_next(session: GenerationSession, prompts: Sequence[Sequence[int]]) -> Tensor:
    """Return the logits of the token after each prompt, padded to one batch as by `generate_ids`: (batch, vocab)."""
    input_ids, attention_mask = _pad_left(session, prompts)
    config = GenerationConfig(
        max_new_tokens=1, pad_token_id=session.tokenizer.pad_token_id, output_logits=True, return_dict_in_generate=True
    )
    output: Any = session.generate(input_ids, attention_mask=attention_mask, generation_config=config)
    logits: Tensor = output.logits[0].float()
    return logits


def _pad_left(session: GenerationSession, prompts: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Pad prompts to one batch: ids and attention mask, (batch, longest) each."""
    longest = max(map(len, prompts))
    padding = [longest - len(ids) for ids in prompts]
    pad = session.tokenizer.pad_token_id
    # Prompts [5, 6, 7] and [8]: rows [[5, 6, 7], [pad, pad, 8]], mask [[1, 1, 1], [0, 0, 1]]; new tokens from column 3.
    rows = [[pad] * blank + [*ids] for blank, ids in zip(padding, prompts, strict=True)]
    mask = [[0] * blank + [1] * (longest - blank) for blank in padding]
    device = session.model.device
    return torch.tensor(rows, device=device), torch.tensor(mask, device=device)


def _cut_after_end(new: list[int], eos_token_ids: list[int]) -> list[int]:
    # `generate` pads a finished row while others go on: [4, eos, pad, pad] -> [4, eos].
    end = next((place for place, token in enumerate(new) if token in eos_token_ids), len(new))
    return new[: end + 1]


def decode_answer(session: GenerationSession, prompt: Sequence[int], new: list[int]) -> Answer:
    """Decode what was generated after `prompt`, without the token that ends it."""
    finished = new[-1] in session.eos_token_ids
    return Answer(decode_after(session.tokenizer, prompt, new[:-1] if finished else new), len(new), finished)


class FiniteLogits(LogitsProcessor):
    """Raise `NonFiniteError` where a row has no likeliest token: NaN, infinity, or nothing that may come."""

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """`scores`: (batch, vocab), as they are."""
        # The largest of a row with NaN is NaN. Minus infinity alone is what a model may say of a token.
        if not scores.amax(dim=-1).isfinite().all():
            remedy = "load the model in another precision, train it again, or name another one"
            raise NonFiniteError(Problem("the model's next token has NaN or infinite logits", remedy, code="HF513"))
        return scores


class DrawnTokens(LogitsProcessor):
    """Draw the next token of each row by that row's own generator, and leave it alone possible."""

    # `do_sample` draws the rows of a batch one after the other from one generator, so that what is drawn for a row
    # depends on its place, on the rows beside it, and on how many are answered at once.

    def __init__(self, generators: Sequence[torch.Generator]) -> None:
        self.generators = generators

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """`scores`: (batch, vocab), -inf where a token is not to be drawn; returns them with one token left."""
        # Probabilities [0.2, 0, 0.5, 0.3] end at [0.2, 0.2, 0.7, 1.0]: 0.65 draws the third token, as the first that
        # ends above it. The sum may be 1 but for rounding, and no token of probability 0 is ever the first.
        ends = torch.softmax(scores.float(), dim=-1).cumsum(dim=-1)
        drawn = torch.cat([torch.rand(1, generator=generator) for generator in self.generators])
        places = drawn.to(ends.device)[:, None] * ends[:, -1:]
        tokens = torch.searchsorted(ends, places, right=True).clamp(max=scores.shape[-1] - 1)
        return torch.full_like(scores, -torch.inf).scatter(1, tokens, 0.0)


def make_sampler(settings: EvalSection, generators: Sequence[torch.Generator]) -> list[LogitsProcessor]:
    """Make what turns the logits of each step into a drawn token; [] at temperature 0, where the likeliest is taken."""
    if settings.temperature == 0:
        return []
    steps: list[LogitsProcessor] = [TemperatureLogitsWarper(float(settings.temperature))]
    steps += [TopKLogitsWarper(settings.top_k)] if settings.top_k else []
    steps += [TopPLogitsWarper(settings.top_p)] if settings.top_p is not None else []
    return [*steps, DrawnTokens(generators)]


def _make_generation_config(session: GenerationSession, max_new_tokens: int) -> GenerationConfig:
    tokenizer = session.tokenizer
    return GenerationConfig(
        max_new_tokens=max_new_tokens,
        do_sample=False,  # tokens are drawn by `DrawnTokens`
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=session.eos_token_ids,
        pad_token_id=tokenizer.pad_token_id,
        use_cache=True,
    )


@contextmanager
def _blank_generation_config(model: PreTrainedModel) -> Iterator[None]:
    """Set the model's generation config aside.

    `generate` fills whatever its argument leaves unset from the model's config, so that a published model's top_p or
    repetition penalty would slip in. By design since transformers 4.50, so this stays:
    https://github.com/huggingface/transformers/pull/36684
    """
    generation_config = model.generation_config
    model.generation_config = GenerationConfig()
    try:
        yield
    finally:
        model.generation_config = generation_config


@contextmanager
def set_eval_mode(model: PreTrainedModel) -> Iterator[None]:
    """Put every module into eval mode, and back into its own mode on exit: parts of a model may be frozen in eval."""
    training = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, was_training in training.items():
            module.training = was_training
