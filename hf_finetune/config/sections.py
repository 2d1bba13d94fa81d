"""The sections of a run file, each a frozen settings class. `docs/run-file.md` is the reader's version."""

from __future__ import annotations

from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator
from pydantic_core import PydanticCustomError

from hf_finetune.config import bounds

RecipeName = Literal["continued_pretraining", "classification", "sft", "lora", "score"]

TextFileFormat = Literal["lines", "paragraphs", "file"]
DocumentFormat = Literal["text", TextFileFormat]
ConversationFormat = Literal[
    "messages",
    "sharegpt",
    "alpaca",
    "instruction",
    "prompt_completion",
    "input_output",
    "user_assistant",
    "question_answer",
]
RowFormatName = Literal["auto", DocumentFormat, "labelled", ConversationFormat]
RowField = Literal[
    "text",
    "text_pair",
    "label",
    "messages",
    "conversations",
    "tools",
    "instruction",
    "input",
    "output",
    "response",
    "prompt",
    "completion",
    "user",
    "assistant",
    "question",
    "answer",
]
"""The fields of all row formats."""

Fraction = Annotated[float, Field(gt=0.0, lt=1.0)]
# Every number has an upper bound: what is allocated for it is decided here, before anything is.
Count = Annotated[int, Field(ge=1, le=bounds.LARGEST_COUNT)]
Width = Annotated[int, Field(ge=1, le=bounds.WIDEST)]
Depth = Annotated[int, Field(ge=1, le=bounds.DEEPEST)]
Length = Annotated[int, Field(ge=1, le=bounds.LONGEST)]
BatchSize = Annotated[int, Field(ge=1, le=bounds.MOST_AT_ONCE)]
Factor = Annotated[float, Field(gt=0.0, le=bounds.LARGEST_FACTOR)]
Name = Annotated[str, Field(min_length=1)]
SHA256 = r"^[0-9a-fA-F]{64}$"
"""The form of a hash, which some programs write in capitals."""


class Section(BaseModel):
    """Base of all sections: unknown keys are errors, null means the default, and a boolean is not a number."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, protected_namespaces=(), use_attribute_docstrings=True
    )

    @model_validator(mode="before")
    @classmethod
    def _drop_nulls(cls, values: Any) -> Any:
        # `max_length: null` in a run file, or on the command line, takes back what was set before it.
        if not isinstance(values, dict):
            return values
        fields = cls.model_fields
        return {
            name: value
            for name, value in values.items()
            if value is not None or name not in fields or NoneType in _list_types(fields[name].annotation)
        }

    @field_validator("*", mode="before")
    @classmethod
    def _refuse_bool_as_number(cls, value: Any, info: ValidationInfo) -> Any:
        # Pydantic takes True for 1: https://docs.pydantic.dev/latest/concepts/conversion_table/
        kinds = _list_types(cls.model_fields[str(info.field_name)].annotation)
        if isinstance(value, bool) and kinds & {int, float} and bool not in kinds:
            raise PydanticCustomError("bool_as_number", "a boolean where a number belongs")
        return value


class GeneratedSection(Section):
    """Base of the sections that are created at run time, which have no source to read docstrings from."""

    model_config = ConfigDict(use_attribute_docstrings=False)


def _list_types(annotation: Any) -> frozenset[Any]:
    """List the types that an annotation takes, looking into Optional, Union and Annotated."""
    # Annotated[float, Field(gt=0)] | None -> {float, NoneType}; list[str] -> {list}
    if get_origin(annotation) is Annotated:
        return _list_types(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return frozenset(kind for part in get_args(annotation) for kind in _list_types(part))
    return frozenset({get_origin(annotation) or annotation})


class TrainTokenizer(Section):
    """A tokenizer trained on the run's own text."""

    kind: Literal["char", "word", "bpe"]
    vocab_size: Annotated[int, Field(ge=5, le=bounds.LARGEST_VOCABULARY)] | None = None
    """Upper bound, special tokens included. Needed for `bpe` and `word`; `char` takes every character that occurs."""


class TokenizerSection(Section):
    train: TrainTokenizer


class ScratchSection(Section):
    """A ScratchGPT from random weights: a preset's size, any field of `ScratchGPTConfig` overridden."""

    preset: Literal["nano", "tiny", "small", "llama-like", "gpt2"] = "nano"
    """`llama-like` computes what Llama does, `gpt2` what GPT-2 does: exported, other programs serve them."""
    family: Literal["modern", "gpt2"] | None = None
    hidden_size: Width | None = None
    num_hidden_layers: Depth | None = None
    num_attention_heads: Width | None = None
    num_key_value_heads: Width | None = None
    intermediate_size: Width | None = None
    max_position_embeddings: Length | None = None
    ngram_order: Annotated[int, Field(ge=1, le=bounds.LONGEST_NGRAM)] | None = None
    ngram_vocab_size: Annotated[int, Field(ge=1, le=bounds.LARGEST_VOCABULARY)] | None = None
    hidden_act: Literal["gelu_new", "gelu", "silu", "relu2"] | None = None
    gated_mlp: bool | None = None
    qk_norm: bool | None = None
    rope_theta: Annotated[float, Field(gt=0.0, le=bounds.LARGEST_THETA)] | None = None
    norm_eps: Annotated[float, Field(gt=0.0, le=1.0)] | None = None
    attention_dropout: Annotated[float, Field(ge=0.0, lt=1.0)] | None = None
    hidden_dropout: Annotated[float, Field(ge=0.0, lt=1.0)] | None = None
    initializer_range: Factor | None = None
    tie_word_embeddings: bool | None = None


class LastBlocks(Section):
    """Train the last blocks of the model, the norm after them and the head."""

    last_blocks: Depth


class ModelSection(Section):
    path: Name | None = None
    """A folder or a Hub id of the model to continue."""
    adapter: Name | None = None
    """A folder or a Hub id of an adapter to train on (lora); `path` is then where its base is now, if it has moved."""
    revision: Name | None = None
    scratch: ScratchSection | None = None
    """Start a ScratchGPT from random weights instead of `path`."""
    tokenizer: Name | TokenizerSection | None = None
    """A folder, a Hub id, or `train: {kind, vocab_size}`; by default the tokenizer beside the model."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Of the weights. Mixed precision is `train.bf16` or `train.fp16`."""
    save_dtype: Literal["float32", "bfloat16", "float16"] | None = None
    """Of the saved weights; by default that of the files in `path` (an adapter is saved in float32)."""
    attn_implementation: Literal["auto", "sdpa", "eager", "flash_attention_2", "flex_attention"] = "auto"
    load_in_4bit: bool = False
    load_in_8bit: bool = False
    train_only: Literal["all", "head"] | LastBlocks = "all"
    """`head`, or `{last_blocks: N}`: the rest stays as it is (classification)."""
    new_head: bool = False
    """Initialize a new head if that of `path` is for other labels (classification)."""


class Source(Section):
    """One data file (or folder, glob, Hub data set id) of a mixture."""

    path: Name
    weight: Annotated[float, Field(gt=0.0, le=bounds.MOST_COPIES)] = 1.0
    """Copies of each row in one epoch: 2.0 reads every row twice, 0.5 a seeded half of them."""


Balance = (
    Literal["none", "undersample", "oversample", "weights", "focal"]
    | Annotated[dict[str, Annotated[Factor, Field(strict=True)]], Field(min_length=1)]
)
Sources = Name | Source | Annotated[list[Name | Source], Field(min_length=1)]


class DataSection(Section):
    model_config = ConfigDict(json_schema_extra={"anyOf": [{"required": ["train"]}, {"required": ["test"]}]})

    train: Sources | None = None
    """A file, folder, glob or Hub data set id, or a list of these, each with an optional `weight`. `score` needs
    it only to measure memorization."""
    stream: bool = False
    """Read and tokenize the training rows on the way to the trainer, from local files or through fsspec (`hf://`, `s3://`,
    `https://`), where they do not fit the disk twice; needs `train.max_steps` (all recipes but classification)."""
    stream_part: Count | None = None
    """Optimizer steps of each part of a stream, which is shuffled as a whole and of which two or three are on the disk;
    by default those of about 64 MiB of text."""
    num_proc: Annotated[int, Field(ge=1, le=bounds.MOST_WORKERS)] | None = None
    """Processes that read and tokenize, by default one for each core; the results are those of one (on Linux; elsewhere
    it is one, and its threads)."""
    validation: Sources | None = None
    test: Sources | None = None
    validation_fraction: Fraction | None = None
    """Share of the training rows that is set aside, seeded by `train.seed`; never together with `validation`."""
    test_fraction: Fraction | None = None
    stratify_by: Name | None = None
    """Field whose values keep their proportions in every split."""
    group_by: Name | None = None
    """Field whose equal values stay in one split, and are resampled together for intervals and tests."""
    format: RowFormatName = "auto"
    columns: dict[RowField, Name] = {}
    """Fields of a row format that the rows have under other names: `{question: query, answer: reply.text}`; a dot
    enters an object."""
    labels: dict[Name, Name | int] = {}
    """Labels of the model that the rows have under other names: `{pos: POSITIVE, neg: NEGATIVE}`; several may become
    one (classification, and score of a classifier)."""
    task: Literal["classification", "regression"] | None = None
    """`regression` predicts numbers; `classification` is for rows that could be read in two ways."""
    on_bad_line: Literal["fail", "skip"] = "fail"
    """`skip` leaves rejected lines out, counts them, and lists their numbers in the run folder."""
    max_line_bytes: Annotated[int, Field(ge=1, le=bounds.LONGEST_LINE)] = 16 * 1024 * 1024
    block_size: Annotated[int, Field(ge=2, le=bounds.LONGEST)] | None = None
    """Tokens per packed block (continued pretraining); by default the model's maximum, 1,024 at most."""
    isolate_documents: bool = False
    """Documents packed into one block do not attend to each other (continued pretraining)."""
    chat_template: Name | None = None
    """`plain`, `alpaca`, `chatml`, `llama-3`, `gemma`, `mistral`, `phi`, `qwen` or a .jinja file (sft and lora); by
    default the tokenizer's own, else `plain`."""
    trust_chat_template: Annotated[str, Field(pattern=SHA256)] | None = None
    """The sha256 of a chat template that is rendered without limits of time and memory, since you know it (sft and
    lora); by default those that come with this package alone."""
    chat_template_kwargs: dict[Name, Any] = {}
    """Variables that the chat template reads, such as `{enable_thinking: false}`; saved with it (sft and lora)."""
    system: Name | None = None
    """The system message of conversations that have none; saved with the chat template (sft and lora)."""
    fold_system: bool = False
    """Write a system message into the first question, under a chat template that has no place for one (sft and lora);
    saved with it."""
    template_date: str | None = None
    """The day that a chat template is told which asks for it, `2026-01-31` (sft and lora); by default the day on which
    the run begins."""
    loss_on: Literal["assistant", "all", "last"] = "assistant"
    """Which tokens of a conversation are trained (sft and lora): the assistant's turns, all, or its last turn."""
    train_on_prefill: bool = False
    """Train what the chat template writes before an answer by itself, as an empty block of thoughts (sft and lora)."""
    too_long: Literal["drop", "cut", "split", "error"] = "drop"
    """What is done with a conversation longer than `train.max_length` (sft and lora)."""
    max_dropped: Annotated[float, Field(ge=0.0, le=1.0)] = 0.01
    """The largest share of the rows of a split that may be left out: too long, or nothing to train (sft and lora)."""
    allow_empty: bool = False
    """Accept empty answers, from which the model learns to say nothing (sft and lora), and rows without text or without
    any label, `[]` (classification)."""
    max_length: Annotated[int, Field(ge=2, le=bounds.LONGEST)] | Literal["longest_train"] | None = None
    """Texts are truncated to so many tokens (classification); by default to the model's maximum. `longest_train` pads
    every batch to the longest training text."""
    balance: Balance = "none"
    """How rare labels are treated (classification): rows left out or repeated, weights in the loss (or a weight for
    each label by name), or focal loss."""


class EvalSection(Section):
    prompts: list[str] | Literal["validation"] = []
    """Continued (sft and lora: answered) at each evaluation and at the end, into the log and `report.json`. sft and
    lora ask the first two questions of the validation rows under `validation`."""
    max_new_tokens: Length = 64
    temperature: Annotated[float, Field(ge=0.0, le=bounds.LARGEST_FACTOR)] = 0.8
    """0 is greedy."""
    top_k: Count | None = 50
    top_p: Annotated[float, Field(gt=0.0, le=1.0)] | None = None
    """Sample from the likeliest tokens that together have this probability."""
    repetition_penalty: Factor = 1.0
    """Above 1 makes tokens that are there already less likely."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    threshold_metric: (
        Literal["accuracy", "balanced_accuracy", "f1_macro", "f1_micro", "f1_weighted", "matthews_correlation"] | None
    ) = None
    """Decision thresholds are tuned for it on the validation split (classification); by default the likeliest label."""
    calibrate: bool = True
    """Fit a temperature on the validation split, so that a score of 0.9 is right in 9 of 10 rows (classification)."""
    show_data: bool = False
    """Show the texts of the worst mistakes, which are named by file and line otherwise (classification)."""
    base: bool | Name | None = None
    """Score what is tuned on the same rows, and compare. Of sft, lora and continued_pretraining `false` alone, which
    leaves it out. Of score `true`, or the path of another model; by default none."""
    by: list[Name] = []
    """Fields of the rows by whose values the metrics are broken down (score); a dot enters an object: `meta.lang`."""
    forget: Sources | None = None
    """Rows of a task of the base model, on which both models are scored (score): did fine-tuning forget it?"""
    swaps: list[Literal["gender", "names", "religion", "origin"]] = []
    """Word lists whose words are swapped for their counterparts, to see whether the metrics change (score)."""
    canaries: Name | None = None
    """A file of `hf-finetune corpus canaries` that was among the training data, to measure their exposure (score)."""
    verbatim_prefix: Length | None = None
    """Tokens of each row of `data.train` that the model gets, to see whether it continues the row verbatim (score)."""
    harness: list[Name] = []
    """Tasks of lm-evaluation-harness, where it is installed, by name or as a YAML file (score)."""
    batch_size: BatchSize = 16
    """Rows that are answered, or read, at once (score)."""
    generate_rows: Annotated[int, Field(ge=0, le=bounds.LARGEST_COUNT)] | None = None
    """Rows that are answered, drawn with `seed` (score); by default all. 0 answers none."""


class CardSection(Section):
    """What only its owner can say about a model; the rest of the model card is measured."""

    license: Name | None = None
    """As the Hub has it: `apache-2.0`, `mit`, `other`, `unknown` ..."""
    language: list[Name] = []
    """Codes of the languages: `en`, `de` ..."""
    datasets: list[Name] = []
    """Hub ids of the data sets."""
    tags: list[Name] = []
    intended_use: Name | None = None
    limits: Name | None = None
    personal_data: Name | None = None
    """What is known about personal data among the training rows."""


class HubSection(Section):
    """Where the finished run is pushed; the token is that of `hf auth login`, or in HF_TOKEN."""

    repo_id: Name
    private: bool = True
    revision: Name | None = None
    """A branch, created if it does not exist."""
    create_pr: bool = False
    """Open a pull request instead of committing."""
    push_every: Count | None = None
    """Push the weights of a checkpoint every so many optimizer steps, in the background."""


class Run(Section):
    """A whole run file, resolved."""

    recipe: RecipeName
    model: ModelSection
    data: DataSection
    train: dict[str, Any]
    """Keyword arguments of `TrainingArguments` (`SFTConfig` for sft and lora), as given in the run file. Of our own:
    `early_stopping_patience`, `early_stopping_threshold`, `on_nonfinite`, `max_nonfinite_skips` and `optim: muon`."""
    lora: dict[str, Any] | None = None
    """Keyword arguments of peft's `LoraConfig`."""
    eval: EvalSection = EvalSection()
    card: CardSection = CardSection()
    hub: HubSection | None = None
    output_dir: Name


SHIPPED_RECIPES: tuple[RecipeName, ...] = ("continued_pretraining", "classification", "sft", "lora", "score")
