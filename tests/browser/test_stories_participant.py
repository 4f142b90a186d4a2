"""A participant on a fresh machine: the tour from its first stop to its last on the recorded study, no model at work."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from ema_core import tour
from ema_core.judging import resolve
from ema_core.store import Reader
from tests.browser.conftest import App
from tests.browser.test_story import WAIT, shoot, until
from tests.browser.walk import SIDEWAYS, Found, listen, settle

pytestmark = [pytest.mark.browser, pytest.mark.slow]


def facts() -> tour.Facts:
    """What the data decide; the numbers that the tour asks for are read off the pages instead."""
    reader = Reader()
    ids = tour.study_of(reader.runs())
    judges = reader.judges(ids, kept=False)
    judge = max(judges, key=lambda name: judges[name]) if judges else resolve("probe")
    return tour.facts_of(ids, reader.frames(ids, with_siblings=True), judge)


def go(page: Any) -> None:
    """To the real page of the stop; the tour's bar stands above it."""
    page.locator(".st-key-learn-go button:visible").click()
    page.locator(".st-key-tour-bar").wait_for(timeout=WAIT)
    settle(page)


def back(page: Any, title: str) -> None:
    page.locator(".st-key-tour-back button:visible").click()
    page.get_by_role("heading", name=title).wait_for(timeout=WAIT)
    settle(page)


def read_off(page: Any, stop: int, known: tour.Facts) -> str:
    """The number that the stop asks for, as its page shows it."""
    main = page.get_by_test_id("stMain")
    if stop == 2:
        return re.search(r"step (\d+) of \1\b", main.inner_text())[1]  # type: ignore[index]
    if stop == 4:
        row = page.locator(".st-key-scorecard tbody tr", has=page.get_by_text(known.texts["price"], exact=True)).first
        return re.search(r"[+−]\d+\.\d+", row.locator("th, td").nth(2).inner_text())[0]  # type: ignore[index]
    table = page.locator("table", has=page.get_by_text("Kappa", exact=False)).first
    column = [head.startswith("Kappa") for head in table.locator("thead th").all_inner_texts()].index(True)
    row = table.locator("tbody tr", has=page.get_by_text(known.judge, exact=True)).first
    return row.locator("th, td").nth(column).inner_text()


def answer(page: Any, stop: int, place: int, check: tour.Check, known: tour.Facts, number: str) -> None:
    box = page.locator(f".st-key-learn-check-{place}")
    if check.kind == "choice":
        right = next(n for n in range(len(check.options)) if tour.right(check, str(n), known))
        wrong = next(n for n in range(len(check.options)) if n != right)
        box.locator("label[data-testid=stRadioOption], [role=radiogroup] label").nth(wrong).click()
        box.get_by_text("Not this one.").wait_for(timeout=WAIT)
        box.locator("label[data-testid=stRadioOption], [role=radiogroup] label").nth(right).click()
    elif check.kind == "setting":
        box.locator("[role=radiogroup] label").filter(has_text=re.compile(rf"^{re.escape(known.asked[check.number][0])}$")).click()
    elif check.kind == "number":
        field = box.get_by_role("textbox")
        field.fill(number)
        field.press("Enter")
    else:
        return
    box.get_by_text("Right.").wait_for(timeout=WAIT)


@pytest.fixture
def fresh(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A home as everybody finds it: with the recorded study."""
    monkeypatch.delenv("EMA_RECORDED")


def test_the_tour_from_end_to_end_on_a_fresh_machine(fresh: None, browser, app: App) -> None:
    found = Found()
    context = browser.new_context(viewport={"width": 1440, "height": 1000}, reduced_motion="reduce")
    listen(context, found)
    page = context.new_page()
    page.set_default_timeout(WAIT)
    page.goto(app.url)
    page.get_by_text("no model is needed").first.wait_for()
    page.get_by_test_id("stSidebarNavLink").filter(has_text="Learn").click()
    stops, known = tour.read_stops(), None
    for number, stop in enumerate(stops, 1):
        page.get_by_role("heading", name=f"{number}. {stop.title}").wait_for()
        settle(page)
        known = known or facts()
        go(page)
        assert page.locator(".st-key-tour-bar").get_by_text(f"Tour: stop {number} of 6").is_visible()
        if any(check.kind == "verdicts" for check in stop.checks):
            name = page.locator(".st-key-review-name input")
            name.fill("Ann")
            name.press("Enter")
            page.get_by_text("annotated by you").wait_for()
            page.locator("h1").click()
            for given, key in enumerate("134", 1):
                settle(page)
                page.keyboard.press(key)
                page.get_by_text(f"{given} of 3 given").wait_for()
        said = read_off(page, number, known) if any(check.kind == "number" for check in stop.checks) else ""
        shoot(page, f"tour-{number}-page")
        back(page, f"{number}. {stop.title}")
        for place, check in enumerate(stop.checks):
            if tour.asked(check, known):
                answer(page, number, place, check, known, said)
        page.get_by_text("this stop is done").wait_for()
        page.get_by_text(f"{number} of 6 stops done").wait_for()
        shoot(page, f"tour-{number}")
        if number < len(stops):
            page.locator(".st-key-learn-next button:visible").click()
    page.get_by_text("All six stops are done.").wait_for()

    page.reload()  # the browser keeps the key to what was done
    page.get_by_text("6 of 6 stops done").wait_for()
    page.locator(".st-key-learn-presenter label").first.click()
    page.get_by_text("Stop 6 of 6").wait_for()
    until(lambda: not page.get_by_test_id("stSidebar").is_visible(), 30, "the sidebar stays")
    settle(page)
    page.keyboard.press("ArrowLeft")
    page.get_by_text("Stop 5 of 6").wait_for()
    settle(page)
    shoot(page, "tour-presenter")
    assert page.get_by_test_id("stMain").evaluate(SIDEWAYS) <= 1
    assert not found.console and not found.outside and page.get_by_test_id("stException").count() == 0
