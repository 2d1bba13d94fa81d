"""`hf-finetune generate` and `chat`: text from a language model, and a conversation with one."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable
from contextlib import closing
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hf_finetune.cli.answering import AskedModel, AskedOptions, answer_rows
from hf_finetune.cli.row_files import Output, Overwrite, read_output
from hf_finetune.cli.terminal import (
    BasePath,
    Columns,
    Json,
    Model,
    Trust,
    announce,
    make_console,
    parse_columns,
    print_json,
    read_terminal_lines,
    say,
    say_piece,
)
from hf_finetune.errors import ConfigError, Problem

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

    from hf_finetune.config import EvalSection
    from hf_finetune.evaluation import Sample

logger = logging.getLogger(__name__)

System = Annotated[str | None, typer.Option(help="A system message.")]
MaxNewTokens = Annotated[int, typer.Option(min=1)]
Temperature = Annotated[float, typer.Option(min=0.0, help="0 always takes the likeliest token.")]
TopP = Annotated[float | None, typer.Option(help="Draw from the likeliest tokens of this probability in all.")]
TopK = Annotated[int | None, typer.Option(min=1, help="Draw from this many tokens; by default 50.")]
Input = Annotated[
    str | None,
    typer.Option("--input", help="Rows to answer in place of prompts: JSONL or a table; - is standard input."),
]
Prefix = Annotated[
    str, typer.Option(help="Before the names generated and base_generated, where rows have such fields.")
]
BatchSize = Annotated[int | None, typer.Option(min=1, help="Rows of --input that are answered at once.")]
RepetitionPenalty = Annotated[float, typer.Option(help="Above 1 makes tokens that are there less likely.")]


def generate(
    model: Model,
    prompts: Annotated[list[str] | None, typer.Argument(help="Messages to answer, or texts to continue.")] = None,
    rows: Input = None,
    output: Output = None,
    overwrite: Overwrite = False,
    prefix: Prefix = "",
    columns: Columns = None,
    batch_size: BatchSize = None,
    raw: Annotated[bool, typer.Option("--raw", help="Continue text, even if the model can chat.")] = False,
    base: Annotated[bool, typer.Option("--base", help="The base and the tuned model, side by side.")] = False,
    base_path: BasePath = None,
    system: System = None,
    max_new_tokens: MaxNewTokens = 100,
    temperature: Temperature = 0.8,
    top_p: TopP = None,
    top_k: TopK = None,
    repetition_penalty: RepetitionPenalty = 1.0,
    seed: int = 0,
    trust_chat_template: Trust = None,
    as_json: Json = False,
) -> None:
    """Answer prompts, or the rows of a file, with a chat model or adapter; continue them without a chat template."""
    settings = _build_sampling(
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_p=top_p,
        top_k=top_k,
        repetition_penalty=repetition_penalty,
        seed=seed,
    )
    from hf_finetune.config import check_saved_model, check_template_hash

    check_template_hash(trust_chat_template)
    check_saved_model(model, "generate", None if base else base_path)  # before torch is imported
    asked = AskedModel(model, base, base_path, trust_chat_template)
    if rows is not None:
        _check_alone(prompts, columns)
        mapping, written = parse_columns(columns, prompts), read_output(output)
        options = AskedOptions(rows, written, overwrite, prefix, mapping, batch_size)
        answer_rows(asked, options, settings, system, raw=raw, as_json=as_json)
        return
    for_rows = {"--output": output, "--overwrite": overwrite, "--prefix": prefix, "--columns": columns}
    _check_prompts(prompts, {**for_rows, "--batch-size": batch_size})
    _answer_prompts(asked, prompts or [], settings, system, raw=raw, as_json=as_json)


def _answer_prompts(
    model: AskedModel, prompts: list[str], settings: EvalSection, system: str | None, *, raw: bool, as_json: bool
) -> None:
    announce(model.path)
    from functools import partial

    from hf_finetune.environment import set_up_logging
    from hf_finetune.models import hold_commits, load_for_generation, run_base_and_tuned

    set_up_logging()
    hold_commits()
    speak = partial(_speak, prompts=prompts, settings=settings, system=system, raw=raw)
    first = partial(_look_at_template, model.trusted, prompts=prompts, system=system, raw=raw)
    if model.base:
        both = run_base_and_tuned(model.path, model.base_path, speak, speak, first)
        _print_pairs(zip(*both, strict=True), as_json=as_json)
        return
    loaded, tokenizer = load_for_generation(model.path, base=model.base_path, first=first)
    _print_samples(speak(loaded, tokenizer), "\n" if tokenizer.chat_template and not raw else "", as_json=as_json)


def _check_alone(prompts: list[str] | None, columns: list[str] | None) -> None:
    """Raise `ConfigError` for prompts beside --input; behind --columns such words are columns."""
    if prompts and not columns:
        what = "prompts are given beside the rows of --input"
        remedy = "leave out one of them; the columns of rows are named with --columns prompt=query"
        raise ConfigError(Problem(what, remedy, code="HF601"))


def _check_prompts(prompts: list[str] | None, for_rows: dict[str, Any]) -> None:
    """Raise `ConfigError` where nothing is asked, or options are given that are of rows alone."""
    given = [option for option, value in for_rows.items() if value]
    if given:
        what = f"{' and '.join(given)} {'are' if len(given) > 1 else 'is'} for the rows of --input, which is not given"
        raise ConfigError(Problem(what, "name a file of rows with --input, or leave them out", code="HF601"))
    if not prompts:
        what = "nothing is asked"
        raise ConfigError(Problem(what, "write a prompt, or name a file of rows with --input", code="HF601"))


def _look_at_template(trusted: str | None, tokenizer: PreTrainedTokenizerFast, **asked: Any) -> None:
    """Refuse a chat template, and prompts that it refuses, before weights are loaded, which takes minutes."""
    from hf_finetune.chat import trust_named_template
    from hf_finetune.evaluation import check_responses

    trust_named_template(tokenizer, trusted)
    check_responses(tokenizer, **asked)


def _speak(loaded: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, **asked: Any) -> list[Sample]:
    from hf_finetune.evaluation import generate_responses

    return generate_responses(loaded, tokenizer, **asked)


def _print_samples(samples: Iterable[Sample], between: str, *, as_json: bool) -> None:
    """Print answers, each with `between` it and its prompt."""
    from dataclasses import asdict

    from hf_finetune.evaluation import format_sample

    if as_json:
        print_json([asdict(sample) for sample in samples])
        return
    for sample in samples:
        make_console().print(format_sample(sample, between))


def _print_pairs(pairs: Iterable[tuple[Sample, Sample]], *, as_json: bool) -> None:
    """Print the answers of the base beside those of the tuned model."""
    from dataclasses import asdict

    from hf_finetune.evaluation import format_side_by_side

    if as_json:
        print_json([{"base": asdict(before), "tuned": asdict(after)} for before, after in pairs])
        return
    for before, after in pairs:
        make_console().print(format_side_by_side(before, after), soft_wrap=False)


def chat(
    model: Model,
    base_path: BasePath = None,
    system: System = None,
    max_new_tokens: MaxNewTokens = 512,
    temperature: Temperature = 0.8,
    top_p: TopP = None,
    top_k: TopK = None,
    repetition_penalty: RepetitionPenalty = 1.0,
    seed: int = 0,
    trust_chat_template: Trust = None,
) -> None:
    """Talk to a chat model or adapter in the terminal; /help lists the commands."""
    settings = _build_sampling(
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_p=top_p,
        top_k=top_k,
        repetition_penalty=repetition_penalty,
        seed=seed,
    )
    from hf_finetune.config import check_saved_model, check_template_hash

    check_template_hash(trust_chat_template)
    check_saved_model(model, "chat", base_path)  # before torch is imported
    announce(model)
    from hf_finetune.chat import trust_named_template
    from hf_finetune.environment import set_up_logging
    from hf_finetune.evaluation import ChatDisplay, ChatSession, run_chat, try_template
    from hf_finetune.interruption import unwind_when_stopped
    from hf_finetune.models import hold_commits, load_for_generation

    set_up_logging()
    hold_commits()
    opening = [] if system is None else [{"role": "system", "content": system}]

    def first(tokenizer: PreTrainedTokenizerFast) -> None:
        trust_named_template(tokenizer, trust_chat_template)
        try_template(tokenizer, opening)

    loaded, tokenizer = load_for_generation(model, base=base_path, first=first)
    unwind_when_stopped(lambda: "what /save has written is kept")
    screen = ChatDisplay(
        write=say_piece,
        note=lambda text: say(f"[{text}]", file=sys.stderr, flush=True),
        interactive=sys.stdin.isatty(),
    )
    with closing(read_terminal_lines()) as lines:
        run_chat(ChatSession(loaded, tokenizer, settings, screen, opening), lines)


def _build_sampling(**options: Any) -> EvalSection:
    """The sampling options of a command as settings; `ConfigError` names each that is out of range."""
    from hf_finetune.config import sampling_settings

    idle = [name for name in ("top_p", "top_k") if options[name] is not None]
    if options["temperature"] == 0 and idle:
        shown = " and ".join(f"--{name.replace('_', '-')}" for name in idle)
        logger.warning(
            "--temperature 0 always takes the likeliest token, without regard to %s", shown, extra={"code": "HF962"}
        )
    if options["top_k"] is None:
        del options["top_k"]  # what the settings have by default
    return sampling_settings(options, lambda name: f"--{name.replace('_', '-')}")
