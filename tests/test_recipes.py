"""The recipes, run for real on the templates: what they leave behind, and that what was asked for is what ran."""

from __future__ import annotations

import hashlib
import json
import math
import subprocess
from collections import Counter
from pathlib import Path

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM, OPTConfig, OPTForCausalLM

from hf_finetune.errors import ConfigError, DataError, ModelError, RunFinished

QUICK = ("train.max_steps=6", "train.logging_steps=1", "train.eval_strategy=no", "eval.max_new_tokens=4")
SMALL = ("model.scratch.hidden_size=32", "model.scratch.num_hidden_layers=2", "model.scratch.num_attention_heads=2")
FIXED = ("train.lr_scheduler_type=constant", "train.warmup_steps=0", "train.seed=3")


def losses(report: dict) -> list[float]:
    return [entry["loss"] for entry in report["train"]["history"] if "loss" in entry]


def weights_hash(folder: Path) -> str:
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


def test_a_run_leaves_a_model_its_scores_and_the_way_to_do_it_again(run_recipe, tmp_path):
    report = run_recipe("char_model", *SMALL, "train.max_steps=40", "train.logging_steps=10", "train.eval_steps=20")
    folder = tmp_path / "run"
    assert {path.name for path in folder.iterdir()} == {
        "README.md",
        "config.json",
        "configuration_scratch_gpt.py",
        "convert_gpt2.py",
        "generation_config.json",
        "log.jsonl",
        "manifest.json",
        "row_prints.npz",
        "model.safetensors",
        "modeling_scratch_gpt.py",
        "report.html",
        "report.json",
        "run.yaml",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    assert list(report) == [
        *("recipe", "run_id", "status", "settings", "data", "parameters", "train", "evaluation", "samples"),
        *("distributed", "environment", "findings"),
    ]
    assert losses(report)[-1] < losses(report)[0]
    assert {"rows", "tokens", "trained_tokens", "truncated", "dropped"} <= set(report["data"]["train"])
    scores = report["evaluation"]["validation"]
    assert scores["perplexity"] == pytest.approx(math.exp(scores["loss"]))
    assert 0 < scores["token_accuracy"] < 1
    parts = {name: n for name, n in report["parameters"].items() if name not in ("total", "trainable")}
    assert sum(parts.values()) == report["parameters"]["total"] == report["parameters"]["trainable"]
    assert [sample["step"] for sample in report["samples"]] == [20, 40]
    assert report["distributed"]["processes"] == 1

    manifest = json.loads((folder / "manifest.json").read_text())
    for name, digest in manifest["files"].items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest
    assert manifest["launch"].startswith("accelerate launch")
    assert manifest["data"]["splits"]["train"]["rows"] == report["data"]["train"]["rows"]
    assert yaml.safe_load((folder / "run.yaml").read_text())["train"]["optim"] == "muon"


def test_the_reported_loss_is_that_of_the_saved_model_on_the_validation_text(run_recipe, tmp_path):
    validation = tmp_path / "validation.txt"
    validation.write_text("When the wind drops, wait.\nThen row home.", encoding="utf-8")
    report = run_recipe(
        *("char_model", *QUICK, *SMALL, "data.validation_fraction=null", f"data.validation={validation}"),
    )
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "run")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "run")
    ids = tokenizer(validation.read_text(), add_special_tokens=False)["input_ids"]
    row = torch.tensor([[tokenizer.bos_token_id, *ids, tokenizer.eos_token_id]])
    assert row.shape[1] <= 64, "one block, so that this needs no packing of its own"
    with torch.no_grad():
        log_probabilities = model(row).logits.double().log_softmax(-1)
    nll = -log_probabilities[0, :-1].gather(1, row[0, 1:, None]).mean().item()
    scores = report["evaluation"]["validation"]
    assert scores["loss"] == pytest.approx(nll, rel=1e-5)
    total_bits = nll * (row.shape[1] - 1) / math.log(2)
    assert scores["bits_per_byte"] == pytest.approx(total_bits / len(validation.read_bytes()), rel=1e-5)


def test_accumulation_gives_the_losses_of_the_plain_run(run_recipe, tmp_path):
    plain = run_recipe(
        "char_model", *QUICK, *SMALL, *FIXED, "train.per_device_train_batch_size=8", f"output_dir={tmp_path}/a"
    )
    accumulated = run_recipe(
        *("char_model", *QUICK, *SMALL, *FIXED, "train.per_device_train_batch_size=2"),
        *("train.gradient_accumulation_steps=4", f"output_dir={tmp_path}/b"),
    )
    assert losses(accumulated) == pytest.approx(losses(plain), rel=1e-5)


def test_two_processes_give_the_losses_and_scores_of_one(run_recipe, tmp_path, project_root, preloaded, datasets_cache):
    text = (project_root / "data_templates/paragraphs.txt").read_text(encoding="utf-8")
    (tmp_path / "rows.txt").write_text(f"{text}\n\nNobody has read this before.\n", encoding="utf-8")
    settings = (*QUICK, *SMALL, *FIXED, "eval.prompts=[]", f"data.train={tmp_path}/rows.txt")
    settings += ("model.tokenizer={train: {kind: char, vocab_size: 20}}",)
    before = {path.name for path in (datasets_cache / "hf_finetune").glob("*")}
    command = ["accelerate", "launch", "--config_file", "accelerate_configs/cpu_2proc.yaml"]
    command += ["recipes/continued_pretraining.py", "recipes/configs/char_model.yaml", *settings]
    command += ["train.per_device_train_batch_size=4", f"output_dir={tmp_path}/two", "train.use_cpu=true"]
    done = subprocess.run(command, cwd=project_root, env=preloaded, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    made = {path.name for path in (datasets_cache / "hf_finetune").glob("*")} - before
    kinds = Counter(Path(name).suffix for name in made)
    assert (kinds[".arrow"], kinds[".tokenizer"], kinds[".lock"], kinds[".aside"]) == (3, 1, 0, 0)
    for said in ("characters become", "predicted, in ", "each document by itself", "step 6/6"):
        assert done.stderr.count(said) == 1, "the second process is quiet"
    plain = run_recipe("char_model", *settings, "train.per_device_train_batch_size=8", f"output_dir={tmp_path}/one")
    report = json.loads((tmp_path / "two" / "report.json").read_text())
    assert report["distributed"]["processes"] == 2
    assert report["distributed"]["backend"] == "gloo"
    assert losses(report) == pytest.approx(losses(plain), rel=1e-5)
    two, one = (each["evaluation"]["validation"] for each in (report, plain))
    assert two.pop("intervals").keys() == one.pop("intervals").keys()
    assert two.pop("no_interval") == one.pop("no_interval")
    assert two == pytest.approx(one, rel=1e-4)
    assert report["train"]["seen"] == plain["train"]["seen"], "the sum over both processes"
    assert report["train"]["seen"]["rows"] == 6 * 8


def test_the_seed_decides_every_weight(run_recipe, tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        run_recipe("char_model", *QUICK, *SMALL, f"train.seed={seed}", f"output_dir={tmp_path}/{name}")
    assert weights_hash(tmp_path / "a") == weights_hash(tmp_path / "b") != weights_hash(tmp_path / "c")


def test_a_resumed_run_ends_with_the_weights_of_an_uninterrupted_one(run_recipe, tmp_path):
    settings = ("char_model", *SMALL, "train.eval_strategy=no", "train.save_strategy=steps", "train.save_steps=4")
    settings += ("train.logging_steps=1", "model.scratch.hidden_dropout=0.1")
    run_recipe(*settings, "train.max_steps=8", f"output_dir={tmp_path}/whole")
    resumed = tmp_path / "resumed"
    run_recipe(*settings, "train.max_steps=8", f"output_dir={resumed}")
    for name in ("model.safetensors", "report.json"):
        (resumed / name).unlink()
    for path in sorted((resumed / "checkpoint-8").iterdir()):
        path.unlink()
    (resumed / "checkpoint-8").rmdir()
    report = run_recipe(*settings, "train.max_steps=8", f"output_dir={resumed}")
    assert report["train"]["steps"] == 8
    assert weights_hash(resumed) == weights_hash(tmp_path / "whole")


@pytest.fixture
def tiny_llama(run_recipe, tmp_path) -> Path:
    """A model of another architecture, with the character tokenizer of a run."""
    run_recipe("char_model", *QUICK, *SMALL, "train.max_steps=1", f"output_dir={tmp_path}/tokenizer")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "tokenizer")
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=128,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(tmp_path / "llama")
    tokenizer.save_pretrained(tmp_path / "llama")
    return tmp_path / "llama"


CONTINUE = ("model.scratch=null", "model.tokenizer=null")


def test_any_causal_model_of_a_folder_is_continued(run_recipe, tmp_path, tiny_llama):
    report = run_recipe("char_model", *QUICK, *CONTINUE, f"model.path={tiny_llama}", "data.isolate_documents=true")
    assert report["train"]["optimizer"] == "AdamW"
    assert report["train"]["attention"] == "sdpa"
    assert json.loads((tmp_path / "run" / "config.json").read_text())["model_type"] == "llama"
    assert weights_hash(tmp_path / "run") != weights_hash(tiny_llama)


def test_isolated_documents_of_a_run_have_the_loss_that_each_has_alone(run_recipe, tmp_path, tiny_llama):
    texts = ["a first document of words", "and one of others"]
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    tokenizer = AutoTokenizer.from_pretrained(tiny_llama)
    documents = [
        [tokenizer.bos_token_id, *tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
        for text in texts
    ]
    model = LlamaForCausalLM.from_pretrained(tiny_llama).eval()
    for weight in model.parameters():
        weight.data.mul_(5.0)  # so that what a token sees of others decides its loss
    model.save_pretrained(tiny_llama)
    alone = [(model(torch.tensor([ids]), labels=torch.tensor([ids])).loss.item(), len(ids) - 1) for ids in documents]
    expected = sum(loss * count for loss, count in alone) / sum(count for _, count in alone)
    one_block = (
        "train.max_steps=1",
        "data.block_size=128",
        f"data.train={rows}",
        "eval.prompts=[]",
        "train.bf16=false",
    )
    named = (
        "char_model",
        *QUICK,
        *CONTINUE,
        f"model.path={tiny_llama}",
        *one_block,
        "data.format=text",
        "data.validation_fraction=null",
    )
    isolated = run_recipe(*named, "data.isolate_documents=true", f"output_dir={tmp_path}/isolated")
    mixed = run_recipe(*named, "data.isolate_documents=false", f"output_dir={tmp_path}/mixed")
    assert isolated["data"]["train"]["blocks"] == 1
    assert losses(isolated) == pytest.approx([expected], rel=1e-5)
    assert losses(mixed) != pytest.approx([expected], rel=1e-3)


def test_a_run_whose_model_cannot_keep_documents_apart_is_refused_in_words(run_recipe, tmp_path, tiny_llama):
    tokenizer = AutoTokenizer.from_pretrained(tiny_llama)
    ids = {name: getattr(tokenizer, name) for name in ("pad_token_id", "bos_token_id", "eos_token_id")}
    shape = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "ffn_dim": 48}
    config = OPTConfig(vocab_size=len(tokenizer), **shape, word_embed_proj_dim=32, **ids)
    OPTForCausalLM(config).save_pretrained(tmp_path / "opt")
    tokenizer.save_pretrained(tmp_path / "opt")
    named = ("char_model", *QUICK, *CONTINUE, f"model.path={tmp_path}/opt", "data.block_size=64")
    with pytest.raises(ModelError) as refused:
        run_recipe(*named, "data.isolate_documents=true")
    assert str(refused.value).startswith("data.isolate_documents: ")
    assert "\n" not in str(refused.value)


def test_a_base_whose_generation_settings_contradict_themselves_is_continued_and_saved(
    run_recipe, tmp_path, tiny_llama
):
    own = {"temperature": 0.9, "top_p": 0.6, "eos_token_id": 3, "pad_token_id": -1}  # the Trainer sets the end token
    (tiny_llama / "generation_config.json").write_text(json.dumps(own))
    run_recipe("char_model", *QUICK, *CONTINUE, f"model.path={tiny_llama}", "train.max_steps=1", "eval.prompts=[]")
    saved = json.loads((tmp_path / "run" / "generation_config.json").read_text())
    assert saved.items() >= {"temperature": 0.9, "top_p": 0.6, "do_sample": True}.items()


def test_muon_trains_a_model_of_the_hub_family_too(run_recipe, tiny_llama):
    report = run_recipe(
        "char_model", *QUICK, *CONTINUE, f"model.path={tiny_llama}", "train.optim=muon", "train.learning_rate=0.01"
    )
    assert report["train"]["optimizer"] == "MuonWithAdamW"
    assert losses(report)[-1] < losses(report)[0]


def test_the_best_checkpoint_is_kept_and_training_stops_early(run_recipe, tmp_path):
    report = run_recipe(
        *("char_model", *SMALL, "train.max_steps=30", "train.eval_strategy=steps", "train.eval_steps=2"),
        *("train.save_strategy=steps", "train.save_steps=2", "train.save_total_limit=2", "train.learning_rate=5.0"),
        *("train.load_best_model_at_end=true", "train.early_stopping_patience=2", "eval.prompts=[]"),
    )
    assert report["train"]["steps"] < 30
    evaluated = [entry["eval_loss"] for entry in report["train"]["history"] if "eval_loss" in entry]
    assert report["train"]["best_metric"] == min(evaluated)
    assert report["evaluation"]["validation"]["loss"] == pytest.approx(min(evaluated), rel=1e-5)


def test_mixed_precision_and_checkpointed_activations_run_as_asked(run_recipe):
    report = run_recipe("char_model", *QUICK, *SMALL, "train.bf16=true", "train.activation_checkpointing=true")
    assert report["distributed"]["mixed_precision"] == "bf16"
    assert report["train"]["attention"] == "eager"
    assert losses(report)[-1] < losses(report)[0]


def test_a_vocabulary_larger_than_the_text_allows_is_the_largest_that_it_allows(run_recipe):
    report = run_recipe("continued_pretraining", *QUICK, *SMALL, "model.tokenizer.train.vocab_size=100000")
    assert report["status"] == "done"


@pytest.mark.parametrize(
    ("override", "error", "message"),
    [
        ("data.block_size=4096", ConfigError, "4096 tokens are more than the 256 positions"),
        ('eval.prompts=["\u00e9\u4e16"]', ModelError, "U\\+4E16"),
        ("model.scratch.num_attention_heads=3", ModelError, "model.scratch"),
        ("data.train=data_templates/nothing.txt", (ConfigError, DataError), "nothing.txt"),
    ],
)
def test_what_cannot_be_done_is_refused_before_training(run_recipe, override, error, message):
    with pytest.raises(error, match=message):
        run_recipe("char_model", *QUICK, override)


def test_a_folder_that_holds_another_run_is_refused(run_recipe, tmp_path):
    run_recipe("char_model", *QUICK, *SMALL)
    before = weights_hash(tmp_path / "run")
    with pytest.raises(RunFinished, match="holds a finished run, 6 steps"):
        run_recipe("char_model", *QUICK, *SMALL)
    with pytest.raises(ConfigError, match=r"holds a finished run, 6 steps.*under other settings"):
        run_recipe("char_model", *QUICK, *SMALL, "train.seed=7")
    assert weights_hash(tmp_path / "run") == before


def test_a_corpus_without_text_is_refused(run_recipe, tmp_path):
    empty = tmp_path / "empty.jsonl"
    empty.write_text('{"text": " "}\n{"text": ""}\n')
    with pytest.raises(DataError, match="no row has any text"):
        run_recipe("continued_pretraining", *QUICK, f"data.train={empty}", "data.validation_fraction=null")
