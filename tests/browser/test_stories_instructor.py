"""An instructor and a room: two participants and a guest in browsers of their own, one queue, one word to all."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ema_core.jobs import queue
from ema_core.runs import RunDirectory, run_ids
from ema_core.shared import codes, room
from tests.browser.conftest import App, kill_home, start_app
from tests.browser.test_story import WAIT, fill, shoot, until
from tests.browser.walk import SIDEWAYS, Found, listen, of_run, settle
from tests.pages.evaluated_home import make_run

pytestmark = [pytest.mark.browser, pytest.mark.slow]


@pytest.fixture
def shared_app(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[App]:
    """`ema app --shared` on this machine alone: it asks for names, not for the room's code."""
    make_run(home, "n0aa")
    monkeypatch.setenv("EMA_SHARED", "1")
    yield start_app()
    kill_home(home)


def joined(browser, app: App, name: str, found: Found) -> Any:
    """A browser of one's own, in the room under a name; without one it only looks."""
    context = browser.new_context(viewport={"width": 1440, "height": 1000}, reduced_motion="reduce")
    listen(context, found)
    page = context.new_page()
    page.set_default_timeout(WAIT)
    page.goto(app.url)
    page.get_by_label("Your name", exact=True).wait_for()
    if name:
        page.get_by_label("Your name", exact=True).fill(name)
        page.get_by_role("button", name="Join", exact=True).click()
        page.locator(".st-key-person-got-it button:visible").click()
    else:
        page.locator(".st-key-name-look button:visible").click()
    page.locator(".st-key-person-me").get_by_text(name or "Guest", exact=True).wait_for()
    settle(page)
    return page


def go(page: Any, name: str) -> None:
    page.get_by_test_id("stSidebarNavLink").filter(has_text=name).first.click()
    page.get_by_role("heading", name=name, exact=True).wait_for()
    settle(page)


def launch(page: Any, seed: int, owner: str) -> RunDirectory:
    """A run of three steps from the form; it is its owner's."""
    known = set(run_ids())
    go(page, "Fine-tune")
    page.get_by_text("Recipe in detail").click()
    for name, value in {"Steps": 3, "Batch size": 1, "LoRA rank": 4, "Longest example": 32}.items():
        fill(page, name, value)
    fill(page, "Seed", seed)
    page.get_by_text("Evaluate when finished").click()
    page.get_by_text("--steps 3").wait_for()
    settle(page)
    page.locator(".st-key-launch button:visible").click()
    until(lambda: set(run_ids()) - known, 60, "no run was made")
    (run_id,) = set(run_ids()) - known
    run = RunDirectory.open(run_id)
    until(lambda: run.state().owner == owner, 30, "it is not its owner's")
    return run


def test_an_instructor_leads_a_room(shared_app: App, browser) -> None:
    found = Found()
    ida = joined(browser, shared_app, "Ida", found)
    go(ida, "Room")
    ida.get_by_text("I lead this room").click()
    ida.get_by_label("The instructor's code", exact=True).fill(codes.codes()["instructor"])
    ida.get_by_role("button", name="Lead", exact=True).click()
    ida.locator(".st-key-room-pause button:visible").click()
    until(room.paused, 30, "the queue was not paused")
    ida.get_by_label("A line for everybody, on every page", exact=True).fill("Look at **seed** 1 first")
    ida.locator(".st-key-room-tell button:visible").click()

    ann, ben = joined(browser, shared_app, "Ann", found), joined(browser, shared_app, "Ben", found)
    for page in (ann, ben):
        page.get_by_text("Look at **seed** 1 first").first.wait_for()  # as it was typed: nothing in it is rendered
    first, second = launch(ann, 1, "Ann"), launch(ben, 2, "Ben")
    ben.get_by_text("You are second in the queue, which is paused.").wait_for()
    assert all(job.status == "queued" for job in queue.jobs() if job.kind == "train")
    shoot(ben, "room-participant")

    go(ben, "Fine-tune")  # Ann's run can be looked at, and no more
    ben.goto(f"{shared_app.url}/fine-tune?run={first.id}&part=Runs")
    ben.locator(of_run("card", first.id)).wait_for()
    settle(ben)
    assert ben.locator(of_run("stop", first.id)).locator("button:enabled:visible").count() == 0

    guest = joined(browser, shared_app, "", found)
    go(guest, "Fine-tune")
    assert guest.locator(".st-key-launch button:visible").is_disabled()

    ida.locator("[role=gridcell]", has_text="Ann").first.wait_for(state="attached")
    settle(ida)
    theirs = next(job for job in queue.jobs() if second.id in job.runs)
    ida.locator(f".st-key-room-front-{theirs.id} button:visible").click()
    ben.get_by_text("You are next in the queue, which is paused.").wait_for()
    shoot(ida, "room-instructor")
    ida.locator(".st-key-room-pause button:visible").click()
    until(lambda: not room.paused(), 30, "the queue did not go on")
    for run in (second, first):
        until(lambda run=run: run.state().step == 3, 200, "it was not trained")
    assert second.events()[0][0]["time"] < first.events()[0][0]["time"], "what the instructor put first was not done first"

    ida.set_viewport_size({"width": 390, "height": 900})
    settle(ida)
    assert ida.get_by_test_id("stMain").evaluate(SIDEWAYS) <= 1
    for page in (ida, ann, ben, guest):
        assert page.get_by_test_id("stException").count() == 0
    assert not found.console and not found.outside
