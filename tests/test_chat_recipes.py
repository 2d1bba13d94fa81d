"""sft and lora, run for real on a small base: what they leave, and that what was asked for is what ran."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from models.scratch_models import save_chat_base
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from hf_finetune.errors import DataError, ModelError
from hf_finetune.models.saved import load_for_generation
from hf_finetune.release.merge import merge_adapter

ROOT = Path(__file__).resolve().parent.parent
DATA = "data_templates/user_assistant.jsonl"
QUICK = ("train.num_train_epochs=2", "train.logging_steps=1", "eval.max_new_tokens=3", "train.bf16=false")
ONCE = ("train.save_strategy=no", "train.eval_strategy=no", "train.load_best_model_at_end=false")


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    return save_chat_base(tmp_path_factory.mktemp("base"), ROOT / DATA)


def losses(report: dict) -> list[float]:
    return [entry["loss"] for entry in report["train"]["history"] if "loss" in entry]


def test_sft_leaves_a_model_that_knows_how_to_be_talked_to(run_recipe, base, tmp_path):
    report = run_recipe("sft", f"model.path={base}", *QUICK, "train.learning_rate=0.01")
    folder = tmp_path / "run"
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.chat_template == (ROOT / "hf_finetune/chat/templates/plain.jinja").read_text()
    assert GenerationConfig.from_pretrained(folder).eos_token_id == [tokenizer.eos_token_id]
    train = report["data"]["train"]
    assert train["rows"] == train["examples"] == 11
    assert 0 < train["trained_tokens"] < train["tokens"]
    assert losses(report)[-1] < losses(report)[0]
    assert report["parameters"]["trainable"] == report["parameters"]["total"]
    steps = report["train"]["steps"]
    assert [sample["step"] for sample in report["samples"]] == [0, steps // 2, steps]
    assert [path.parent for path in folder.rglob("README.md")] == [folder]  # our card; none of peft's in checkpoints


def test_the_loss_of_the_report_is_the_saved_models_on_what_the_assistant_says(run_recipe, base, tmp_path):
    rows = [json.loads(line) for line in (ROOT / DATA).read_text(encoding="utf-8").splitlines()]
    held_out = tmp_path / "held_out.jsonl"
    held_out.write_text("".join(json.dumps({**row, "user": row["user"] + " Now."}) + "\n" for row in rows[:4]))
    others = tmp_path / "rows.jsonl"
    others.write_text("".join(json.dumps(row) + "\n" for row in rows[4:]))
    apart = (f"data.train={others}", f"data.validation={held_out}", "data.validation_fraction=null")
    report = run_recipe("sft", f"model.path={base}", *QUICK, *apart)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "run").eval()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "run")
    nll, tokens = 0.0, 0
    for row in rows[:4]:
        # By hand: `plain` is a line for the role, the text, the end token, and a line end that nobody says.
        asked = f"<|bos|>User:\n{row['user']} Now.<|eos|>\nAssistant:\n"
        prompt = tokenizer(asked, add_special_tokens=False)["input_ids"]
        said = tokenizer(f"{row['assistant']}<|eos|>", add_special_tokens=False)["input_ids"]
        ids = torch.tensor([(prompt + said)[:256]])
        labels = torch.tensor([([-100] * len(prompt) + said)[:256]])
        trained = int((labels != -100).sum())
        with torch.no_grad():
            nll += model(ids, labels=labels).loss.item() * trained
        tokens += trained
    assert report["data"]["validation"]["trained_tokens"] == tokens
    assert report["evaluation"]["validation"]["loss"] == pytest.approx(nll / tokens, rel=1e-5)


def test_an_adapters_folder_holds_only_what_an_adapter_needs(run_recipe, base, tmp_path):
    report = run_recipe("lora", f"model.path={base}", *QUICK, *ONCE)
    assert {path.name for path in (tmp_path / "run").iterdir()} == {
        *("adapter_config.json", "adapter_model.safetensors", "base_model.json", "generation_config.json"),
        *("chat_template.jinja", "tokenizer.json", "tokenizer_config.json"),
        *(
            "manifest.json",
            "report.json",
            "run.yaml",
            "report.html",
            "README.md",
            "row_scores.json",
            "row_prints.npz",
            "log.jsonl",
        ),
    }
    assert 0 < report["parameters"]["trainable"] < report["parameters"]["total"]
    assert losses(report)[-1] < losses(report)[0]


@pytest.mark.parametrize("recipe", ["sft", "lora"])
def test_a_packed_run_learns_the_same_tokens_and_says_how_full_its_blocks_are(run_recipe, base, recipe):
    report = run_recipe(recipe, f"model.path={base}", *QUICK, *ONCE, "train.packing=true", "train.max_length=256")
    assert 0.5 < report["data"]["train"]["filled"] <= 1
    assert report["data"]["train"]["examples"] == 11
    assert report["status"] == "done"


def test_asked_for_attention_and_loss_are_what_ran(run_recipe, base, tmp_path):
    report = run_recipe("sft", f"model.path={base}", *QUICK, "model.attn_implementation=eager", "data.loss_on=all")
    assert report["train"]["attention"] == "eager"
    every_token = report["data"]["train"]
    assert every_token["trained_tokens"] == every_token["tokens"] - every_token["examples"]  # all but the first
    assert yaml.safe_load((tmp_path / "run" / "run.yaml").read_text())["data"]["loss_on"] == "all"


def test_the_same_seed_gives_the_same_adapter_and_another_seed_another(run_recipe, base, tmp_path):
    written = []
    for name, seed in (("one", 3), ("same", 3), ("other", 4)):
        run_recipe("lora", f"model.path={base}", *QUICK, f"output_dir={tmp_path / name}", f"train.seed={seed}")
        written.append((tmp_path / name / "adapter_model.safetensors").read_bytes())
    assert written[0] == written[1] != written[2]


def test_a_base_whose_generation_settings_contradict_themselves_is_tuned_merged_and_saved(run_recipe, base, tmp_path):
    own = {"temperature": 0.9, "top_p": 0.6, "eos_token_id": 2, "pad_token_id": 0}  # that of Llama 2, Vicuna and LLaVA
    folder = tmp_path / "base"
    shutil.copytree(base, folder)
    (folder / "generation_config.json").write_text(json.dumps(own))
    few = (f"model.path={folder}", *QUICK, *ONCE, "train.max_steps=2", "eval.prompts=[]")
    run_recipe("sft", *few, f"output_dir={tmp_path / 'sft'}")
    run_recipe("lora", *few, f"output_dir={tmp_path / 'lora'}")
    merge_adapter(str(tmp_path / "lora"), str(tmp_path / "merged"))
    for name in ("sft", "merged"):
        saved = json.loads((tmp_path / name / "generation_config.json").read_text())
        assert saved.items() >= {"temperature": 0.9, "top_p": 0.6, "do_sample": True, "pad_token_id": 0}.items()


def test_an_adapter_is_refused_as_a_base(run_recipe, base, tmp_path):
    run_recipe("lora", f"model.path={base}", *QUICK)
    with pytest.raises(ModelError, match="is an adapter, not a model"):
        run_recipe("sft", f"model.path={tmp_path / 'run'}", *QUICK, f"output_dir={tmp_path / 'other'}")


def test_rows_that_do_not_fit_refuse_the_run_before_the_model_is_loaded(run_recipe, base, monkeypatch):
    def loaded(*args, **kwargs):
        raise AssertionError("the model was loaded")

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", loaded)
    with pytest.raises(DataError, match=r"11 of 11 train rows \(100\.0%\) would be left out"):
        run_recipe("sft", f"model.path={base}", *QUICK, "data.too_long=drop", "train.max_length=20")


def test_an_adapter_in_a_checkpoint_knows_its_base_and_its_tokenizer(run_recipe, base, tmp_path):
    every = ("train.save_strategy=steps", "train.save_steps=2", "train.max_steps=2", "train.eval_strategy=no")
    own = shutil.copytree(base, tmp_path / "base")
    run_recipe("lora", f"model.path={own}", *QUICK, *every, "train.load_best_model_at_end=false", "eval.prompts=[]")
    checkpoint = tmp_path / "run" / "checkpoint-2"
    records = [json.loads((folder / "base_model.json").read_text()) for folder in (checkpoint, checkpoint.parent)]
    assert records[0] == records[1]
    model, _ = load_for_generation(str(checkpoint))
    saved, _ = load_for_generation(str(checkpoint.parent))
    ids = torch.arange(12).reshape(1, -1)
    assert torch.equal(model(ids).logits, saved(ids).logits)
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    swapped = (
        tokenizer.backend_tokenizer.to_str().replace('"e":', '"?":').replace('"a":', '"e":').replace('"?":', '"a":')
    )
    (checkpoint / "tokenizer.json").write_text(swapped, encoding="utf-8")
    with pytest.raises(ModelError, match="its tokenizer is not the one of the training"):
        load_for_generation(str(checkpoint))
    weights = load_file(own / "model.safetensors")
    save_file({key: value * 1.01 for key, value in weights.items()}, own / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match="was trained on another model"):
        load_for_generation(str(checkpoint))
