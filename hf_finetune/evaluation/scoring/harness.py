"""Tasks of EleutherAI's lm-evaluation-harness, where it is installed: https://github.com/EleutherAI/lm-evaluation-harness"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerFast

from hf_finetune.errors import ConfigError, Problem

logger = logging.getLogger(__name__)


def harness_scores(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, tasks: Sequence[str], batch_size: int
) -> dict[str, dict[str, float]]:
    """For each task its figures and their standard errors; a task is a name that the harness knows, or a YAML file.

    Tasks that the harness ships fetch their data from the Hub. Raises `ConfigError` for a task that there is none of.
    """
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    folders = sorted({str(Path(task).parent) for task in tasks if task.endswith((".yaml", ".yml"))})
    manager = TaskManager(include_path=folders or None)
    names = [_task_name(task) for task in tasks]
    unknown = [name for name in names if name not in manager.all_tasks]
    if unknown:
        remedy = "name one of `lm-eval ls tasks`, or a YAML file of a task"
        raise ConfigError([Problem(f"the harness has no task {name}", remedy, key="eval.harness") for name in unknown])
    inner = model if isinstance(model, PreTrainedModel) else model.get_base_model()
    subject = HFLM(pretrained=inner, tokenizer=tokenizer, batch_size=batch_size)
    found = simple_evaluate(model=subject, tasks=names, task_manager=manager)
    return {name: _figures(found["results"][name]) for name in names}


def _task_name(task: str) -> str:
    if not task.endswith((".yaml", ".yml")):
        return task
    from hf_finetune.config.yaml_lines import read_document

    return str(read_document(task).values.get("task", Path(task).stem))


def _figures(results: Mapping[str, Any]) -> dict[str, float]:
    """`acc` and `acc_stderr`, which the harness calls `acc,none` and `acc_stderr,none`."""
    return {name.removesuffix(",none"): float(value) for name, value in results.items() if "," in name}
