"""`hf-finetune diagnose` on run folders, in words and as JSON; on a run of ours as the recipe left it."""

from __future__ import annotations

import json

import pytest
from reporting.logs import log_of, write_state
from typer.testing import CliRunner

from hf_finetune.cli import app
from hf_finetune.errors import ConfigError
from hf_finetune.reporting.diagnosis import diagnose
from hf_finetune.reporting.run_record import read_run

RUNNER = CliRunner()


def test_the_verdict_comes_first_and_each_finding_with_what_it_has_not_said(tmp_path):
    folder = write_state(tmp_path / "mine", log_of("overfitting"), step=400)
    said = RUNNER.invoke(app, ["diagnose", str(folder)])
    assert said.exit_code == 0
    verdict, heading, *lines = said.stdout.splitlines()
    (found, *_) = diagnose(read_run(folder)).findings
    assert verdict == f"{folder}: {diagnose(read_run(folder)).verdict}"
    assert heading == "  problem (overfitting)"
    assert [line.split()[0] for line in lines] == ["seen", "likely"]
    assert said.stdout.count(found.title) == said.stdout.count(found.remedy) == 1


def test_the_sentence_on_the_model_is_printed_once(tmp_path):
    folder = write_state(tmp_path / "mine", log_of("healthy"), step=400)
    sentence = "Worse than its base: loss 2.00 -> 3.00, by 1.00 (0.90 to 1.10), a real difference"
    compared = {"outcome": "worse", "verdict": sentence, "figures": {}, "words": []}
    report = {"evaluation": {"validation": {"comparison": compared}}, "train": {"steps": 400}}
    (folder / "report.json").write_text(json.dumps(report))
    lines = RUNNER.invoke(app, ["diagnose", str(folder)]).stdout.splitlines()
    assert lines[0].startswith(f"{folder}: {sentence} (validation). The run looks healthy.")
    assert [line for line in lines[1:] if "Worse than" in line or "looks healthy" in line] == []
    assert [line for line in lines if line.startswith("  ") and line[2] != " "] == [
        "  problem (model_worse)",
        "  good (healthy)",
    ]


def test_json_has_every_folder_and_every_field_of_a_finding(tmp_path):
    folders = [str(write_state(tmp_path / kind, log_of(kind), step=400)) for kind in ("healthy", "plateau")]
    said = json.loads(RUNNER.invoke(app, ["diagnose", *folders, "--json"]).stdout)
    assert [each["folder"] for each in said] == folders
    assert [each["findings"][0]["kind"] for each in said] == ["healthy", "plateau"]
    fields = {"kind", "level", "title", "evidence", "cause", "remedy", "step"}
    assert set(said[0]["findings"][0]) == fields


def test_all_folders_that_cannot_be_read_are_named_together(tmp_path):
    torn = write_state(tmp_path / "torn", [])
    (torn / "trainer_state.json").write_text('{"global')
    with pytest.raises(ConfigError) as refused:
        RUNNER.invoke(app, ["diagnose", str(torn), str(tmp_path)], catch_exceptions=False)
    assert "torn/trainer_state.json" in str(refused.value)
    assert "holds nothing of a run" in str(refused.value)
    assert refused.value.exit_code == 2


def test_a_folder_name_cannot_write_to_the_terminal(tmp_path):
    folder = write_state(tmp_path / "a\x1b[31mb", log_of("healthy"), step=400)
    assert "\x1b" not in RUNNER.invoke(app, ["diagnose", str(folder)]).stdout


def test_a_run_of_a_recipe_is_read_with_its_vocabulary_settings_and_validation_rows(run_recipe, tmp_path):
    small = ("model.scratch.hidden_size=32", "model.scratch.num_hidden_layers=1", "eval.prompts=[]")
    run_recipe("char_model", "train.max_steps=12", "train.logging_steps=1", "train.eval_steps=6", *small)
    run = read_run(tmp_path / "run")
    assert (run.status, run.step, run.max_steps) == ("done", 12, 12)
    assert run.model["architectures"] == ["ScratchGPTForCausalLM"]
    assert run.settings["model"]["scratch"]["preset"] == "nano"
    assert {"loss", "grad_norm", "learning_rate", "tokens_per_s"} <= set(run.history[0])
    kinds = {each.kind for each in diagnose(run).findings}
    assert not kinds & {"divergence", "loss_at_start", "overfitting", "learning_rate_too_low", "too_short_to_say"}


@pytest.mark.parametrize(
    ("launch", "on"),
    [
        (
            "accelerate launch --config_file accelerate_configs/single_gpu.yaml recipes/sft.py x.yaml",
            " --on single_gpu",
        ),
        ("accelerate launch --config_file accelerate_configs/$(rm -rf x).yaml; rm -rf ~", ""),
        (5, ""),
        (None, ""),
    ],
)
@pytest.mark.parametrize("command", [("diagnose",), ("watch", "--once")])
def test_a_run_that_was_killed_is_shown_with_the_command_that_goes_on_with_it(tmp_path, command, launch, on):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "manifest.json").write_text(json.dumps({"run_id": "1", "launch": launch}))
    lines = [{"run": {"max_steps": 100}}, *({"step": step, "loss": 2.0, "time": 1.0} for step in range(1, 41))]
    (folder / "log.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    without = RUNNER.invoke(app, [*command, str(folder)], catch_exceptions=False).stdout
    assert "with: hf-finetune" not in without
    (folder / "run.yaml").write_text("recipe: sft\n")
    said = RUNNER.invoke(app, [*command, str(folder)], catch_exceptions=False).stdout
    line = f"nothing is kept; begin again with: hf-finetune train {folder}/run.yaml{on}"
    assert line in [each.strip() for each in said.splitlines()]
