"""Run tasks of EleutherAI's lm-evaluation-harness: https://github.com/EleutherAI/lm-evaluation-harness"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerFast

from hf_finetune.errors import ConfigError, Problem
from hf_finetune.models.classification_head import unwrap_adapter

logger = logging.getLogger(__name__)


def run_harness(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, tasks: Sequence[str], batch_size: int
) -> dict[str, dict[str, float]]:
    """Run each task, a name that the harness knows or a YAML file; returns its metrics and their standard errors.

    The tasks that come with the harness fetch their data from the Hub. Raises `ConfigError` for unknown tasks.
    """
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    folders = sorted({str(Path(task).parent) for task in tasks if task.endswith((".yaml", ".yml"))})
    manager = TaskManager(include_path=folders or None)
    names = [_read_task_name(task) for task in tasks]
    unknown = [name for name in names if name not in manager.all_tasks]
    if unknown:
        remedy = "name one of `lm-eval ls tasks`, or a YAML file of a task"
        raise ConfigError(
            [Problem(f"the harness has no task {name}", remedy, key="eval.harness", code="HF326") for name in unknown]
        )
    subject = HFLM(pretrained=unwrap_adapter(model), tokenizer=tokenizer, batch_size=batch_size)
    found = simple_evaluate(model=subject, tasks=names, task_manager=manager)
    return {name: _select_metrics(found["results"][name]) for name in names}


def _read_task_name(task: str) -> str:
    if not task.endswith((".yaml", ".yml")):
        return task
    from hf_finetune.config.reading.yaml_reader import read_document

    return str(read_document(task).values.get("task", Path(task).stem))


def _select_metrics(results: Mapping[str, Any]) -> dict[str, float]:
    """Drop the filter `none` from the names, `acc,none` -> `acc`, and entries that are no metrics."""
    return {name.removesuffix(",none"): float(value) for name, value in results.items() if "," in name}
