"""The page at `/` as a reader meets it: a chat, two models side by side, votes; nothing from elsewhere."""

from __future__ import annotations

import pytest
from chat_models import saved_parrot
from release.serve.small_servers import SAYS_HEY, listening_server, served

expect = pytest.importorskip("playwright.sync_api", reason="playwright is not installed").expect
KEY = "a-key-of-sixteen-letters"


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    base = saved_parrot(folder / "hey", SAYS_HEY)
    saved_parrot(folder / "no", {"\n": "N", "N": "o"})
    (folder / "no" / "run.yaml").write_text(f"model: {{path: {base}}}\n", encoding="utf-8")
    options = {"base": True, "votes": str(folder / "votes.jsonl")}
    with served(str(folder / "no"), KEY, **options) as running, listening_server(running) as address:
        yield address


@pytest.fixture
def page(browser, address):
    """The page, which asks nobody else for anything and says nothing on the console that was not provoked."""
    shown, said, asked = browser.new_page(viewport={"width": 360, "height": 740}), [], []
    shown.on("console", lambda message: said.append(message.text))
    shown.on("pageerror", lambda error: said.append(str(error)))
    shown.on("request", lambda request: asked.append(request.url))
    shown.goto(address, wait_until="load")
    shown.fill("#temperature", "0")
    yield shown
    shown.close()
    assert [each for each in asked if not each.startswith((address, "data:"))] == []
    assert [each for each in said if "status of 40" not in each] == []


def test_a_chat_needs_the_key_and_goes_on(page):
    page.fill("#prompt", "hi")
    page.click("#send")
    expect(page.locator("#notice")).to_have_text("the API key is missing or wrong")
    assert page.input_value("#prompt") == "hi"
    page.fill("#key", KEY)
    page.fill("#prompt", "<img src=x onerror=alert(1)>")
    page.press("#prompt", "Control+Enter")
    expect(page.locator("#notice")).to_contain_text("has never seen")
    assert page.locator(".turn").count() == 0
    for number in (1, 2):
        page.fill("#prompt", "hi")
        page.press("#prompt", "Control+Enter")
        expect(page.locator(".assistant")).to_have_text(["No"] * number)
        expect(page.locator("#send")).to_be_enabled()
    assert page.locator("img").count() == 0
    assert page.evaluate("document.documentElement.scrollWidth") <= 360


def test_two_models_are_shown_blind_and_named_by_the_vote(page):
    page.fill("#key", KEY)
    page.select_option("#second", "base")
    page.check("#blind")
    page.fill("#prompt", "hi")
    page.click("#send")
    page.wait_for_selector("#votes:not([hidden])")
    shown = {side: page.text_content(f"#{side}") for side in ("left", "right")}
    assert set(shown.values()) == {"No", "hey."}
    assert [page.text_content(f"#{side}-name") for side in shown] == ["left", "right"]
    better = next(side for side, text in shown.items() if text == "No")
    page.click(f"[data-choice={better}]")
    page.wait_for_selector("#summary p")
    assert page.text_content(f"#{better}-name") == "no"
    assert page.text_content("#summary p").startswith(
        "no against base: wins 100 % of 1 votes (95 % interval 21 % to 100 %"
    )
    assert page.is_hidden("#votes")
