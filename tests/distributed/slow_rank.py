"""A process of a run that is about to be hurt: its recipe, under a strategy of matrix.py, with steps that take a while.

`recipes/sft.py` of the folder that lost_runs.py starts its runs in is one line that calls `be_a_rank`, so that every
launcher starts it as it starts the recipe.
"""

from __future__ import annotations

import os
import runpy
import sys
import time
from pathlib import Path
from typing import Any

from distributed.engines_on_cpu import allow_fsdp_on_cpu
from distributed.matrix import READ, ROOT, STRATEGIES

from hf_finetune import ranks
from hf_finetune.errors import DataError, Problem, user_errors
from hf_finetune.training.trainers.base import TrainerMixin

SECONDS_OF_A_STEP = 0.1


def be_a_rank() -> None:
    """Run the recipe; STRATEGY names the strategy, RECORD a folder for the process id, REFUSES rank and step.

    SILENCE: the seconds after which a machine is taken for gone.
    """
    record, rank = Path(os.environ["RECORD"]), os.environ["RANK"]
    aside = record / f"{rank}.aside"
    aside.write_text(str(os.getpid()))
    aside.rename(record / rank)
    for name in [name for name in os.environ if name.startswith(READ)]:
        del os.environ[name]
    os.environ.update(STRATEGIES[os.environ["STRATEGY"]])
    ranks.SECONDS_OF_SILENCE = int(os.environ.get("SILENCE", ranks.SECONDS_OF_SILENCE))
    allow_fsdp_on_cpu()
    slow_down(os.environ.get("REFUSES", ""), rank)
    with user_errors():
        runpy.run_path(str(ROOT / "recipes/sft.py"))["main"](sys.argv[1:])


def slow_down(refuses: str, rank: str) -> None:
    step = TrainerMixin.training_step

    def stepped(self: Any, *args: Any, **kwargs: Any) -> Any:
        time.sleep(SECONDS_OF_A_STEP)
        if refuses == f"{rank}:{self.state.global_step}":
            raise DataError(Problem("rows.jsonl: made by a test", "mend it", code="HF001"))
        return step(self, *args, **kwargs)

    TrainerMixin.training_step = stepped  # type: ignore[method-assign]
