"""`recipes/score.py` and `hf-finetune score`: what they measure is what the runs, and plain transformers, say too."""

from __future__ import annotations

import json
import logging
import math
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from cached_datasets import put_into_cache
from evaluation.prediction.labelling_models import saved_classifier
from tuned_adapters import TOKENIZER, adapter_on, save, saved_base, train
from tuned_classifiers import NUMBER, classifier_on, saved_backbone
from typer.testing import CliRunner

from hf_finetune.chat.template import encode_prompt
from hf_finetune.cli import app
from hf_finetune.config import build_run
from hf_finetune.errors import ConfigError, DataError, ModelError, NonFiniteError
from hf_finetune.evaluation.generation.prompts import generate_answer
from hf_finetune.evaluation.scoring import load_scored_rows, score_model, with_greedy_decoding
from hf_finetune.metric_info import get_metric_info
from hf_finetune.models.saved import load_for_generation

ROOT = Path(__file__).resolve().parent.parent


def jsonl(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def questions(count: int) -> list[dict]:
    """Rows of two fields, and two that no recipe reads."""
    words = ("cat", "dog", "cow", "fox")
    return [
        {
            "question": f"Is it a {words[number % 4]}?",
            "answer": f"A {words[(number + 1) % 4]}, he said.",
            "language": ("en", "de")[number % 2],
            "meta": {"source": f"s{number % 3}"},
        }
        for number in range(count)
    ]


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict[str, str]:
    """A tiny base that can chat, and an adapter on it."""
    folder = tmp_path_factory.mktemp("models")
    base = saved_base(folder / "base")
    TOKENIZER.chat_template = (ROOT / "hf_finetune/chat/templates/plain.jinja").read_text()
    try:
        TOKENIZER.save_pretrained(base)
        adapter = save(train(adapter_on(base, {"r": 4}), steps=20), folder / "adapter")
    finally:
        TOKENIZER.chat_template = None
    return {"base": str(base), "adapter": str(adapter)}


def scored(model: str, rows: Path, more: dict | None = None, **settings):
    values = {"model": {"path": model}, "data": {"test": str(rows)} | (more or {}), "output_dir": "?"}
    run = with_greedy_decoding(build_run(values | {"eval": {"max_new_tokens": 4, **settings}}, "score"))
    return score_model(run, load_scored_rows(run)).evaluation


def test_the_loss_is_the_models_own_and_the_answers_are_those_of_one_prompt_at_a_time(models, tmp_path):
    rows = questions(24)
    found = scored(models["base"], jsonl(tmp_path / "rows.jsonl", rows))
    model, tokenizer = load_for_generation(models["base"])
    nll, tokens, same = 0.0, 0, 0
    data = {"test": str(tmp_path / "rows.jsonl")}
    settings = build_run({"model": {"path": "m"}, "data": data, "output_dir": "?"}, "score").eval
    settings = settings.model_copy(update={"temperature": 0.0, "max_new_tokens": 4})
    for row in rows:
        asked = [{"role": "user", "content": row["question"]}]
        prompt = encode_prompt(tokenizer, asked)
        whole = tokenizer.apply_chat_template([*asked, {"role": "assistant", "content": row["answer"]}], tokenize=False)
        ids = tokenizer(whole, add_special_tokens=False)["input_ids"]
        end = ids.index(tokenizer.eos_token_id, len(prompt)) + 1
        with torch.no_grad():
            logits = model(torch.tensor([ids])).logits[0].double()
        losses = torch.nn.functional.cross_entropy(logits[:-1], torch.tensor(ids[1:]), reduction="none")
        nll += losses[len(prompt) - 1 : end - 1].sum().item()
        tokens += end - len(prompt)
        same += generate_answer(model, tokenizer, asked, settings).continuation.strip() == row["answer"]
    assert found["loss"] == pytest.approx(nll / tokens, rel=1e-5)
    assert found["perplexity"] == pytest.approx(math.exp(nll / tokens), rel=1e-5)
    assert found["exact_match"] == same / len(rows)
    assert found["rows"] == 24
    assert found["decoding"] == {
        "rows": 24,
        "greedy": True,
        "longer_references": 24,
        "repetition_penalty": 1.0,
        "max_new_tokens": 4,
        "batch_size": 16,
    }
    low, high = found["intervals"]["loss"]
    assert low <= found["loss"] <= high


@pytest.mark.parametrize("where", ["its own setting", "the run of the model"])
def test_rows_of_a_group_are_resampled_together(where, models, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    rows = [row | {"author": number // 2} for number, row in enumerate(questions(60))]
    path, model, more = jsonl(tmp_path / "rows.jsonl", rows), models["base"], {"group_by": "author"}
    if where == "the run of the model":
        model, more = str(tmp_path / "model"), {}
        shutil.copytree(models["base"], model)
        Path(model, "run.yaml").write_text("data: {group_by: author}\n")
    run = with_greedy_decoding(
        build_run(
            {
                "model": {"path": model},
                "data": {"test": str(path)} | more,
                "output_dir": "?",
                "eval": {"generate_rows": 0},
            },
            "score",
        )
    )
    splits = load_scored_rows(run)
    found = splits.groups["test"].reshape(30, 2)
    assert np.array_equal(found[:, 0], found[:, 1])
    assert sorted(found[:, 0]) == list(range(30))
    assert score_model(run, splits).evaluation["intervals"]["loss"]
    assert ("as the model's run has it" in caplog.text) == (where != "its own setting")
    if where == "the run of the model":
        jsonl(path, questions(24))
        assert load_scored_rows(run).groups == {}
        assert "rows without the field author" in caplog.text


def test_references_longer_than_an_answer_can_be_are_counted_and_warned_of_once(models, tmp_path, caplog):
    answers = ["A cat, he said.", "Two dogs.", "Cow", "Fox" + "." * 9]
    file = jsonl(tmp_path / "rows.jsonl", [{"question": "Is it?", "answer": answer} for answer in answers])
    tokenizer = load_for_generation(models["base"])[1]
    # A token a character: of the last, exact match compares three, as of "Cow".
    assert list(map(len, tokenizer(answers, add_special_tokens=False)["input_ids"])) == [15, 9, 3, 12]
    caplog.set_level("WARNING", logger="hf_finetune")  # whatever a command in this process has left
    found = scored(models["adapter"], file, base=True, max_new_tokens=4)
    assert found["decoding"]["longer_references"] == 2
    (warning,) = [each.getMessage() for each in caplog.records if "references" in each.getMessage()]
    assert warning.startswith("exact match cannot be above 0 for 2 of 4 answers: their references are longer")
    caplog.clear()
    assert scored(models["adapter"], file, max_new_tokens=15)["decoding"]["longer_references"] == 0
    assert scored(models["adapter"], file, generate_rows=0)["rows"] == 4
    assert "references" not in caplog.text


def test_a_document_longer_than_the_model_takes_is_read_to_its_end(models, tmp_path):
    text = "The quick brown fox jumps over the lazy dog. " * 5
    found = scored(models["base"], jsonl(tmp_path / "rows.jsonl", [{"text": text}, {"text": "Short."}]))
    model, tokenizer = load_for_generation(models["base"])
    nll, tokens = 0.0, 0
    begin = tokenizer.bos_token_id or tokenizer.eos_token_id
    for each in (text, "Short."):
        ids = [begin, *tokenizer(each, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
        tokens += len(ids) - 1
        for start in range(0, len(ids) - 1, 63):  # windows of 64 tokens that share one
            window = torch.tensor([ids[start : start + 64]])
            with torch.no_grad():
                nll += model(window, labels=window).loss.item() * (window.shape[1] - 1)
    assert found["loss"] == pytest.approx(nll / tokens, rel=1e-5)
    assert found["bits_per_byte"] == pytest.approx(nll / math.log(2) / len((text + "Short.").encode()), rel=1e-4)
    assert "exact_match" not in found


def test_an_adapter_is_compared_with_its_base_and_with_words_swapped(models, tmp_path):
    rows = jsonl(tmp_path / "rows.jsonl", questions(30))
    forget = jsonl(tmp_path / "forget.jsonl", [{"text": f"He saw the {word}."} for word in ("cat", "dog", "cow")])
    found = scored(
        models["adapter"], rows, base=True, forget=str(forget), swaps=["gender"], by=["language", "meta.source"]
    )
    alone = scored(models["base"], rows)
    compared = found["comparison"]["figures"]["loss"]
    assert compared["base"] == pytest.approx(alone["loss"], rel=1e-6)
    assert compared["tuned"] == found["loss"]
    assert found["comparison"]["base"] == models["base"]
    assert found["forgetting"]["rows"] == 3
    assert found["forgetting"]["data"].endswith("forget.jsonl")
    assert found["swaps"]["gender"]["rows"] == 30
    assert set(found["slices"]) == {"language", "meta.source"}
    assert [of["rows"] for of in found["slices"]["language"]["values"].values()] == [15, 15]
    german = scored(
        models["adapter"], jsonl(tmp_path / "de.jsonl", [r for r in questions(30) if r["language"] == "de"])
    )
    assert found["slices"]["language"]["values"]["de"]["loss"] == pytest.approx(german["loss"], rel=1e-5)


def test_rows_that_training_takes_are_scored_too_and_only_those_with_an_answer_are_answered(models, tmp_path):
    rows = [{"messages": [{"role": "assistant", "content": "A cat."}]}]
    rows += [{"messages": [{"role": "user", "content": "Is it?"}, {"role": "assistant", "content": "A cat."}]}] * 3
    assert scored(models["base"], jsonl(tmp_path / "rows.jsonl", rows))["decoding"]["rows"] == 3
    empty = [*questions(3), {"question": "Is it?", "answer": ""}]
    found = scored(models["base"], jsonl(tmp_path / "empty.jsonl", empty))
    assert (found["rows"], found["decoding"]["rows"]) == (4, 3)


def test_words_and_bytes_do_not_depend_on_where_a_long_document_is_cut(models, tmp_path):
    text = "supercalifragilistic " * 30
    found = scored(models["base"], jsonl(tmp_path / "rows.jsonl", [{"text": text}]))
    nll = found["loss"] * (len(text) + 1)  # a token for each character, and the end
    assert found["word_perplexity"] == pytest.approx(math.exp(nll / 30), rel=1e-4)
    assert found["bits_per_byte"] == pytest.approx(nll / math.log(2) / len(text), rel=1e-6)


def test_a_model_that_gives_no_numbers_is_not_scored(models, tmp_path):
    model, tokenizer = load_for_generation(models["base"])
    model.model.norm.weight.data.fill_(3e38)  # a number, and its products are none
    model.save_pretrained(tmp_path / "broken")
    tokenizer.save_pretrained(tmp_path / "broken")
    with pytest.raises(NonFiniteError, match="4 of 4 rows have NaN or infinite logits"):
        scored(str(tmp_path / "broken"), jsonl(tmp_path / "rows.jsonl", questions(4)))


def test_a_regression_is_scored_on_its_numbers(tmp_path):
    model = classifier_on(saved_backbone(tmp_path / "bert", "bert"), NUMBER)
    model.save_pretrained(tmp_path / "model")
    TOKENIZER.save_pretrained(tmp_path / "model")
    rows = jsonl(tmp_path / "rows.jsonl", [{"text": "abc" * n, "label": n / 2} for n in range(1, 6)])
    assert scored(str(tmp_path / "model"), rows)["mae"] > 0
    with pytest.raises(DataError, match=r"words.jsonl:1"):
        scored(str(tmp_path / "model"), jsonl(tmp_path / "words.jsonl", [{"text": "abc", "label": "good"}]))


def test_what_is_known_by_heart_is_named_by_file_and_line(models, tmp_path):
    text = "The quick brown fox jumps over the lazy dog."
    train_rows = jsonl(tmp_path / "train.jsonl", [{"text": text}, {"text": "Hi."}, {"text": text[::-1]}])
    found = scored(models["base"], train_rows, {"train": str(train_rows)}, verbatim_prefix=8)
    assert found["memorization"]["verbatim"]["rows"] == 2
    assert found["memorization"]["verbatim"]["places"] == []


def test_a_classifier_gets_the_figures_of_its_own_run(run_recipe, tmp_path):
    labels = ("ham", "spam")
    for name, start, count in (("train", 0, 24), ("validation", 30, 9), ("test", 60, 8)):
        rows = [
            {"text": "ab"[n % 2] * (1 + n % 3) + f" he {n} x" * (1 + n % 5), "label": labels[n % 7 % 2], "kind": n % 2}
            for n in range(start, start + count)
        ]
        jsonl(tmp_path / f"{name}.jsonl", rows)
    files = [f"data.{name}={tmp_path}/{name}.jsonl" for name in ("train", "validation", "test")]
    base = saved_backbone(tmp_path / "bert", "bert")
    report = run_recipe(
        *("classification", *files, f"model.path={base}", "model.scratch=null", "model.tokenizer=null"),
        *("data.validation_fraction=null", "data.test_fraction=null", "data.stratify_by=null"),
        *("train.max_steps=4", "train.eval_strategy=no", "train.save_strategy=no"),
        *("train.load_best_model_at_end=false", "train.metric_for_best_model=null", "train.bf16=false"),
        "eval.threshold_metric=f1_macro",
    )
    folder = str(tmp_path / "run")
    found = scored(folder, tmp_path / "test.jsonl", by=["kind"], swaps=["gender"], base=folder)
    own = report["evaluation"]["test"]
    for name in ("accuracy", "f1_macro", "matthews_correlation", "roc_auc", "log_loss", "loss"):
        assert found[name] == pytest.approx(own[name], abs=1e-5), name
    assert found["confusion_matrix"] == own["confusion_matrix"]
    assert found["swaps"]["gender"]["changed"] <= 1
    assert found["comparison"]["figures"]["accuracy"]["difference"] == 0
    assert list(found["slices"]["kind"]["values"]) == ["0", "1"]
    with pytest.raises(ConfigError, match=r"eval.canaries|what a classifier was tuned from"):
        scored(
            folder, tmp_path / "test.jsonl", base=True, verbatim_prefix=4, more={"train": str(tmp_path / "train.jsonl")}
        )
    jsonl(tmp_path / "wrong.jsonl", [{"text": "a", "label": "ham"}, {"text": "b", "label": "Spam"}])
    with pytest.raises(DataError, match=r"wrong.jsonl:2: label: the model has no label 'Spam'; did you mean 'spam'\?"):
        scored(folder, tmp_path / "wrong.jsonl")


def test_two_processes_measure_to_the_last_bit_what_one_does(models, run_recipe, tmp_path, preloaded):
    rows = jsonl(tmp_path / "rows.jsonl", questions(37))
    settings = [f"model.path={models['adapter']}", f"data.test={rows}", "eval.max_new_tokens=3", "eval.batch_size=4"]
    one = run_recipe("score", *settings)
    command = ["accelerate", "launch", "--config_file", "accelerate_configs/cpu_2proc.yaml", "recipes/score.py"]
    command += ["recipes/configs/score.yaml", *settings, f"output_dir={tmp_path}/two"]
    done = subprocess.run(command, cwd=ROOT, env=preloaded, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    two = json.loads((tmp_path / "two" / "report.json").read_text())
    assert (one["distributed"]["processes"], two["distributed"]["processes"]) == (1, 2)
    assert two["evaluation"] == one["evaluation"]
    assert (tmp_path / "two" / "report.html").is_file()
    assert not (tmp_path / "two" / "README.md").exists()  # there is no model in it


def test_the_command_says_it_in_words_and_in_json(models, tmp_path):
    rows = jsonl(tmp_path / "rows.jsonl", questions(12))
    arguments = ["score", models["adapter"], str(rows), "--base", "--max-new-tokens", "2", "--by", "language"]
    said = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert said.stdout.splitlines()[0].split() == ["rows", "12"]
    titles = {get_metric_info(name).title for name in ("perplexity", "word_perplexity", "answer_tokens", "stop_rate")}
    assert all(any(title in line for line in said.stdout.splitlines()) for title in titles)
    assert f"beside {models['base']}" in said.stdout
    assert "by language" in said.stdout
    printed = CliRunner().invoke(app, [*arguments, "--json"], catch_exceptions=False).stdout
    few = CliRunner().invoke(app, [*arguments[:4], "--generate-rows", "5"], catch_exceptions=False).stdout
    assert few.splitlines()[0].split(maxsplit=2) == ["rows", "12", "5 of them answered"]
    assert "12 rows (5 of them answered)" in few
    found = json.loads(printed, parse_constant=pytest.fail)  # a short answer repeats nothing: NaN, which JSON has not
    assert found["rows"] == 12


def test_the_command_leaves_wrong_rows_out_where_it_is_told_to(models, tmp_path):
    rows = jsonl(tmp_path / "rows.jsonl", [*questions(3), {"question": "no answer"}])
    arguments = ["score", models["base"], str(rows), "--generate-rows", "0", "--json"]
    with pytest.raises(DataError, match=r"rows.jsonl:4: answer"):
        CliRunner().invoke(app, arguments, catch_exceptions=False)
    done = CliRunner().invoke(app, [*arguments, "--on-bad-line", "skip"], catch_exceptions=False)
    assert json.loads(done.stdout)["rows"] == 3


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"by": ["langauge"]}, r"no row has the field langauge; did you mean language\?"),
        ({"forget": "rows.jsonl"}, r"eval.forget: needs the model as it was before"),
        ({"swaps": ["genders"]}, r"eval.swaps"),
        ({"base": True, "forget": {"path": "rows.jsonl", "weight": 2.0}}, r"eval.forget: has a weight"),
        ({"verbatim_prefix": 4}, r"eval.verbatim_prefix: needs the rows that the model was trained on"),
        ({"canaries": "none.jsonl"}, r"eval.canaries: no such file: none.jsonl"),
        ({"base": "no/such/folder"}, r"eval.base: no such folder"),
    ],
)
def test_what_cannot_be_scored_is_said_before_a_model_is_loaded(models, tmp_path, monkeypatch, settings, message):
    monkeypatch.chdir(tmp_path)
    rows = jsonl(tmp_path / "rows.jsonl", questions(4))
    with pytest.raises((ConfigError, DataError), match=message):
        scored(models["base"], rows, **settings)


def test_scores_are_recorded_in_the_report_and_the_card_of_the_run(run_recipe, tmp_path, models):
    run_recipe("sft", f"model.path={models['base']}", "train.max_steps=1", "eval.prompts=[]", "data.too_long=cut",
               "train.eval_strategy=no", "train.save_strategy=no", "train.load_best_model_at_end=false",
               "data.max_dropped=1", f"data.train={jsonl(tmp_path / 'sft.jsonl', questions(6))}")  # fmt: skip
    rows = jsonl(tmp_path / "rows.jsonl", questions(12))
    command = ["score", str(tmp_path / "run"), str(rows), "--max-new-tokens", "2", "--record", "questions"]
    said = CliRunner().invoke(app, command, catch_exceptions=False)
    assert said.exit_code == 0, said.output
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert report["evaluation"]["questions"]["rows"] == 12
    assert "questions" in (tmp_path / "run" / "README.md").read_text()
    assert "questions" in (tmp_path / "run" / "report.html").read_text()
    with pytest.raises(ConfigError, match="there is no report"):
        CliRunner().invoke(app, [*command[:1], models["base"], *command[2:]], catch_exceptions=False)


@pytest.mark.parametrize(
    ("labels", "said"),
    [((["cat"], ["dog", "cat"]), "label: a row has several labels, and the model gives one"), (("cat", "dgo"), "dog")],
)
def test_a_label_that_the_classifier_cannot_give_is_named_by_file_and_line(tmp_path, labels, said):
    model = saved_classifier(tmp_path / "model", ("cat", "dog"))
    rows = jsonl(tmp_path / "rows.jsonl", [{"text": "good day", "label": label} for label in labels])
    with pytest.raises(DataError, match=rf"rows.jsonl:2: .*{re.escape(said)}"):
        scored(model, rows)


def test_a_classifier_is_compared_with_one_of_the_same_labels(tmp_path):
    model, other = (
        saved_classifier(tmp_path / name, labels) for name, labels in (("a", ("cat", "dog")), ("b", ("cat", "fox")))
    )
    rows = jsonl(tmp_path / "rows.jsonl", [{"text": "good day", "label": "cat"}, {"text": "bad day", "label": "dog"}])
    with pytest.raises(ModelError, match=r"its labels are cat, fox \(single\); those of the model cat, dog \(single\)"):
        scored(model, rows, base=other)


def test_words_that_no_row_has_are_not_swapped_and_that_is_said(models, tmp_path, caplog):
    rows = jsonl(tmp_path / "rows.jsonl", [{"question": "Is it a cat?", "answer": "A dog."}] * 2)
    found = scored(models["base"], rows, swaps=["gender"], generate_rows=0)
    assert "swaps" not in found
    assert "no row has a word of the list gender: nothing was swapped" in caplog.text


def test_the_rows_of_a_text_file_cannot_be_split_by_a_field(models, tmp_path):
    (tmp_path / "rows.txt").write_text("The cat sat.\nThe dog ran.\n")
    with pytest.raises(ConfigError, match=r"eval.by: rows of a text file have no fields"):
        scored(models["base"], tmp_path / "rows.txt", {"format": "lines"}, by=["author"])


def test_of_a_hub_data_set_the_test_rows_are_scored_and_cannot_be_split_by_a_field(models, datasets_cache):
    put_into_cache(datasets_cache, "some-org/asked", train=questions(6), test=questions(4))
    assert scored(models["base"], Path("some-org/asked"), generate_rows=0)["rows"] == 4
    said = r"eval.by: some-org/asked is not a local file, whose rows could be read again; save the data set as JSONL"
    with pytest.raises(ConfigError, match=said):
        scored(models["base"], Path("some-org/asked"), by=["language"])


TASK = """\
task: cats
dataset_path: json
dataset_kwargs: {data_files: {test: rows.jsonl}}
test_split: test
output_type: loglikelihood
doc_to_text: "{{question}}"
doc_to_target: "{{answer}}"
metric_list: [{metric: acc}]
"""


def test_a_task_of_the_harness_is_scored_and_one_that_it_does_not_know_refused(models, tmp_path, monkeypatch):
    pytest.importorskip("lm_eval")
    monkeypatch.chdir(tmp_path)
    rows = jsonl(tmp_path / "rows.jsonl", questions(4))
    (tmp_path / "cats.yaml").write_text(TASK)
    found = scored(models["base"], rows, harness=["cats.yaml"], generate_rows=0)["harness"]
    assert 0 <= found["cats"]["acc"] <= 1
    with pytest.raises(ConfigError, match=r"eval.harness: the harness has no task cast; name one of"):
        scored(models["base"], rows, harness=["cast"], generate_rows=0)
