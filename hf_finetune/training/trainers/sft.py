"""TRL's SFTTrainer for tokenized rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from trl.trainer.sft_trainer import SFTTrainer as TRLTrainer

from hf_finetune.data.tokenization.collators import pop_row_index
from hf_finetune.data.tokenization.text import IGNORE_INDEX
from hf_finetune.training.trainers.base import TrainerMixin


class TokenScores(NamedTuple):
    """Next-token predictions: negative log-likelihood, whether argmax is correct, and whether the token is trained.

    Each is (batch, seq - 1), and 0 where the token is not trained.
    """

    nll: Tensor
    correct: Tensor
    trained: Tensor


class SFTTrainer(TrainerMixin, TRLTrainer):
    """TRL's SFTTrainer: no telemetry, no empty model card, and adapters that keep their precision.

    The loss is the mean over all trained tokens of an optimizer step, however they are split into micro-batches and
    processes. `prediction_step` returns sums per row, from which `language_model_metrics` computes exact metrics.
    """

    # On a CPU only trained positions go through the output head: TRL 1.16 projects all positions, twice. Can go when it
    # projects those with labels.

    def __init__(self, model: Any, *args: Any, **kwargs: Any) -> None:
        trained = {name: weight.data for name, weight in model.named_parameters() if weight.requires_grad}
        super().__init__(model, *args, **kwargs)
        for name, weight in model.named_parameters():
            # TRL 1.16 casts adapters on a quantized base to bfloat16, in which small updates are lost. Can go when it
            # leaves them in float32.
            if name in trained and weight.dtype != trained[name].dtype:
                weight.data = trained[name]
        # True for any model, whatever its forward accepts, since the loss is computed here.
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
        # peft 0.21 writes an empty model card beside every adapter; can go when it stops.
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
        """Compute the loss of `train.loss_type`, a scalar, from `input_ids` and `labels`, (batch, seq) each.

        TRL computes it under label smoothing, for mixtures of experts, and with `return_outputs`.
        """
        if return_outputs or self.aux_loss_enabled or self.label_smoother is not None:
            inputs, _ = pop_row_index(inputs)
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)  # type: ignore[no-untyped-call]
        args: Any = self.args
        scores = self._score(model, inputs)
        # Dynamic fine-tuning (https://huggingface.co/papers/2508.05629) weights the loss of a token by its probability.
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
        """Return the loss, a scalar; sums, (rows, 3) float32; and a zero for each row in the place of its labels.

        Sums are of negative log-likelihood, correct predictions and trained tokens; they take the place of logits and
        are exact for any number of processes. What is returned is kept on the device for all rows of an evaluation.
        """
        inputs = self._prepare_inputs(inputs)
        with torch.no_grad(), self.compute_loss_context_manager():
            scores = self._score(model, inputs)
        loss = scores.nll.sum() / scores.trained.sum().clamp(min=1)
        if prediction_loss_only:
            return loss, None, None
        _, row_index = pop_row_index(inputs)
        values = torch.stack([each.float() for each in scores], dim=-1).flatten(0, 1)  # (batch * (seq - 1), 3)
        sizes = row_index[:, 1:].flatten().bincount(minlength=int(row_index[-1, -1]) + 1)
        sums = torch.stack([row.sum(dim=0) for row in values.split_with_sizes(sizes.tolist())])
        return loss, sums, sums.new_zeros(len(sums))

    def _score(self, model: nn.Module, inputs: dict[str, Any]) -> TokenScores:
        """Score next-token predictions for `input_ids` and `labels`, (batch, seq) each; -100 is not trained."""
        model_inputs, _ = pop_row_index(inputs)
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
        correct = logits.argmax(dim=-1) == targets
        return TokenScores(_scatter(nll, trained), _scatter(correct, trained), trained)

    def _keep_trained_positions(self, head: nn.Module, states: tuple[Tensor]) -> tuple[Tensor] | None:
        """Pre-forward hook of the output head: (batch, seq, hidden) -> (1, trained tokens, hidden) while scoring."""
        if self._head_positions is None:
            return None
        return (states[0][:, :-1][self._head_positions][None],)


def _scatter(values: Tensor, trained: Tensor) -> Tensor:
    """Put values (trained tokens,) where `trained` (batch, seq - 1) is True, and 0 elsewhere: (batch, seq - 1)."""
    return values.new_zeros(trained.shape).masked_scatter(trained, values)
