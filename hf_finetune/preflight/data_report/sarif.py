"""The report as SARIF 2.1.0 (https://docs.oasis-open.org/sarif/sarif/v2.1.0/), by which tools annotate files."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

from hf_finetune.codes import CODES
from hf_finetune.environment import __version__
from hf_finetune.preflight.data_report.report import DataReport
from hf_finetune.preflight.findings import Finding, Place

_SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"


def build_sarif(report: DataReport) -> dict[str, Any]:
    """Build the log of one run: a rule for each code that was found, and a result for each place."""
    results = [*_list_problems(report), *_list_findings(report)]
    used = sorted({result["ruleId"] for result in results if "ruleId" in result})
    driver = {
        "name": "hf-finetune",
        "semanticVersion": __version__,
        "rules": [_describe_rule(code) for code in used],
    }
    run = {"tool": {"driver": driver}, "columnKind": "unicodeCodePoints", "results": results}
    return {"$schema": _SCHEMA, "version": "2.1.0", "runs": [run]}


def is_own_sarif(path: Path) -> bool:
    """Whether a file is one that `build_sarif` made."""
    if not path.is_file():
        return False
    with path.open(encoding="utf-8", errors="replace") as file:
        return _SCHEMA in file.read(200)


def _describe_rule(name: str) -> dict[str, Any]:
    code = CODES[name]
    return {
        "id": name,
        "shortDescription": {"text": code.title},
        "fullDescription": {"text": code.why},
        "help": {"text": f"{code.why} What to do: {code.remedy}."},
        "defaultConfiguration": {"level": code.level},
    }


def _list_problems(report: DataReport) -> Iterator[dict[str, Any]]:
    for problem in report.problems:
        # Path, line and code have fields of their own.
        said = replace(problem, path=None, line=None, code="")
        result: dict[str, Any] = {"level": "error", "message": {"text": str(said)}}
        if problem.code:
            result["ruleId"] = problem.code
        path = problem.path or report.run
        yield result | {"locations": [_locate(path, problem.line or 1)]}


def _list_findings(report: DataReport) -> Iterator[dict[str, Any]]:
    for finding in report.sort_findings():
        remedy = finding.remedy or finding.about.remedy
        result = {
            "ruleId": finding.code,
            "level": finding.level,
            "message": {"text": f"{finding.what}; {remedy}"},
        }
        yield from (result | where for where in _list_locations(finding, report.run))


def _list_locations(finding: Finding, run: str) -> Iterator[dict[str, Any]]:
    """Of a pair the row is the place, and the one that it is held against a related one."""
    places = finding.places
    if not places:
        # GitHub's code scanning requires a place of each result: what is said of all rows is put at the run file.
        yield {"locations": [_locate(run, 1)]}
    elif finding.pairs:
        for one, other in zip(places[::2], places[1::2], strict=True):
            related = _locate(other.path, other.line) | {"message": {"text": "the row that it is held against"}}
            yield {"locations": [_locate_place(one)], "relatedLocations": [related]}
    else:
        yield from ({"locations": [_locate_place(place)]} for place in places)


def _locate_place(place: Place) -> dict[str, Any]:
    return _locate(place.path, place.line)


def _locate(path: str, line: int) -> dict[str, Any]:
    # Relative paths stay so: who shows the results knows them from the root of the repository.
    uri = Path(path).as_uri() if Path(path).is_absolute() else quote(Path(path).as_posix())
    return {"physicalLocation": {"artifactLocation": {"uri": uri}, "region": {"startLine": line}}}
