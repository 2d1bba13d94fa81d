"""How a run makes tokens of its rows: what its recipe does in step 2, without a model's weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedTokenizerFast

from hf_finetune.chat import load_chat_template
from hf_finetune.config import SFT_RECIPES, DataSection, Run
from hf_finetune.data import Splits, load_splits
from hf_finetune.data.reading.formats import Kind as RowKind
from hf_finetune.errors import ConfigError, Problem
from hf_finetune.models import block_size, continue_adapter, load_config, load_tokenizer, row_length, text_length
from hf_finetune.models.lengths import get_max_length

DEFAULT_SEED = 42
"""Of `TrainingArguments`, which draws the splits."""


@dataclass(frozen=True, slots=True)
class TokenSettings:
    """What decides the tokens of a run's rows."""

    run: Run
    tokenizer: PreTrainedTokenizerFast
    limit: int | None
    """Tokens of a row (sft, lora), a block (continued pretraining), a text (classification; None: any)."""
    most: int | None
    """Tokens that the model takes; None where nothing limits them."""
    template: str = ""
    """The chat template (sft, lora)."""

    @property
    def data(self) -> DataSection:
        """The section `data` of the run."""
        return self.run.data

    @property
    def packing(self) -> bool:
        """Whether conversations are packed."""
        return bool(self.run.train.get("packing"))

    def get_template(self, rows: Any) -> str | None:
        """The template under which `rows` are written; None for prompts and completions that stand as they are."""
        return self.template if "messages" in rows.column_names or self.data.chat_template is not None else None


def name_row_kind(run: Run) -> RowKind:
    """The kind of rows that the recipe of a run takes. Raises `ConfigError` for one that trains nothing."""
    kinds: dict[str, RowKind] = {"continued_pretraining": "document", "classification": "labelled"}
    kinds |= dict.fromkeys(SFT_RECIPES, "conversation")
    if run.recipe not in kinds:
        what = f"a run of {run.recipe} trains nothing"
        raise ConfigError(Problem(what, "name a run file of another recipe", key="recipe", code="HF095"))
    return kinds[run.recipe]


def load_run_rows(run: Run, *, refuse_copies: bool = True) -> Splits:
    """Read and split the rows of a run as its recipe does, by `load_splits`.

    Raises `DataError`, and `ConfigError` for a stream.
    """
    if run.data.stream:
        what = "the training rows are read on the way to the trainer, and none of them is at hand"
        remedy = "look at some of its files, with these settings behind the run file: data.train=FILE data.stream=false"
        raise ConfigError(Problem(what, remedy, key="data.stream", code="HF095"))
    seed = int(run.train.get("seed", DEFAULT_SEED))
    return load_splits(run.data, name_row_kind(run), seed, refuse_copies=refuse_copies)


def load_token_settings(run: Run, splits: Splits) -> TokenSettings:
    """Load the tokenizer of a run, and its chat template; of the model its configuration alone is read.

    Raises `ModelError`, `DataError` and `ConfigError` as step 2 of its recipe does.
    """
    run, kind = continue_adapter(run), name_row_kind(run)
    rows = splits.rows.get("train") if kind != "conversation" else None
    tokenizer = load_tokenizer(run.model, rows, needs_end=kind != "labelled")
    config = load_config(run.model, tokenizer)
    most = get_max_length(tokenizer, config)
    if kind == "document":
        return TokenSettings(run, tokenizer, block_size(run.data, config, tokenizer), most)
    if kind == "labelled":
        return TokenSettings(run, tokenizer, text_length(run.data, config, tokenizer), most)
    template = load_chat_template(run.data, tokenizer)
    return TokenSettings(run, tokenizer, row_length(run.train, config, tokenizer), most, template)
