"""How long pages take to open in a browser on a home with 100 and one with 1,000 runs: ``python -m benchmarks.pages [--quick] --out FILE``.

Warm: each page was opened once before. From the navigation until the page's script has ended and all its charts are drawn.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from playwright.sync_api import Page

ROOT = Path(__file__).resolve().parent.parent
WAIT = 300_000
OPENED = {"Runs": "fine-tune?part=Runs", "Compare": "compare", "Fine-tune": "fine-tune"}
SETTLED = """() => {
  const app = document.querySelector('[data-testid=stApp]');
  if (!app || app.dataset.testScriptState !== 'notRunning' || !document.querySelector('h1')) return false;
  if (document.querySelector('[data-testid=stSkeleton], [data-testid=stSpinner], [data-testid=stStatusWidget]')) return false;
  for (const chart of document.querySelectorAll('[data-testid=stPlotlyChart]')) if (!chart.querySelector('.main-svg')) return false;
  for (const chart of document.querySelectorAll('.ema-plot')) if (!chart.querySelector('.main-svg')) return false;
  return true;
}"""


@contextmanager
def served(home: Path) -> Iterator[str]:
    """The app on this home, without a worker; gives its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    words = [sys.executable, "-m", "pages.widgets.serve", "run", "app.py", "--server.port", str(port), "--server.headless", "true"]
    environment = {**os.environ, "EMA_HOME": str(home), "PYTHONPATH": str(ROOT)}
    server = subprocess.Popen(words, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL)
    try:
        for _ in range(600):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.1)
        yield f"http://localhost:{port}/"
    finally:
        server.terminate()
        server.wait()


@contextmanager
def browser_page() -> Iterator[Page]:
    from playwright.sync_api import sync_playwright

    own = next((found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=own, args=["--no-sandbox", "--disable-gpu"])
        yield browser.new_page(viewport={"width": 1440, "height": 1000})
        browser.close()


def settled(page: Page) -> None:
    """The script has run to its end, charts stand, and the browser has nothing left to do."""
    page.wait_for_function(SETTLED, timeout=WAIT)
    page.evaluate("() => new Promise(done => requestAnimationFrame(() => requestIdleCallback(done, {timeout: 10000})))")
    page.wait_for_function(SETTLED, timeout=WAIT)


def opening(page: Page, url: str) -> float:
    start = time.perf_counter()
    page.goto(url, timeout=WAIT)
    settled(page)
    return time.perf_counter() - start


def cpu() -> tuple[float, float]:
    """Processor seconds so far of the app's process and of the browser's."""
    import psutil

    found = [0.0, 0.0]
    for process in psutil.Process().children(recursive=True):
        try:
            times = process.cpu_times()
            found["chrom" in process.name()] += times.user + times.system
        except psutil.Error:
            continue
    return found[0], found[1]


def measure(home: Path, rounds: int) -> dict[str, list[float]]:
    """Seconds by page, the first opening left out."""
    with served(home) as url, browser_page() as page:
        first = {name: opening(page, url + path) for name, path in OPENED.items()}
        print(home.name, "first:", {name: round(value, 2) for name, value in first.items()}, file=sys.stderr, flush=True)
        found: dict[str, list[float]] = {name: [] for name in OPENED}
        for _ in range(rounds):
            for name, path in OPENED.items():
                before = cpu()
                found[name].append(opening(page, url + path))
                print(
                    name,
                    f"{found[name][-1]:.2f} s",
                    [round(b - a, 2) for a, b in zip(before, cpu(), strict=True)],
                    file=sys.stderr,
                    flush=True,
                )
        print(
            home.name, {name: [round(value, 2) for value in values] for name, values in found.items()}, file=sys.stderr, flush=True
        )
    return found


if __name__ == "__main__":
    measure(Path(sys.argv[1]).resolve(), 3)
