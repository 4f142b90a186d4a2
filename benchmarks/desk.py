"""How long the page Samples takes from the browser: ``python -m benchmarks.desk HOME [--json]``.

HOME has many answers (``python -m benchmarks.homes answers HOME`` or ``ema import judged``). Each action is timed from the click or key until the page
shows its result and has come to rest; the median of some different ones.
"""

from __future__ import annotations

import json
import re
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

from playwright.sync_api import Page

from benchmarks.pages import WAIT, browser_page, served, settled


def timed(page: Page, act: Callable[[], object], shows: Callable[[], object]) -> float:
    start = time.perf_counter()
    act()
    shows()
    settled(page)
    return time.perf_counter() - start


def measure(home: Path) -> dict[str, float]:
    found: dict[str, list[float]] = {}
    with served(home) as (address, _), browser_page() as page:
        url = f"{address}samples"
        page.goto(url, timeout=WAIT)
        walk, total = page.locator(".st-key-answer-walk"), page.locator(".st-key-answer-total")
        walk.wait_for(timeout=WAIT)
        settled(page)

        def note(name: str, act: Callable[[], object], shows: Callable[[], object]) -> None:
            found.setdefault(name, []).append(round(timed(page, act, shows), 2))
            print(f"{name}: {found[name][-1]} s", file=sys.stderr)

        pills = page.locator(".st-key-answers-status")
        for status in ("misaligned", "incoherent", "coherent"):
            note(
                "filter by status",
                lambda status=status: pills.locator("button").filter(has_text=re.compile(rf"^{status} ·")).click(),
                lambda status=status: total.get_by_text(re.compile(rf"of [\d,]+ answers {status}")).wait_for(timeout=WAIT),
            )
        page.get_by_text("Facets and more filters").click()
        facet = page.locator(".st-key-answers-defense button")
        facet.first.wait_for(timeout=WAIT)
        for place in range(min(3, facet.count())):
            before = total.inner_text()
            note(
                "choose in a facet",
                lambda place=place: facet.nth(place).click(),
                lambda before=before: page.wait_for_function(
                    "text => document.querySelector('.st-key-answer-total').innerText !== text", arg=before, timeout=WAIT
                ),
            )
        page.get_by_text("Facets and more filters").click()
        box = page.locator(".st-key-answers-q input")
        for words in ("money", "people power", '"you should"'):
            before = total.inner_text()
            box.fill(words)
            note(
                "search words",
                lambda: box.press("Enter"),
                lambda before=before: page.wait_for_function(
                    "text => document.querySelector('.st-key-answer-total').innerText !== text", arg=before, timeout=WAIT
                ),
            )
        page.locator(".st-key-answers-clear button").click()
        page.wait_for_url(url, timeout=WAIT)
        settled(page)
        for number in (2, 3):
            note(
                "turn a page",
                lambda: page.locator("[class*=st-key-answers-page] button").last.click(),
                lambda number=number: walk.get_by_text(re.compile(rf"^{15 * (number - 1) + 1:,} of")).wait_for(timeout=WAIT),
            )
        page.locator("h1").click()
        for number in (32, 33, 34):
            note(
                "next answer (key)",
                lambda: page.keyboard.press("n"),
                lambda number=number: walk.get_by_text(re.compile(rf"^{number} of")).wait_for(timeout=WAIT),
            )
        for query in ("?order=random&seed=3", "?sample=50&seed=3", "?view=grouped"):
            note("open an address", lambda query=query: page.goto(url + query), lambda: walk.wait_for(timeout=WAIT))
    return {name: statistics.median(values) for name, values in found.items()}


if __name__ == "__main__":
    result = measure(Path(sys.argv[1]).resolve())
    if "--json" in sys.argv:
        print(json.dumps(result))
    else:
        for name, seconds in result.items():
            print(f"{name:20} {seconds:6.2f} s")
