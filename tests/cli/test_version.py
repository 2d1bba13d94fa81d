"""`hf-finetune --version`: what a report of a fault needs, at once."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from importlib.metadata import version

from hf_finetune.environment.versions import __version__, find_versions

PROGRAM = """
import json, sys
from hf_finetune.cli import main
sys.argv = ["hf-finetune", "--version"]
try:
    main()
except SystemExit as end:
    print(json.dumps([end.code, [name for name in ("torch", "transformers", "trl", "yaml") if name in sys.modules]]))
"""


def test_the_versions_are_printed_and_nothing_is_imported_for_it(environment_of_a_user):
    run = [sys.executable, "-c", PROGRAM]
    done = subprocess.run(run, env=environment_of_a_user, capture_output=True, text=True, check=True, timeout=60)
    *lines, end = done.stdout.splitlines()
    assert json.loads(end) == [0, []]
    assert lines[:2] == [f"hf-finetune {__version__}", f"python {platform.python_version()}"]
    names = ("torch", "transformers", "trl", "peft", "datasets", "accelerate")
    assert lines[2:] == [f"{name} {version(name)}" for name in names]
    assert done.stderr == ""


def test_the_help_lists_it(environment_of_a_user):
    help_of = [sys.executable, "-m", "hf_finetune.cli", "-h"]
    done = subprocess.run(help_of, env=environment_of_a_user, capture_output=True, text=True, check=True, timeout=60)
    assert "--version" in done.stdout


def test_a_package_that_is_not_installed_is_left_out():
    assert find_versions(["torch", "no-such-package"]) == {"torch": version("torch")}
