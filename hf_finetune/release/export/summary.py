"""What was exported, in a few lines for people: a name and a value each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from hf_finetune.metric_info import say_count

if TYPE_CHECKING:
    from hf_finetune.release.export.exporting import ExportResult

# Figures of a target that have a line of their own here; any other one is shown under its own name.
_SAID = {
    *("architecture", "bytes", "bytes_in_bfloat16", "bytes_in_float32", "dtype", "quant", "quantized", "stored"),
    *("texts_with_equal_tokens", "times_as_fast", "times_smaller"),
}


def describe_result(result: ExportResult) -> list[tuple[str, str]]:
    """Describe an export: names of at most 12 letters, and what there is to say under each."""
    own = result.own_figures
    options = {name: value for name, value in result.options.items() if name not in own}
    asked = [name.replace("_", " ") + ("" if value is True else f" {value}") for name, value in options.items()]
    said = [("output", result.output), ("target", ", ".join([result.target, *asked]))]
    if "architecture" in own:
        said.append(("architecture", own["architecture"]))
    said += [*_describe_comparison(result), *_describe_size(own)]
    if "texts_with_equal_tokens" in own:
        said.append(("tokens", f"those of the run in {own['texts_with_equal_tokens']} odd texts"))
    said += [(name.replace("_", " "), str(value)) for name, value in own.items() if name not in _SAID]
    for name, found in result.templates.items():
        said.append(("prompts", f"{found['equal']} of {found['conversations']} equal by {name}{_list_others(found)}"))
    return said + [("left out", each) for each in result.left_out]


def _describe_comparison(result: ExportResult) -> Iterator[tuple[str, str]]:
    figures = result.figures
    places = f", {say_count(figures.compared, 'token')}" if result.kind == "language-model" else ""
    yield "compared on", say_count(figures.rows, "row") + places
    yield "logits", f"at most {figures.max_logit_difference:.1e} apart, the largest is {figures.logit_scale:.1f}"
    apart = f"{figures.relative_loss_difference:.3%}".replace("%", " %")
    yield "mean loss", f"{figures.loss_before:.4f} before, {figures.loss_after:.4f} after ({apart} apart)"
    if figures.equal_answers is not None:
        ties = f"; {figures.ties} others differ where two tokens are as near as rounding" if figures.ties else ""
        yield "answers", f"{figures.equal_answers} of {figures.rows} equal{ties}"
    if figures.accuracy_before is not None:
        yield "accuracy", f"{figures.accuracy_before:.3f} before, {figures.accuracy_after:.3f} after"


def _describe_size(own: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    if "bytes" in own:
        # Of an adapter alone no weight of the base is stored.
        over = " over a base" if "quant" in own and "stored" not in own and "quantized" not in own else ""
        quant = f" in {own['quant']}" if "quant" in own else ""
        whole = f", {say_size(own['bytes_in_bfloat16'])} in 16 bits" if "bytes_in_bfloat16" in own else ""
        yield "size", f"{say_size(own['bytes'])}{over}{quant}{whole}"
    if "quantized" in own:
        yield "weights", f"{say_count(own['quantized'], 'linear layer')} in {own['quant']}, all others in 16 bits"
    if "stored" in own:
        yield "weights", ", ".join(f"{count:,} in {kind}" for kind, count in own["stored"].items())
    if "dtype" in own:
        yield "weights", own["dtype"]
    if "bytes_in_float32" in own:
        times = f"{own['times_smaller']:.1f} times smaller, {own['times_as_fast']:.2f} times as fast on this machine"
        yield "in 8 bits", f"{times} as the {say_size(own['bytes_in_float32'])} of float32"


def _list_others(found: Mapping[str, Any]) -> str:
    """What is not equal, and not otherwise either."""
    refused, alone = found["refused_by_both"], found.get("not_offered", ())
    said = [f"{refused} refused by both"] if refused else []
    said += [f"not offered there: {', '.join(alone)}"] if alone else []
    return f" ({'; '.join(said)})" if said else ""


def say_size(count: int) -> str:
    """Bytes in the unit that leaves three digits or so: 268864 -> 268.9 kB."""
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= size:
            return f"{count / size:,.1f} {unit}"
    return say_count(count, "byte")
