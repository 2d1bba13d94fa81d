"""A step that is not finite, in runs of the recipes: its rows by file and line, and what becomes of the run."""

from __future__ import annotations

import json
import math
import time
from types import SimpleNamespace

import pytest
import torch
from evaluation.scoring.test_run_and_score_agree import PLAIN, save_base, write
from models.scratch_models import tiny_model
from training.trainers.sft_runs import trainer_of, uneven_rows
from tuned_classifiers import saved_backbone

from hf_finetune.errors import ConfigError, ModelError, NonFiniteError
from hf_finetune.training.callbacks.guard import TrainingGuard
from hf_finetune.training.callbacks.loss_watch import STEPS_WITHOUT_GRADIENT, WINDOW, LossWatch
from hf_finetune.training.callbacks.offenders import MicroBatch, as_before
from hf_finetune.training.checkpoints import writer
from hf_finetune.training.trainers import base, sft

QUICK = ("train.bf16=false", "eval.prompts=[]", "train.eval_strategy=no", "train.logging_steps=1", "train.max_steps=-1")
WORDS = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve", "thirteen"]


@pytest.fixture
def poison(monkeypatch):
    """`poison("zebra")`: the loss of a batch in which that is written is NaN."""

    def put(word: str) -> None:
        for trainer in (base.TrainerMixin, sft.SFTTrainer):
            compute = trainer.compute_loss

            def compute_loss(self, model, inputs, *args, compute=compute, **kwargs):
                said = "\n".join(self.processing_class.batch_decode(inputs["input_ids"]))
                loss = compute(self, model, inputs, *args, **kwargs)
                return loss * math.nan if word in said and model.training else loss

            monkeypatch.setattr(trainer, "compute_loss", compute_loss)

    return put


def places(folder) -> list[list[int]]:
    """The lines of each step in nonfinite.json."""
    return [[row["line"] for row in step["rows"]] for step in json.loads((folder / "nonfinite.json").read_text())]


def test_a_row_of_a_packed_block_is_named_by_its_line_and_no_other_of_its_block(run_recipe, tmp_path, poison):
    base = save_base(tmp_path / "base", "bpe")
    rows = [{"instruction": f"say {word}", "response": word} for word in WORDS]
    rows[4]["response"] = "zebra"
    data = write(tmp_path / "rows.jsonl", [*rows, rows[4]])  # a row that is seen again, at the end
    poison("zebra")
    settings = (f"model.path={base}", f"data.train={data}", "train.packing=true", "train.max_length=64", *QUICK, *PLAIN)
    with pytest.raises(NonFiniteError) as stopped:
        run_recipe("sft", *settings, "train.per_device_train_batch_size=8", "data.validation_fraction=null")
    (lines,) = places(tmp_path / "run")
    assert lines in ([5], [5, 14])
    assert f"{data}:{lines[0]}: the loss of this row is not finite" in str(stopped.value)


def test_the_documents_of_a_block_are_named_and_blank_ones_are_not(run_recipe, tmp_path, poison):
    base = save_base(tmp_path / "base", "bpe")
    texts = [f"{word} " * 12 for word in WORDS]
    texts[5] = " "
    texts[6] = "zebra " * 12
    data = write(tmp_path / "rows.jsonl", [{"text": text} for text in texts])
    poison("zebra zebra")
    named = ("model.scratch=null", "model.tokenizer=null", f"model.path={base}", "data.block_size=32")
    settings = (f"data.train={data}", "train.per_device_train_batch_size=4", "data.validation_fraction=null")
    with pytest.raises(NonFiniteError):
        run_recipe("continued_pretraining", *named, *settings, *QUICK, *PLAIN)
    (lines,) = places(tmp_path / "run")
    assert 7 in lines
    assert set(lines) <= {5, 7, 8}


def test_steps_are_left_out_and_counted_and_the_run_goes_on(run_recipe, tmp_path, poison, capsys):
    rows = [{"text": f"a cat {word}", "label": "ab"[n % 2]} for n, word in enumerate(WORDS)]
    rows[7]["text"] = "a cat zebra"
    data = write(tmp_path / "texts.jsonl", rows)
    backbone = saved_backbone(tmp_path / "backbone", "bert")
    poison("zebra")
    settings = (f"model.path={backbone}", f"data.train={data}", "train.num_train_epochs=3", "data.stratify_by=null")
    settings += ("data.validation_fraction=null", "data.test_fraction=null", "train.per_device_train_batch_size=4")
    skip = "train.on_nonfinite=skip"
    train = run_recipe("spam", *settings, *QUICK, *PLAIN, skip)["train"]
    assert train["skipped_steps"] == 3
    assert places(tmp_path / "run") == [[8]] * 3
    assert math.isfinite(train["loss"])
    losses = [entry["loss"] for entry in train["history"] if "loss" in entry]
    assert len(losses) == train["steps"] - 3
    assert train["loss"] == pytest.approx(sum(losses) / len(losses))
    assert "is left out: the loss is not finite (1 of at most 10)" in capsys.readouterr().err
    with pytest.raises(NonFiniteError, match=r"1 steps were left out already, as train\.max_nonfinite_skips allows"):
        run_recipe("spam", *settings, *QUICK, *PLAIN, skip, "train.max_nonfinite_skips=1", f"output_dir={tmp_path}/2")
    with pytest.raises(ConfigError, match=r"max_nonfinite_skips: has no effect without train\.on_nonfinite: skip"):
        run_recipe("spam", *settings, *QUICK, *PLAIN, "train.max_nonfinite_skips=1")


def test_weights_that_are_not_finite_are_not_saved(run_recipe, tmp_path, monkeypatch):
    """One that the next forward pass does not read: an embedding of a token that is in no row."""
    backbone = saved_backbone(tmp_path / "backbone", "bert")
    rows = [{"text": f"a cat {word}", "label": "ab"[n % 2]} for n, word in enumerate(WORDS)]
    data = write(tmp_path / "texts.jsonl", rows)
    step = base.TrainerMixin.training_step

    def training_step(self, model, *args, **kwargs):
        loss = step(self, model, *args, **kwargs)
        with torch.no_grad():
            self.model.get_input_embeddings().weight[-1] = math.inf
        return loss

    monkeypatch.setattr(base.TrainerMixin, "training_step", training_step)
    settings = (f"model.path={backbone}", f"data.train={data}", "data.stratify_by=null", "train.save_strategy=steps")
    settings += ("data.validation_fraction=null", "data.test_fraction=null", "train.save_steps=1", "train.max_steps=2")
    with pytest.raises(NonFiniteError, match=r"after step 1 weights are not finite \(.*embed.*\): they are not saved"):
        run_recipe("spam", *settings, *(each for each in QUICK if "max_steps" not in each), *PLAIN)
    assert not list((tmp_path / "run").glob("checkpoint-*"))


def watched(losses, norm=1.0, rate=1.0, **settings) -> LossWatch:
    watch = LossWatch()
    for loss in losses:
        watch.look(loss, norm, rate, kept=lambda: "nothing", **settings)
    return watch


def test_a_run_without_a_gradient_from_its_first_step_is_stopped(caplog):
    with pytest.raises(ModelError, match="the gradient was exactly 0 in each of the first 6 steps"):
        watched([1.0] * STEPS_WITHOUT_GRADIENT, norm=0.0)
    watch = watched([1.0] * 3)  # one that has had one is not: it may know its rows by heart
    for _ in range(9):
        watch.look(1e-9, 0.0, 1.0, kept=str)
    assert caplog.messages == ["the gradient is exactly 0 for 3 steps: no weight learns anything any more"]


def test_losses_and_rates_of_zero_are_said_once(caplog):
    watched([0.0] * 9, rate=0.0)
    assert [message.split(":")[0] for message in caplog.messages] == [
        "the loss is exactly 0 for 3 steps",
        "the learning rate is 0 for 3 steps",
    ]
    caplog.clear()
    watched([1.0, 0.0] * 9, rate=None)
    assert not caplog.messages


def test_a_loss_that_explodes_stops_the_run_and_a_spike_does_not():
    calm = [2.5] * WINDOW
    with pytest.raises(NonFiniteError, match=r"the loss explodes: 11 in the last 20 steps, 2\.5 in the first"):
        watched([*calm, *calm, *[11.0] * WINDOW])
    watched([*calm, *[2.5, 900.0] * 3 * WINDOW])  # every other step
    watched([*calm, *[10.4] * 3 * WINDOW])  # guessing, from good: nothing is lost that the last checkpoint has not
    watched([0.01] * WINDOW + [2.9] * 3 * WINDOW)


@pytest.mark.parametrize("first", [[6.24], [6.24, 6.24, 77.0, 154.0, 433.0], [6.24, 9.0, 15.0, 40.0], [0.69]])
def test_a_loss_that_explodes_in_the_first_steps_is_compared_with_those_before(first):
    with pytest.raises(NonFiniteError, match=r"the loss explodes: 600 in the last 20 steps, .*; nothing \[HF927\]$"):
        watched([*first, *[3362.0] * (WINDOW - len(first)), *[600.0] * WINDOW])
    watched([*first, 3362.0, *first, *[3362.0] * WINDOW * 2])  # comes back: no beginning is told from what follows
    watched([0.01, *[2.9] * 3 * WINDOW])  # one easy row
    watched([0.1, *[4.0, 900.0] * 3 * WINDOW])  # squares of numbers, a row a step: one that was guessed


def test_a_loss_that_is_again_what_it_began_with_after_a_jump_stops_the_run():
    with pytest.raises(
        NonFiniteError, match=r"rose to 1\.4e\+07, and has been 6\.238 for 20 steps, .*; nothing \[HF927\]$"
    ):
        watched([6.238, 14e6, *[6.238] * 2 * WINDOW])
    with pytest.raises(NonFiniteError, match="as it began"):
        watched([*[6.2] * WINDOW, *[4.0] * WINDOW, 500.0, *[6.2] * WINDOW])
    watched([6.2, 14e6, *[6.2, 5.9] * 2 * WINDOW])  # batches that it tells apart
    watched([6.2] * 3 * WINDOW)  # it has learned nothing, which is not this guard's to say


def test_gradients_that_overflow_under_every_scale_stop_the_run():
    watched([1.0] * 39, norm=math.inf, overflow=True)
    with pytest.raises(NonFiniteError, match="have overflowed for 40 steps"):
        watched([1.0] * 40, norm=math.inf, overflow=True)


def test_what_was_watched_goes_on_in_a_resumed_run():
    whole = watched([1.0] * 30, norm=0.5)
    saved = json.loads(json.dumps(watched([1.0] * 25, norm=0.5).save()))
    resumed = LossWatch(**saved)
    for _ in range(5):
        resumed.look(1.0, 0.5, 1.0, kept=str)
    assert resumed == whole


def test_looking_for_rows_leaves_no_trace_in_what_comes_after():
    model = torch.nn.Linear(3, 1)
    torch.manual_seed(4)
    expected = torch.rand(3)
    torch.manual_seed(4)
    with as_before(model):
        model(torch.rand(3)).backward()
    assert torch.rand(3).equal(expected)
    assert model.weight.grad is None


def test_a_checkpoint_that_is_being_written_counts_as_kept(tmp_path, monkeypatch):
    write_checkpoint = writer.write_checkpoint

    def write_slowly(*args):
        time.sleep(1.0)
        write_checkpoint(*args)

    monkeypatch.setattr(writer, "write_checkpoint", write_slowly)
    trainer = trainer_of(tiny_model(), tmp_path, uneven_rows(), save_strategy="steps", save_steps=1, max_steps=3)
    step = trainer.compute_loss

    def compute_loss(*args, **kwargs):
        return step(*args, **kwargs) * (math.nan if trainer.state.global_step else 1.0)

    monkeypatch.setattr(trainer, "compute_loss", compute_loss)
    with pytest.raises(NonFiniteError, match="the last checkpoint is kept"):
        trainer.train()


def test_where_the_engine_looks_for_a_loss_scale_an_overflow_is_no_value_that_is_not_finite():
    group = {"lr": 0.1}
    trainer = SimpleNamespace(
        accelerator=SimpleNamespace(scaler=None, num_processes=1, state=SimpleNamespace(deepspeed_plugin=object())),
        args=SimpleNamespace(fp16=True, get_warmup_steps=lambda _: 0),
        state=SimpleNamespace(max_steps=9, global_step=1),
        optimizer=SimpleNamespace(param_groups=[group]),
    )
    guard = TrainingGuard()
    guard.batches = [MicroBatch({}, None, torch.tensor(2.0), ((0,),))]
    assert guard.allows(trainer, math.inf)
    assert guard.watch.in_a_row["overflow"] == 1
