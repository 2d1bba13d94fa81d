"""The runs and the pictures of docs/understanding.md: its own run file and commands, run in order, then drawn.

    python benchmarks/understanding_pictures.py --keep /tmp/understanding

Every line after `$ ` on the page is run in a folder made by `hf-finetune init`, with its `first.yaml` in it; what each
prints is in one .log file a command. The curves in the run folders become docs/images/understanding-*.svg, by the
geometry of report.html, and the figures behind them are printed: the page quotes these. With --keep the folder stays,
and the commands whose logs are in it are not run again. Minutes on a CPU of two cores.
"""

from __future__ import annotations

import argparse
import hashlib
import math
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from html import escape
from pathlib import Path

from hf_finetune.environment.project_files import init_project
from hf_finetune.reporting.charts.svg import Chart, Series, make_line_chart, make_reliability_chart
from hf_finetune.reporting.diagnosis import diagnose
from hf_finetune.reporting.page.curves import make_loss_chart
from hf_finetune.reporting.run_record import RunRecord, get_curve, read_run

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "understanding.md"
PICTURES = ROOT / "docs" / "images"
PREFIX = "understanding-"

# Of a picture and its panels, in pixels. GitHub shows it up to 850 wide.
WIDTH, HEIGHT, EDGE = 820, 330, 14
LEFT, RIGHT, TOP, BOTTOM = 52, 16, 62, 46
LINE = 16
# report.css in its light form: an image cannot know whether the page around it is dark, so it brings its own paper.
COLORS = ("#0b62a8", "#c8500a", "#0a7d5a", "#a03a7c", "#8a6a00")
DASHES = ("", "7 4", "2 4", "10 3 2 3", "")
STYLE = """
text { font: 12px -apple-system, "Segoe UI", Helvetica, Arial, sans-serif; fill: #59626e; }
.title { font-size: 14px; font-weight: 600; fill: #1b1f24; }
.end { text-anchor: end; } .middle { text-anchor: middle; }
.grid { stroke: #d9dde3; }
.curve { fill: none; stroke-width: 2; stroke-linecap: round; stroke-linejoin: round;
  vector-effect: non-scaling-stroke; }
.dot { stroke: #ffffff; }
.thin { stroke-width: 1; opacity: .6; }
.mark { stroke: #1a6e37; stroke-width: 1.5; stroke-dasharray: 4 3; }
.said { fill: #1a6e37; font-weight: 600; paint-order: stroke; stroke: #ffffff; stroke-width: 4px; }
"""


def run_page(folder: Path) -> None:
    """Run the commands of the page that have no log yet."""
    page = PAGE.read_text(encoding="utf-8")
    if not (folder / "recipes").exists():
        init_project(folder)
    run_file = re.search(r"```yaml\n(.*?)```", page, re.DOTALL)
    assert run_file is not None
    (folder / "first.yaml").write_text(run_file[1], encoding="utf-8")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    for command in re.findall(r"^\$ ((?:.*\\\n)*.+)$", page, re.MULTILINE):
        log = folder / f"{hashlib.sha256(command.encode()).hexdigest()[:8]}.log"
        if log.exists():
            continue
        print(command, flush=True)
        environment = {**os.environ, "PATH": path, "HF_HUB_OFFLINE": "1"}
        done = subprocess.run(["bash", "-c", command], cwd=folder, env=environment, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(done.stdout + done.stderr)
        log.write_text(f"$ {command}\n{done.stdout}{done.stderr}", encoding="utf-8")


def pictures(folder: Path) -> dict[str, list[Chart | None]]:
    """The panels of each picture, by the runs in `folder`."""
    runs = {path.name: read_run(path) for path in sorted((folder / "runs").iterdir()) if path.is_dir()}
    for name, run in runs.items():
        print(f"\n{name}: {diagnose(run).verdict}")
    first = runs["first"]
    guess = math.log(first.model["vocab_size"])
    guessing = Series(f"every token equally likely: {guess:.2f}", [(0, guess), (first.step, guess)], 2)
    rates = (("too-low", "0.000003", 2), ("first", "0.01", 0), ("too-high", "0.3", 1))
    return {
        "loss": [with_also(first, guessing)],
        "gradient": [one(first, "learning_rate", "Learning rate"), one(first, "grad_norm", "Gradient norm")],
        "rates": [
            make_line_chart(
                "Training loss at three learning rates", [loss_of(runs[name], *each) for name, *each in rates]
            ),
            make_line_chart("And at a learning rate of 1", [loss_of(runs["diverged"], "1", 3)]),
        ],
        "overfitting": [make_loss_chart(runs["few"])],
        "flat": [
            titled(make_loss_chart(runs["plateau"]), "A plateau"),
            titled(make_loss_chart(runs["short"]), "Ended too soon"),
        ],
        "reliability": [reliability(runs["uncalibrated"], "as trained"), reliability(runs["labels"], "after scaling")],
    }


def with_also(run: RunRecord, also: Series) -> Chart | None:
    curves = [
        Series("training", get_curve(run, "loss")),
        Series("validation", get_curve(run, "eval_loss"), 1, dots=True),
    ]
    return make_line_chart("Loss, in nats", [*curves, also])


def loss_of(run: RunRecord, said: str, style: int) -> Series:
    return Series(said, get_curve(run, "loss"), style)


def one(run: RunRecord, name: str, title: str) -> Chart | None:
    return make_line_chart(title, [Series(title.lower(), get_curve(run, name), noisy=False)], from_zero=True)


def titled(chart: Chart | None, title: str) -> Chart | None:
    return None if chart is None else Chart(**{**vars(chart), "title": title, "marks": ()})


def reliability(run: RunRecord, when: str) -> Chart:
    bins = run.report["evaluation"]["test"]["reliability"]
    points = [(each["confidence"], each["accuracy"]) for each in bins]
    return make_reliability_chart(f"Test, {when}", points, [each["rows"] for each in bins])


def drawn(panels: Sequence[Chart]) -> str:
    """Panels side by side as one SVG with concrete colors on its own paper, which reads out what it shows."""
    wide = WIDTH / len(panels)
    said = " ".join(f"{panel.title}. {panel.said}" for panel in panels)
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" role="img">',
            f"<title>{escape(panels[0].title)}</title>",
            f"<desc>{escape(said)}</desc>",
            f"<style>{STYLE}</style>",
            f'<rect x=".5" y=".5" width="{WIDTH - 1}" height="{HEIGHT - 1}" rx="8" fill="#ffffff" stroke="#d9dde3"/>',
            *(line for number, panel in enumerate(panels) for line in drawn_panel(panel, number * wide, wide)),
            "</svg>\n",
        ]
    )


def drawn_panel(chart: Chart, x: float, width: float) -> list[str]:
    left, right, bottom = x + LEFT, x + width - RIGHT, HEIGHT - BOTTOM

    def across(share: float) -> str:
        return f"{left + share / 100 * (right - left):.1f}"

    def down(share: float) -> str:
        return f"{TOP + share / 100 * (bottom - TOP):.1f}"

    lines = [f'<text class="title" x="{x + EDGE:.1f}" y="26">{escape(chart.title)}</text>', *legend(chart, x + EDGE)]
    for tick in chart.y_ticks:
        y = down(tick.at)
        lines.append(f'<path class="grid" d="M{left:.1f} {y}H{right:.1f}"/>')
        lines.append(f'<text class="end" x="{left - 7:.1f}" y="{float(y) + 4:.1f}">{tick.label}</text>')
    for tick in chart.x_ticks:
        lines.append(f'<path class="grid" d="M{across(tick.at)} {TOP}V{bottom}"/>')
        lines.append(f'<text class="middle" x="{across(tick.at)}" y="{bottom + LINE}">{tick.label}</text>')
    lines.append(f'<text class="end" x="{right:.1f}" y="{bottom + 2 * LINE}">{chart.x_label}</text>')
    plot = f'x="{left:.1f}" y="{TOP}" width="{right - left:.1f}" height="{bottom - TOP}"'
    lines.append(f'<svg {plot} viewBox="0 0 1000 1000" preserveAspectRatio="none" overflow="visible">')
    lines += [
        f'<path class="curve{" thin" if each.thin else ""}" {stroke(each.style)} d="{each.path}"/>'
        for each in chart.curves
    ]
    lines.append("</svg>")
    lines += [
        f'<circle class="dot" cx="{across(dot.x)}" cy="{down(dot.y)}" r="{dot.radius}" fill="{COLORS[each.style]}"/>'
        for each in chart.curves
        for dot in each.dots
    ]
    for mark in chart.marks:
        at, side = float(across(mark.at)), ("end", -6) if mark.on_the_left else ("", 6)
        lines.append(f'<path class="mark" d="M{at} {TOP}V{bottom}"/>')
        lines.append(f'<text class="said {side[0]}" x="{at + side[1]:.1f}" y="{TOP + 14}">{escape(mark.label)}</text>')
    return lines


def legend(chart: Chart, x: float) -> list[str]:
    lines = []
    for each in chart.legend:
        if each.path:
            lines.append(f'<path class="curve" {stroke(each.style)} d="M{x:.1f} 42h22"/>')
        else:
            lines.append(f'<circle cx="{x + 16:.1f}" cy="42" r="4" fill="{COLORS[each.style]}"/>')
        lines.append(f'<text x="{x + 28:.1f}" y="46">{escape(each.name)}</text>')
        x += 28 + 6.4 * len(each.name) + 16
    return lines


def stroke(style: int) -> str:
    return f'stroke="{COLORS[style]}"' + (f' stroke-dasharray="{DASHES[style]}"' if DASHES[style] else "")


def main(keep: Path | None) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        folder = (keep or Path(temporary)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        run_page(folder)
        for name, charts in pictures(folder).items():
            panels = [chart for chart in charts if chart is not None]
            path = PICTURES / f"{PREFIX}{name}.svg"
            path.write_text(drawn(panels), encoding="utf-8")
            print(f"\n{path.name}, {path.stat().st_size:,} bytes")
            print("\n".join(f"  {panel.title}: {panel.said}" for panel in panels))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keep", type=Path, help="The folder of the runs; what is there is not run again.")
    main(parser.parse_args().keep)
