"""TRL's SFTTrainer for tokenized rows."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from trl.trainer.sft_trainer import SFTTrainer as TRLTrainer

from hf_finetune.data.tokenization.collators import pop_row_index
from hf_finetune.data.tokenization.text import IGNORE_INDEX
from hf_finetune.training.trainers.base import TrainerMixin
from hf_finetune.training.trainers.token_loss import token_losses

logger = logging.getLogger(__name__)

# What TRL sets in the configuration of a mixture of experts.
ROUTING = ("output_router_logits", "router_aux_loss_coef")
# Of the log-likelihoods of two short rows, as a share of the largest.
FUSED_TOLERANCE = 1e-5
FUSED_TOLERANCE_IN_LOW_PRECISION = 2e-2
FIRST_TOKENS = 32  # every vocabulary has as many


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
    # projects those with labels. So does a model elsewhere whose head TRL's fused one is not.

    def __init__(self, model: Any, *args: Any, **kwargs: Any) -> None:
        trained = {name: weight.data for name, weight in model.named_parameters() if weight.requires_grad}
        text_config = model.config.get_text_config()
        self._routing = {name: text_config.__dict__[name] for name in ROUTING if name in text_config.__dict__}
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
        self._fused_head_is_right: bool | None = None
        self._head: nn.Module = model.get_output_embeddings()
        self._head_is_watched = False
        if self._scores_on_cpu:
            self._watch_head()

    def _send_telemetry(self) -> None: ...

    def create_model_card(self, *args: Any, **kwargs: Any) -> None: ...

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Tensor] | None = None) -> None:
        with self._routing_as_loaded():
            super()._save(output_dir, state_dict)
        # peft 0.21 writes an empty model card beside every adapter; can go when it stops.
        Path(output_dir or str(self.args.output_dir), "README.md").unlink(missing_ok=True)

    @contextmanager
    def _routing_as_loaded(self) -> Iterator[None]:
        """Set back what TRL has set in the configuration of a mixture of experts for training, while it is saved."""
        # TRL 1.16 leaves `output_router_logits: true` in what is saved, so that whoever loads it computes and returns
        # the router's logits. Can go when it passes the argument alone.
        config: Any = self.accelerator.unwrap_model(self.model).config.get_text_config()
        trained = {name: config.__dict__[name] for name in self._routing}
        config.__dict__.update(self._routing)
        try:
            yield
        finally:
            config.__dict__.update(trained)

    @property
    def computes_alone(self) -> bool:
        """Whether a loss is computed here: TRL's gathers figures for the log over the ranks."""
        return super().computes_alone and self.label_smoother is None and not self.aux_loss_enabled

    def _set_signature_columns_if_needed(self) -> None:
        self._signature_columns = ["input_ids", "labels", "seq_lengths", "length", "row", "rows"]  # type: ignore[assignment]

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
        if return_outputs or self.label_smoother is not None or (self.aux_loss_enabled and self._can_fuse(model)):
            inputs, _ = pop_row_index(inputs)
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)  # type: ignore[no-untyped-call]
        args: Any = self.args
        routed = {"output_router_logits": True} if self.aux_loss_enabled else {}
        scores, outputs = self._score(model, inputs, counts_correct=False, **routed)
        # Dynamic fine-tuning (https://huggingface.co/papers/2508.05629) weights the loss of a token by its probability.
        losses = scores.nll * (-scores.nll).exp().detach() if args.loss_type == "dft" else scores.nll
        count = scores.trained.sum() if num_items_in_batch is None else num_items_in_batch
        loss = losses.sum() / torch.as_tensor(count).clamp(min=1)
        if args.average_tokens_across_devices and num_items_in_batch is not None:
            loss = loss * (self.accelerator.num_processes // self.get_tp_size())  # DDP averages over the processes
        return loss + self._weight_aux_loss(outputs.aux_loss, num_items_in_batch) if routed else loss

    def _weight_aux_loss(self, aux_loss: Tensor, num_items_in_batch: Tensor | int | None) -> Tensor:
        """Weight the load-balancing loss, a scalar, as TRL does: a mean over the micro-batches of a step."""
        self._metrics["train"]["aux_loss"].append(self.accelerator.gather_for_metrics(aux_loss.detach()).mean().item())
        steps = self.current_gradient_accumulation_steps if num_items_in_batch is not None else 1
        return self.router_aux_loss_coef * aux_loss.to(self.args.device) / steps

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
            scores, _ = self._score(model, inputs)
        loss = scores.nll.sum() / scores.trained.sum().clamp(min=1)
        if prediction_loss_only:
            return loss, None, None
        _, row_index = pop_row_index(inputs)
        values = torch.stack([each.float() for each in scores], dim=-1).flatten(0, 1)  # (batch * (seq - 1), 3)
        sizes = row_index[:, 1:].flatten().bincount(minlength=int(row_index[-1, -1]) + 1)
        sums = torch.stack([row.sum(dim=0) for row in values.split_with_sizes(sizes.tolist())])
        return loss, sums, sums.new_zeros(len(sums))

    def _score(
        self, model: nn.Module, inputs: dict[str, Any], *, counts_correct: bool = True, **options: Any
    ) -> tuple[TokenScores, Any]:
        """Score next-token predictions for `input_ids` and `labels`, (batch, seq) each; -100 is not trained.

        Returns the model's outputs beside them, for which `options` are passed on. Without `counts_correct` none of
        the predictions counts as correct: a step needs none, and a large vocabulary is slow to search.
        """
        model_inputs, _ = pop_row_index(inputs)
        labels = model_inputs["labels"]
        trained = labels[:, 1:] != IGNORE_INDEX
        if not self._scores_on_cpu and self._can_fuse(model):
            outputs: Any = model(**model_inputs, **options, use_cache=False, fused_lm_head=True)
            return TokenScores(-outputs.log_probs, outputs.is_top1, trained), outputs
        del model_inputs["labels"]
        self._head_positions = trained
        try:
            outputs = model(**model_inputs, **options, use_cache=False)
        finally:
            self._head_positions = None
        logits = outputs.logits[0]  # (trained tokens, vocab)
        targets = labels[:, 1:][trained]
        nll = token_losses(logits, targets)
        correct = logits.argmax(dim=-1) == targets if counts_correct else torch.zeros_like(targets, dtype=torch.bool)
        return TokenScores(_scatter(nll, trained), _scatter(correct, trained), trained), outputs

    def _can_fuse(self, model: nn.Module) -> bool:
        """Whether TRL's fused output head computes what the model itself does; asked once, and on every rank."""
        if self._fused_head_is_right is None:
            was_training = model.training
            self._fused_head_is_right = compare_fused_head(model.eval(), self.args.device, routed=self.aux_loss_enabled)
            model.train(was_training)
            if not self._fused_head_is_right and not self._scores_on_cpu:
                self._watch_head()
                logger.info("the loss is computed from the model's own logits: TRL's fused head would differ")
        return self._fused_head_is_right

    def _watch_head(self) -> None:
        if not self._head_is_watched:
            self._head.register_forward_pre_hook(self._keep_trained_positions)
        self._head_is_watched = True

    def _keep_trained_positions(self, head: nn.Module, states: tuple[Tensor]) -> tuple[Tensor] | None:
        """Pre-forward hook of the output head: (batch, seq, hidden) -> (1, trained tokens, hidden) while scoring."""
        if self._head_positions is None:
            return None
        return (states[0][:, :-1][self._head_positions][None],)


@torch.no_grad()
def compare_fused_head(model: nn.Module, device: torch.device, *, routed: bool) -> bool:
    """Whether a model under TRL's `add_fused_lm_head`, in evaluation mode, gives the log-likelihoods of its logits.

    `routed`: ask for the load-balancing loss of a mixture of experts as well.
    """
    # TRL 1.16 multiplies the last hidden states by the head's weight. It knows scales and soft caps by some names, not
    # those of RecurrentGemma, and leaves out layers in between, as of ModernBERT's decoder; of a mixture of experts it
    # reads `num_experts`, which GraniteMoe and PhiMoE do not have. Can go when it calls the model's own head.
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(FIRST_TOKENS, (2, 16), generator=generator).to(device)
    options = {"output_router_logits": True} if routed else {}
    expected = model(input_ids=ids, use_cache=False).logits[:, :-1].float().log_softmax(dim=-1)
    expected = expected.gather(-1, ids[:, 1:, None])[..., 0]  # (2, 15)
    try:
        found: Tensor = model(input_ids=ids, labels=ids, fused_lm_head=True, use_cache=False, **options).log_probs
    except AttributeError:
        return False
    rounded = next(model.parameters()).dtype != torch.float32 or torch.is_autocast_enabled(device.type)
    difference = (found.float() - expected).abs().max() / expected.abs().max().clamp(min=1)
    return bool(difference <= (FUSED_TOLERANCE_IN_LOW_PRECISION if rounded else FUSED_TOLERANCE))


def _scatter(values: Tensor, trained: Tensor) -> Tensor:
    """Put values (trained tokens,) where `trained` (batch, seq - 1) is True, and 0 elsewhere: (batch, seq - 1)."""
    return values.new_zeros(trained.shape).masked_scatter(trained, values)
