"""The main job as a user does it: launch, watch, zoom, reload, evaluate, compare."""

from __future__ import annotations

import json
import re
import time

import pytest

from ema_core.runs import RunDirectory, Status, probes, run_ids
from tests.browser.conftest import OUTPUT, App

pytestmark = [pytest.mark.browser, pytest.mark.slow]
WAIT = 240_000


def shoot(page, name: str) -> None:
    """The whole page, not only what fits the window: Streamlit scrolls inside itself."""
    OUTPUT.mkdir(exist_ok=True)
    window = page.viewport_size
    height = page.evaluate("document.querySelector('[data-testid=stMain]').scrollHeight")
    page.set_viewport_size({"width": window["width"], "height": min(6000, max(window["height"], height))})
    page.wait_for_timeout(800)
    page.screenshot(path=OUTPUT / f"{name}.png")
    page.set_viewport_size(window)


def until(what, seconds: float = 240, message: str = "") -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, message or "it did not happen in time"
        time.sleep(0.2)


def fill(page, label: str, value: object) -> None:
    box = page.get_by_label(label, exact=True)
    box.fill(str(value))
    box.press("Enter")
    page.wait_for_timeout(700)


def total(page) -> int:
    return int(page.get_by_test_id("live-curve").first.get_attribute("data-total") or 0)


def x_range(page) -> list[float]:
    return json.loads(page.get_by_test_id("live-curve").first.get_attribute("data-x-range"))


def test_launch_watch_zoom_reload_evaluate_compare(browser, app: App) -> None:
    page = browser.new_context(viewport={"width": 1440, "height": 1000}).new_page()
    trouble: list[str] = []
    page.on("pageerror", lambda error: trouble.append(str(error)))
    page.goto(app.url)
    page.get_by_role("button", name="Start the demo").wait_for(timeout=WAIT)
    shoot(page, "home")

    page.goto(f"{app.url}/fine-tune")
    page.get_by_text("Recipe in detail").click(timeout=WAIT)
    fill(page, "Steps", 40)
    fill(page, "Batch size", 1)
    fill(page, "LoRA rank", 4)
    fill(page, "Longest example", 96)
    page.get_by_text("Evaluate when finished").click()
    page.get_by_role("radio", name="at steps").or_(page.get_by_role("button", name="at steps")).first.click()
    page.get_by_label("Probe after steps", exact=True).wait_for(timeout=WAIT)
    fill(page, "Probe after steps", 20)
    page.get_by_text("--steps 40").wait_for(timeout=WAIT)
    page.get_by_text("--probes 20").wait_for(timeout=WAIT)
    assert "kl=" in page.locator("code", has_text="ema train").first.inner_text()
    shoot(page, "fine-tune-form")
    page.get_by_role("button", name="Launch").click()

    page.get_by_test_id("live-curve").first.wait_for(timeout=WAIT)
    until(lambda: total(page) >= 3, message="the curve did not begin")
    (run_id,) = run_ids()
    run = RunDirectory.open(run_id)
    before = total(page)
    until(lambda: total(page) >= before + 2, message="the curve did not grow")
    assert run.state().status is Status.RUNNING

    plot = page.get_by_test_id("live-curve").first.locator(".nsewdrag").first
    box = plot.bounding_box()
    page.mouse.move(box["x"] + box["width"] * 0.2, box["y"] + box["height"] * 0.3)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.6, box["y"] + box["height"] * 0.8, steps=8)
    page.mouse.up()
    until(lambda: page.get_by_test_id("live-curve").first.get_attribute("data-zoomed") == "true", 20, "the zoom did not take")
    zoomed, seen = x_range(page), total(page)
    until(lambda: total(page) >= seen + 3, message="the curve did not grow while zoomed")
    assert x_range(page) == pytest.approx(zoomed), "new points must not move what the user zoomed to"
    shoot(page, "fine-tune-live")

    page.reload()
    page.get_by_test_id("live-curve").first.wait_for(timeout=WAIT)
    until(lambda: total(page) >= seen, message="the curve did not come back whole")
    until(lambda: run.state().status is Status.DONE, 400, "the run did not end")
    until(lambda: total(page) == 40, 30, f"the last points did not come: {total(page)}")
    margin = page.locator('[data-testid="live-curve"][data-view="general"]')
    assert margin.get_attribute("data-last-x") == "20" and margin.get_attribute("data-total") == "2", "the base, and step 20"
    last = probes(run.events()[0])[-1]
    page.get_by_text("What it would say now").wait_for(timeout=WAIT)
    page.get_by_text(" ".join(last["answers"][0]["answer"].split())[:40]).first.wait_for(timeout=30_000)
    shoot(page, "fine-tune-done")

    page.goto(f"{app.url}/evaluate?run={run_id}")
    page.get_by_label("Samples a question", exact=True).wait_for(timeout=WAIT)
    fill(page, "Samples a question", 0)
    page.get_by_test_id("stButtonGroup").get_by_text("general", exact=True).click()  # leaves in-domain
    page.wait_for_timeout(700)
    page.locator(".st-key-launch-evaluation button").click()
    until(lambda: any(run.evals.glob("in-domain-*/margins.jsonl")), 400, "the evaluation did not end")
    until(lambda: '"done"' in next(run.evals.glob("in-domain-*/spec.json")).read_text(), 60)
    shoot(page, "evaluate")

    page.goto(f"{app.url}/compare?run={run_id}&tab=All+numbers")
    row = page.locator(".st-key-settings-table tbody tr").first
    row.wait_for(timeout=WAIT)
    text = row.inner_text()
    shoot(page, "compare")
    assert "kl=0.1" in text
    from ema_core import compare

    margin = compare([run_id])["runs"][0]["criteria"]["narrow"]["margin"]
    numbers = [float(x.replace("−", "-")) for x in re.findall(r"[-+−]?\d+\.\d+", text)]
    for key in ("value", "low", "high"):
        assert any(abs(x - margin[key]) < 0.006 for x in numbers), (key, margin, text)

    assert not trouble
