"""Rows of a file get the labels that the model alone would give them, and stay as they are beside that."""

from __future__ import annotations

import gzip
import io
import json
import logging
import random
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from evaluation.prediction.labelling_models import POSITIONS, WORDS, encoder, encoder_tokenizer, saved_classifier
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from transformers import BertForSequenceClassification, GPT2Config, GPT2ForSequenceClassification, pipeline

from hf_finetune.errors import ConfigError, DataError, MachineError, ModelError, NonFiniteError
from hf_finetune.evaluation.prediction import rows as prediction_rows
from hf_finetune.evaluation.prediction.added_fields import format_added_fields
from hf_finetune.evaluation.prediction.predict import PredictionOptions, PredictionStats, predict_file
from hf_finetune.evaluation.prediction.rows import append_fields, is_compact, read_windows
from hf_finetune.evaluation.prediction.texts import make_text_kind
from hf_finetune.models.adapters.loading import suppress_peft_warnings
from hf_finetune.models.classification_head import find_classification_head
from hf_finetune.models.decision import Decision
from hf_finetune.models.tokenizer_training import train_tokenizer

Rows = list[dict[str, Any]]

LABELS = ("bad", "good", "so-so")


def texts(number: int, longest: int = 12, seed: int = 0) -> list[str]:
    rng = random.Random(seed)
    return [" ".join(rng.choices(WORDS, k=rng.randint(1, longest))) for _ in range(number)]


def predict(model: str, rows: str | bytes, folder: Path, **options: Any) -> tuple[Rows, PredictionStats]:
    file, output = folder / "rows.jsonl", io.BytesIO()
    file.write_bytes(rows.encode() if isinstance(rows, str) else rows)
    facts = predict_file(model, str(file), output, PredictionOptions(**options))
    return [json.loads(line) for line in output.getvalue().splitlines()], facts


def as_lines(rows: Rows) -> str:
    return "".join(f"{json.dumps(row)}\n" for row in rows)


def pipeline_scores(model: str, inputs: list[Any]) -> list[dict[str, float]]:
    classify = pipeline("text-classification", model, device="cpu")
    return [{each["label"]: each["score"] for each in classify(one, top_k=None)} for one in inputs]


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    return saved_classifier(tmp_path_factory.mktemp("single"), LABELS)


@pytest.fixture(scope="module")
def several_labels(tmp_path_factory):
    return saved_classifier(tmp_path_factory.mktemp("multi"), LABELS, "multi_label_classification")


def test_labels_and_scores_are_those_of_the_pipeline(classifier, tmp_path):
    asked = texts(60)
    rows, facts = predict(classifier, as_lines([{"text": text} for text in asked]), tmp_path)
    assert facts.rows == 60
    for row, scores in zip(rows, pipeline_scores(classifier, asked), strict=True):
        assert row["scores"] == pytest.approx(scores, abs=1e-5)
        assert row["label"] == max(scores, key=scores.get)
        assert row["score"] == row["scores"][row["label"]] == max(row["scores"].values())
    assert {row["label"] for row in rows} == {*LABELS}


def test_pairs_are_those_of_the_pipeline_beside_single_texts(classifier, tmp_path):
    pairs = list(zip(texts(20, 5), texts(20, 5, seed=1), strict=True))
    asked = [{"text": a, "text_pair": b} for a, b in pairs]
    mixed = [row for pair, (text, _) in zip(asked, pairs, strict=True) for row in (pair, {"text": text})]
    rows, _ = predict(classifier, as_lines(mixed), tmp_path)
    for row, scores in zip(rows[::2], pipeline_scores(classifier, asked), strict=True):
        assert row["scores"] == pytest.approx(scores, abs=1e-5)
    for row, scores in zip(rows[1::2], pipeline_scores(classifier, [text for text, _ in pairs]), strict=True):
        assert row["scores"] == pytest.approx(scores, abs=1e-5)


def test_of_any_number_of_labels_each_above_one_half_is_given(several_labels, tmp_path):
    asked = texts(60)
    rows, _ = predict(several_labels, as_lines([{"text": text} for text in asked]), tmp_path)
    for row, scores in zip(rows, pipeline_scores(several_labels, asked), strict=True):
        assert row["scores"] == pytest.approx(scores, abs=1e-5)
        assert row["label"] == [label for label in LABELS if scores[label] >= 0.5]
        assert row["score"] == [row["scores"][label] for label in row["label"]]
    assert {len(row["label"]) for row in rows} == {0, 1, 2, 3}


@pytest.mark.parametrize("problem_type", ["single_label_classification", "multi_label_classification"])
def test_a_decision_in_the_weights_is_the_pipelines_and_scores_stay_probabilities(tmp_path, problem_type):
    thresholds = (0.2, 0.1, 0.7)
    kind = "single" if problem_type.startswith("single") else "multi"
    decision = Decision(LABELS, kind, temperature=2.0, thresholds=thresholds, offsets_in_weights=True)
    folder = saved_classifier(tmp_path / "model", LABELS, problem_type, decision)
    plain = encoder(LABELS, problem_type)
    folded = encoder(LABELS, problem_type)
    head = find_classification_head(folded)
    with torch.no_grad():
        head.weight.div_(2.0)
        head.bias.div_(2.0).add_(torch.from_numpy(decision.offsets))
    folded.save_pretrained(folder)
    asked = texts(60)
    rows, _ = predict(folder, as_lines([{"text": text} for text in asked]), tmp_path)
    tokenizer = encoder_tokenizer()
    for row, text, scores in zip(rows, asked, pipeline_scores(folder, asked), strict=True):
        logits = plain(**tokenizer(text, return_tensors="pt")).logits[0] / 2.0
        probabilities = logits.softmax(0) if kind == "single" else logits.sigmoid()
        assert [*row["scores"].values()] == pytest.approx(probabilities.tolist(), abs=1e-5)
        likeliest = max(scores, key=scores.get)
        assert row["label"] == (likeliest if kind == "single" else [name for name in LABELS if scores[name] >= 0.5])
    assert any(row["scores"] != pytest.approx(scores, abs=0.05) for row in rows)


def test_a_number_is_the_label_where_the_model_predicts_numbers(tmp_path):
    folder = saved_classifier(tmp_path / "model", ("value",), "regression")
    asked = texts(10)
    rows, _ = predict(folder, as_lines([{"text": text} for text in asked]), tmp_path)
    expected = [scores["value"] for scores in pipeline_scores(folder, asked)]
    assert [row.pop("label") for row in rows] == pytest.approx(expected, abs=1e-4)
    assert rows == [{"text": text} for text in asked]


def test_a_decoder_is_read_at_its_last_token_in_batches_too(tmp_path):
    tokenizer = train_tokenizer("word", [" ".join(WORDS)], 64)
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=len(tokenizer), n_embd=16, n_layer=2, n_head=2, n_positions=POSITIONS * 2, num_labels=2,
        pad_token_id=tokenizer.pad_token_id, initializer_range=0.5, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    GPT2ForSequenceClassification(config).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    asked = texts(20)
    rows, _ = predict(str(tmp_path / "model"), as_lines([{"text": text} for text in asked]), tmp_path)
    for row, scores in zip(rows, pipeline_scores(str(tmp_path / "model"), asked), strict=True):
        assert row["scores"] == pytest.approx(scores, abs=1e-5)


def test_an_adapter_labels_as_it_was_trained_to(tmp_path):
    saved_classifier(tmp_path / "base", LABELS)
    base = BertForSequenceClassification.from_pretrained(tmp_path / "base")
    with suppress_peft_warnings():
        adapted = get_peft_model(base, LoraConfig(task_type="SEQ_CLS", target_modules=["query", "value"]))
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if parameter.requires_grad:
                parameter.normal_(generator=torch.Generator().manual_seed(len(name)))
    adapted.eval().save_pretrained(tmp_path / "adapter")
    asked, tokenizer = texts(20), encoder_tokenizer()
    lines = as_lines([{"text": text} for text in asked])
    rows, _ = predict(str(tmp_path / "adapter"), lines, tmp_path, base_path=str(tmp_path / "base"))
    for row, text in zip(rows, asked, strict=True):
        probabilities = adapted(**tokenizer(text, return_tensors="pt")).logits[0].softmax(0)
        assert [*row["scores"].values()] == pytest.approx(probabilities.tolist(), abs=1e-5)


@pytest.mark.parametrize("options", [{"batch_tokens": 1}, {"batch_tokens": 40}, {"batch_tokens": 100_000}])
def test_neither_batches_nor_windows_change_an_answer_or_the_order(classifier, tmp_path, monkeypatch, options):
    lines = as_lines([{"id": number, "text": text} for number, text in enumerate(texts(300))])
    expected, _ = predict(classifier, lines, tmp_path)
    monkeypatch.setattr(prediction_rows, "WINDOW_ROWS", 7)
    monkeypatch.setattr("hf_finetune.data.reading.lines.CHUNK_BYTES", 200)
    rows, _ = predict(classifier, lines, tmp_path, **options)
    assert [row["id"] for row in rows] == list(range(300))
    for row, same in zip(rows, expected, strict=True):
        assert row["label"] == same["label"]
        assert row["scores"] == pytest.approx(same["scores"], abs=1e-5)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab}\"\\é", max_size=3), inner, max_size=3),
    max_leaves=5,
)  # fmt: skip


@settings(max_examples=300)
@given(
    others=st.dictionaries(st.sampled_from(["id", "meta", "}", "é", "labels", "a b"]), VALUES, max_size=4),
    text=st.text(st.characters(exclude_categories=["Cs"])),
    separators=st.sampled_from([(",", ":"), (", ", ": "), (" ,\t", " : ")]),
    ascii_only=st.booleans(),
    end=st.sampled_from([b"", b"\r", b" \t"]),
)
def test_a_line_keeps_every_byte_of_its_own(tmp_path_factory, others, text, separators, ascii_only, end):
    row = {**others, "text": text}
    line = json.dumps(row, separators=separators, ensure_ascii=ascii_only).encode()
    file = tmp_path_factory.getbasetemp() / "one.jsonl"
    file.write_bytes(line + end + b"\n")
    [window] = read_windows(file, "one.jsonl", make_text_kind(""))
    assert (window.lines, window.columns["text"], window.problems) == ([line + end], [text], [])
    written = append_fields(window.lines[0], '"label": "x"')
    comma = b"," if separators == (",", ":") else b", "
    assert written == line[:-1] + comma + b'"label": "x"}' + end + b"\n"
    assert json.loads(written) == row | {"label": "x"}


def test_what_is_added_is_json_whatever_a_label_is_called():
    labels = ('say "hi"', "a\\b", "né\n")
    decision = Decision(labels, "single")
    logits = np.array([[0.0, 800.0, -800.0], [0.0, 0.0, 1e-9]])
    rows = [json.loads(f"{{{fields}}}") for fields in format_added_fields(logits, decision, "p_", None)]
    assert [row["p_label"] for row in rows] == ["a\\b", "né\n"]
    assert [*rows[0]["p_scores"].items()] == [(labels[0], 0.0), (labels[1], 1.0), (labels[2], 0.0)]
    assert rows[1]["p_score"] == pytest.approx(1 / 3, abs=1e-6)
    [likeliest, _] = format_added_fields(logits, decision, "", 1)
    assert json.loads(f"{{{likeliest}}}")["scores"] == {"a\\b": 1.0}
    assert isinstance(json.loads(f"{{{likeliest}}}")["score"], float)


@pytest.mark.parametrize("separators", [(",", ":"), (", ", ": ")])
@pytest.mark.parametrize("kind", ["single", "multi"])
def test_what_is_added_is_written_as_the_row_is(separators, kind):
    line = json.dumps({"a b": "x, y: z", "text": "t"}, separators=separators).encode()
    decision = Decision(("a, b", "c"), kind)
    [added] = format_added_fields(np.array([[1.0, 2.0]]), decision, "", None, compact=is_compact(line))
    written = append_fields(line, added).decode().strip()
    assert written == json.dumps(json.loads(written), separators=separators)


BAD_LINES = {
    2: (b'{"text": 3}', "`text` must be string, found int"),
    4: (b'{"text": "good"', "the line ends inside the row"),
    5: (b'{"txt": "good"}', "did you mean `text`?"),
    7: (b'{"text": "a", "text": "b"}', "`text` occurs twice"),
    8: (b'["good"]', "a row must be a JSON object, found an array"),
    9: (b'{"text": "\xff"}', "not UTF-8"),
    10: (b'{"text": "a", "n": NaN}', "NaN is not JSON"),
    11: (b'{"text": null}', "`text` must be string, found null"),
    13: (b'{"text": "a", "text_pair": 1}', "`text_pair` must be string"),
}


def test_bad_lines_are_named_and_the_rest_is_labelled(classifier, tmp_path, caplog):
    lines = [b'{"id": %d, "text": "good day"}' % number for number in range(1, 15)]
    for number, (line, _) in BAD_LINES.items():
        lines[number - 1] = line
    lines[11] = b"  \r"
    rows, facts = predict(classifier, b"\n".join(lines), tmp_path)
    assert [row["id"] for row in rows] == [1, 3, 6, 14]
    assert (facts.rows, facts.left_out) == (4, len(BAD_LINES))
    named = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    for (number, (_, reason)), message in zip(BAD_LINES.items(), named, strict=True):
        assert message.startswith(f"{tmp_path}/rows.jsonl:{number}: ")
        assert reason in message
    assert "good day" not in caplog.text


def test_a_row_may_have_input_in_place_of_text(classifier, tmp_path):
    texts_, _ = predict(classifier, '{"text": "good"}\n', tmp_path)
    inputs, facts = predict(classifier, '{"input": "good", "text_pair": 3}\n{"text": "good"}\n', tmp_path)
    assert inputs[0]["scores"] == texts_[0]["scores"]
    assert facts.left_out == 1


@pytest.mark.parametrize("key", ["label", "score", "scores"])
@pytest.mark.parametrize("value", ["1", '"x"', "null", '["x"]', '{"x": [1]}'])
def test_a_field_that_would_be_added_twice_is_refused_before_the_model_is_loaded(tmp_path, key, value):
    lines = f'{{"text": "good"}}\n{{"{key}": {value}, "text": "good"}}\n'
    with pytest.raises(DataError, match=rf"rows.jsonl:2: the row has `{key}` already.*--prefix predicted_"):
        predict("no/such/model", lines, tmp_path)


def test_with_a_prefix_both_are_kept(classifier, tmp_path):
    [row], _ = predict(classifier, '{"text": "good", "label": "mine"}\n', tmp_path, prefix="predicted_")
    assert [*row] == ["text", "label", "predicted_label", "predicted_score", "predicted_scores"]
    assert row["label"] == "mine"
    with pytest.raises(DataError, match="`p_score`"):
        predict(classifier, '{"text": "good", "p_score": 1}\n', tmp_path, prefix="p_")


def test_such_a_row_far_down_is_a_bad_line_like_others(classifier, tmp_path, monkeypatch):
    monkeypatch.setattr(prediction_rows, "WINDOW_ROWS", 1)
    monkeypatch.setattr("hf_finetune.data.reading.lines.CHUNK_BYTES", 20)
    rows, facts = predict(classifier, '{"text": "good"}\n{"text": "bad", "label": 1}\n{"text": "fine"}\n', tmp_path)
    assert [row["text"] for row in rows] == ["good", "fine"]
    assert facts.left_out == 1


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (b'{"txt": "good"}\n{"txt": "bad"}\n', "rows.jsonl:1: text: the key `txt` is not known; did you mean `text`?"),
        (b'[{"text": "good"}]\n', "one JSON array, not one object a line"),
        (b"PK\x03\x04", "a zip archive"),
    ],
)
def test_a_file_without_a_single_row_is_refused_before_the_model_is_loaded(tmp_path, rows, message):
    with pytest.raises(DataError) as refused:
        predict("no/such/model", rows, tmp_path)
    assert message in str(refused.value)


def test_a_file_that_is_not_there_is_said_to_be_so(tmp_path):
    for file, message in ((tmp_path / "nothing.jsonl", "no such file"), (tmp_path, "is a folder")):
        with pytest.raises(DataError, match=message):
            predict_file("no/such/model", str(file), io.BytesIO(), PredictionOptions())


def test_a_compressed_or_empty_file_is_read_too(classifier, tmp_path):
    plain, _ = predict(classifier, '{"text": "good"}\n', tmp_path)
    packed, _ = predict(classifier, gzip.compress(b'{"text": "good"}\n'), tmp_path)
    assert packed == plain
    assert predict(classifier, "", tmp_path)[1].rows == 0


@pytest.mark.parametrize(("content", "said"), [("", 1), ("\n \n", 1), ('{"text": "good"}\n', 0)])
def test_a_file_without_rows_is_said_to_have_none(classifier, tmp_path, caplog, content, said):
    predict(classifier, content, tmp_path)
    assert caplog.text.count("rows.jsonl holds no rows") == said


def test_texts_that_are_too_long_are_cut_and_counted(classifier, tmp_path, caplog):
    long, short = " ".join(["good"] * 40), " ".join(["good"] * (POSITIONS - 2))
    rows, facts = predict(classifier, as_lines([{"text": long}, {"text": short}]), tmp_path)
    assert facts.truncated == 1
    assert rows[0]["scores"] == pytest.approx(rows[1]["scores"], abs=1e-6)
    assert f"texts cut at {POSITIONS} tokens: 1" in caplog.text
    shorter, _ = predict(classifier, as_lines([{"text": "good good " + long}]), tmp_path, max_length=4)
    two_words, _ = predict(classifier, as_lines([{"text": "good good"}]), tmp_path)
    assert shorter[0]["scores"] == pytest.approx(two_words[0]["scores"], abs=1e-6)
    with pytest.raises(ConfigError, match="--max-length: 17 tokens are too long; the model takes 16"):
        predict(classifier, as_lines([{"text": long}]), tmp_path, max_length=17)


def test_a_decision_for_other_labels_is_refused(tmp_path):
    folder = saved_classifier(tmp_path / "model", LABELS, decision=Decision(("a", "b", "c"), "single"))
    with pytest.raises(ModelError, match=r"decision.json is for the labels a, b, c, the model has bad, good, so-so"):
        predict(folder, '{"text": "good"}\n', tmp_path)


@pytest.mark.parametrize(("before", "line"), [('{"text": "good"}\n', 2), ('{"text": "good"}\n\n', 3)])
def test_an_answer_that_is_no_number_ends_it(tmp_path, before, line):
    model = encoder(LABELS, "single_label_classification")
    with torch.no_grad():
        model.bert.embeddings.word_embeddings.weight[encoder_tokenizer().vocab["dull"]] = 3e38
    model.save_pretrained(tmp_path / "model")
    encoder_tokenizer().save_pretrained(tmp_path / "model")
    with pytest.raises(NonFiniteError, match=rf"rows.jsonl:{line}: the row has NaN or infinite logits"):
        predict(str(tmp_path / "model"), f'{before}{{"text": "dull"}}\n', tmp_path)


class MemoryAtEachFlush(io.RawIOBase):
    """Takes what is written, keeps none of it, and looks how large the process is."""

    def __init__(self) -> None:
        self.lines, self.megabytes = 0, []

    def writelines(self, lines):
        self.lines += sum(1 for _ in lines)

    def flush(self):
        if not self.closed:
            self.megabytes.append(megabytes())


def megabytes() -> float:
    return psutil.Process().memory_info().rss / 1e6


def test_memory_does_not_grow_with_the_file(classifier, tmp_path):
    block = as_lines([{"text": text, "payload": "x" * 3_000} for text in texts(2_000, 4)])
    predict(classifier, block, tmp_path)
    file, output, before = tmp_path / "long.jsonl", MemoryAtEachFlush(), megabytes()
    with file.open("w") as rows:
        rows.writelines(block for _ in range(20))  # 120 MB
    predict_file(classifier, str(file), output, PredictionOptions(batch_tokens=20_000))
    assert output.lines == 40_000
    assert len(output.megabytes) >= 12
    assert max(output.megabytes) - before < 60
    assert max(output.megabytes[-4:]) - max(output.megabytes[:4]) < 15


def test_two_labels_of_one_name_are_refused(tmp_path):
    model = saved_classifier(tmp_path / "model", ("bad", "good"))
    config = tmp_path / "model" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"id2label": {"0": "good", "1": "good"}}))
    with pytest.raises(ModelError, match="two of its labels have the same name; correct id2label"):
        predict(model, as_lines([{"text": "good"}]), tmp_path)


def test_a_batch_that_the_device_has_no_memory_for_names_the_setting(tmp_path, monkeypatch):
    model = saved_classifier(tmp_path / "model", ("bad", "good"))

    def run_out(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(BertForSequenceClassification, "forward", run_out)
    with pytest.raises(MachineError, match=r"--batch-tokens: a batch of [\d,]+ tokens is too large for the memory"):
        predict(model, as_lines([{"text": "good"}]), tmp_path)


def test_a_line_above_the_limit_is_named_and_the_others_are_labelled(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(prediction_rows, "MAX_LINE_BYTES", 100)
    model = saved_classifier(tmp_path / "model", ("bad", "good"))
    found, stats = predict(model, as_lines([{"text": "good " * 40}, {"text": "good"}]), tmp_path)
    assert (len(found), stats.left_out) == (1, 1)
    assert "rows.jsonl:1: the line has 212 bytes, more than the limit of 100" in caplog.text
