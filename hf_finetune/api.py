"""The library from Python and in a notebook: the same checks and the same run folder as the commands.

    import hf_finetune as hf

    result = hf.train("recipes/configs/sft.yaml", output_dir="runs/mine", train={"max_steps": 50})
    result.report["evaluation"]["validation"]["loss"]
    hf.generate(result.folder, ["How do I boil an egg?"], temperature=0.0)

What the user can put right is raised as a `FinetuneError`, whose text is the message that a command would print.
"""

from __future__ import annotations

import io
import json
import logging
import runpy
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_finetune.config import (
    COMMAND_LINE,
    RunSource,
    check_template_hash,
    load_run,
    read_recipe_name,
    sampling_settings,
)
from hf_finetune.environment import find_project_file
from hf_finetune.errors import ConfigError, DataError, Problem, RunFinished, machine_errors
from hf_finetune.folders import release_run_folders
from hf_finetune.option_names import OptionNames, name_options
from hf_finetune.typed_again import ALLOW_CHANGED

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

    from hf_finetune.evaluation import Sample

logger = logging.getLogger(__name__)

_GENERATE_ARGUMENTS = OptionNames(
    {
        "eval.prompts": "prompt",
        "data.chat_template": "",
        "data.fold_system": "",
        "data.trust_chat_template": "trust_chat_template",
    }
)


@dataclass(frozen=True)
class RunResult:
    """What a run left in its folder; report, model and tokenizer are read when they are asked for."""

    folder: Path

    @cached_property
    def report(self) -> dict[str, Any]:
        """report.json: every figure of the run."""
        report: dict[str, Any] = json.loads((self.folder / "report.json").read_text(encoding="utf-8"))
        return report

    @property
    def model(self) -> PreTrainedModel:
        """The saved model in evaluation mode; an adapter comes over its base, as a `PeftModel`."""
        return self._loaded[0]

    @property
    def tokenizer(self) -> PreTrainedTokenizerFast:
        """The tokenizer that was saved with it."""
        return self._loaded[1]

    @cached_property
    def _loaded(self) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
        from hf_finetune.models import is_sequence_classifier, load_for_generation, load_for_prediction

        load = load_for_prediction if is_sequence_classifier(str(self.folder)) else load_for_generation
        return load(str(self.folder))


def train(run: RunSource | Path, *, allow_changed: bool = False, **overrides: Any) -> RunResult:
    """Train what a run file, or a dict with its sections, describes; a run that is finished is returned as it is.

    `overrides` are laid over it: whole sections (`train={"max_steps": 50}`, which leaves the section's other settings
    as they are), or single settings (`**{"train.max_steps": 50}`). One process, in this one; several are started by
    `accelerate launch`. A run whose folder holds checkpoints goes on from the newest; under other settings than it
    began with where `allow_changed` says so. Raises `FinetuneError` with all problems of the settings at once.
    """
    return _run_recipe(run, overrides, allow_changed=allow_changed)


def score(run: RunSource | Path, **overrides: Any) -> RunResult:
    """Measure a saved model on rows, as a run file or dict of the recipe `score` describes; see `train`."""
    return _run_recipe({"recipe": "score", **run} if isinstance(run, Mapping) else run, overrides)


def predict(
    model: str | Path, rows: str | Path | Sequence[str | Mapping[str, Any]], **options: Any
) -> list[dict[str, Any]]:
    """Label rows with a classifier: each row comes back with `label`, `score` and `scores`, in their order.

    `rows` is a JSONL file, or a list of texts or of rows; `options` are those of `PredictionOptions`. Raises
    `DataError` where a row cannot be labeled, and `ModelError` where `model` is no classifier.
    """
    from hf_finetune.evaluation import PredictionOptions, predict_file
    from hf_finetune.models import hold_commits

    with _as_file(rows) as file, _unpinned_afterwards():
        hold_commits()
        output = io.BytesIO()
        stats = predict_file(str(model), file, output, PredictionOptions(**options))
        if stats.left_out:
            what = f"{stats.left_out:,} of {stats.left_out + stats.rows:,} rows could not be labeled"
            raise DataError(Problem(what, "put right what the log says about each", code="HF961"))
    return [json.loads(line) for line in output.getvalue().splitlines()]


def generate(
    model: str | Path,
    prompts: str | Sequence[str],
    *,
    system: str | None = None,
    raw: bool = False,
    base_path: str | None = None,
    trust_chat_template: str | None = None,
    **settings: Any,
) -> list[Sample]:
    """Answer prompts with a chat model or adapter; continue them with a model that has no chat template, or if `raw`.

    `settings` are the sampling settings of the section `eval`: max_new_tokens, temperature, top_p, top_k,
    repetition_penalty, seed. `trust_chat_template` is the sha256 of the model's chat template, which is then rendered
    without limits. Raises `ConfigError` for one that is out of range, or a hash of another template, and `ModelError`
    for what cannot speak.
    """
    with name_options(_GENERATE_ARGUMENTS):
        sampling = sampling_settings(settings)
        check_template_hash(trust_chat_template)
        from hf_finetune.chat import trust_named_template
        from hf_finetune.evaluation import check_responses, generate_responses
        from hf_finetune.models import hold_commits, load_for_generation

        listed = [prompts] if isinstance(prompts, str) else prompts

        def first(tokenizer: PreTrainedTokenizerFast) -> None:
            trust_named_template(tokenizer, trust_chat_template)
            check_responses(tokenizer, listed, system=system, raw=raw)

        with _unpinned_afterwards():
            hold_commits()
            loaded, tokenizer = load_for_generation(str(model), base=base_path, first=first)
        return generate_responses(loaded, tokenizer, listed, sampling, system=system, raw=raw)


def _run_recipe(run: RunSource | Path, overrides: Mapping[str, Any], *, allow_changed: bool = False) -> RunResult:
    source = str(run) if isinstance(run, Path) else run
    arguments = [*_as_arguments(overrides)]
    argv = [source, *arguments]
    with _without_command_line():
        recipe = read_recipe_name(source, arguments)
        folder = load_run(argv, recipe, say_notes=False).output_dir  # the recipe says them
    script = str(find_project_file("recipes", f"{recipe}.py"))
    _forget_processes()
    # What the manifest says of the command: a run from a dict is made again from the run.yaml that it leaves, and
    # elsewhere, since its own folder is taken.
    shown = argv if isinstance(source, str) else [f"{folder}/run.yaml", f"output_dir={folder}-again"]
    with _arguments_of_process([script, *map(str, shown)]), _unpinned_afterwards(), _released_afterwards():
        try:
            with machine_errors():
                runpy.run_path(script)["main"]([*argv, *([ALLOW_CHANGED] if allow_changed else [])])
        except RunFinished as finished:
            logger.info("%s", finished)
    return RunResult(Path(folder))


@contextmanager
def _without_command_line() -> Iterator[None]:
    """Say of an override its key alone: nobody has typed a command."""
    try:
        yield
    except ConfigError as refused:
        places = [replace(each, path=None) if each.path == COMMAND_LINE else each for each in refused.problems]
        raise ConfigError(places) from None


def _as_arguments(overrides: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """`{"train": {"max_steps": 5}}` as `train.max_steps=5`; JSON is YAML, so that a value keeps its type."""
    for name, value in overrides.items():
        if isinstance(value, Mapping):
            yield from _as_arguments(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}={json.dumps(value, default=str, ensure_ascii=False)}"


def _forget_processes() -> None:
    """Accelerate keeps one state for a process and refuses a second run in it with another precision (1.15)."""
    from accelerate.state import AcceleratorState, GradientState

    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


@contextmanager
def _arguments_of_process(argv: list[str]) -> Iterator[None]:
    before = sys.argv
    sys.argv = argv
    try:
        yield
    finally:
        sys.argv = before


@contextmanager
def _unpinned_afterwards() -> Iterator[None]:
    """Let the commits that a run reads be those of that run alone: what is loaded next is as the Hub has it then."""
    try:
        yield
    finally:
        from hf_finetune.models import pin_commits

        pin_commits({})


@contextmanager
def _released_afterwards() -> Iterator[None]:
    """Let another process have the folder once the run has ended: a notebook lives on."""
    try:
        yield
    finally:
        release_run_folders()


@contextmanager
def _as_file(rows: str | Path | Sequence[str | Mapping[str, Any]]) -> Iterator[str]:
    """The rows as a JSONL file: itself where it is one."""
    if isinstance(rows, str | Path):
        if not Path(rows).is_file():
            raise ConfigError(
                Problem("no such file", "name a JSONL file, or give a list of texts", path=str(rows), code="HF001")
            )
        yield str(rows)
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "rows.jsonl")
        lines = [json.dumps({"text": row} if isinstance(row, str) else row, ensure_ascii=False) for row in rows]
        path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        yield str(path)
