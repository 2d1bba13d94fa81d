"""Cross-checks, each by the key it names; Trainer's own rules are compared with TrainingArguments itself."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import yaml
from config.run_files import VALID
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

import hf_finetune.config.checks as checks
import hf_finetune.config.checks.machine as checks_machine
from hf_finetune.environment.hardware import Hardware

VALIDATION = "data.validation=validation.jsonl"
GALORE = "{optim: galore_adamw, optim_target_modules: all-linear}"
FSDP = "train={optim: adamw_torch, fsdp: true}"
BEST = "train={eval_strategy: steps, load_best_model_at_end: true}"

CONFLICTS = [
    (["model.scratch=null"], "model", "neither model.path nor model.scratch"),
    (["model.path=base"], "model.scratch", "together with model.path"),
    (["model.tokenizer=null"], "model.tokenizer", "a new model has no tokenizer"),
    (["model.tokenizer={train: {kind: word}}"], "model.tokenizer.train.vocab_size", "word tokenizer needs the size"),
    (["model.path=base", "model.scratch=null"], "model.tokenizer", "would not fit the trained embeddings"),
    (["model.revision=main"], "model.revision", "belongs to model.path"),
    (["model.dtype=float16"], "model.dtype", "cannot be trained"),
    (["model.load_in_4bit=true"], "model.load_in_4bit", "random weights cannot be quantized"),
    (["model.load_in_4bit=true", "model.load_in_8bit=true"], "model.load_in_8bit", "together with"),
    (["model.attn_implementation=flex_attention"], "model.attn_implementation", "CUDA devices only"),
    (["model.attn_implementation=flash_attention_2"], "model.attn_implementation", "compute capability 8.0"),
    (["data.validation=validation.jsonl", "data.validation_fraction=0.1"], "data.validation_fraction", "together"),
    (["data.test=validation.jsonl", "data.test_fraction=0.1"], "data.test_fraction", "together"),
    (["data.validation_fraction=0.5", "data.test_fraction=0.5"], "data.test_fraction", "leaves no training rows"),
    (["data.stratify_by=label"], "data.stratify_by", "nothing is split"),
    (["data.group_by=author"], "data.group_by", "nothing is split"),
    (["data.group_by=author", "data.validation_fraction=0.1", "data.format=lines"], "data.group_by", "have no fields"),
    (["data.format=messages"], "data.format", "are not documents"),
    (["data.task=classification"], "data.task", "belongs to the recipe classification"),
    (["data.block_size=512", "model.scratch.max_position_embeddings=256"], "data.block_size", "more than the 256"),
    (["data.train=[]"], "data.train", "is empty"),
    (["eval.prompts=validation"], "eval.prompts", "documents ask no questions"),
    (["lora={r: 8}"], "lora", "belongs to the recipes lora and classification"),
    (["hub={repo_id: a/b}"], "card.license", "is missing"),
    (["train.max_steps=0"], "train.max_steps", "at least 1"),
    (["train.num_train_epochs=0"], "train.num_train_epochs", "greater than 0"),
    (["train.save_steps=2.5"], "train.save_steps", "neither a number of steps nor a share"),
    (["train.eval_strategy=steps"], "train.eval_strategy", "nothing to evaluate on"),
    (["train.eval_on_start=true"], "train.eval_on_start", "nothing to evaluate on"),
    (["train.load_best_model_at_end=true"], "train.load_best_model_at_end", "needs evaluations"),
    ([BEST, "train.save_strategy=epoch"], "train.load_best_model_at_end", "a checkpoint at each evaluation"),
    ([BEST, "train.save_steps=3", "train.eval_steps=2"], "train.save_steps", "not a multiple of eval_steps, 2"),
    ([BEST, "train.save_steps=3", "train.eval_steps=0.5"], "train.save_steps", "is a share, the other a count"),
    (["train.save_strategy=best"], "train.save_strategy", "needs evaluations"),
    (["train.early_stopping_patience=2"], "train.early_stopping_patience", "needs evaluations"),
    (["train.early_stopping_patience=0"], "train.early_stopping_patience", "at least 1"),
    (["train.early_stopping_threshold=0.1"], "train.early_stopping_threshold", "without train.early_stopping_patience"),
    (["train.lr_scheduler_type=greedy"], "train.lr_scheduler_type", "needs evaluations"),
    (["train.lr_scheduler_type=cosine_with_min_lr"], "train.lr_scheduler_type", "needs a floor"),
    (["train.lr_scheduler_type=warmup_stable_decay"], "train.lr_scheduler_type", "needs its decay"),
    (["train.lr_scheduler_kwargs={a: {b: c}}"], "train.lr_scheduler_kwargs.a", "is no argument of cosine"),
    (["train.lr_scheduler_kwargs={num_cycles: {b: c}}"], "train.lr_scheduler_kwargs.num_cycles", "expected a number"),
    (["train.lr_scheduler_kwargs={num_cycles: 1e18}"], "train.lr_scheduler_kwargs.num_cycles", "expected a number"),
    (["train.lr_scheduler_kwargs='[1]'"], "train.lr_scheduler_kwargs", "is no mapping"),
    (
        ["train.gradient_checkpointing_kwargs={use_reentrant: 3}"],
        "train.gradient_checkpointing_kwargs.use_reentrant",
        "true or false",
    ),
    (["train.activation_checkpointing_kwargs={a: 1}"], "train.activation_checkpointing_kwargs.a", "is no argument"),
    (["train.accelerator_config={dispatch_batches: x}"], "train.accelerator_config.dispatch_batches", "true or false"),
    (["train.accelerator_config=/dev/zero"], "train.accelerator_config", "is no mapping"),
    (["train.accelerator_config=train.jsonl"], "train.accelerator_config.text", "is no argument of accelerator_config"),
    (
        ["train.accelerator_config={gradient_accumulation_kwargs: 2}"],
        "train.accelerator_config.gradient_accumulation_kwargs",
        "is no mapping",
    ),
    (
        ["train.accelerator_config={gradient_accumulation_kwargs: {steps: 2}}"],
        "train.accelerator_config.gradient_accumulation_kwargs.steps",
        "is no argument",
    ),
    (["train.lr_scheduler_kwargs=' {}'"], "train.lr_scheduler_kwargs", "is no mapping"),
    (["train.deepspeed=nope.json"], "train.deepspeed", "is no mapping"),
    (["train.fsdp_config={version: 2}"], "train.fsdp_config", "has no effect without train.fsdp"),
    ([FSDP, "train.fsdp_config=/dev/zero"], "train.fsdp_config", "is no mapping"),
    ([FSDP, "train.fsdp_config={evil: 1}"], "train.fsdp_config.evil", "is no argument"),
    ([FSDP, "train.fsdp_config={fsdp_version: 3}"], "train.fsdp_config.version", "expected one of 1, 2, found 3"),
    ([FSDP, "train.deepspeed={a: 1}"], "train.deepspeed", "is given together with train.fsdp"),
    (["train.optim=adamw_torch", "train.fsdp=evil.py"], "train.fsdp", "'evil.py' is no option of it"),
    (["train.optim=adamw_torch", "train.fsdp=hybrid_shard"], "train.fsdp", "is of FSDP1 alone"),
    (["train.debug=evil.py"], "train.debug", "'evil.py' is no option of it"),
    (["train.debug=[evil]"], "train.debug", "'evil' is no option of it"),
    (["train.torch_compile_backend=evil"], "train.torch_compile_backend", "expected one of eager"),
    (["train.torch_compile_backend=tvm"], "train.torch_compile_backend", "tvm is not installed"),
    (["train.torch_compile_mode=evil"], "train.torch_compile_mode", "expected one of default"),
    (["train.include_num_input_tokens_seen=evil"], "train.include_num_input_tokens_seen", "expected one of all"),
    (["train.optim_target_modules=all-linear"], "train.optim_target_modules", "muon reads none"),
    (["train.trackio_space_id=a/b"], "train.trackio_space_id", "has no effect without trackio"),
    (['train.trackio_space_id="a\\e[31m"'], "train.trackio_space_id", "cannot be printed"),
    ([f"train.run_name={'a' * 5000}"], "train.run_name", "longer than a line"),
    (["train.label_names=[x]"], "train.label_names", "is not a setting"),
    (["train.include_for_metrics=[inputs]"], "train.include_for_metrics", "is not a setting"),
    (["train.length_column_name=n"], "train.length_column_name", "is not a setting"),
    (["train.liger_kernel_config={rope: 1}"], "train.liger_kernel_config.rope", "expected true or false"),
    (["train.optim=adamw_torch", "train.optim_args=x=1"], "train.optim_args", "adamw_torch reads none"),
    (["train.optim=sgd", "train.optim_args=mass=1"], "train.optim_args", "'mass' is no option of sgd"),
    (["train.optim=sgd", "train.optim_args=momentum"], "train.optim_args", "gives momentum no number"),
    (
        ["model.scratch={preset: nano, hidden_size: 262144, num_hidden_layers: 2048}"],
        "model.scratch.num_hidden_layers",
        "this machine has",
    ),
    (["train.dataloader_prefetch_factor=2"], "train.dataloader_prefetch_factor", "needs workers"),
    (["train.dataloader_persistent_workers=true"], "train.dataloader_persistent_workers", "needs workers"),
    (["train.fp16=true"], "train.fp16", "not trained on a CPU"),
    (["train.fp16=true", "train.bf16=true"], "train.fp16", "together with train.bf16"),
    (["train.tf32=true"], "train.tf32", "no GPU"),
    (["train.report_to=tensorbord"], "train.report_to", "is not a tracker"),
    (["data.train=trian.jsonl"], "data.train", "no such file: trian.jsonl"),
    (["data.validation=[train.jsonl, data/none.txt]"], "data.validation[1]", "no such file: data/none.txt"),
    (["model.path=./bose", "model.scratch=null", "model.tokenizer=null"], "model.path", "no such folder"),
    (["model.tokenizer=./train.jsonl"], "model.tokenizer", "is a file"),
]


@pytest.mark.parametrize(("overrides", "key", "what"), CONFLICTS, ids=[case[0][0] for case in CONFLICTS])
def test_settings_that_do_not_go_together_are_one_problem_at_the_key_to_change(only_problem, overrides, key, what):
    problem = only_problem(VALID, *([VALIDATION] if BEST in overrides else []), *overrides)
    assert problem.key == key
    assert what in problem.what


@pytest.mark.parametrize(
    "overrides",
    [
        ["train.bf16=true", "train.bf16_full_eval=true"],
        ["train.optim=muon"],
        ["model.path=owner/name", "model.scratch=null", "model.tokenizer=null"],
        ["model.path=gpt2", "model.scratch=null", "model.tokenizer=null"],
        ["data.train=owner/dataset"],
        ["data.train=*.jsonl"],
        ["data.validation_fraction=0.1", "train.eval_strategy=steps", "train.load_best_model_at_end=true"],
        ["train={eval_strategy: epoch, early_stopping_patience: 2, metric_for_best_model: loss}", VALIDATION],
        ["train.lr_scheduler_type=cosine_with_min_lr", "train.lr_scheduler_kwargs={min_lr_rate: 0.1}"],
        ["train.lr_scheduler_type=polynomial", "train.lr_scheduler_kwargs={power: 2, lr_end: 1e-6}"],
        ["train.lr_scheduler_kwargs={num_cycles: 0.5}"],
        ["train.activation_checkpointing_kwargs={use_reentrant: false, every_n_layers: 2}"],
        ["train.accelerator_config={even_batches: false, gradient_accumulation_kwargs: {num_steps: 2}}"],
        ["train.optim=sgd", "train.optim_args=momentum=0.9,nesterov=true"],
        ["train.report_to=trackio", "train.trackio_space_id=a/b"],
        ["train.debug=underflow_overflow"],
        ["train.optim_args='momentum=0.9,beta1=0.8'"],
        ["data.stratify_by=label", "data.validation_fraction=0.2"],
        ["train.max_steps=-1"],
    ],
    ids=lambda overrides: overrides[0],
)
def test_settings_that_go_together_load(load, overrides):
    assert load(VALID, *overrides).recipe == "continued_pretraining"


def test_an_optimizer_that_projects_modules_is_told_which(only_problem, load, monkeypatch):
    monkeypatch.setattr(checks_machine, "_is_installed", lambda package: True)
    problem = only_problem(VALID, "train.optim=galore_adamw")
    assert problem.key == "train.optim_target_modules"
    assert "which modules are projected" in problem.what
    assert load(VALID, f"train={GALORE}").train["optim"] == "galore_adamw"


def test_one_mistake_is_one_message_even_where_other_checks_read_it(only_problem):
    misspelled = VALID.replace("scratch: {preset: nano}", "pth: base").replace("tokenizer: {", "tokenizer: base #")
    found = [
        only_problem(VALID, "train.eval_strategy=sometimes", "train.load_best_model_at_end=true"),
        only_problem(VALID, "data.validation=7", "train.eval_strategy=steps"),
        only_problem(misspelled),
    ]
    assert [problem.key for problem in found] == ["train.eval_strategy", "data.validation", "model.pth"]


GPU = {
    "pascal": Hardware("cuda", ((6, 1),)),
    "hopper": Hardware("cuda", ((9, 0),)),
    "mixed": Hardware("cuda", ((9, 0), (7, 5))),
}


@pytest.mark.parametrize(
    ("gpu", "overrides", "refused"),
    [
        ("hopper", ["train.bf16=true"], None),
        ("hopper", ["train.fp16=true"], None),
        ("hopper", ["train.tf32=true"], None),
        ("hopper", ["model.attn_implementation=flex_attention"], None),
        ("hopper", ["train.fp16=true", "train.use_cpu=true"], "train.fp16"),
        ("hopper", ["model.attn_implementation=flash_attention_2", "train.bf16=true"], None),
        ("hopper", ["model.attn_implementation=flash_attention_2"], "model.attn_implementation"),
        ("pascal", ["train.bf16=true"], "train.bf16"),
        ("pascal", ["train.bf16=true", "train.use_cpu=true"], None),
        ("pascal", ["train.fp16=true"], None),
        ("mixed", ["train.bf16=true"], "train.bf16"),
        ("mixed", ["train.tf32=true"], "train.tf32"),
    ],
)
def test_precision_is_checked_against_every_visible_gpu(problems, monkeypatch, gpu, overrides, refused):
    monkeypatch.setattr(checks, "detect_hardware", lambda: GPU[gpu])
    monkeypatch.setattr(checks_machine, "_is_installed", lambda package: True)
    assert [problem.key for problem in problems(VALID, *overrides)] == ([refused] if refused else [])


AVX2 = frozenset({"avx2"})
AVX512 = AVX2 | {"avx512bw", "avx512vl", "avx512dq"}
FLAGS = ["train.bf16=true", "train.bf16_full_eval=true", "model.dtype=bfloat16"]


@pytest.mark.parametrize(
    ("hardware", "overrides", "said"),
    [
        (Hardware("cpu", cpu_flags=AVX2), FLAGS, "train.bf16: bfloat16 is emulated on this CPU, which takes about 13 "),
        (Hardware("cpu", cpu_flags=AVX512), FLAGS[1:], "train.bf16_full_eval: bfloat16 is emulated on this CPU, "),
        (Hardware("cpu", cpu_flags=AVX512), FLAGS[2:], "model.dtype: bfloat16 is emulated on this CPU, which takes "),
        (Hardware("cuda", ((9, 0),), AVX2), [*FLAGS, "train.use_cpu=true"], "train.bf16: bfloat16 is emulated on this"),
        (Hardware("cuda", ((9, 0),), AVX2), FLAGS, None),
        (Hardware("cpu", cpu_flags=AVX512 | {"avx512_bf16"}), FLAGS, None),
        (Hardware("cpu"), FLAGS, None),
        (Hardware("cpu", cpu_flags=AVX2), ["train.bf16=false"], None),
    ],
)
def test_bf16_that_a_cpu_emulates_is_warned_of_once(load, monkeypatch, caplog, hardware, overrides, said):
    monkeypatch.setattr(checks, "detect_hardware", lambda: hardware)
    load(VALID, *overrides)
    assert len(caplog.messages) == (said is not None)
    assert all(message.startswith(f"command line: {said}") for message in caplog.messages)


def test_the_launchers_cpu_counts_as_use_cpu(problems, monkeypatch):
    monkeypatch.setattr(checks, "detect_hardware", lambda: GPU["hopper"])
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    assert [problem.key for problem in problems(VALID, "train.fp16=true")] == ["train.fp16"]


def test_hardware_that_is_not_known_is_not_judged(load, monkeypatch):
    monkeypatch.setattr(checks, "detect_hardware", lambda: Hardware("other"))
    run = load(VALID, "train.fp16=true", "train.tf32=true", "model.attn_implementation=flex_attention")
    assert run.train["fp16"] is True


@pytest.mark.parametrize(
    ("override", "key", "remedy"),
    [
        ("train.optim=paged_adamw_8bit", "train.optim", 'in the clone of hf-finetune: pip install ".[qlora]"'),
        (f"train={GALORE}", "train.optim", "pip install galore-torch"),
        ("train.optim=stable_adamw", "train.optim", "pip install torch-optimi"),
        ("train.report_to=[wandb]", "train.report_to", "pip install wandb"),
        ("train.report_to=mlflow", "train.report_to", "pip install mlflow"),
        ("train.use_liger_kernel=true", "train.use_liger_kernel", "pip install liger-kernel"),
    ],
)
def test_a_package_that_is_not_installed_is_named_with_its_install_line(
    only_problem, monkeypatch, override, key, remedy
):
    monkeypatch.setattr(checks_machine, "_is_installed", lambda package: False)
    problem = only_problem(VALID, override)
    assert (problem.key, problem.remedy) == (key, remedy)


def test_a_tracker_that_cannot_be_kept_to_the_run_folder_is_refused_with_the_reason(only_problem, load, monkeypatch):
    offered = set(INTEGRATION_TO_CALLBACK)
    monkeypatch.setattr(checks_machine, "_is_installed", lambda package: True)
    placed = {"tensorboard", "trackio", "wandb", "mlflow"}
    for name in placed:
        assert load(VALID, f"train.report_to={name}").train["report_to"] == name
    for name in offered - placed:
        problem = only_problem(VALID, f"train.report_to={name}")
        assert problem.what.startswith(f"{name} ")
        assert problem.what.endswith(": it cannot be kept to the run folder")
        assert problem.remedy == "choose from tensorboard, trackio, wandb, mlflow"


def test_all_trackers_are_those_that_are_installed(only_problem, load, monkeypatch):
    monkeypatch.setattr(checks_machine, "_is_installed", lambda package: package in ("trackio", "comet_ml"))
    problem = only_problem(VALID, "train.report_to=all")
    assert problem.what.startswith("comet_ml, which `all` takes in since it is installed, records user")
    monkeypatch.setattr(checks_machine, "_is_installed", lambda package: package == "trackio")
    assert load(VALID, "train.report_to=all").train["report_to"] == "all"


def test_mlflow_without_its_database_is_refused(only_problem, monkeypatch):
    monkeypatch.setattr(checks_machine, "_is_installed", lambda package: package != "sqlalchemy")
    assert "mlflow-skinny" in only_problem(VALID, "train.report_to=mlflow").remedy


@pytest.mark.parametrize(
    ("output_dir", "what"),
    [
        ("/", "root of the file system"),
        (".", "is the working folder"),
        ("..", "contains the working folder"),
        ("runs/../.", "is the working folder"),
        ("~", "is the home folder"),
        ("~nobody-by-this-name/x", "home of another user"),
        ("train.jsonl", "is a file"),
        ("train.jsonl/run", "which is a file"),
        ("x" * 256, "255 bytes"),
        ("é" * 128, "255 bytes"),
        ("a/" * 2500, "longer than file systems take"),
        ("runs\a", "cannot be printed"),
        ("data", "contains data.train (data/in.jsonl)"),
        ("loop/x", ""),
    ],
)
def test_a_dangerous_or_impossible_run_folder_is_refused(only_problem, workspace, output_dir, what):
    (workspace / "data").mkdir()
    (workspace / "data" / "in.jsonl").write_text('{"text": "one"}\n', encoding="utf-8")
    (workspace / "loop").symlink_to("loop")
    values = yaml.safe_load(VALID) | {"output_dir": output_dir}
    values["data"]["train"] = "data/in.jsonl"
    problem = only_problem(yaml.safe_dump(values, allow_unicode=True))
    assert problem.key == "output_dir"
    assert what in problem.what


def test_a_run_folder_with_the_model_or_inside_the_data_folder_is_refused(only_problem, workspace):
    model = ["model.path=base", "model.scratch=null", "model.tokenizer=null"]
    assert only_problem(VALID, *model, "output_dir=base").what == "contains model.path (base)"
    (workspace / "rows").mkdir()
    assert only_problem(VALID, "data.train=rows", "output_dir=rows/run").what == "lies inside data.train (rows)"
    assert only_problem(VALID, *model, "output_dir=base/run").what == "lies inside model.path (base)"
    (workspace / "link").symlink_to(workspace / "rows")
    assert "contains" in only_problem(VALID, "data.train=rows", "output_dir=link").what


def test_a_run_folder_with_somebodys_model_is_refused_before_anything_is_loaded(only_problem, load, workspace):
    problem = only_problem(VALID, "output_dir=base")
    assert (problem.key, problem.what) == ("output_dir", "base holds config.json, and is no run folder of hf-finetune")
    (workspace / "run").mkdir()
    load(VALID, "output_dir=run")
    (workspace / "run" / "checkpoint-5").mkdir()
    anew = ("output_dir=run", "train.resume_from_checkpoint=false")
    assert "holds another run's checkpoint-5" in only_problem(VALID, *anew).what
    for resume in ("auto", "true", "run/checkpoint-5", "checkpoint-5"):
        load(VALID, "output_dir=run", f"train.resume_from_checkpoint={resume}")
    load(VALID, "output_dir=run")
    (workspace / "run" / "manifest.json").write_text('{"data": {}, "model": null, "versions": {}, "launch": "x"}')
    assert "holds another run's checkpoint-5" in only_problem(VALID, *anew).what


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_is_refused(only_problem, workspace):
    (workspace / "locked").mkdir(mode=0o500)
    assert "cannot be written" in only_problem(VALID, "output_dir=locked/run").what


def test_a_file_in_a_folder_that_may_not_be_entered_is_no_invalid_path(only_problem, monkeypatch):
    real = Path.exists

    def exists(path, **options):  # root may enter every folder
        if path.name == "locked.jsonl":
            raise PermissionError(13, "Permission denied", str(path))
        return real(path, **options)

    monkeypatch.setattr(Path, "exists", exists)
    assert only_problem(VALID, "data.train=locked.jsonl").what == "locked.jsonl cannot be read: Permission denied"


@pytest.mark.parametrize("output_dir", ["runs/a/b/c", "läufe/erster", "x" * 255, "base-2"])
def test_an_ordinary_run_folder_loads(load, output_dir):
    assert load(VALID, f"output_dir={output_dir}").output_dir == output_dir
    assert not Path(output_dir).exists()


STEPS = st.sampled_from([None, 1, 2, 3, 4, 6, 0.1, 0.2, 0.25, 0.3, 2.5])


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    eval_strategy=st.sampled_from(["no", "steps", "epoch"]),
    save_strategy=st.sampled_from(["no", "steps", "epoch", "best"]),
    load_best=st.booleans(),
    steps=st.fixed_dictionaries({"eval_steps": STEPS, "save_steps": STEPS, "logging_steps": STEPS}),
    precision=st.sampled_from(
        [{}, {"bf16": True}, {"bf16": True, "fp16": True}, {"fp16_full_eval": True, "bf16_full_eval": True}]
    ),
    scheduler=st.sampled_from(["linear", "reduce_lr_on_plateau", "greedy"]),
    workers=st.sampled_from(
        [{}, {"dataloader_prefetch_factor": 2}, {"dataloader_prefetch_factor": 2, "dataloader_num_workers": 1}]
    ),
    warmup=st.sampled_from([0, 0.5, 3, -1]),
)
def test_what_training_arguments_refuses_is_refused_here_first(
    problems, eval_strategy, save_strategy, load_best, steps, precision, scheduler, workers, warmup
):
    from transformers import TrainingArguments

    train = {"eval_strategy": eval_strategy, "save_strategy": save_strategy, "load_best_model_at_end": load_best}
    train |= {name: value for name, value in steps.items() if value is not None}
    train |= {"lr_scheduler_type": scheduler, "warmup_steps": warmup} | precision | workers
    ours = problems(yaml.safe_dump(yaml.safe_load(VALID) | {"train": train}), "data.validation=validation.jsonl")
    try:
        TrainingArguments(output_dir="out", use_cpu=True, **train)
    except ValueError:
        assert ours
    else:
        # What TrainingArguments lets pass and then ignores, or what Trainer refuses later.
        without_effect = eval_strategy == "no" and (load_best or save_strategy == "best")
        without_effect |= 2.5 in steps.values()
        # A share and a count are refused there only where their remainder is not zero by chance: 500 % 0.25.
        shares = {(steps["save_steps"] or 500) < 1, (steps["eval_steps"] or steps["logging_steps"] or 500) < 1}
        without_effect |= len(shares) == 2
        without_metric = save_strategy == "best" and not load_best
        assert not ours or without_effect or without_metric, [str(problem) for problem in ours]


def test_a_classifier_is_no_base_of_a_language_model(only_problem, workspace):
    (workspace / "base" / "config.json").write_text('{"architectures": ["BertForSequenceClassification"]}')
    problem = only_problem(VALID, "model={path: base}")
    assert (problem.key, problem.what) == ("model.path", "base is a text classifier, not a language model")


def test_float16_on_a_gpu_that_computes_none_is_refused(problems, monkeypatch):
    monkeypatch.setattr(checks, "detect_hardware", lambda: Hardware("cuda", ((5, 2),)))
    (problem,) = problems(VALID, "train.fp16=true")
    assert str(problem).endswith(
        "train.fp16: the GPU (compute capability 5.2) computes no float16; leave it out [HF680]"
    )


def test_flash_attention_without_its_package_is_refused(problems, monkeypatch):
    monkeypatch.setattr(checks, "detect_hardware", lambda: GPU["hopper"])
    monkeypatch.setattr(checks_machine, "_is_installed", lambda package: package != "flash_attn")
    (problem,) = problems(VALID, "train.bf16=true", "model.attn_implementation=flash_attention_2")
    assert str(problem).endswith("the package flash-attn is not installed; pip install flash-attn, or use sdpa [HF711]")
