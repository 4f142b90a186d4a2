"""How long the page Samples takes from the browser: ``python benchmarks/desk.py HOME [--json]``.

HOME has many answers (``benchmarks/desk_home.py`` or ``ema import judged``). Each action is timed from the click or key until the page
shows its result and has come to rest; the median of some different ones.
"""

from __future__ import annotations

import json
import os
import re
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

ROOT = Path(__file__).resolve().parent.parent
WAIT = 60_000


def serve(home: Path) -> tuple[subprocess.Popen[bytes], str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    words = [sys.executable, "-m", "pages.widgets.serve", "run", "app.py", "--server.port", str(port), "--server.headless", "true"]
    environment = {**os.environ, "EMA_HOME": str(home), "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(words, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL), f"http://localhost:{port}/samples"


def settled(page: Page) -> None:
    """The script has run to its end."""
    page.wait_for_function(
        "!document.querySelector('[data-test-script-state=running], [data-testid=stStatusWidget]')", timeout=WAIT
    )
    page.locator("[data-testid=stApp][data-test-script-state=notRunning]").wait_for(timeout=WAIT)


def timed(page: Page, act: Callable[[], object], shows: Callable[[], object]) -> float:
    start = time.perf_counter()
    act()
    shows()
    settled(page)
    return time.perf_counter() - start


def measure(home: Path) -> dict[str, float]:
    server, url = serve(home)
    found: dict[str, list[float]] = {}
    try:
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path="/usr/bin/chromium" if Path("/usr/bin/chromium").exists() else None,
                                                 args=["--no-sandbox", "--disable-gpu"])  # fmt: skip
            page = browser.new_page(viewport={"width": 1440, "height": 1000})
            for _ in range(240):
                try:
                    page.goto(url, timeout=5_000)
                    break
                except Exception:
                    time.sleep(0.5)
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
            browser.close()
    finally:
        server.terminate()
    return {name: statistics.median(values) for name, values in found.items()}


if __name__ == "__main__":
    result = measure(Path(sys.argv[1]).resolve())
    if "--json" in sys.argv:
        print(json.dumps(result))
    else:
        for name, seconds in result.items():
            print(f"{name:20} {seconds:6.2f} s")
