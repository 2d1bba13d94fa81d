"""What the files of a model folder say about the model: kind, task, labels, and base."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from hf_finetune.files import read_bounded_yaml
from hf_finetune.folders import CARD, EXPORT
from hf_finetune.folders.decision_record import DECISION, read_decision_record
from hf_finetune.privacy import redact
from hf_finetune.reporting.run_record import RunRecord

# A repository of the Hub: owner/name, or a name alone as in "gpt2".
_HUB_ID = re.compile(r"[\w][\w.-]*(/[\w][\w.-]*)?", re.ASCII)
_METADATA = re.compile(r"\A---\n(.*?)\n---\n", re.DOTALL)
_PROBLEMS: dict[str, Literal["single", "multi", "number"]] = {
    "single_label_classification": "single",
    "multi_label_classification": "multi",
    "regression": "number",
}


@dataclass(frozen=True)
class BaseModelInfo:
    """The model that this one was fine-tuned from."""

    name: str
    """A Hub id, or a local path as `redact` leaves it."""
    on_hub: bool
    revision: str | None = None
    own_base: str | None = None
    """`base_model` of the model card of a local base."""
    custom_code: bool = False


@dataclass(frozen=True)
class ModelDescription:
    """A model folder, as its own files describe it."""

    kind: Literal["model", "adapter", "none"]
    """`none`: the folder holds no weights, only scores."""
    task: Literal["text-generation", "text-classification"]
    problem: Literal["single", "multi", "number"] | None = None
    """Of a classifier: single-label, multi-label, or regression."""
    labels: dict[int, str] = field(default_factory=dict)
    offsets: list[float] = field(default_factory=list)
    """(labels,) added to the logits to apply the thresholds of decision.json; [] if the head holds them, or none do."""
    chat: bool = False
    custom_code: bool = False
    """The folder (for an adapter: its base) holds modeling code, which needs `trust_remote_code`."""
    base: BaseModelInfo | None = None
    vocab_size: int | None = None
    """Of an adapter: rows of the embedding where they are more than its base has; None where they are as many."""
    own_generation: bool = False
    """The folder of an adapter has generation settings, which take the place of its base's."""
    quantization: str | None = None
    """How the base of an adapter was quantized for training, such as `4 bit`; None if it was not."""
    exported: str | None = None
    """The target of an export whose weights transformers does not read, such as `onnx`."""

    @property
    def label_numbers(self) -> dict[str, int]:
        return {name: number for number, name in self.labels.items()}


def describe_model(run: RunRecord) -> ModelDescription:
    """Describe the model in the run's folder by its JSON files alone; no weights are loaded.

    Files: `config.json`, or for an adapter `adapter_config.json` and our `base_model.json`.
    """
    config, adapter = _read_json(run.folder / "config.json"), _read_json(run.folder / "adapter_config.json")
    record = _read_json(run.folder / "base_model.json")
    base = _find_base_model(run, record.get("name_or_path") or adapter.get("base_model_name_or_path"))
    if adapter:
        described = record.get("classifier") or {}
        classifies = adapter.get("task_type") == "SEQ_CLS"
        code = base is not None and base.custom_code
    else:
        described, code = config, "auto_map" in config
        classifies = any(str(name).endswith("ForSequenceClassification") for name in config.get("architectures") or ())
    labels = described.get("id2label") if classifies else None
    return ModelDescription(
        kind="adapter" if adapter else "model" if (run.folder / "config.json").is_file() else "none",
        task="text-classification" if classifies or run.report.get("recipe") == "classification" else "text-generation",
        problem=_PROBLEMS.get(str(described.get("problem_type")), "single") if classifies else None,
        labels={int(number): str(name) for number, name in (labels or {}).items()},
        offsets=_compute_offsets(run.folder / DECISION) if classifies else [],
        chat=_has_chat_template(run.folder),
        custom_code=code,
        base=base,
        vocab_size=record.get("vocab_size") if adapter else None,
        own_generation=bool(adapter) and (run.folder / "generation_config.json").is_file(),
        quantization=_format_quantization(record.get("quantization")) if adapter else None,
        exported=_find_target(run.folder),
    )


def _find_target(folder: Path) -> str | None:
    target = _read_json(folder / EXPORT).get("target")
    readable = any(folder.glob("*.safetensors"))
    return target if isinstance(target, str) and not readable else None


def parse_card_metadata(folder: Path) -> dict[str, Any]:
    """The YAML metadata of the model card in `folder`; {} where there is none that can be parsed."""
    try:
        found = _METADATA.match((folder / CARD).read_text(encoding="utf-8"))
        values = read_bounded_yaml(found[1]) if found else {}
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}


def _find_base_model(run: RunRecord, recorded: str | None) -> BaseModelInfo | None:
    """The base that the run recorded; without a record, a path is a Hub id unless such a folder exists here."""
    section = run.settings.get("model")
    section = section if isinstance(section, dict) else {}
    path = recorded or run.model_path or section.get("path")
    if not path or section.get("scratch") is not None or run.report.get("recipe") == "score":
        return None
    written = run.manifest.get("model")
    written = written if isinstance(written, dict) else {}
    folder = Path(path).expanduser()
    # "models/base" may be a Hub id or a folder: a recorded revision says Hub, recorded file hashes say folder.
    known_local = not written.get("revision") and (bool(written.get("sha256")) or folder.is_dir())
    if _HUB_ID.fullmatch(path) and not known_local:
        return BaseModelInfo(path, True, revision=written.get("revision") or section.get("revision"))
    own = parse_card_metadata(folder).get("base_model")
    code = "auto_map" in _read_json(folder / "config.json")
    shown = redact(recorded or section.get("path") or path)
    return BaseModelInfo(shown, False, own_base=own if isinstance(own, str) else None, custom_code=code)


def _compute_offsets(path: Path) -> list[float]:
    """(labels,) offsets for the logits so that argmax (multi-label: > 0) applies the thresholds; [] if needless.

    Raises `ModelError` for a decision with a value of another kind.

    Needless where there is no such file, where the head holds them already, or where all thresholds are those of plain
    argmax (0.5, or 1 / labels).
    """
    # One label: the largest p / threshold wins, which is the largest logit - log(threshold).
    # thresholds 0.8 and 0.2 -> [0.22, 1.61]. Several: p > 0.2 is logit > log(0.2 / 0.8) -> [1.39].
    if not path.exists():
        return []
    decision = read_decision_record(path)
    thresholds = [decision.thresholds[label] for label in decision.labels]
    even = 0.5 if decision.kind == "multi" else 1 / len(thresholds)
    if decision.offsets_in_weights or all(math.isclose(threshold, even) for threshold in thresholds):
        return []
    if decision.kind == "multi":
        return [math.log1p(-threshold) - math.log(threshold) for threshold in thresholds]
    return [-math.log(threshold) for threshold in thresholds]


def _has_chat_template(folder: Path) -> bool:
    return (folder / "chat_template.jinja").is_file() or "chat_template" in _read_json(folder / "tokenizer_config.json")


def _format_quantization(quantization: Any) -> str | None:
    if not isinstance(quantization, dict):
        return None
    return "4 bit" if quantization.get("load_in_4bit") else "8 bit" if quantization.get("load_in_8bit") else None


def _read_json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}
