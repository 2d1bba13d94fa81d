"""The machine and the installed packages can do what the run asks for; checked before anything is loaded."""

from __future__ import annotations

import importlib.util
from typing import Any

from hf_finetune.config.checks.launch.engine import INSTALL_DEEPSPEED
from hf_finetune.config.reading.document import RunDocument
from hf_finetune.config.validation.hf_settings import load_table
from hf_finetune.environment.hardware import Hardware, select_accelerator
from hf_finetune.errors import suggest

# Compute capabilities: https://docs.nvidia.com/cuda/cuda-c-programming-guide/#compute-capabilities
_AMPERE = (8, 0)
_FIRST_FP16 = (5, 3)

# Packages of transformers' optional optimizers, by the beginning of `train.optim`; the first match counts.
_BITSANDBYTES = ("adamw_bnb_8bit", "adamw_8bit", "ademamix", "lion_", "paged_", "rmsprop_bnb")
_OPTIM_PACKAGES = {
    **dict.fromkeys(_BITSANDBYTES, "bitsandbytes"),
    "adamw_torch_4bit": "torchao",
    "adamw_torch_8bit": "torchao",
    "adamw_torch_xla": "torch_xla",
    "adamw_torch_npu": "torch_npu",
    "adamw_anyprecision": "torchdistx",
    "galore": "galore_torch",
    "lomo": "lomo_optim",
    "adalomo": "lomo_optim",
    "grokadamw": "grokadamw",
    "schedule_free": "schedulefree",
    "apollo": "apollo_torch",
    "stable_adamw": "optimi",
}

# Where the name to install is another one; we ourselves are on no index yet, so that our extras come from the clone.
_INSTALL = {
    "deepspeed": INSTALL_DEEPSPEED,
    "bitsandbytes": 'in the clone of hf-finetune: pip install ".[qlora]"',
    "lm_eval": 'in the clone of hf-finetune: pip install ".[harness]"',
    "optimi": "pip install torch-optimi",
    "sqlalchemy": "pip install mlflow (mlflow-skinny comes without it)",
    "torchdistx": "see https://github.com/pytorch/torchdistx",
}
_FLAG_PACKAGES = {"use_liger_kernel": "liger_kernel", "deepspeed": "deepspeed"}
# Trackers that write into the run folder, and the packages that they need.
_TRACKERS = {
    "tensorboard": ("tensorboard",),
    "trackio": ("trackio",),
    "wandb": ("wandb",),
    "mlflow": ("mlflow", "sqlalchemy"),
}
_OF_TRACKIO = ("project", "trackio_space_id", "trackio_bucket_id", "trackio_static_space_id")
# Trackers of the stack that cannot be kept to the run folder without the user's name in it: why, and their packages.
_TRACKERS_REFUSED = {
    "azure_ml": ("sends to a workspace of Azure", "azureml"),
    "clearml": ("records user, machine and code", "clearml"),
    "codecarbon": ("records machine and place (watt-hours are in report.json anyway)", "codecarbon"),
    "comet_ml": ("records user, machine and code", "comet_ml"),
    "dagshub": ("sends to a repository of DagsHub, with the user's name", "dagshub"),
    "dvclive": ("writes into the working folder and commits to its repository", "dvclive"),
    "flyte": ("works within a task of Flyte only, and puts checkpoints there", "flytekit"),
    "kubeflow": ("works within a TrainJob of Kubeflow only, and sends there", "kubeflow"),
    "neptune": ("records user, machine and code", "neptune"),
    "swanlab": ("records user and machine", "swanlab"),
}


def check_machine(document: RunDocument, run: Any, hardware: Hardware) -> None:
    """Check precision and attention against the device that the run would use."""
    if document.is_refused("train.use_cpu"):
        return
    train = run.train
    device = select_accelerator(hardware, {"use_cpu": train.use_cpu})
    if train.fp16 and train.bf16 and not document.is_refused("train.fp16", "train.bf16"):
        document.refuse(("train", "fp16"), "is given together with train.bf16", "keep one", code="HF606")
    elif train.fp16_full_eval and train.bf16_full_eval:
        document.refuse(
            ("train", "fp16_full_eval"), "is given together with train.bf16_full_eval", "keep one", code="HF606"
        )
    else:
        for name in ("fp16", "fp16_full_eval", "bf16", "bf16_full_eval"):
            if getattr(train, name):
                _check_precision(document, name, device, hardware)
    if device == "cpu" and hardware.bf16_slowdown is not None:
        _note_emulation(document, run, hardware.bf16_slowdown)
    if train.tf32 and (
        device == "cpu" or device == "mps" or (device == "cuda" and not hardware.has_compute_capability(*_AMPERE))
    ):
        document.refuse(
            ("train", "tf32"), "this machine has no GPU that computes in tf32", "leave it out", code="HF680"
        )
    _check_attention(document, run, device, hardware)


def _check_precision(document: RunDocument, name: str, device: str, hardware: Hardware) -> None:
    # TrainingArguments accepts fp16 on a CPU (transformers 5.23), and bf16 on GPUs that only emulate it, slowly.
    key = ("train", name)
    if name.startswith("fp16") and device == "cpu":
        document.refuse(
            key,
            "float16 is not trained on a CPU",
            f"use train.{name.replace('fp16', 'bf16')}, or neither",
            code="HF680",
        )
    elif name.startswith("fp16") and device == "cuda" and not hardware.has_compute_capability(*_FIRST_FP16):
        document.refuse(key, f"{_describe_oldest_gpu(hardware)} computes no float16", "leave it out", code="HF680")
    elif name.startswith("bf16") and device == "cuda" and not hardware.has_compute_capability(*_AMPERE):
        what = f"{_describe_oldest_gpu(hardware)} computes no bfloat16, which needs compute capability 8.0"
        document.refuse(key, what, f"use train.{name.replace('bf16', 'fp16')}", code="HF680")


def _note_emulation(document: RunDocument, run: Any, slowdown: int) -> None:
    """Warn of bf16 that the CPU only emulates, once: of the first of the settings that ask for it."""
    asked = {
        ("train", "bf16"): run.train.bf16,
        ("train", "bf16_full_eval"): run.train.bf16_full_eval,
        ("model", "dtype"): run.model.dtype == "bfloat16",
    }
    key = next((key for key, given in asked.items() if given), None)
    if key is not None:
        what = f"bfloat16 is emulated on this CPU, which takes about {slowdown} times as long as float32; leave it out"
        document.note(key, what, code="HF681")


def _describe_oldest_gpu(hardware: Hardware) -> str:
    major, minor = min(hardware.capabilities)
    return f"the GPU (compute capability {major}.{minor})"


def _check_attention(document: RunDocument, run: Any, device: str, hardware: Hardware) -> None:
    attention, key = run.model.attn_implementation, ("model", "attn_implementation")
    if document.is_refused("model.attn_implementation") or device == "other":
        return
    if attention == "flex_attention" and device != "cuda":
        document.refuse(key, "flex_attention is trained on CUDA devices only", "use sdpa", code="HF680")
    if attention != "flash_attention_2":
        return
    # The kernels take float16 and bfloat16 only, and fail at the first forward pass:
    # https://github.com/Dao-AILab/flash-attention#nvidia-cuda-support
    half = run.train.bf16 or run.train.fp16 or run.model.dtype != "float32"
    if device != "cuda" or not hardware.has_compute_capability(*_AMPERE):
        document.refuse(
            key, "flash_attention_2 needs a GPU of compute capability 8.0 or more", "use sdpa", code="HF680"
        )
    elif not _is_installed("flash_attn"):
        document.refuse(
            key, "the package flash-attn is not installed", "pip install flash-attn, or use sdpa", code="HF711"
        )
    elif not half:
        document.refuse(
            key, "flash_attention_2 computes in bf16 or fp16 only", "set train.bf16: true, or use sdpa", code="HF609"
        )


def check_packages(document: RunDocument, run: Any) -> None:
    """Check that the optional packages are installed that a setting needs."""
    for name in ("load_in_4bit", "load_in_8bit"):
        if getattr(run.model, name):
            _require_package(document, ("model", name), "bitsandbytes")
    prefix = next((prefix for prefix in _OPTIM_PACKAGES if run.train.optim.startswith(prefix)), None)
    if prefix is not None:
        _require_package(document, ("train", "optim"), _OPTIM_PACKAGES[prefix])
    for name, package in _FLAG_PACKAGES.items():
        if getattr(run.train, name):
            _require_package(document, ("train", name), package)
    if run.train.torch_compile_backend == "tvm":  # torch itself has the others
        _require_package(document, ("train", "torch_compile_backend"), "tvm")
    if run.eval.harness:
        _require_package(document, ("eval", "harness"), "lm_eval")
    _check_trackers(document, run.train.report_to)
    _check_of_trackio(document, run.train)


def _check_trackers(document: RunDocument, report_to: str | list[str] | None) -> None:
    names = [report_to] if isinstance(report_to, str) else report_to or []
    key, known = ("train", "report_to"), [*load_table()["trackers"], "all", "none"]
    for name in names:
        if name not in known:
            remedy = suggest(name, known, f"choose from {', '.join(_TRACKERS)}, none")
            document.refuse(key, f"{name!r} is not a tracker", remedy, code="HF604")
        elif name == "all":
            for tracker, (_, package) in _TRACKERS_REFUSED.items():
                if _is_installed(package):
                    _refuse_tracker(document, tracker, f"{tracker}, which `all` takes in since it is installed,")
        elif name in _TRACKERS:
            for package in _TRACKERS[name]:
                _require_package(document, key, package)
        elif name != "none":
            _refuse_tracker(document, name, name)


def _check_of_trackio(document: RunDocument, train: Any) -> None:
    """Settings that only trackio reads."""
    names = [train.report_to] if isinstance(train.report_to, str) else train.report_to or []
    if {"trackio", "all"} & set(names) or document.is_refused("train.report_to"):
        return
    given = [name for name in _OF_TRACKIO if getattr(train, name) != type(train).model_fields[name].default]
    for name in given:
        if not document.is_refused(f"train.{name}"):
            document.refuse(
                ("train", name), "has no effect without trackio", "set train.report_to: trackio", code="HF607"
            )


def _refuse_tracker(document: RunDocument, tracker: str, words: str) -> None:
    why, _ = _TRACKERS_REFUSED[tracker]
    remedy = f"choose from {', '.join(_TRACKERS)}"
    document.refuse(("train", "report_to"), f"{words} {why}: it cannot be kept to the run folder", remedy, code="HF686")


def _require_package(document: RunDocument, key: tuple[str, str], package: str) -> None:
    if not _is_installed(package) and not document.is_refused(".".join(key)):
        install = _INSTALL.get(package, f"pip install {package.replace('_', '-')}")
        document.refuse(key, f"the package {package} is not installed", install, code="HF711")


def _is_installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None
