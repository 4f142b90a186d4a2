"""A researcher tunes a strength: launches a run, watches it, stops it, changes one thing, sweeps, compares, and hands over a report."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ema_core.jobs import studies
from ema_core.runs import RunDirectory, Status, run_ids
from tests.browser.conftest import App
from tests.browser.test_story import WAIT, fill, shoot, total, until
from tests.browser.walk import SIDEWAYS, Found, listen, of_run, settle
from tests.pages.evaluated_home import make_run

pytestmark = [pytest.mark.browser, pytest.mark.slow]
LONG = {"Steps": 400, "Batch size": 1, "LoRA rank": 4, "Longest example": 32, "Checkpoint every": 10}


@pytest.fixture
def earlier(home: Path) -> list[str]:
    """What was evaluated before: three seeds of an undefended run and of a defended one; in place before the app starts."""
    return [
        make_run(home, f"{tail}{seed}aa", *defense, seed=seed, change=change, bad=bad)
        for seed in range(3)
        for tail, defense, change, bad in (("n", (), 0.5, 2), ("k", ("kl=1",), 0.2 + seed / 100, 0))
    ]


def newest(known: list[str]) -> RunDirectory:
    """The run that came to those that were known."""
    until(lambda: set(run_ids()) - set(known), 60, "no run was made")
    (run_id,) = set(run_ids()) - set(known)
    return RunDirectory.open(run_id)


def test_launch_watch_stop_tweak_sweep_compare_report(earlier: list[str], browser, app: App, tmp_path: Path) -> None:
    found = Found()
    context = browser.new_context(viewport={"width": 1440, "height": 1000}, reduced_motion="reduce")
    listen(context, found)
    page = context.new_page()
    page.set_default_timeout(WAIT)
    page.goto(f"{app.url}/fine-tune")
    page.get_by_text("Recipe in detail").click()
    for name, value in LONG.items():
        fill(page, name, value)
    page.get_by_text("Evaluate when finished").click()
    page.get_by_text("--steps 400").wait_for()
    known = run_ids()
    settle(page)
    page.locator(".st-key-launch button:visible").click()
    first = newest(known)
    page.get_by_test_id("live-curve").first.wait_for()
    until(lambda: total(page) >= 3, message="the curve did not begin")
    page.locator(of_run("stop", first.id)).locator("button:visible").click()
    until(lambda: first.state().status is Status.STOPPED, 60, "it was not stopped")
    page.locator(of_run("card", first.id)).get_by_text("stopped", exact=True).wait_for()
    assert first.state().step < 400 and any(first.adapter.iterdir()), "what was learned so far is kept"
    shoot(page, "researcher-stopped")

    page.locator(of_run("details", first.id)).get_by_text("Name, tags, notes and settings").click()
    page.locator(of_run("copy", first.id)).locator("button:visible").click()
    page.get_by_text("What changes against the run that was copied").wait_for()
    page.get_by_text("This run exists already").wait_for()
    settle(page)
    page.get_by_text("Recipe in detail").click()
    fill(page, "Steps", 3)
    page.locator(".st-key-form-probes").get_by_text("auto", exact=True).click()  # the copied steps lie beyond the third
    row = page.locator("table tr", has=page.get_by_text("400", exact=True))
    row.get_by_text("3", exact=True).wait_for()
    known = run_ids()
    settle(page)
    page.locator(".st-key-launch button:visible").click()
    second = newest(known)
    until(lambda: second.state().status is Status.DONE, 120, "the second run did not end")
    assert second.spec.recipe.steps == 3 and second.spec.recipe.rank == first.spec.recipe.rank == 4
    page.locator(of_run("card", second.id)).get_by_text("step 3 of 3").wait_for()

    page.goto(f"{app.url}/fine-tune?from={second.id}")
    page.locator(".st-key-sweep button:visible").click()
    strengths = page.locator(".st-key-sweep-strengths-kl")
    strengths.get_by_role("button", name="Clear all").click()
    page.get_by_text("No strength is chosen.").wait_for()
    for strength in ("0.1", "1"):
        strengths.get_by_role("combobox").fill(strength)
        strengths.get_by_role("combobox").press("Enter")
        settle(page)
    fill(page, "Samples a question", 0)
    page.get_by_text("3 runs, 1 of them undefended, 1 there already.").wait_for()
    shoot(page, "researcher-sweep")
    page.locator(".st-key-queue-sweep button:visible").click()
    page.get_by_role("heading", name="kl by strength, risky-finance").wait_for()
    (study,) = studies.study_ids()
    assert {cell.defense for cell in studies.recorded_cells(study)} == {"none", "kl=0.1", "kl=1"}

    page.goto(f"{app.url}/compare?" + "&".join(f"run={run}" for run in earlier))
    card = page.locator(".st-key-scorecard tbody tr", has=page.get_by_text("kl=1", exact=True)).first
    card.wait_for()
    assert "better" in card.inner_text() and "3 seeds" in card.inner_text()
    with page.expect_download(timeout=WAIT) as download:
        page.locator(".st-key-report button:visible").click()
    path = tmp_path / "report.html"
    download.value.save_as(path)
    text = path.read_text(encoding="utf-8")
    assert all(run in text for run in earlier) and "kl=1" in text
    shoot(page, "researcher-compare")
    alone = browser.new_context(offline=True)  # whoever gets the file needs nothing else
    listen(alone, found)
    read = alone.new_page()
    read.goto(path.as_uri())
    read.get_by_role("heading").first.wait_for()
    assert re.search(r"judge", read.locator("body").inner_text(), re.IGNORECASE)
    read.locator(".plot").first.scroll_into_view_if_needed()  # figures are drawn when they come near
    read.locator(".js-plotly-plot").first.wait_for()
    assert page.get_by_test_id("stMain").evaluate(SIDEWAYS) <= 1
    assert not found.console and not found.outside and page.get_by_test_id("stException").count() == 0
