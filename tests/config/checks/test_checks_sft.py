"""Run files of sft and lora: what is said in our words, what is refused, and what does not go together."""

from __future__ import annotations

import logging
from importlib.resources import files

import pytest
from config.run_files import VALID, VALID_LORA, VALID_SFT

import hf_finetune.config.checks as checks
import hf_finetune.config.checks.machine as checks_machine
from hf_finetune.config import dump_yaml, read_recipe_name
from hf_finetune.config.checks import CONVERSATION_FORMATS, DOCUMENT_FORMATS
from hf_finetune.config.checks.paths import OUR_TEMPLATES
from hf_finetune.config.reading.deprecated import REFUSED, SFT_RENAMED_VALUES, SFT_REPLACED
from hf_finetune.config.validation.hf_settings import build_train_section, load_table
from hf_finetune.environment.hardware import Hardware


@pytest.fixture(params=[VALID_SFT, VALID_LORA], ids=["sft", "lora"])
def either(request) -> str:
    return request.param


def test_the_recipes_load_with_the_settings_of_conversations_at_their_defaults(load, either):
    data = load(either).data
    assert (data.chat_template, data.loss_on, data.too_long) == (None, "assistant", "drop")
    assert (data.max_dropped, data.allow_empty) == (0.01, False)
    assert read_recipe_name("run.yaml") == load(either).recipe


@pytest.mark.parametrize(
    ("setting", "key", "value"),
    [
        ("train.assistant_only_loss=true", "loss_on", "assistant"),
        ("train.assistant_only_loss=false", "loss_on", "all"),
        ("train.chat_template_path=alpaca", "chat_template", "alpaca"),
        ("train.truncation_mode=keep_start", "too_long", "cut"),
        ("train.packing_strategy=bfd", "too_long", "cut"),
        ("train.packing_strategy=bfd_split", "too_long", "split"),
        ("train.packing_strategy=bfd-requeue", "too_long", "split"),
    ],
)
def test_what_a_run_file_says_in_its_own_words_is_translated_with_a_note(load, either, caplog, setting, key, value):
    with caplog.at_level(logging.WARNING, "hf_finetune"):
        run = load(either, setting)
    assert getattr(run.data, key) == value
    assert run.train == {"max_steps": 5}
    (record,) = caplog.records
    assert f"a run file says it with another key; read as data.{key}: {value!r}" in record.getMessage()


def test_a_retired_value_is_translated_with_a_note(load, caplog):
    with caplog.at_level(logging.WARNING, "hf_finetune"):
        assert load(VALID_SFT, "train.loss_type=chunked_nll").train["loss_type"] == "nll"
        assert load(VALID_SFT, "train.loss_type=dft").train["loss_type"] == "dft"
    assert [record.getMessage() for record in caplog.records] == [
        "command line: train.loss_type: chunked_nll is a deprecated name; read as nll"
    ]


def test_what_is_translated_is_in_the_stack_and_no_setting_of_ours():
    table = load_table()["SFTConfig"]
    names = {name.removeprefix("train.") for name in SFT_REPLACED}
    assert names <= table.keys()
    assert not names & build_train_section("sft").model_fields.keys()
    for key, values in SFT_RENAMED_VALUES.items():
        assert set(values.values()) <= set(table[key[-1]]["choices"])


def test_every_setting_that_trl_would_prepare_rows_by_is_taken_over_or_refused():
    """What TRL's own preparation of a data set reads has no effect on rows that are tokenized before."""
    prepared = {"chat_template_path", "dataset_text_field", "dataset_kwargs", "dataset_num_proc", "eos_token"}
    prepared |= {"truncation_mode", "shuffle_dataset", "packing_strategy", "padding_free", "eval_packing"}
    prepared |= {"completion_only_loss", "assistant_only_loss", "pad_token", "model_init_kwargs", "trust_remote_code"}
    assert prepared <= {name.removeprefix("train.") for name in REFUSED | SFT_REPLACED}
    own = load_table()["SFTConfig"].keys() - prepared - load_table()["TrainingArguments"].keys()
    assert own == {
        "max_length",
        "packing",
        "pad_to_multiple_of",
        "loss_type",
        "activation_offloading",
        "router_aux_loss_coef",
    }


CONFLICTS = [
    (VALID_SFT, ["train.truncation_mode=keep_end"], "train.truncation_mode", "'keep_end' has no equivalent"),
    (VALID_SFT, ["train.packing_strategy=wrapped"], "train.packing_strategy", "'wrapped' has no equivalent"),
    (
        VALID_SFT,
        ["train.assistant_only_loss=true", "data.loss_on=all"],
        "train.assistant_only_loss",
        "says the same as data.loss_on, which is given too",
    ),
    (VALID_SFT, ["train.assistant_only_loss=1"], "data.loss_on", "expected one of assistant, all, last"),
    (VALID_SFT, ["train.packing=true", "train.max_length=null"], "train.max_length", "which is null"),
    (VALID_SFT, ["train.max_length=1"], "train.max_length", "at least 2"),
    (VALID_SFT, ["train.loss_type=dft", "train.label_smoothing_factor=0.1"], "train.label_smoothing_factor", "dft"),
    (VALID_SFT, ["train.activation_offloading=true"], "train.activation_offloading", "on a CPU"),
    (VALID_SFT, ["data.block_size=64"], "data.block_size", "belongs to the recipe continued_pretraining"),
    (VALID_SFT, ["data.isolate_documents=true"], "data.isolate_documents", "belongs to the recipe continued"),
    (VALID_SFT, ["data.format=lines"], "data.format", "lines rows are not conversations, which sft reads"),
    (VALID_SFT, ["data.format=labelled"], "data.format", "labelled rows are not conversations"),
    (VALID_SFT, ["data.loss_on=user"], "data.loss_on", "expected one of"),
    (VALID_SFT, ["data.max_dropped=1.5"], "data.max_dropped", "at most 1"),
    (VALID_SFT, ["data.max_dropped=true"], "data.max_dropped", "expected a number"),
    (VALID_SFT, ["data.chat_template=chat.jinja"], "data.chat_template", "no such file: chat.jinja"),
    (VALID_SFT, ["data.chat_template=plan"], "data.chat_template", "'plan' is no chat template"),
    (VALID_SFT, ["lora={r: 8}"], "lora", "belongs to the recipes lora and classification"),
    (VALID_SFT, ["model.load_in_4bit=true"], "model.load_in_4bit", "only adapters on them"),
    (VALID_SFT, ["eval.top_p=0"], "eval.top_p", "greater than 0"),
    (VALID_SFT, ["eval.top_p=1.1"], "eval.top_p", "at most 1"),
    (VALID_SFT, ["eval.repetition_penalty=0"], "eval.repetition_penalty", "greater than 0"),
    (
        VALID_SFT,
        ["model={scratch: {preset: nano}, tokenizer: {train: {kind: char}}}"],
        "model.tokenizer",
        "a tokenizer is trained on documents",
    ),
    (VALID_LORA, ["lora=null"], "lora", "is missing"),
    (VALID_LORA, ["model={scratch: {preset: nano}, tokenizer: base}"], "model.scratch", "needs a trained model"),
    (VALID_LORA, ["model.save_dtype=bfloat16"], "model.save_dtype", "an adapter is saved in float32"),
    (VALID_LORA, ["lora.r=0"], "lora.r", "at least 1"),
    (VALID_LORA, ["lora.task_type=CAUSAL_LM"], "lora.task_type", "is not a setting"),
    (VALID_LORA, ["lora.target_modules=7"], "lora.target_modules", "expected text or a list"),
    (VALID_LORA, ["lora.target_modules=[1]"], "lora.target_modules[0]", "expected text"),
    (VALID_LORA, ["lora.target_modules=[]"], "lora.target_modules", "names nothing"),
    (VALID_LORA, ["lora.modules_to_save=[]"], "lora.modules_to_save", "names nothing"),
    (VALID_LORA, ["lora.target_modules='(q_proj'"], "lora.target_modules", "no regular expression"),
    (VALID_LORA, ["lora.layers_to_transform=[0, 1]"], "lora.layers_to_transform", "as a list of module names"),
    (VALID_LORA, ["lora.layers_pattern=h"], "lora.layers_pattern", "without lora.layers_to_transform"),
    (VALID_LORA, ["lora.init_lora_weights=eva"], "lora.init_lora_weights", "measures the model on data"),
    (VALID_LORA, ["lora.init_lora_weights=pisa"], "lora.init_lora_weights", "no initialization of an adapter"),
    (
        VALID_LORA,
        ["lora.init_lora_weights=pissa_niter_4", "model.load_in_4bit=true"],
        "lora.init_lora_weights",
        "these are quantized",
    ),
    (VALID_LORA, ["lora.lora_bias=true", "lora.use_dora=true"], "lora.lora_bias", "together with lora.use_dora"),
    (VALID_LORA, ["lora.exclude_modules='(q_proj'"], "lora.exclude_modules", "no regular expression"),
    (VALID_LORA, ["lora.trainable_token_indices=[]"], "lora.trainable_token_indices", "names nothing"),
    (VALID_LORA, ["lora.rank_pattern={q_proj: 0}"], "lora.rank_pattern", "0 for 'q_proj' is no whole number"),
    (VALID_LORA, ["lora.alpha_pattern={'(': 2}"], "lora.alpha_pattern", "no regular expression"),
    (VALID_LORA, ["lora.init_lora_weights=orthogonal", "lora.r=3"], "lora.r", "needs an even rank, not 3"),
    (VALID_LORA, ["lora.layer_replication=[[0, 1]]"], "lora.layer_replication", "repeats layers of the base"),
    (VALID_LORA, ["lora.use_qalora=true"], "lora.use_qalora", "bases of GPTQ"),
    (VALID_LORA, ["lora.runtime_config={}"], "lora.runtime_config", "is for programs"),
    (VALID_LORA, ["lora.eva_config={}"], "lora.eva_config", "belongs to lora.init_lora_weights: eva"),
    (VALID, ["data.loss_on=all"], "data.loss_on", "belongs to the recipes sft and lora"),
    (VALID, ["data.too_long=cut"], "data.too_long", "belongs to the recipes sft and lora"),
    (VALID, ["data.chat_template=plain"], "data.chat_template", "belongs to the recipes sft and lora"),
    (VALID, ["data.max_dropped=0.5"], "data.max_dropped", "belongs to the recipes sft and lora"),
    (VALID, ["data.allow_empty=true"], "data.allow_empty", "belongs to the recipes sft, lora and class"),
]


@pytest.mark.parametrize(
    ("text", "overrides", "key", "what"), CONFLICTS, ids=[" ".join(overrides) for _, overrides, *_ in CONFLICTS]
)
def test_settings_that_do_not_go_together_are_refused_by_the_key_to_change(only_problem, text, overrides, key, what):
    problem = only_problem(text, *overrides)
    assert problem.key == key
    assert what in problem.what


@pytest.mark.parametrize(
    ("text", "overrides"),
    [
        (VALID_SFT, ["eval.prompts=[Hello]", "eval.top_p=0.9", "eval.repetition_penalty=1.2"]),
        (VALID_SFT, ["train={packing: true, max_length: 512, neftune_noise_alpha: 5, loss_type: dft}"]),
        (VALID_SFT, ["train.max_length=null", "data.too_long=cut"]),
        (VALID_SFT, ["train.max_seq_length=128"]),
        (VALID_SFT, ["data.chat_template=alpaca", "data.too_long=split", "data.max_dropped=1"]),
        (VALID_SFT, ["data.format=prompt_completion", "data.loss_on=all"]),
        (VALID_SFT, ["model={scratch: {preset: nano}, tokenizer: base}"]),
        (VALID_LORA, ["model.load_in_4bit=true", "model.dtype=float16"]),
        (VALID_LORA, ["model.load_in_8bit=true", "lora.init_lora_weights=olora"]),
        (VALID_LORA, ["lora.init_lora_weights=pissa_niter_16", "lora.use_dora=true"]),
        (VALID_LORA, ["lora.target_modules=[q_proj]", "lora.layers_to_transform=[0]", "lora.layers_pattern=h"]),
        (VALID_LORA, ["lora.target_modules=.*(q|v)_proj", "lora.modules_to_save=[lm_head]"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_settings_that_go_together_load_and_load_again_from_the_run_folder(load, monkeypatch, text, overrides):
    monkeypatch.setattr(checks_machine, "_is_installed", lambda package: True)
    run = load(text, *overrides)
    assert load(dump_yaml(run)) == run


def test_quantization_needs_bitsandbytes_and_says_how_to_get_it(only_problem, monkeypatch):
    monkeypatch.setattr(checks_machine, "_is_installed", lambda package: package != "bitsandbytes")
    problem = only_problem(VALID_LORA, "model.load_in_4bit=true")
    assert (problem.key, problem.remedy) == (
        "model.load_in_4bit",
        'in the clone of hf-finetune: pip install ".[qlora]"',
    )


def test_activations_are_offloaded_from_a_gpu(load, monkeypatch):
    monkeypatch.setattr(checks, "detect_hardware", lambda: Hardware("cuda", ((9, 0),)))
    assert load(VALID_SFT, "train.activation_offloading=true").train["activation_offloading"] is True


def test_a_template_file_in_the_home_folder_is_found_there(load, workspace):
    (workspace / "home").mkdir()
    (workspace / "home" / "chat.jinja").write_text("x", encoding="utf-8")
    assert load(VALID_SFT, "data.chat_template=~/chat.jinja").data.chat_template == str(workspace / "home/chat.jinja")


@pytest.mark.parametrize(("typed", "meant"), [("chatlm", "chatml"), ("llama3", "llama-3"), ("mistrall", "mistral")])
def test_a_misspelled_template_is_answered_with_the_one_that_was_meant(only_problem, typed, meant):
    problem = only_problem(VALID_SFT, f"data.chat_template={typed}")
    assert (problem.key, problem.what) == ("data.chat_template", f"{typed!r} is no chat template")
    assert problem.remedy == f"did you mean {meant}?"


def test_what_is_no_template_is_answered_with_all_of_them_and_a_file(only_problem):
    problem = only_problem(VALID_SFT, "data.chat_template=zzz")
    assert problem.remedy == f"choose one of {', '.join(OUR_TEMPLATES)}, or name a .jinja file"


def test_an_adapter_to_train_on_takes_the_place_of_base_and_settings(load, workspace):
    (workspace / "runs" / "one").mkdir(parents=True)
    run = load(VALID_LORA, "model.path=null", "model.adapter=runs/one", "lora=null")
    assert (run.model.path, run.model.adapter, run.lora) == (None, "runs/one", None)
    (workspace / "home" / "one").mkdir(parents=True)
    assert load(VALID_LORA, "model.adapter=~/one").model.adapter == str(workspace / "home/one")
    assert load(dump_yaml(run)) == run


@pytest.mark.parametrize(
    ("overrides", "key", "what"),
    [
        (["model.adapter=./none"], "model.adapter", "no such folder: ./none"),
        (["model.adapter=runs", "output_dir=runs/a"], None, None),
        (["model.adapter=runs/first", "output_dir=runs/first"], "output_dir", "contains model.adapter (runs/first)"),
    ],
)
def test_an_adapter_that_cannot_be_trained_on_is_refused(only_problem, load, workspace, overrides, key, what):
    (workspace / "runs" / "first").mkdir(parents=True)
    if key is None:
        load(VALID_LORA, *overrides)
        return
    problem = only_problem(VALID_LORA, *overrides)
    assert (problem.key, problem.what) == (key, what)


def test_an_adapter_is_trained_on_by_lora_alone(only_problem):
    problem = only_problem(VALID_SFT, "model.adapter=owner/name")
    assert (problem.key, problem.what) == ("model.adapter", "belongs to the recipe lora")


def test_the_formats_and_templates_that_are_offered_are_those_that_are_read():
    from hf_finetune.data.reading.formats import FORMATS

    kinds = {name: each.becomes for name, each in FORMATS.items()}
    assert {name for name, kind in kinds.items() if kind == "document"} == set(DOCUMENT_FORMATS)
    assert {name for name, kind in kinds.items() if kind in ("conversation", "prompt_completion")} == set(
        CONVERSATION_FORMATS
    )
    shipped = files("hf_finetune.chat").joinpath("templates").iterdir()
    assert {file.name.removesuffix(".jinja") for file in shipped if file.name.endswith(".jinja")} == set(OUR_TEMPLATES)


@pytest.mark.parametrize(
    ("given", "what", "remedy"),
    [
        ("{messages: []}", "is given to the template by what renders it", "set data.system"),
        ("{bos_token: x}", "is given to the template by what renders it", "leave it out"),
        ("{a-b: 1}", "'a-b' is no name of a variable", "write letters, digits and _"),
        ("{when: .inf}", "inf is no value of a template", "write text, numbers, lists, true"),
    ],
)
def test_variables_that_no_template_can_be_given_are_refused(only_problem, given, what, remedy):
    problem = only_problem(VALID_SFT, f"data.chat_template_kwargs={given}")
    assert problem.key.startswith("data.chat_template_kwargs.")
    assert (problem.what, problem.remedy) == (what, remedy)


def test_variables_and_a_system_message_are_kept_as_they_are(load):
    run = load(VALID_SFT, "data.chat_template_kwargs={enable_thinking: false, date: '2024'}", "data.system=Be brief.")
    assert run.data.chat_template_kwargs == {"enable_thinking": False, "date": "2024"}
    assert load(dump_yaml(run)) == run


def test_a_day_of_the_template_is_one_of_the_calendar(only_problem, load):
    for given in ("2026-02-30", "tomorrow", "20260131", "2026-W05-6", "2026-1-31"):
        problem = only_problem(VALID_SFT, f"data.template_date='{given}'")
        assert problem.key == "data.template_date"
        assert str(problem).endswith("is no day of the calendar; write one, as 2026-01-31 [HF603]")
    assert load(VALID_SFT, "data.template_date=2026-02-28").data.template_date == "2026-02-28"


def test_a_hash_of_another_form_is_told_which_form_it_has(only_problem):
    problem = only_problem(VALID_SFT, "data.trust_chat_template=abc")
    assert problem.what == "expected 64 hex digits, found 'abc'"
