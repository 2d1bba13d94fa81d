"""The Trainer that the recipes construct."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import transformers


class Trainer(transformers.Trainer):
    """transformers' Trainer, less the work that it repeats at every step."""

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """6 per parameter and token, forward and backward (Kaplan et al., 2020).

        transformers walks all modules to count the parameters anew for each batch: a millisecond of every step.
        """
        return 6 * int(inputs["input_ids"].numel()) * self._parameters_outside_embeddings

    @cached_property
    def _parameters_outside_embeddings(self) -> int:
        model: Any = self.model
        return int(model.num_parameters(exclude_embeddings=True))
