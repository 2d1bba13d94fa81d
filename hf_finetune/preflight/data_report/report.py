"""What was found in the rows of a run, JSON-ready."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any

from hf_finetune.codes.code import Level
from hf_finetune.errors import Problem
from hf_finetune.preflight.detectors.languages import Languages
from hf_finetune.preflight.findings import Finding
from hf_finetune.preflight.lengths import SplitLengths

LEVELS: tuple[Level, ...] = ("error", "warning", "note")


@dataclass(slots=True)
class SplitReport:
    """What the rows of a split are."""

    rows: int
    lengths: SplitLengths | None = None
    """None where the rows could not be tokenized."""
    labels: dict[str, int] = field(default_factory=dict)
    """Rows by label, the most frequent first; {} where there are none."""
    languages: Languages = field(default_factory=Languages)
    """Of a sample of rows."""


@dataclass(slots=True)
class DataReport:
    """What `check` has found."""

    run: str
    recipe: str
    files: list[dict[str, Any]] = field(default_factory=list)
    """Path, split, rows, and rejected lines of each file."""
    splits: dict[str, SplitReport] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    """What a run would be refused for."""
    more_problems: int = 0
    """Those beyond the first hundred."""
    findings: list[Finding] = field(default_factory=list)
    counts: dict[str, Any] = field(default_factory=dict)
    """What each detector has counted, what is no finding too."""

    def count_levels(self) -> Counter[str]:
        """Count what was found by its level; what a run would be refused for is an error."""
        counts = Counter[str](finding.level for finding in self.findings)
        counts["error"] += len(self.problems) + self.more_problems
        return counts

    def sort_findings(self) -> list[Finding]:
        """The findings, errors first."""
        return sorted(self.findings, key=lambda each: (LEVELS.index(each.level), each.code))

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "run": self.run,
            "recipe": self.recipe,
            "files": self.files,
            "splits": {name: asdict(split) for name, split in self.splits.items()},
            "problems": [asdict(problem) for problem in self.problems],
            "more_problems": self.more_problems,
            "findings": [describe_finding(finding) for finding in self.sort_findings()],
            "counts": self.counts,
            "levels": {level: self.count_levels()[level] for level in LEVELS},
        }


def describe_finding(finding: Finding) -> dict[str, Any]:
    """A finding, JSON-ready, with what its code says."""
    return {
        "code": finding.code,
        "level": finding.level,
        "what": finding.what,
        "why": finding.about.why,
        "remedy": finding.remedy or finding.about.remedy,
        "split": finding.split,
        "count": finding.count,
        "places": [asdict(place) for place in finding.places],
    }
