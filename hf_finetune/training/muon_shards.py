"""Matrices whose rows FSDP2 has spread over ranks, for Muon: each is made whole on one rank, which shares it back."""

from __future__ import annotations

import heapq
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Shard

from hf_finetune.errors import ConfigError, MachineError, Problem

# The other way is to gather each matrix on every rank. It sends (ranks - 1) times all values, and every rank computes
# all of them; this way sends 2 (ranks - 1) / ranks times all values, and each rank computes its part. On two ranks they
# send the same, on eight this one sends a quarter.

Shape = tuple[int, int]
"""Rows and columns of a whole matrix."""
Directions = Callable[[list[Tensor]], list[Tensor]]
"""Makes of whole matrices what their weights are moved by, in the same shapes."""


@dataclass(frozen=True)
class Split:
    """How rows are spread: over one dimension of a mesh of ranks, as `torch.chunk` does; all others have replicas."""

    mesh: DeviceMesh
    dim: int
    dtype: torch.dtype

    @property
    def group(self) -> dist.ProcessGroup:
        """The ranks that have the rows of one matrix between them."""
        return self.mesh.get_group(self.dim)

    @contextmanager
    def agree(self, mark: int = 0) -> Iterator[None]:
        """Let a block fail on all ranks where it fails on one: nobody waits in the next exchange for one that has left.

        Raises the block's own error, else `MachineError`; RuntimeError where the ranks have different marks.
        """
        error = None
        try:
            yield
        except Exception as raised:
            error = raised
        failed = -1 if error is None else dist.get_rank()
        said = torch.tensor([failed, mark, -mark], device=self.mesh.device_type)
        for dim in range(self.mesh.ndim):  # replicas too: they would wait in the next reduction of gradients
            dist.all_reduce(said, dist.ReduceOp.MAX, self.mesh.get_group(dim))
        if error is not None:
            raise error
        _check_agreed(*said.tolist())


def group_by_split(matrices: Sequence[Tensor]) -> dict[Split | None, list[Tensor]]:
    """Group parameters by how their rows are spread, in the same order on all ranks; None: each rank has them whole.

    Raises `ConfigError` for any that is not spread by rows.
    """
    groups: dict[Split | None, list[Tensor]] = defaultdict(list)
    for matrix in matrices:
        groups[_find_split(matrix)].append(matrix)
    return groups


def check_has_values(params: Sequence[Tensor]) -> None:
    """Raise `ConfigError` for parameters without a value on this rank, whose shapes say nothing: those of ZeRO-3."""
    if any(not param.numel() for param in params):
        raise _refuse("one has no values here, as ZeRO-3 leaves it")


def get_local(tensors: list[Tensor]) -> list[Tensor]:
    """What this rank has of each: its rows, which may be none, or the whole. Writing into it writes the tensor."""
    return [each.to_local() if isinstance(each, DTensor) else each for each in tensors]


def get_gradients(params: list[Tensor]) -> list[Tensor]:
    """What this rank has of the gradient that each has; raises RuntimeError for one that is spread otherwise."""
    gradients = [param.grad for param in params if param.grad is not None]
    for param, gradient in zip(params, gradients, strict=True):
        spread, expected = (each.placements if isinstance(each, DTensor) else () for each in (gradient, param))
        if spread != expected:
            raise RuntimeError(f"a parameter is spread as {expected}, and its gradient as {spread}")
    return get_local(gradients)


def mark_present(present: list[bool]) -> int:
    """A number that ranks have in common if the same of their matrices have a gradient."""
    return zlib.crc32(bytes(present))


def direct_shared(
    shards: list[Tensor], shapes: list[Shape], split: Split, dtype: torch.dtype, direct: Directions
) -> list[Tensor]:
    """Apply `direct` to each matrix on the rank that it falls to; returns this rank's rows of all results.

    `shards` are this rank's rows of matrices of `shapes`. Results come back in `dtype`. All ranks of `split` call it.
    """
    ranks, rank = split.mesh.size(split.dim), split.mesh.get_local_rank(split.dim)
    owners = share_out(shapes, ranks)
    ours = [shape for shape, owner in zip(shapes, owners, strict=True) if owner == rank]
    order = sorted(range(len(shards)), key=owners.__getitem__)  # by the rank that they go to, which `sorted` keeps
    sent = [0] * ranks
    for shard, owner in zip(shards, owners, strict=True):
        sent[owner] += shard.numel()
    rows = [count_rows(shape[0], ranks) for shape in ours]
    received = [sum(each[source] * shape[1] for each, shape in zip(rows, ours, strict=True)) for source in range(ranks)]
    came = _exchange([shards[i] for i in order], sent, received, split, split.dtype)
    with split.agree():
        directions = direct(_join(came, rows, ours))
        pieces = [each.split_with_sizes(counts) for each, counts in zip(directions, rows, strict=True)]
        back = [each[to] for to in range(ranks) for each in pieces]
    came = _exchange(back, received, sent, split, dtype).to(shards[0].device)
    found = came.split_with_sizes([shards[i].numel() for i in order])
    by_index = dict(zip(order, found, strict=True))
    return [by_index[i].view_as(shard) for i, shard in enumerate(shards)]


def share_out(shapes: Sequence[Shape], ranks: int) -> list[int]:
    """The rank that each matrix falls to: the costliest first, each to the rank that has least to compute so far."""
    # Within 4/3 of the best way there is (Graham, 1969, https://doi.org/10.1137/0117039).
    owners = [0] * len(shapes)
    loads = [(0, rank) for rank in range(ranks)]
    for index in sorted(range(len(shapes)), key=lambda i: (-estimate_cost(shapes[i]), i)):
        load, rank = heapq.heappop(loads)
        owners[index] = rank
        heapq.heappush(loads, (load + estimate_cost(shapes[index]), rank))
    return owners


def estimate_cost(shape: Shape) -> int:
    """Multiplications of a step of Newton-Schulz on a matrix: its Gram matrix, that one's square, and their product."""
    short, long = sorted(shape)
    return short * short * (2 * long + short)


def count_rows(rows: int, ranks: int) -> list[int]:
    """How many rows each rank has of a matrix, as `torch.chunk` and FSDP2 spread them: the last ones may have none."""
    # 5 rows on 4 ranks: 2, 2, 1, 0.
    most = -(-rows // ranks)
    return [min(most, max(0, rows - most * rank)) for rank in range(ranks)]


def _find_split(matrix: Tensor) -> Split | None:
    """How the rows of a parameter are spread; raises `ConfigError` where it is no whole matrix and no rows of one."""
    spread = matrix.placements if isinstance(matrix, DTensor) else ()
    dims = [dim for dim, placement in enumerate(spread) if not placement.is_replicate()]
    if matrix.ndim != 2:
        raise _refuse(f"one of shape {tuple(matrix.shape)} is no matrix")
    if len(dims) > 1 or any(spread[dim] != Shard(0) for dim in dims):
        raise _refuse(f"one of shape {tuple(matrix.shape)} is spread as {', '.join(map(repr, spread))}")
    if not isinstance(matrix, DTensor) or not dims or matrix.device_mesh.size(dims[0]) == 1:
        return None
    return Split(matrix.device_mesh, dims[0], matrix.dtype)


def _refuse(what: str) -> ConfigError:
    """The error for a parameter that is split in another way than by rows."""
    what = f"muon needs whole matrices, or their rows as FSDP2 spreads them, and {what}"
    return ConfigError(Problem(what, "use adamw_torch_fused, or launch with fsdp2", key="train.optim", code="HF606"))


def _check_agreed(failed: int, highest: int, lowest_below_zero: int) -> None:
    """Raise where a rank has failed, else -1, or where the highest and the lowest mark are not the same."""
    if failed >= 0:
        what = f"process {failed} has failed in a step of muon, and this one ends with it"
        raise MachineError(Problem(what, "what that one says is why", code="HF713"))
    if highest != -lowest_below_zero:
        raise RuntimeError(
            "processes have gradients of different matrices, and each is put together of the rows of all"
        )


def _exchange(pieces: list[Tensor], sent: list[int], received: list[int], split: Split, dtype: torch.dtype) -> Tensor:
    """Send pieces in the order of the ranks, `sent` values to each; returns `received` values of each, in a row."""
    device = torch.device(split.mesh.device_type)  # offloaded ones are on the CPU, where nothing is fast
    flat = torch.cat([each.reshape(-1) for each in pieces]) if pieces else torch.empty(0)
    going = flat.to(device, dtype)
    came = going.new_empty(sum(received))
    dist.all_to_all_single(came, going, received, sent, group=split.group)
    return came


def _join(came: Tensor, rows: list[list[int]], shapes: list[Shape]) -> list[Tensor]:
    """Put matrices together from values that came rank by rank; `rows` are those of each matrix on each rank."""
    by_rank = zip(*rows, strict=True)
    sizes = [count * shape[1] for counts in by_rank for count, shape in zip(counts, shapes, strict=True)]
    parts = came.split_with_sizes(sizes)
    return [torch.cat(parts[i :: len(shapes)]).view(shape) for i, shape in enumerate(shapes)]
