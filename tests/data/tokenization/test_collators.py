"""Batches: the same loss however rows are put together, and flash attention's layout as TRL makes it."""

from __future__ import annotations

import pytest
import torch
from datasets import Dataset, List, Value
from hypothesis import given
from hypothesis import strategies as st
from models.scratch_models import tiny_model
from torch.nn.functional import cross_entropy
from transformers import LlamaConfig, LlamaForCausalLM
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from hf_finetune.data.tokenization.collators import RowCollator, TextCollator, pop_row_index, take_examples, take_row
from hf_finetune.data.tokenization.documents import BlockCollator
from hf_finetune.data.tokenization.packing import pack_bfd

PAD = 0
BLOCK = 24
PLAIN = RowCollator(PAD)
FLAT = RowCollator(PAD, flatten=True)
# Flex attention runs uncompiled here, and says so; transformers 5.23 and torch 2.13 use retired calls on the way to it.
ignore_flex_warning = pytest.mark.filterwarnings(
    "ignore:flex_attention called without torch.compile",
    "ignore:_compile flag on create_block_mask:DeprecationWarning",
    "ignore:.torch.jit.script_method. is deprecated:DeprecationWarning",
)
TOKENS = st.lists(st.integers(3, 60), min_size=2, max_size=BLOCK)


@pytest.fixture(autouse=True)
def nothing_is_compiled():
    """Compiling flex attention and its masks takes a CPU ten seconds a shape; uncompiled they compute the same."""
    with torch.compiler.set_stance("force_eager"):
        yield


def example(ids, trained_from=1):
    return {"input_ids": ids, "labels": [-100] * trained_from + ids[trained_from:]}


def examples(count=9, seed=0):
    """Examples of 2 to 16 distinct-enough tokens, the first third of each a prompt."""
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for length in torch.randint(2, 17, (count,), generator=generator).tolist():
        ids = torch.randint(3, 61, (length,), generator=generator).tolist()
        rows.append(example(ids, trained_from=max(1, length // 3)))
    return rows


def llama(attention):
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "max_position_embeddings": 32}
    config = LlamaConfig(vocab_size=61, num_attention_heads=4, num_key_value_heads=2, **sizes)
    return LlamaForCausalLM._from_config(config, attn_implementation=attention).eval()


MODELS = {"ScratchGPT": lambda attention: tiny_model(attention=attention), "Llama": llama}
every_model = pytest.mark.parametrize("make_model", MODELS.values(), ids=MODELS)


def loss_of(model, batch):
    """Sum over trained tokens, by the definition of a shifted cross entropy."""
    inputs, _ = pop_row_index(batch)
    labels = inputs.pop("labels")
    logits = model(**inputs, use_cache=False).logits
    return cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100, reduction="sum")


def one_by_one(model, rows):
    """The definition of the loss: every row alone, no mask and no collator."""
    losses = []
    for row in rows:
        ids, labels = torch.tensor([row["input_ids"]]), torch.tensor(row["labels"])
        logits = model(ids, use_cache=False).logits[0, :-1]
        losses.append(cross_entropy(logits, labels[1:], ignore_index=-100, reduction="sum"))
    return torch.stack(losses)


@ignore_flex_warning
@torch.no_grad()  # flex attention has no backward pass on a CPU
@every_model
@pytest.mark.parametrize("attention", ["eager", "sdpa", "flex_attention"])
def test_a_row_has_the_same_loss_alone_padded_packed_and_flat(make_model, attention):
    model, rows = make_model(attention), examples()
    packed = pack_bfd(Dataset.from_list(rows), BLOCK)[0].to_list()
    assert len(packed) < len(rows)
    expected = one_by_one(model, rows).sum()
    for batch in (
        PLAIN(rows),
        PLAIN(packed),
        FLAT(packed),
        FLAT(rows),
        RowCollator(PAD, pad_to_multiple_of=16)(packed),
    ):
        torch.testing.assert_close(loss_of(model, batch), expected, rtol=1e-5, atol=0)


@torch.no_grad()
@every_model
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_each_document_of_a_packed_row_has_the_loss_it_has_alone(make_model, attention):
    model, rows = make_model(attention), examples(5)
    row = {name: [token for each in rows for token in each[name]] for name in ("input_ids", "labels")}
    batch = PLAIN([{**row, "seq_lengths": [len(each["input_ids"]) for each in rows]}])
    for number, alone in enumerate(one_by_one(model, rows)):
        start = sum(len(each["input_ids"]) for each in rows[:number])
        stop = start + len(rows[number]["input_ids"])
        labels = torch.full_like(batch["labels"], -100)
        labels[0, start + 1 : stop] = batch["labels"][0, start + 1 : stop]
        torch.testing.assert_close(loss_of(model, batch | {"labels": labels}), alone, rtol=1e-5, atol=1e-6)


@every_model
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_packed_padded_and_flat_rows_give_the_same_gradients(make_model, attention):
    model, rows = make_model(attention), examples()
    packed = pack_bfd(Dataset.from_list(rows), BLOCK)[0].to_list()
    gradients = []
    for batch in (PLAIN(rows), PLAIN(packed), FLAT(packed)):
        loss_of(model, batch).backward()
        gradients.append(torch.cat([weight.grad.flatten() for weight in model.parameters()]))
        model.zero_grad()
    for other in gradients[1:]:
        assert (other - gradients[0]).norm() <= 1e-5 * gradients[0].norm()


@pytest.mark.parametrize("multiple", [1, 8])
@given(rows=st.lists(TOKENS, min_size=1, max_size=6))
def test_the_flat_layout_is_that_of_trl(multiple, rows):
    rows = [example(ids) for ids in rows]
    theirs = DataCollatorForLanguageModeling(PAD, padding_free=True, pad_to_multiple_of=multiple)
    packed = pack_bfd(Dataset.from_list(rows), BLOCK)[0].to_list()
    for given_rows in (rows, packed):
        ours, expected = RowCollator(PAD, True, multiple)(given_rows), theirs(given_rows)
        ours, row_index = pop_row_index(ours)
        # Each token of their padding is a document of its own to TRL; ours is one, and neither is trained.
        real = sum(len(row["input_ids"]) for row in given_rows)
        padding = ours["input_ids"].shape[1] - real
        assert ours.keys() == expected.keys()
        assert row_index.shape == ours["input_ids"].shape
        for name in ("input_ids", "labels"):
            assert torch.equal(ours[name], expected[name])
        for name in ("position_ids", "seq_idx"):
            assert torch.equal(ours[name][:, :real], expected[name][:, :real])
        for name in ("cu_seq_lens_q", "cu_seq_lens_k"):
            documents = len(expected[name]) - padding
            assert torch.equal(ours[name][:documents], expected[name][:documents])
            assert ours[name].dtype == expected[name].dtype
        longest = max(expected["max_length_q"], padding)
        assert ours["max_length_q"] == ours["max_length_k"] == longest


@given(st.lists(TOKENS, min_size=1, max_size=6))
def test_plain_rows_are_padded_as_trl_pads_them(rows):
    rows = [{**example(ids), "length": len(ids)} for ids in rows]
    ours = PLAIN(rows)
    expected = DataCollatorForLanguageModeling(PAD)(rows)
    assert ours.keys() == expected.keys()
    assert all(torch.equal(ours[name], expected[name]) for name in ours)


def test_packed_rows_have_positions_that_restart_at_documents_and_at_the_padding_and_no_mask():
    packed = [
        {"input_ids": [5, 6, 7, 8, 9], "labels": [-100, 6, 7, -100, 9], "seq_lengths": [3, 2]},
        {"input_ids": [4, 3], "labels": [-100, 3], "seq_lengths": [2]},
    ]
    batch = PLAIN(packed)
    assert batch.keys() == {"input_ids", "labels", "position_ids"}
    assert batch["position_ids"].tolist() == [[0, 1, 2, 0, 1], [0, 1, 0, 1, 2]]
    assert batch["labels"].tolist() == [[-100, 6, 7, -100, 9], [-100, 3, -100, -100, -100]]


@pytest.mark.parametrize("flatten", [False, True])
def test_nothing_is_trained_to_be_the_first_token_of_a_row(flatten):
    rows = [{"input_ids": [5, 6], "labels": [5, 6]}, {"input_ids": [7, 8, 9], "labels": [7, 8, 9]}]
    labels = RowCollator(PAD, flatten=flatten)(rows)["labels"]
    assert sorted(labels[labels != -100].tolist()) == [6, 8, 9]


def test_the_row_of_each_token_is_known_in_either_layout():
    rows = [example([5, 6, 7]), example([8, 9])]
    assert pop_row_index(PLAIN(rows))[1].tolist() == [[0, 0, 0], [1, 1, 1]]
    flat, row_index = pop_row_index(FLAT(rows))
    assert row_index.tolist() == [[0, 0, 0, 1, 1]]
    assert "row_index" not in flat
    padded, row_index = pop_row_index(RowCollator(PAD, True, 4)(rows))
    assert row_index.tolist() == [[0, 0, 0, 1, 1, 1, 1, 1]]
    assert (padded["labels"][0, 5:] == -100).all()


TEXT_ROWS = st.lists(st.lists(st.integers(1, 60), min_size=1, max_size=9), min_size=1, max_size=6)


@given(texts=TEXT_ROWS, wider=st.none() | st.integers(9, 12), typed=st.booleans())
def test_texts_of_a_batch_come_back_out_of_their_mask_and_nothing_else_does(texts, wider, typed):
    rows = [{"input_ids": ids, "labels": number, "length": len(ids)} for number, ids in enumerate(texts)]
    if typed:
        rows = [row | {"token_type_ids": [1] * row["length"]} for row in rows]
    batch = TextCollator(PAD, wider)(rows)
    assert batch.keys() == {"input_ids", "attention_mask", "labels"} | ({"token_type_ids"} if typed else set())
    for number, ids in enumerate(texts):
        kept = batch["attention_mask"][number].bool()
        assert batch["input_ids"][number][kept].tolist() == ids
        assert set(batch["input_ids"][number][~kept].tolist()) <= {PAD}
        assert not typed or batch["token_type_ids"][number].tolist() == kept.int().tolist()
    assert batch["input_ids"].shape == (len(texts), wider or max(map(len, texts)))
    assert batch["labels"].tolist() == list(range(len(texts)))


@pytest.mark.parametrize(
    ("labels", "kind"),
    [([1, 0], torch.int64), ([0.5, -100.0], torch.float32), ([[0.0, 1.0], [1.0, 1.0]], torch.float32)],
)
def test_labels_keep_their_shape_and_type(labels, kind):
    rows = Dataset.from_dict({"input_ids": [[1], [2, 3]], "labels": labels})
    if kind == torch.float32:
        rows = rows.cast_column("labels", List(Value("float32")) if isinstance(labels[0], list) else Value("float32"))
    found = TextCollator(PAD)([rows[0], rows[1]])["labels"]
    assert found.tolist() == labels
    assert found.is_floating_point() == kind.is_floating_point


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("flatten", [False, True])
def test_a_row_that_is_taken_out_of_a_batch_is_the_row_collated_alone(packed, flatten):
    rows = [{"input_ids": list(range(1, size + 1)), "labels": list(range(size))} for size in (5, 9, 2)]
    for row in rows if packed else []:
        row["seq_lengths"] = [1, len(row["input_ids"]) - 1]
    collate = RowCollator(0, flatten=flatten)
    batch = collate(rows)
    for number, row in enumerate(rows):
        taken, alone = take_row(batch, number, len(rows)), collate([row])
        assert taken.keys() == alone.keys()
        width = len(row["input_ids"])
        for name, values in alone.items():
            found = taken[name] if "cu_seq" in name or "max_" in name else taken[name][:, :width]  # padded as it was
            assert torch.equal(torch.as_tensor(found), torch.as_tensor(values)), name


@pytest.mark.parametrize("flatten", [False, True])
def test_an_example_that_is_taken_out_of_a_packed_row_is_the_example_packed_alone(flatten):
    lengths = [3, 1, 4]
    row = {"input_ids": list(range(1, 9)), "labels": list(range(8)), "seq_lengths": lengths}
    row["labels"] = [-100 if place in (0, 3, 4) else label for place, label in enumerate(row["labels"])]
    longer = {"input_ids": [9] * 10, "labels": [9] * 10, "seq_lengths": [10]}
    collate = RowCollator(PAD, flatten=flatten)
    examples = take_examples(take_row(collate([longer, row]), 1, 2))
    assert len(examples) == len(lengths) + (not flatten)  # what it was padded with comes last
    start = 0
    for taken, length in zip(examples, lengths, strict=False):
        part = slice(start, start + length)
        alone = collate([{"input_ids": row["input_ids"][part], "labels": row["labels"][part], "seq_lengths": [length]}])
        assert taken.keys() == alone.keys()
        assert all(torch.equal(torch.as_tensor(taken[name]), torch.as_tensor(alone[name])) for name in alone)
        start += length


def test_a_block_that_is_taken_out_keeps_the_bounds_of_its_documents():
    blocks = [{"input_ids": [1, 2, 3, 4], "labels": [1, 2, 3, 4], "position_ids": positions} for positions in POSITIONS]
    collate = BlockCollator(bounds=True)
    batch = collate(blocks)
    for number, block in enumerate(blocks):
        taken, alone = take_row(batch, number, len(blocks)), collate([block])
        assert taken.keys() == alone.keys()
        assert all(torch.equal(torch.as_tensor(taken[name]), torch.as_tensor(alone[name])) for name in alone)


POSITIONS = ([0, 1, 2, 0], [0, 1, 0, 1])
