"""What is wrong with an accelerate configuration is said with its file, line and key, before anything is loaded."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from accelerate.commands.launch import _validate_launch_command, launch_command_parser

from hf_finetune.config.checks.launch import read_launch_file
from hf_finetune.config.checks.launch.engine import engine_of_file
from hf_finetune.errors import ConfigError

FILES = Path(__file__).resolve().parents[3] / "accelerate_configs"
DDP, FSDP2, ZERO3 = ((FILES / f"{name}.yaml").read_text() for name in ("multi_gpu", "fsdp2", "zero3"))

ON_TWO = ZERO3.replace("num_machines: 1", "num_machines: 2")
RESHARD = "fsdp_reshard_after_forward: true"


def refusal_of(folder: Path, text: str) -> list[str]:
    path = folder / "launch.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as refused:
        read_launch_file(path)
    return [str(problem).removeprefix(f"{path}:") for problem in refused.value.problems]


NO_KEY = "is no key of an accelerate configuration; "
NUMBER = "expected a whole number, 1 or more, found "
# The file, what is changed in it to what, the key that is named, and what is said of it.
MISTAKES = [
    (DDP, "num_processes: 2", "num_procesess: 2", "num_procesess", f"{NO_KEY}did you mean num_processes? [HF602]"),
    (DDP, "same_network", "zzz", "zzz", f"{NO_KEY}leave it out [HF602]"),
    (FSDP2, "fsdp_offload_params", "fsdp_offload", "fsdp_config.fsdp_offload", f"{NO_KEY}did you mean fsdp_offload_p"),
    (ZERO3, "zero_stage: 3", "zero_stag: 3", "deepspeed_config.zero_stag", f"{NO_KEY}did you mean zero_stage? [HF602]"),
    (DDP, "num_processes: 2", "num_processes: 0", "num_processes", f"{NUMBER}0; correct it, or leave it out [HF603]"),
    (DDP, "num_processes: 2", "num_processes: -2", "num_processes", f"{NUMBER}-2; correct it"),
    (DDP, "num_processes: 2", "num_processes: two", "num_processes", f"{NUMBER}'two'; correct it"),
    (DDP, "num_processes: 2", "num_processes: true", "num_processes", f"{NUMBER}true; correct it"),
    (DDP, "machine_rank: 0", "machine_rank: -1", "machine_rank", "expected a whole number, 0 or more, found -1"),
    (
        DDP,
        "machine_rank: 0",
        "main_process_port: 70000",
        "main_process_port",
        "expected a whole number, 0 to 65535, fo",
    ),
    (
        DDP,
        "LOCAL_MACHINE",
        "AMAZON_SAGEMAKER",
        "compute_environment",
        "is for 'AMAZON_SAGEMAKER', and a run is launched",
    ),
    (
        DDP,
        "MULTI_GPU",
        "MULTI_GPUS",
        "distributed_type",
        "'MULTI_GPUS' is no kind of launch; did you mean MULTI_GPU? [",
    ),
    (DDP, "MULTI_GPU", "MEGATRON_LM", "distributed_type", "no recipe runs under Megatron-LM; use FSDP, as accelerate"),
    (DDP, "num_machines: 1", "fsdp_config: 1", "fsdp_config", "expected a section, found 1; indent its keys [HF603]"),
    (
        DDP,
        "num_machines: 1",
        "fsdp_config: {fsdp_version: 2}",
        "fsdp_config",
        "has no effect with distributed_type: MULTI_",
    ),
    (DDP, "gpu_ids: all", 'gpu_ids: "0"', "gpu_ids", "names 1 for 2 processes on this machine; name one GPU a process"),
    (
        FSDP2,
        "fsdp_version: 2",
        "fsdp_version: 1",
        "fsdp_config.fsdp_version",
        "is of FSDP1, as a file is that names no ve",
    ),
    (
        FSDP2,
        "fsdp_version: 2",
        "version: 3",
        "fsdp_config.version",
        "3 is no version of FSDP; set fsdp_version: 2 (`accele",
    ),
    (
        FSDP2,
        RESHARD,
        "fsdp_sharding_strategy: FULL_SHARD",
        "fsdp_config.fsdp_sharding_strategy",
        "is of FSDP1, and has no",
    ),
    (
        FSDP2,
        RESHARD,
        "fsdp_reshard_after_forward: FULL_SHARD",
        f"fsdp_config.{RESHARD[:-6]}",
        "expected one of true, false",
    ),
    (
        ZERO3,
        "zero_stage: 3",
        "zero_stage: 4",
        "deepspeed_config.zero_stage",
        "expected one of 0, 1, 2, 3, found 4; choose o",
    ),
    (
        ZERO3,
        "zero_stage: 3",
        "gradient_clipping: 1",
        "deepspeed_config.gradient_clipping",
        "is the run file's to say, as t",
    ),
    (
        ZERO3,
        "zero_stage: 3",
        "deepspeed_config_file: no",
        "deepspeed_config.deepspeed_config_file",
        "no such file: 'no.json'",
    ),
    (
        FSDP2,
        "same_network: true",
        "parallelism_config: {parallelism_config_tp_size: 2}",
        "parallelism_config",
        "arranges the processes as a mesh, and each process of a run trains on rows of its own",
    ),
    (
        ON_TWO,
        "launcher: standard",
        "launcher: pdsh",
        "deepspeed_config.deepspeed_multinode_launcher",
        "expected standard for s",
    ),
]


@pytest.mark.parametrize(("text", "old", "new", "key", "said"), MISTAKES, ids=[f"{each[2]}" for each in MISTAKES])
def test_a_mistake_is_one_message_with_its_line_and_key(tmp_path, text, old, new, key, said):
    assert old in text
    changed = text.replace(old, new.replace("file: no", "file: no.json"), 1)
    [message] = refusal_of(tmp_path, changed)
    name = key.rpartition(".")[2]
    line = next(number for number, each in enumerate(changed.splitlines(), 1) if each.strip().startswith(f"{name}:"))
    assert message.startswith(f"{line}: {key}: {said}")


def test_all_mistakes_of_a_file_are_said_together(tmp_path):
    said = refusal_of(tmp_path, DDP.replace("num_processes: 2", "num_processes: 0").replace("gpu_ids", "gpu_idds"))
    assert [message.split(":")[1].strip() for message in said] == ["gpu_idds", "num_processes"]


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ('distributed_type: "NO"', "asks for 2 processes, and distributed_type: NO starts one"),
        ("distributed_type: MULTI_CPU", "asks for 2 processes, and distributed_type: MULTI_CPU starts one"),
        ("distributed_type: NO", "expected a word, found false, which YAML makes of NO; write"),
        ("debug: false", "is missing; add one of DEEPSPEED, FSDP,"),
    ],
)
def test_processes_that_accelerate_would_not_start_are_not_asked_for(tmp_path, kind, said):
    assert any(said in message for message in refusal_of(tmp_path, f"{kind}\nuse_cpu: true\nnum_processes: 2\n"))


@pytest.mark.parametrize("path", sorted(FILES.glob("*.yaml")), ids=lambda path: path.stem)
def test_a_shipped_file_is_taken_and_says_what_each_parameter_costs(path):
    settings = read_launch_file(path)
    engine = engine_of_file(settings, path)
    named = {"fsdp": "FSDP2", "zero2": "ZeRO-2", "zero3": "ZeRO-3"}
    wanted = next((shown for name, shown in named.items() if name in path.stem), None)
    assert (engine.shown if engine else None) == wanted
    comment = path.read_text().partition("compute_environment")[0]
    assert "parameter" in comment or settings["num_processes"] == 1 or settings["use_cpu"]


@pytest.mark.parametrize("path", sorted(FILES.glob("*.yaml")), ids=lambda path: path.stem)
def test_accelerate_understands_every_key_of_a_shipped_file_as_it_is_meant(path):
    args = launch_command_parser().parse_args(["--config_file", str(path), "script.py"])
    args, _, _ = _validate_launch_command(args)
    settings = yaml.safe_load(path.read_text())
    for section in ("fsdp_config", "deepspeed_config"):
        for name, value in settings.get(section, {}).items():
            assert getattr(args, name) == value, name
    kind = settings["distributed_type"]
    assert (args.use_fsdp, args.use_deepspeed, args.multi_gpu) == (
        kind == "FSDP", kind == "DEEPSPEED", kind == "MULTI_GPU",
    )  # fmt: skip


def test_the_line_is_that_of_the_section_where_its_keys_stand_in_braces(tmp_path):
    file = tmp_path / "launch.yaml"
    file.write_text("distributed_type: FSDP\nnum_processes: 2\nfsdp_config: {fsdp_versoin: 2}\n")
    with pytest.raises(ConfigError) as refused:
        read_launch_file(file)
    assert {problem.line for problem in refused.value.problems} == {3}
