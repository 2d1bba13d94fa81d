"""Tiny models of every kind that has a card, saved as their recipes save them, with the files of a finished run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from transformers import AutoConfig
from tuned_adapters import TOKENIZER, adapter_on, save, saved_base, train
from tuned_classifiers import NUMBER, SPAM, TAGS, adapted_classifier, classifier_on, saved_backbone, train_classifier

from hf_finetune.chat.template import load_chat_template
from hf_finetune.config.sections import DataSection, ModelSection
from hf_finetune.models.adapters.attach import attach_adapter, save_adapter
from hf_finetune.models.decision import Decision, write_decision
from hf_finetune.models.loading import load_causal_lm
from hf_finetune.models.tokenizers import load_tokenizer
from hf_finetune.release.merge import merge_adapter

FIGURES = {
    "loss": 2.25,
    "perplexity": 9.4877,
    "accuracy": 0.75,
    "intervals": {"accuracy": [0.5, 1.0]},
    "baselines": {"majority": {"accuracy": 0.5}},
}
ROWS_SHA256 = "5" * 64
SECRET_TEXT = "the text of a row that nobody may see"


def finished_run(folder: Path, recipe: str, **changed: Any) -> Path:
    """The files of a run of `recipe` whose model lies in `folder`; `changed`: parts of report.json, or `manifest`."""
    manifest = {
        "data": {
            "files": [
                {
                    "role": "train",
                    "path": "/data/of/somebody/rows.jsonl",
                    "sha256": "7" * 64,
                    "lines": 40,
                    "accepted": 40,
                    "rejected": 0,
                }
            ],
            "overlap": {"test": {"copies": 0}},
            "splits": {"train": {"rows": 32, "sha256": "3" * 64}, "test": {"rows": 8, "sha256": ROWS_SHA256}},
        },
        "versions": {"torch": "2.13.0"},
        "launch": f"accelerate launch recipes/{recipe}.py /home/somebody/run.yaml output_dir={folder}",
        **changed.pop("manifest", {}),
    }
    report = {
        "recipe": recipe,
        "status": "done",
        "settings": {"recipe": recipe, "model": {"path": None, "scratch": {}}, "output_dir": str(folder)},
        "data": {"train": {"rows": 32, "tokens": 640}, "test": {"rows": 8, "tokens": 160}},
        "parameters": {"total": 1000, "trainable": 100},
        "train": {"steps": 10, "epochs": 1.0, "runtime_s": 75.0, "tokens_per_s": 85.3},
        "evaluation": {"test": FIGURES},
        "samples": [{"step": 0, "prompt": SECRET_TEXT, "continuation": SECRET_TEXT}],
        **changed,
    }
    (folder / "README.md").unlink(missing_ok=True)  # peft's template
    (folder / "manifest.json").write_text(json.dumps(manifest))
    (folder / "report.json").write_text(json.dumps(report))
    return folder


def saved_models(folder: Path) -> dict[str, Path]:
    """One folder of each kind in `folder`."""
    tuned = {"path": str(folder / "base"), "scratch": None}
    saved_base(folder / "base")
    models = {
        "scratch": finished_run(saved_base(folder / "scratch"), "continued_pretraining"),
        "chat": finished_run(_chatting(folder / "chat"), "sft"),
        "adapter": save(train(adapter_on(folder / "base")), folder / "adapter"),
    }
    finished_run(models["adapter"], "lora", settings={"model": tuned, "lora": {"r": 8}})
    backbone = saved_backbone(folder / "backbone", "bert")
    for name, labels in (("classifier", SPAM), ("tags", TAGS), ("number", NUMBER)):
        model = train_classifier(classifier_on(backbone, labels), labels)
        model.save_pretrained(folder / name)
        TOKENIZER.save_pretrained(folder / name)
        models[name] = finished_run(folder / name, "classification")
    decoder = saved_backbone(folder / "decoder", "llama")  # its head has no bias, which could hold thresholds
    for name, labels, thresholds in (
        ("strict", SPAM, (0.02, 0.98)),
        ("lenient", SPAM, (0.98, 0.02)),
        ("strict_tags", TAGS, (0.02, 0.98, 0.3)),
    ):
        classifier_on(decoder, labels).save_pretrained(folder / name)
        TOKENIZER.save_pretrained(folder / name)
        write_decision(Decision(labels.names, labels.kind, thresholds=thresholds), folder / name)
        models[name] = finished_run(folder / name, "classification")
    for name, base, labels in (
        ("classifier_adapter", folder / "backbone", SPAM),
        ("tags_adapter", folder / "backbone", TAGS),
        ("number_adapter", folder / "decoder", NUMBER),
        ("scratch_classifier_adapter", folder / "base", SPAM),
    ):
        adapted = adapted_classifier(base, labels=labels, pad_token_id=0)
        models[name] = save(train_classifier(adapted, labels), folder / name)
        settings = {"model": {"path": str(base), "scratch": None}, "lora": {"r": 8}}
        finished_run(models[name], "classification", settings=settings)
    models["grown_adapter"] = tune_with_new_tokens(folder / "decoder", folder / "grown_adapter")
    for name in ("adapter", "tags_adapter", "grown_adapter"):
        models[f"merged_{name}"] = folder / f"merged_{name}"
        merge_adapter(str(folder / name), str(folder / f"merged_{name}"), data=str(_rows(folder, name)))
    return models


def tune_with_new_tokens(base: Path, folder: Path) -> Path:
    """An adapter on `base` under a chat template whose tokens the base's tokenizer lacks, in `folder`."""
    settings = ModelSection(path=str(base))
    tokenizer = load_tokenizer(settings)
    load_chat_template(DataSection(train="x", chat_template="chatml"), tokenizer)
    config = AutoConfig.from_pretrained(base)
    adapted = train(attach_adapter(load_causal_lm(settings, config, 16, bf16=False, tokenizer=tokenizer), None))
    adapted.save_pretrained(folder)
    save_adapter(adapted, folder, tokenizer)
    tokenizer.save_pretrained(folder)
    return finished_run(folder, "lora", settings={"model": {"path": str(base), "scratch": None}, "lora": {"r": 8}})


def _rows(folder: Path, name: str) -> Path:
    """Rows to compare a merged model on."""
    row = {
        "adapter": {"text": "some text"},
        "tags_adapter": {"text": "some text", "label": [TAGS.names[0]]},
        "grown_adapter": {"prompt": "some", "completion": "text"},
    }
    path = folder / f"{name}.jsonl"
    path.write_text(json.dumps(row[name]) + "\n")
    return path


def _chatting(folder: Path) -> Path:
    saved_backbone(folder, "llama")
    (folder / "chat_template.jinja").write_text("{% for message in messages %}{{ message.content }} {% endfor %}")
    return folder
