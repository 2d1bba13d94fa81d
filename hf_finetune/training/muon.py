"""Muon for the hidden matrices and AdamW for all other parameters, in one optimizer."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw
from transformers import PreTrainedModel, TrainingArguments

from hf_finetune.config.sections import Run
from hf_finetune.errors import ConfigError, Problem
from hf_finetune.models.classification_head import unwrap_adapter

# Quintic Newton-Schulz coefficients of https://kellerjordan.github.io/posts/muon/: they favor the slope at zero over
# convergence, so that five steps bring every singular value into about [0.7, 1.2]. x -> a x + b x^3 + c x^5 takes a
# singular value of 0.1 to 0.34, 0.99, 0.71, 1.11 and 0.71.
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
NEWTON_SCHULZ_STEPS = 5


def orthogonalize(matrices: Tensor, compute_dtype: torch.dtype) -> Tensor:
    """Replace each matrix by an approximation of the nearest semi-orthogonal one, U V^T of its SVD.

    `matrices` is (count, rows, columns) with rows <= columns; the result has the same shape and dtype.
    """
    # Batched: torch 2.13's `torch.optim.Muon` launches fifteen small products for each matrix. Can go when it batches.
    a, b, c = NEWTON_SCHULZ
    x: Tensor = matrices / matrices.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    x = x.to(compute_dtype)
    for _ in range(NEWTON_SCHULZ_STEPS):
        gram = x @ x.mT  # (count, rows, rows)
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.to(matrices.dtype)


class MuonWithAdamW(torch.optim.Optimizer):
    """Muon (Jordan et al., 2024) for groups with `use_muon`, AdamW for the others.

    Muon's update is scaled by 0.2 * sqrt(max(rows, columns)), so that its root mean square matches AdamW's and one
    learning rate and weight decay serve both (Liu et al., 2025, https://arxiv.org/abs/2502.16982).
    Gradients must be full matrices and equal on all ranks, as with DDP; FSDP shards them.
    """

    # bfloat16 as `compute_dtype` halves a step on hardware that has it, but amplifies the last bits of a gradient to
    # the third digit of an update: runs that differ only in batch layout drift apart sooner.

    def __init__(
        self,
        groups: Iterable[dict[str, Any]],
        lr: float,
        momentum: float = 0.9,
        compute_dtype: torch.dtype = torch.float32,
        **adamw: Any,
    ) -> None:
        """`groups` are parameter groups, each with `use_muon`; `adamw` takes betas, eps and weight_decay."""
        self.compute_dtype = compute_dtype
        defaults = {"lr": lr, "momentum": momentum, "betas": (0.9, 0.95), "eps": 1e-8, "weight_decay": 0.0}
        super().__init__(groups, {**defaults, "use_muon": False, **adamw})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Update all parameters that have a gradient; returns the loss of `closure`, if given."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            params: list[Tensor] = [param for param in group["params"] if param.grad is not None]
            gradients = [param.grad for param in params if param.grad is not None]
            if not params:
                continue
            update = self._update_muon if group["use_muon"] else self._update_adamw
            update(params, gradients, group)
        return loss

    def _update_muon(self, params: list[Tensor], gradients: list[Tensor], group: dict[str, Any]) -> None:
        """Update matrices in place; each parameter and its gradient are (rows, columns)."""
        for param in params:
            if not self.state[param]:
                self.state[param]["momentum_buffer"] = torch.zeros_like(param)
        if group["weight_decay"]:
            torch._foreach_mul_(params, 1 - group["lr"] * group["weight_decay"])
        momenta = [self.state[param]["momentum_buffer"] for param in params]
        torch._foreach_lerp_(momenta, gradients, 1 - group["momentum"])
        updates = torch._foreach_lerp(gradients, momenta, group["momentum"])  # Nesterov
        for (rows, columns), indices in _group_by_shape(params).items():
            stacked = torch.stack([updates[i] for i in indices])  # (count, rows, columns)
            wide = stacked if rows <= columns else stacked.mT
            directions = orthogonalize(wide, self.compute_dtype)
            directions = directions if rows <= columns else directions.mT
            alpha = -group["lr"] * 0.2 * max(rows, columns) ** 0.5
            torch._foreach_add_([params[i] for i in indices], list(directions.unbind()), alpha=alpha)

    def _update_adamw(self, params: list[Tensor], gradients: list[Tensor], group: dict[str, Any]) -> None:
        """Update parameters of any shape in place, as torch's AdamW; each gradient has its parameter's shape."""
        for param in params:
            if not self.state[param]:
                zeros = {"exp_avg": torch.zeros_like(param), "exp_avg_sq": torch.zeros_like(param)}
                self.state[param].update(step=torch.zeros(()), **zeros)
        states = [self.state[param] for param in params]
        first, second, steps = ([state[name] for state in states] for name in ("exp_avg", "exp_avg_sq", "step"))
        beta1, beta2 = group["betas"]
        options = {name: group[name] for name in ("lr", "weight_decay", "eps")}
        options |= {"foreach": True, "amsgrad": False, "maximize": False}
        adamw(params, gradients, first, second, [], steps, beta1=beta1, beta2=beta2, **options)


class MuonFactory:
    """Builds a `MuonWithAdamW` from a model, in the form that `Trainer(optimizer_cls_and_kwargs=...)` calls."""

    def __call__(self, model: PreTrainedModel, *, lr: float, weight_decay: float, **options: Any) -> MuonWithAdamW:
        """Assign hidden matrices to Muon; embeddings, head, norms and biases to AdamW, without weight decay."""
        embedding_lr = lr * options.pop("embedding_lr", 2.0)
        options["betas"] = (options.pop("beta1", 0.9), 0.95)
        # `base_model` of a model excludes the head, over the vocabulary or the labels; that of a PeftModel does not.
        body: nn.Module = unwrap_adapter(model).base_model
        tables = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
        tables |= set(map(id, _list_parts_of_embeddings(body)))
        hidden = {id(param) for param in body.parameters() if param.ndim == 2} - tables
        trained = [param for param in model.parameters() if param.requires_grad]
        embeddings = [param for param in trained if id(param) in tables]
        matrices = [param for param in trained if id(param) in hidden]
        rest = [param for param in trained if id(param) not in tables | hidden]
        groups: list[dict[str, Any]] = [
            {"params": matrices, "use_muon": True, "weight_decay": weight_decay},
            {"params": embeddings, "lr": embedding_lr},
            {"params": rest},
        ]
        return MuonWithAdamW([group for group in groups if group["params"]], lr=lr, **options)


def make_optimizer(run: Run, args: TrainingArguments) -> tuple[type, dict[str, Any]] | None:
    """Return the Trainer's `optimizer_cls_and_kwargs`: Muon under `train.optim: muon`, else None.

    Raises `ConfigError` for unknown names in `train.optim_args`.
    """
    if run.train.get("optim") != "muon":
        return None
    options: dict[str, Any] = {"lr": args.learning_rate, "weight_decay": args.weight_decay}
    options["compute_dtype"] = torch.bfloat16 if args.bf16 else torch.float32
    return MuonFactory, options | _parse_muon_options(args.optim_args)


def _parse_muon_options(optim_args: str | None) -> dict[str, float]:
    """Parse `train.optim_args`; `embedding_lr` is a factor of the learning rate. Raises `ConfigError`."""
    # "momentum=0.95, embedding_lr=1" -> {"momentum": 0.95, "embedding_lr": 1.0}
    options: dict[str, float] = {}
    for part in (optim_args or "").replace(" ", "").split(","):
        name, _, value = part.partition("=")
        if not part:
            continue
        if name not in ("momentum", "embedding_lr", "beta1"):
            remedy = "it takes momentum, embedding_lr and beta1 (of AdamW)"
            raise ConfigError(Problem(f"{name!r} is no option of muon", remedy, key="train.optim_args", code="HF602"))
        options[name] = float(value)
    return options


def _group_by_shape(tensors: list[Tensor]) -> dict[tuple[int, int], list[int]]:
    """Group the indices of matrices, (rows, columns) each, by shape: one batched product serves a group."""
    # Shapes (4, 8), (4, 4), (4, 8) -> {(4, 8): [0, 2], (4, 4): [1]}
    groups: dict[tuple[int, int], list[int]] = defaultdict(list)
    for index, tensor in enumerate(tensors):
        groups[tensor.shape[0], tensor.shape[1]].append(index)
    return groups


def _list_parts_of_embeddings(body: nn.Module) -> Iterator[nn.Parameter]:
    """Yield what peft has put on embeddings: factors of LoRA, rows of single tokens, a copy that is trained."""
    # "embed_tokens.base_layer" under LoRA, "embed_tokens.original_module" under modules_to_save and for single tokens.
    embeddings = [name for name, module in body.named_modules() if isinstance(module, nn.Embedding)]
    wrapped = {
        name.removesuffix(suffix) + "."
        for name in embeddings
        for suffix in (".base_layer", ".original_module")
        if name.endswith(suffix)
    }
    yield from (param for name, param in body.named_parameters() if name.startswith(tuple(wrapped)))
