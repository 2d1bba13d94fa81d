"""`hf-finetune generate --input`: the rows of a file, answered into another."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_finetune.cli.row_files import check_row_files, open_output
from hf_finetune.cli.terminal import announce, print_json, say
from hf_finetune.errors import CannotWriteError, DataError, Problem

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

    from hf_finetune.config import EvalSection
    from hf_finetune.evaluation import AnswerFolder, AnswerStats


@dataclass(frozen=True, slots=True)
class AskedOptions:
    """The options of `generate` that are of rows."""

    file: str
    output: str | None
    overwrite: bool
    prefix: str
    columns: Mapping[str, str]
    batch_size: int | None


@dataclass(frozen=True, slots=True)
class AskedModel:
    """Which model is asked."""

    path: str
    base: bool
    """Its base is asked as well."""
    base_path: str | None
    trusted: str | None
    """The hash of a chat template that is rendered without limits."""


def answer_rows(
    model: AskedModel, options: AskedOptions, settings: EvalSection, system: str | None, *, raw: bool, as_json: bool
) -> None:
    """Answer the rows of a file; what was answered is kept, and typed again the command goes on behind it."""
    output = options.output
    check_row_files(options.file, output, overwrite=options.overwrite, example="answers.jsonl")
    announce(model.path)
    from hf_finetune.environment import set_up_logging
    from hf_finetune.evaluation import AskedFile, RowsAsked, choose_batch_size
    from hf_finetune.interruption import unwind_when_stopped
    from hf_finetune.models import hold_commits

    set_up_logging()
    hold_commits()
    size = options.batch_size or choose_batch_size()
    asked = RowsAsked(options.file, settings, system, raw, options.prefix, size, options.columns)
    rows = AskedFile(asked)
    with _open_answers(model, options, asked) as folder:
        unwind_when_stopped(folder.describe)
        stats = _ask(model, rows, folder)
    if as_json:
        print_json(asdict(stats), sys.stderr if output is None else sys.stdout)
    elif output is not None:
        say(f"{output}: {stats.rows:,} rows")
    if stats.left_out:
        what = f"{stats.left_out:,} of {stats.left_out + stats.rows:,} rows could not be answered and were left out"
        remedy = "correct them as the messages above say, and answer those again"
        raise DataError(Problem(what, remedy, options.file, code="HF961"))


def _ask(model: AskedModel, rows: Any, folder: AnswerFolder) -> AnswerStats:
    """Let the model, and its base where that is asked, answer the rows; the counts are those of the first pass."""
    from functools import partial

    from hf_finetune.chat import trust_named_template
    from hf_finetune.models import load_for_generation, run_base_and_tuned

    def first(tokenizer: PreTrainedTokenizerFast) -> None:
        trust_named_template(tokenizer, model.trusted)
        rows.check(tokenizer)

    def ask(loaded: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, name: str) -> AnswerStats:
        stats: AnswerStats = rows.answer(loaded, tokenizer, folder, name)
        return stats

    tuned, of_base = rows.asked.added
    if not model.base:
        return ask(*load_for_generation(model.path, base=model.base_path, first=first), tuned)
    both = run_base_and_tuned(model.path, model.base_path, partial(ask, name=of_base), partial(ask, name=tuned), first)
    # The second pass reads what the first has written.
    return max(both, key=lambda stats: stats.rows + stats.left_out)


@contextmanager
def _open_answers(model: AskedModel, options: AskedOptions, asked: Any) -> Iterator[AnswerFolder]:
    """Open what the answers go to. Raises `CannotWriteError` where it cannot be written."""
    from hf_finetune.evaluation import keep_answers, pass_on_answers

    passes = 2 if model.base else 1
    if options.output is None:
        with open_output(None) as stream, pass_on_answers(stream, passes) as folder:
            yield folder
        return
    output = Path(options.output)
    try:
        with keep_answers(output, _list_sources(model, asked), passes, overwrite=options.overwrite) as folder:
            yield folder
    except OSError as problem:
        from hf_finetune.files import explain_unwritable

        remedy = "name a file in a folder of yours with --output"
        raise CannotWriteError(explain_unwritable(output, problem, remedy)) from problem


def _list_sources(model: AskedModel, asked: Any) -> dict[str, Any]:
    """What answers are made from, by what it is called: with other values they would be others."""
    from hf_finetune.models import identify_model

    bases = {"base": model.base_path and identify_model(model.base_path), "--base": model.base}
    settings = asked.settings.model_dump(exclude_unset=True, exclude={"prompts"})
    chosen = {f"--{name.replace('_', '-')}": value for name, value in settings.items()}
    asking = {"--system": asked.system, "--raw": asked.raw, "--prefix": asked.prefix, "--batch-size": asked.batch_size}
    return {"model": identify_model(model.path), **bases, **chosen, **asking, "--columns": dict(asked.columns)}
