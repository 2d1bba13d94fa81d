"""What makes a run reproducible: samples, data, parameters, settings, versions, hashes, and the command."""

from __future__ import annotations

import math
from typing import Any

from hf_finetune.metric_info import format_share, parse_number
from hf_finetune.reporting.page.blocks import (
    MAX_CELL_CHARACTERS,
    Block,
    Cell,
    Code,
    Exchange,
    Facts,
    More,
    Samples,
    Strip,
    flatten_settings,
    get_mapping,
    get_objects,
    make_paragraphs,
    make_table,
    shorten,
)
from hf_finetune.reporting.restarts import describe_restarts
from hf_finetune.reporting.run_record import RunRecord

MAX_PROMPTS = 40
COMPONENTS = ("embeddings", "attention", "feed_forward", "norms", "head", "other")
# Counts of a split in display order; any others follow by name.
COUNTS = ("rows", "dropped", "truncated", "tokens", "trained_tokens", "longest")
HASH_CHARACTERS = 16


def build_samples(run: RunRecord) -> list[Block]:
    """The first and the last completion of each prompt: before and after training, if it was sampled before."""
    by_prompt: dict[str, list[dict[str, Any]]] = {}
    for each in get_objects(run.report.get("samples")):
        if isinstance(each.get("prompt"), str) and isinstance(each.get("continuation"), str):
            by_prompt.setdefault(each["prompt"], []).append(each)
    exchanges = [
        Exchange(
            shorten(prompt),
            tuple(_format_answer(each) for each in (given[:1] if given[0] is given[-1] else [given[0], given[-1]])),
        )
        for prompt, given in by_prompt.items()
    ]
    if not exchanges:
        return []
    left_out = len(exchanges) - MAX_PROMPTS
    more = make_paragraphs([f"… and {left_out:,} more prompts in report.json."] if left_out > 0 else [])
    return [Samples(tuple(exchanges[:MAX_PROMPTS])), *more]


def _format_answer(sample: dict[str, Any]) -> tuple[str, str]:
    step = sample.get("step")
    when = "before training" if step == 0 else f"step {step:,}" if isinstance(step, int) else "answer"
    ended = {"True": ", ended by itself", "False": ", cut off"}.get(str(sample.get("finished")), "")
    tokens = parse_number(sample.get("tokens"))
    return f"{when}{'' if tokens is None else f': {tokens:,.0f} tokens{ended}'}", shorten(sample["continuation"])


def build_data(run: RunRecord) -> list[Block]:
    """Tables of the splits, of the overlap between them, and of the data files."""
    return [*_build_splits(run), *_build_overlap(run), *_build_files(get_mapping(run.manifest.get("data")))]


def _build_splits(run: RunRecord) -> list[Block]:
    # A run that has not finished has no report yet: its manifest, written before training, has the rows of each split.
    splits = get_mapping(run.report.get("data")) or get_mapping(get_mapping(run.manifest.get("data")).get("splits"))
    counted = {split: get_mapping(given) for split, given in splits.items()}
    found = {name for given in counted.values() for name, value in given.items() if _is_count(value)}
    names = [*(name for name in COUNTS if name in found), *sorted(found - set(COUNTS))]
    rows = [[_format_name(name), *(_format_count(given.get(name)) for given in counted.values())] for name in names]
    return [*make_table("Splits", ["", *counted], rows), *_build_label_counts(counted)]


def _build_label_counts(counted: dict[str, dict[str, Any]]) -> list[Block]:
    by_split = {split: get_mapping(given.get("labels")) for split, given in counted.items()}
    names = list(dict.fromkeys(name for given in by_split.values() for name in given))
    rows = [[name, *(_format_count(given.get(name)) for given in by_split.values())] for name in names]
    return make_table("Rows of each label", ["label", *by_split], rows)


def _build_overlap(run: RunRecord) -> list[Block]:
    found = get_mapping(get_mapping(run.manifest.get("data")).get("overlap"))
    given = {split: get_mapping(counts) for split, counts in found.items()}
    names = list(dict.fromkeys(name for counts in given.values() for name in counts if _is_count(counts[name])))
    rows = [[split, *(_format_count(counts.get(name)) for name in names)] for split, counts in given.items()]
    return make_table("Rows that the training rows hold, too", ["split", *map(_format_name, names)], rows)


def _build_files(given: dict[str, Any]) -> list[Block]:
    columns = ("file", "for", "rows", "rejected lines", "bytes", "sha256")
    rows = [
        [
            str(file.get("path")),
            str(file.get("role", "")),
            *(_format_count(file.get(name)) for name in ("rows", "rejected", "bytes")),
            str(file.get("sha256", ""))[:HASH_CHARACTERS],
        ]
        for file in get_objects(given.get("files"))
    ]
    said = f" ({given['format']} rows)" if isinstance(given.get("format"), str) else ""
    return make_table(f"Files{said}; of each hash the first {HASH_CHARACTERS} digits", columns, rows)


def build_parameters(run: RunRecord) -> list[Block]:
    """Parameters by component, and how many were trained."""
    given = get_mapping(run.report.get("parameters"))
    total, trainable = parse_number(given.get("total")), parse_number(given.get("trainable"))
    if not total or trainable is None:
        return []
    rows: list[list[Cell]] = []
    for name in COMPONENTS:
        count = parse_number(given.get(name))
        if count:
            share = count / total
            strip = Strip(round(100 * share, 1))
            rows.append([_format_name(name), f"{count:,.0f}", format_share(share, 1), strip])
    said = f"{trainable:,.0f} of {total:,.0f} parameters were trained ({format_share(trainable / total)})."
    said = f"All {total:,.0f} parameters were trained." if trainable == total else said
    return [
        *make_paragraphs([said]),
        *make_table("Parameters by component", ("component", "parameters", "share", ""), rows),
    ]


def build_reproduction(run: RunRecord) -> list[Block]:
    """What it takes to reproduce the run: command, machine, settings, versions and hashes."""
    launch = run.manifest.get("launch")
    settings = [[key, shorten(value, MAX_CELL_CHARACTERS)] for key, value in flatten_settings(run.settings).items()]
    versions = get_mapping(run.manifest.get("versions")) or get_mapping(
        get_mapping(run.report.get("environment")).get("versions")
    )
    blocks: list[Block] = [Code("The command that made this run", launch)] if isinstance(launch, str) else []
    blocks += _build_machine(run)
    for summary, found in (
        (
            "Settings",
            make_table("Settings that were set, or chosen by default", ("setting", "value"), settings, texts=True),
        ),
        (
            "Versions",
            make_table(
                "Versions", ("package", "version"), [[name, str(value)] for name, value in versions.items()], texts=True
            ),
        ),
        ("Hashes of the files", _build_hashes(run)),
    ):
        blocks += [More(summary, tuple(found))] if found else []
    return blocks


def _build_machine(run: RunRecord) -> list[Block]:
    environment, distributed = get_mapping(run.report.get("environment")), get_mapping(run.report.get("distributed"))
    train = get_mapping(run.report.get("train"))
    energy = get_mapping(train.get("energy"))
    devices = ", ".join(str(device.get("name")) for device in get_objects(environment.get("devices")))
    watt_hours = parse_number(energy.get("watt_hours"))
    waited = get_mapping(distributed.get("waited_s"))
    least, most = (parse_number(waited.get(each)) for each in ("min", "max"))
    items = {
        "python": environment.get("python"),
        "system": environment.get("system"),
        "devices": devices or None,
        "seed": run.manifest.get("seed"),
        "run id": run.report.get("run_id"),
        "optimizer": train.get("optimizer"),
        "attention": train.get("attention"),
        **{_format_name(name): value for name, value in distributed.items() if name not in ("waited_s", "restarts")},
        "restarted": "; ".join(describe_restarts(run)) or None,
        "waited for others": None if least is None or most is None else f"{least:,.1f} to {most:,.1f} s a process",
        "energy": None if watt_hours is None else f"{watt_hours:.3g} Wh ({energy.get('source')})",
    }
    shown = tuple((name, str(value)) for name, value in items.items() if value is not None)
    return [Facts(shown)] if shown else []


def _build_hashes(run: RunRecord) -> list[Block]:
    hashes = {str(name): str(value) for name, value in get_mapping(run.manifest.get("files")).items()}
    read = get_objects(get_mapping(run.manifest.get("data")).get("files"))
    hashes |= {f"data: {file.get('path')}": str(file.get("sha256")) for file in read}
    return make_table("sha256", ("file", "sha256"), [[name, value] for name, value in hashes.items()], texts=True)


def _is_count(value: Any) -> bool:
    return parse_number(value) is not None and not isinstance(value, str)


def _format_count(value: Any) -> str:
    found = parse_number(value)
    if found is None or not math.isfinite(found):
        return ""
    return f"{found:,.0f}" if found == round(found) else f"{found:,.3f}"


def _format_name(name: str) -> str:
    return name.replace("_", " ")
