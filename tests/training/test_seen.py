"""What a run says that it has seen is what went through the model, counted by a hook on its forward."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from evaluation.scoring.test_run_and_score_agree import PLAIN, questions, save_base, write
from tuned_classifiers import saved_backbone

import hf_finetune.training.trainers.base as trainers

QUICK = ("train.bf16=false", "eval.prompts=[]", "train.eval_strategy=no", "train.logging_steps=1")
SAVED = ("train.save_strategy=epoch", "train.save_total_limit=null")


@pytest.fixture
def counted(monkeypatch) -> Counter:
    """Rows and tokens of every forward pass in training mode, by what reaches the model."""
    found: Counter = Counter()

    def count(model, args, inputs) -> None:
        if not model.training or torch.is_inference_mode_enabled() or not torch.is_grad_enabled():
            return
        found["rows"] += len(inputs["input_ids"])
        found["tokens"] += int((inputs["input_ids"] != 0).sum())  # the padding of all these models, which no text has
        found["passes"] += 1

    of_trainer = trainers.TrainerMixin.train

    def train(self, *args, **kwargs):
        hook = self.model.register_forward_pre_hook(count, with_kwargs=True)
        try:
            return of_trainer(self, *args, **kwargs)
        finally:
            hook.remove()

    monkeypatch.setattr(trainers.TrainerMixin, "train", train)
    return found


def test_thirteen_rows_of_three_epochs_are_thirty_nine(run_recipe, tmp_path, counted, capsys):
    base = save_base(tmp_path / "base", "bpe")
    rows = write(tmp_path / "rows.jsonl", questions(lambda n: 1 + n)(0, 13))
    settings = (
        "train.num_train_epochs=3",
        "train.per_device_train_batch_size=2",
        "train.gradient_accumulation_steps=3",
    )
    report = run_recipe("sft", f"model.path={base}", f"data.train={rows}", *settings, *QUICK, *PLAIN)
    train, data = report["train"], report["data"]["train"]
    assert train["seen"] == {
        "rows": counted["rows"],
        "tokens": counted["tokens"],
        "trained_tokens": 3 * data["trained_tokens"],
    }
    assert (counted["rows"], counted["tokens"]) == (39, 3 * data["tokens"])
    assert train["epochs"] == 3
    # 7 micro-batches an epoch are steps of 3, 3 and 1: the last one's rate is of its own row.
    seen = [entry["tokens_seen"] for entry in train["history"] if "loss" in entry]
    assert len(seen) == 9
    assert seen[-1] == counted["tokens"]
    said = f"9 steps, {counted['tokens']:,} tokens seen, {train['seen']['trained_tokens']:,} of them trained,"
    assert said in capsys.readouterr().err
    folder = tmp_path / "run"
    assert f"{counted['tokens']:,} tokens seen" in (folder / "report.html").read_text()
    assert f"{counted['tokens']:,} tokens seen" in (folder / "README.md").read_text()
    assert train["tokens_per_s"] * sum_of_seconds(train) == pytest.approx(counted["tokens"], rel=1e-6)


def sum_of_seconds(train: dict) -> float:
    """The time of the steps, by the rate and the tokens of each."""
    steps = [entry for entry in train["history"] if "loss" in entry]
    before = [0, *(entry["tokens_seen"] for entry in steps)]
    return sum((e["tokens_seen"] - b) / e["tokens_per_s"] for e, b in zip(steps, before, strict=False))


@pytest.mark.parametrize("packing", ["data.isolate_documents=true", "data.isolate_documents=false"])
def test_blocks_are_counted_without_the_padding_of_the_last(run_recipe, tmp_path, counted, packing):
    base = save_base(tmp_path / "base", "bpe")
    rows = write(tmp_path / "rows.jsonl", [{"text": row["answer"]} for row in questions(lambda n: 9 + n)(0, 9)])
    named = (
        "model.scratch=null",
        "model.tokenizer=null",
        f"model.path={base}",
        "data.block_size=32",
        "train.max_steps=-1",
    )
    files = (f"data.train={rows}", "train.per_device_train_batch_size=3", "train.num_train_epochs=3")
    report = run_recipe("continued_pretraining", *named, *files, packing, *QUICK, *PLAIN)
    data, seen = report["data"]["train"], report["train"]["seen"]
    # Blocks share a token: that which the next one begins with is seen twice.
    assert seen["tokens"] == counted["tokens"] == 3 * (data["tokens"] + data["blocks"] - 1)
    assert seen["rows"] == counted["rows"] == 3 * data["blocks"]
    assert seen["trained_tokens"] == 3 * data["trained_tokens"]
    assert report["train"]["epochs"] == 3


def test_packed_rows_and_a_classifiers_rows_are_counted(run_recipe, tmp_path, counted):
    base = save_base(tmp_path / "base", "bpe")
    rows = write(tmp_path / "rows.jsonl", questions(lambda n: 1 + n)(0, 13))
    packed = ("train.packing=true", "train.max_length=96", "train.num_train_epochs=2", f"model.path={base}")
    report = run_recipe("sft", *packed, f"data.train={rows}", *QUICK, *PLAIN)
    assert report["train"]["seen"]["tokens"] == 2 * report["data"]["train"]["tokens"]
    assert report["train"]["seen"]["trained_tokens"] == 2 * report["data"]["train"]["trained_tokens"]
    assert report["train"]["seen"]["rows"] == counted["rows"]
    counted.clear()
    labelled = write(tmp_path / "texts.jsonl", [{"text": "a cat " * (n + 1), "label": "ab"[n % 2]} for n in range(11)])
    backbone = saved_backbone(tmp_path / "backbone", "bert")
    settings = (f"model.path={backbone}", f"data.train={labelled}", "train.num_train_epochs=2", "data.stratify_by=null")
    more = (f"output_dir={tmp_path / 'classes'}", "train.per_device_train_batch_size=4", "data.test_fraction=null")
    report = run_recipe("spam", *settings, *more, *QUICK[:1], *QUICK[2:], *PLAIN)
    assert report["train"]["seen"]["rows"] == counted["rows"] == 22
    assert report["train"]["seen"]["tokens"] == counted["tokens"] == 2 * report["data"]["train"]["tokens"]


def test_a_resumed_run_has_seen_what_the_uninterrupted_one_has(run_recipe, tmp_path):
    base = save_base(tmp_path / "base", "bpe")
    rows = write(tmp_path / "rows.jsonl", questions(lambda n: 1 + n)(0, 13))
    settings = (f"model.path={base}", f"data.train={rows}", "train.num_train_epochs=2", *QUICK, *PLAIN, *SAVED)
    whole = run_recipe("sft", *settings)["train"]
    folder = tmp_path / "run"
    first, *_ = sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    (folder / "report.json").unlink()
    again = f"train.resume_from_checkpoint={first}"
    resumed = run_recipe("sft", *settings, again)["train"]
    assert resumed["seen"] == whole["seen"]
    assert resumed["epochs"] == whole["epochs"] == 2
