"""`hf-finetune new`: of every template and thirty odd files a run file that loads, and whose first step trains."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from typing import Any

import pytest
from chat_models import saved_parrot
from preflight.odd_files import CHAT, LABELS, ODD, PRETRAIN, sentence, write_jsonl

from hf_finetune.config import load_run
from hf_finetune.preflight import NewRun, make_run_file

ROOT = Path(__file__).resolve().parents[2]
TEMPLATES = {
    **dict.fromkeys(("text", "text_domain", "text_multilingual", "file", "lines", "paragraphs"), PRETRAIN),
    **dict.fromkeys(("labelled", "labelled_pairs", "multilabel", "tickets"), LABELS),
    **dict.fromkeys(("alpaca", "instruction", "messages", "sharegpt", "prompt_completion", "input_output"), CHAT),
    **dict.fromkeys(("user_assistant", "question_answer", "questions"), CHAT),
}
QUICK = (
    "train.max_steps=1",
    "train.use_cpu=true",
    "train.eval_strategy=no",
    "train.save_strategy=no",
)
ONCE = ("train.load_best_model_at_end=false", "train.bf16=false", "train.per_device_train_batch_size=2")
TRAINED = ("several_labels", "one_huge_row", "grouped", "empty_completions", "two_texts", "regression_in_a_table")
"""Those whose first step is made by every run of the tests; `--every-first-step` makes all."""


@pytest.fixture(scope="module")
def talker(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tiny decoder without a chat template."""
    return saved_parrot(tmp_path_factory.mktemp("models") / "talker", {"a": "b"}, chat=False)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def make(files: list[Path], recipe: str, talker: str) -> NewRun:
    new = make_run_file([str(file) for file in files], model=talker if recipe == CHAT else "scratch")
    assert new.recipe == recipe
    load_run(["run.yaml"], new.recipe)
    return new


def train_one_step(new: NewRun) -> dict[str, Any]:
    from accelerate.state import AcceleratorState, GradientState

    from hf_finetune.folders.lock import release_run_folders

    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    talks = [] if new.recipe == LABELS else ["eval.prompts=[]"]
    try:
        runpy.run_path(str(ROOT / "recipes" / f"{new.recipe}.py"))["main"](["run.yaml", *QUICK, *ONCE, *talks])
    finally:
        release_run_folders()
    folder = {each.key: each.value for each in new.settings}["output_dir"]
    return json.loads(Path(folder, "report.json").read_text())


@pytest.mark.parametrize("name", ODD)
def test_of_an_odd_file_a_run_of_the_right_recipe_is_made(here, talker, name, request):
    write, recipe, expected = ODD[name]
    new = make(write(here), recipe, talker)
    settings = {each.key: each.value for each in new.settings}
    assert {key: settings.get(key) for key in expected} == expected
    if name in TRAINED or request.config.getoption("--every-first-step"):
        report = train_one_step(new)
        assert report["status"] == "done"
        assert report["train"]["steps"] == 1
        assert report["train"]["loss"] > 0


def test_of_every_template_a_run_of_its_recipe_is_made(here, talker, request):
    files = [path for path in sorted((ROOT / "data_templates").iterdir()) if path.stem != "README"]
    assert {path.stem for path in files} == TEMPLATES.keys()
    for path in files:
        (here / path.stem).mkdir()
        new = make_run_file(
            [str(path)], model=talker if TEMPLATES[path.stem] == CHAT else "scratch", output=f"{path.stem}.yaml"
        )
        assert new.recipe == TEMPLATES[path.stem], path.name
        run = load_run([new.path], new.recipe)
        assert run.data.columns == ({"text": "message", "label": "team"} if path.stem == "tickets" else {})
        if request.config.getoption("--every-first-step"):
            Path("run.yaml").write_text(Path(new.path).read_text())
            assert train_one_step(new)["train"]["steps"] == 1, path.name


@pytest.mark.parametrize(("rows_of_one", "share"), [(3, 0.16), (50, 0.2)])
def test_of_small_groups_as_many_rows_are_held_out_as_of_single_rows(here, rows_of_one, share):
    rows = [{"doc_id": f"d{n // rows_of_one}", "text": sentence(n)} for n in range(1_300)]
    new = make_run_file([str(write_jsonl(here / "rows.jsonl", rows))], model="scratch")
    settings = {each.key: each.value for each in new.settings}
    assert settings["data.group_by"] == "doc_id"
    assert settings["data.validation_fraction"] == share
