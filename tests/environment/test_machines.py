"""Which machine of how many this is, by the command line, by Slurm's and torchrun's environment, or by the file."""

from __future__ import annotations

import socket

import pytest

from hf_finetune.environment.machines import check_port, check_tasks, count_tasks, find_machines, first_host
from hf_finetune.errors import ConfigError

ONE = {"distributed_type": "MULTI_GPU", "num_processes": 8}
TWO = {"distributed_type": "MULTI_GPU", "num_machines": 2, "num_processes": 16, "main_process_port": 29500}
# As `srun --nodes=4 --ntasks-per-node=1` has it on the third machine of a job.
SLURM = {
    "SLURM_JOB_ID": "7",
    "SLURM_JOB_NODELIST": "gpu[03-04,11],big1",
    "SLURM_JOB_NUM_NODES": "4",
    "SLURM_NNODES": "4",
    "SLURM_NODEID": "2",
    "SLURM_PROCID": "2",
    "SLURM_NTASKS": "4",
    "SLURM_STEP_ID": "0",
    "SLURM_STEP_NUM_TASKS": "4",
}
TORCHRUN = {"MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "1234", "GROUP_RANK": "1", "GROUP_WORLD_SIZE": "2"}


def refusal_of(settings: dict, given: dict, environment: dict) -> list[str]:
    with pytest.raises(ConfigError) as refused:
        find_machines(settings, given, environment, file="multi.yaml")
    return [str(problem) for problem in refused.value.problems]


def test_slurm_says_it_and_the_file_how_many_processes_a_machine_has():
    found = find_machines(TWO, {}, SLURM, file="multi.yaml")
    assert (found.count, found.rank, found.address, found.port) == (4, 2, "gpu03", 29500)
    assert (found.processes, found.local) == (32, 8)
    assert found.describe() == (
        "machine 2 (of 0 to 3), 8 processes on each; the first is at gpu03, port 29500 (num_machines by "
        "SLURM_JOB_NUM_NODES, machine_rank by SLURM_NODEID, main_process_ip by SLURM_JOB_NODELIST, num_processes by "
        "SLURM_JOB_NUM_NODES)"
    )


def test_torchruns_variables_stand_above_slurms_and_the_command_line_above_both():
    found = find_machines(TWO, {}, SLURM | TORCHRUN, file="multi.yaml")
    assert (found.count, found.rank, found.address, found.port, found.local) == (2, 1, "10.0.0.1", 1234, 8)
    given = {
        "machine_rank": 0,
        "main_process_ip": "head",
        "num_processes": 6,
        "num_machines": 3,
        "main_process_port": 5,
    }
    found = find_machines(TWO, given, SLURM | TORCHRUN, file="multi.yaml")
    assert (found.count, found.rank, found.address, found.port, found.processes) == (3, 0, "head", 5, 6)
    assert found.as_settings() == given
    assert found.said_by["machine_rank"] == "--machine-rank"


def test_a_file_is_enough_and_nothing_of_it_is_handed_on_twice():
    found = find_machines(TWO | {"machine_rank": 1, "main_process_ip": "head"}, {"num_machines": None}, {}, file="f")
    assert (found.count, found.rank, found.address) == (2, 1, "head")
    assert found.as_settings() == {}
    assert found.describe().endswith("port 29500 (all by the launch file)")


def test_a_launch_on_one_machine_does_not_look_at_the_environment():
    found = find_machines(ONE, {}, SLURM | TORCHRUN, file="f")
    assert (found.count, found.rank, found.address, found.port, found.as_settings()) == (1, 0, None, None, {})


@pytest.mark.parametrize(
    ("settings", "given", "environment", "said"),
    [
        (TWO, {}, {}, "multi.yaml: main_process_ip: 2 machines are launched, and nothing says where the first"),
        (TWO, {"machine_rank": 2}, TORCHRUN, "--machine-rank: is 2, and 2 machines are numbered from 0 to 1; give"),
        (ONE, {"machine_rank": 1}, {}, "--machine-rank: is 1, and 1 machine is numbered from 0 to 0; give each"),
        (TWO, {"num_processes": 3}, TORCHRUN, "--num-processes: 3 processes cannot be shared out evenly over 2 mach"),
        (TWO, {"num_processes": 0}, TORCHRUN, "--num-processes: expected a whole number, 1 or more, found '0'; corr"),
        (TWO, {"main_process_port": 0}, TORCHRUN, "--main-process-port: is 0, a free port, which the other machines"),
        (TWO, {"main_process_port": 65536}, TORCHRUN, "--main-process-port: expected a whole number, 0 or more (655"),
        (TWO, {}, TORCHRUN | {"GROUP_RANK": "first"}, "GROUP_RANK: expected a whole number, 0 or more, found 'first'"),
        ({"distributed_type": "FSDP"}, {}, {}, "multi.yaml: num_processes: is missing; add it: the processes of all"),
    ],
)
def test_machines_that_do_not_fit_together_are_one_message(settings, given, environment, said):
    [message] = refusal_of(settings, given, environment)
    assert message.startswith(said)


@pytest.mark.parametrize(
    ("nodes", "host"),
    [
        ("gpu1", "gpu1"),
        ("a,b", "a"),
        ("n[01-04,07],x", "n01"),
        ("rack[1-2]n[04,06]", "rack1n04"),
        ("g[7]-ib,a", "g7-ib"),
    ],
)
def test_the_first_host_of_a_list_of_slurm(nodes, host):
    assert first_host(nodes) == host


@pytest.fixture
def used_port():
    with socket.socket() as other:
        other.bind(("", 0))
        other.listen(1)
        yield other.getsockname()[1]


def test_a_port_in_use_is_said_before_anything_is_launched(used_port):
    for given, key in (({"main_process_port": used_port}, "--main-process-port"), ({}, "main_process_port")):
        found = find_machines(ONE | {"main_process_port": used_port}, given, {}, file="f")
        with pytest.raises(ConfigError, match=f"^{key}: port {used_port} is in use on this machine") as refused:
            check_port(found)
        assert refused.value.problems[0].code == "HF722"


def test_a_port_is_asked_for_on_the_first_machine_alone_and_a_free_one_is_left_to_accelerate(used_port):
    second = find_machines(
        TWO, {"main_process_port": used_port, "machine_rank": 1, "main_process_ip": "a"}, {}, file="f"
    )
    check_port(second)
    check_port(find_machines(ONE, {}, {}, file="f"))
    check_port(find_machines(ONE, {"main_process_port": 0}, {}, file="f"))


# `srun -n 2` with one machine, and the script of a job with two tasks, in which nothing is started twice.
TASKS = {"SLURM_PROCID": "1", "SLURM_NTASKS": "2", "SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "2"}
SCRIPT = {"SLURM_PROCID": "0", "SLURM_NTASKS": "2", "SLURM_NNODES": "2"}


@pytest.mark.parametrize(
    ("environment", "tasks"),
    [
        ({}, None),
        (TASKS, 2),
        (SCRIPT, 1),
        ({"SLURM_PROCID": "1", "SLURM_NTASKS": "2"}, 2),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "2", "SLURM_STEP_ID": "0"}, 2),
        ({"SLURM_PROCID": "1"}, 2),
        ({"SLURM_NTASKS": "4"}, None),
    ],
)
def test_the_tasks_of_a_step_are_counted(environment, tasks):
    assert count_tasks(environment) == tasks


LINE = "hf-finetune train run.yaml --on cpu"


@pytest.mark.parametrize(
    ("environment", "launchers", "said"),
    [
        (TASKS, 1, f"srun: Slurm has started 2 tasks of this, and each would train the whole run in one folder; type: "
                   f"srun --ntasks=1 {LINE} [HF724]"),
        (TASKS, None, "each would train the whole run in one folder; type: srun --ntasks=1 hf-finetune"),
        (TASKS | {"RANK": "1", "WORLD_SIZE": "8", "GROUP_WORLD_SIZE": "1"}, None, "Slurm has started 2 tasks of this"),
        (TASKS, 4, f"and it is to run once on 4 machines; type: srun --nodes=4 --ntasks=4 --ntasks-per-node=1 {LINE}"),
        (SCRIPT, 2, "srun: this runs once, in the script of the job, and it is to run once on 2 machines; type: srun"),
        (TASKS, 2, None),
        (SLURM, 4, None),
        (SCRIPT, 1, None),
        (SCRIPT, None, None),
        ({}, 2, None),
        (TASKS | {"RANK": "1", "WORLD_SIZE": "2"}, None, None),
        (TASKS | {"RANK": "9", "WORLD_SIZE": "16", "GROUP_WORLD_SIZE": "2"}, None, None),
        (TASKS | {"PMI_RANK": "1", "PMI_SIZE": "2"}, None, None),
    ],
)  # fmt: skip
def test_tasks_that_do_not_know_of_each_other_are_refused_with_the_line_to_type(environment, launchers, said):
    if said is None:
        check_tasks(environment, LINE, launchers)
        return
    with pytest.raises(ConfigError) as refused:
        check_tasks(environment, LINE, launchers)
    assert said in str(refused.value)
