"""The training procedure for the model card: data with hashes, settings, machine and command."""

from __future__ import annotations

from typing import Any

from hf_finetune.metric_info import format_metric, get_metric_info
from hf_finetune.reporting.card.facts import ModelDescription
from hf_finetune.reporting.card.results import format_data_name, get_data_sha256
from hf_finetune.reporting.restarts import describe_restarts
from hf_finetune.reporting.run_record import RunRecord, get_selection_metric
from hf_finetune.shell import shell_path

RECIPES = {
    "continued_pretraining": "Continued pretraining: the next tokens of documents",
    "sft": "Instruction tuning of all parameters",
    "lora": "Instruction tuning of a LoRA adapter on a frozen base",
    "classification": "Classification",
}
# Settings that change what is learned; run.yaml has all.
TRAIN_SETTINGS = (
    *("optim", "learning_rate", "lr_scheduler_type", "warmup_steps", "weight_decay", "max_grad_norm"),
    *("per_device_train_batch_size", "gradient_accumulation_steps", "num_train_epochs", "max_steps", "max_length"),
    *("packing", "loss_type", "label_smoothing_factor", "neftune_noise_alpha", "bf16", "fp16"),
    *("load_best_model_at_end", "metric_for_best_model", "early_stopping_patience", "seed"),
)
LORA_SETTINGS = (
    *("r", "lora_alpha", "lora_dropout", "target_modules", "modules_to_save", "init_lora_weights"),
    *("use_dora", "use_rslora", "bias"),
)
CHAT_SETTINGS = ("loss_on", "too_long", "chat_template")
DATA_SETTINGS = {
    "continued_pretraining": ("block_size", "isolate_documents"),
    "sft": CHAT_SETTINGS,
    "lora": CHAT_SETTINGS,
    "classification": ("balance", "max_length"),
}
COLUMNS = {"rows": "Rows", "tokens": "Tokens", "trained_tokens": "Trained tokens", "dropped": "Left out"}

Rows = list[list[str]]


def get_recipe(run: RunRecord) -> str:
    return str(run.report.get("recipe") or run.settings.get("recipe"))


def describe_making(run: RunRecord) -> str:
    """Recipe and data in one sentence; "" where one of them is not known."""
    # "Instruction tuning of all parameters, on 900 rows of train.jsonl."
    recipe, train = RECIPES.get(get_recipe(run)), run.report.get("data", {}).get("train")
    rows = train.get("rows") if isinstance(train, dict) else None
    if recipe is None or not isinstance(rows, int):
        return ""
    return f"{recipe}, on {rows:,} rows of {format_data_name(run, 'train')}."


def build_split_rows(run: RunRecord) -> Rows:
    """Counts and row hash of each split; the first row is the header."""
    splits = {name: counted for name, counted in run.report.get("data", {}).items() if isinstance(counted, dict)}
    names = [name for name in COLUMNS if any(name in counted for counted in splits.values())]
    head = ["Split", *(COLUMNS[name] for name in names), "sha256"]
    rows = [
        [split, *(_format_value(counted.get(name)) for name in names), get_data_sha256(run, split) or ""]
        for split, counted in splits.items()
    ]
    return [head, *rows] if rows else []


def build_file_rows(run: RunRecord) -> Rows:
    """Line counts and hash of each data file; the first row is the header."""
    files = run.manifest.get("data", {}).get("files", [])
    rows = [
        [
            str(file.get("path", "")),
            str(file.get("role", "")),
            *(_format_value(file.get(name)) for name in ("lines", "accepted", "rejected")),
            str(file.get("sha256", "")),
        ]
        for file in files
    ]
    return [["File", "For", "Lines", "Taken", "Rejected", "sha256"], *rows] if rows else []


def describe_overlap(run: RunRecord) -> list[str]:
    """How many validation and test rows also are, or overlap with, training rows: a sentence per split."""
    found = []
    for split, counts in run.manifest.get("data", {}).get("overlap", {}).items():
        said = [f"{count:,} {name.replace('_', ' ')}" for name, count in counts.items() if isinstance(count, int)]
        found.append(f"{split} beside the training rows: {', '.join(said)}")
    return found


def describe_stream(run: RunRecord) -> list[str]:
    """What was read of the shards of a run that streams: a sentence; [] of other runs."""
    train = run.report.get("data", {}).get("train")
    if not isinstance(train, dict) or not {"shards", "passes", "rows", "tokens"} <= train.keys():
        return []
    shards, passes, rows, tokens = (_format_value(train[name]) for name in ("shards", "passes", "rows", "tokens"))
    # Whole shards are counted: of a first one that was not read to its end, no share is known.
    over = (
        f"{passes} passes" if isinstance(train["passes"], int | float) and train["passes"] >= 1 else "less than a pass"
    )
    return [f"train was a stream of {shards} shards, of which {rows} rows, {tokens} tokens were read ({over})"]


def build_setting_rows(run: RunRecord) -> Rows:
    """The settings that change what is learned; the first row is the header."""
    of_data = DATA_SETTINGS.get(get_recipe(run), ())
    sections = {"train": TRAIN_SETTINGS, "lora": LORA_SETTINGS, "data": of_data}
    rows = []
    for section, names in sections.items():
        given = run.settings.get(section)
        if isinstance(given, dict):
            rows += [[f"{section}.{name}", _format_value(given[name])] for name in names if given.get(name) is not None]
    return [["Setting", "Value"], *rows] if rows else []


def describe_training(run: RunRecord) -> str | None:
    """Steps, epochs, time, speed and the selected checkpoint; None where nothing was trained."""
    train = run.report.get("train", {})
    if not train.get("steps"):
        return f"Stopped after {run.step:,} steps." if run.step else None
    said = f"{train['steps']:,} steps"
    if isinstance(train.get("epochs"), int | float):
        said += f" ({train['epochs']:.2f} epochs)"
    seen = train.get("seen")
    if isinstance(seen, dict) and {"tokens", "trained_tokens"} <= seen.keys():
        said += f", {seen['tokens']:,} tokens seen, of which {seen['trained_tokens']:,} trained"
    if isinstance(train.get("runtime_s"), int | float):
        said += f" in {_format_duration(train['runtime_s'])}"
    if isinstance(train.get("tokens_per_s"), int | float):
        said += f", {train['tokens_per_s']:,.0f} tokens/s"
    metric = get_selection_metric(run)
    if metric is not None:
        best = "highest" if get_metric_info(metric).better == "higher" else "lowest"
        said += f"; the weights are those of {run.best_checkpoint}, whose {get_metric_info(metric).title} "
        said += f"on validation was the {best}, {format_metric(metric, train.get('best_metric'))}"
    return f"{said}."


def describe_machine(run: RunRecord) -> str | None:
    """Devices, processes, mixed precision and restarts of a run; None where nothing was recorded."""
    devices = run.report.get("environment", {}).get("devices", [])
    ran = run.report.get("distributed", {})
    if not devices and not ran:
        return None
    kind = str(ran.get("device", "cpu"))
    known = [each for each in devices if each.get("kind") == kind and {"name", "memory_gib"} <= each.keys()]
    used = [f"{device['name']} ({device['memory_gib']:.0f} GiB)" for device in known]
    said = f"{', '.join(used) or kind}; {ran.get('processes', 1)} process(es), strategy {ran.get('strategy', 'NO')}"
    again = "".join(f"; restarted {each}" for each in describe_restarts(run))
    return f"{said}, mixed precision {ran.get('mixed_precision', 'no')}{again}."


def describe_energy(run: RunRecord) -> str:
    energy = run.report.get("train", {}).get("energy")
    if not isinstance(energy, dict) or "watt_hours" not in energy:
        return "Not measured."
    return f"{energy['watt_hours']:,.1f} Wh while training ({energy.get('source', 'source not known')})."


def describe_versions(run: RunRecord) -> str | None:
    versions = run.manifest.get("versions") or run.report.get("environment", {}).get("versions") or {}
    return ", ".join(f"{name} {version}" for name, version in versions.items()) or None


def use_line(facts: ModelDescription, place: str) -> str:
    """The command that uses the model in `place`."""
    if facts.task == "text-classification":
        return f"hf-finetune predict {shell_path(place)} rows.jsonl"
    return f"hf-finetune generate {shell_path(place)} 'a text'"


def _format_value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, list):
        return ", ".join(_format_value(item) for item in value)
    if isinstance(value, dict):
        return ", ".join(f"{name}: {_format_value(item)}" for name, item in value.items())
    return value if isinstance(value, str) else "" if value is None else f"{value:g}"


def _format_duration(seconds: float) -> str:
    minutes, left = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {left} s" if minutes else f"{left} s"
