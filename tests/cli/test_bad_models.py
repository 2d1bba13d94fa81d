"""Models and rows that are not what they say, through each command: one message and exit code 2, or the right thing."""

from __future__ import annotations

import io
import json
import logging
import runpy
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState, GradientState
from safetensors.torch import load_file, save_file
from tokenizers.processors import TemplateProcessing
from transformers import AutoConfig, PreTrainedTokenizerFast
from tuned_adapters import TOKENIZER, adapter_on, saved_base, train

from hf_finetune.cli import main
from hf_finetune.errors import user_errors
from hf_finetune.models import classifiers
from hf_finetune.models import loading as model_loading
from hf_finetune.models.adapters import loading
from hf_finetune.models.adapters.attach import save_adapter
from hf_finetune.models.tokenizer_training import train_tokenizer
from hf_finetune.release.merge import merge_adapter

ROOT = Path(__file__).resolve().parents[2]
TEMPLATE = (ROOT / "hf_finetune/chat/templates/plain.jinja").read_text(encoding="utf-8")
OTHER_LETTERS = "zyxwvutsrqponmlkjihgfedcbaABCDEFGHIJKLMNOPQRSTUVWXY0 .,?\n"


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """A folder with a base that chats, an adapter on it, and rows."""
    folder = tmp_path_factory.mktemp("models")
    base = saved_base(folder / "base")
    model = train(adapter_on(base))
    model.save_pretrained(folder / "adapter")
    save_adapter(model, folder / "adapter", TOKENIZER)
    for name in ("base", "adapter"):
        save_tokenizer(TOKENIZER, folder / name)
    record = json.loads((folder / "adapter/base_model.json").read_text())
    (folder / "adapter/base_model.json").write_text(json.dumps(record | {"name_or_path": "base"}))
    (folder / "run.yaml").write_text(RUN)
    rows = [{"user": f"a cat {word}", "assistant": f"he said {word}."} for word in ("runs", "sleeps", "eats", "sits")]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def save_tokenizer(tokenizer, folder: Path) -> None:
    tokenizer.save_pretrained(folder)
    (folder / "chat_template.jinja").write_text(TEMPLATE)


def scale_base(folder: Path) -> None:
    file = folder / "base/model.safetensors"
    save_file({key: value * 1.01 for key, value in load_file(file).items()}, file, {"format": "pt"})


def edit_adapter(folder: Path, change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> None:
    file = folder / "adapter/adapter_model.safetensors"
    save_file(change(load_file(file)), file, {"format": "pt"})


def halve_adapter(folder: Path) -> None:
    edit_adapter(folder, lambda weights: {key: weights[key] for key in sorted(weights)[::2]})


def empty_adapter(folder: Path) -> None:
    edit_adapter(folder, lambda weights: {key: each * ("lora_B" not in key) for key, each in weights.items()})


def contradict_generation(folder: Path) -> None:
    file = folder / "base/generation_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"do_sample": False, "temperature": 0.6, "top_p": 0.9}))


def break_generation(folder: Path) -> None:
    (folder / "base/generation_config.json").write_text('{"max_new_tokens": -3, "num_beams": 0}')


def enlarge_tokenizer(folder: Path) -> None:
    for name in ("base", "adapter"):
        save_tokenizer(train_tokenizer("char", [OTHER_LETTERS + "0123456789!;"], None), folder / name)


def swap_tokenizer(folder: Path) -> None:
    save_tokenizer(train_tokenizer("char", [OTHER_LETTERS], None), folder / "adapter")


COMMANDS = {
    "train": ("run.yaml",),
    "score": ("score", "adapter", "rows.jsonl", "--max-new-tokens", "2"),
    "generate": ("generate", "adapter", "a cat", "--max-new-tokens", "2"),
    "chat": ("chat", "adapter", "--max-new-tokens", "2"),
    "merge": ("merge", "adapter", "merged"),
    "push": ("push", "adapter", "ada/adapter", "--license", "mit", "--dry-run"),
}
RUN = """\
recipe: lora
model: {adapter: adapter, path: base}
data: {train: rows.jsonl}
train: {max_steps: 1, use_cpu: true, save_strategy: 'no', eval_strategy: 'no'}
eval: {prompts: []}
output_dir: run
"""
RIGHT = None
BAD: dict[str, tuple[Callable[[Path], None], str | None]] = {
    "another base of the same shape": (scale_base, "was trained on another model than"),
    "half of the keys": (halve_adapter, "weights are missing or unexpected"),
    "a generation config that contradicts itself": (contradict_generation, RIGHT),
    "one that cannot be used": (break_generation, "cannot be used, nor saved with the trained model"),
    "a tokenizer larger than the embedding": (enlarge_tokenizer, "the tokenizer's largest id is"),
    "an adapter that changes nothing": (empty_adapter, "changes nothing"),
    "another tokenizer": (swap_tokenizer, "its tokenizer is not the one of the training"),
}
# Training goes on with an adapter that was never trained; what is pushed has no base with it.
ALSO_RIGHT = {("train", "an adapter that changes nothing"), ("push", "one that cannot be used")}
ALSO_SAID = {
    ("push", "half of the keys"): "weights are missing, first",
    ("push", "a tokenizer larger than the embedding"): "its tokenizer is not the one of the training",
}


@pytest.fixture
def run(whole, tmp_path, monkeypatch, capsys):
    """Run a command in a copy of the folder, once `harm` has changed it; returns exit code and standard error."""

    def run(command: str, harm: Callable[[Path], None]) -> tuple[int, str]:
        folder = shutil.copytree(whole, tmp_path / "work")
        monkeypatch.setattr(logging.root, "handlers", [])  # they keep the stream that was standard error
        harm(folder)
        monkeypatch.chdir(folder)
        monkeypatch.setattr(sys, "argv", ["hf-finetune", *COMMANDS[command]])
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO()))  # a chat that ends at once
        try:
            train_here("lora") if command == "train" else main()
            code = 0
        except SystemExit as end:
            code = int(end.code or 0)
        return code, capsys.readouterr().err

    return run


def train_here(recipe: str, *settings: str) -> None:
    """As `hf-finetune train run.yaml`, whose process this is then."""
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    script = runpy.run_path(str(ROOT / "recipes" / f"{recipe}.py"))
    with user_errors():
        script["main"](["run.yaml", *settings])


def check_refused(code: int, said: str, message: str) -> None:
    assert code == 2, said
    assert "Traceback" not in said
    [line] = [each for each in said.splitlines() if message in each]
    assert said.splitlines()[-1] == line, said


@pytest.mark.parametrize("case", BAD)
@pytest.mark.parametrize("command", COMMANDS)
def test_a_model_that_is_not_what_was_trained_is_one_message_or_right(run, command, case):
    harm, message = BAD[case]
    code, said = run(command, harm)
    if message is RIGHT or (command, case) in ALSO_RIGHT:
        assert code == 0, said
    else:
        check_refused(code, said, ALSO_SAID.get((command, case), message))


def test_an_adapter_with_a_weight_of_nan_is_not_pushed(run):
    def spoil(folder: Path) -> None:
        edit_adapter(folder, lambda weights: {key: each * float("nan") for key, each in weights.items()})

    check_refused(*run("push", spoil), "is NaN or infinite")


@pytest.mark.parametrize("command", ["score", "generate", "chat", "merge"])
def test_a_base_that_changes_while_it_is_loaded_is_one_message(run, command, tmp_path, monkeypatch):
    load = loading.load_base

    def load_and_change(*args, **kwargs):
        loaded = load(*args, **kwargs)
        scale_base(tmp_path / "work")
        return loaded

    monkeypatch.setattr(loading, "load_base", load_and_change)
    check_refused(*run(command, lambda folder: None), "was trained on another model than")


def cut_base(folder: Path) -> None:
    file = folder / "base/model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


RUNS = {
    "lora": "lora: {r: 2}\ndata: {train: rows.jsonl}\n",
    "sft": "data: {train: rows.jsonl}\n",
    "continued_pretraining": "data: {train: texts.jsonl, block_size: 8}\n",
    "classification": "data: {train: labels.jsonl}\n",
}
STEP = "model: {path: base}\ntrain: {max_steps: 1, use_cpu: true, save_strategy: 'no', eval_strategy: 'no'}\n"
TIMES = {"before": (scale_base, None), "while it is read": (None, scale_base), "cut short": (cut_base, None)}


@pytest.mark.parametrize("when", TIMES)
@pytest.mark.parametrize("recipe", RUNS)
def test_a_base_that_changes_after_its_run_has_begun_is_one_message(run, recipe, when, tmp_path, monkeypatch, capsys):
    first, then = TIMES[when]

    def changing(load):
        def load_and_change(kind, *args, **kwargs):
            if kind is not AutoConfig and first is not None:
                first(tmp_path / "work")
            loaded = load(kind, *args, **kwargs)
            if kind is not AutoConfig and then is not None:
                then(tmp_path / "work")
            return loaded

        return load_and_change

    def train_here_instead(folder: Path) -> None:
        monkeypatch.chdir(folder)
        write_labels("classification", GOOD["classification"])
        Path("texts.jsonl").write_text('{"text": "a cat sat on the mat"}\n' * 9)
        Path("run.yaml").write_text(f"recipe: {recipe}\n{RUNS[recipe]}{STEP}output_dir: run\n")
        with pytest.raises(SystemExit) as end:
            train_here(recipe)
        check_refused(end.value.code, capsys.readouterr().err, "model.safetensors changed while the run was prepared")

    for module in (model_loading, classifiers):
        monkeypatch.setattr(module, "load_pretrained", changing(module.load_pretrained))
    run("generate", train_here_instead)


LABELED = """\
recipe: classification
model: {path: base}
data: {train: labels.jsonl, task: TASK}
train: {max_steps: 1, use_cpu: true, save_strategy: 'no', eval_strategy: 'no'}
output_dir: labeler
"""
GOOD = {"classification": ["a", "b", "a", "b"], "regression": [1.0, 2.5, 3.0, 0.5]}


def write_labels(task: str, labels: list) -> None:
    rows = [{"text": f"a cat {number}".replace("0", "o"), "label": label} for number, label in enumerate(labels)]
    Path("labels.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))  # Python writes NaN as NaN
    Path("run.yaml").write_text(LABELED.replace("TASK", task))


@pytest.mark.parametrize("task", GOOD)
def test_a_label_of_nan_is_one_message_wherever_labels_are_read(run, task, capsys, monkeypatch):
    def train_both(folder: Path) -> None:
        monkeypatch.chdir(folder)
        write_labels(task, GOOD[task])
        train_here("classification")
        write_labels(task, [*GOOD[task][:-1], float("nan")])
        with pytest.raises(SystemExit) as end:
            train_here("classification", "output_dir=again")
        check_refused(end.value.code, capsys.readouterr().err, "labels.jsonl:4")

    monkeypatch.setitem(COMMANDS, "score", ("score", "labeler", "labels.jsonl"))
    check_refused(*run("score", train_both), "labels.jsonl:4")


def drop_bos(folder: Path) -> None:
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    assert tokenizer["post_processor"] is not None
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer | {"post_processor": None}))


def add_bos(folder: Path) -> None:
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    bos = (tokenizer.bos_token, tokenizer.bos_token_id)
    single, pair = f"{bos[0]} $A", f"{bos[0]} $A $B"
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single=single, pair=pair, special_tokens=[bos])
    tokenizer.save_pretrained(folder)


WHOLE = {
    "predict": ("predict", "labeler", "labels.jsonl", "--prefix", "p_"),
    "score": ("score", "labeler", "labels.jsonl"),
    "predict a copy": ("predict", "copy", "labels.jsonl", "--prefix", "p_"),
}


@pytest.mark.parametrize("command", WHOLE)
def test_a_whole_model_of_ours_is_refused_a_tokenizer_that_leaves_out_its_first_token(run, command, monkeypatch):
    def train_and_drop(folder: Path) -> None:
        monkeypatch.chdir(folder)
        add_bos(folder / "base")
        write_labels("classification", GOOD["classification"])
        train_here("classification")
        drop_bos(folder / "labeler")
        shutil.copytree(folder / "labeler", folder / "copy")

    monkeypatch.setitem(COMMANDS, command, WHOLE[command])
    check_refused(*run(command, train_and_drop), f"its tokenizer leaves out {TOKENIZER.bos_token}, which stood around")


@pytest.mark.parametrize("command", ["generate", "chat", "score"])
def test_a_merged_model_and_what_is_trained_on_it_know_their_tokenizer(run, command, monkeypatch):
    def merge_and_swap(folder: Path) -> None:
        monkeypatch.chdir(folder)
        merge_adapter("adapter", "merged")
        save_tokenizer(train_tokenizer("char", [OTHER_LETTERS], None), folder / "merged")
        Path("run.yaml").write_text(RUN.replace("{adapter: adapter, path: base}", "{path: merged}") + "lora: {r: 2}\n")
        with pytest.raises(SystemExit):
            train_here("lora")

    monkeypatch.setitem(COMMANDS, command, (COMMANDS[command][0], "merged", *COMMANDS[command][2:]))
    code, said = run(command, merge_and_swap)
    check_refused(code, said[said.index("loading") :], "its tokenizer is not the one of the training")
    assert said.count("its tokenizer is not the one of the training") == 2
