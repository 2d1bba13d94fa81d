"""docs/python-api.md is run as it stands; what else the functions for a notebook promise."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from evaluation.prediction.labelling_models import saved_classifier

import hf_finetune as hf
from hf_finetune.config import load_run
from hf_finetune.environment.project_files import init_project
from hf_finetune.errors import DataError

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "python-api.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
RUN = {
    "recipe": "continued_pretraining",
    "model": {"scratch": {"preset": "nano"}, "tokenizer": {"train": {"kind": "char"}}},
    "data": {"train": "data_templates/text.jsonl", "block_size": 64},
    "output_dir": "runs/x",
}


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """What the page's blocks leave, run one after the other in a folder that `init` made."""
    folder = tmp_path_factory.mktemp("notebook")
    init_project(folder)
    ending = "\nimport json; json.dump({'loss': loss, 'parameters': parameters, 'text': text, 'rows': rows, "
    ending += "'interval': interval, 'message': message, 'argv': sys.argv}, open('seen.json', 'w'))"
    program = "\n".join(["import sys", *BLOCKS]) + ending
    done = subprocess.run([sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder, json.loads((folder / "seen.json").read_text())


def test_the_page_does_what_it_says(page):
    _, seen = page
    assert seen["loss"] > 0
    assert seen["parameters"] > 1000
    assert len(seen["text"]) == 8
    assert [row["text"] for row in seen["rows"]] == ["Where is my parcel?", "I was charged twice."]
    assert seen["rows"][1]["id"] == 7
    assert {"label", "score", "scores"} <= seen["rows"][0].keys()
    assert seen["interval"][0] < seen["interval"][1]
    assert seen["argv"] == ["-c"]  # as it was before
    assert "data.trian: is not a setting of the section data; did you mean data.train?" in seen["message"]


def test_a_run_leaves_the_folder_of_the_command_and_a_command_that_makes_it_again(page):
    folder, _ = page
    for name in ("again", "notebook"):
        run = folder / "runs" / name
        assert {"report.json", "report.html", "run.yaml", "manifest.json", "README.md", "model.safetensors"} <= {
            path.name for path in run.iterdir()
        }
    again, notebook = (
        json.loads((folder / "runs" / name / "manifest.json").read_text()) for name in ("again", "notebook")
    )
    assert again["launch"].startswith("accelerate launch recipes/continued_pretraining.py recipes/configs/")
    assert (
        notebook["launch"]
        == "accelerate launch recipes/continued_pretraining.py runs/notebook/run.yaml output_dir=runs/notebook-again"
    )
    made = [str(folder / "runs" / "notebook" / "run.yaml"), "output_dir=elsewhere"]
    settings = load_run(made, "continued_pretraining")
    assert settings.train["learning_rate"] == 0.01
    assert settings.train["max_steps"] == 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"trian": {}}, r"^trian: .*did you mean train\?"),
        ({"train": {"lerning_rate": 1}}, r"^train\.lerning_rate: .*did you mean train.learning_rate\?"),
        ({"data": {"train": ["data_templates/text.jsonl", 3]}}, r"^data\.train"),
        ({"recipe": "sftt"}, r"^recipe: 'sftt' is not a recipe.*did you mean sft\?"),
        ({"recipe": None}, r"^recipe: "),
    ],
)
def test_a_dict_gets_the_messages_of_a_run_file_with_the_key_in_place_of_the_line(change, message, monkeypatch):
    monkeypatch.chdir(ROOT)
    with pytest.raises(hf.FinetuneError) as refused:
        hf.train({**RUN, **change})
    assert re.search(message, str(refused.value), re.MULTILINE), str(refused.value)
    assert not re.search(r"^:|:1:|None", str(refused.value), re.MULTILINE)


def test_overrides_are_sections_or_single_settings_and_their_mistakes_are_named(monkeypatch):
    monkeypatch.chdir(ROOT)
    with pytest.raises(hf.FinetuneError) as refused:
        hf.train(RUN, train={"max_stepz": 3}, **{"data.block_sise": 8})
    assert "train.max_stepz" in str(refused.value)
    assert "data.block_sise" in str(refused.value)
    assert "command line" not in str(refused.value)


def test_what_is_no_run_and_no_rows_is_said_in_one_message(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(hf.FinetuneError, match="5 is no run; give a run file, or a dict of its sections"):
        hf.train(5)
    with pytest.raises(hf.FinetuneError, match=r"Where is my parcel.: no such file; name a JSONL file, or give a list"):
        hf.predict("no-such-model", "Where is my parcel?")


def test_the_names_of_the_package_are_those_that_it_offers():
    assert [name for name in dir(hf) if not name.startswith("_")] == sorted(set(hf.__all__) - {"__version__"})


@pytest.mark.parametrize(
    ("options", "message"), [({"temprature": 1}, "did you mean temperature?"), ({"top_k": 0}, "top_k")]
)
def test_a_wrong_option_of_generate_is_refused_before_a_model_is_loaded(options, message):
    with pytest.raises(hf.FinetuneError, match=re.escape(message)):
        hf.generate("no-such-model", ["x"], **options)


def test_importing_is_quick_and_loads_no_torch():
    code = "import hf_finetune as hf, sys; hf.train, hf.score, hf.predict, hf.generate; print('torch' in sys.modules)"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown.strip() == "False"


def test_rows_that_cannot_be_labeled_are_counted(tmp_path):
    model = saved_classifier(tmp_path / "model", ("bad", "good"))
    (tmp_path / "rows.jsonl").write_text('{"text": "good"}\n{"txet": "bad"}\n')
    with pytest.raises(DataError, match="1 of 2 rows could not be labeled; put right what the log says"):
        hf.predict(model, tmp_path / "rows.jsonl")
