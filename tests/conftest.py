"""What every test gets: no network, one thread, a cache of its own, and small real things to test with."""

from __future__ import annotations

import os

# Before torch and the Hugging Face libraries are imported: they read these once.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"

import fcntl
import json
import logging
import runpy
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import message_recorder
import pytest
from message_recorder import pytest_configure, pytest_runtest_call  # noqa: F401
from preloaded import serve_commands

# The same examples in every run: what fails on one machine fails on all of them.
hypothesis.settings.register_profile("same_everywhere", derandomize=True, deadline=None)
hypothesis.settings.load_profile("same_everywhere")

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
ROOT = Path(__file__).resolve().parent.parent


def pytest_addoption(parser: pytest.Parser) -> None:
    message_recorder.pytest_addoption(parser)
    every = "test_families: every family of tests/models/architectures.py, not 40 of them"
    attacks = "tests/hostile: changed files of each kind, drawn anew; without it a few, the same in every run"
    parser.addoption("--attacks", type=int, default=0, help=attacks)
    first = "tests/preflight: the first step of every run file that is made, not of a few"
    parser.addoption("--every-first-step", action="store_true", help=first)
    faults = "tests/faults: every race, kill and fault of the plan, not a few of each"
    parser.addoption("--faults", action="store_true", help=faults)
    parser.addoption("--every-family", action="store_true", help=every)


@pytest.fixture(scope="session", autouse=True)
def datasets_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Arrow files of the tests go to a folder of this session, in child processes too."""
    folder = tmp_path_factory.mktemp("datasets-cache")
    os.environ["HF_DATASETS_CACHE"] = str(folder)
    import datasets

    datasets.config.HF_DATASETS_CACHE = folder
    datasets.disable_progress_bars()
    return folder


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium, driven by playwright; a test that wants it is skipped where one of them is not installed."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    found = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip(f"none of {', '.join(BROWSERS)} is installed")
    with sync_api.sync_playwright() as playwright:
        # Its own sandbox refuses to start as root, as in a container.
        arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
        browser = playwright.chromium.launch(executable_path=found, args=arguments)
        yield browser
        browser.close()


@pytest.fixture(autouse=True)
def no_commit_of_another_test() -> Iterator[None]:
    """A command reads a Hub id at one commit, which it keeps; the next test has another Hub under the same name."""
    yield
    if (locate := sys.modules.get("hf_finetune.models.files.locate")) is not None:
        locate.pin_commits({})


@pytest.fixture(autouse=True)
def nothing_kept_of_another_test() -> Iterator[None]:
    """A command in this process says what is kept where it is stopped, for as long as its process lives."""
    yield
    if (interruption := sys.modules.get("hf_finetune.interruption")) is not None:
        interruption._state.describe = None


@pytest.fixture(autouse=True)
def no_log_of_another_test() -> None:
    """A run in this process logs to standard error as its test captures it, which is closed afterwards."""
    root = logging.getLogger()
    for handler in [each for each in root.handlers if getattr(getattr(each, "stream", None), "closed", False)]:
        root.removeHandler(handler)


@pytest.fixture(autouse=True)
def no_launch_of_another_test() -> Iterator[None]:
    """`hf-finetune train` in this process names its launch file to what it launches."""
    yield
    os.environ.pop("HF_FINETUNE_CONFIG_FILE", None)


@pytest.fixture(autouse=True)
def no_texts_of_another_test(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine any template is slow, and its texts are then known, and no worker is asked."""
    if (rendering := sys.modules.get("hf_finetune.chat.rendering")) is not None:
        monkeypatch.setattr(rendering, "_slow_texts", rendering.SlowTexts())


# Files whose tests take longest: first, so that no process is left alone with one of them in the end. pytest-xdist
# would begin with those of most tests, and end with long files of few; `make test` tells it to keep this order.
LONGEST = (
    *("test_interruption.py", "test_strategies.py", "test_readme.py", "test_families.py", "test_kills.py"),
    *("test_signals.py", "test_real_models.py", "test_failing_steps.py", "test_secrets_measured.py", "test_merge.py"),
    *("test_views.py", "test_terminal.py", "test_cli.py", "test_lost_runs.py", "test_base_scores.py"),
    *("test_workers.py", "test_assistant_mask.py", "test_run_and_score_agree.py", "test_configs.py"),
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: LONGEST.index(item.path.name) if item.path.name in LONGEST else len(LONGEST))


@pytest.fixture
def project_root() -> Path:
    return ROOT


@pytest.fixture
def make_unreadable() -> Callable[[Path], None]:
    """Put a file in the place of another that nobody can read, root included, whom permissions do not stop."""
    memory = Path("/proc/self/mem")  # at its beginning there is none: every read fails
    if not memory.exists():
        pytest.skip("Linux has such a file")

    def make(path: Path) -> None:
        path.unlink(missing_ok=True)
        path.symlink_to(memory)

    return make


@pytest.fixture(scope="session")
def real_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """`real_model("minilm")`: the folder that `hf-finetune model` makes; skips where its package is not in the cache.

    For tests marked `real`: nothing is downloaded here. What `make models` has made by the code as it is now, which
    takes most of a minute, is taken as it stands, once it is found to be whole.
    """
    from hf_finetune.models import PACKAGES, make_model
    from hf_finetune.models.ready_made.wheels import find_cache

    of_this_process = tmp_path_factory.getbasetemp()
    folder = of_this_process.parent if "PYTEST_XDIST_WORKER" in os.environ else of_this_process
    (folder / "models").mkdir(exist_ok=True)
    code = max(path.stat().st_mtime for path in (ROOT / "hf_finetune/models/ready_made").glob("*.py"))

    def make(name: str) -> Path:
        if not (find_cache() / PACKAGES[name].wheel.file).is_file():
            pytest.skip(f"{name} is not in the cache: hf-finetune model {name} FOLDER fetches it")
        made = ROOT / "models" / name
        if not made.is_dir() or made.stat().st_mtime < code:
            made = folder / "models" / name
        with open(folder / f"{name}.lock", "w") as lock:  # made once by the processes of pytest-xdist
            fcntl.flock(lock, fcntl.LOCK_EX)
            make_model(name, made)
        return made

    return make


RunRecipe = Callable[..., dict[str, Any]]


@pytest.fixture
def run_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunRecipe:
    """Run a recipe in this process from the project's root, and return its report.json.

    `run_recipe("char_model", "train.max_steps=2")`: a YAML of recipes/configs, then overrides. The run folder is
    `tmp_path / "run"` unless `output_dir=` names another.
    """

    def run(config: str, *overrides: str, allow_changed: bool = False) -> dict[str, Any]:
        from accelerate.state import AcceleratorState, GradientState

        from hf_finetune.config import read_recipe_name
        from hf_finetune.folders.lock import release_run_folders

        monkeypatch.chdir(ROOT)
        run_file = Path("recipes", "configs", f"{config}.yaml")
        recipe = read_recipe_name(str(run_file))
        settings = {"output_dir": str(tmp_path / "run")} | ({} if recipe == "score" else {"train.use_cpu": "true"})
        settings |= dict(override.split("=", 1) for override in overrides)  # the last of a name holds, among tests
        script = Path("recipes", f"{recipe}.py")
        # One process, one state: accelerate refuses a second run in it with another precision.
        AcceleratorState._reset_state(reset_partial_state=True)
        GradientState._reset_state()
        argv = [str(run_file), *(f"{key}={value}" for key, value in settings.items())]
        try:
            runpy.run_path(str(script))["main"](argv + ["--allow-changed"] * allow_changed)
        finally:
            release_run_folders()
        folder = Path(settings["output_dir"])
        return json.loads((folder / "report.json").read_text())

    return run


@pytest.fixture
def environment_of_a_user(datasets_cache: Path) -> dict[str, str]:
    """For child processes: this interpreter's commands on the path, nothing that would reach a network."""
    return user_environment()


def user_environment() -> dict[str, str]:
    commands = str(Path(sys.executable).parent)
    return {**os.environ, "PATH": f"{commands}{os.pathsep}{os.environ['PATH']}", "PYTHONWARNINGS": "default"}


@pytest.fixture(scope="session")
def preloaded(datasets_cache: Path) -> Iterator[dict[str, str]]:
    """`environment_of_a_user` in which `hf-finetune` answers without the seconds of its imports: tests/preloaded.py."""
    with tempfile.TemporaryDirectory() as folder, serve_commands(Path(folder), user_environment()) as environment:
        yield environment
