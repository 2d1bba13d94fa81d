from __future__ import annotations

import copy
import platform
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import torch
from datasets import Dataset
from peft import PeftModel
from transformers import AutoModelForCausalLM
from trl import SFTConfig
from tuned_adapters import TIED, TOKENIZER, adapter_on, logits_of, saved_base

from hf_finetune.errors import ModelError
from hf_finetune.models.saved import load_for_generation
from hf_finetune.models.verification import ReloadPlan, plan_reload
from hf_finetune.training.allocator import keep_freed_memory
from hf_finetune.training.saving import release_optimizer, save_verified
from hf_finetune.training.trainers.sft import SFTTrainer

IDS = [[3 + (row * 7 + place) % 50 for place in range(16)] for row in range(8)]
ROWS = Dataset.from_dict({"input_ids": IDS, "labels": IDS})


@pytest.fixture
def base(tmp_path):
    return saved_base(tmp_path / "base")


@pytest.fixture
def fitted(tmp_path):
    """A model after three steps under TRL's own trainer, whose fused head takes the place of the base's forward."""

    def fit(model, **settings):
        args = SFTConfig(
            str(tmp_path / "run"),
            max_steps=3,
            learning_rate=1e-2,
            max_length=None,
            packing=False,
            use_cpu=True,
            report_to="none",
            disable_tqdm=True,
            logging_strategy="no",
            dataloader_pin_memory=False,
            **{"bf16": False, "activation_checkpointing": False, "save_strategy": "no"} | settings,
        )
        tokenizer = copy.copy(TOKENIZER)
        tokenizer.chat_template = "{% for message in messages %}{{ message.content }}{{ eos_token }}{% endfor %}"
        trainer = SFTTrainer(model, args, train_dataset=ROWS, processing_class=tokenizer)
        trainer.train()
        return trainer

    return fit


@pytest.mark.parametrize("lora", [{}, {"init_lora_weights": "pissa", "use_dora": True, "modules_to_save": ["lm_head"]}])
@pytest.mark.parametrize("section", [{}, {"load_in_4bit": True}], ids=["float32", "4 bits"])
def test_an_adapter_that_trl_has_trained_is_saved_loaded_again_and_equal(base, tmp_path, fitted, lora, section):
    if section and lora:
        lora = {"use_dora": True}
    trainer = fitted(adapter_on(base, lora, **section))
    save_verified(trainer)
    loaded, tokenizer = load_for_generation(str(tmp_path / "run"))
    forward = trainer.model.get_base_model().__dict__.pop("forward")  # TRL's has no logits
    assert forward
    assert (logits_of(trainer.model) - logits_of(loaded)).abs().max() <= 1e-5
    assert tokenizer.chat_template == trainer.processing_class.chat_template


@pytest.mark.parametrize("section", [{}, {"load_in_4bit": True}], ids=["float32", "4 bits"])
def test_recomputed_activations_reach_every_adapter(base, fitted, section):
    trainer = fitted(adapter_on(base, **section), activation_checkpointing=True)  # its guard looks
    save_verified(trainer)


@pytest.mark.parametrize("section", [{"dtype": "float32"}, {"dtype": "bfloat16"}])
def test_mixed_precision_of_the_run_is_not_compared_with(base, fitted, section):
    save_verified(fitted(adapter_on(base, **section), bf16=True))


def test_an_adapters_folder_holds_what_it_needs_and_nothing_else(base, tmp_path, fitted):
    save_verified(fitted(adapter_on(base)))
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
        "base_model.json",
        "chat_template.jinja",
        "generation_config.json",
        "log.jsonl",
        "tokenizer.json",
        "tokenizer_config.json",
    ]


def test_the_model_in_training_goes_on_as_it_was(base, fitted):
    """Its forward stays TRL's: evaluation comes after saving."""
    trainer = fitted(adapter_on(base))
    before = trainer.evaluate(ROWS)["eval_loss"]
    save_verified(trainer)
    assert trainer.evaluate(ROWS)["eval_loss"] == before


def test_an_adapter_whose_folder_is_not_what_was_trained_is_found(base, fitted, monkeypatch):
    trainer = fitted(adapter_on(base))
    save_model = trainer.save_model

    def save_something_else(folder):
        save_model(folder)
        with torch.no_grad():
            for name, parameter in trainer.model.named_parameters():
                parameter += 0.1 * ("lora_B" in name)

    monkeypatch.setattr(trainer, "save_model", save_something_else)
    with pytest.raises(ModelError, match="logits differ"):
        save_verified(trainer)
    assert not Path(trainer.args.output_dir, "adapter_model.safetensors").exists()  # nothing is called saved


def test_a_whole_model_is_saved_and_compared_as_before(tmp_path, fitted):
    model = adapter_on(saved_base(tmp_path / "base", **TIED)).unload().requires_grad_(True)
    trainer = fitted(model)
    save_verified(trainer)
    loaded, _ = load_for_generation(str(tmp_path / "run"))
    assert not isinstance(loaded, PeftModel)
    assert not (tmp_path / "run" / "training_args.bin").exists()


PEAK = """
import resource, sys, torch, tempfile
from transformers import LlamaConfig, LlamaForCausalLM, TrainingArguments
from datasets import Dataset
from hf_finetune.data.tokenization.documents import BlockCollator
from hf_finetune.training.trainers.base import Trainer
from hf_finetune.training.allocator import keep_freed_memory
from hf_finetune.training.saving import release_optimizer, save_verified

def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

sizes = dict(hidden_size=768, intermediate_size=2048, num_hidden_layers=4, num_attention_heads=8, vocab_size=4096)
model = LlamaForCausalLM(LlamaConfig(**sizes))
rows = Dataset.from_dict({"input_ids": [[1, 2, 3, 4]] * 2, "labels": [[1, 2, 3, 4]] * 2})
quiet = {"report_to": "none", "save_strategy": "no", "disable_tqdm": True}
args = TrainingArguments(sys.argv[1], max_steps=2, use_cpu=True, **quiet)
trainer = Trainer(model=model, args=args, train_dataset=rows, data_collator=BlockCollator())
trainer.train()
trained = peak()
save_verified(trainer)
print(model.num_parameters() * 4 / 2**20, trained, peak())
"""


def test_what_was_saved_is_checked_in_the_memory_that_training_had(tmp_path, environment_of_a_user):
    done = subprocess.run(
        [sys.executable, "-c", PEAK, str(tmp_path / "run")], env=environment_of_a_user, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    weights, trained, checked = map(float, done.stdout.split())
    # Gradients and AdamW's state are three times the weights, and the second model takes their place.
    assert checked - trained < 0.3 * weights


def test_without_room_for_a_second_model_the_cpu_compares(base):
    model = AutoModelForCausalLM.from_pretrained(base)
    size = model.get_memory_footprint()
    assert plan_reload(model, 1e-5, 10 * size) == ReloadPlan(
        torch.device("cpu"), model.config._attn_implementation, 1e-5
    )
    crowded = plan_reload(model, 1e-5, size)
    assert (crowded.device.type, crowded.tolerance) == ("cpu", 1e-3)
    halved = model.bfloat16()
    assert plan_reload(halved, 1e-5, halved.get_memory_footprint()).tolerance == 0.1


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is told to keep memory")
def test_the_room_of_training_is_given_back_before_a_second_model_is_loaded():
    keep_freed_memory()
    process = psutil.Process()
    before, kept = process.memory_info().rss, [torch.ones(2**18) for _ in range(200)]  # 200 MiB
    above = torch.ones(2**18)  # so that the heap cannot be cut at its end
    del kept
    trained = process.memory_info().rss
    release_optimizer(SimpleNamespace(optimizer=None))
    released = process.memory_info().rss
    assert trained - before > 50 * 2**20  # what was free before is not counted
    assert trained - released > 90 * 2**20
    del above
