"""All codes."""

from __future__ import annotations

from hf_finetune.codes.code import Code
from hf_finetune.codes.evaluation import EVALUATION
from hf_finetune.codes.exports import EXPORTS
from hf_finetune.codes.hub import HUB, SERVING
from hf_finetune.codes.lengths import LENGTHS
from hf_finetune.codes.machine import MACHINE
from hf_finetune.codes.models import MODELS
from hf_finetune.codes.rows import PERSONAL, ROWS
from hf_finetune.codes.run_file import RUN_FILE
from hf_finetune.codes.sources import SOURCES
from hf_finetune.codes.splits import DUPLICATES, SPLITS
from hf_finetune.codes.templates import TEMPLATES
from hf_finetune.codes.training import TRAINING

CODES: dict[str, Code] = {
    **ROWS,
    **SOURCES,
    **LENGTHS,
    **TEMPLATES,
    **DUPLICATES,
    **EVALUATION,
    **SPLITS,
    **PERSONAL,
    **MODELS,
    **RUN_FILE,
    **MACHINE,
    **HUB,
    **SERVING,
    **TRAINING,
    **EXPORTS,
}
