"""A classifier behind HTTP says what `hf-finetune predict` writes; as a filter it refuses."""

from __future__ import annotations

import io
import json

import pytest
from chat_models import saved_parrot
from release.serve.small_servers import SAYS_HEY, Client, served
from tuned_classifiers import SPAM, TAGS, TOKENIZER, classifier_on, saved_backbone, train_classifier

from hf_finetune.errors import ConfigError
from hf_finetune.evaluation.prediction.predict import PredictionOptions, predict_file
from hf_finetune.models.decision import Decision, write_decision
from hf_finetune.release.serve.filters import REFUSAL, load_filters
from hf_finetune.release.serve.options import Limits, ServeOptions
from hf_finetune.release.serve.server import load_classifier_server

TEXTS = ["good morning", "x", "", "Buy now, buy now, buy now", "no." * 40]


def saved(folder, labels, decision):
    base = saved_backbone(folder / "base", "bert")
    model = train_classifier(classifier_on(base, labels), labels)
    model.save_pretrained(folder / "run")
    TOKENIZER.save_pretrained(folder / "run")
    write_decision(decision, folder / "run")
    return folder / "run"


DECISIONS = {
    "single": (SPAM, Decision(SPAM.names, "single", temperature=1.7, thresholds=(0.45, 0.55))),
    "multi": (TAGS, Decision(TAGS.names, "multi", temperature=0.8, thresholds=(0.3, 0.5, 0.6))),
}


@pytest.mark.parametrize("kind", DECISIONS)
def test_it_says_what_predict_writes_with_temperature_and_thresholds(tmp_path, kind):
    run = saved(tmp_path, *DECISIONS[kind])
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS), encoding="utf-8")
    written = io.BytesIO()
    predict_file(str(run), str(rows), written, PredictionOptions())
    expected = [json.loads(line) for line in written.getvalue().splitlines()]
    with load_classifier_server(ServeOptions(str(run), limits=Limits()), None) as running:
        client = Client(running)
        answer = client.post("/classify", {"text": TEXTS}).json()
        assert [{"text": text, **row} for text, row in zip(TEXTS, answer["results"], strict=True)] == expected
        assert answer["truncated"] == 1
        [one] = client.post("/classify", {"text": TEXTS[0], "top_k": 1}).json()["results"]
        assert one["label"] == expected[0]["label"]
        assert len(one["scores"]) == 1
        assert client.post("/classify", {"text": ["a"], "text_pair": ["b", "c"]}).status_code == 400
        assert client.post("/classify", {"text": []}).status_code == 400
        elsewhere = client.post("/v1/chat/completions", {"messages": [{"role": "user", "content": "a"}]})
        assert elsewhere.status_code == 404
        said = (
            "/v1/chat/completions is no path of this server: `run` is a classifier, which is asked by POST at /classify"
        )
        assert elsewhere.json()["error"]["message"] == said
        assert client.get("/v1/models").json()["data"][0]["id"] == "run"
        assert client.get("/health").json() == {"status": "ok"}
        assert client.count('hf_finetune_tokens_total{model="run"}') == len(TEXTS) + 1


def test_options_of_language_models_are_refused_with_a_classifier():
    options = ServeOptions("run", base=True, filters=("words.txt",), votes="votes.jsonl")
    with pytest.raises(ConfigError) as refused:
        load_classifier_server(options, None)
    assert [each.key for each in refused.value.problems] == ["--base", "--filter", "--votes"]


def test_as_a_filter_it_refuses_prompts_and_answers_of_a_label(tmp_path):
    run = saved(tmp_path, *DECISIONS["single"])
    hey = saved_parrot(tmp_path / "hey", SAYS_HEY)
    with pytest.raises(ConfigError, match=r"spamm: no label of this classifier, which has ham, spam.*\[HF875\]"):
        load_filters([f"{run}=ham,spamm"])
    with load_classifier_server(ServeOptions(str(run)), None) as running:
        asked = Client(running).post("/classify", {"text": ["hi", "hey."]}).json()["results"]
    labels = [each["label"] for each in asked]
    for label in SPAM.names:
        with served(hey, filters=(f"{run}={label}",)) as running:
            client = Client(running)
            assert client.say("hi") == (REFUSAL if label in labels else "hey.")
            refused = [client.count(f'hf_finetune_refusals_total{{what="{what}"}}') for what in ("prompt", "answer")]
            assert refused == [float(labels[0] == label), float(labels[0] != label and labels[1] == label)]
