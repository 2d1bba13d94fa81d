"""Memorization: canary exposure and verbatim continuation of training rows.

Greedy decoding produces a text if and only if each of its tokens is the argmax after those before it, which a single
forward pass over the text tells: nothing is generated.
"""

from __future__ import annotations

import copy
import math
import random
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy.special import gammaincc
from transformers import PreTrainedModel, PreTrainedTokenizerFast
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer

from hf_finetune.chat.assistant_mask import ChatTemplateError
from hf_finetune.chat.neutral import check_control_tokens
from hf_finetune.chat.rendering import Message
from hf_finetune.chat.special_tokens import get_control_tokens
from hf_finetune.chat.template import get_training_template, prepare_chat
from hf_finetune.data.corpora.canaries import KEY, Canary, draw_secret
from hf_finetune.data.tokenization.text import IGNORE_INDEX
from hf_finetune.errors import ModelError, Problem
from hf_finetune.evaluation.generation.session import set_eval_mode
from hf_finetune.evaluation.language_modeling.trainer_metrics import reduce_logits
from hf_finetune.evaluation.statistics.intervals import compute_intervals, compute_wilson_interval
from hf_finetune.metric_info import ALPHA
from hf_finetune.models.classification_head import unwrap_adapter
from hf_finetune.models.lengths import get_max_length
from hf_finetune.models.tokenizers import find_unknown_pieces

Array = npt.NDArray[np.float64]

# The planted secret and 1,023 others: exposure is at most log2(1024) = 10 bits, for rank 1; rank 512 is 1 bit.
NUM_SECRETS = 1024

# Limits of one batch: 256 MiB of float32 logits, and a number of rows for small vocabularies.
MAX_LOGITS, MAX_ROWS = 2**26, 256


@dataclass(frozen=True, slots=True)
class _Statement:
    """A canary as the model reads it."""

    input_ids: list[int]
    answer_start: int
    """Position of the first token that the model would have to generate."""


def compute_exposure(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    canaries: Sequence[Canary],
    *,
    secrets: int = NUM_SECRETS,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Compute the exposure of the canaries, JSON-ready: one entry for each number of copies, fewest copies first.

    `exposure` is a mean over the canaries (Carlini et al., 2019): log2(secrets) - log2(rank), where the planted secret
    is ranked by its loss among `secrets`, the others of which are random. It is 1.44 bits for a secret that was never
    seen and `most_possible` for one that is likelier than all others. `extracted` is the share that greedy decoding
    produces in full: after the user's question, under the chat template, or after the text before the secret.
    Raises `ModelError` if the model has no chat template for canaries that are questions, if the tokenizer cannot
    encode a canary, or if one is longer than the model takes.
    """
    template = _find_template(tokenizer, canaries)
    _check_writable(tokenizer, canaries)
    generator, bits, extracted = random.Random(seed), [], []
    inner = unwrap_adapter(model)
    with set_eval_mode(inner), torch.no_grad():
        longest = get_max_length(tokenizer, inner.config)
        for canary in canaries:
            others = [draw_secret(generator) for _ in range(secrets)]
            others = [canary.secret, *(other for other in others if other != canary.secret)][:secrets]
            statements = _encode_statements(tokenizer, template, canary, others)
            _check_length(statements, longest)
            losses = _compute_losses(inner, tokenizer, [each.input_ids for each in statements])
            # Ties count half: a model that gives every secret the same loss ranks the planted one in the middle.
            ahead = (losses[1:] < losses[0]).sum() + (losses[1:] == losses[0]).sum() / 2
            bits.append(math.log2(len(losses)) - math.log2(1 + ahead))
            planted = torch.tensor([statements[0].input_ids], device=inner.device)
            extracted += _match_argmax(inner, planted, statements[0].answer_start)
    copies = np.array([canary.copies for canary in canaries])
    by_copies = [copies == number for number in sorted({canary.copies for canary in canaries})]
    return [
        {
            "copies": int(copies[group][0]),
            "canaries": int(group.sum()),
            **_average_exposure(np.array(bits)[group]),
            "most_possible": math.log2(secrets),
            "extracted": float(np.array(extracted)[group].mean()),
        }
        for group in by_copies
    ]


def _average_exposure(bits: Array) -> dict[str, Any]:
    """`bits`: (canaries,). Return their mean, its p-value, and an interval where there are canaries enough.

    The rank of a secret that was never seen is uniform, so that its bits are exponentially distributed with the mean
    1 / ln 2, and their sum over the canaries has a gamma distribution.
    """
    # One canary of 4.3 bits is among the best 51 of 1,024: p = 0.05. Two need 3.4 bits each.
    mean = {"exposure": float(bits.mean()), "p_value": float(gammaincc(len(bits), bits.sum() * math.log(2)))}
    found = compute_intervals(lambda weights: {"exposure": bits @ weights / weights.sum(axis=0)}, len(bits))
    return mean | ({"interval": found["intervals"]["exposure"]} if "exposure" in found["intervals"] else {})


def measure_verbatim(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    rows_of_ids: Sequence[Sequence[int]],
    prefix: int,
    continuation: int | None = None,
) -> dict[str, Any]:
    """Measure the share of rows whose first `prefix` tokens greedy decoding continues with the next `continuation`.

    `continuation` defaults to `prefix`. Returns, JSON-ready, how many `rows` are long enough, `prefix_tokens`, how many
    rows were `continued`, their `share` with a 95 % `interval` (Wilson), and `numbers`, their indices in `rows_of_ids`.
    Share and interval are missing if no row is long enough. Raises `ModelError` if the model does not take so many
    tokens.
    """
    length = prefix + (continuation or prefix)
    numbers = [number for number, ids in enumerate(rows_of_ids) if len(ids) >= length]
    inner = unwrap_adapter(model)
    longest = get_max_length(tokenizer, inner.config)
    if longest is not None and length > longest:
        what = f"{prefix:,} tokens and what follows them are {length:,}, the model takes {longest:,}"
        raise ModelError(Problem(what, f"name {longest // 2:,} at most", key="eval.verbatim_prefix", code="HF355"))
    size = _limit_rows(length, inner)
    continued: list[int] = []
    with set_eval_mode(inner), torch.no_grad():
        for start in range(0, len(numbers), size):
            batch = numbers[start : start + size]
            ids = torch.tensor([list(rows_of_ids[number][:length]) for number in batch], device=inner.device)
            continued += [number for number, same in zip(batch, _match_argmax(inner, ids, prefix), strict=True) if same]
    found = {"rows": len(numbers), "prefix_tokens": prefix, "continued": len(continued), "numbers": continued}
    if not numbers:
        return found
    share = len(continued) / len(numbers)
    return {**found, "share": share, "interval": list(compute_wilson_interval(share, len(numbers)))}


def describe_memorization(canaries: Sequence[dict[str, Any]], verbatim: dict[str, Any] | None) -> list[str]:
    """Describe the results of `compute_exposure` and `measure_verbatim` in sentences."""
    words = [_describe_exposure(group, tested=len(canaries)) for group in canaries]
    if verbatim is not None:
        rows, prefix = verbatim["rows"], verbatim["prefix_tokens"]
        said = f"no row is long enough to see whether the model goes on from {prefix:,} tokens of it"
        if rows:
            said = f"{verbatim['continued']:,} of {rows:,} rows are continued word for word from {prefix:,} tokens"
        words.append(said)
    return words


def _describe_exposure(group: dict[str, Any], tested: int) -> str:
    """Say whether a group of canaries is known, as one of `tested` groups (Bonferroni)."""
    bits, most, copies = group["exposure"], group["most_possible"], group["copies"]
    given_away = round(group["extracted"] * group["canaries"])
    seen = given_away or group["p_value"] <= ALPHA / tested
    known = "known to the model" if seen else "like secrets that it never saw"
    times = "once" if copies == 1 else f"{copies:,} times"
    secrets = f"{given_away} of {group['canaries']} given away whole"
    return f"canaries planted {times}: exposure {bits:.1f} of {most:.1f} bits, {secrets}: {known}"


def _find_template(tokenizer: PreTrainedTokenizerFast, canaries: Sequence[Canary]) -> str | None:
    """Return the chat template of canaries that are questions, else None; raises `ModelError` where there is none."""
    if not any(canary.asked for canary in canaries):
        return None
    if not tokenizer.chat_template:
        what = "the canaries are questions, and the model has no chat template to be asked by"
        remedy = "plant and score with those of `corpus canaries --format text`"
        raise ModelError(Problem(what, remedy, key=KEY, code="HF352"))
    return get_training_template(tokenizer)


def _check_writable(tokenizer: PreTrainedTokenizerFast, canaries: Sequence[Canary]) -> None:
    texts = (f"{canary.opening} {canary.secret}" for canary in canaries)
    unknown = sorted({piece for text in texts for piece in find_unknown_pieces(tokenizer, text)})
    if unknown:
        what = f"the tokenizer has never seen {', '.join(map(repr, unknown[:10]))}"
        raise ModelError(Problem(what, "name canaries that were among its training data", key=KEY, code="HF353"))


def _check_length(statements: Sequence[_Statement], longest: int | None) -> None:
    length = max(len(statement.input_ids) for statement in statements)
    if longest is not None and length > longest:
        raise ModelError(
            Problem(
                f"a canary has {length:,} tokens, the model takes {longest:,}", "leave it out", key=KEY, code="HF355"
            )
        )


def _encode_statements(
    tokenizer: PreTrainedTokenizerFast, template: str | None, canary: Canary, secrets: Sequence[str]
) -> list[_Statement]:
    """Encode the canary with each of `secrets` in place of its own, up to the end of the secret.

    "The code of the vault Bodiga is 1 2 3 4 5 6": `answer_start` is the first token behind "is". In a chat it is the
    first token of the assistant's turn.
    """
    statement = f"{canary.opening} {canary.secret}"
    text, begin, before = statement, len(canary.opening), []
    if canary.asked and template is not None:
        turns = zip(("user", "assistant"), (canary.question, statement), strict=True)
        messages = [{"role": role, "content": content} for role, content in turns]
        text = _render_canary(tokenizer, template, messages)
        begin = text.rindex(statement)
    elif tokenizer.bos_token_id is not None:
        before = [tokenizer.bos_token_id]
    end = text.rindex(canary.secret) + len(canary.secret)
    texts = [text[: end - len(canary.secret)] + secret + text[end:] for secret in secrets]
    encoded = get_control_tokens(tokenizer).encode(texts, [[begin, end]] * len(texts))
    statements = []
    for tokens in encoded:
        # A token may straddle a bound (" is 1"): the first token is the one that ends behind `begin`, and
        # the last the one that begins before `end`. offsets [(0, 3), (3, 7), (7, 9)], bounds 4 and 8: tokens 1 and 2.
        start, stop = tokens.bounds
        numbers = range(len(tokens.ids))
        first = bisect_right(numbers, start, key=lambda token: tokens.find_characters(token)[1])
        behind = bisect_left(numbers, stop, key=lambda token: tokens.find_characters(token)[0])
        statements.append(_Statement([*before, *tokens.ids[:behind]], len(before) + first))
    return statements


def _render_canary(tokenizer: PreTrainedTokenizerFast, template: str, messages: list[Message]) -> str:
    """Render a canary in a chat; raises `ModelError` where the template does not write its answer as it is."""
    try:
        chat = prepare_chat(tokenizer, template, messages, None)
        text = chat.text()
        [fault] = check_control_tokens([chat])
        if fault is not None:
            raise fault
    except ChatTemplateError as problem:
        raise ModelError(
            Problem(str(problem), "name another data.chat_template", key=KEY, code=problem.code)
        ) from problem
    if messages[-1]["content"] not in text:
        what = "the chat template does not write what a canary says"
        raise ModelError(Problem(what, "mend it, or name another data.chat_template", key=KEY, code="HF142"))
    return text


def _match_argmax(model: PreTrainedModel, input_ids: torch.Tensor, start: int) -> list[bool]:
    """For each row of `input_ids`, (batch, seq), whether every token from `start` on is the argmax of its position.

    [5, 6, 7, 8] with `start` 2: True if greedy decoding gives 7 after [5, 6], and 8 after [5, 6, 7].
    """
    labels = input_ids.clone()
    labels[:, :start] = IGNORE_INDEX
    _, correct, predicted = reduce_logits(model(input_ids=input_ids, use_cache=False).logits, labels).T  # (batch,) each
    return [bool(same) for same in (correct == predicted).tolist()]


def _limit_rows(length: int, model: PreTrainedModel) -> int:
    """Return how many rows of `length` tokens make a batch."""
    vocabulary: int = model.config.get_text_config().vocab_size
    return max(1, min(MAX_ROWS, MAX_LOGITS // (length * vocabulary)))


def _compute_losses(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, rows: list[list[int]]) -> Array:
    """Compute the loss of each row in nats, (rows,), up to a constant: that of the prefix that all rows share.

    The prefix is read once, where the model's cache can be repeated for a batch.
    """
    # Rows [1, 2, 3, 4] and [1, 2, 3, 5, 6] share 3 tokens: [1, 2] goes into the cache, and the tails are [3, 4] and
    # [3, 5, 6], since the loss of the token after 3 needs the logits at 3. Of sorted rows, the first and last share
    # the least.
    first, last = min(rows), max(rows)
    shared = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(first, last, strict=False)))
    past = _fill_cache(model, first[: shared - 1]) if shared > 1 else None
    tails = [row[shared - 1 :] if past is not None else row for row in rows]
    size = _limit_rows(max(map(len, tails)), model)
    losses: list[float] = []
    for start in range(0, len(tails), size):
        batch = tails[start : start + size]
        cache = copy.deepcopy(past)  # a forward pass appends to the cache that it is given
        if cache is not None:
            cache.batch_repeat_interleave(len(batch))
        longest = max(map(len, batch))
        # Right padding needs no attention mask: under causal attention no token that counts sees it.
        ids = [tail + [tokenizer.pad_token_id] * (longest - len(tail)) for tail in batch]
        labels = [tail + [IGNORE_INDEX] * (longest - len(tail)) for tail in batch]
        inputs = torch.tensor(ids, device=model.device)
        logits = model(input_ids=inputs, past_key_values=cache, use_cache=cache is not None).logits
        losses += reduce_logits(logits, torch.tensor(labels, device=model.device))[:, 0].tolist()
    return np.array(losses)


def _fill_cache(model: PreTrainedModel, ids: list[int]) -> Cache | None:
    """Return the key-value cache after `ids`, or None if the model keeps a state that is not one (Mamba)."""
    past = model(input_ids=torch.tensor([ids], device=model.device), use_cache=True).get("past_key_values")
    repeatable = isinstance(past, DynamicCache) and all(isinstance(layer, DynamicLayer) for layer in past.layers)
    return past if repeatable else None
