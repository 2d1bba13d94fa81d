"""`hf-finetune tokens`: a text under the tokenizer of a folder, and rows of runs of each recipe."""

from __future__ import annotations

import io
import json
import sys
from types import SimpleNamespace

import pytest
import yaml
from chat_models import talking_tokenizer
from typer.testing import CliRunner

from hf_finetune.cli import app
from hf_finetune.errors import ConfigError, DataError

SCRATCH = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tokenizer, rows, and a run file: nothing that has weights."""
    folder = tmp_path_factory.mktemp("tokens")
    talking_tokenizer().save_pretrained(folder / "model")
    rows = [
        {"messages": [{"role": "user", "content": asked}, {"role": "assistant", "content": said}]}
        for asked, said in (("one", "two"), ("three", "a long answer"))
    ]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + "\n")
    write_run(folder, "sft", "rows.jsonl", {"max_length": 40}, too_long="cut")
    return folder


def write_run(folder, recipe, rows, train, **data):
    run = {
        "recipe": recipe,
        "model": {"scratch": SCRATCH, "tokenizer": str(folder / "model")},
        "data": {"train": str(folder / rows), **data},
        "train": train,
        "output_dir": str(folder / "run"),
    }
    (folder / f"{recipe}.yaml").write_text(yaml.safe_dump(run))


def run(*arguments) -> str:
    done = CliRunner().invoke(app, ["tokens", *map(str, arguments)], catch_exceptions=False)
    assert done.exit_code == 0
    return done.stdout


def test_a_text_is_shown_with_its_ids(folder):
    ids = talking_tokenizer().get_vocab()
    lines = run(folder / "model", "Hi").splitlines()
    assert [line.split() for line in lines[:2]] == [[str(ids["H"]), '"H"'], [str(ids["i"]), '"i"']]
    [view] = json.loads(run(folder / "model", "Hi", "--json"))
    assert [(each["id"], each["text"]) for each in view["spans"]] == [(ids["H"], "H"), (ids["i"], "i")]
    assert "Assistant:" in "".join(
        each["text"] for each in json.loads(run(folder / "model", "Hi", "--chat", "--json"))[0]["spans"]
    )


def test_a_text_is_read_from_standard_input(folder):
    done = CliRunner().invoke(app, ["tokens", str(folder / "model"), "-", "--json"], input="a\nb\n")
    assert [each["text"] for each in json.loads(done.stdout)[0]["spans"]] == ["a", "\n", "b"]


def test_a_row_is_shown_as_it_would_be_trained(folder):
    shown = run(folder / "sft.yaml", f"{folder}/rows.jsonl:1")
    assert "one«<|eos|>»↵" in shown
    assert "[two«<|eos|>»]↵" in shown
    assert "{" not in shown.replace("{cut off}", "")
    cut = run(folder / "sft.yaml", f"{folder}/rows.jsonl:2", "train.max_length=35")
    assert "{" in cut.replace("{cut off}", "")
    assert "train.max_length is 35 (data.too_long: cut)" in cut.replace("\n", " ")


def test_documents_are_shown_in_their_blocks_and_texts_with_their_label(folder):
    (folder / "texts.jsonl").write_text('{"text": "first"}\n{"text": "second one"}\n')
    write_run(folder, "continued_pretraining", "texts.jsonl", {}, block_size=8)
    [view, *_] = json.loads(run(folder / "continued_pretraining.yaml", f"{folder}/texts.jsonl:2", "--json"))
    assert any(each["kind"] == "border" and each["text"].endswith("texts.jsonl:2") for each in view["spans"])
    rows = [{"text": text, "label": label} for text, label in (("aa", "x"), ("bb", "y"), ("ab", "x"), ("ba", "y"))]
    (folder / "labels.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    write_run(folder, "classification", "labels.jsonl", {})
    assert "label: y, learned from all tokens" in run(folder / "classification.yaml", f"{folder}/labels.jsonl:2")


def test_a_page_is_written_and_only_over_one_of_ours(folder):
    page = folder / "page.html"
    for _ in range(2):
        assert f"{page} is written" in run(folder / "model", "Hi", "--html", page)
    assert 'title="id ' in page.read_text()
    page.write_text("mine")
    with pytest.raises(ConfigError, match=r"page\.html: --html: is there already, and no page of ours"):
        run(folder / "model", "Hi", "--html", page)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{}/model", "Hi", "there"], "'there' is a setting of a run, and .* no run file; put quotes around a text"),
        (["{}/sft.yaml", "{}/rows.jsonl:1", "--chat"], "--chat: a row is shown as it is trained; leave it out"),
        (
            ["{}/sft.yaml", "{}/rows.jsonl:1", "--trust-chat-template", "a" * 64],
            r"--trust-chat-template: a run names it in data\.trust_chat_template; leave it out",
        ),
        (["{}/sft.yaml", "rows.jsonl"], r"'rows\.jsonl' names no row; write FILE:LINE, as rows\.jsonl:12"),
    ],
)
def test_words_that_do_not_go_together_are_refused(folder, arguments, message):
    with pytest.raises(ConfigError, match=message):
        run(*(each.format(folder) for each in arguments))


def test_a_row_that_is_not_there_is_named_with_the_reason(folder):
    with pytest.raises(DataError, match=r"other\.jsonl: is no file of this run; its files are .*rows\.jsonl"):
        run(folder / "sft.yaml", "other.jsonl:1")
    with pytest.raises(DataError, match=r"rows\.jsonl:9: the file has 3 lines; name one of them"):
        run(folder / "sft.yaml", f"{folder}/rows.jsonl:9")
    with pytest.raises(DataError, match=r"rows\.jsonl:3: no row of the run stands here: the line is blank"):
        run(folder / "sft.yaml", f"{folder}/rows.jsonl:3")
    (folder / "bad.jsonl").write_text((folder / "rows.jsonl").read_text() + "{\n")
    with pytest.raises(DataError, match=r"bad\.jsonl:4: the row is left out: .*; correct it, or name another"):
        run(folder / "sft.yaml", f"{folder}/bad.jsonl:4", f"data.train={folder}/bad.jsonl", "data.on_bad_line=skip")


def test_runs_whose_rows_cannot_be_shown_are_refused(folder):
    stream = ("data.stream=true", "train.max_steps=1")
    with pytest.raises(ConfigError, match=r"data\.stream: the training rows are read on the way to the trainer"):
        run(folder / "sft.yaml", f"{folder}/rows.jsonl:1", *stream)
    (folder / "score.yaml").write_text(
        yaml.safe_dump(
            {"recipe": "score", "model": {"path": str(folder / "model")}, "data": {"test": "x"}, "output_dir": "y"}
        )
    )
    (folder / "x").write_text("")
    with pytest.raises(ConfigError, match="a run of score trains nothing"):
        run(folder / "score.yaml", f"{folder}/rows.jsonl:1", f"data.test={folder}/rows.jsonl")


def test_standard_input_that_is_no_text_is_refused(folder, monkeypatch):
    from hf_finetune.cli.commands.preflight.tokens import tokens

    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(b"a\xff")))
    with pytest.raises(DataError, match=r"standard input is not UTF-8 \(byte 1\); convert it"):
        tokens(str(folder / "model"), "-")
