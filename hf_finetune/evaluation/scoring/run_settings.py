"""How the run of a saved model read its rows: `score` does the same, so that both give one figure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerFast

from hf_finetune.config.sections import DataSection
from hf_finetune.evaluation.scoring.precision import Precision, find_precision
from hf_finetune.models.files.locate import read_run_file
from hf_finetune.models.lengths import row_length

# Settings of the section `data` that decide which tokens of a conversation are predicted.
_OF_TOKENS = ("loss_on", "too_long", "chat_template")


@dataclass(frozen=True)
class TokenSettings:
    """How rows become tokens, and tokens log-likelihoods."""

    data: DataSection
    """As the scoring run gives it: its chat template, where it names one, replaces the one that was saved."""
    trained: DataSection
    """The same, with what the model was trained with where the scoring run says nothing."""
    train: dict[str, Any] = field(default_factory=dict)
    """`max_length` of the rows or blocks of training, as a section `train` has it; {} where it is not known."""

    precision: Precision = field(default_factory=Precision)
    """Of the forward passes."""

    def limit_length(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> int:
        """Tokens of one forward pass: as in training, else what the model takes, 1,024 at most."""
        return row_length(self.train, model.config, tokenizer)


def read_token_settings(path: str, data: DataSection) -> TokenSettings:
    """Read how the model in `path` was trained from the run.yaml beside it; without one, long rows are cut.

    Raises `ConfigError` where that file is torn.
    """
    values = read_run_file(path)
    of_data, of_train = (part if isinstance(part := values.get(name), dict) else {} for name in ("data", "train"))
    used: dict[str, Any] = {"too_long": "cut", "max_dropped": 1.0}
    used |= {name: of_data[name] for name in _OF_TOKENS if of_data.get(name) is not None}
    used |= {name: getattr(data, name) for name in _OF_TOKENS if name in data.model_fields_set}
    if used["too_long"] == "error":
        used["too_long"] = "cut"  # the rows that are scored are others
    train = {"max_length": of_train["max_length"]} if "max_length" in of_train else {}
    if values.get("recipe") == "continued_pretraining" and of_data.get("block_size") is not None:
        train = {"max_length": of_data["block_size"]}
    return TokenSettings(data, data.model_copy(update=used), train, find_precision(path))
