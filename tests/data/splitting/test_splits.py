"""The data section of a run becomes splits that are checked, reproducible and kept apart."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import datasets
import pytest

import hf_finetune.data.reading.arrow as arrow
from hf_finetune.config.sections import DataSection
from hf_finetune.data.splitting.rejected_lines import keep_rejected_lines
from hf_finetune.data.splitting.splits import load_splits
from hf_finetune.errors import MAX_PROBLEMS_SHOWN, CannotWriteError, DataError


@pytest.fixture(autouse=True)
def working_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def write(name, rows):
    Path(name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return name


def texts(count, start=0, **more):
    return [{"text": f"row {number}"} | more for number in range(start, start + count)]


def load(becomes="document", seed=0, **settings):
    return load_splits(DataSection(**settings), becomes, seed)


def refused(becomes="document", **settings):
    with pytest.raises(DataError) as error:
        load(becomes, **settings)
    return str(error.value)


# What comes out


def test_three_files_become_three_splits():
    splits = load(
        train=write("train.jsonl", texts(5)),
        validation=write("validation.jsonl", texts(2, 10)),
        test=write("test.jsonl", texts(3, 20)),
    )
    assert {name: rows["text"][:] for name, rows in splits.rows.items()} == {
        "train": [f"row {n}" for n in range(5)],
        "validation": ["row 10", "row 11"],
        "test": ["row 20", "row 21", "row 22"],
    }
    assert splits.format == "text"


def test_facts_account_for_every_line_and_are_ready_for_json(tmp_path):
    content = b'{"text": "a"}\n\nnot json\n{"text": "b", "source": "x"}'
    Path("rows.jsonl").write_bytes(content)
    splits = load(train="rows.jsonl", on_bad_line="skip")
    facts = json.loads(json.dumps(splits.summarize()))
    assert facts["files"] == [
        {
            "role": "train",
            "path": "rows.jsonl",
            "weight": 1.0,
            "sha256": hashlib.sha256(content).hexdigest(),
            "bytes": len(content),
            "lines": 4,
            "accepted": 2,
            "rejected": 1,
            "blank": 1,
            "rows": 2,
            "rejected_lines": [[3, "not valid JSON: Expecting value (character 1)", "HF010"]],
            "notes": [],
        }
    ]
    assert facts["unused_keys"] == ["source"]
    assert facts["splits"]["train"]["rows"] == 2
    assert str(tmp_path) not in json.dumps(facts)


def test_lines_that_are_left_out_are_named_with_their_reasons_the_first_five(caplog):
    bad = [{"text": number} for number in range(6)]
    load(train=write("rows.jsonl", [*texts(2), *bad]), on_bad_line="skip")
    load(train=write("one.jsonl", [*texts(2), bad[0]]), on_bad_line="skip")
    many, one = (record.getMessage() for record in caplog.records if "left out" in record.getMessage())
    reason = "(`text` must be string, found int [HF026])"
    listed = ", ".join(f"{line} {reason}" for line in range(3, 8))
    assert many == f"rows.jsonl: 6 of 8 lines left out: {listed}, ..."
    assert one == f"one.jsonl: 1 of 3 lines left out: 3 {reason}"


def test_training_rows_that_occur_more_than_once_are_counted_and_the_first_are_named(caplog):
    caplog.set_level("INFO")
    rows = [{"text": text} for text in "abacabd"]
    load(train={"path": write("rows.jsonl", rows), "weight": 3.0})
    said = "train: 3 of 7 rows are there already: "
    said += "rows.jsonl:3 (as rows.jsonl:1), rows.jsonl:5 (as rows.jsonl:1), rows.jsonl:6 (as rows.jsonl:2)"
    assert said in caplog.text
    caplog.clear()
    load(train={"path": write("once.jsonl", rows[1:4]), "weight": 3.0})
    assert "there already" not in caplog.text


def test_facts_are_the_same_when_the_rows_come_from_the_cache():
    settings = {
        "train": write("rows.jsonl", [*texts(30, lang="de"), {"text": 1}]),
        "on_bad_line": "skip",
        "validation_fraction": 0.2,
    }
    first, second = load(**settings), load(**settings)
    assert first.summarize() == second.summarize()
    assert first.rows["train"].to_list() == second.rows["train"].to_list()


def test_the_membership_of_a_split_is_a_hash_per_row_that_the_writing_of_the_row_does_not_change():
    plain = load(train=write("a.jsonl", [{"text": "one"}, {"text": "two"}]))
    Path("b.jsonl").write_bytes(b'{"id": 1, "text":"t\\u0077o"}\r\n\n{"text" : "one"}')
    other = load(train="b.jsonl")
    assert plain.format_row_hashes("train") == other.format_row_hashes("train")[::-1]
    assert all(len(digest) == 16 for digest in plain.format_row_hashes("train"))
    ours, theirs = plain.summarize()["splits"]["train"], other.summarize()["splits"]["train"]
    assert ours["sha256"] == theirs["sha256"]
    assert ours["distinct"] == ours["rows"] == 2
    # Of the whole: the hash of a row, by which a text could be tried, stands nowhere.
    assert not [digest for digest in plain.format_row_hashes("train") if digest in json.dumps(plain.summarize())]


def test_rows_are_memory_mapped_from_the_datasets_cache(datasets_cache):
    rows = load(train=write("rows.jsonl", texts(3))).rows["train"]
    assert Path(rows.cache_files[0]["filename"]).parent == datasets_cache / "hf_finetune"


def test_several_files_and_compressed_ones_are_one_split():
    write("a.jsonl", texts(3))
    Path("b.jsonl.gz").write_bytes(gzip.compress(b'{"text": "packed"}\n'))
    splits = load(train=["a.jsonl", "b.jsonl.gz"])
    assert splits.rows["train"]["text"][:] == ["row 0", "row 1", "row 2", "packed"]
    assert [file.rows for file in splits.files] == [3, 1]


@pytest.mark.parametrize(("format_name", "rows"), [("lines", 3), ("paragraphs", 2), ("file", 1)])
def test_plain_text_becomes_documents(format_name, rows):
    Path("text.txt").write_text("a\nb\n\nc\n")
    splits = load(train="text.txt", format=format_name)
    assert len(splits.rows["train"]) == rows
    assert "\n".join(splits.rows["train"]["text"]).replace("\n", "") == "abc"


def test_several_text_files_are_one_document_each():
    for number in range(3):
        Path(f"{number}.txt").write_text(f"text {number}\n")
    assert load(train="*.txt", format="file").rows["train"]["text"][:] == ["text 0\n", "text 1\n", "text 2\n"]


# Fractions


def test_fractions_are_seeded_and_cover_every_row_once():
    settings = {"train": write("rows.jsonl", texts(200)), "validation_fraction": 0.1, "test_fraction": 0.25}
    splits = load(**settings)
    assert {name: len(rows) for name, rows in splits.rows.items()} == {"train": 130, "validation": 20, "test": 50}
    everything = [text for rows in splits.rows.values() for text in rows["text"]]
    assert sorted(everything) == sorted(f"row {n}" for n in range(200))
    again, other = load(**settings), load(seed=1, **settings)
    assert again.summarize() == splits.summarize()
    assert other.rows["validation"]["text"][:] != splits.rows["validation"]["text"][:]


def test_stratified_splits_keep_the_proportions_of_a_label():
    rows = [{"text": f"row {n}", "label": "rare" if n % 10 == 0 else "common"} for n in range(200)]
    splits = load(
        "labelled", train=write("rows.jsonl", rows), validation_fraction=0.1, test_fraction=0.2, stratify_by="label"
    )
    counts = {name: Counter(each["label"]) for name, each in splits.rows.items()}
    assert counts["validation"] == {"rare": 2, "common": 18}
    assert counts["test"] == {"rare": 4, "common": 36}


@pytest.mark.parametrize("names", [("rare", "common"), (1, 0)])
def test_three_splits_keep_the_proportions_of_text_and_of_numbers(names):
    rows = [{"text": f"row {n}", "label": names[0] if n % 5 == 0 else names[1]} for n in range(400)]
    settings = {"validation_fraction": 0.1, "test_fraction": 0.25, "stratify_by": "label"}
    splits = load("labelled", train=write("rows.jsonl", rows), **settings)
    counts = {name: Counter(each["label"][:]) for name, each in splits.rows.items()}
    assert {name: (count[names[0]], count[names[1]]) for name, count in counts.items()} == {
        "train": (52, 208),
        "validation": (8, 32),
        "test": (20, 80),
    }


def test_three_splits_keep_the_proportions_of_sets_of_labels_and_put_rare_sets_anywhere():
    sets = [["a"], ["b", "a"], ["a", "b"], ["b"], []]
    rare = [["a", "b", "c"], ["c", "b"], ["c"]]
    rows = [{"text": f"row {n}", "label": sets[n % 5]} for n in range(400)]
    rows += [{"text": f"rare {n}", "label": label} for n, label in enumerate(rare)]
    settings = {"validation_fraction": 0.1, "test_fraction": 0.25, "stratify_by": "label", "allow_empty": True}
    splits = load("labelled", train=write("rows.jsonl", rows), **settings)
    found = {name: Counter(tuple(sorted(label)) for label in each["label"]) for name, each in splits.rows.items()}
    assert sum(map(len, splits.rows.values())) == 403
    for labels, count in ((("a",), 80), (("a", "b"), 160), (("b",), 80), ((), 80)):
        assert [found[name][labels] for name in ("validation", "test")] == [count * 0.1, count * 0.25]
    assert len(splits.rows["validation"]) == 40


def test_the_same_labels_in_another_order_are_one_set():
    labels = [["a", "b"]] * 4 + [["b", "a"]] * 4 + [["c"]] * 96 + [["d"]] * 6
    rows = [{"text": f"row {n}", "label": label} for n, label in enumerate(labels)]
    splits = load("labelled", train=write("rows.jsonl", rows), validation_fraction=0.1, stratify_by="label")
    # Of 8 rows 0.8 is the largest remainder; of 4 and 4 rows 0.4 would be the smallest.
    assert sum(len(label) == 2 for label in splits.rows["validation"]["label"]) == 1


def test_one_rare_set_of_labels_alone_stays_in_train():
    rows = [{"text": f"row {n}", "label": ["a"] if n % 2 else ["b"]} for n in range(20)]
    rows.append({"text": "rare", "label": ["b", "a"]})
    splits = load(
        "labelled", train=write("rows.jsonl", rows), validation_fraction=0.2, test_fraction=0.2, stratify_by="label"
    )
    assert ["b", "a"] in splits.rows["train"]["label"][:]


@pytest.mark.parametrize("several", [False, True])
def test_labels_keep_their_proportions_nearly_where_groups_stay_whole(several):
    def label(n):
        name = "rare" if n % 4 == 0 else "common"
        return [name, "every"] if several else name

    rows = [{"text": f"{n // 3} row {n}", "label": label(n), "user": n // 3} for n in range(1200)]
    settings = {"validation_fraction": 0.1, "test_fraction": 0.2, "stratify_by": "label", "group_by": "user"}
    splits = load("labelled", train=write("rows.jsonl", rows), **settings)
    users = [{text.split()[0] for text in each["text"]} for each in splits.rows.values()]
    assert sum(map(len, users)) == 400
    for name, fraction in (("validation", 0.1), ("test", 0.2)):
        rare = sum("rare" in label for label in splits.rows[name]["label"])
        assert abs(rare - 300 * fraction) <= 5, name
        assert abs(len(splits.rows[name]) - 1200 * fraction) <= 5, name


def test_a_group_is_never_in_two_splits_even_by_a_field_that_is_no_column():
    rows = [{"text": f"{n % 40} row {n}", "user": n % 40, "lang": "de" if n % 4 else "en"} for n in range(400)]
    settings = {"train": write("rows.jsonl", rows), "validation_fraction": 0.2, "stratify_by": "lang"}
    splits = load(group_by="user", **settings)
    users = {name: {text.split()[0] for text in each["text"]} for name, each in splits.rows.items()}
    assert not users["train"] & users["validation"]
    assert len(splits.rows["validation"]) == 80
    assert splits.rows["train"].column_names == ["text"]
    apart = load(**settings)
    assert {text.split()[0] for text in apart.rows["validation"]["text"]} & {
        text.split()[0] for text in apart.rows["train"]["text"]
    }


def test_the_values_1_and_its_string_are_two_groups():
    rows = [{"text": f"row {n}", "user": 1 if n % 2 else "1"} for n in range(10)]
    splits = load(train=write("rows.jsonl", rows), validation_fraction=0.5, group_by="user")
    assert len(splits.rows["validation"]) == 5


# Mixtures


def test_weights_repeat_training_rows_and_none_of_their_copies_is_in_validation():
    splits = load(
        train=[
            {"path": write("twice.jsonl", texts(100)), "weight": 2.0},
            {"path": write("half.jsonl", texts(100, 1000)), "weight": 0.5},
            write("once.jsonl", texts(100, 2000)),
        ],
        validation_fraction=0.1,
    )
    assert len(splits.rows["validation"]) == 30
    train = Counter(splits.rows["train"]["text"])
    assert not set(train) & set(splits.rows["validation"]["text"])
    by_source = Counter({0: 0, 1: 0, 2: 0})
    for text, count in train.items():
        source = int(text.split()[1]) // 1000
        by_source[source] += 1
        assert count == (2 if source == 0 else 1)
    left = Counter(int(text.split()[1]) // 1000 for text in splits.rows["validation"]["text"])
    assert by_source[0] == 100 - left[0]
    assert by_source[1] == round(0.5 * (100 - left[1]))
    assert by_source[2] == 100 - left[2]


def test_a_weight_that_leaves_no_row_or_is_not_for_training_is_refused():
    train = write("rows.jsonl", texts(3))
    assert "leaves it no row" in refused(train=[{"path": train, "weight": 0.01}])
    validation = {"path": write("validation.jsonl", texts(3, 10)), "weight": 2.0}
    assert "weights apply to data.train only" in refused(train=train, validation=validation)


# What is refused


def test_rejected_lines_of_all_files_are_named_in_one_pass():
    write("a.jsonl", [*texts(2), {"txet": "x"}])
    write("b.jsonl", [{"text": 3}, *texts(1)])
    write("validation.jsonl", [{"text": None}])
    message = refused(train=["a.jsonl", "b.jsonl"], validation="validation.jsonl")
    assert "a.jsonl:3: text: the key `txet` is not known (1 row has it); did you mean `text`?" in message
    assert "b.jsonl:1: text: `text` must be string, found int" in message
    assert "validation.jsonl:1: text: `text` must be string, found null" in message
    assert message.endswith("3 problems")


def test_more_than_a_hundred_rejected_lines_are_counted():
    message = refused(train=write("rows.jsonl", [*texts(1), *[{"text": 1}] * 250]))
    shown = "rows.jsonl:2: text: `text` must be string, found int (and 99 more lines: 3-101) [HF026]\n"
    assert message.startswith(shown)
    assert message.endswith("... and 150 more\n250 problems")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "rows.jsonl: the file is empty"),
        (b"\xef\xbb\xbf", "rows.jsonl: the file is empty"),
        (b"\n \n", "rows.jsonl: the file has only blank lines"),
        (b"\xff\xfe{\x00", "starts UTF-16 text"),
        (b"[1]\n[2]", "rows.jsonl:1: a row must be a JSON object"),
    ],
)
def test_a_file_without_rows_is_refused_by_name(content, message):
    Path("rows.jsonl").write_bytes(content)
    assert message in refused(train="rows.jsonl")


def test_an_empty_file_is_refused_beside_full_ones_and_when_skipping():
    write("empty.jsonl", [])
    train = write("rows.jsonl", texts(2))
    assert "empty.jsonl: the file is empty" in refused(train=train, validation="empty.jsonl")
    assert "empty.jsonl: the file is empty" in refused(train=[train, "empty.jsonl"], on_bad_line="skip")
    bad = write("bad.jsonl", [{"text": 1}])
    assert "bad.jsonl: its only line is rejected" in refused(train=[train, bad], on_bad_line="skip")


def test_rows_that_were_read_with_bad_lines_skipped_are_not_taken_for_a_sound_file():
    train = write("rows.jsonl", [*texts(2), {"text": 1}, {"text": "x" * 200}])
    assert len(load(train=train, on_bad_line="skip").rows["train"]) == 3
    assert len(load(train=train, on_bad_line="skip", max_line_bytes=100).rows["train"]) == 2
    assert "rows.jsonl:3" in refused(train=train)


def test_documents_without_any_text_are_refused():
    assert "no row has any text" in refused(train=write("rows.jsonl", [{"text": ""}, {"text": " \n\u3000"}]))


def test_evaluating_on_the_training_file_is_refused_however_it_is_named():
    train = write("train.jsonl", texts(3))
    os.link("train.jsonl", "linked.jsonl")
    Path("copied.jsonl").write_bytes(Path("train.jsonl").read_bytes())
    Path("packed.jsonl.gz").write_bytes(gzip.compress(Path("train.jsonl").read_bytes()))
    write("shuffled.jsonl", texts(3)[::-1])
    assert "is also data.train (train.jsonl)" in refused(train=train, validation="train.jsonl")
    assert "is also data.train (train.jsonl)" in refused(train=train, test="linked.jsonl")
    assert "has the same content as data.train (train.jsonl)" in refused(train=train, validation="copied.jsonl")
    for other in ("packed.jsonl.gz", "shuffled.jsonl"):
        same = f"{other}: data.validation: has the same rows as data.train ({train})"
        assert same in refused(train=train, validation=other)
    other = write("other.jsonl", texts(3, 10))
    assert "is also data.validation (other.jsonl)" in refused(train=train, validation=other, test=other)


def test_identical_rows_are_no_error_here():
    assert len(load(train=write("rows.jsonl", [{"text": "same"}] * 10), validation_fraction=0.2).rows["train"]) == 8


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"validation_fraction": 0.01}, "0.01 of 20 rows gives validation no row"),
        ({"validation_fraction": 0.2, "stratify_by": "lnag"}, "the rows have no field `lnag`; did you mean `lang`?"),
        ({"group_by": "zzz"}, "the rows have no field `zzz`; the rows have text, lang, meta"),
        ({"group_by": "meta"}, "the field `meta` is not a single value"),
        ({"validation_fraction": 0.2, "stratify_by": "text"}, "20 of 20 values of `text` have a single row"),
        ({"validation_fraction": 0.2, "group_by": "lang"}, "`lang` has 1 group, too few for 2 splits"),
    ],
)
def test_settings_that_cannot_be_met_are_refused(settings, message):
    write("rows.jsonl", texts(20, lang="de", meta={}))
    assert message in refused(train="rows.jsonl", **settings)


def test_a_row_without_the_field_that_splits_need_is_named():
    write("rows.jsonl", [*texts(3, lang="de"), *texts(1, 3), *texts(3, 4, lang="en")])
    message = refused(train="rows.jsonl", validation_fraction=0.2, group_by="lang")
    assert message.startswith("rows.jsonl:4: data.group_by: the row has no `lang`")


def test_groups_that_are_in_two_given_files_are_refused():
    write("train.jsonl", [*texts(3, user=1), *texts(3, 10, user=2)])
    write("validation.jsonl", texts(3, 20, user=2))
    message = refused(train="train.jsonl", validation="validation.jsonl", group_by="user")
    assert "1 group of `user` is in data.train and data.validation" in message


def test_rows_of_another_kind_than_the_recipe_takes_are_refused_with_the_formats_that_do():
    labelled = write("rows.jsonl", [{"text": "a", "label": "x"}])
    message = refused("document", train=labelled)
    assert "rows of format labelled are labelled texts; documents are needed here: rows of format text" in message
    assert "`data.format: text` reads only the `text`" in message
    assert len(load("document", train=labelled, format="text").rows["train"]) == 1
    pairs = write("pairs.jsonl", [{"input": "a", "output": "x"}])
    assert "`task: classification` takes `output` as the label" in refused("labelled", train=pairs)
    Path("text.txt").write_text("a")
    assert "rows of format file are documents; conversations are needed here" in refused(
        "conversation", train="text.txt", format="file"
    )


def test_validation_must_have_the_format_and_label_type_of_train():
    train = write("train.jsonl", [{"text": "a", "label": 1}])
    write("validation.jsonl", [{"text": "b", "label": "1"}, {"text": "c"}])
    message = refused("labelled", train=train, validation="validation.jsonl")
    assert "validation.jsonl:1: label: the label's type is string, where integer was set by train.jsonl:1" in message
    assert "validation.jsonl:2: label: the key `label` is missing" in message


def test_a_file_that_changes_while_it_is_read_is_noticed(monkeypatch):
    write("rows.jsonl", texts(10))
    hashed = arrow.hash_data_file

    def hash_and_change(path):
        digest = hashed(path)
        path.write_text(path.read_text().replace("row 3", "new 3 "))
        return digest

    with monkeypatch.context() as patched:
        patched.setattr(arrow, "hash_data_file", hash_and_change)
        assert "rows.jsonl: the file changed while it was read" in refused(train="rows.jsonl")
    assert "new 3 " in load(train="rows.jsonl").rows["train"]["text"]


def test_a_file_that_vanishes_while_it_is_read_is_named_and_not_the_cache(monkeypatch):
    path, join = Path(write("rows.jsonl", texts(10))), arrow._join_batches

    def join_and_remove(batches):
        yield from join(batches)
        path.unlink()

    monkeypatch.setattr(arrow, "_join_batches", join_and_remove)
    assert "rows.jsonl: the file changed while it was read" in refused(train="rows.jsonl")


def test_a_cache_that_cannot_be_written_is_no_mistake_in_the_data(monkeypatch, tmp_path):
    (tmp_path / "taken").write_text("")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "taken")
    with pytest.raises(CannotWriteError, match="the datasets cache cannot be written"):
        load(train=write("rows.jsonl", texts(2)))


CHILD = """
import json
from hf_finetune.config.sections import DataSection
from hf_finetune.data.splitting.rejected_lines import keep_rejected_lines
from hf_finetune.data.splitting.splits import load_splits
splits = load_splits(DataSection(train="rows.jsonl", validation_fraction=0.1), "document", 0)
print(json.dumps([splits.summarize(), splits.rows["train"][:]]))
"""


def test_processes_that_read_the_same_file_at_once_get_the_same_rows():
    write("rows.jsonl", texts(20_000))
    children = [subprocess.Popen([sys.executable, "-c", CHILD], stdout=subprocess.PIPE) for _ in range(2)]
    seen = [json.loads(child.communicate(timeout=120)[0]) for child in children]
    splits = load(train="rows.jsonl", validation_fraction=0.1)
    expected = json.loads(json.dumps([splits.summarize(), splits.rows["train"][:]]))
    assert seen == [expected, expected]


# Where each row stands


def test_every_row_of_every_split_knows_its_file_and_line():
    Path("a.jsonl").write_text('{"text": "a1"}\n\nnot json\n{"text": "a4"}\n')
    Path("b.jsonl").write_text("".join(f'{{"text": "b{number}"}}\n' for number in range(1, 41)))
    splits = load(
        train=["a.jsonl", {"path": "b.jsonl", "weight": 1.5}],
        test=write("test.jsonl", texts(3)),
        validation_fraction=0.25,
        on_bad_line="skip",
    )
    assert len(splits.rows["train"]) > 40
    for name in ("train", "validation"):
        for number, row in enumerate(splits.rows[name]):
            path, line = splits.locate(name, number)
            assert row["text"] == f"{path[0]}{line}"
    assert [splits.locate("test", row) for row in range(3)] == [("test.jsonl", 1), ("test.jsonl", 2), ("test.jsonl", 3)]


def test_a_row_read_from_the_cache_is_shown_by_the_path_of_this_run():
    load(train=write("first.jsonl", texts(3)))
    Path("first.jsonl").rename("second.jsonl")
    assert load(train="second.jsonl").locate("train", 1) == ("second.jsonl", 2)


def test_a_paragraph_stands_where_it_begins():
    Path("rows.txt").write_text("one\n\n\ntwo\nstill two\n\nthree\n")
    splits = load(train="rows.txt", format="paragraphs")
    assert [splits.locate("train", row)[1] for row in range(3)] == [1, 4, 7]


def test_a_recipe_of_conversations_takes_prompts_with_completions_as_they_are():
    rows = [{"prompt": "1 + 1 =", "completion": " 2"}, {"prompt": "", "completion": "x"}]
    splits = load("conversation", train=write("rows.jsonl", rows))
    assert splits.rows["train"].to_list() == rows
    assert splits.format == "prompt_completion"
    assert "conversations are needed here: rows of format messages, sharegpt" in refused(
        "conversation", train=write("texts.jsonl", texts(2))
    )


def test_a_field_that_is_read_by_other_means_is_not_said_to_be_unread(caplog):
    write("rows.jsonl", texts(3, language="en", meta={"source": "web"}, other=1))
    with caplog.at_level("INFO", "hf_finetune"):
        data = DataSection(train="rows.jsonl")
        splits = load_splits(data, "document", 0, also_read=["language", "meta.source"])
    assert splits.unused_keys == ("other",)
    assert "keys of the rows that are not read: other" in caplog.messages


def test_of_many_rejected_lines_the_first_are_in_the_manifest_and_all_in_the_run_folder(tmp_path):
    good, bad = [json.dumps({"text": f"row {number}"}) for number in range(5)], ["{", '{"text": 1}'] * 75
    Path("one.jsonl").write_text("\n".join([*bad, *good]) + "\n")
    Path("two.jsonl").write_text("\n".join([good[0] + " ", "[]"]) + "\n")
    settings = {"train": ["one.jsonl", "two.jsonl"], "validation_fraction": 0.3, "on_bad_line": "skip"}
    for _ in range(2):  # from the file, and from the cache
        splits = load(**settings)
        assert [file.rejected for file in splits.files] == [150, 1]
        assert [len(file.rejected_lines) for file in splits.files] == [MAX_PROBLEMS_SHOWN, 1]
        keep_rejected_lines(tmp_path, splits)
        kept = [json.loads(line) for line in (tmp_path / "rejected_lines.jsonl").read_text().splitlines()]
        assert [(each["file"], each["line"]) for each in kept] == [
            *(("one.jsonl", line) for line in range(1, 151)),
            ("two.jsonl", 2),
        ]
        assert tuple(kept[1][key] for key in ("line", "reason", "code")) == splits.files[0].rejected_lines[1]
        assert kept[0]["code"] == "HF010"
        (tmp_path / "rejected_lines.jsonl").unlink()
    keep_rejected_lines(tmp_path, load(train=write("whole.jsonl", texts(3))))
    assert not (tmp_path / "rejected_lines.jsonl").exists()
