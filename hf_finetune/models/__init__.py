"""Names and files -> tokenizer, model, adapter; what was saved, loaded again.

tokenizers, tokenizer_training      a tokenizer loaded, or trained on the run's rows
loading, lengths                    configuration and weights of a causal language model; how long its rows may be
classifiers, classification_head    text classifiers: any encoder or decoder with a head
decision                            temperature and thresholds of a classifier, and how they fold into its head
saved, base_and_tuned               a saved model to generate or predict with, beside what it was tuned from
verification                        what was saved is what was trained
generation_config                   the end-of-turn token in what is saved
parameters                          counts by component
adapters/                           LoRA and its kin: attach, load, targets
files/                              the files of a model: found, not trusted, hashed, pinned to a commit
scratch_gpt/, scratch_presets       a GPT from scratch that is a real `PreTrainedModel`
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hf_finetune.lazy_imports import import_lazily

if TYPE_CHECKING:
    from hf_finetune.models.adapters.attach import attach_adapter
    from hf_finetune.models.base_and_tuned import before_and_after
    from hf_finetune.models.classifiers import choose_trained, load_classifier
    from hf_finetune.models.files.provenance import model_source, pinned
    from hf_finetune.models.generation_config import stop_after_turns
    from hf_finetune.models.lengths import block_size, row_length, text_length
    from hf_finetune.models.loading import load_causal_lm, load_config
    from hf_finetune.models.parameters import count_parameters
    from hf_finetune.models.saved import load_for_generation, load_for_prediction, reads_labels
    from hf_finetune.models.tokenizers import load_tokenizer

__all__ = [
    "attach_adapter",
    "before_and_after",
    "block_size",
    "choose_trained",
    "count_parameters",
    "load_causal_lm",
    "load_classifier",
    "load_config",
    "load_for_generation",
    "load_for_prediction",
    "load_tokenizer",
    "model_source",
    "pinned",
    "reads_labels",
    "row_length",
    "stop_after_turns",
    "text_length",
]

__getattr__, __dir__ = import_lazily(__name__)
