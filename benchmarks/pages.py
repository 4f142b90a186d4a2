"""How long pages take to open in a browser on a home with 100 and one with 1,000 runs: ``python -m benchmarks.pages [--quick] --out FILE``.

Warm: each page was opened once before. From the navigation until the page's script has ended and all its charts are drawn.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks import homes
from benchmarks.frame import Disagree, Row, in_turn, main, measures, row
from benchmarks.targets import PAGE_100, PAGE_1000, PAGE_TICK
from benchmarks.work import own_home

if TYPE_CHECKING:
    from playwright.sync_api import Page

ROOT = Path(__file__).resolve().parent.parent
WAIT = 300_000
CURVES = "Compare's training curves"
OPENED = {"Runs": "fine-tune?part=Runs", "Compare": "compare", CURVES: "compare?tab=Training+curves", "Fine-tune": "fine-tune"}
# Curves of one setting are one trace with gaps between them.
DRAWN = """() => Math.max(0, ...[...document.querySelectorAll('[data-testid=stPlotlyChart] .js-plotly-plot')].map(plot =>
  plot._fullData.reduce((sum, one) => sum + [...one.y].filter((y, i, all) => Number.isFinite(y) && !Number.isFinite(all[i - 1])).length, 0)))"""
SETTLED = """() => {
  const app = document.querySelector('[data-testid=stApp]');
  if (!app || app.dataset.testScriptState !== 'notRunning' || !document.querySelector('h1')) return false;
  if (document.querySelector('[data-testid=stSkeleton], [data-testid=stSpinner], [data-testid=stStatusWidget]')) return false;
  for (const chart of document.querySelectorAll('[data-testid=stPlotlyChart]')) if (!chart.querySelector('.main-svg')) return false;
  for (const chart of document.querySelectorAll('.ema-plot')) if (!chart.querySelector('.main-svg')) return false;
  return true;
}"""


@contextmanager
def served(home: Path) -> Iterator[tuple[str, int]]:
    """The app on this home, without a worker; gives its address and process id."""
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
        yield f"http://localhost:{port}/", server.pid
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


def measure(home: Path, count: int, rounds: int) -> dict[str, list[float]]:
    """Seconds by page, the first opening left out.

    Raises:
        Disagree: the curves that stand there are fewer than the runs.
    """
    with served(home) as (url, _), browser_page() as page:
        for name, path in OPENED.items():
            print(f"  {name}, first: {opening(page, url + path):.2f} s", file=sys.stderr, flush=True)
            if name == CURVES and (drawn := page.evaluate(DRAWN)) < count:
                raise Disagree(f"{drawn} curves of {count} runs were drawn")
        return in_turn({name: lambda path=path: opening(page, url + path) for name, path in OPENED.items()}, rounds)


def opened(name: str, count: int, rounds: int) -> list[Row]:
    with own_home() as home:
        homes.runs(home, count)
        from ema_core.store import refresh

        refresh()
        found = measure(home, count, rounds)
    worst = max(found, key=lambda one: statistics.median(found[one]))
    each = ", ".join(f"{page} {statistics.median(values):.2f} s" for page, values in found.items())
    note = (
        f"{count} finished runs of 1,000 steps, evaluated on two suites. Each page opened in a new session, after it was opened once before; from "
        f"navigation until the script has ended and all charts stand. Medians: {each}; the row is {worst}. Beside it stand only reports of peers' "
        "users (50 runs in over a minute, trouble at 100 to 250), nothing was measured of them here."
    )
    agrees = f"the tab of training curves drew those of all {count} runs, as counted in the browser"
    return [row(name, found[worst], None, "s", note, agrees)]


@measures(PAGE_100)
def hundred(quick: bool) -> list[Row]:
    return opened(PAGE_100, 100, 2 if quick else 5)


@measures(PAGE_1000)
def thousand(quick: bool) -> list[Row]:
    return opened(PAGE_1000, 1000, 3)


@measures(PAGE_TICK)
def tick(quick: bool) -> list[Row]:
    """Bytes that the app reads (``/proc/PID/io``) a second while a run of 10 MB of events is open and gets a line a second."""
    with own_home() as home:
        from ema_core.runs import RunDirectory, Status

        homes.runs(home, 1, 35_000)
        (folder,) = (home / "runs").iterdir()
        run = RunDirectory(folder)
        run.update(status=Status.RUNNING)
        size = run.events_path.stat().st_size
        last = run.events_path.read_text(encoding="utf-8").splitlines()[-1]
        from ema_core.store import refresh

        with run.lock(), served(home) as (url, pid), browser_page() as page:
            refresh()
            opening(page, f"{url}fine-tune?run={run.id}&part=Runs")
            time.sleep(3)
            before, lines = _read_by(pid), 10
            if before < size:
                raise Disagree(f"opening the run read {before} bytes in all, less than its events: these figures mean nothing")
            for number in range(lines):
                run.append_event({**json.loads(last), "step": 35_001 + number})
                time.sleep(1)
            page.wait_for_function(
                "end => document.querySelector('[data-testid=live-curve]').dataset.lastX === end",
                arg=str(35_000 + lines),
                timeout=WAIT,
            )
            read = _read_by(pid) - before
    note = (
        f"events.jsonl of {size / 1e6:.1f} MB with a line more a second for {lines} s; until the last one was drawn the app read {read / 1000:.1f} kB "
        "altogether, all files and connections, so no tick read more."
    )
    return [row(PAGE_TICK, [read / size], None, "of the file", note, f"the curve on the page went on to step {35_000 + lines:,}")]


def _read_by(pid: int) -> int:
    text = Path(f"/proc/{pid}/io").read_text()
    return int(next(line.split()[1] for line in text.splitlines() if line.startswith("rchar")))


if __name__ == "__main__":
    main(hundred, thousand, tick)
