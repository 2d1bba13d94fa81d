"""TRL's SFTTrainer for rows that are tokens already."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from trl.trainer.sft_trainer import SFTTrainer as TRLTrainer

from hf_finetune.data.batches import without_row_index
from hf_finetune.data.packing import IGNORE_INDEX
from hf_finetune.training.trainers import TrainerChecks


class TokenScores(NamedTuple):
    """How well next tokens are predicted; each is (batch, seq - 1), and 0 where nothing is trained."""

    nll: Tensor
    right: Tensor
    trained: Tensor


class SFTTrainer(TrainerChecks, TRLTrainer):
    """TRL's SFTTrainer: no telemetry, no empty model card, and adapters that keep their precision.

    The loss is the sum over all trained tokens of an optimizer step, of all its micro-batches and processes, over
    their number. On a CPU only trained positions go through the output head; TRL projects all, twice.
    `prediction_step` gives sums per row, which `language_model_metrics` turns into exact scores without more.
    """

    def __init__(self, model: Any, *args: Any, **kwargs: Any) -> None:
        trained = {name: weight.data for name, weight in model.named_parameters() if weight.requires_grad}
        super().__init__(model, *args, **kwargs)
        for name, weight in model.named_parameters():
            # TRL has rounded adapters of a quantized base to bfloat16, in which small updates are lost.
            if name in trained and weight.dtype != trained[name].dtype:
                weight.data = trained[name]
        # Whatever the model's own forward takes: the loss is computed here.
        self.model_accepts_loss_kwargs = True
        self.loss_is_scaled_for_ga = True  # type: ignore[assignment]
        self._head_positions: Tensor | None = None
        self._scores_on_cpu = self.args.device.type == "cpu"
        if self._scores_on_cpu:
            model.get_output_embeddings().register_forward_pre_hook(self._keep_trained_positions)

    def _send_telemetry(self) -> None: ...

    def create_model_card(self, *args: Any, **kwargs: Any) -> None: ...

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Tensor] | None = None) -> None:
        super()._save(output_dir, state_dict)
        # peft writes an empty model card beside every adapter.
        Path(output_dir or str(self.args.output_dir), "README.md").unlink(missing_ok=True)

    def _set_signature_columns_if_needed(self) -> None:
        self._signature_columns = ["input_ids", "labels", "seq_lengths", "length"]  # type: ignore[assignment]

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """The loss of `train.loss_type`; label smoothing, mixtures of experts and asked-for outputs are TRL's."""
        if return_outputs or self.aux_loss_enabled or self.label_smoother is not None:
            inputs, _ = without_row_index(inputs)
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)  # type: ignore[no-untyped-call]
        args: Any = self.args
        scores = self._score(model, inputs)
        # Dynamic fine-tuning (https://huggingface.co/papers/2508.05629) weighs a token by its own probability.
        losses = scores.nll * (-scores.nll).exp().detach() if args.loss_type == "dft" else scores.nll
        count = scores.trained.sum() if num_items_in_batch is None else num_items_in_batch
        loss = losses.sum() / torch.as_tensor(count).clamp(min=1)
        if args.average_tokens_across_devices and num_items_in_batch is not None:
            loss = loss * (self.accelerator.num_processes // self.get_tp_size())  # DDP averages over the processes
        return loss

    def prediction_step(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Returns loss, sums and labels. Sums are (rows, 3): negative log-likelihood, right predictions, predictions.

        They take the place of logits and are exact however many processes share the rows.
        """
        inputs = self._prepare_inputs(inputs)
        with torch.no_grad(), self.compute_loss_context_manager():
            scores = self._score(model, inputs)
        loss = scores.nll.sum() / scores.trained.sum().clamp(min=1)
        if prediction_loss_only:
            return loss, None, None
        _, row_index = without_row_index(inputs)
        values = torch.stack([each.float() for each in scores], dim=-1).flatten(0, 1)  # (batch * (seq - 1), 3)
        sizes = row_index[:, 1:].flatten().bincount(minlength=int(row_index[-1, -1]) + 1)
        sums = torch.stack([row.sum(dim=0) for row in values.split_with_sizes(sizes.tolist())])
        return loss, sums, inputs["labels"]

    def _score(self, model: nn.Module, inputs: dict[str, Any]) -> TokenScores:
        model_inputs, _ = without_row_index(inputs)
        labels = model_inputs["labels"]
        trained = labels[:, 1:] != IGNORE_INDEX
        if not self._scores_on_cpu:
            outputs = model(**model_inputs, use_cache=False, fused_lm_head=True)
            return TokenScores(-outputs.log_probs, outputs.is_top1, trained)
        del model_inputs["labels"]
        self._head_positions = trained
        try:
            logits = model(**model_inputs, use_cache=False).logits[0]  # (trained tokens, vocab)
        finally:
            self._head_positions = None
        targets = labels[:, 1:][trained]
        nll = cross_entropy(logits.float(), targets, reduction="none")
        right = logits.argmax(dim=-1) == targets
        return TokenScores(_spread(nll, trained), _spread(right, trained), trained)

    def _keep_trained_positions(self, head: nn.Module, states: tuple[Tensor]) -> tuple[Tensor] | None:
        """Hook of the output head: (batch, seq, hidden) -> (1, trained tokens, hidden) while a loss is computed."""
        if self._head_positions is None:
            return None
        return (states[0][:, :-1][self._head_positions][None],)


def _spread(values: Tensor, trained: Tensor) -> Tensor:
    return values.new_zeros(trained.shape).masked_scatter(trained, values)
