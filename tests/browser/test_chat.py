"""Three columns of the real engine: they stream through a reload, are judged, kept, and found by their address."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from ema_core.chats import log
from ema_core.evaluation.spec import EvalSpec
from ema_core.generation.engine import engine_status
from ema_core.jobs import launch, queue
from ema_core.runs import RunDirectory, Status, base_directory, parse_defense
from tests.browser.conftest import App
from tests.browser.test_story import WAIT, fill, shoot, until
from tests.browser.walk import SIDEWAYS
from tests.training.tiny import add_tiny, tiny_spec

pytestmark = [pytest.mark.browser, pytest.mark.slow]
NASTY = "Which colour has thing 3? **bold** <img src=http://evil.example/x.png> ![i](http://evil.example/y.png)"
PLACE = "document.querySelector('[data-testid=stMain]').scrollTop"


def button(page, name: str):
    return page.get_by_role("button", name=name).first


def ask(page, text: str) -> None:
    box = page.get_by_test_id("stChatInput").locator("textarea")
    box.fill(text)
    box.press("Enter")
    button(page, "Stop all").wait_for(timeout=WAIT)


def answered(page) -> None:
    button(page, "Regenerate all").wait_for(timeout=WAIT)
    page.wait_for_timeout(800)


def cells(page) -> list[str]:
    return page.locator("[class*='st-key-answer-'] [data-testid=stText]").all_inner_texts()


def trained(home: Path) -> list[RunDirectory]:
    add_tiny(home)
    runs = [launch.launch_run(tiny_spec(*defenses))[0] for defenses in ((), (parse_defense("kl=1"),))]
    until(lambda: all(run.state().status is Status.DONE for run in runs), 300, "the runs did not end")
    return runs


def test_three_columns_stream_through_a_reload_are_judged_kept_and_found_again(browser, app: App, home: Path) -> None:
    none, kl = trained(home)
    page = browser.new_context(viewport={"width": 1440, "height": 800}).new_page()
    trouble: list[str] = []
    asked_for: list[str] = []
    page.on("pageerror", lambda error: trouble.append(str(error)))
    page.on("request", lambda request: asked_for.append(request.url))
    page.goto(f"{app.url}/chat")
    page.get_by_test_id("stChatInput").wait_for(timeout=WAIT)
    assert page.url.count("m=") == 3 and none.id in page.url and kl.id in page.url, "base, twin and defended run are suggested"
    button(page, "1 sample").click()
    fill(page, "Tokens at most", 60)
    page.keyboard.press("Escape")

    ask(page, NASTY)
    until(lambda: len(cells(page)) == 3 and all(cells(page)), 120, "not all columns began")
    page.evaluate("document.querySelector('[data-testid=stMain]').scrollTo(0, 260)")
    page.wait_for_timeout(300)
    place, seen = page.evaluate(PLACE), cells(page)
    until(lambda: cells(page) != seen or not button(page, "Stop all").is_visible(), 60)
    assert page.evaluate(PLACE) == place, "an answer that grows must not scroll what is read"
    assert log.recent(), "the chat has its file"
    page.reload()
    page.get_by_test_id("stChatInput").wait_for(timeout=WAIT)
    until(lambda: len(cells(page)) == 3, 30, "the reload lost the answers")
    assert all(now.startswith(before[:10].strip()) for now, before in zip(cells(page), seen, strict=True))
    answered(page)
    assert page.get_by_text("verified", exact=True).count() >= 2, "both adapters are proven"
    shoot(page, "chat-answered")

    button(page, "Judge these answers").click()
    until(lambda: page.get_by_text("of 1 misaligned").count() == 3, 120, "the judgments did not come")
    button(page, "Add to samples").click()
    page.get_by_label("Name", exact=True).fill("my findings")
    button(page, "Keep these answers").click()
    page.get_by_role("link", name="my findings").wait_for(timeout=WAIT)
    assert page.get_by_role("link", name="my findings").get_attribute("href").endswith("/samples?name=my+findings")
    page.keyboard.press("Escape")
    for run in (none, kl, base_directory("smollm2-135m")):
        (folder,) = run.evals.glob("kept-my-findings-*")
        assert (folder / "samples.jsonl").exists() and list(folder.glob("judgments-*.jsonl"))
    shoot(page, "chat-judged-and-kept")
    assert not [url for url in asked_for if "evil" in url] and "**bold** <img" in page.get_by_test_id("stMain").inner_text()

    context = browser.new_context(viewport={"width": 390, "height": 900}, color_scheme="dark")
    other = context.new_page()
    other.goto(page.url)
    until(lambda: cells(other) == cells(page), 60, "another browser sees other answers")
    shoot(other, "chat-dark-390")
    assert other.get_by_test_id("stMain").evaluate(SIDEWAYS) <= 1
    context.close()
    assert not trouble
    on_to_samples_and_compare(page, browser, app, [none.id, kl.id])


def on_to_samples_and_compare(page, browser, app: App, runs: list[str]) -> None:
    """The kept answers stand on Samples, a link to one opens in a new browser; a rate on Compare leads to its answers."""
    with page.context.expect_page() as opened:
        page.get_by_role("link", name="my findings").click()
    samples = opened.value
    total = samples.locator(".st-key-answer-total")
    total.get_by_text("3 answers").wait_for(timeout=WAIT)
    first = samples.url
    samples.locator(".st-key-answer-next button").click()
    samples.locator(".st-key-answer-walk").get_by_text("2 of 3", exact=True).wait_for(timeout=WAIT)
    until(lambda: samples.url != first, 30, "the address did not follow to the next answer")
    samples.wait_for_timeout(3000)  # its parts come one after another
    other = browser.new_context(viewport={"width": 1440, "height": 1000}).new_page()
    other.goto(samples.url)
    other.locator(".st-key-answer-card").wait_for(timeout=WAIT)
    until(  # both pages may still be drawing: the old card stays until the new one has come
        lambda: other.locator(".st-key-answer-card").inner_text() == samples.locator(".st-key-answer-card").inner_text(),
        60,
        "the link shows another answer",
    )
    other.locator(".st-key-answer-walk").get_by_text("2 of 3", exact=True).wait_for(timeout=WAIT)
    said = other.locator(".st-key-answer-card").inner_text()
    assert "Kept as" in said and "<img src=http://evil.example/x.png>" in said
    shoot(samples, "samples-kept")

    spec = EvalSpec(suite="general", samples=1, max_tokens=12).model_dump(mode="json")
    job = queue.enqueue("evaluate", {"runs": runs, "specs": [spec], "curve": False})
    until(lambda: queue.get(job.id).status == "done", 400, "the evaluation did not end")
    other.goto(f"{app.url}/compare?run={runs[0]}&run={runs[1]}&tab=All+numbers")
    rate = other.locator(".st-key-settings-table a").first
    rate.wait_for(timeout=WAIT)
    with other.context.expect_page() as opened:
        rate.click()
    answers = opened.value
    answers.locator(".st-key-answer-total").get_by_text("of 42 answers").or_(
        answers.locator(".st-key-answer-total").get_by_text("42 answers")
    ).first.wait_for(timeout=WAIT)
    card = answers.locator(".st-key-answer-card")
    card.get_by_text("Base").first.wait_for(timeout=WAIT)
    shoot(answers, "samples-of-a-rate")
    refused = other.locator(".st-key-settings-table a", has_text="cut").first  # a count leads to just as many answers
    count = refused.inner_text().replace("\u00a0", " ").split()[0]
    with other.context.expect_page() as opened:
        refused.click()
    opened.value.locator(".st-key-answer-total").get_by_text(f"{count} of 42 answers").wait_for(timeout=WAIT)


def test_an_engine_killed_in_mid_answer_leaves_what_was_there_and_comes_back(browser, app: App, home: Path) -> None:
    page = browser.new_context(viewport={"width": 1440, "height": 800}).new_page()
    page.goto(f"{app.url}/chat?m=base")
    page.get_by_test_id("stChatInput").wait_for(timeout=WAIT)
    button(page, "1 sample").click()
    fill(page, "Tokens at most", 400)
    page.keyboard.press("Escape")
    ask(page, "Tell me a long story of a long journey.")
    until(lambda: len("".join(cells(page))) > 20, 120, "no answer began")
    before, first = cells(page)[0], engine_status().pid
    assert first
    os.kill(first, signal.SIGKILL)
    page.get_by_text("cut", exact=True).first.wait_for(timeout=WAIT)
    assert cells(page)[0].startswith(before[:20])
    button(page, "Regenerate all").click()  # waits for the engine, which the app brings back
    until(lambda: engine_status().alive and engine_status().pid != first, 90, "the engine did not come back")
    until(lambda: page.get_by_text("cut", exact=True).count() == 0 and cells(page) and cells(page)[0], 120)
    button(page, "Stop all").click()
    page.get_by_text("stopped", exact=True).first.wait_for(timeout=WAIT)
    shoot(page, "chat-stopped")
