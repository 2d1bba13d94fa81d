"""The page as a reader meets it: in a browser, in light and dark, on a phone and on paper."""

from __future__ import annotations

import base64
import re
from itertools import pairwise
from pathlib import Path

import pytest
from reporting.made_runs import classifier, history, manifest, report, run_folder, stopped

from hf_finetune.reporting.diagnosis import diagnose
from hf_finetune.reporting.page import render_page
from hf_finetune.reporting.page.comparison import render_comparison
from hf_finetune.reporting.run_record import read_run

PHONE, DESKTOP = {"width": 360, "height": 740}, {"width": 1100, "height": 800}
HOSTILE = '<script>document.title = "taken"; fetch("https://example.com")</script><img src="https://example.com/x.png">'


@pytest.fixture(scope="module")
def pages(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pages")
    long = report()
    long["train"] = long["train"] | {"steps": 10_000, "history": history(10_000, 1, evaluate=100)}
    sample = {"step": 0, "prompt": HOSTILE, "continuation": "x" * 500, "tokens": 1, "finished": True}
    long["samples"] = [*long["samples"], sample]
    runs = {
        "full": read_run(run_folder(folder / "full", long, manifest())),
        "labels": read_run(run_folder(folder / "labels", classifier(), manifest())),
        "crashed": read_run(stopped(folder / "crashed")),
    }
    found = [diagnose(run) for run in runs.values()]
    html = {name: render_page(run, said) for (name, run), said in zip(runs.items(), found, strict=True)}
    html["comparison"] = render_comparison(list(runs.values()), found)
    for name, text in html.items():
        (folder / f"{name}.html").write_text(text, encoding="utf-8")
    return {name: folder / f"{name}.html" for name in html}


@pytest.fixture
def visit(browser):
    """Open a page, and refuse any word on the console and any request but the file."""
    said, opened = [], []

    def open_page(path: Path, viewport=DESKTOP, theme="light"):
        shown = browser.new_page(viewport=viewport, color_scheme=theme)
        opened.append(shown)
        shown.on("console", lambda message: said.append(message.text))
        shown.on("pageerror", lambda error: said.append(str(error)))
        shown.on("request", lambda request: said.append(request.url) if request.url != path.as_uri() else None)
        shown.goto(path.as_uri(), wait_until="load")
        return shown

    yield open_page
    for shown in opened:
        shown.close()
    assert [each for each in said if each != "data:,"] == []


NAMES = ("full", "labels", "crashed", "comparison")


@pytest.mark.parametrize("name", NAMES)
def test_it_opens_in_a_second_without_a_word_on_the_console_or_a_request(visit, pages, name):
    shown = visit(pages[name])
    timing = shown.evaluate(
        "(() => { const t = performance.getEntriesByType('navigation')[0]; return t.loadEventEnd })()"
    )
    assert 0 < timing < 1000
    assert shown.title() != "taken"
    assert pages[name].stat().st_size < 1_000_000


@pytest.mark.parametrize("name", NAMES)
def test_it_fits_a_phone_where_only_tables_scroll_sideways(visit, pages, name):
    shown = visit(pages[name], PHONE)
    assert shown.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    outside = """[...document.querySelectorAll('body *')].filter(e => !e.closest('.scroll') && !e.closest('.plot > svg')
        && e.getBoundingClientRect().right > innerWidth + 1).map(e => e.outerHTML.slice(0, 80))"""
    assert shown.evaluate(outside) == []
    sizes = "[...document.querySelectorAll('.plot text')].map(e => parseFloat(getComputedStyle(e).fontSize))"
    assert min(shown.evaluate(sizes)) >= 11


@pytest.mark.parametrize("name", NAMES)
def test_every_picture_and_part_has_a_name_and_headings_go_down_one_by_one(visit, pages, name):
    shown = visit(pages[name])
    tree = shown.locator("body").aria_snapshot()  # as a screen reader gets it
    for role in ("img", "region", "table", "navigation", "link"):
        parts = re.findall(rf"^\s*- '?{role}\b.*", tree, re.MULTILINE)
        assert parts
        assert all('"' in part for part in parts), parts
    levels = shown.evaluate("[...document.querySelectorAll('h1,h2,h3,h4')].map(e => +e.tagName[1])")
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))


MEAN_LIGHT = """async png => {
    const image = await createImageBitmap(await (await fetch('data:image/png;base64,' + png)).blob());
    const context = new OffscreenCanvas(50, 50).getContext('2d');
    context.drawImage(image, 0, 0, 50, 50);
    const bytes = context.getImageData(0, 0, 50, 50).data;
    return bytes.reduce((sum, byte, i) => sum + (i % 4 < 3 ? byte : 0), 0) / (3 * 2500 * 255);
}"""


def test_light_dark_and_paper_have_the_ground_that_they_should(browser, visit, pages):
    day, night = (visit(pages["full"], theme=theme) for theme in ("light", "dark"))
    pictures = [day.screenshot(), night.screenshot()]
    night.emulate_media(media="print", color_scheme="dark")
    pictures.append(night.screenshot())
    measuring = browser.new_page()
    light, dark, paper = (measuring.evaluate(MEAN_LIGHT, base64.b64encode(each).decode()) for each in pictures)
    measuring.close()
    assert light > 0.85
    assert dark < 0.25
    assert paper > 0.85


def test_what_is_folded_away_is_there_on_paper(visit, pages):
    shown = visit(pages["full"])
    shown.emulate_media(media="print")
    settings = shown.get_by_text("train.per_device_train_batch_size")
    assert settings.bounding_box()["height"] > 0
    assert (
        shown.evaluate("getComputedStyle(document.querySelector('details'), '::details-content').contentVisibility")
        == "visible"
    )
    assert shown.pdf(format="A4").startswith(b"%PDF")


def test_curves_are_drawn_over_the_whole_plot_with_the_best_step_where_it_was(visit, pages):
    shown = visit(pages["full"])
    box = "(e => { const b = e.getBoundingClientRect(); return [b.left, b.right, b.top, b.bottom] })"
    plot = shown.evaluate(f"{box}(document.querySelector('.plot > svg'))")
    curve = shown.evaluate(f"{box}(document.querySelector('.plot .curve'))")
    assert abs(curve[0] - plot[0]) < 2
    assert abs(curve[1] - plot[1]) < 2
    assert plot[2] <= curve[2] < curve[3] <= plot[3]
    best = shown.evaluate(f"{box}(document.querySelector('line.mark.best'))")
    share = (best[0] - plot[0]) / (plot[1] - plot[0])
    assert abs(share - (200 - 1) / (10_000 - 1)) < 0.01


def test_nothing_on_a_page_moves_with_the_keyboard_out_of_reach(visit, pages):
    shown = visit(pages["labels"], PHONE)
    shown.keyboard.press("Tab")
    assert shown.evaluate("document.activeElement.tagName") == "A"
    scrolled = "[...document.querySelectorAll('.scroll')].every(e => e.tabIndex === 0)"
    assert shown.evaluate(scrolled)


def test_the_page_of_a_running_run_is_read_anew_by_itself_until_it_ends(visit, tmp_path):
    run = read_run(stopped(tmp_path / "run"))
    path, found = tmp_path / "report.html", diagnose(run)
    path.write_text(render_page(run, found, reload_s=1), encoding="utf-8")
    shown = visit(path)
    path.write_text(render_page(run, found).replace("<title>", "<title>later "), encoding="utf-8")
    for _ in range(200):  # not `wait_for_function`, whose script the page refuses to run
        if "later" in shown.title():
            break
        shown.wait_for_timeout(100)
    path.write_text("never read", encoding="utf-8")
    shown.wait_for_timeout(1500)
    assert "later" in shown.title()
