"""The part of our trainers that knows where the processes of a run meet in a step."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property, partial
from typing import Any

import torch
import transformers
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from hf_finetune.models.weights.sharding import is_sharded
from hf_finetune.training.callbacks.restarts import RestartRecord
from hf_finetune.training.callbacks.waiting import WaitClock


class MeetingTrainer(transformers.Trainer):
    """transformers' Trainer that measures how long each process waits for the others.

    The points of a step: the count of its tokens; the backward pass of DDP and ZeRO-2, or the forward pass where
    weights are split (FSDP2, ZeRO-3); the figures that the guard looks at.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.waits = WaitClock(self.accelerator)
        self.add_callback(self.waits)
        self.restarts = RestartRecord()
        self.add_callback(self.restarts)
        # transformers (5.23) calls it behind the loss, and lets nothing else in between a loss and its gradients.
        self.accelerator.backward = partial(self._backward, self.accelerator.backward)

    def _prepare_for_training(self, *args: Any, **kwargs: Any) -> Any:
        if self.args.world_size > 1:
            _keep_own_buffers(self.model)
        return super()._prepare_for_training(*args, **kwargs)  # type: ignore[no-untyped-call]

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> Any:
        counts = self.model_accepts_loss_kwargs or self.compute_loss_func is not None
        meets = counts and self.args.average_tokens_across_devices
        if meets:
            self.waits.reach()
        count = super()._get_num_items_in_batch(batch_samples, device)
        if meets:
            self.waits.leave()
        return count

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        """As in transformers; the processes meet in it."""
        if self._meets_in_forward:
            self.waits.reach()
        loss: Tensor = super().training_step(*args, **kwargs)
        if self._meets_in_forward or self._meets_in_backward:
            self.waits.leave()
        return loss

    @cached_property
    def _meets_in_forward(self) -> bool:
        """Whether the processes send each other weights in a forward pass; once the model is prepared."""
        model: Any = self.model
        return is_sharded(model)

    @property
    def _meets_in_backward(self) -> bool:
        """Whether they add up gradients in the backward pass of this micro-batch. DeepSpeed does so in each."""
        return self.is_deepspeed_enabled or self.accelerator.sync_gradients

    def _backward(self, backward: Callable[..., None], loss: Tensor, **kwargs: Any) -> None:
        if self._meets_in_backward and not self._meets_in_forward:
            self.waits.reach()
        backward(loss, **kwargs)


def _keep_own_buffers(model: Any) -> None:
    """Let DDP leave alone the buffers that are in no state of a model, as angles of positions: each process has them.

    It would send those of the first process to the others before each forward pass, who would wait for it there.
    """
    own = [
        f"{name}{'.' if name else ''}{buffer}"
        for name, module in model.named_modules()
        for buffer in module._non_persistent_buffers_set
    ]
    # torch (2.13) has no other way: https://github.com/pytorch/pytorch/issues/43690
    DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(model, own)  # type: ignore[no-untyped-call]
