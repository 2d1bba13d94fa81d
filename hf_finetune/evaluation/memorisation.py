"""What a model gives away of the rows that it was trained on: planted canaries, and rows continued word for word.

Greedy generation gives a text if and only if each of its tokens is the likeliest after those before it, so that one
pass over the text tells; nothing is generated.
"""

from __future__ import annotations

import copy
import math
import random
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import takewhile
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer

from hf_finetune.data.chat import prepared, training_template
from hf_finetune.data.control_tokens import control_tokens
from hf_finetune.data.turns import ChatProblem, Message
from hf_finetune.errors import ModelError, Problem
from hf_finetune.evaluation.bootstrap import bootstrap_intervals
from hf_finetune.evaluation.canaries import KEY, Canary, random_secret
from hf_finetune.evaluation.language_modeling import IGNORE_INDEX, reduce_logits
from hf_finetune.models.tokenizers import effective_max_length, unknown_pieces

Array = npt.NDArray[np.float64]

# The canary and 1,023 secrets that were never planted: exposure goes up to 10 bits.
SECRETS = 1024
# Of a secret that the model never saw, whose rank is as likely one as another: 1 / ln 2 bits.
UNSEEN_BITS = 1 / math.log(2)

# Of one batch: 256 MiB of logits in single precision, and rows beside which even those are few.
MOST_LOGITS, MOST_ROWS = 2**26, 256


@dataclass(frozen=True, slots=True)
class _Statement:
    """A canary as the model reads it, and where in it the part begins that the model is to say."""

    input_ids: list[int]
    said_from: int


def exposure(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    canaries: Sequence[Canary],
    *,
    secrets: int = SECRETS,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """For each number of copies how well its canaries are known, fewest copies first, JSON-ready.

    `exposure` is a mean over the canaries (Carlini et al., 2019): log2(secrets) - log2(rank), where the planted secret
    is ranked by its loss among `secrets` of which the others were drawn. It is 1.44 bits for a secret that was never
    seen and `most_possible` for one that is likelier than all others. `extracted` is the share that greedy generation
    gives whole: after the user's question, under the chat template, or after the text before the secret.
    Raises `ModelError` where the tokenizer cannot write a canary, or the model does not take one so long.
    """
    asked = any(canary.asked for canary in canaries)
    if asked and not tokenizer.chat_template:
        what = "the canaries are questions, and the model has no chat template to be asked by"
        raise ModelError(Problem(what, "plant and score with those of `corpus canaries --format text`", key=KEY))
    template = training_template(tokenizer) if asked else None
    _check_writable(tokenizer, canaries)
    drawn, bits, given_away = random.Random(seed), [], []
    with _evaluated(model) as inner:
        longest = effective_max_length(tokenizer, inner.config)
        for canary in canaries:
            others = [random_secret(drawn) for _ in range(secrets)]
            others = [canary.secret, *(other for other in others if other != canary.secret)][:secrets]
            statements = _statements(tokenizer, template, canary, others)
            _check_length(statements, longest)
            losses = _row_losses(inner, tokenizer, [each.input_ids for each in statements])
            ahead = (losses[1:] < losses[0]).sum() + (losses[1:] == losses[0]).sum() / 2
            bits.append(math.log2(len(losses)) - math.log2(1 + ahead))
            given_away.append(_says(inner, statements[0]))
    copies = np.array([canary.copies for canary in canaries])
    by_copies = [copies == number for number in sorted({canary.copies for canary in canaries})]
    return [
        {
            "copies": int(copies[group][0]),
            "canaries": int(group.sum()),
            **_mean_exposure(np.array(bits)[group]),
            "most_possible": math.log2(secrets),
            "extracted": float(np.array(given_away)[group].mean()),
        }
        for group in by_copies
    ]


def _mean_exposure(bits: Array) -> dict[str, Any]:
    mean = {"exposure": float(bits.mean())}
    if len(bits) < 2:
        return mean
    found = bootstrap_intervals(lambda weights: {"exposure": bits @ weights / weights.sum(axis=0)}, len(bits))
    return {**mean, "interval": list(found["exposure"])}


def verbatim_share(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    rows_of_ids: Sequence[Sequence[int]],
    prefix: int,
    continuation: int | None = None,
) -> dict[str, Any]:
    """The share of rows whose first `prefix` tokens the model continues, greedily, with the next `continuation` ones.

    `continuation` is as long as the prefix where it is not given. Returns, JSON-ready, how many `rows` are long
    enough, `prefix_tokens`, how many were `continued`, their `share` with a 95 % `interval` (Wilson), and `numbers`,
    which of `rows_of_ids` they are. Share and interval are missing where no row is long enough. Raises `ModelError`
    where the model does not take so many tokens.
    """
    length = prefix + (continuation or prefix)
    numbers = [number for number, ids in enumerate(rows_of_ids) if len(ids) >= length]
    with _evaluated(model) as inner:
        longest = effective_max_length(tokenizer, inner.config)
        if longest is not None and length > longest:
            what = f"{prefix:,} tokens and what follows them are {length:,}, the model takes {longest:,}"
            raise ModelError(Problem(what, f"name {longest // 2:,} at most", key="eval.verbatim_prefix"))
        continued = [
            number
            for some in _parts(numbers, length, inner)
            for number, same in zip(some, _continued(inner, rows_of_ids, some, prefix, length), strict=True)
            if same
        ]
    found = {"rows": len(numbers), "prefix_tokens": prefix, "continued": len(continued), "numbers": continued}
    if not numbers:
        return found
    interval = wilson_interval(len(continued), len(numbers))
    return {**found, "share": len(continued) / len(numbers), "interval": list(interval)}


def wilson_interval(hits: int, rows: int, level: float = 0.95) -> tuple[float, float]:
    """Of the share that `hits` of `rows` are (Wilson, 1927); it has a width even where it is none or all."""
    quantile = NormalDist().inv_cdf((1 + level) / 2)
    share, weight = hits / rows, quantile**2 / rows
    middle = share + weight / 2
    width = quantile * math.sqrt(share * (1 - share) / rows + weight / (4 * rows))
    low, high = (middle - width) / (1 + weight), (middle + width) / (1 + weight)
    return max(0.0, min(low, share)), min(1.0, max(high, share))


def memorisation_words(canaries: Sequence[dict[str, Any]], verbatim: dict[str, Any] | None) -> list[str]:
    """What `exposure` and `verbatim_share` found, in sentences."""
    words = [_exposure_in_words(group) for group in canaries]
    if verbatim is not None:
        rows, prefix = verbatim["rows"], verbatim["prefix_tokens"]
        said = f"no row is long enough to see whether the model goes on from {prefix:,} tokens of it"
        if rows:
            said = f"{verbatim['continued']:,} of {rows:,} rows are continued word for word from {prefix:,} tokens"
        words.append(said)
    return words


def _exposure_in_words(group: dict[str, Any]) -> str:
    bits, most, copies = group["exposure"], group["most_possible"], group["copies"]
    given_away = round(group["extracted"] * group["canaries"])
    low = group.get("interval", [bits])[0]
    known = "known to the model" if given_away or low > UNSEEN_BITS else "like secrets that it never saw"
    times = "once" if copies == 1 else f"{copies:,} times"
    secrets = f"{given_away} of {group['canaries']} given away whole"
    return f"canaries planted {times}: exposure {bits:.1f} of {most:.1f} bits, {secrets}: {known}"


def _check_writable(tokenizer: PreTrainedTokenizerFast, canaries: Sequence[Canary]) -> None:
    texts = (f"{canary.opening} {canary.secret}" for canary in canaries)
    unknown = sorted({piece for text in texts for piece in unknown_pieces(tokenizer, text)})
    if unknown:
        what = f"the tokenizer has never seen {', '.join(map(repr, unknown[:10]))}"
        raise ModelError(Problem(what, "name canaries that were among its training data", key=KEY))


def _check_length(statements: Sequence[_Statement], longest: int | None) -> None:
    length = max(len(statement.input_ids) for statement in statements)
    if longest is not None and length > longest:
        raise ModelError(
            Problem(f"a canary has {length:,} tokens, the model takes {longest:,}", "leave it out", key=KEY)
        )


def _statements(
    tokenizer: PreTrainedTokenizerFast, template: str | None, canary: Canary, secrets: Sequence[str]
) -> list[_Statement]:
    """The canary with each of `secrets`, up to the end of the secret."""
    said = f"{canary.opening} {canary.secret}"
    text, begin, before = said, len(canary.opening), []
    if canary.asked and template is not None:
        turns = zip(("user", "assistant"), (canary.question, said), strict=True)
        messages = [{"role": role, "content": content} for role, content in turns]
        text = _asked(tokenizer, template, messages)
        begin = text.rindex(said)
    elif tokenizer.bos_token_id is not None:
        before = [tokenizer.bos_token_id]
    end = text.rindex(canary.secret) + len(canary.secret)
    texts = [text[: end - len(canary.secret)] + secret + text[end:] for secret in secrets]
    encoded = control_tokens(tokenizer).encode(texts, [[begin, end]] * len(texts))
    statements = []
    for tokens in encoded:
        start, stop = tokens.bounds
        first = bisect_right([token_end for _, token_end in tokens.offsets], start)
        behind = bisect_left([token_begin for token_begin, _ in tokens.offsets], stop)
        statements.append(_Statement([*before, *tokens.ids[:behind]], len(before) + first))
    return statements


def _asked(tokenizer: PreTrainedTokenizerFast, template: str, messages: list[Message]) -> str:
    """A canary's question and answer under the template, which writes the answer as it stands; else `ModelError`."""
    try:
        text = prepared(tokenizer, template, messages, None).text()
    except ChatProblem as problem:
        raise ModelError(Problem(str(problem), "name another data.chat_template", key=KEY)) from problem
    if messages[-1]["content"] not in text:
        what = "the chat template does not write what a canary says"
        raise ModelError(Problem(what, "mend it, or name another data.chat_template", key=KEY))
    return text


def _says(model: PreTrainedModel, statement: _Statement) -> bool:
    ids = torch.tensor([statement.input_ids], device=model.device)
    return bool(_all_right(model, ids, statement.said_from)[0])


def _continued(
    model: PreTrainedModel, rows_of_ids: Sequence[Sequence[int]], numbers: Sequence[int], prefix: int, length: int
) -> list[bool]:
    ids = [list(rows_of_ids[number][:length]) for number in numbers]
    return _all_right(model, torch.tensor(ids, device=model.device), prefix)


def _all_right(model: PreTrainedModel, input_ids: torch.Tensor, start: int) -> list[bool]:
    """Whether each token from `start` on is the likeliest after those before it, for each row: (batch, seq)."""
    labels = input_ids.clone()
    labels[:, :start] = IGNORE_INDEX
    _, right, predicted = reduce_logits(model(input_ids=input_ids, use_cache=False).logits, labels).T
    return [bool(same) for same in (right == predicted).tolist()]


def _parts(numbers: list[int], length: int, model: PreTrainedModel) -> Iterator[list[int]]:
    size = _rows_at_once(length, model)
    yield from (numbers[start : start + size] for start in range(0, len(numbers), size))


def _rows_at_once(length: int, model: PreTrainedModel) -> int:
    vocabulary: int = model.config.get_text_config().vocab_size
    return max(1, min(MOST_ROWS, MOST_LOGITS // (length * vocabulary)))


def _row_losses(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, rows: list[list[int]]) -> Array:
    """Nats of each row but for what all rows begin with, which is read once where the model's cache allows it."""
    first, last = min(rows), max(rows)
    shared = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(first, last, strict=False)))
    past = _read(model, first[: shared - 1]) if shared > 1 else None
    tails = [row[shared - 1 :] if past is not None else row for row in rows]
    size = _rows_at_once(max(map(len, tails)), model)
    losses: list[float] = []
    for start in range(0, len(tails), size):
        some = tails[start : start + size]
        cache = copy.deepcopy(past)
        if cache is not None:
            cache.batch_repeat_interleave(len(some))
        longest = max(map(len, some))
        # Padding comes last, where no token that counts looks at it.
        ids = [tail + [tokenizer.pad_token_id] * (longest - len(tail)) for tail in some]
        labels = [tail + [IGNORE_INDEX] * (longest - len(tail)) for tail in some]
        inputs = torch.tensor(ids, device=model.device)
        logits = model(input_ids=inputs, past_key_values=cache, use_cache=cache is not None).logits
        losses += reduce_logits(logits, torch.tensor(labels, device=model.device))[:, 0].tolist()
    return np.array(losses)


def _read(model: PreTrainedModel, ids: list[int]) -> Cache | None:
    """The cache behind `ids`, where rows can go on from copies of it; None for models that keep another state."""
    past = model(input_ids=torch.tensor([ids], device=model.device), use_cache=True).get("past_key_values")
    repeatable = isinstance(past, DynamicCache) and all(isinstance(layer, DynamicLayer) for layer in past.layers)
    return past if repeatable else None


@contextmanager
def _evaluated(model: PreTrainedModel) -> Iterator[PreTrainedModel]:
    """The model itself, without dropout or gradients, and without a `PeftModel` around it; training goes on after."""
    inner: PreTrainedModel = model if isinstance(model, PreTrainedModel) else model.get_base_model()
    training = {module: module.training for module in inner.modules()}
    inner.eval()
    try:
        with torch.no_grad():
            yield inner
    finally:
        for module, was_training in training.items():
            module.training = was_training
