"""A model by its configuration, without its weights; and the models that are on the disk."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from hf_finetune.config.model_files.kinds import is_classifier
from hf_finetune.config.model_files.regular import read_object
from hf_finetune.config.sections import ModelSection
from hf_finetune.errors import ModelError
from hf_finetune.preflight.plan.memory import Shape

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedTokenizerFast

ModelKind = Literal["decoder", "encoder", "classifier"]
MOST_FOLDERS = 2_000
DEEPEST = 3
_ENCODERS = ("bert", "electra", "mpnet")
"""Parts of `model_type`: roberta, xlm-roberta, modernbert and so on have the first."""
_SKIPPED = ("node_modules", "__pycache__", "site-packages")


@dataclass(frozen=True, slots=True)
class Candidate:
    """A model on the disk, as far as its JSON files and the sizes of its weights tell."""

    path: str
    kind: ModelKind
    parameters: int
    speaks: bool
    """It has a chat template."""


@dataclass(frozen=True, slots=True)
class ModelFound:
    """A model that a run may start from."""

    path: str
    kind: ModelKind
    shape: Shape
    speaks: bool
    longest: int | None
    """Tokens that it takes."""
    labels: tuple[str, ...] = ()
    """Of a classifier."""


def look_at_model(path: str) -> tuple[ModelFound, PreTrainedTokenizerFast]:
    """Look at a folder or Hub id: its configuration and tokenizer, no weights. Raises ModelError where it has none."""
    from hf_finetune.models.lengths import get_max_length
    from hf_finetune.models.loading import load_config
    from hf_finetune.models.tokenizers import load_tokenizer

    section = ModelSection(path=path)
    tokenizer = load_tokenizer(section, needs_end=False)
    config = load_config(section, tokenizer)
    kind = _find_kind(path, config)
    found = ModelFound(
        path=path,
        kind=kind,
        shape=measure_shape(config, classifier=kind != "decoder"),
        speaks=bool(tokenizer.chat_template),
        longest=get_max_length(tokenizer, config),
        labels=tuple(map(str, (config.id2label or {}).values())) if kind == "classifier" else (),
    )
    return found, tokenizer


def _find_kind(path: str, config: PreTrainedConfig) -> ModelKind:
    from hf_finetune.models.files.language_models import check_language_model

    if any(str(name).endswith("ForSequenceClassification") for name in config.architectures or ()):
        return "classifier"
    try:
        check_language_model(path, None)
    except ModelError:
        return "encoder"
    return "decoder"


def measure_shape(config: PreTrainedConfig, *, classifier: bool) -> Shape:
    """Measure the sizes of a model by building it without memory for its weights."""
    import torch
    from transformers import AutoModel, AutoModelForCausalLM

    with torch.device("meta"):
        # No formula knows every architecture: tied embeddings, gated feed-forward parts, experts.
        auto_class: Any = AutoModel if classifier else AutoModelForCausalLM
        built = auto_class.from_config(config)
    text: Any = config.get_text_config()
    hidden = int(text.hidden_size)
    inner = getattr(text, "intermediate_size", None) or getattr(text, "n_inner", None) or 4 * hidden
    return Shape(
        parameters=sum(weight.numel() for weight in built.parameters()),
        hidden=hidden,
        layers=int(text.num_hidden_layers),
        intermediate=int(inner),
        heads=int(getattr(text, "num_attention_heads", None) or 1),
        vocabulary=0 if classifier else int(text.vocab_size),
        dropout=bool(getattr(text, "attention_probs_dropout_prob", 0) or getattr(text, "attention_dropout", 0)),
    )


def list_models() -> list[Candidate]:
    """List the models below this folder and in the Hub's cache; adapters are not among them, nor checkpoints."""
    from huggingface_hub.constants import HF_HUB_CACHE

    found = [each for folder in _walk(Path("."), DEEPEST) if (each := _describe(folder, str(folder))) is not None]
    # "models--org--my-model" -> "org/my-model". Its snapshots are named by commits, of which no order tells the newest.
    for repository in sorted(Path(HF_HUB_CACHE).glob("models--*--*")):
        name = repository.name.removeprefix("models--").replace("--", "/", 1)
        described = (_describe(snapshot, name) for snapshot in sorted(repository.glob("snapshots/*")))
        found += [each for each in described if each is not None][-1:]
    return found


def _walk(top: Path, depth: int) -> Iterator[Path]:
    """Yield the folders below `top`, the nearest first."""
    # Level by level and bounded: this folder may be a home, or the root of a disk, and links may lead around.
    level, seen = [top], 0
    for _ in range(depth):
        below = []
        for folder in level:
            for entry in _list_folders(folder):
                seen += 1
                if seen > MOST_FOLDERS:
                    return
                below.append(entry)
                yield entry
        level = below


def _list_folders(folder: Path) -> list[Path]:
    try:
        names = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir())
    except OSError:
        return []
    return [folder / name for name in names if not name.startswith((".", "checkpoint-")) and name not in _SKIPPED]


def _describe(folder: Path, name: str) -> Candidate | None:
    """Describe a model by what lies in its folder; None where it holds none."""
    weights = list(folder.glob("*.safetensors"))
    config = read_object(folder / "config.json") if weights and (folder / "config.json").is_file() else None
    kind = None if config is None else config.get("model_type")
    if config is None or not isinstance(kind, str) or (folder / "adapter_config.json").exists():
        return None
    # The weights themselves are not opened: a folder may hold hundreds of gigabytes of them.
    width = 2 if str(config.get("dtype") or config.get("torch_dtype")) in ("bfloat16", "float16") else 4
    try:
        parameters = sum(each.stat().st_size for each in weights) // width
    except OSError:
        return None
    tokenizer = read_object(folder / "tokenizer_config.json") if (folder / "tokenizer_config.json").is_file() else {}
    speaks = (folder / "chat_template.jinja").is_file() or bool((tokenizer or {}).get("chat_template"))
    encoder = any(each in kind for each in _ENCODERS) or bool(config.get("is_encoder_decoder"))
    own: ModelKind = "classifier" if is_classifier(folder) else "encoder" if encoder else "decoder"
    return Candidate(name, own, parameters, speaks)
