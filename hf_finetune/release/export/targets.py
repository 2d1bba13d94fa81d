"""The targets of an export: what each is called, needs and takes; its module is imported when it is used."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, cast

from hf_finetune.release.export.values import GGUF_QUANTS, VLLM_QUANTS

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedTokenizerFast

    from hf_finetune.release.export.options import ExportOptions
    from hf_finetune.release.export.runtimes import Runtime
    from hf_finetune.release.export.source import Source
    from hf_finetune.release.export.template_parity import TemplateParity

Measure = Literal["logits", "loss"]


@dataclass(frozen=True, slots=True)
class Tolerance:
    """How far an export may be from the run."""

    measure: Measure
    """logits: the largest difference, as a share of the largest logit where that is above 1; answers may then differ
    only where two tokens are as near. loss: the relative difference of the mean loss."""
    most: float


@dataclass(frozen=True, slots=True)
class Written:
    """What a target has to say of what it wrote."""

    left_out: tuple[str, ...] = ()
    """What the run has and the export has not, each in words."""
    figures: Mapping[str, Any] = field(default_factory=dict)
    """Of its own, such as sizes: they stand in export.json."""
    templates: tuple[TemplateParity, ...] = ()
    """How its programs render the chat template, beside the tokenizer in its folder."""


class Exporter(Protocol):
    """What the module of a target has."""

    def check(
        self, config: PreTrainedConfig, tokenizer: PreTrainedTokenizerFast, options: ExportOptions, path: str
    ) -> None:
        """Raise `ConfigError` or `ModelError` for what cannot be exported so: before weights are read.

        `path` is what the user named, for the message.
        """

    def get_tolerance(self, options: ExportOptions) -> Tolerance:
        """How far it may be from the run unless --tolerance says another number."""

    def write(self, source: Source, folder: Path, options: ExportOptions) -> Written:
        """Write the whole export into `folder`, which exists and is empty."""

    def open_runtime(self, folder: Path, options: ExportOptions) -> Runtime:
        """Open what was written in the target's own runtime."""


@dataclass(frozen=True, slots=True)
class Target:
    module: str
    """With the functions of an `Exporter`."""
    packages: tuple[str, ...] = ()
    """To be installed, by the names that are imported."""
    extra: str = ""
    """Of pyproject.toml, which brings them."""
    options: tuple[str, ...] = ()
    """Fields of `ExportOptions` that it takes beside those of all."""
    architectures: tuple[str, ...] = ()
    """Those that a ScratchGPT is put into on the way there; none where it is taken as it is."""
    quants: tuple[str, ...] = ()
    """What `quant` may be."""

    def load(self) -> Exporter:
        return cast(Exporter, import_module(self.module))


# Of those that `--to llama` writes, the ones that GGUF files are written of.
OF_LLAMA_CPP = ("LlamaForCausalLM", "Qwen3ForCausalLM", "GPT2LMHeadModel")
# GPT-2 has no linear layers, which alone are quantized for vLLM.
OF_VLLM = ("LlamaForCausalLM", "Qwen3ForCausalLM")

TARGETS: dict[str, Target] = {
    "onnx": Target("hf_finetune.release.export.onnx", ("onnx", "onnxruntime", "onnxscript"), "onnx", ("int8", "opset")),
    "llama": Target("hf_finetune.release.export.llama"),
    "gguf": Target(
        "hf_finetune.release.export.gguf",
        *(("xllamacpp",), "llamacpp", ("quant", "adapter_only"), OF_LLAMA_CPP, GGUF_QUANTS),
    ),
    "ollama": Target(
        "hf_finetune.release.export.ollama", ("xllamacpp",), "llamacpp", ("quant",), OF_LLAMA_CPP, GGUF_QUANTS
    ),
    "vllm": Target(
        "hf_finetune.release.export.vllm", ("compressed_tensors",), "compressed", ("quant",), OF_VLLM, VLLM_QUANTS
    ),
}
