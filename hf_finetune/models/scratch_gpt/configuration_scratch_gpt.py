"""Configuration of a ScratchGPT."""

from typing import TYPE_CHECKING, Any, Literal, Optional, TypeVar

from huggingface_hub.dataclasses import strict
from transformers.configuration_utils import PreTrainedConfig

T = TypeVar("T")
# Type of a field that defaults by family: None may be passed, and `__post_init__` replaces it.
if TYPE_CHECKING:
    from typing import Annotated

    ByFamily = Annotated[T, "resolved"]
else:
    ByFamily = Optional
BY_FAMILY: Any = None

# Values of the fields that are None, by family.
FAMILY_DEFAULTS: dict[str, dict[str, Any]] = {
    "modern": {
        "position_embedding_type": "rotary",
        "norm_type": "rmsnorm",
        "norm_eps": 1e-6,
        "qk_norm": True,
        "gated_mlp": False,
        "use_bias": False,
        "tie_word_embeddings": False,
    },
    "gpt2": {
        "position_embedding_type": "learned",
        "norm_type": "layernorm",
        "norm_eps": 1e-5,
        "qk_norm": False,
        "gated_mlp": False,
        "use_bias": True,
        "tie_word_embeddings": True,
    },
}

SIZES = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "intermediate_size",
    "max_position_embeddings",
    "ngram_order",
    "ngram_vocab_size",
)


class ArchitectureError(ValueError):
    """Fields that contradict each other. `problems` are pairs of a field and what is wrong with it."""

    def __init__(self, problems: list[tuple[str, str]]) -> None:
        self.problems = tuple(problems)
        super().__init__("; ".join(message for _, message in problems))


@strict
class ScratchGPTConfig(PreTrainedConfig):
    """Configuration of a ScratchGPT.

    `family` is "modern" (rotary positions, RMSNorm, normalized queries and keys, squared ReLU, no biases) or "gpt2"
    (learned positions, LayerNorm, GELU, biases, tied head); it sets every field that is None, and each can be given.
    Raises `StrictDataclassError` for a value of the wrong type and for fields that contradict each other.
    """

    model_type = "scratch_gpt"
    keys_to_ignore_at_inference = ["past_key_values"]  # noqa: RUF012

    vocab_size: int = 50257
    family: Literal["modern", "gpt2"] = "modern"
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    num_key_value_heads: ByFamily[int] = BY_FAMILY
    """Fewer than the attention heads: grouped-query attention (Ainslie et al., 2023)."""
    intermediate_size: ByFamily[int] = BY_FAMILY
    """By default 4 * hidden_size; if the MLP is gated, two thirds of that, rounded up to a multiple of 64."""
    max_position_embeddings: int = 1024
    position_embedding_type: ByFamily[Literal["rotary", "learned"]] = BY_FAMILY
    ngram_order: int = 1
    """Above 1, each token is looked up together with the 1 to `ngram_order` - 1 tokens before it too."""
    ngram_vocab_size: int = 4096
    """Embeddings of each length of n-grams, which share them by their hash; of no use where `ngram_order` is 1."""
    rope_theta: float | int = 10000.0
    norm_type: ByFamily[Literal["rmsnorm", "layernorm"]] = BY_FAMILY
    norm_eps: ByFamily[float] = BY_FAMILY
    qk_norm: ByFamily[bool] = BY_FAMILY
    gated_mlp: ByFamily[bool] = BY_FAMILY
    hidden_act: ByFamily[Literal["relu2", "silu", "gelu", "gelu_new"]] = BY_FAMILY
    use_bias: ByFamily[bool] = BY_FAMILY
    attention_dropout: float | int = 0.0
    hidden_dropout: float | int = 0.0
    initializer_range: float = 0.02
    tie_word_embeddings: ByFamily[bool] = BY_FAMILY
    use_cache: bool = True
    pad_token_id: int | None = None
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        for field, value in FAMILY_DEFAULTS.get(self.family, {}).items():
            if getattr(self, field) is None:
                setattr(self, field, value)
        if self.hidden_act is None:
            self.hidden_act = "silu" if self.gated_mlp else "gelu_new" if self.family == "gpt2" else "relu2"
        if self.num_key_value_heads is None:
            self.num_key_value_heads = self.num_attention_heads
        if self.intermediate_size is None:
            wide = 4 * self.hidden_size
            # Gated, three matrices of two thirds the width hold what two of full width do: hidden_size 384 -> 1,024.
            self.intermediate_size = -(-wide * 2 // 3 // 64) * 64 if self.gated_mlp else wide
        super().__post_init__(**kwargs)

    def validate_architecture(self) -> None:
        """Check the fields against each other; `@strict` calls it. Raises `ArchitectureError` with all problems."""
        problems = [
            (field, f"{field} is {size}; it must be 1 or more") for field in SIZES if (size := getattr(self, field)) < 1
        ]
        problems = problems or self._find_conflicts()
        if problems:
            raise ArchitectureError(problems)

    def _find_conflicts(self) -> list[tuple[str, str]]:
        hidden, heads, shared = self.hidden_size, self.num_attention_heads, self.num_key_value_heads
        problems = []
        if hidden % heads:
            message = f"hidden_size {hidden} cannot be divided among num_attention_heads {heads}"
            problems.append(("hidden_size", message))
        elif self.position_embedding_type == "rotary" and hidden // heads % 2:
            message = (
                f"rotary positions rotate pairs of features, and each head has {hidden // heads} features "
                f"(hidden_size {hidden} / num_attention_heads {heads}); the number must be even"
            )
            problems.append(("hidden_size", message))
        if heads % shared:
            message = f"num_attention_heads {heads} cannot be divided among num_key_value_heads {shared}"
            problems.append(("num_key_value_heads", message))
        return problems


__all__ = ["ScratchGPTConfig"]
