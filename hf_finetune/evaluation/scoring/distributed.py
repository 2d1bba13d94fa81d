"""Work distributed over the processes of a launch; its results do not depend on their number."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from accelerate import PartialState
from accelerate.utils import gather_object

from hf_finetune.environment.progress_lines import ProgressLines

Item = TypeVar("Item")
Result = TypeVar("Result")


def distribute_work(
    batches: Sequence[list[Item]], work: Callable[[list[Item]], list[Result]], what: str
) -> list[Result]:
    """Apply `work` to every batch; each process does its share of the batches, and all get all results.

    The results come in any order, so each must say which item it is of. `what` is counted in the log, as
    `rows scored`.
    """
    # The batches are those of a single process: rounding makes the logits of a row depend on the rows it is padded
    # with. 5 batches, 2 processes: one does 0, 2 and 4, the other 1 and 3.
    state = PartialState()
    mine = batches[state.process_index :: state.num_processes]
    results: list[Result] = []
    progress, done = ProgressLines(what, sum(map(len, mine))), 0
    for batch in mine:
        results += work(batch)
        done += len(batch)
        progress.log_if_due(done)
    gathered: list[Any] = gather_object(results) if state.num_processes > 1 else results
    return gathered
