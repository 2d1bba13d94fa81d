"""What a view shows is what the trainer is given: compared with the data sets that the recipes make."""

from __future__ import annotations

import gzip
import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hf_finetune.chat.template import load_chat_template
from hf_finetune.config.sections import DataSection, ModelSection, Run
from hf_finetune.data.labels.freeze import freeze_labels
from hf_finetune.data.splitting.splits import load_splits
from hf_finetune.data.tokenization.conversations import pack_examples, tokenize_conversations
from hf_finetune.data.tokenization.documents import pack_splits
from hf_finetune.data.tokenization.labelled import tokenize_labelled
from hf_finetune.errors import DataError
from hf_finetune.models.tokenizer_training import train_tokenizer
from hf_finetune.preflight.token_view.rows import check_line, find_row, view_rows
from hf_finetune.preflight.token_view.settings import TokenSettings

LETTERS = "".join(map(chr, range(32, 127))) + "\n"
RECIPES = {"document": "continued_pretraining", "conversation": "sft", "labelled": "classification"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("rows")


def set_up(folder, kind, rows, limit, tokenizer=None, packing=False, more=(), **data):
    """Rows in a file, and what a run makes tokens of them with."""
    files = {}
    for name, some in (("train", rows), ("validation", more)):
        if some:
            files[name] = str(folder / f"{name}.jsonl")
            (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in some), encoding="utf-8")
    section = DataSection(**files, **{"max_dropped": 1.0} | data)
    splits = load_splits(section, kind, seed=0)
    tokenizer = tokenizer or train_tokenizer("char", [LETTERS])
    template = load_chat_template(section, tokenizer) if kind == "conversation" else ""
    run = Run(
        recipe=RECIPES[kind], model=ModelSection(path="x"), data=section, train={"packing": packing}, output_dir="out"
    )
    return splits, TokenSettings(run, tokenizer, limit, None, template)


def without_first(labels):
    """Nothing predicts the first token: collators set its label to -100."""
    return [-100, *labels[1:]]


def show(view):
    """A view as a line: trained tokens in brackets, what is cut in braces."""
    marks = {"cut": "{%s}", "border": "|"}
    written = [
        marks.get(each.kind, "[%s]" if each.trained else "%s") % ((each.text,) if each.kind != "border" else ())
        for each in view.spans
        if each.kind != "padding"
    ]
    return "".join(written).replace("][", "").replace("}{", "")


turn = st.text("ab?.", min_size=1, max_size=12).filter(str.strip)
chats = st.lists(
    st.lists(st.tuples(turn, turn, st.booleans()), min_size=1, max_size=3), min_size=1, max_size=5, unique_by=str
)


def conversation(turns):
    return {
        "messages": [
            message
            for asked, said, trained in turns
            for message in (
                {"role": "user", "content": asked},
                {"role": "assistant", "content": said, **({} if trained or turns[-1][1] == said else {"train": False})},
            )
        ]
    }


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    chats=chats,
    limit=st.sampled_from([32, 50, 300]),
    too_long=st.sampled_from(["drop", "cut", "split"]),
    loss_on=st.sampled_from(["assistant", "last", "all"]),
    packing=st.booleans(),
)
def test_views_of_conversations_are_the_examples_of_the_trainer(folder, chats, limit, too_long, loss_on, packing):
    short = [("a", "b", True)]  # which is always trained
    rows = [conversation(chat) for chat in [short, *(chat for chat in chats if chat != short)]]
    how = {"too_long": too_long, "loss_on": loss_on}
    splits, made = set_up(folder, "conversation", rows, limit, packing=packing, **how)
    examples, facts = tokenize_conversations(splits, made.tokenizer, made.template, made.data, limit)
    wanted = list(pack_examples(examples, facts, limit, packing=packing)[0]["train"])
    views = view_rows(splits, "train", made, range(len(rows)))
    kept = [view for view in views if view.input_ids]
    if packing:  # a row in many blocks is shown by the first of them
        shown = {view.title for view in views}
        wanted = [block for number, block in enumerate(wanted) if f"block {number + 1} of {len(wanted)}" in shown]
        assert {view.count_tokens()["tokens"] + view.count_tokens()["padding"] for view in kept} == {limit}
    assert [view.input_ids for view in kept] == [each["input_ids"] for each in wanted]
    assert [view.labels for view in kept] == [without_first(each["labels"]) for each in wanted]
    if not packing:
        counts = [view.count_tokens() for view in views]
        whole, _ = tokenize_conversations(splits, made.tokenizer, made.template, made.data, 10_000)
        assert sum(each["trained"] for each in counts) == facts["train"].trained_tokens
        assert sum(each["tokens"] + each["cut"] for each in counts) == sum(whole["train"]["length"])


TWO = [("a?", "b.", True), ("c?", "d.", True)]


def test_a_row_is_shown_as_it_is_trained(folder):
    splits, made = set_up(folder, "conversation", [conversation(TWO)], 1_000)
    [view] = view_rows(splits, "train", made, [0])
    assert show(view) == (
        "<|bos|>User:\na?<|eos|>\nAssistant:\n[b.<|eos|>]\nUser:\nc?<|eos|>\nAssistant:\n[d.<|eos|>]\n"
    )
    assert [each.text for each in view.spans if each.kind == "control"] == ["<|bos|>"] + ["<|eos|>"] * 4
    assert (view.title, view.notes) == (str(folder / "train.jsonl") + ":1", ())


@pytest.mark.parametrize(
    ("too_long", "expected", "note"),
    [
        ("cut", ["<|bos|>User:\na?<|eos|>\nAssistant:\n[b]{.<|eos|>\n}"], "of 31 tokens; train.max_length is 28"),
        ("drop", ["{<|bos|>User:\na?<|eos|>\nAssistant:\nb.<|eos|>\n}"], "left out: 31 tokens, and train.max_length"),
        ("split", ["<|bos|>User:\na?<|eos|>\nAssistant:\n[b]", ".[<|eos|>]\n"], "of 31 tokens"),
    ],
)
def test_what_is_too_long_is_shown_with_what_it_loses(folder, too_long, expected, note):
    rows = [conversation([("a?", "b.", True)])]
    splits, made = set_up(folder, "conversation", rows, 1_000, too_long=too_long)
    [whole] = view_rows(splits, "train", made, [0])
    size = len(whole.input_ids)
    splits, made = set_up(folder, "conversation", rows, size - 3, too_long=too_long)
    views = view_rows(splits, "train", made, [0])
    assert [show(view) for view in views] == expected
    assert all(note.replace("31", str(size)).replace("28", str(size - 3)) in view.notes[0] for view in views)


def test_text_that_spells_a_control_token_is_shown_as_text(folder):
    splits, made = set_up(folder, "conversation", [conversation([("say <|eos|>", "<|bos|>", True)])], 1_000)
    [view] = view_rows(splits, "train", made, [0])
    spelled = [each for each in view.spans if each.kind == "control"]
    assert [each.text for each in spelled] == ["<|bos|>", "<|eos|>", "<|eos|>"]
    assert "[<|bos|><|eos|>]" in show(view)
    assert sum(each.trained for each in view.spans) == len("<|bos|>") + 1


def test_prompts_and_completions_are_shown_without_a_template(folder):
    splits, made = set_up(folder, "conversation", [{"prompt": "1+1=", "completion": "2"}], 100)
    [view] = view_rows(splits, "train", made, [0])
    assert show(view) == "<|bos|>1+1=[2<|eos|>]"


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    texts=st.lists(st.text("abc ", min_size=1, max_size=30).filter(str.strip), min_size=1, max_size=6, unique=True),
    limit=st.integers(2, 17),
    isolate=st.booleans(),
)
def test_views_of_documents_are_the_blocks_and_windows_of_the_trainer(folder, texts, limit, isolate):
    rows, more = [{"text": text} for text in texts], [{"text": "d" + text} for text in texts]
    splits, made = set_up(folder, "document", rows, limit, more=more, isolate_documents=isolate)
    tokens, _ = pack_splits(splits.rows, made.tokenizer, limit, isolate=isolate)
    for split in ("train", "validation"):
        views = view_rows(splits, split, made, range(len(texts)))
        wanted = (
            {f"block {number + 1} of {len(tokens[split])}": each for number, each in enumerate(tokens[split])}
            if split == "train"
            else dict(enumerate(tokens[split]))
        )
        if split == "validation":
            views_by = {int(view.title.rsplit("window ", 1)[1].split()[0]) - 1: view for view in views}
        else:
            views_by = {view.title: view for view in views}
        assert set(views_by) <= set(wanted)
        assert len(views_by) == len(views) > 0
        for name, view in views_by.items():
            assert view.input_ids == wanted[name]["input_ids"]
            assert view.labels == wanted[name]["labels"]
            if split == "train":
                borders = [each.text for each in view.spans if each.kind == "border"]
                places = [splits.locate("train", row)[1] for row in wanted[name]["rows"]]
                assert [int(each.split(":")[-1].split(",")[0]) for each in borders] == places


def test_blocks_have_their_borders_and_say_which_document_goes_on(folder):
    splits, made = set_up(folder, "document", [{"text": "abcdef"}, {"text": "gh"}], 5)
    views = view_rows(splits, "train", made, [0, 1])
    assert [show(view) for view in views] == ["|<|bos|>[abcd]", "|d[ef<|eos|>]|[<|bos|>]", "|<|bos|>[gh<|eos|>]"]
    borders = [[each.text.split(":")[-1] for each in view.spans if each.kind == "border"] for view in views]
    assert borders == [["1"], ["1, goes on", "2"], ["2"]]
    assert [view.count_tokens()["padding"] for view in views] == [0, 0, 1]


def test_a_long_document_is_shown_by_its_first_blocks(folder):
    splits, made = set_up(folder, "document", [{"text": "abcdefgh" * 5}], 5)
    views = view_rows(splits, "train", made, [0])
    assert len(views) == 3
    assert views[0].notes == ("a row goes on in 11 blocks; the first 3 are shown",)


labelled_texts = st.lists(
    st.tuples(st.text("ab ", min_size=1, max_size=20).filter(str.strip), st.text("ab", max_size=9)),
    min_size=2, max_size=5, unique_by=lambda each: each[0],
)  # fmt: skip


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    texts=labelled_texts,
    limit=st.sampled_from([None, 5, 12]),
    longest=st.booleans(),
)
def test_views_of_labelled_texts_are_the_rows_of_the_trainer(folder, texts, limit, longest):
    rows = [
        {"text": text, **({"text_pair": pair} if pair else {}), "label": "xy"[number % 2]}
        for number, (text, pair) in enumerate([*texts, ("aab", ""), ("bba", "")])
    ]
    how = {"max_length": "longest_train"} if longest else {}
    held_out = [{"text": "ba" * 12, "label": "x"}]
    splits, made = set_up(folder, "labelled", rows, limit, more=held_out, **how)
    wanted, facts = tokenize_labelled(splits, made.tokenizer, freeze_labels(splits, made.data), made.data, limit)
    splits, made = set_up(folder, "labelled", rows, limit, more=held_out, **how)
    for split in ("train", "validation"):
        views = view_rows(splits, split, made, range(len(wanted[split])))
        assert [view.input_ids for view in views] == wanted[split]["input_ids"]
        assert sum("cut at" in " ".join(view.notes) for view in views) == facts[split].truncated
        for view, row in zip(views, splits.rows[split], strict=True):
            said = "".join(each.text for each in view.spans if each.kind in ("context", "cut"))
            assert said == row["text"] + (row["text_pair"] or "")
            assert view.notes[0] == f"label: {row['label']}, learned from all tokens"
            padding = facts["train"].longest - len(view.input_ids) if longest else 0
            assert view.count_tokens()["padding"] == padding


def test_a_row_is_found_by_its_file_and_line(folder):
    rows = [conversation(TWO), conversation([("e?", "f.", True)])]
    splits, _ = set_up(folder, "conversation", rows, 100)
    assert find_row(splits, str(folder / "train.jsonl"), 2) == ("train", 1)
    assert find_row(splits, str(folder / "." / "train.jsonl"), 1) == ("train", 0)
    with pytest.raises(DataError, match="is no file of this run; its files are"):
        find_row(splits, "other.jsonl", 1)
    with pytest.raises(DataError, match=r"train\.jsonl:3: the file has 2 lines; name one of them"):
        find_row(splits, str(folder / "train.jsonl"), 3)


@pytest.mark.parametrize("ending", ["", "\n"])
def test_a_line_behind_the_end_is_known_before_any_row_is_read(folder, monkeypatch, ending):
    monkeypatch.chdir(folder)
    (folder / "a.jsonl").write_text("no row\n" * 2 + f"no row{ending}")
    (folder / "b.jsonl.gz").write_bytes(gzip.compress(b"no row\n"))
    data = DataSection(train=["a.jsonl", "b.jsonl.gz"])
    check_line(data, "a.jsonl", 3)
    check_line(data, "./b.jsonl.gz", 1)
    for path, line, lines in (("a.jsonl", 4, "3 lines"), ("b.jsonl.gz", 2, "1 line")):
        with pytest.raises(DataError, match=rf"{path}:{line}: the file has {lines}; name one of them \[HF094\]"):
            check_line(data, path, line)
    with pytest.raises(DataError, match=r"c\.jsonl: is no file of this run; its files are a\.jsonl, b\.jsonl\.gz"):
        check_line(data, "c.jsonl", 1)
