"""The loss of a classifier: what the formulas say, and the same however rows are put into batches."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from datasets import Dataset
from sklearn.metrics import log_loss
from torch import nn
from transformers import BertConfig, BertForSequenceClassification, TrainingArguments
from transformers.modeling_outputs import SequenceClassifierOutput

from hf_finetune.data.tokenization.collators import TextCollator
from hf_finetune.training.seen import COUNTS, BatchFacts, Seen
from hf_finetune.training.trainers.classification import ClassificationLoss, ClassificationTrainer
from hf_finetune.training.trainers.repeated_rows import leave_out_repeated

KINDS = ("single", "multi", "number")


def loss_of(loss, logits, labels, items=None):
    return loss(SequenceClassifierOutput(logits=logits), labels, num_items_in_batch=items).item()


def some(kind, count=7, seed=0):
    """Logits and labels of `count` rows and three labels."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(count, 1 if kind == "number" else 3, generator=generator)
    if kind == "single":
        return logits, torch.randint(3, (count,), generator=generator)
    if kind == "multi":
        return logits, torch.randint(2, (count, 3), generator=generator).float()
    return logits, torch.randn(count, generator=generator)


def test_one_label_costs_its_cross_entropy():
    logits, labels = some("single")
    expected = log_loss(labels, logits.double().softmax(-1).numpy(), labels=[0, 1, 2])
    assert loss_of(ClassificationLoss("single"), logits, labels) == pytest.approx(expected, rel=1e-6)


def test_several_labels_cost_the_mean_of_their_binary_cross_entropies():
    logits, labels = some("multi")
    of_each = [log_loss(labels[:, k], logits[:, k].double().sigmoid().numpy(), labels=[0, 1]) for k in range(3)]
    assert loss_of(ClassificationLoss("multi"), logits, labels) == pytest.approx(np.mean(of_each), rel=1e-6)


def test_a_number_costs_its_squared_error():
    logits, labels = some("number")
    expected = np.mean((logits[:, 0].numpy() - labels.numpy()) ** 2)
    assert loss_of(ClassificationLoss("number"), logits, labels) == pytest.approx(expected, rel=1e-6)


def test_a_weight_of_two_costs_as_much_as_the_row_twice():
    logits, labels = some("single")
    weights = np.array([1.0, 2.0, 1.0], np.float32)
    twice = torch.cat([torch.arange(7), torch.nonzero(labels == 1)[:, 0]])
    weighted = loss_of(ClassificationLoss("single", weights), logits, labels)
    assert weighted * 7 == pytest.approx(
        loss_of(ClassificationLoss("single"), logits[twice], labels[twice]) * len(twice)
    )


def test_pos_weight_weighs_what_has_the_label_alone():
    logits, labels = some("multi")
    weights = np.array([5.0, 1.0, 0.5], np.float32)
    expected = nn.BCEWithLogitsLoss(pos_weight=torch.as_tensor(weights))(logits, labels).item()
    assert loss_of(ClassificationLoss("multi", weights), logits, labels) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("kind", ["single", "multi"])
def test_focal_loss_is_the_paper_s_formula(kind):
    logits, labels = some(kind)
    if kind == "single":
        likely = logits.softmax(-1)[torch.arange(7), labels]
    else:
        likely = torch.where(labels == 1, logits.sigmoid(), 1 - logits.sigmoid())
    expected = (-((1 - likely) ** 2) * likely.log()).mean().item()
    assert loss_of(ClassificationLoss(kind, balance="focal"), logits, labels) == pytest.approx(expected, rel=1e-5)


def test_label_smoothing_is_that_of_pytorch():
    logits, labels = some("single")
    expected = nn.CrossEntropyLoss(label_smoothing=0.2)(logits, labels).item()
    assert loss_of(ClassificationLoss("single", label_smoothing=0.2), logits, labels) == pytest.approx(expected)


@pytest.mark.parametrize("kind", KINDS)
def test_parts_of_a_step_add_up_to_the_whole(kind):
    logits, labels = some(kind)
    weights = None if kind == "number" else np.array([0.5, 3.0, 1.0], np.float32)
    loss = ClassificationLoss(kind, weights, "none" if kind == "number" else "focal")
    whole = loss_of(loss, logits, labels)
    parts = [loss_of(loss, logits[part], labels[part], labels.numel()) for part in (slice(0, 2), slice(2, 7))]
    assert sum(parts) == pytest.approx(whole, rel=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("process", [0, 1])
def test_rows_that_two_processes_have_twice_cost_nothing(kind, process):
    """Of seven rows in batches of three the second step has one, and what comes after it has come before."""
    logits, labels = some(kind, count=3)
    counts = (Seen(1, 9, 9),) * 3
    batch = {"labels": labels, COUNTS: BatchFacts(counts, ((6,), (0,), (1,)))}
    state = SimpleNamespace(end_of_dataloader=True)
    processes = SimpleNamespace(num_processes=2, process_index=process, gradient_state=state)
    found = leave_out_repeated(batch, processes, rows=7)
    kept = 1 - process
    assert found[COUNTS] == BatchFacts(counts[:kept], (((6,), (), ()), ((), (), ()))[process])
    weights = None if kind == "number" else np.array([0.5, 3.0, 1.0], np.float32)
    loss = ClassificationLoss(kind, weights)
    expected = loss_of(loss, logits[:kept], labels[:kept], items=5)
    logits.requires_grad_()
    cost = loss(SequenceClassifierOutput(logits=logits), found["labels"], num_items_in_batch=5)
    assert cost.item() == pytest.approx(expected)
    cost.backward()
    assert logits.grad.any(dim=1).tolist() == [process == 0, False, False]


def train_one_step(folder, kind, batch, accumulation, rows):
    torch.manual_seed(0)
    sizes = {"vocab_size": 61, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    quiet = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    config = BertConfig(**sizes, **quiet, intermediate_size=32, num_labels=1 if kind == "number" else 3)
    model = BertForSequenceClassification(config)
    args = TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=batch,
        gradient_accumulation_steps=accumulation,
        max_steps=1,
        learning_rate=1e-2,
        optim="sgd",
        max_grad_norm=0.0,
        use_cpu=True,
        report_to="none",
        dataloader_pin_memory=False,
    )
    loss = ClassificationLoss(kind, None if kind == "number" else np.array([0.5, 3.0, 1.0], np.float32))
    with torch.no_grad():
        together = TextCollator(0)(list(rows))
        before = loss_of(loss, model(together["input_ids"], together["attention_mask"]).logits, together["labels"])
    trainer = ClassificationTrainer(
        model=model, args=args, train_dataset=rows, data_collator=TextCollator(0), compute_loss_func=loss
    )
    assert trainer.train().training_loss == pytest.approx(before, rel=1e-5)
    return torch.cat([weight.detach().flatten() for weight in model.parameters()])


@pytest.mark.parametrize("kind", KINDS)
def test_accumulated_batches_of_different_sizes_train_as_one_batch_does(tmp_path, kind):
    """Five rows in batches of two: the last has one row, which must not count for two."""
    _, labels = some(kind, count=5, seed=1)
    if kind == "number":
        labels[0] = -100.0  # a number like another, which transformers takes for "not trained"
    ids = [list(range(3, 3 + length)) for length in (2, 9, 4, 7, 5)]
    rows = Dataset.from_dict({"input_ids": ids, "labels": labels.tolist(), "length": [len(row) for row in ids]})
    whole = train_one_step(tmp_path, kind, 5, 1, rows)
    parts = train_one_step(tmp_path, kind, 2, 3, rows)
    assert torch.allclose(parts, whole, rtol=1e-5, atol=1e-7)
