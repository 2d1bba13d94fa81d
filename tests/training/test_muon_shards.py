"""Muon where FSDP2 has spread the rows of matrices over two and four real processes: the steps of one process."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from hypothesis import example, given, settings
from hypothesis import strategies as st
from models.scratch_models import tiny_model, token_ids
from muon_ranks import Ranks, start_ranks
from torch import Tensor, nn
from torch.distributed import checkpoint
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, fully_shard
from torch.distributed.tensor import DTensor, Placement, Replicate, Shard

from hf_finetune.errors import ConfigError, MachineError
from hf_finetune.training import muon
from hf_finetune.training.muon import MuonFactory, MuonWithAdamW
from hf_finetune.training.muon_shards import _check_agreed, count_rows, estimate_cost, group_by_split, share_out

WHOLE = StateDictOptions(full_state_dict=True)
# Of rows, columns and heads, 30 and 3 go evenly into neither two nor four.
ODD = {"hidden_size": 30, "num_attention_heads": 3}


@pytest.fixture(scope="module", autouse=True)
def what_a_message_needs():
    """Imported before the processes are forked, not in each of them at its first error."""
    with pytest.raises(MachineError):
        _check_agreed(0, 7, -7)


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    with start_ranks(2, tmp_path_factory.mktemp("two")) as ranks:
        yield ranks


@pytest.fixture(scope="module")
def four(tmp_path_factory):
    with start_ranks(4, tmp_path_factory.mktemp("four")) as ranks:
        yield ranks


@pytest.fixture(params=[2, 4])
def ranks(request) -> Ranks:
    return request.getfixturevalue({2: "two", 4: "four"}[request.param])


# What runs in the processes, and without a group in the one that the tests run in.


def take_part(values: Tensor) -> Tensor:
    """This rank's part of a batch, as of its only rank where there is no group."""
    return values if not dist.is_initialized() else values.chunk(dist.get_world_size())[dist.get_rank()]


def gather(values: Tensor) -> Tensor:
    return (values.full_tensor() if isinstance(values, DTensor) else values).detach().clone()


def build_gpt(mesh_shape: tuple[int, ...] | None, offload: bool = False) -> tuple[nn.Module, MuonWithAdamW]:
    """A GPT that FSDP2 spreads over a mesh of this shape, all in one for None, and its optimizer."""
    model = tiny_model(**ODD)
    if mesh_shape is not None:
        mesh = init_device_mesh("cpu", mesh_shape, mesh_dim_names=("copies", "rows")[-len(mesh_shape) :])
        options: dict[str, Any] = {
            "mesh": mesh,
            **({"offload_policy": CPUOffloadPolicy(pin_memory=False)} if offload else {}),
        }
        for layer in model.model.layers:
            fully_shard(layer, **options)
        fully_shard(model, **options)
    return model, MuonFactory()(model, lr=0.02, weight_decay=0.1)


def take_steps(model: nn.Module, optimizer: MuonWithAdamW, steps: range) -> None:
    for step in steps:
        ids = take_part(token_ids(4, 16, seed=step))
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()


def train_gpt(mesh_shape: tuple[int, ...] | None, offload: bool = False) -> dict[str, Tensor]:
    model, optimizer = build_gpt(mesh_shape, offload)
    take_steps(model, optimizer, range(3))
    return {name: gather(param) for name, param in model.named_parameters()}


def train_in_parts(folder: Path, mesh_shape: tuple[int, ...] | None, step: int) -> dict[str, Tensor]:
    """Take one step from what `folder` has of the last one, and leave it there."""
    model, optimizer = build_gpt(mesh_shape)
    if step:
        state = torch.load(folder / f"{step - 1}.pt")
        for name, param in model.named_parameters():
            place(param, state["model"][name])
        set_optimizer_state_dict(model, optimizer, state["optimizer"], options=WHOLE)
    take_steps(model, optimizer, range(step, step + 1))
    weights = {name: gather(param) for name, param in model.named_parameters()}
    state = {"model": weights, "optimizer": get_optimizer_state_dict(model, optimizer, options=WHOLE)}
    if not dist.is_initialized() or dist.get_rank() == 0:
        torch.save(state, folder / f"{step}.pt")
    return weights


def place(param: Tensor, values: Tensor) -> None:
    """Write into a parameter what this rank has of whole values."""
    with torch.no_grad():
        if isinstance(param, DTensor):
            param.to_local().copy_(spread(values, list(param.placements)).to_local())
        else:
            param.copy_(values)


def spread(values: Tensor, placements: list[Placement], mesh: Any = None) -> DTensor:
    """A DTensor of what all ranks have, as one of `torch.chunk`'s pieces or as it is: nothing is sent."""
    mesh = mesh or init_device_mesh("cpu", (dist.get_world_size(),))
    local = values
    if placements == [Shard(0)]:
        pieces = [*values.chunk(dist.get_world_size()), *[values[:0]] * dist.get_world_size()]
        local = pieces[dist.get_rank()].clone()
    return DTensor.from_local(local, mesh, placements, run_check=False, shape=values.shape, stride=values.stride())


def draw(shape: tuple[int, ...], seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def step_matrices(shapes: list[tuple[int, int]], gaps: list[int], placement: str = "rows") -> list[Tensor]:
    """Three steps of Muon on matrices of these shapes; those of `gaps` have no gradient in the second."""
    placements = [Shard(0) if placement == "rows" else Replicate()]

    def make(values: Tensor) -> Tensor:
        return spread(values, placements) if dist.is_initialized() else values

    params = [nn.Parameter(make(draw(shape, seed))) for seed, shape in enumerate(shapes)]
    optimizer = MuonWithAdamW([{"params": params, "use_muon": True, "weight_decay": 0.1}], lr=0.02)
    for step in range(3):
        for index, param in enumerate(params):
            is_left_out = step == 1 and index in gaps
            param.grad = None if is_left_out else make(draw(tuple(param.shape), 100 * step + index))
        optimizer.step()
    return [gather(param) for param in params]


def assert_close(found: Any, expected: Any) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def in_processes(ranks: Ranks, *args: Any) -> Any:
    """What all processes return alike."""
    answers = ranks.get(*args)
    for answer in answers[1:]:
        torch.testing.assert_close(answer, answers[0], rtol=0, atol=0)
    return answers[0]


@pytest.fixture(scope="module")
def on_one():
    return train_gpt(None)


def test_three_steps_of_a_gpt_are_those_of_one_process(ranks, on_one):
    assert_close(in_processes(ranks, train_gpt, (len(ranks),)), on_one)


def test_copies_of_the_shards_take_the_same_steps(four, on_one):
    assert_close(in_processes(four, train_gpt, (2, 2)), on_one)


@settings(max_examples=12)
@given(data=st.data())
@pytest.mark.parametrize("count", [2, 4])
def test_matrices_of_any_shape_move_as_on_one_process(two, four, count, data):
    sizes = st.integers(1, 9)
    shapes = data.draw(st.lists(st.tuples(sizes, sizes), min_size=1, max_size=7))
    gaps = data.draw(st.lists(st.sampled_from(range(len(shapes)))))
    ranks = {2: two, 4: four}[count]
    assert_close(in_processes(ranks, step_matrices, shapes, gaps), step_matrices(shapes, gaps))


def test_matrices_that_every_rank_has_whole_move_as_on_one_process(two):
    shapes, gaps = [(4, 6), (6, 4)], [1]
    assert_close(in_processes(two, step_matrices, shapes, gaps, "copies"), step_matrices(shapes, gaps))


def test_what_is_offloaded_to_the_cpu_moves_as_on_one_process(two, on_one):
    assert_close(in_processes(two, train_gpt, (2,), True), on_one)


def step_in_bfloat16(shapes: list[tuple[int, int]], dtype: torch.dtype) -> list[Tensor]:
    """A step that is computed in bfloat16, on weights of `dtype`."""
    values = [draw(shape, seed).to(dtype) for seed, shape in enumerate(shapes)]
    whole = [(each, each.flip(0)) for each in values]
    pairs = [(spread(a, [Shard(0)]), spread(b, [Shard(0)])) for a, b in whole] if dist.is_initialized() else whole
    params = [nn.Parameter(value) for value, _ in pairs]
    for param, (_, gradient) in zip(params, pairs, strict=True):
        param.grad = gradient
    MuonWithAdamW([{"params": params, "use_muon": True}], lr=0.02, compute_dtype=torch.bfloat16).step()
    return [gather(param) for param in params]


def test_what_is_computed_in_bfloat16_comes_back_without_loss(ranks):
    shapes = [(6, 9), (9, 6), (5, 7), (7, 7)]  # each alone in its shape: nothing is summed in another order
    found = in_processes(ranks, step_in_bfloat16, shapes, torch.float32)
    assert all(map(torch.equal, found, step_in_bfloat16(shapes, torch.float32)))
    # torch rounds weights in bfloat16 in another way at the end of a tensor than in its middle: by their last digit.
    found = in_processes(ranks, step_in_bfloat16, shapes, torch.bfloat16)
    torch.testing.assert_close(found, step_in_bfloat16(shapes, torch.bfloat16), rtol=2**-7, atol=2**-9)


def test_a_state_goes_on_on_another_number_of_processes(two, four, on_one, tmp_path):
    train_in_parts(tmp_path, None, 0)
    two.get(train_in_parts, tmp_path, (2,), 1)
    assert_close(in_processes(four, train_in_parts, tmp_path, (4,), 2), on_one)
    saved = [torch.load(tmp_path / f"{step}.pt")["optimizer"] for step in range(3)]
    model, optimizer = build_gpt(None)
    take_steps(model, optimizer, range(3))
    assert_close(saved[2]["state"], get_optimizer_state_dict(model, optimizer, options=WHOLE)["state"])
    groups = [[{**group, "betas": [*group["betas"]]} for group in each["param_groups"]] for each in saved]
    assert groups[0] == groups[1] == groups[2]


def save_after_a_step(folder: Path) -> None:
    model, optimizer = build_gpt((dist.get_world_size(),))
    take_steps(model, optimizer, range(1))
    state = {"model": get_model_state_dict(model), "optimizer": get_optimizer_state_dict(model, optimizer)}
    checkpoint.save(state, checkpoint_id=folder)


def go_on_from(folder: Path) -> dict[str, Tensor]:
    model, optimizer = build_gpt((dist.get_world_size(),))
    state = {"model": get_model_state_dict(model), "optimizer": get_optimizer_state_dict(model, optimizer)}
    checkpoint.load(state, checkpoint_id=folder)
    set_model_state_dict(model, state["model"])
    set_optimizer_state_dict(model, optimizer, state["optimizer"])
    take_steps(model, optimizer, range(1, 3))
    return {name: gather(param) for name, param in model.named_parameters()}


def test_shards_of_a_state_that_each_process_has_saved_load_in_more_processes(two, four, on_one, tmp_path):
    two.get(save_after_a_step, tmp_path)
    assert_close(in_processes(four, go_on_from, tmp_path), on_one)


def describe_states() -> tuple[list[Any], list[Any]]:
    """Placements and local sizes of states and of the parameters that they are of."""
    model, optimizer = build_gpt((dist.get_world_size(),))
    take_steps(model, optimizer, range(1))
    ours, expected = [], []
    for param in model.parameters():
        for name, state in optimizer.state[param].items():
            if name != "step":
                ours.append((state.placements, tuple(state.to_local().shape)))
                expected.append((param.placements, tuple(param.to_local().shape)))
    return ours, expected


def test_states_are_spread_as_their_parameters_are(ranks):
    for ours, expected in ranks.get(describe_states):
        assert ours == expected
        assert ours


def fail(*_: Any) -> None:
    raise ValueError("made to fail")


def break_step(where: str, mesh_shape: tuple[int, ...]) -> str:
    """A step in which rank 1 alone fails, and another one behind it."""
    model, optimizer = build_gpt(mesh_shape)
    for param in model.parameters():
        param.grad = torch.ones_like(param)
    first = optimizer.param_groups[0]["params"][0]
    with pytest.MonkeyPatch.context() as patch:
        if where == "gradients" and dist.get_rank() == 1:
            first.grad = None
        elif dist.get_rank() == 1:
            owner, name = {"before": (MuonWithAdamW, "_advance"), "within": (muon, "orthogonalize")}[where]
            patch.setattr(owner, name, fail)
        try:
            optimizer.step()
        except (RuntimeError, ValueError, MachineError) as raised:
            message = str(raised)
    first.grad = torch.ones_like(first)
    optimizer.step()
    return message


@pytest.mark.parametrize("where", ["before", "within"])
@pytest.mark.parametrize("mesh_shape", [(2,), (4,), (2, 2)])
def test_where_one_rank_fails_in_a_step_no_other_one_waits_for_it(two, four, where, mesh_shape):
    ranks = two if mesh_shape == (2,) else four
    messages = ranks.get(break_step, where, mesh_shape)
    assert messages.pop(1) == "made to fail"
    what = "process 1 has failed in a step of muon, and this one ends with it; what that one says is why [HF713]"
    assert set(messages) == {what}


def test_ranks_that_have_gradients_of_different_matrices_all_say_so(ranks):
    messages = ranks.get(break_step, "gradients", (len(ranks),))
    assert len(set(messages)) == 1
    assert messages[0].startswith("processes have gradients of different matrices")


def test_a_rank_that_has_failed_is_named():
    with pytest.raises(MachineError, match=r"process 5 has failed in a step of muon.*\[HF713\]"):
        _check_agreed(5, 7, -7)
    _check_agreed(-1, 7, -7)


def count_written(shapes: list[tuple[int, int]], dtype: torch.dtype, way: str) -> int:
    """The bytes that this process hands to the system in a step of Muon, or as it gathers the same matrices."""
    params = [nn.Parameter(spread(draw(shape, seed), [Shard(0)])) for seed, shape in enumerate(shapes)]
    for param in params:
        param.grad = spread(torch.ones(tuple(param.shape)), [Shard(0)])
    optimizer = MuonWithAdamW([{"params": params, "use_muon": True}], lr=0.02, compute_dtype=dtype)
    optimizer.step()
    before = read_written()
    if way == "step":
        optimizer.step()
    else:
        for param in params:
            gather(param)
    return read_written() - before


def read_written() -> int:
    return int(Path("/proc/self/io").read_text().split("wchar: ")[1].split()[0])


@pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="Linux counts what a process writes")
def test_a_step_sends_each_value_to_one_rank_and_back(ranks):
    shapes = [(96, 96)] * 8
    count, values = len(ranks), 8 * 96 * 96
    away = values * (count - 1) / count  # of each value: the share of ranks that must send or get it
    full = sum(ranks.get(count_written, shapes, torch.float32, "step"))
    assert full == pytest.approx(2 * 4 * away, rel=0.05)
    assert sum(ranks.get(count_written, shapes, torch.bfloat16, "step")) == pytest.approx((4 + 2) * away, rel=0.05)
    gathered = sum(ranks.get(count_written, shapes, torch.float32, "gather"))
    assert gathered == pytest.approx(4 * values * (count - 1), rel=0.05)
    assert full < 1.05 * gathered * 2 / count


@settings(max_examples=30)
@example([(64, 64), (64, 64), (80, 80)], 2)  # in this order they would be 1 + 2 against 1
@given(st.lists(st.tuples(st.integers(1, 4096), st.integers(1, 4096)), min_size=1, max_size=6), st.integers(1, 3))
def test_matrices_are_shared_out_within_four_thirds_of_the_best_way(shapes, count):
    def find_most(owners: Iterable[int]) -> int:
        loads = [0] * count
        for shape, owner in zip(shapes, owners, strict=True):
            loads[owner] += estimate_cost(shape)
        return max(loads)

    best = min(map(find_most, itertools.product(range(count), repeat=len(shapes))))
    assert 3 * count * find_most(share_out(shapes, count)) <= (4 * count - 1) * best


@given(st.integers(1, 50), st.integers(1, 9))
def test_rows_are_counted_as_torch_spreads_them(rows, count):
    pieces = [len(piece) for piece in torch.zeros(rows, 1).chunk(count)]
    assert count_rows(rows, count) == pieces + [0] * (count - len(pieces))


REFUSED = r"train\.optim: muon needs whole matrices, or their rows as FSDP2 spreads them, and {}.*\[HF606\]"


def refuse_spread(placements: list[Placement]) -> str:
    values = spread(torch.zeros(4, 6), [Replicate()])
    param = nn.Parameter(values.redistribute(placements=placements))
    with pytest.raises(ConfigError) as refused:
        group_by_split([param])
    return str(refused.value)


def test_matrices_that_are_spread_otherwise_are_refused(two):
    for message in two.get(refuse_spread, [Shard(1)]):
        assert message.startswith("train.optim: muon needs whole matrices")
        assert "and one of shape (4, 6) is spread as Shard(dim=1); use adamw_torch_fused" in message


def test_a_parameter_that_was_laid_out_flat_is_refused():
    optimizer = MuonWithAdamW([{"params": [nn.Parameter(torch.zeros(24))], "use_muon": True}], lr=0.02)
    with pytest.raises(ConfigError, match=REFUSED.format(r"one of shape \(24,\) is no matrix;")):
        optimizer.step()


def test_parameters_that_zero_3_has_taken_apart_are_refused():
    model = tiny_model()
    model.lm_head.weight.data = torch.empty(0)
    with pytest.raises(ConfigError, match=REFUSED.format("one has no values here, as ZeRO-3 leaves it")):
        MuonFactory()(model, lr=0.02, weight_decay=0.1)


def give_partial_gradient() -> str:
    param = nn.Parameter(spread(torch.zeros(4, 6), [Shard(0)]))
    param.grad = spread(torch.ones(4, 6), [Replicate()])
    with pytest.raises(RuntimeError) as refused:
        MuonWithAdamW([{"params": [param], "use_muon": False}], lr=0.02).step()
    return str(refused.value)


def test_a_gradient_that_is_spread_otherwise_than_its_parameter_is_an_error(two):
    assert {message.split(",")[0] for message in two.get(give_partial_gradient)} == {
        "a parameter is spread as (Shard(dim=0)"
    }
