"""docs/new.md shows what is made."""

from __future__ import annotations

from pathlib import Path

from hf_finetune.preflight.plan import make
from hf_finetune.preflight.plan.machine import GIB, Machine

ROOT = Path(__file__).resolve().parents[2]


def test_the_page_shows_the_run_file_that_is_made(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data_templates").symlink_to(ROOT / "data_templates")
    monkeypatch.setattr(make, "look_at_machine", lambda: Machine(2, 24 * GIB, "cpu", bf16=True))
    page = (ROOT / "docs" / "new.md").read_text(encoding="utf-8")
    made = make.make_run_file(["data_templates/tickets.csv"], model="scratch")
    assert page.split("```yaml\n")[1].split("```")[0] == made.text
