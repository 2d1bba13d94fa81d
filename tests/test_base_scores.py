"""sft and lora beside their base: scored first, kept, compared at the end, and no weight is another for it."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import threading
import time
from collections import defaultdict
from contextlib import suppress
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from models.scratch_models import save_chat_base
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from hf_finetune.chat import worker_process
from hf_finetune.environment.random_state import keep_random_state
from hf_finetune.errors import ConfigError, NonFiniteError
from hf_finetune.evaluation import compare_models
from hf_finetune.evaluation.language_modeling.metrics import make_language_statistic

ROOT = Path(__file__).resolve().parent.parent
DATA = "data_templates/user_assistant.jsonl"
QUICK = ("train.num_train_epochs=6", "train.logging_steps=1", "train.bf16=false", "eval.prompts=[]")
SAVED = ("train.save_strategy=epoch", "train.save_total_limit=null", "train.load_best_model_at_end=false")


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    """A tiny GPT with dropout, of which every forward pass in training draws from the random generator."""
    return save_chat_base(tmp_path_factory.mktemp("base"), ROOT / DATA, hidden_dropout=0.2)


@pytest.fixture
def empty_cache(datasets_cache) -> Path:
    folder = datasets_cache / "hf_finetune"
    for path in folder.glob("base_scores-*"):
        path.unlink()
    return folder


def hash_weights(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.glob("*.safetensors")}


def find_comparison(report: dict, split: str = "validation") -> dict:
    return report["evaluation"][split]["comparison"]


@pytest.mark.parametrize("recipe", ["sft", "lora"])
def test_a_run_says_whether_it_became_better_than_its_base(run_recipe, base, recipe, capsys):
    report = run_recipe(
        recipe, f"model.path={base}", *QUICK, "train.learning_rate=0.02", "data.validation_fraction=0.4"
    )
    compared, scores = find_comparison(report), report["evaluation"]["validation"]
    loss = compared["figures"]["loss"]
    assert loss["tuned"] == scores["loss"]
    assert compared["outcome"] == "better"
    assert compared["verdict"].startswith(f"Better than its base: loss {loss['base']:.2f} -> {loss['tuned']:.2f}, by ")
    assert re.search(
        rf", a real difference; these {compared['rows']} rows reliably show [\d.]+ or more$", compared["verdict"]
    )
    assert loss["interval"] is None, "six rows show that it is better, and not by how much"
    assert compared["rows"] == report["data"]["validation"]["examples"]
    said = capsys.readouterr().err
    assert f"scoring the base on {compared['rows']} validation rows" in said or "from the cache" in said
    assert said.count(compared["verdict"]) == 1, "once, in the summary"


def test_the_score_of_the_base_is_that_of_its_own_weights(run_recipe, base, empty_cache, tmp_path):
    report = run_recipe("lora", f"model.path={base}", *QUICK, "data.validation_fraction=0.4")
    model, tokenizer = (
        AutoModelForCausalLM.from_pretrained(base).eval(),
        AutoTokenizer.from_pretrained(tmp_path / "run"),
    )
    rows = [json.loads(line) for line in (ROOT / DATA).read_text(encoding="utf-8").splitlines()]
    record = json.loads((tmp_path / "run" / "row_scores.json").read_text())["validation"]
    splits = json.loads((tmp_path / "run" / "manifest.json").read_text())["data"]["splits"]
    by_tokens = {}
    for row in rows:
        asked = f"<|bos|>User:\n{row['user']}<|eos|>\nAssistant:\n"
        prompt = tokenizer(asked, add_special_tokens=False)["input_ids"]
        said = tokenizer(f"{row['assistant']}<|eos|>", add_special_tokens=False)["input_ids"]
        ids, labels = torch.tensor([prompt + said]), torch.tensor([[-100] * len(prompt) + said])
        with torch.no_grad():
            by_tokens[round(model(ids, labels=labels).loss.item() * len(said), 2)] = len(said)
    assert len(record["sums"]) == len(record["tuned"]) == splits["validation"]["rows"]
    for nll, _, tokens in record["sums"]:
        assert by_tokens[min(by_tokens, key=lambda each: abs(each - nll))] == tokens
        assert min(abs(each - nll) for each in by_tokens) < 0.02
    base_loss = sum(row[0] for row in record["sums"]) / sum(row[2] for row in record["sums"])
    assert find_comparison(report)["figures"]["loss"]["base"] == pytest.approx(base_loss, rel=1e-9)


@pytest.mark.parametrize("recipe", ["sft", "lora"])
def test_weights_with_and_without_the_base_are_the_same_to_the_last_bit(
    run_recipe, base, recipe, tmp_path, empty_cache
):
    settings = (f"model.path={base}", *QUICK, "train.per_device_eval_batch_size=2")
    settings += ("lora.lora_dropout=0.2",) if recipe == "lora" else ()
    scored = run_recipe(recipe, *settings, f"output_dir={tmp_path / 'scored'}")
    cached = run_recipe(recipe, *settings, f"output_dir={tmp_path / 'cached'}")
    alone = run_recipe(recipe, *settings, f"output_dir={tmp_path / 'alone'}", "eval.base=false")
    assert hash_weights(tmp_path / "scored") == hash_weights(tmp_path / "alone") == hash_weights(tmp_path / "cached")
    losses = [[entry.get("loss") for entry in each["train"]["history"]] for each in (scored, cached, alone)]
    assert losses[0] == losses[1] == losses[2]
    assert find_comparison(scored) == find_comparison(cached)
    assert "comparison" not in alone["evaluation"]["validation"]
    assert not (tmp_path / "alone" / "row_scores.json").exists()


def test_random_generators_go_on_where_they_were():
    torch.manual_seed(1)
    np.random.seed(1)
    expected = (torch.rand(3), np.random.rand(3))
    torch.manual_seed(1)
    np.random.seed(1)
    with keep_random_state(torch.device("cpu")):
        torch.rand(5), np.random.rand(5)
    assert torch.equal(torch.rand(3), expected[0])
    assert np.array_equal(np.random.rand(3), expected[1])


def test_the_generators_of_other_gpus_are_left_alone(monkeypatch):
    asked = []

    class Generators(tuple):
        def __getitem__(self, index):
            asked.append(index)
            return super().__getitem__(index)

    monkeypatch.setattr(torch.cuda, "default_generators", Generators(torch.Generator() for _ in range(8)))
    for device in (torch.device("cpu"), torch.device("cuda", 3)):
        with keep_random_state(device):
            pass
    assert asked == [3]


def test_the_next_run_takes_the_base_from_the_cache_unless_rows_or_weights_are_others(
    run_recipe, base, empty_cache, tmp_path, capsys
):
    def scored(name: str, *more: str) -> str:
        capsys.readouterr()
        run_recipe("sft", f"model.path={base}", *QUICK, f"output_dir={tmp_path / name}", *more)
        return capsys.readouterr().err

    assert "scoring the base on" in scored("one")
    again = scored("two", "train.learning_rate=0.002", "train.seed=42")
    assert "scoring the base on" not in again
    assert "from the cache" in again
    assert "scoring the base on" in scored("other_rows", "train.seed=5"), "another seed draws other validation rows"
    assert "scoring the base on" in scored("other_text", "data.loss_on=all")
    other = tmp_path / "base"
    tiny = AutoModelForCausalLM.from_pretrained(base)
    torch.manual_seed(9)
    tiny.lm_head.weight.data += 0.01
    tiny.save_pretrained(other)
    AutoTokenizer.from_pretrained(base).save_pretrained(other)
    assert "scoring the base on" in scored("other_weights", f"model.path={other}")


@pytest.mark.parametrize("damage", ["torn", "altered", "of other inputs", "no object", "too short"])
def test_a_damaged_file_of_the_cache_is_said_and_computed_anew(run_recipe, base, empty_cache, tmp_path, damage, capsys):
    first = run_recipe("sft", f"model.path={base}", *QUICK, f"output_dir={tmp_path / 'one'}")
    (path,) = empty_cache.glob("base_scores-*.json")
    whole = path.read_text()
    content = json.loads(whole)["base"]
    if damage == "altered":
        content["sums"][0][0] += 1
    elif damage == "of other inputs":
        content["made_from"] = "0" * 32
    elif damage == "too short":
        content["sums"] = content["sums"][:-1]
    texts = {"torn": whole[:-20], "no object": "[1, 2]"}
    path.write_text(texts.get(damage) or json.dumps({"base": content}))
    second = run_recipe("sft", f"model.path={base}", *QUICK, f"output_dir={tmp_path / 'two'}")
    assert "does not hold the scores of the base" in capsys.readouterr().err
    assert find_comparison(first) == find_comparison(second)
    assert path.read_text() == whole, "and it is whole again"


def test_scores_that_the_cache_does_not_take_are_said_and_compared(run_recipe, base, empty_cache, tmp_path, capsys):
    first = run_recipe("sft", f"model.path={base}", *QUICK, f"output_dir={tmp_path / 'one'}")
    (path,) = empty_cache.glob("base_scores-*.json")
    path.unlink()
    path.mkdir()
    capsys.readouterr()
    second = run_recipe("sft", f"model.path={base}", *QUICK, f"output_dir={tmp_path / 'two'}")
    path.rmdir()
    assert "the scores of the base are not kept for other runs: Is a directory" in capsys.readouterr().err
    assert find_comparison(first) == find_comparison(second)


def test_a_base_whose_losses_are_not_finite_is_not_compared_with(run_recipe, base, tmp_path, capsys):
    broken = shutil.copytree(base, tmp_path / "broken")
    weights = load_file(broken / "model.safetensors")
    weights["lm_head.weight"] *= torch.finfo(torch.float32).max
    save_file(weights, broken / "model.safetensors", {"format": "pt"})
    with pytest.raises(NonFiniteError):
        run_recipe("sft", f"model.path={broken}", *QUICK)
    said = "the base gives NaN or infinite losses on the validation rows, and is not compared with"
    assert said in capsys.readouterr().err


def test_a_resumed_run_is_compared_with_its_base_and_not_with_trained_weights(run_recipe, base, empty_cache, tmp_path):
    settings = (f"model.path={base}", *QUICK, *SAVED, "train.learning_rate=0.02")
    whole = run_recipe("sft", *settings)
    folder = tmp_path / "run"
    for name in ("report.json", "model.safetensors"):
        (folder / name).unlink()
    for path in empty_cache.glob("base_scores-*"):
        path.unlink()
    last = max(folder.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    for path in last.iterdir():
        path.unlink()
    last.rmdir()
    resumed = run_recipe("sft", *settings)
    assert find_comparison(resumed) == find_comparison(whole)


def test_without_record_and_cache_a_resumed_run_says_that_it_cannot_compare(
    run_recipe, base, empty_cache, tmp_path, capsys
):
    folder = tmp_path / "run"
    for recipe in ("sft", "lora"):
        settings = (f"model.path={base}", *QUICK, *SAVED, f"output_dir={folder / recipe}")
        whole = run_recipe(recipe, *settings)
        (folder / recipe / "report.json").unlink()
        (folder / recipe / "row_scores.json").unlink()
        for path in empty_cache.glob("base_scores-*"):
            path.unlink()
        capsys.readouterr()
        report = run_recipe(recipe, *settings)
        if recipe == "sft":
            assert "the base cannot be scored on the validation rows" in capsys.readouterr().err
            assert "comparison" not in report["evaluation"]["validation"]
        else:  # an adapter can be switched off
            one, other = (find_comparison(each)["figures"]["loss"]["base"] for each in (whole, report))
            assert one == other


def test_an_adapter_that_is_trained_on_is_compared_with_the_model_below_it(run_recipe, base, empty_cache, tmp_path):
    settings = (*QUICK, "train.learning_rate=0.02", "data.validation_fraction=0.4")
    first = run_recipe("lora", f"model.path={base}", *settings, f"output_dir={tmp_path / 'first'}")
    for path in empty_cache.glob("base_scores-*"):
        path.unlink()
    adapter = ("model.path=null", f"model.adapter={tmp_path / 'first'}", "lora=null")
    second = run_recipe("lora", *adapter, *settings, f"output_dir={tmp_path / 'second'}")
    one, other = (find_comparison(each)["figures"]["loss"] for each in (first, second))
    assert one["base"] == other["base"]


def test_test_rows_are_compared_too(run_recipe, base):
    report = run_recipe("sft", f"model.path={base}", *QUICK, "data.test_fraction=0.3")
    assert {"validation", "test"} == {name for name in report["evaluation"] if find_comparison(report, name)["verdict"]}


def test_a_model_from_random_weights_has_no_base(run_recipe, tmp_path):
    small = ("model.scratch.hidden_size=32", "model.scratch.num_hidden_layers=1", "model.scratch.num_attention_heads=2")
    report = run_recipe("char_model", *small, "train.max_steps=2", "eval.prompts=[]")
    assert "comparison" not in report["evaluation"]["validation"]
    assert not (tmp_path / "run" / "row_scores.json").exists()


def test_a_continued_model_is_compared_by_documents(run_recipe, base):
    few = ("model.scratch=null", "model.tokenizer=null", "train.optim=adamw_torch", "train.max_steps=4")
    report = run_recipe("char_model", f"model.path={base}", *few, "eval.prompts=[]", "train.learning_rate=0.01")
    compared = find_comparison(report)
    assert compared["rows"] == report["data"]["validation"]["rows"] == 2
    assert compared["verdict"].startswith("2 rows are too few to tell it from its base: loss ")


def run_and_watch_templates(command, **options) -> tuple[subprocess.CompletedProcess, dict[int, set[int]]]:
    """What a command has ended with, and which processes of it have started which to render templates."""
    workers: dict[int, set[int]] = defaultdict(set)
    running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)

    def watch() -> None:
        launched = psutil.Process(running.pid)
        while running.poll() is None:
            with suppress(psutil.Error):
                for each in launched.children(recursive=True):
                    if worker_process.BOOT in each.cmdline():
                        workers[each.ppid()].add(each.pid)
            time.sleep(0.2)

    watcher = threading.Thread(target=watch)
    watcher.start()
    written = running.communicate()
    watcher.join()
    return subprocess.CompletedProcess(command, running.returncode, *written), workers


def test_two_processes_score_the_base_as_one_does_each_with_a_template_worker_of_its_own(
    run_recipe, base, empty_cache, tmp_path, project_root, environment_of_a_user
):
    template = tmp_path / "of_others.jinja"
    template.write_text("{# not ours #}" + (project_root / "hf_finetune/chat/templates/plain.jinja").read_text())
    settings = (f"model.path={base}", *QUICK, "train.per_device_eval_batch_size=2", "data.validation_fraction=0.4")
    settings += (f"data.chat_template={template}",)
    one = run_recipe("lora", *settings, "train.per_device_train_batch_size=4", f"output_dir={tmp_path / 'one'}")
    for path in empty_cache.glob("base_scores-*"):
        path.unlink()
    command = ["accelerate", "launch", "--config_file", "accelerate_configs/cpu_2proc.yaml", "recipes/lora.py"]
    command += ["recipes/configs/lora.yaml", *settings, "train.per_device_train_batch_size=2"]
    command += [f"output_dir={tmp_path / 'two'}", "train.use_cpu=true"]
    done, workers = run_and_watch_templates(command, cwd=project_root, env=environment_of_a_user)
    assert done.returncode == 0, done.stderr
    assert [len(each) for each in workers.values()] == [1, 1]
    assert not any(psutil.pid_exists(each) for each in set().union(*workers.values())), "they end with the run"
    assert done.stderr.count("scoring the base on") == 1, "the second process is quiet"
    two = json.loads((tmp_path / "two" / "report.json").read_text())
    figures = [find_comparison(each)["figures"]["loss"] for each in (one, two)]
    assert figures[0]["base"] == pytest.approx(figures[1]["base"], rel=1e-5)
    sums = [
        json.loads((tmp_path / name / "row_scores.json").read_text())["validation"]["sums"] for name in ("one", "two")
    ]
    assert np.allclose(sums[0], sums[1], rtol=1e-4), "row by row, in the order of the rows"


@pytest.mark.parametrize(
    ("recipe", "given", "said"),
    [
        ("sft", "eval.base=other/model", "names another model"),
        ("char_model", "eval.base=true", "random weights, which have no base"),
        ("classification", "eval.base=true", "belongs to the recipes that tune a language model"),
    ],
)
def test_what_eval_base_cannot_mean_is_refused(run_recipe, recipe, given, said):
    with pytest.raises(ConfigError, match=said):
        run_recipe(recipe, given)


def test_a_comparison_asked_for_without_rows_is_refused(run_recipe, base):
    with pytest.raises(ConfigError, match="neither validation nor test"):
        run_recipe(
            "sft", f"model.path={base}", "data.validation_fraction=null", "train.eval_strategy=no", "eval.base=true"
        )


def test_the_verdict_is_that_of_the_first_headline_figure_that_really_differs():
    tokens = np.full(60, 20.0)
    base = np.stack([tokens * 2.0, tokens * 0.4, tokens], axis=1)
    worse = np.stack([tokens * 2.5, tokens * 0.6, tokens], axis=1)  # a higher loss, and yet more tokens are right
    noise = np.random.default_rng(0).normal(0, 0.5, size=60)
    for each in (base, worse):
        each[:, 0] += noise

    def statistic(sums):
        return make_language_statistic(sums, 4 * sums[:, 2], 0 * sums[:, 2])

    both = statistic(np.concatenate([base, worse]))
    found = compare_models(statistic(base), statistic(worse), both, 60)
    assert found["outcome"] == "worse"
    assert found["verdict"].startswith("Worse than its base: loss 2.")
    assert found["verdict"].endswith("a real difference; but better in token accuracy")
    same = compare_models(statistic(base), statistic(base), statistic(np.concatenate([base, base])), 60)
    assert same["outcome"] == "none"
    assert same["verdict"] == "No difference from its base"
