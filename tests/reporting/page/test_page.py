from __future__ import annotations

import base64
import hashlib
import json
import math
import os
import re
import socket
from contextlib import suppress
from itertools import pairwise

import hypothesis
import pytest
from hypothesis import strategies as st
from reporting.made_runs import classifier, foreign, history, manifest, report, run_folder, scores, stopped
from reporting.page.page_reader import Read

from hf_finetune.errors import CannotWriteError, FinetuneError
from hf_finetune.pages import escape_invisible, is_writable_page
from hf_finetune.reporting.card.procedure import describe_machine
from hf_finetune.reporting.diagnosis import Diagnosis, diagnose
from hf_finetune.reporting.diagnosis.findings import Finding
from hf_finetune.reporting.page import render_page, write_page
from hf_finetune.reporting.page.blocks import MAX_TABLE_ROWS, flatten_settings
from hf_finetune.reporting.run_record import read_run


def html_of(folder) -> str:
    run = read_run(folder)
    return render_page(run, diagnose(run))


def text_of(folder) -> str:
    return Read(html_of(folder)).text


@pytest.fixture
def full(tmp_path):
    return run_folder(tmp_path / "full", report(), manifest())


def test_the_verdict_comes_first_then_the_figures_and_each_finding_with_its_remedy(full):
    run = read_run(full)
    finding = Finding("plateau", "warning", "It stands still", "2.1 from step 50", "too low a rate", "raise it", 50)
    main = render_page(run, Diagnosis("It stopped learning.", (finding,))).split("<main>")[1]
    shown = ("It stopped learning.", "52.0%", "warning</span> It stands still", "2.1 from step 50", "too low a rate")
    places = [main.index(each) for each in (*shown, "raise it", ">Curves</h2>", ">Scores</h2>", ">Do it again</h2>")]
    assert places == sorted(places)


def test_a_page_of_a_finished_run_says_everything_that_was_measured(full):
    text = text_of(full)
    for said in (
        *("300 steps", "3 epochs", "12 min 34 s", "5,012 tokens/s", "50,000 parameters trained"),
        *(
            "47.0% to 57.0%",
            "31.4",
            "tiny-base",
            "-0.3300",
            "+2.0%",
            "-0.3700 to -0.2900",
            "< 0.001",
            "it did not forget",
        ),
        *("meta.language", "44.0% (36.0% to 51.0%)", "words of gender swapped in 61 rows", "changed in 8.2%"),
        *("Planted canaries", "90%", "3 of 500 training rows (0.6%, 0.2% to 1.7%)", "train.jsonl:17"),
        *("before training: 7 tokens, cut off", "a a a a", "It is on its way.", "step 300: 9 tokens, ended by itself"),
        *("shares 13 words", "trained tokens", "50,000 of 1,000,000 parameters were trained (5.00%)", "50.0%"),
        *("train.learning_rate", "0.0005", "3.21 Wh (RAPL)", "efefef", "seed", "2.13.0", "best: step 200"),
    ):
        assert said in text, said
    assert "It left the depot" not in text  # neither the first answer nor the last


def test_the_command_to_do_it_again_is_shown_without_places_on_the_machine(full):
    html = html_of(full)
    assert "accelerate launch recipes/sft.py recipes/configs/sft.yaml data.train=more.jsonl train.max_steps=300" in html
    assert "somebody" not in html
    assert str(full.parent) not in html


def test_nothing_is_shown_for_what_was_not_computed(tmp_path):
    bare = report(evaluation={}, samples=[], parameters={}, environment={}, distributed={})
    bare["train"] = {"steps": 3, "history": []}
    folder = run_folder(tmp_path / "bare", bare, {"seed": 1})
    read = Read(render_page(read_run(folder), Diagnosis("Too short to say.", ())))
    assert [name for tag, name in read.headings if tag == "h2"] == ["Verdict", "Data", "Do it again"]
    for absent in ("None", "nan", "undefined", "energy", "baseline", "canar"):
        assert absent not in read.text


def test_references_that_no_answer_can_match_are_counted_above_the_figures(tmp_path):
    scored = report()
    decoding = {"rows": 40, "longer_references": 38, "max_new_tokens": 8}
    scored["evaluation"]["test"] |= {"rows": 40, "decoding": decoding}
    read = Read(html_of(run_folder(tmp_path / "run", scored, manifest())))
    assert "test: 40 rows" in read.text
    assert ", 38 references longer than the 8 tokens of an answer" in read.text


def test_a_classifier_has_its_labels_its_matrix_its_reliability_and_its_mistakes(tmp_path):
    read = Read(html_of(run_folder(tmp_path / "labels", classifier(), manifest())))
    for said in ("Matthews correlation", "majority", "82.0%", "not defined", "test: each label"):
        assert said in read.text
    assert "train.jsonl:17" in read.text
    assert "worst mistakes" in read.text
    shades = [a["class"] for tag, a in read.elements if tag == "td" and "shade" in (a.get("class") or "")]
    assert shades[:9] == [
        *("shade-9 own", "shade-0", "shade-1", "shade-0", "shade-10 own", "shade-0"),
        *("shade-2", "shade-0", "shade-8 own"),
    ]
    assert ["Confidence" in read.text, "confidence, and how often it was right" in read.text] == [False, True]


@pytest.mark.parametrize(
    ("names", "fits"),
    [(["ham", "spam"], True), ([f"topic of news {n}" for n in range(5)], False), (list("abcde"), False)],
)
def test_a_matrix_takes_half_of_the_page_only_where_it_is_not_cut_there(tmp_path, names, fits):
    given = classifier()
    counts = [[90 if i == j else 3 for j in range(len(names))] for i in range(len(names))]
    given["evaluation"] = {"test": {"confusion_matrix": {"labels": names, "counts": counts}}}
    read = Read(html_of(run_folder(tmp_path / "labels", given, manifest())))
    halves = [a for tag, a in read.elements if tag == "div" and a.get("class") == "table half"]
    assert bool(halves) is fits


def test_a_matrix_of_many_labels_is_a_list_of_what_is_confused_most(tmp_path):
    size = 150
    counts = [[5 if i == j else 0 for j in range(size)] for i in range(size)]
    counts[7][9] = 40
    names = [f"label{i}" for i in range(size)]
    given = classifier()
    given["evaluation"]["test"]["confusion_matrix"] = {"labels": names, "counts": counts}
    html = html_of(run_folder(tmp_path / "many", given, manifest()))
    assert "confused most, of 1 pairs of labels" in html
    assert re.search(r"label7</th><td>label9</td><td>40", html)
    assert len(html) < 200_000


def test_answers_to_several_labels_are_counted_for_each(tmp_path):
    given = classifier()
    counts = {"labels": ["a", "b"], "counts": [[[90, 1], [2, 7]], [[50, 3], [4, 43]]]}
    given["evaluation"]["test"]["confusion_matrix"] = counts
    html = html_of(run_folder(tmp_path / "multi", given, manifest()))
    assert re.search(r"a</th><td>7</td><td>1</td><td>2</td>", html)


def test_a_run_that_crashed_is_reported_as_far_as_it_got(tmp_path):
    read = Read(html_of(stopped(tmp_path / "crashed")))
    for said in ("not finished", "step 120 of 300", "as far as it got", "not finite: step 100"):
        assert said in read.text
    assert "validation at step 50" in read.text
    assert "train.jsonl" in read.text  # from the manifest
    assert "accelerate launch" in read.text


@pytest.mark.parametrize("of", ["folder", "checkpoint", "state"])
def test_the_run_of_any_trainer_is_reported(tmp_path, of):
    folder = foreign(tmp_path / "other")
    path = {
        "folder": folder,
        "checkpoint": folder / "checkpoint-200",
        "state": folder / "checkpoint-200/trainer_state.json",
    }
    text = text_of(path[of])
    assert "Run of another Trainer" in text
    assert "200 steps" in text
    assert "Validation scores" in text


HOSTILE = '<script>alert(1)</script> "><img src=x onerror=alert(1)> {{ 7*7 }} ‮evil\x1b[31m\u200b\ud800 &amp;'


def test_text_from_data_is_escaped_and_what_cannot_be_seen_is_made_visible(tmp_path):
    given = report(run_id=HOSTILE)
    given["samples"] = [{"step": 0, "prompt": HOSTILE, "continuation": HOSTILE, "tokens": 1, "finished": True}]
    given["evaluation"] = {HOSTILE: {"loss": 1.0, "slices": {HOSTILE: {"values": {HOSTILE: {"rows": 5}}}}}}
    given["settings"] = {HOSTILE: HOSTILE}
    mistake = {"path": HOSTILE, "line": 1, "label": HOSTILE, "predicted": HOSTILE, "text": HOSTILE}
    given["samples"].append(mistake)
    read = Read(html_of(run_folder(tmp_path / "hostile", given, manifest(launch=HOSTILE))))
    assert not {"script", "img"} & {tag for tag, _ in read.elements}
    assert not any(name.startswith("on") for _, attributes in read.elements for name in attributes)
    assert r"\u202eevil\x1b[31m\u200b\ud800 &amp;" in read.text
    assert "{{ 7*7 }}" in read.text
    assert not set("‮\x1b\u200b") & set(read.text)


@hypothesis.given(st.text())
def test_visible_text_has_no_character_that_hides_or_steers_and_keeps_all_others(text):
    shown = escape_invisible(text)
    assert not re.search(
        "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]", shown
    )
    shown.encode("utf-8")
    plain = "".join(letter for letter in text if letter.isprintable() or letter in "\n\t\u200c\u200d")
    kept = iter(shown)
    assert all(letter in kept for letter in plain)  # in their order


def test_joiners_of_scripts_and_emoji_are_text():
    assert escape_invisible("می‌خواهم 👩‍🚀 naïve\n\tx") == "می‌خواهم 👩‍🚀 naïve\n\tx"


def test_the_page_loads_nothing_and_its_policy_forbids_everything_but_its_own_style(full):
    html = html_of(full)
    read = Read(html)
    policy = next(a["content"] for tag, a in read.elements if a.get("http-equiv") == "Content-Security-Policy")
    style = re.search("<style>(.*?)</style>", html, re.DOTALL)[1]
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert policy.startswith("default-src 'none'; style-src 'sha256-" + digest)
    assert not {"script", "iframe", "object", "img", "form"} & {tag for tag, _ in read.elements}
    for tag, attributes in read.elements:
        assert "style" not in attributes, tag
        for name in ("src", "href", "action", "data", "xlink:href"):
            assert (attributes.get(name) or "#").startswith(("#", "data:,")), tag
    assert not re.search(r"url\(|@import|https?://", style)


def test_the_page_is_laid_out_for_readers_who_hear_it(tmp_path):
    for given in (report(), classifier()):
        html = html_of(run_folder(tmp_path / given["recipe"], given, manifest()))
        read = Read(html)
        ids = read.ids()
        assert len(set(ids)) == len(ids)
        levels = [int(tag[1]) for tag, _ in read.headings]
        assert levels[0] == 1
        assert levels.count(1) == 1
        assert all(after <= before + 1 for before, after in pairwise(levels))
        for _, attributes in read.elements:
            for name in (attributes.get("aria-labelledby") or "").split():
                assert name in ids
            href = attributes.get("href") or ""
            assert not href.startswith("#") or href[1:] in ids
        tables = [tag for tag, _ in read.elements if tag == "table"]
        scopes = [attributes.get("scope") for tag, attributes in read.elements if tag == "th"]
        assert tables
        assert set(scopes) == {"col", "row"}
        images = [a for _, a in read.elements if a.get("role") == "img"]
        assert images
        assert all(a.get("aria-labelledby") for a in images)
        assert {"header", "nav", "main", "footer"} <= {tag for tag, _ in read.elements}
        assert next(a for tag, a in read.elements if tag == "html")["lang"] == "en"


def luminance(color: str) -> float:
    parts = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_words_and_curves_stand_out_from_their_ground_in_light_dark_and_print(full):
    style = re.search("<style>(.*?)</style>", html_of(full), re.DOTALL)[1]
    themes = [dict(re.findall(r"--([\w-]+): (#\w{6})", part)) for part in re.findall(r":root \{([^}]*)\}", style)]
    assert len(themes) == 3
    for theme in themes:
        for ground in ("paper", "panel"):
            for words in ("ink", "muted", "link", "problem", "warning", "note", "good"):
                assert contrast(theme[words], theme[ground]) >= 4.5, (words, ground)
        for number in range(8):
            assert contrast(theme[f"s{number}"], theme["paper"]) >= 3.0, number


def test_a_run_of_ten_thousand_steps_is_a_page_of_less_than_a_megabyte(tmp_path):
    given = report()
    given["train"]["history"] = history(10_000, 1, evaluate=20)
    html = html_of(run_folder(tmp_path / "long", given, manifest()))
    assert len(html.encode()) < 300_000


def test_the_same_files_give_the_same_page(tmp_path):
    one, other = (run_folder(tmp_path / side / "run", report(), manifest()) for side in ("a", "b"))
    assert html_of(one) == html_of(other)


def test_writing_a_page_needs_no_network_and_leaves_only_the_page(full, monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("a connection was tried")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    before = {path.name for path in full.iterdir()}
    assert write_page(full) == full / "report.html"
    assert {path.name for path in full.iterdir()} == before | {"report.html"}
    assert is_writable_page(full / "report.html")
    first = (full / "report.html").read_bytes()
    write_page(full)
    assert (full / "report.html").read_bytes() == first


def test_somebody_elses_report_stays_and_the_log_says_so(full, caplog):
    (full / "report.html").write_text("<h1>mine</h1>")
    write_page(full)
    assert (full / "report.html").read_text() == "<h1>mine</h1>"
    assert "not a page of ours" in caplog.text


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_is_one_message(full):
    full.chmod(0o500)
    with pytest.raises(CannotWriteError, match="--output"):
        write_page(full)
    full.chmod(0o700)


def test_a_long_table_is_cut_and_says_so(tmp_path):
    values = {f"v{i}": {"rows": 20, "loss": 1.0} for i in range(MAX_TABLE_ROWS + 7)}
    given = report(evaluation={"test": {"loss": 1.0, "slices": {"source": {"values": values, "gaps": []}}}})
    assert "… and 7 more rows in report.json." in text_of(run_folder(tmp_path / "wide", given, manifest()))


def test_settings_are_shown_by_dotted_keys_and_without_what_was_not_set():
    given = {
        "train": {"lr": 1e-4, "flags": [], "deep": {"a": None, "b": True}},
        "out": "runs/x y",
        "prompt": "a /b c",
    }
    assert flatten_settings(given) == {
        "train.lr": "0.0001",
        "train.deep.b": "true",
        "out": "runs/x y",
        "prompt": "a /b c",
    }


def test_a_diagnosis_without_findings_is_a_verdict_alone(full):
    html = render_page(read_run(full), Diagnosis("All is well.", ()))
    assert "All is well." in html
    assert 'class="findings"' not in html


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just("nan"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


def places(value, before=()):
    yield before
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in children:
        yield from places(child, (*before, key))


COMPLETE = json.loads(json.dumps(classifier(), allow_nan=True))
COMPLETE["evaluation"]["more"] = json.loads(json.dumps(scores()))
COMPLETE["train"]["history"] = COMPLETE["train"]["history"][:4]
COMPLETE["samples"] += report()["samples"]
PLACES = [place for place in places(COMPLETE) if place]


@hypothesis.settings(max_examples=120)
@hypothesis.given(st.sampled_from(PLACES), JSON)
def test_a_report_that_somebody_changed_is_a_page_or_one_message_never_a_traceback(tmp_path_factory, place, value):
    changed = json.loads(json.dumps(COMPLETE))
    holder = changed
    for key in place[:-1]:
        holder = holder[key]
    holder[place[-1]] = "nan" if isinstance(value, float) and not math.isfinite(value) else value
    folder = run_folder(tmp_path_factory.getbasetemp() / "changed", changed, manifest())
    with suppress(FinetuneError):  # a message with the path and what to do
        run = read_run(folder)
        Read(render_page(run, diagnose(run)))


def test_the_page_says_when_by_which_version_from_which_commit_and_on_what(tmp_path):
    project = {"commit": "be49e33aa0" * 4, "changed": True}
    dated = manifest(date="2026-11-29T02:12:47+00:00", project=project)
    text = Read(render_page(read_run(run_folder(tmp_path / "a", report(), dated)), Diagnosis("", ()))).text
    for said in ("29 November 2026, 02:12 UTC", "hf-finetune 0.1.0", "commit be49e33aa0, with changes", "A CPU"):
        assert said in text, said
    undated = manifest(date="yesterday", project=None)
    assert (
        "UTC" not in Read(render_page(read_run(run_folder(tmp_path / "b", report(), undated)), Diagnosis("", ()))).text
    )


def test_baselines_stand_beside_the_value_where_a_phone_shows_them(tmp_path):
    read = Read(render_page(read_run(run_folder(tmp_path, classifier(), manifest())), Diagnosis("", ())))
    head = read.text[read.text.index("figure") :]
    assert head.index("value") < head.index("majority") < head.index("95% interval")


def test_how_long_processes_have_waited_for_each_other_is_shown_from_the_least_to_the_most(tmp_path):
    waited = {"min": 0.26, "max": 1234.5, "by_process": [1234.5, 0.26]}
    made = report(distributed={"strategy": "DDP", "processes": 2, "waited_s": waited})
    text = text_of(run_folder(tmp_path / "two", made, manifest()))
    assert "waited for others 0.3 to 1,234.5 s a process" in text
    assert "by_process" not in text


def test_restarts_are_shown_with_the_step_the_reason_and_what_was_left(tmp_path):
    lost = {"exit_code": 8, "machines": [2, 2], "processes": [16, 16]}
    restarts = [
        {"number": 1, "step": 1200, "lost": "process", **lost},
        {"number": 2, "step": None, "lost": "process", **lost},
        {"number": 3, "step": 1400, "lost": "machine", "machines": [2, 1], "processes": [16, 8]},
    ]
    made = report(distributed={"strategy": "DDP", "processes": 8, "restarts": restarts})
    said = (
        "at step 1,200, since a process was lost; before training, since a process was lost; at step 1,400, since a "
        "machine was lost (1 of 2 machines left, 8 of 16 processes)"
    )
    folder = run_folder(tmp_path / "three", made, manifest())
    assert f"restarted {said}" in text_of(folder)
    card = describe_machine(read_run(folder))
    assert card.endswith(f"restarted {said.replace('; ', '; restarted ')}.")
