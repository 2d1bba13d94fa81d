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
from hf_finetune.training.muon_shards import (
    Split,
    check_has_values,
    direct_shared,
    get_gradients,
    get_local,
    group_by_split,
    mark_present,
)

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
    Parameters are whole, with gradients that are equal on all ranks, as with DDP; or FSDP2 has spread their rows over
    the ranks: then each matrix is orthogonalized on one of them (`muon_shards`), and states are spread as parameters.
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
            if group["use_muon"]:
                for split, params in group_by_split(group["params"]).items():
                    self._update_muon(params, group, split)
            else:
                self._update_adamw([param for param in group["params"] if param.grad is not None], group)
        return loss

    def _update_muon(self, matrices: list[Tensor], group: dict[str, Any], split: Split | None) -> None:
        """Update matrices in place, each (rows, columns), or the rows that this rank has of them by `split`."""
        has_gradient = [matrix.grad is not None for matrix in matrices]
        params = [matrix for matrix, present in zip(matrices, has_gradient, strict=True) if present]
        if split is None:
            directions = self._iterate_directions(self._advance(params, group))
        else:
            with split.agree(mark_present(has_gradient)):
                updates = self._advance(params, group)
            directions = self._share_directions(params, updates, split)
        local = get_local(params)
        for indices, moves in directions:
            rows, columns = params[indices[0]].shape
            alpha = -group["lr"] * 0.2 * max(rows, columns) ** 0.5
            torch._foreach_add_([local[i] for i in indices], moves, alpha=alpha)

    def _advance(self, params: list[Tensor], group: dict[str, Any]) -> list[Tensor]:
        """Decay the weights and advance the momenta; returns what is to be orthogonalized, this rank's part of it."""
        if not params:
            return []
        for param in params:
            if not self.state[param]:
                self.state[param]["momentum_buffer"] = torch.zeros_like(param)
        if group["weight_decay"]:
            torch._foreach_mul_(get_local(params), 1 - group["lr"] * group["weight_decay"])
        momenta = get_local([self.state[param]["momentum_buffer"] for param in params])
        gradients = get_gradients(params)
        torch._foreach_lerp_(momenta, gradients, 1 - group["momentum"])
        return list(torch._foreach_lerp(gradients, momenta, group["momentum"]))  # Nesterov

    def _iterate_directions(self, updates: list[Tensor]) -> Iterator[tuple[list[int], list[Tensor]]]:
        """Orthogonalize whole matrices, those of one shape together; yields their indices with the results."""
        for (rows, columns), indices in _group_by_shape(updates).items():
            stacked = torch.stack([updates[i] for i in indices])  # (count, rows, columns)
            wide = stacked if rows <= columns else stacked.mT
            directions = orthogonalize(wide, self.compute_dtype)
            directions = directions if rows <= columns else directions.mT
            yield indices, list(directions.unbind())

    def _share_directions(
        self, params: list[Tensor], updates: list[Tensor], split: Split
    ) -> Iterator[tuple[list[int], list[Tensor]]]:
        """As `_iterate_directions`, for the rows that this rank has of matrices that are spread over several."""
        if not params:  # nor on any other rank
            return

        def direct(matrices: list[Tensor]) -> list[Tensor]:
            found = {
                i: move
                for indices, moves in self._iterate_directions(matrices)
                for i, move in zip(indices, moves, strict=True)
            }
            return [found[i] for i in range(len(matrices))]

        # What was computed in bfloat16 loses nothing in it on its way back.
        narrow = min(split.dtype, self.compute_dtype, key=lambda dtype: dtype.itemsize)
        shapes = [(param.shape[0], param.shape[1]) for param in params]
        shared = direct_shared(updates, shapes, split, narrow, direct)
        for indices in _group_by_shape(params).values():
            yield indices, [shared[i].to(split.dtype) for i in indices]

    def _update_adamw(self, params: list[Tensor], group: dict[str, Any]) -> None:
        """Update parameters of any shape in place, as torch's AdamW, each rank what it has of them."""
        if not params:
            return
        for param in params:
            if not self.state[param]:
                zeros = {"exp_avg": torch.zeros_like(param), "exp_avg_sq": torch.zeros_like(param)}
                self.state[param].update(step=torch.zeros(()), **zeros)
        states = [self.state[param] for param in params]
        first, second, steps = (
            get_local([each[name] for each in states]) for name in ("exp_avg", "exp_avg_sq", "step")
        )
        beta1, beta2 = group["betas"]
        options = {name: group[name] for name in ("lr", "weight_decay", "eps")}
        options |= {"foreach": True, "amsgrad": False, "maximize": False}
        adamw(get_local(params), get_gradients(params), first, second, [], steps, beta1=beta1, beta2=beta2, **options)


class MuonFactory:
    """Builds a `MuonWithAdamW` from a model, in the form that `Trainer(optimizer_cls_and_kwargs=...)` calls."""

    def __call__(self, model: PreTrainedModel, *, lr: float, weight_decay: float, **options: Any) -> MuonWithAdamW:
        """Assign hidden matrices to Muon; embeddings, head, norms and biases to AdamW, without weight decay.

        Raises `ConfigError` where ZeRO-3 has taken the parameters apart.
        """
        embedding_lr = lr * options.pop("embedding_lr", 2.0)
        options["betas"] = (options.pop("beta1", 0.9), 0.95)
        # `base_model` of a model excludes the head, over the vocabulary or the labels; that of a PeftModel does not.
        body: nn.Module = unwrap_adapter(model).base_model
        tables = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
        tables |= set(map(id, _list_parts_of_embeddings(body)))
        hidden = {id(param) for param in body.parameters() if param.ndim == 2} - tables
        trained = [param for param in model.parameters() if param.requires_grad]
        check_has_values(trained)
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
