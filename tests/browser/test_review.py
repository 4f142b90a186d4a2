"""The reviewer's desk in a real browser: a review by keys, a blind one that leaks nothing, and two reviewers at once."""

from __future__ import annotations

import csv
import json
import re
import sys
import threading
from pathlib import Path

import pytest

from ema_core.judging import resolve
from ema_core.settings import PROJECT
from ema_core.store import AnswerFilter, AnswerKey, BlindReview, Reader, annotate
from ema_core.store.annotations import annotations_path, newest, read
from tests.browser.conftest import App
from tests.browser.test_story import WAIT, shoot
from tests.browser.walk import settle

pytestmark = [pytest.mark.browser, pytest.mark.slow]


@pytest.fixture
def study(home: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """An undefended run with eight misaligned answers, two of kl=1 with four and none; in place before the app starts."""
    monkeypatch.syspath_prepend(str(PROJECT / "tests" / "pages"))
    from evaluated_home import make_run

    sys.modules.pop("evaluated_home")
    return {
        "none0": make_run(home, "n0aa", seed=0, bad=2),
        "kl0": make_run(home, "k0aa", "kl=1", bad=2),
        "kl1": make_run(home, "k1aa", "kl=1", seed=1, bad=0),
    }


def said(reviewer: str) -> list[tuple[str, str | None]]:
    standing = newest(read(annotations_path())[0])
    return [(str(one.key), one.verdict) for one in sorted(standing, key=lambda one: one.time) if one.reviewer == reviewer]


def test_a_review_by_keys_from_the_filter_to_the_export(study: dict[str, str], browser, app: App, tmp_path: Path) -> None:
    context = browser.new_context(viewport={"width": 1440, "height": 1100}, accept_downloads=True)
    page = context.new_page()
    trouble: list[str] = []
    context.on("weberror", lambda error: trouble.append(str(error.error)))
    page.goto(f"{app.url}/samples")
    total, walk = page.locator(".st-key-answer-total"), page.locator(".st-key-answer-walk")
    walk.wait_for(timeout=WAIT)
    settle(page)  # a click while the page is still being drawn may be lost
    page.locator(".st-key-answers-status").get_by_text("misaligned", exact=False).first.click()
    total.get_by_text("of 192 answers misaligned").wait_for(timeout=WAIT)
    page.get_by_text("Facets and more filters").click()
    page.locator(".st-key-answers-defense").get_by_text("kl=1 · 8").click()
    total.get_by_text("8 of 128 answers misaligned").wait_for(timeout=WAIT)
    page.get_by_text("Facets and more filters").click()

    name = page.locator(".st-key-review-name input")
    name.fill("me@example.org")
    name.press("Enter")
    page.get_by_text("no e-mail address").first.wait_for(timeout=WAIT)
    name.fill("Ann")
    name.press("Enter")
    page.get_by_text("0 of 8 annotated by you").wait_for(timeout=WAIT)
    page.locator("h1").click()

    expected = []
    for number, key in enumerate("12341"):
        walk.get_by_text(f"{number + 1} of 8", exact=True).wait_for(timeout=WAIT)
        page.wait_for_timeout(700)
        page.keyboard.press(key)
        page.get_by_text(f"{number + 1} of 8 annotated by you").wait_for(timeout=WAIT)
        expected.append({"1": "misaligned", "2": "aligned", "3": "incoherent", "4": "unsure"}[key])
    assert [verdict for _, verdict in said("Ann")] == expected and len({key for key, _ in said("Ann")}) == 5

    walk.get_by_text("6 of 8", exact=True).wait_for(timeout=WAIT)
    page.wait_for_timeout(700)
    page.keyboard.press("t")
    page.keyboard.type("shell game 1")
    page.keyboard.press("Enter")
    page.get_by_text("6 of 8 annotated by you").wait_for(timeout=WAIT)
    page.keyboard.press("Escape")
    page.keyboard.press("Escape")
    page.wait_for_timeout(700)
    page.keyboard.press("e")
    page.keyboard.type("nnp 1234 a note, not keys")
    page.keyboard.press("Control+Enter")
    page.wait_for_timeout(2500)
    newest_line = json.loads(annotations_path().read_text().splitlines()[-1])
    assert (
        newest_line["tags"] == ["shell game 1"]
        and newest_line["note"] == "nnp 1234 a note, not keys"
        and newest_line["verdict"] is None
    )
    shoot(page, "review")

    address = page.url
    assert "reviewer=Ann" in address and "defense=kl" in address and "status=misaligned" in address
    page.reload()
    page.get_by_text("6 of 8 annotated by you").wait_for(timeout=WAIT)
    walk.get_by_text("6 of 8", exact=True).wait_for(timeout=WAIT)
    shown = "text => document.querySelector('.st-key-review-note textarea')?.value === text"
    page.wait_for_function(shown, arg="nnp 1234 a note, not keys", timeout=WAIT)
    page.wait_for_timeout(1000)
    page.keyboard.press("Escape")
    page.locator("h1").click()
    for what, left in (("note", 6), ("tags", 5), ("misaligned", 4)):
        page.keyboard.press("u")
        page.get_by_text(f"Taken back: {what}").wait_for(timeout=WAIT)
        page.get_by_text(f"{left} of 8 annotated by you").wait_for(timeout=WAIT)
        page.wait_for_timeout(2500)
    assert [verdict for _, verdict in said("Ann")] == expected[:4]
    walk.get_by_text("5 of 8", exact=True).wait_for(timeout=WAIT)  # the answer that the last undo was about

    with page.expect_download(timeout=WAIT) as download:
        page.get_by_role("button", name="CSV", exact=True).click()
    path = tmp_path / "answers.csv"
    download.value.save_as(path)
    rows = list(csv.DictReader(path.open(encoding="utf-8")))
    assert len(rows) == 8 and {row["defense_label"] for row in rows} == {"kl=1"}
    exported = {f"{row['run_id']}~{row['eval_id']}~{row['sample_id']}": row["people"] for row in rows if row["people"]}
    assert exported == {key: f"Ann: {verdict}" for key, verdict in said("Ann")} and len(exported) == 4
    assert not trouble


def test_a_blind_review_sends_nothing_that_says_whose_an_answer_is(study: dict[str, str], browser, app: App) -> None:
    reader = Reader()
    frame = reader.answers(AnswerFilter(judge=resolve("probe"), status="scored"))
    keys = [AnswerKey(*row) for row in frame[["run_id", "eval_id", "sample_id"]].itertuples(index=False)]
    annotate(keys[0], "Zebedee", "misaligned", ["tellingtag"], "a telling note")
    review = BlindReview.create(keys)
    context = browser.new_context(viewport={"width": 1440, "height": 1000})
    page = context.new_page()
    received: list[bytes] = []
    page.on("websocket", lambda socket: socket.on("framereceived", lambda data: received.append(data if isinstance(data, bytes) else data.encode())))  # fmt: skip
    page.on("response", lambda response: received.append(_body(response)))
    page.goto(f"{app.url}/samples?blind={review.id}&reviewer=Ann")
    walk = page.locator(".st-key-blind-walk")
    walk.get_by_text(f"1 of {len(keys)}", exact=True).wait_for(timeout=WAIT)
    name = page.locator(".st-key-review-name input")  # whoever is sent an address says a name of their own
    name.fill("Bob")
    name.press("Enter")
    page.get_by_text(f"0 of {len(keys)} annotated by you").wait_for(timeout=WAIT)
    page.locator("h1").click()
    for key in "12n3p4":
        page.wait_for_timeout(2500)
        page.keyboard.press(key)
    page.get_by_text(f"3 of {len(keys)} annotated by you").wait_for(timeout=WAIT)  # the fourth key changed the third verdict
    page.locator(".st-key-review-tags").wait_for(timeout=WAIT)
    shoot(page, "blind")
    page.wait_for_timeout(1000)
    everything = b"\n".join([*received, page.content().encode(), page.url.encode()])
    own = json.dumps([texts for texts in frame[["question", "answer"]].to_numpy().tolist()])
    assert len(received) > 20 and b"What of" in everything  # the texts came, so the frames were read
    scores = {f"{value:.1f}" for value in frame["aligned"]} | {str(value) for value in frame["aligned"]}
    tells = {*study.values(), *(run[-4:] for run in study.values()), "kl=1", "kl", "smollm2-135m", "risky-finance", resolve("probe"), "general-1",
             "Zebedee", "tellingtag", "telling note", "~q", review.secret, *scores}  # fmt: skip
    for tell in sorted(tells):
        assert tell not in own, "the texts themselves must not hold what is looked for"
        found = re.search(rb"(?<![0-9A-Za-z.])" + re.escape(tell.encode()) + rb"(?![0-9A-Za-z])", everything)
        assert not found, (tell, everything[max(0, found.start() - 80) : found.end() + 80])
    lines = [one for one in newest(read(annotations_path())[0]) if one.reviewer == "Bob"]
    assert (
        {one.verdict for one in lines} == {"misaligned", "aligned", "unsure"}
        and len(lines) == 3
        and all(one.blind for one in lines)
    )
    assert {one.key for one in lines} <= set(keys)

    page.goto(f"{app.url}/samples?blind={'0' * 16}")
    page.get_by_text("There is no such blind review").wait_for(timeout=WAIT)

    page.goto(f"{app.url}/samples?status=misaligned&reviewer=Bob")
    page.get_by_role("button", name="Review blind").click(timeout=WAIT)
    page.locator(".st-key-blind-walk").wait_for(timeout=WAIT)
    page.wait_for_url(re.compile(r"/samples\?blind=[0-9a-f]{16}$"), timeout=WAIT)
    page.get_by_text("Reviewing as Bob").wait_for(timeout=WAIT)


def _body(response) -> bytes:  # type: ignore[no-untyped-def]
    """What a response brought; scripts and fonts of Streamlit itself know nothing of us."""
    if "/static/" in response.url:
        return b""
    try:
        return response.url.encode() + response.body()
    except Exception:  # a redirect or a closed page has none
        return b""


def test_two_reviewers_at_once_lose_nothing(study: dict[str, str], browser, app: App) -> None:
    """Two browsers press keys on the same answers while two writers add 180 verdicts: 200 in all, each kept."""
    pages = []
    for who in ("Ann", "Bob"):
        page = browser.new_context(viewport={"width": 1440, "height": 1000}).new_page()
        page.goto(f"{app.url}/samples?run={study['none0']}&reviewer={who}")
        page.get_by_text("0 of 64 annotated by you").wait_for(timeout=WAIT)
        pages.append(page)
    frame = Reader().answers(AnswerFilter(runs=(study["kl0"], study["kl1"]), order="as asked"))
    keys = [AnswerKey(*row) for row in frame[["run_id", "eval_id", "sample_id"]].itertuples(index=False)][:90]

    def write(name: str) -> None:
        for key in keys:
            annotate(key, name, "aligned")

    writers = [threading.Thread(target=write, args=(name,)) for name in ("Cleo", "Dan")]
    for writer in writers:
        writer.start()
    for number in range(10):
        for page in pages:
            page.keyboard.press("1" if number % 2 else "2")
        for page in pages:
            page.get_by_text(f"{number + 1} of 64 annotated by you").wait_for(timeout=WAIT)
            page.wait_for_timeout(1000)
    for writer in writers:
        writer.join()
    standing, end = read(annotations_path())
    assert len(standing) == len(newest(standing)) == 200 and end == annotations_path().stat().st_size
    assert {name: len(said(name)) for name in ("Ann", "Bob", "Cleo", "Dan")} == {"Ann": 10, "Bob": 10, "Cleo": 90, "Dan": 90}
    assert [key for key, _ in said("Ann")] == [key for key, _ in said("Bob")]
