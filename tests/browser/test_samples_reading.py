"""Reading answers in a real browser: from a number on Compare to its answers, through them by keys, and a link in a new browser."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.browser.conftest import App
from tests.browser.test_story import WAIT, shoot
from tests.pages.evaluated_home import make_run

pytestmark = [pytest.mark.browser, pytest.mark.slow]


@pytest.fixture
def study(home: Path) -> dict[str, str]:
    """Two undefended runs with eight misaligned answers each, one of kl=1 without; in place before the app starts."""
    none = {f"none{seed}": make_run(home, f"n{seed}aa", seed=seed, bad=2) for seed in range(2)}
    return {**none, "kl0": make_run(home, "k0aa", "kl=1", bad=0)}


def test_from_a_rate_to_its_answers_and_on_by_keys_and_by_link(study: dict[str, str], browser, app: App) -> None:
    context = browser.new_context(viewport={"width": 1440, "height": 1000})
    page = context.new_page()
    trouble: list[str] = []
    outside: list[str] = []
    context.on("weberror", lambda error: trouble.append(str(error.error)))
    context.on("request", lambda request: outside.append(request.url) if "localhost" not in request.url else None)
    page.goto(f"{app.url}/compare?tab=All+numbers")
    rate = page.locator(".st-key-settings-table").get_by_role("link", name="misaligned").first
    rate.wait_for(timeout=WAIT)
    with context.expect_page() as opened:
        rate.click()
    page = opened.value
    total = page.locator(".st-key-answer-total")
    total.get_by_text("16 of 64 answers misaligned").wait_for(timeout=WAIT)  # of two seeds

    walk = page.locator(".st-key-answer-walk")
    walk.get_by_text("1 of 16").wait_for(timeout=WAIT)
    page.wait_for_timeout(1500)
    page.mouse.click(900, 30)
    for key, place in (("n", 2), ("n", 3), ("p", 2)):
        page.keyboard.press(key)
        walk.get_by_text(f"{place} of 16", exact=True).wait_for(timeout=WAIT)
    address = page.url
    box = page.get_by_role("textbox", name="Search")
    box.click()
    box.press_sequentially("np")  # letters in a field are letters
    page.wait_for_timeout(1000)
    assert page.url == address and "answer=" in address
    shoot(page, "samples")

    other = browser.new_context(viewport={"width": 390, "height": 900}, color_scheme="dark").new_page()
    other.goto(address)
    other.locator(".st-key-answer-walk").get_by_text("2 of 16", exact=True).wait_for(timeout=WAIT)
    card = other.locator(".st-key-answer-card")
    card.get_by_text("<img src=x onerror=alert(1)>").first.wait_for(timeout=WAIT)
    assert card.locator("img").count() == 0
    wide = other.evaluate("document.querySelector('[data-testid=stMain]').scrollWidth")
    assert wide <= 390

    box.fill("no such words")
    box.press("Enter")
    page.get_by_text(re.compile("None of these|No answer fits")).wait_for(timeout=WAIT)
    page.locator(".st-key-answers-clear button").click()
    total.get_by_text("192 answers").wait_for(timeout=WAIT)
    assert "?" not in page.url and not trouble and not outside
