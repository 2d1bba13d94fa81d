"""The house rules that a reader of the code relies on: who may import whom, and the shape of a recipe."""

from __future__ import annotations

import ast
import difflib
import importlib
import re
import subprocess
import sys
import tomllib
from functools import cache
from importlib.metadata import packages_distributions
from itertools import combinations
from pathlib import Path

import pytest
from code_metrics import flat_folders, import_circles, recipe_size, share_of_comments, share_of_verbs, share_with_shapes

from hf_finetune.lazy_imports import find_homes

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "hf_finetune"
RECIPES = sorted((ROOT / "recipes").glob("*.py"))
HEADINGS = ["Settings", "Data", "Model", "Trainer", "Train", "Evaluate", "Report and push"]
TRAINING_RECIPES = [path for path in RECIPES if path.stem != "score"]

# What every room may use, from the lowest up; each may import those before it.
SHARED = (
    "ranks",
    "lazy_imports",
    "codes",
    "shell",
    "option_names",
    "privacy",
    "secrets",
    "interruption",
    "memory",
    "errors",
    "files",
    "pages",
    "cache",
    "folders",
    "row_prints",
    "metric_info",
    "environment",
    "config",
)

# Each room and what it may import of ours beside those, itself left out.
ALLOWED = {
    **{name: set(SHARED[:place]) for place, name in enumerate(SHARED)},
    "label_set": set(SHARED),
    "chat": set(SHARED),
    "data": {*SHARED, "label_set", "chat"},
    "models": {*SHARED, "label_set", "chat"},
    "preflight": {*SHARED, "label_set", "chat", "data", "models"},
    "training": {*SHARED, "label_set", "chat", "data", "models"},
    "evaluation": {*SHARED, "label_set", "chat", "data", "models"},
    "reporting": {*SHARED} - {"config", "environment"},
    "release": {*SHARED, "label_set", "chat", "data", "models", "evaluation", "reporting"},
}
ABOVE_THE_ROOMS = {"__init__", "cli", "run", "api", "typed_again"}
ROOMS = sorted(path.parent.name for path in PACKAGE.glob("*/__init__.py"))
# The shelf of metrics has a module for each, named after it.
FOLDERS = sorted(path.parent for path in PACKAGE.glob("*/**/__init__.py") if path.parent.name != "metrics")
LAZY_ROOMS = [room for room in ROOMS if room not in ("cli", "config")]


@cache
def imports_of(path: Path) -> frozenset[str]:
    """Names of the modules that a file imports, relative ones made absolute, wherever in the file they stand."""
    package = ".".join(path.relative_to(ROOT).with_suffix("").parts[:-1])
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package.split(".")[: len(package.split(".")) - node.level + 1]) if node.level else ""
            found.add(".".join(part for part in (base, node.module) if part))
    return frozenset(found)


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def own_rooms(path: Path) -> set[str]:
    names = {name.split(".")[1] for name in imports_of(path) if name.startswith("hf_finetune.")}
    return names - {room_of(path)}


@pytest.mark.parametrize("room", sorted(ALLOWED))
def test_a_room_imports_only_the_rooms_below_it(room):
    files = [path for path in PACKAGE.rglob("*.py") if room_of(path) == room]
    assert files
    for path in files:
        assert own_rooms(path) <= ALLOWED[room], path


def test_every_room_has_a_rule():
    assert {room_of(path) for path in PACKAGE.rglob("*.py")} - ABOVE_THE_ROOMS == set(ALLOWED)


def test_no_modules_import_each_other():
    assert import_circles() == []


def test_a_folder_shows_what_is_in_it_at_a_glance():
    assert {folder: count for folder, count in flat_folders().items() if count > 15 and "metrics" not in folder} == {}


USERS_OF_FACES = [*RECIPES, *PACKAGE.glob("cli/**/*.py"), PACKAGE / "run.py", PACKAGE / "api.py"]


@pytest.mark.parametrize("path", USERS_OF_FACES, ids=lambda path: path.stem)
def test_recipes_and_commands_import_from_the_faces_of_the_rooms(path):
    below = {name for name in imports_of(path) if name.count(".") > 1 and name.startswith("hf_finetune.")}
    assert {name for name in below if name.split(".")[1] in ROOMS and name.split(".")[1] != "cli"} == set()


@pytest.mark.parametrize("room", LAZY_ROOMS)
def test_a_face_names_each_thing_once_and_has_it(room):
    face = importlib.import_module(f"hf_finetune.{room}")
    homes = find_homes(Path(str(face.__file__)))
    assert sorted(face.__all__) == sorted(homes)
    for name in face.__all__:
        assert getattr(face, name) is getattr(importlib.import_module(homes[name]), name)
        assert homes[name].startswith(f"hf_finetune.{room}."), name
    with pytest.raises(AttributeError, match="has no attribute 'no_such_name'"):
        _ = face.no_such_name


@pytest.mark.parametrize("room", FOLDERS, ids=[str(path.relative_to(PACKAGE)) for path in FOLDERS])
def test_a_face_says_what_each_file_and_folder_of_its_room_is(room):
    said = ast.get_docstring(ast.parse((room / "__init__.py").read_text(encoding="utf-8"))) or ""
    entries = [path for path in room.iterdir() if path.name not in ("__init__.py", "__main__.py", "__pycache__")]
    names = {path.stem for path in entries if path.suffix == ".py" or path.is_dir()}
    assert {name for name in names if not re.search(rf"\b{name}\b", said)} - {"templates"} == set()


def test_names_say_what_functions_do_and_docstrings_what_shapes_arrays_have():
    assert share_of_verbs() >= 0.65
    assert share_with_shapes() >= 0.70
    assert share_of_comments() >= 0.025


def test_sft_is_short_enough_to_be_read_at_once():
    size = recipe_size(ROOT / "recipes" / "sft.py")
    assert size["lines"] <= 75
    assert size["imports"] <= 9
    assert size["names"] <= 26


@pytest.mark.parametrize(("one", "other"), list(combinations(TRAINING_RECIPES, 2)), ids=lambda path: path.stem)
def test_the_difference_of_two_recipes_is_what_they_do(one, other):
    texts = [path.read_text(encoding="utf-8") for path in (one, other)]
    likeness = difflib.SequenceMatcher(None, *texts, autojunk=False).ratio()
    assert likeness > (0.9 if {one.stem, other.stem} == {"sft", "lora"} else 0.6)


def test_no_room_imports_recipes_or_cli():
    for path in PACKAGE.rglob("*.py"):
        assert not {name.split(".")[0] for name in imports_of(path)} & {"recipes"}, path
        assert room_of(path) == "cli" or "cli" not in own_rooms(path), path


def test_settings_errors_and_reports_import_nothing_heavy():
    for room in ("errors", "metric_info", "config", "reporting", "project_files"):
        for path in (path for path in PACKAGE.rglob("*.py") if room_of(path) == room):
            if path.name == "generate.py":  # run by hand when the stack changes
                continue
            heavy = {"torch", "transformers", "datasets", "accelerate", "peft", "trl"}
            assert not {name.split(".")[0] for name in imports_of(path)} & heavy, path


def test_scratch_gpt_can_be_shipped_as_it_stands():
    shipped = [path for path in (PACKAGE / "models" / "scratch_gpt").glob("*.py") if path.name != "__init__.py"]
    assert shipped
    for path in shipped:
        outside = {name.split(".")[0] for name in imports_of(path)} - set(sys.stdlib_module_names)
        inside = {name for name in imports_of(path) if name.startswith("hf_finetune")}
        assert outside <= {"torch", "transformers", "huggingface_hub", "hf_finetune"}, path
        assert all(name.startswith("hf_finetune.models.scratch_gpt") for name in inside), path
        absolute = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom)]
        assert not any(node.level == 0 and (node.module or "").startswith("hf_finetune") for node in absolute), path


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_is_one_main_with_the_seven_headings_in_order(path):
    source = path.read_text(encoding="utf-8")
    tree = ast.parse(source)
    definitions = [node for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)]
    assert [node.name for node in definitions] == ["main"]
    assert definitions[0].end_lineno - definitions[0].lineno < 60
    assert len(source.splitlines()) <= 110
    nested = [node for node in ast.walk(definitions[0]) if isinstance(node, ast.FunctionDef | ast.Lambda)]
    assert nested == [definitions[0]]
    headings = re.findall(r"^    # (\d)\. ([A-Z][a-z]+(?: [a-z]+)*)", source, re.MULTILINE)
    steps = [(str(number), name) for number, name in enumerate(HEADINGS, start=1)]
    # One that trains nothing leaves out what makes and trains a model, and keeps the numbers of the others.
    assert headings == (steps if path in TRAINING_RECIPES else steps[:2] + steps[5:])
    assert ast.get_docstring(tree).count("accelerate launch") == 1


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_no_recipe_has_its_processes_wait_for_each_other(path):
    """NCCL ends a barrier after ten minutes or thirty, and rows may take longer: who needs a file waits for it."""
    assert not {"main_process_first", "wait_for_everyone", "barrier"} & set(re.findall(r"\w+", path.read_text()))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_is_not_named_after_a_module_that_it_would_shadow(path):
    dependencies = {"evaluate", "datasets", "transformers", "accelerate", "peft", "trl", "torch", "tokenizers"}
    assert path.stem not in dependencies | set(sys.stdlib_module_names)


@pytest.mark.parametrize(("one", "other"), list(combinations(TRAINING_RECIPES, 2)))
def test_steps_that_recipes_share_are_the_same_word_for_word(one, other):
    for heading in ("5. Train", "7. Report and push"):
        assert step(one, heading) == step(other, heading)


def step(path: Path, heading: str) -> str:
    body = path.read_text(encoding="utf-8").split(f"    # {heading}", 1)[1]
    return re.split(r"^    # \d\. |^if __name__", body, maxsplit=1, flags=re.MULTILINE)[0]


def test_library_code_never_prints():
    for path in PACKAGE.rglob("*.py"):
        if room_of(path) == "cli":
            continue
        calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
        assert not any(isinstance(call.func, ast.Name) and call.func.id == "print" for call in calls), path


# What runs what a text says, or asks a shell, whichever way it is imported.
RUNS_TEXT = {"eval", "exec", "__import__", "system", "popen", "getoutput", "getstatusoutput"}
OPENS_PICKLES = {"pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib"}


def test_yaml_is_loaded_safely_and_nothing_is_unpickled_or_evaluated():
    for path in [*PACKAGE.rglob("*.py"), *RECIPES]:
        text = path.read_text(encoding="utf-8")
        for unsafe in ("yaml.load(", "torch.load(", "shell=True", "trust_remote_code=True", "allow_pickle=True"):
            assert unsafe not in text, (path, unsafe)
        assert not {name.partition(".")[0] for name in imports_of(path)} & OPENS_PICKLES, path
        for call in (node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call)):
            name = call.func.id if isinstance(call.func, ast.Name) else getattr(call.func, "attr", "")
            # `model.eval()` takes nothing.
            assert name not in RUNS_TEXT or not call.args, (path, ast.unparse(call))


def test_functions_and_modules_stay_short():
    for path in PACKAGE.rglob("*.py"):
        source = path.read_text(encoding="utf-8")
        # The model stays one file, as those of transformers: it is read, and shipped, as a whole.
        assert len(source.splitlines()) <= (450 if path.name == "modeling_scratch_gpt.py" else 400), path
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.FunctionDef):
                assert node.end_lineno - node.lineno < 50, (path, node.name)


def test_everything_that_is_imported_is_installed_with_the_package():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    names = ("trackers", "harness", "onnx", "llamacpp", "compressed", "serve")
    extras = [each for name in names for each in project["optional-dependencies"][name]]
    declared = {re.match(r"[\w-]+", each)[0].lower().replace("_", "-") for each in project["dependencies"] + extras}
    imported = {name.split(".")[0] for path in [*PACKAGE.rglob("*.py"), *RECIPES] for name in imports_of(path)}
    imported -= {*sys.stdlib_module_names, "hf_finetune", "pydantic_core", "starlette"}  # brought by others
    providers = packages_distributions()
    missing = {
        name
        for name in imported
        if name in providers and not {each.lower().replace("_", "-") for each in providers[name]} & declared
    }
    assert not missing


def test_every_extra_brings_what_the_package_uses():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    written = "".join(path.read_text(encoding="utf-8") for path in PACKAGE.rglob("*.py"))
    for extra in project["optional-dependencies"].keys() - {"dev"}:
        for requirement in project["optional-dependencies"][extra]:
            name = re.match(r"[\w-]+", requirement)[0].replace("-", "_")
            assert re.search(rf"\b{name}\b", written), f"{extra}: {requirement}"


def test_importing_the_package_and_its_faces_imports_nothing_heavy():
    rooms = ", ".join(f"hf_finetune.{room}" for room in ROOMS)
    heavy = {"torch", "transformers", "pyarrow", "numpy"}
    code = f"import sys, hf_finetune.cli, {rooms}; print({heavy} & {{*sys.modules}})"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown.strip() == "set()"
