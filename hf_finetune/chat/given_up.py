"""A text that the tokenizer gives up on, found among those that it was given: its row can be named then."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext

from tokenizers import Encoding, Tokenizer

from hf_finetune.environment.progress_lines import say_while
from hf_finetune.errors import RUST_PANIC, DataError, ModelError, Problem

LONG = 500_000
"""Characters, which take a second or more where a machine has other work."""
REMEDY = "shorten what repeats in it, or use another tokenizer"


class TextGivenUp(ModelError):
    """The tokenizer gave up on text number `number` of those that it was given at once."""

    def __init__(self, number: int, why: str) -> None:
        super().__init__(Problem(f"the tokenizer gives up on a text ({why})", REMEDY, code="HF122"))
        self.number = number


def encode_batch(tokenizer: Tokenizer, texts: Sequence[str], *, offsets: bool = True) -> list[Encoding]:
    """Tokenize texts, without special tokens around them: (tokens,) per text. Raises `TextGivenUp`.

    Without `offsets`, which take a tenth of the time, it is not known for which characters each token stands.

    Oniguruma, which matches the patterns of a tokenizer.json, ends by a panic of Rust on a text for which it would go
    back ten million times.
    """
    try:
        encode = tokenizer.encode_batch if offsets else tokenizer.encode_batch_fast
        with say_tokenizing(sum(map(len, texts))):
            encodings: list[Encoding] = encode(texts, add_special_tokens=False)
        return encodings
    except BaseException as raised:
        if type(raised).__module__ != RUST_PANIC:
            raise
        if len(texts) == 1:
            raise TextGivenUp(0, str(raised)[:200]) from raised
    middle = len(texts) // 2
    encoded = encode_batch(tokenizer, texts[:middle], offsets=offsets)
    try:
        return [*encoded, *encode_batch(tokenizer, texts[middle:], offsets=offsets)]
    except TextGivenUp as fault:
        fault.number += middle
        raise


def say_tokenizing(size: int) -> AbstractContextManager[None]:
    """Say from time to time that so many characters are tokenized, where they are many."""
    return say_while(f"tokenizing {size:,} characters at once") if size > LONG else nullcontext()


@contextmanager
def name_rows(locate: Callable[[int], tuple[str, int | None]]) -> Iterator[None]:
    """Raise `DataError` with the row of a text that the tokenizer gives up on; `locate` is given the text's number."""
    try:
        yield
    except TextGivenUp as fault:
        path, line = locate(fault.number)
        [problem] = fault.problems
        raise DataError(Problem(problem.what, problem.remedy, path, line, code=problem.code)) from fault


def name_row(path: str, line: int) -> AbstractContextManager[None]:
    """As `name_rows`, for a single row."""
    return name_rows(lambda _: (path, line))
