"""What makes a run reproducible: samples, data, parameters, settings, versions, hashes, and the command."""

from __future__ import annotations

from typing import Any

from hf_finetune.metric_info import number
from hf_finetune.reporting.page.blocks import (
    MOST_IN_A_CELL,
    Block,
    Cell,
    Code,
    Exchange,
    Facts,
    More,
    Samples,
    Strip,
    flat,
    mapping,
    objects,
    shortened,
    table,
    words,
)
from hf_finetune.reporting.run_record import RunRecord

MOST_PROMPTS = 40
COMPONENTS = ("embeddings", "attention", "feed_forward", "norms", "head", "other")
# Counts of a split in display order; any others follow by name.
COUNTS = ("rows", "dropped", "truncated", "tokens", "trained_tokens", "longest")
HASH_SHOWN = 16


def samples(run: RunRecord) -> list[Block]:
    """The first and the last completion of each prompt: before and after training, if it was sampled before."""
    by_prompt: dict[str, list[dict[str, Any]]] = {}
    for each in objects(run.report.get("samples")):
        if isinstance(each.get("prompt"), str) and isinstance(each.get("continuation"), str):
            by_prompt.setdefault(each["prompt"], []).append(each)
    exchanges = [
        Exchange(
            shortened(prompt),
            tuple(_answer(each) for each in (given[:1] if given[0] is given[-1] else [given[0], given[-1]])),
        )
        for prompt, given in by_prompt.items()
    ]
    if not exchanges:
        return []
    left_out = len(exchanges) - MOST_PROMPTS
    more = words([f"… and {left_out:,} more prompts in report.json."] if left_out > 0 else [])
    return [Samples(tuple(exchanges[:MOST_PROMPTS])), *more]


def _answer(sample: dict[str, Any]) -> tuple[str, str]:
    step = sample.get("step")
    when = "before training" if step == 0 else f"step {step:,}" if isinstance(step, int) else "answer"
    ended = {"True": ", ended by itself", "False": ", cut off"}.get(str(sample.get("finished")), "")
    tokens = number(sample.get("tokens"))
    return f"{when}{'' if tokens is None else f': {tokens:,.0f} tokens{ended}'}", shortened(sample["continuation"])


def data(run: RunRecord) -> list[Block]:
    """Tables of the splits, of the overlap between them, and of the data files."""
    return [*_splits(run), *_overlap(run), *_files(mapping(run.manifest.get("data")))]


def _splits(run: RunRecord) -> list[Block]:
    # A run that has not finished has no report yet: its manifest, written before training, has the rows of each split.
    splits = mapping(run.report.get("data")) or mapping(mapping(run.manifest.get("data")).get("splits"))
    counted = {split: mapping(given) for split, given in splits.items()}
    found = {name for given in counted.values() for name, value in given.items() if _is_count(value)}
    names = [*(name for name in COUNTS if name in found), *sorted(found - set(COUNTS))]
    rows = [[_words(name), *(_count(given.get(name)) for given in counted.values())] for name in names]
    return [*table("Splits", ["", *counted], rows), *_label_counts(counted)]


def _label_counts(counted: dict[str, dict[str, Any]]) -> list[Block]:
    by_split = {split: mapping(given.get("labels")) for split, given in counted.items()}
    names = list(dict.fromkeys(name for given in by_split.values() for name in given))
    rows = [[name, *(_count(given.get(name)) for given in by_split.values())] for name in names]
    return table("Rows of each label", ["label", *by_split], rows)


def _overlap(run: RunRecord) -> list[Block]:
    found = mapping(mapping(run.manifest.get("data")).get("overlap"))
    given = {split: mapping(counts) for split, counts in found.items()}
    names = list(dict.fromkeys(name for counts in given.values() for name in counts if _is_count(counts[name])))
    rows = [[split, *(_count(counts.get(name)) for name in names)] for split, counts in given.items()]
    return table("Rows that the training rows hold, too", ["split", *map(_words, names)], rows)


def _files(given: dict[str, Any]) -> list[Block]:
    columns = ("file", "for", "rows", "rejected lines", "bytes", "sha256")
    rows = [
        [
            str(file.get("path")),
            str(file.get("role", "")),
            *(_count(file.get(name)) for name in ("rows", "rejected", "bytes")),
            str(file.get("sha256", ""))[:HASH_SHOWN],
        ]
        for file in objects(given.get("files"))
    ]
    said = f" ({given['format']} rows)" if isinstance(given.get("format"), str) else ""
    return table(f"Files{said}; of each hash the first {HASH_SHOWN} digits", columns, rows)


def parameters(run: RunRecord) -> list[Block]:
    """Parameters by component, and how many were trained."""
    given = mapping(run.report.get("parameters"))
    total, trainable = number(given.get("total")), number(given.get("trainable"))
    if not total or trainable is None:
        return []
    rows: list[list[Cell]] = []
    for name in COMPONENTS:
        count = number(given.get(name))
        if count:
            rows.append([_words(name), f"{count:,.0f}", f"{count / total:.1%}", Strip(round(100 * count / total, 1))])
    said = f"{trainable:,.0f} of {total:,.0f} parameters were trained ({trainable / total:.2%})."
    said = f"All {total:,.0f} parameters were trained." if trainable == total else said
    return [*words([said]), *table("Parameters by component", ("component", "parameters", "share", ""), rows)]


def again(run: RunRecord) -> list[Block]:
    """What it takes to reproduce the run: command, machine, settings, versions and hashes."""
    launch = run.manifest.get("launch")
    settings = [[key, shortened(value, MOST_IN_A_CELL)] for key, value in flat(run.settings).items()]
    versions = mapping(run.manifest.get("versions")) or mapping(mapping(run.report.get("environment")).get("versions"))
    blocks: list[Block] = [Code("The command that made this run", launch)] if isinstance(launch, str) else []
    blocks += _machine(run)
    for summary, found in (
        ("Settings", table("Settings that were set, or chosen by default", ("setting", "value"), settings, texts=True)),
        (
            "Versions",
            table(
                "Versions", ("package", "version"), [[name, str(value)] for name, value in versions.items()], texts=True
            ),
        ),
        ("Hashes of the files", _hashes(run)),
    ):
        blocks += [More(summary, tuple(found))] if found else []
    return blocks


def _machine(run: RunRecord) -> list[Block]:
    environment, distributed = mapping(run.report.get("environment")), mapping(run.report.get("distributed"))
    train = mapping(run.report.get("train"))
    energy = mapping(train.get("energy"))
    devices = ", ".join(str(device.get("name")) for device in objects(environment.get("devices")))
    watt_hours = number(energy.get("watt_hours"))
    items = {
        "python": environment.get("python"),
        "system": environment.get("system"),
        "devices": devices or None,
        "seed": run.manifest.get("seed"),
        "run id": run.report.get("run_id"),
        "optimizer": train.get("optimizer"),
        "attention": train.get("attention"),
        **{_words(name): value for name, value in distributed.items()},
        "energy": None if watt_hours is None else f"{watt_hours:.3g} Wh ({energy.get('source')})",
    }
    shown = tuple((name, str(value)) for name, value in items.items() if value is not None)
    return [Facts(shown)] if shown else []


def _hashes(run: RunRecord) -> list[Block]:
    hashes = {str(name): str(value) for name, value in mapping(run.manifest.get("files")).items()}
    read = objects(mapping(run.manifest.get("data")).get("files"))
    hashes |= {f"data: {file.get('path')}": str(file.get("sha256")) for file in read}
    return table("sha256", ("file", "sha256"), [[name, value] for name, value in hashes.items()], texts=True)


def _is_count(value: Any) -> bool:
    return number(value) is not None and not isinstance(value, str)


def _count(value: Any) -> str:
    found = number(value)
    if found is None:
        return ""
    return f"{found:,.0f}" if found == round(found) else f"{found:,.3f}"


def _words(name: str) -> str:
    return name.replace("_", " ")
