"""`hf-finetune train`: launch a run."""

from __future__ import annotations

from typing import Annotated

import typer

_WHERE = (
    "Where it runs: a file of accelerate_configs, or its name: cpu, cpu_2proc, single_gpu, multi_gpu, fsdp2, "
    "fsdp2_offload, zero2, zero3, multi_node, multi_node_fsdp2 (docs/distributed.md)."
)


def train(
    run_file: Annotated[str, typer.Argument(help="The run's YAML file.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="section.key=value, as many as wanted.")] = None,
    where: Annotated[str, typer.Option("--on", help=_WHERE)] = "cpu",
    show_data: Annotated[bool, typer.Option("--show-data", help="Show rows' text: sets eval.show_data.")] = False,
    allow_changed: Annotated[
        bool, typer.Option("--allow-changed", help="Go on with a run under other settings than it began with.")
    ] = False,
    num_processes: Annotated[
        int | None, typer.Option("--num-processes", help="Processes on all machines together, one a GPU.")
    ] = None,
    num_machines: Annotated[int | None, typer.Option("--num-machines", help="Machines that train together.")] = None,
    machine_rank: Annotated[
        int | None, typer.Option("--machine-rank", help="Which of them this is, from 0; else by Slurm or torchrun.")
    ] = None,
    main_process_ip: Annotated[
        str | None, typer.Option("--main-process-ip", help="Where machine 0 is; else by Slurm or MASTER_ADDR.")
    ] = None,
    main_process_port: Annotated[
        int | None, typer.Option("--main-process-port", help="The port there at which the processes meet.")
    ] = None,
    max_restarts: Annotated[
        int,
        typer.Option("--max-restarts", min=0, help="Go on by itself, so often, where a process or machine is lost."),
    ] = 0,
) -> None:
    """Check a run file, then launch its recipe under Accelerate. The launch line is printed first.

    Typed again, the run goes on from its newest checkpoint. With --on multi_node type it once on each machine.
    """
    from hf_finetune.cli.launcher import launch, list_typed
    from hf_finetune.cli.restarts import is_started_again, start_again
    from hf_finetune.interruption import end_with_parent

    shown = ["eval.show_data=true"] if show_data else []
    machines = {
        "num_machines": num_machines,
        "machine_rank": machine_rank,
        "main_process_ip": main_process_ip,
        "main_process_port": main_process_port,
        "num_processes": num_processes,
    }
    argv = [run_file, *(overrides or []), *shown]
    typed = list_typed(argv, where, machines | {"max_restarts": max_restarts or None})
    if max_restarts and not is_started_again():
        raise typer.Exit(start_again(argv, where, machines, max_restarts, typed))
    if max_restarts:
        end_with_parent()
    raise typer.Exit(launch(argv, where, allow_changed=allow_changed, machines=machines, typed=typed))
