"""Every relative link of README.md and docs/ leads to a file, and to a heading of it where it names one."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "data_templates" / "README.md", *ROOT.glob("docs/*.md")]
FENCE = re.compile(r"^( *)(```|~~~).*?^\1\2 *$", re.MULTILINE | re.DOTALL)


def list_anchors(page: Path) -> set[str]:
    """As GitHub names headings: lower case, punctuation gone, a dash for each blank; -1, -2 for those that repeat."""
    anchors: list[str] = []
    for heading in re.findall(r"^#+ +(.+?) *#*$", FENCE.sub("", page.read_text(encoding="utf-8")), re.MULTILINE):
        words = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        anchor = re.sub(r"[^\w\- ]", "", words.lower()).replace(" ", "-")
        again = anchors.count(anchor)
        anchors.append(anchor)
        anchors.extend([f"{anchor}-{again}"] if again else [])
    return set(anchors)


def find_broken(page: Path) -> list[str]:
    broken = []
    for link in re.findall(r"\]\(<?([^)\s>]+)", FENCE.sub("", page.read_text(encoding="utf-8"))):
        name, _, anchor = link.partition("#")
        if "://" in link or link.startswith("mailto:"):
            continue
        target = page.parent / name if name else page
        if not target.exists() or (anchor and anchor not in list_anchors(target)):
            broken.append(link)
    return broken


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page):
    assert find_broken(page) == []


def test_the_links_that_other_pages_have_to_the_data_formats_are_seen():
    anchors = list_anchors(ROOT / "docs" / "data-formats.md")
    assert {"tables", "other-names-datacolumns", "what-the-template-is-given"} <= anchors


def test_a_link_to_no_file_or_no_heading_is_found(tmp_path):
    (tmp_path / "a.md").write_text("# A `b.c`: d\n\n# Twice\n\n# Twice\n\n```\n# no heading\n```\n", encoding="utf-8")
    links = ("a.md#a-bc-d", "a.md#twice-1", "a.md#no-heading", "a.md#twice-2", "c.md", "#here", "https://x.y/z#q")
    (tmp_path / "b.md").write_text("".join(f"[x]({link})\n" for link in links), encoding="utf-8")
    assert find_broken(tmp_path / "b.md") == ["a.md#no-heading", "a.md#twice-2", "c.md", "#here"]
