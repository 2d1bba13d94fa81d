"""Templates that add tokens, and adapters that are trained on, through the recipes: train, score, merge, go on."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from models.scratch_models import tiny_model
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from hf_finetune.errors import ConfigError
from hf_finetune.files import hash_file
from hf_finetune.models.base_and_tuned import run_base_and_tuned
from hf_finetune.models.saved import load_for_generation
from hf_finetune.models.tokenizer_training import train_tokenizer
from hf_finetune.release.hub.files import plan_files
from hf_finetune.release.hub.redaction import redact_files
from hf_finetune.release.hub.search.places import check_secrets
from hf_finetune.release.merge import merge_adapter

ROOT = Path(__file__).resolve().parent.parent
DATA = "data_templates/user_assistant.jsonl"
FEW = ("train.logging_steps=1", "eval.max_new_tokens=3", "train.bf16=false", "train.max_steps=4", "eval.prompts=[]")
ONCE = ("train.save_strategy=no", "train.eval_strategy=no", "train.load_best_model_at_end=false")
CHATML = "data.chat_template=chatml"


@pytest.fixture(scope="module", params=[False, True], ids=["two matrices", "one matrix"])
def base(tmp_path_factory, request) -> Path:
    """A tiny GPT with a byte-level tokenizer, which has no chat template and none of chatml's tokens."""
    folder = tmp_path_factory.mktemp("base")
    rows = [json.loads(line) for line in (ROOT / DATA).read_text(encoding="utf-8").splitlines()]
    tokenizer = train_tokenizer("bpe", [text for row in rows for text in row.values()], 300)
    tokenizer.save_pretrained(folder)
    special = {name: getattr(tokenizer, name) for name in ("pad_token_id", "bos_token_id", "eos_token_id")}
    sizes = {"vocab_size": len(tokenizer), "max_position_embeddings": 256, "tie_word_embeddings": request.param}
    tiny_model(**sizes, **special).save_pretrained(folder)
    return folder


def adapter_weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "adapter_model.safetensors")


def test_sft_trains_the_rows_that_a_template_adds_and_stops_at_its_end_token(run_recipe, base, tmp_path, capsys):
    run_recipe("sft", f"model.path={base}", *FEW, CHATML, "train.learning_rate=0.01")
    logged = capsys.readouterr().err
    line = "template chatml adds <|im_start|>, <|im_end|> to the tokenizer: their embeddings are trained"
    assert logged.splitlines().count(line) == 1
    assert "multivariate" not in logged  # transformers explains at length how it draws rows
    folder = tmp_path / "run"
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert GenerationConfig.from_pretrained(folder).eos_token_id == [tokenizer.eos_token_id, end]
    assert model.config.vocab_size == len(tokenizer) == 302
    before = AutoModelForCausalLM.from_pretrained(base)
    assert model.get_input_embeddings().weight.shape[0] == before.get_input_embeddings().weight.shape[0] + 2
    seen: dict[str, int] = {}

    def ask(name):
        return lambda model, tokenizer: seen.update({name: model.get_input_embeddings().weight.shape[0]})

    run_base_and_tuned(str(folder), None, ask("base"), ask("tuned"))  # the base gets rows to be compared on
    assert seen == {"base": 302, "tuned": 302}


def test_an_adapter_with_new_tokens_is_trained_resumed_scored_merged_and_pushed(run_recipe, base, tmp_path):
    often = ("train.save_strategy=steps", "train.save_steps=2", "train.eval_strategy=no", "train.save_total_limit=5")
    settings = (f"model.path={base}", *FEW, CHATML, *often, "train.load_best_model_at_end=false")
    run_recipe("lora", *settings)
    folder = tmp_path / "run"
    weights = adapter_weights(folder)
    assert all("lora_" in name or "trainable_tokens_delta" in name for name in weights)
    shutil.copytree(folder, tmp_path / "again", ignore=shutil.ignore_patterns("checkpoint-4", "report*"))
    run_recipe("lora", *settings, f"output_dir={tmp_path / 'again'}")
    again = adapter_weights(tmp_path / "again")
    assert all(torch.equal(weights[name], again[name]) for name in weights)
    score = (f"model.path={folder}", f"data.test={DATA}", "eval.base=true", "eval.max_new_tokens=2")
    scored = run_recipe("score", *score, f"output_dir={tmp_path / 'scored'}")
    assert scored["evaluation"]["test"]["comparison"]["base"]
    assert scored["evaluation"]["test"]["comparison"]["rows"] == 14
    result = merge_adapter(str(folder), str(tmp_path / "merged"))
    assert result.max_logit_difference < 1e-3
    model, tokenizer = load_for_generation(str(tmp_path / "merged"))
    assert model.config.vocab_size == len(tokenizer) == 302
    files = plan_files(folder)
    names = {file.name for file in redact_files(folder, files, check_secrets(files))}
    assert {"adapter_model.safetensors", "base_model.json", "chat_template.jinja"} <= names


def test_an_adapter_is_trained_on_and_every_record_says_so(run_recipe, base, tmp_path):
    run_recipe("lora", f"model.path={base}", *FEW, *ONCE, CHATML)
    first = tmp_path / "run"
    # The same file, with the adapter in place of the base: its rank and alpha are the adapter's.
    second = tmp_path / "second"
    report = run_recipe("lora", "model.path=null", f"model.adapter={first}", *FEW, *ONCE, f"output_dir={second}")
    before, after = adapter_weights(first), adapter_weights(second)
    assert before.keys() == after.keys()
    assert any(not torch.equal(before[name], after[name]) for name in before)
    assert report["settings"]["model"]["adapter"]
    manifest = json.loads((second / "manifest.json").read_text())
    trained_from = manifest["model"]["adapter"]["sha256"]["adapter_model.safetensors"]
    assert trained_from == hash_file(first / "adapter_model.safetensors")
    assert set(manifest["model"]["sha256"]) >= {"config.json", "model.safetensors"}
    record = json.loads((second / "base_model.json").read_text())
    assert record["started_from"]["sha256"] == trained_from
    assert "<|im_end|>" in AutoTokenizer.from_pretrained(second).get_vocab()
    score = (f"model.path={second}", f"data.test={DATA}", "eval.base=true", "eval.generate_rows=0")
    compared = run_recipe("score", *score, f"output_dir={tmp_path / 'scored'}")["evaluation"]["test"]["comparison"]
    assert (Path(compared["base"]).name, Path(compared["started_from"]).name) == (base.name, "run")
    files = plan_files(second)
    shown = redact_files(second, files, check_secrets(files))
    (sent,) = [file.content.decode() for file in shown if file.name == "base_model.json"]
    assert str(tmp_path) not in sent


def test_a_new_adapter_on_a_merged_base_stands_on_the_merged_model(run_recipe, base, tmp_path):
    run_recipe("lora", f"model.path={base}", *FEW, *ONCE, CHATML)
    merged = tmp_path / "merged"
    merge_adapter(str(tmp_path / "run"), str(merged))
    run_recipe("lora", f"model.path={merged}", *FEW, *ONCE, f"output_dir={tmp_path / 'second'}")
    assert json.loads((tmp_path / "second" / "base_model.json").read_text())["started_from"] is None
    assert all("lora_" in name for name in adapter_weights(tmp_path / "second"))


def test_a_template_that_would_add_tokens_to_an_adapter_that_has_none_for_them_is_refused(run_recipe, base, tmp_path):
    run_recipe("lora", f"model.path={base}", *FEW, *ONCE)
    adapter = ("model.path=null", f"model.adapter={tmp_path / 'run'}", f"output_dir={tmp_path / 'other'}")
    with pytest.raises(ConfigError, match=r"data.chat_template: adds tokens .* merge that adapter"):
        run_recipe("lora", *adapter, *FEW, *ONCE, CHATML)
