"""Windows and Apple, which no machine of ours runs: their answers are put in, where ours differ."""

from __future__ import annotations

import subprocess
import sys
from pathlib import PureWindowsPath

import numpy as np
import pytest
import torch
from models.scratch_models import tiny_model
from torch import Tensor
from torch.overrides import TorchFunctionMode
from tuned_adapters import TOKENIZER

from hf_finetune import privacy
from hf_finetune.config.paths import expand_user, looks_local
from hf_finetune.data.tokenization.collators import TextCollator
from hf_finetune.data.tokenization.text import EncodedTexts
from hf_finetune.environment.random_state import keep_random_state
from hf_finetune.evaluation.prediction.predict import Classifier, compute_logits
from hf_finetune.evaluation.scoring.log_likelihood import compute_row_sums
from hf_finetune.evaluation.scoring.precision import Precision
from hf_finetune.evaluation.scoring.rows import Example
from hf_finetune.models.scratch_gpt import ScratchGPTForSequenceClassification

# What Windows' Python lacks. The libraries come before: they ask for the system, which cannot be put in, and what is
# tried are our own modules.
WITHOUT = """
import os, random, shutil, sys, threading, logging, multiprocessing, concurrent.futures
import accelerate, datasets, peft, torch, transformers, transformers.trainer, trl
for name in ("fork", "register_at_fork", "getuid", "killpg"):
    if hasattr(os, name):
        delattr(os, name)

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name in ("resource", "pwd", "grp") and name not in sys.modules:
            raise ModuleNotFoundError(f"No module named {name!r}")

sys.meta_path.insert(0, Missing())
import runpy
for recipe in ("classification", "continued_pretraining", "lora", "score", "sft"):
    runpy.run_path(f"recipes/{recipe}.py", run_name="imported")
import hf_finetune.cli
"""


class Home(PureWindowsPath):
    """`pathlib.Path` as it answers on a machine with Windows."""

    @classmethod
    def home(cls) -> Home:
        return cls("C:\\Users\\ann")

    @classmethod
    def cwd(cls) -> Home:
        return cls("C:\\Users\\ann\\work")


@pytest.fixture
def windows(monkeypatch):
    monkeypatch.setattr(privacy, "Path", Home)


def test_every_recipe_can_be_imported_without_what_windows_lacks(project_root, environment_of_a_user):
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT], env=environment_of_a_user, cwd=project_root, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize(
    ("path", "portable"),
    [
        (r"C:\Users\ann\work\runs\base", "runs/base"),
        (r"C:\Users\ann\models\x", "~/models/x"),
        (r"C:\Users\annette\x", r"C:\Users\annette\x"),
        (r"D:\models\x", r"D:\models\x"),
        ("org/name", "org/name"),
    ],
)
def test_paths_of_windows_are_written_so_that_any_system_opens_them(path, portable, windows):
    assert privacy.make_portable(path) == portable


def test_the_home_folder_of_windows_is_in_no_artefact(windows):
    assert privacy.hide_home({"a": [r"C:\Users\ann\x", r"C:\Users\ann"]}) == {"a": ["~/x", "~"]}


@pytest.mark.parametrize("path", [r"C:\Users\ann\runs\x", r"\\server\share\x", r"~\runs\x"])
def test_of_a_path_of_windows_the_last_part_leaves(path):
    assert privacy.redact(path) == "x"
    assert privacy.redact(f"data.train={path}") == "data.train=x"


def test_a_path_of_windows_is_no_hub_id_and_its_home_is_expanded(monkeypatch):
    monkeypatch.setenv("HOME", "/home/ann")
    assert expand_user(r"~\runs") == expand_user("~/runs") == "/home/ann/runs"
    assert looks_local(r"runs\base")
    assert looks_local("C:/base")
    assert not looks_local("org/name")


class NoDoubles(TorchFunctionMode):
    """A device without float64, as Apple's GPUs: what has not come to the CPU by `.cpu()` is taken for its tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.brought: set[int] = set()

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is Tensor.double and id(args[0]) not in self.brought:
            raise TypeError("Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support float64")
        result = func(*args, **(kwargs or {}))
        if func is Tensor.cpu:
            self.kept = result  # so that its id stays its own
            self.brought.add(id(result))
        return result


def test_logits_become_doubles_on_the_cpu_alone():
    model, rows = tiny_model(), [Example(row, [5, 6, 7, 8], [-100, 6, 7, 8]) for row in range(3)]
    with NoDoubles():
        sums = compute_row_sums(model, TOKENIZER, rows, 3, 2, Precision())
    assert sums.shape == (3, 3)
    classifier = tiny_model(ScratchGPTForSequenceClassification, num_labels=2)
    texts = EncodedTexts([[5, 6], [7]], None, 0)
    with NoDoubles():
        logits = compute_logits(Classifier(classifier, TOKENIZER, None, None, 64, takes_types=False), texts)
    assert logits.dtype == np.float64


@pytest.mark.parametrize("labels", [[0.25, -1.5], [[1.0, 0.0], [0.0, 1.0]], np.array([0.5, 1.0])])
def test_no_batch_of_a_classifier_holds_doubles(labels):
    rows = [{"input_ids": [5, 6], "labels": label} for label in labels]
    assert TextCollator(0)(rows)["labels"].dtype == torch.float32


def test_the_generator_of_apples_gpu_goes_on_where_it_was(monkeypatch):
    own = torch.Generator().manual_seed(7)
    monkeypatch.setattr(torch.mps, "_get_default_mps_generator", lambda: own)
    before = own.get_state()
    with keep_random_state(torch.device("mps")):
        torch.rand(4, generator=own)
    assert torch.equal(own.get_state(), before)
