from __future__ import annotations

import io
import json
import os
import re
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from huggingface_hub import ModelCard
from hypothesis import given, settings
from hypothesis import strategies as st
from reporting.card.carded_models import FIGURES, ROWS_SHA256, SECRET_TEXT, finished_run, saved_models

from hf_finetune.errors import CannotWriteError, DataError
from hf_finetune.evaluation.prediction.predict import PredictionOptions, predict_file
from hf_finetune.privacy import redact
from hf_finetune.reporting.card import (
    MARKER,
    NO_LICENSE,
    build_metadata,
    find_source_run,
    make_unknown_run,
    render_card,
    write_card,
)
from hf_finetune.reporting.card.facts import describe_model
from hf_finetune.reporting.run_record import RunRecord, read_run

# As a stranger runs them: one process, nothing of ours in it.
RUN_SNIPPETS = """
import contextlib, io, json, sys, warnings
warnings.simplefilter("ignore")
sys.modules["hf_finetune"] = None  # an import of it fails
printed = {}
for name, code in json.load(sys.stdin).items():
    caught = io.StringIO()
    with contextlib.redirect_stdout(caught):
        exec(code, {"__name__": name})
    printed[name] = caught.getvalue()
print(json.dumps(printed))
"""


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict[str, Path]:
    return saved_models(tmp_path_factory.mktemp("carded"))


@pytest.fixture
def run(tmp_path) -> RunRecord:
    (tmp_path / "config.json").write_text('{"architectures": ["LlamaForCausalLM"]}')
    return read_run(finished_run(tmp_path, "sft"))


def with_settings(run: RunRecord, **sections) -> RunRecord:
    return replace(run, settings=run.settings | sections)


def test_the_snippet_of_every_kind_of_model_runs_and_gives_what_we_give(models, environment_of_a_user, tmp_path):
    base = {name: models["adapter"].parent / name for name in ("base", "backbone", "decoder")}
    codes = {}
    for name, folder in models.items():
        readme = folder / "README.md" if name.startswith("merged") else write_card(folder)
        code = re.search(r"```python\n(.*?)```", readme.read_text(), re.DOTALL)[1]
        # The places that a reader puts in.
        code = code.replace(f'name = "{name}"', f"name = {str(folder)!r}")
        for local, place in base.items():
            code = code.replace(f'    "{local}",', f"    {str(place)!r},")
        codes[name] = code
    environment = environment_of_a_user | {"HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    ran = subprocess.run(
        [sys.executable, "-c", RUN_SNIPPETS], input=json.dumps(codes), capture_output=True, text=True, env=environment
    )
    assert ran.returncode == 0, ran.stderr
    printed = {name: text.strip() for name, text in json.loads(ran.stdout.splitlines()[-1]).items()}
    assert printed["scratch"].startswith("the beginning of a text")
    assert printed["adapter"].startswith("the beginning of a text")
    assert printed.keys() == models.keys()
    speaking = {"scratch", "adapter", "chat", "grown_adapter", "merged_adapter", "merged_grown_adapter"}
    for name in printed.keys() - speaking:
        assert agree(printed[name], predicted(models[name])), name
    assert {printed["strict"], printed["lenient"]} == {"ham", "spam"}
    for name in ("adapter", "grown_adapter"):  # a merged model says what its adapter says
        assert printed[f"merged_{name}"] == printed[name] != ""


def predicted(folder: Path):
    rows = folder.parent / "row.jsonl"
    rows.write_text(json.dumps({"text": "a text to label"}))
    output = io.BytesIO()
    predict_file(str(folder), str(rows), output, PredictionOptions())
    return json.loads(output.getvalue())["label"]


def agree(printed: str, label) -> bool:
    return float(printed) == pytest.approx(label, abs=1e-5) if isinstance(label, float) else printed == str(label)


def test_the_metadata_is_read_by_the_hubs_client_as_it_was_written(models):
    for name, folder in models.items():
        run = find_source_run(folder)
        parsed = ModelCard(render_card(run)).data
        assert parsed.to_dict() == build_metadata(run), name
        if name.startswith("merged"):  # what was measured was its adapter
            continue
        results = {(result.metric_type, result.metric_value) for result in parsed.eval_results}
        assert results == {("loss", 2.25), ("perplexity", 9.4877), ("accuracy", 0.75)}
        assert {(each.dataset_split, each.dataset_revision) for each in parsed.eval_results} == {("test", ROWS_SHA256)}
    facts = {
        name: (build_metadata(find_source_run(folder)), describe_model(find_source_run(folder)))
        for name, folder in models.items()
    }
    assert {name: meta["library_name"] for name, (meta, _) in facts.items() if "adapter" in name} == {
        **dict.fromkeys(("adapter", "grown_adapter", "classifier_adapter", "scratch_classifier_adapter"), "peft"),
        **dict.fromkeys(("tags_adapter", "number_adapter"), "peft"),
        **dict.fromkeys(("merged_adapter", "merged_tags_adapter", "merged_grown_adapter"), "transformers"),
    }  # fmt: skip
    assert {meta["pipeline_tag"] for name, (meta, _) in facts.items() if "class" in name} == {"text-classification"}
    assert facts["chat"][0]["pipeline_tag"] == "text-generation"
    assert "conversational" in facts["chat"][0]["tags"]
    assert [facts[name][1].problem for name in ("scratch", "classifier", "tags", "number")] == [
        None, "single", "multi", "number",
    ]  # fmt: skip


def test_a_base_of_the_hub_is_named_with_its_relation_and_a_local_one_never(run, models, tmp_path):
    hub = with_settings(run, model={"path": "openai-community/gpt2"})
    assert build_metadata(hub)["base_model"] == "openai-community/gpt2"
    assert build_metadata(hub)["base_model_relation"] == "finetune"
    pinned = replace(hub, manifest=hub.manifest | {"model": {"name": "openai-community/gpt2", "revision": "607a30d7"}})
    adapter = replace(pinned, folder=models["adapter"])
    assert "base_model" not in build_metadata(adapter)  # the files of the folder say which base it stands on
    (tmp_path / "adapter_config.json").write_text('{"base_model_name_or_path": "openai-community/gpt2"}')
    assert build_metadata(pinned)["base_model_relation"] == "adapter"
    assert 'revision="607a30d7"' in render_card(pinned)
    local = replace(pinned, manifest={"model": {"name": "me/base", "revision": None, "sha256": {"a": "b"}}})
    assert "base_model" not in build_metadata(with_settings(local, model={"path": "me/base"}))
    assert "base_model" not in build_metadata(find_source_run(models["adapter"]))


def test_a_base_outside_the_working_folder_is_found_and_never_taken_for_a_model_of_the_hub(tmp_path):
    base, tuned = tmp_path / "acme" / "gpt2", tmp_path / "tuned"
    base.mkdir(parents=True)
    tuned.mkdir()
    (base / "README.md").write_text("---\nbase_model: me/its-own-base\n---\nmine")
    (tuned / "config.json").write_text('{"architectures": ["LlamaForCausalLM"]}')
    finished_run(tuned, "sft", settings={"model": {"path": str(base)}})
    (tuned / "run.yaml").write_text(f"model: {{path: {base}}}\n")
    text = render_card(find_source_run(tuned))
    assert ModelCard(text).data.base_model == "me/its-own-base"
    assert "gpt2" in text
    assert "acme" not in text


def test_the_base_of_a_local_base_is_found_in_its_own_card(tmp_path):
    base, tuned = tmp_path / "base", tmp_path / "tuned"
    base.mkdir()
    tuned.mkdir()
    (base / "README.md").write_text("---\nbase_model: openai-community/gpt2\n---\nmine")
    (tuned / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(base)}))
    found = build_metadata(find_source_run(finished_run(tuned, "lora", settings={"model": {"path": str(base)}})))
    assert (found["base_model"], found["base_model_relation"]) == ("openai-community/gpt2", "finetune")


@pytest.mark.parametrize(
    ("path", "loader"),
    [("a.csv", "csv"), ("A.TSV.gz", "csv"), ("a.parquet", "parquet"), ("a.jsonl.zst", "json"), ("a.csv.jsonl", "json")],
)
def test_the_type_of_a_data_set_is_the_loader_that_reads_its_file(run, path, loader):
    files = [{"role": "train", "path": path}]
    found = build_metadata(replace(run, manifest={**run.manifest, "data": {"files": files}}))
    assert found["model-index"][0]["results"][0]["dataset"]["type"] == loader
    two = [*files, {"role": "train", "path": "b.json" if loader != "json" else "b.csv"}]
    found = build_metadata(replace(run, manifest={**run.manifest, "data": {"files": two}}))
    assert found["model-index"][0]["results"][0]["dataset"]["type"] == "json"


def test_a_license_is_what_the_owner_says_and_never_made_up(run):
    assert "license" not in build_metadata(run)
    assert NO_LICENSE in render_card(run)
    said = with_settings(run, card={"license": "mit", "language": ["de"], "datasets": ["me/rows"], "tags": ["mail"]})
    found = build_metadata(said)
    assert (found["license"], found["language"], found["datasets"]) == ("mit", ["de"], ["me/rows"])
    assert found["tags"][-1] == "mail"
    assert found["model-index"][0]["results"][0]["dataset"]["type"] == "me/rows"
    assert NO_LICENSE not in render_card(said)


def test_what_is_not_known_is_said_to_be_unknown(run):
    unknown = replace(run, report={}, manifest={}, settings={})
    text = render_card(unknown)
    for words in (
        "What it was made from is not known.",
        "## Intended use\n\nNot stated by its owner.",
        "Nothing was measured.",
        "**Groups and counterfactual words:** not measured.",
        "not scanned, and not stated by its owner",
        "**Memorization:** not measured.",
        "## Data\n\nNot known.",
        "How it was trained is not known.",
        "**Machine:** not known.",
        "**Energy:** Not measured.",
        "The command is not known.",
    ):
        assert words in text, words
    assert build_metadata(unknown) == {
        "library_name": "transformers", "pipeline_tag": "text-generation", "tags": ["hf-finetune"],
    }  # fmt: skip
    stopped = render_card(replace(unknown, status="stopped", step=30, folder=Path("nowhere")))
    assert "holds no weights yet" in stopped
    assert "it stopped at step 30" in stopped


def test_a_figure_stands_beside_its_interval_the_base_and_the_baselines(run):
    compared = FIGURES | {
        "comparison": {
            "base": "gpt2",
            "figures": {"accuracy": {"base": 0.25, "tuned": 0.75}},
            "words": ["accuracy: 0.25 -> 0.75: a real difference"],
        },
        "per_class": {"ham": {"precision": 0.5, "recall": 1.0, "f1": 0.667, "support": 4}},
    }
    text = render_card(replace(run, report=run.report | {"evaluation": {"test": compared}}))
    assert "| accuracy | 75.0% | 50.0% to 100.0% | 25.0% | 50.0% |" in text
    assert "| Figure | This model | 95 % interval | base (gpt2) | majority |" in text
    assert r"test: accuracy: 0.25 -\> 0.75: a real difference" in text
    assert "| ham | 0.500 | 1.000 | 0.667 | 4 |" in text


def test_a_card_opens_with_what_the_model_does_how_much_better_it_is_what_it_says_and_how_to_load_it(run):
    verdict = {"outcome": "better", "verdict": "Better than its base: loss 3.00 -> 2.25, by 0.75 (0.5 to 1.0)"}
    prompts = ["How | so?", "Why?", "What?"]
    samples = [
        {"step": step, "prompt": prompt, "continuation": f"{text} *{prompt}*"}
        for step, text in ((0, "nothing"), (10, "an answer"))
        for prompt in (*prompts, SECRET_TEXT)
    ]
    told = with_settings(
        replace(
            run, report=run.report | {"evaluation": {"test": FIGURES | {"comparison": verdict}}, "samples": samples}
        ),
        eval={"prompts": prompts},
        model={"path": "openai-community/gpt2"},
    )
    text = render_card(told)
    order = [
        *("made from openai-community/gpt2", "Instruction tuning of all parameters, on 32 rows of rows.jsonl."),
        r"**Better than its base: loss 3.00 -\> 2.25, by 0.75 (0.5 to 1.0) (test).**",
        r"| How \| so? | nothing \*How \| so?\* | an answer \*How \| so?\* |",
        *(
            "| Why? |",
            "## How to load it",
            "**License:**",
            "## Intended use",
            "## Figures",
            "## Limits",
            "## Procedure",
        ),
    ]
    places = [text.index(part) for part in order]
    assert places == sorted(places)
    assert "| What? |" not in text, "two are enough"
    assert SECRET_TEXT not in text, "a prompt that the run file does not name may be a row"


def test_memorization_gaps_and_swaps_are_told_in_their_words(run):
    measured = FIGURES | {
        "slices": {"language": {"values": {}, "gaps": [{"words": f"gap number {n}"} for n in range(5)]}},
        "swaps": {"gender": {"words": ["changes nothing that 40 rows could show"]}},
        "memorization": {
            "canaries": [{"copies": 100, "canaries": 10, "exposure": 9.2, "most_possible": 10.0, "extracted": 0.3}],
            "words": ["3 of 10 canaries were given away"],
        },
    }
    text = render_card(replace(run, report=run.report | {"evaluation": {"test": measured}}))
    assert "| 100 | 10 | 9.2 | 10.0 | 30% |" in text
    assert "test: 3 of 10 canaries were given away" in text
    assert "test, by language: gap number 2" in text
    assert "gap number 3" not in text
    assert "words of the list gender swapped: changes nothing" in text
    assert "Memorization:** not measured" not in text


def test_a_figure_that_is_not_finite_is_shown_and_kept_out_of_the_model_index(run):
    scores = {"loss": "nan", "perplexity": "inf", "accuracy": 0.5}
    broken = replace(run, report=run.report | {"evaluation": {"test": scores}})
    [result] = build_metadata(broken)["model-index"][0]["results"]
    assert [metric["value"] for metric in result["metrics"]] == [0.5]
    assert "| loss | not defined |" in render_card(broken)


def test_references_that_no_answer_can_match_are_counted_below_the_figures(run):
    scores = {"exact_match": 0.0, "rows": 40, "decoding": {"rows": 40, "longer_references": 38, "max_new_tokens": 8}}
    text = render_card(replace(run, report=run.report | {"evaluation": {"test": scores}}))
    assert "38 references are longer than an answer of 8 tokens can be" in text
    scores["decoding"]["longer_references"] = 0
    run = replace(run, report=run.report | {"evaluation": {"test": scores}})
    assert "references are longer" not in render_card(run)


def test_energy_is_told_where_it_was_measured(run):
    train = run.report["train"] | {"energy": {"watt_hours": 12.34, "source": "GPUs (NVML) of 1"}}
    assert "12.3 Wh while training (GPUs (NVML) of 1)" in render_card(
        replace(run, report=run.report | {"train": train})
    )
    assert "**Energy:** Not measured." in render_card(run)


def test_no_row_no_path_and_no_host_is_in_a_card(models):
    for name, folder in models.items():
        text = render_card(find_source_run(folder))
        for private in (SECRET_TEXT, "somebody", str(folder.parent), str(Path.home()) + "/", socket.gethostname()):
            assert private not in text, (name, private)
        assert "rows.jsonl" in text or name.startswith("merged")


def test_the_users_own_readme_stays_and_ours_is_written_anew(run, tmp_path, caplog):
    readme = tmp_path / "README.md"
    readme.write_text("# Mine")
    assert write_card(tmp_path) == readme
    assert readme.read_text() == "# Mine"
    assert "README.md is yours" in caplog.text
    readme.write_text(f"{MARKER}\nof the run before")
    write_card(tmp_path)
    assert readme.read_text() == render_card(run)
    assert [path.name for path in tmp_path.iterdir() if path.name.endswith(".aside")] == []


def test_a_folder_that_cannot_be_written_or_read_says_so(run, tmp_path):
    (tmp_path / f".README.md.{os.getpid()}.aside").mkdir()
    with pytest.raises(CannotWriteError, match=r"README\.md: cannot be written"):
        write_card(tmp_path)
    (tmp_path / "report.json").write_text("{")
    with pytest.raises(DataError, match=r"report\.json"):
        write_card(tmp_path)


def test_a_merged_model_has_the_card_of_its_adapter_without_claiming_its_figures(models, tmp_path):
    merged = tmp_path / "merged"
    merged.mkdir()
    (merged / "config.json").write_text('{"architectures": ["LlamaForCausalLM"]}')
    text = write_card(merged, made_from=models["adapter"]).read_text()
    parsed = ModelCard(text).data.to_dict()
    assert (parsed["library_name"], parsed.get("model-index")) == ("transformers", None)
    assert "before both were merged" in text
    assert "PeftModel" not in text


def test_a_model_of_which_nothing_is_known_has_a_card_that_says_so(tmp_path):
    (tmp_path / "config.json").write_text('{"architectures": ["LlamaForCausalLM"]}')
    text = write_card(tmp_path).read_text()
    assert "What it was made from is not known" in text
    assert ModelCard(text).data.to_dict() == {
        "library_name": "transformers", "pipeline_tag": "text-generation", "tags": ["hf-finetune"],
    }  # fmt: skip


def test_a_pushed_card_names_the_place_that_it_is_pushed_to(run):
    text = render_card(run, repo_id="me/my-model")
    assert 'name = "me/my-model"' in text
    assert "# my-model\n" in text
    assert build_metadata(run, "me/my-model")["model-index"][0]["name"] == "me/my-model"


any_text = st.text(max_size=40)


@settings(max_examples=40)
@given(label=any_text, tag=any_text, folder=any_text, license=any_text)
def test_no_text_of_a_run_can_break_the_card(label, tag, folder, license):
    scores = {"accuracy": 0.5, "per_class": {label: {"precision": 0.5, "support": 3}, "b": {}}}
    report = {"recipe": "classification", "evaluation": {"test": scores}, "train": {"steps": 1}}
    manifest = {"data": {"files": [{"role": "train", "path": folder, "sha256": "1"}]}, "launch": f"accelerate {tag}"}
    section = {"card": {"tags": [tag], "license": license, "datasets": [folder]}}
    run = replace(make_unknown_run(Path("nowhere")), report=report, manifest=redact(manifest), settings=section)
    text = render_card(run)
    assert ModelCard(text).data.to_dict() == build_metadata(run)
    body = text.split(MARKER)[1]
    assert all(character.isprintable() or character == "\n" for character in body)
    tables = [line for line in body.splitlines() if line.startswith("| ")]
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in tables} <= {3, 4, 6, 7}
    assert body.count("```") % 2 == 0
