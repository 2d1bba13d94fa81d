"""Fine-tuning for the Hugging Face stack in which nothing is silent.

    import hf_finetune as hf
    result = hf.train("run.yaml", train={"max_steps": 50})

`train`, `score`, `predict` and `generate` are those of `hf_finetune.api`; each room's `__init__` names what it offers.
"""

from __future__ import annotations

import logging
import os
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING

import hf_finetune.interruption  # noqa: F401  (first: a signal may come while the rest is imported)

# isort: split
import wrapt

from hf_finetune.environment.threads import set_up_threads
from hf_finetune.environment.versions import __version__
from hf_finetune.lazy_imports import import_lazily

if TYPE_CHECKING:
    from hf_finetune.api import RunResult, generate, predict, score, train
    from hf_finetune.errors import FinetuneError

__all__ = ["FinetuneError", "RunResult", "__version__", "generate", "predict", "score", "train"]

__getattr__, __dir__ = import_lazily(__name__)

# OpenMP reads its settings when torch is loaded, and never again.
set_up_threads(os.environ)

# A panic of a library in Rust, as tokenizers has of a damaged file, is an error of ours in one message; by the variable
# of an image for Rust it would be fifteen kilobytes of stack before that.
os.environ["RUST_BACKTRACE"] = "0"

# peft imports bitsandbytes where it is installed, which then warns on every CPU that an optional kernel is not.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)

# ScratchGPT belongs to the Auto classes as soon as this package is imported. torch and transformers take seconds to
# import and `hf-finetune --help` needs neither, so each registration waits for the module that it registers with.


@wrapt.when_imported("transformers.models.auto.configuration_auto")
def _register_config(_: ModuleType) -> None:
    from hf_finetune.models.scratch_gpt import register_config

    register_config()


# Each of the next three imports the one after it. Where that one is itself what caused the import (any of them may be
# imported first) it is not complete yet: the import statement does nothing and its own hook goes on later.


@wrapt.when_imported("transformers.models.auto.modeling_auto")
def _import_layers(_: ModuleType) -> None:
    import_module("transformers.modeling_layers")


@wrapt.when_imported("transformers.modeling_layers")
def _import_scratch_gpt(_: ModuleType) -> None:
    import_module("hf_finetune.models.scratch_gpt.modeling_scratch_gpt")


@wrapt.when_imported("hf_finetune.models.scratch_gpt.modeling_scratch_gpt")
def _register_models(_: ModuleType) -> None:
    from hf_finetune.models.scratch_gpt import register_models

    register_models()
