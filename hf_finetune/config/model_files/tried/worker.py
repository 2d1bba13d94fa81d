"""The process that tries patterns of others with the engine that will match them, within limits of its own.

It is given a list of patterns on standard input, in JSON, and answers each with a line: null for one whose time grows
with the text, else what is wrong with it. It may die of a pattern, or be stopped, and then it was that one.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterable

from tokenizers import Regex
from tokenizers.normalizers import Replace

from hf_finetune.config.model_files.tried.limits import MEMORY, PROCESSOR_SECONDS
from hf_finetune.config.model_files.tried.oniguruma import Unreadable, read_pattern
from hf_finetune.config.model_files.tried.worst_texts import Filling, fill, list_fillings

try:
    import resource
except ImportError:  # Windows: the clock of the parent alone ends it there
    resource = None  # type: ignore[assignment]

FIRST, SHORT, LONG = 200, 1_000, 8_000
"""Characters. Published patterns take 0.05, 0.3 and 2 ms for them, quadratic ones 0.05, 1 and 80."""
TOO_SLOW = 0.005
"""Seconds of the first, where nothing longer needs to be tried; the long text is not compared below that."""
DOUBTFUL = 0.001
"""Seconds of the second, above which it is compared at once."""
SHORTEST = 1e-5
MOST_GROWTH = 3.0
"""By how much a character of the long text may take longer than one of the short: 1 where time is linear, 8 where it
is quadratic."""
MOST_PER_CHARACTER = 25e-6
SLOWEST = 8
FULL_PANEL = "".join(map(chr, (*range(0xD800), *range(0xE000, 0x10000))))


def judge(pattern: str) -> str | None:
    """Say what is wrong with a pattern; None where its time is linear on every text that was made for it."""
    try:
        engine = Replace(Regex(pattern), "")
    except Exception as problem:
        return f"is no regular expression ({problem})"
    try:
        readable = read_pattern(pattern, _find_members)
        fillings = list_fillings(readable.pattern, 0, readable.pieces, readable.ends)
    except Unreadable as problem:
        return f"has {problem}"
    except Exception as problem:  # what `re` does not read: a part that is repeated twice, groups thousands deep
        return f"cannot be read ({problem})"
    return _find_growth(engine.normalize_str, fillings)


def _find_growth(match: Callable[[str], object], fillings: Iterable[Filling]) -> str | None:
    screened = []
    for filling in fillings:
        if (taken := _measure(match, fill(filling, FIRST), TOO_SLOW)) > TOO_SLOW:
            return f"takes {_name_seconds(taken)} for {FIRST} characters"
        taken = _measure(match, fill(filling, SHORT), DOUBTFUL)
        if taken > DOUBTFUL and (what := _compare_lengths(match, filling, taken)) is not None:
            return what
        screened.append((taken, filling))
    found = (_compare_lengths(match, filling, taken) for taken, filling in sorted(screened, reverse=True)[:SLOWEST])
    return next((what for what in found if what is not None), None)


def _compare_lengths(match: Callable[[str], object], filling: Filling, taken: float) -> str | None:
    """Say so where the long text takes longer than the short one, of which `taken` is known, lets expect."""
    if taken > MOST_PER_CHARACTER * SHORT:
        return f"takes {_name_seconds(taken)} for {SHORT:,} characters"
    short = max(min(taken, *(_measure(match, fill(filling, SHORT), 0) for _ in range(2))), SHORTEST)
    long = _measure(match, fill(filling, LONG), TOO_SLOW)
    if long > 2 * TOO_SLOW and long > MOST_GROWTH * short * LONG / SHORT:
        return f"takes {long / short:.0f} times as long for a text {LONG // SHORT} times as long"
    if long > MOST_PER_CHARACTER * LONG:
        return f"takes {_name_seconds(long)} for {LONG:,} characters"
    return None


def _measure(match: Callable[[str], object], text: str, doubtful: float) -> float:
    """Seconds of the processor that a text takes, the lower of two where the first were more than `doubtful`."""
    # Of the thread: under a limit of processor time Linux counts that of a process in ticks of 4 ms.
    start = time.thread_time()
    try:
        match(text)
    except BaseException:  # Oniguruma gives up, by a panic of Rust: it has gone back ten million times
        return float("inf")
    taken = time.thread_time() - start
    return min(taken, _measure(match, text, float("inf"))) if taken > doubtful else taken


def _name_seconds(seconds: float) -> str:
    return "more time than there is" if seconds == float("inf") else f"{seconds:.2f} s"


def _find_members(part: str, characters: str) -> str:
    """Those of `characters` that a part of a pattern matches; one of all that there are where it is none of them."""
    taken_out = Replace(Regex(part), "")
    found = set(characters) - set(taken_out.normalize_str(characters))
    if not found:
        left = set(taken_out.normalize_str(FULL_PANEL))
        found = {next((each for each in FULL_PANEL if each not in left), "")} - {""}
    return "".join(sorted(found, key=(characters + "".join(found)).index))


def limit_process() -> None:
    """Bound the memory and the processor time of this process, where the system can."""
    if resource is None:
        return
    for kind, most in (
        (resource.RLIMIT_AS, MEMORY),
        (resource.RLIMIT_CPU, PROCESSOR_SECONDS),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 0),
    ):
        hard = resource.getrlimit(kind)[1]
        resource.setrlimit(kind, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))


def main() -> None:
    """Answer the patterns on standard input, each as it is judged."""
    patterns = json.load(sys.stdin)
    limit_process()
    for pattern in patterns:
        sys.stdout.write(json.dumps(judge(pattern)) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
