"""The report as one page, with rows token by token; no script, and nothing is loaded from anywhere."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files

from hf_finetune.errors import format_problems
from hf_finetune.pages import hash_style, make_environment, read_shared_style
from hf_finetune.preflight.data_report.report import LEVELS, DataReport
from hf_finetune.preflight.token_view.page import KINDS, draw_views, read_template
from hf_finetune.preflight.token_view.spans import TokenView

_PLACES = 20


def render_report(report: DataReport, views: Sequence[TokenView]) -> str:
    """Render a report, and views of some rows, as one HTML page. All text is escaped."""
    css = read_shared_style() + read_template("tokens.css") + _read_template("report.css")
    counts = report.count_levels()
    return str(
        make_environment(_read_any)
        .get_template("report.html.j2")
        .render(
            report=report,
            levels=[(level, counts[level]) for level in LEVELS],
            problems=format_problems(report.problems),
            findings=[(each, each.name_places()[:_PLACES]) for each in report.sort_findings()],
            shown=draw_views(views),
            kinds=KINDS,
            css=css,
            css_hash=hash_style(css),
        )
    )


def _read_any(name: str) -> str:
    return read_template(name) if name == "views.html.j2" else _read_template(name)


def _read_template(name: str) -> str:
    return (files("hf_finetune.preflight.data_report") / "templates" / name).read_text(encoding="utf-8")
