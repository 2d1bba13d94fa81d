"""What an adapter leaves behind when it is switched off: its base, or a model that is neither one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from peft import LoraConfig, PeftModel

# Initial weights that are added to the base's, which stays as it is: whatever else peft knows, or may come to know,
# takes something out of the base (PiSSA and OLoRA, `LoraLayer.pissa_init`).
LEAVES_BASE = ("True", "False", "gaussian", "orthogonal", "mica", "eva")


def is_base_when_off(config: LoraConfig, *, trained: bool) -> bool:
    """Whether a model computes what its base does once the adapter with this `config` is switched off.

    `trained`: whether a step was taken, or trained weights were loaded.
    """
    # peft 0.21 trains the biases of the base itself, and layers that are repeated stay so.
    # https://github.com/huggingface/peft/issues/741
    own_biases = config.bias == "none" or not trained
    kept = str(config.init_lora_weights) in LEAVES_BASE and config.kasa_config is None
    return own_biases and kept and not config.layer_replication


@contextmanager
def switch_adapter_off(model: PeftModel) -> Iterator[None]:
    """Compute without the adapter inside the `with`; what was trainable is so again behind it."""
    trained = [parameter.requires_grad for parameter in model.parameters()]
    with model.disable_adapter():
        yield
    # peft 0.21 freezes a disabled adapter, and makes all of an enabled one trainable.
    for parameter, was_trained in zip(model.parameters(), trained, strict=True):
        parameter.requires_grad_(was_trained)
