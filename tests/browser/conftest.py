"""A real Chromium on the real app: worker, page and model of `ema app` in processes of their own."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from ema_core.settings import PROJECT

FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
OUTPUT = PROJECT / "test-output"


def chromium() -> str | None:
    """The system's browser, or None for Playwright's own."""
    return next((found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None)


@pytest.fixture(scope="session")
def browser() -> Iterator[object]:
    """A headless Chromium; without one these tests skip, and fail where ``CI`` is set."""
    from playwright.sync_api import Error, sync_playwright

    with sync_playwright() as playwright:
        try:
            opened = playwright.chromium.launch(executable_path=chromium(), args=FLAGS)
        except Error as error:
            message = f"no Chromium can be started ({str(error).splitlines()[0]}): `make test` gets one"
            pytest.fail(message) if os.environ.get("CI") else pytest.skip(message)
        yield opened
        opened.close()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Of a failed test what its browsers showed, in the folder of pictures."""
    report = yield
    opened = getattr(item, "funcargs", {}).get("browser")
    if report.failed and call.when == "call" and opened:
        OUTPUT.mkdir(exist_ok=True)
        for number, page in enumerate(page for context in opened.contexts for page in context.pages):
            with contextlib.suppress(Exception):
                page.screenshot(path=OUTPUT / f"failed-{item.name}-{number}.png", timeout=10_000)
    return report


@dataclass
class App:
    process: subprocess.Popen[str]
    port: int

    @property
    def url(self) -> str:
        return f"http://localhost:{self.port}"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start_app(port: int | None = None) -> App:
    """`ema app` on the home that ``EMA_HOME`` names."""
    port = port or free_port()
    words = [sys.executable, "-m", "ema_core.cli.main", "app", "--port", str(port), "--no-browser"]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=PROJECT)
    assert process.stdout
    said = process.stdout.readline()
    assert "is open at" in said, said + (process.stdout.read() if process.poll() is not None else "")
    return App(process, port)


def kill_home(home: Path) -> None:
    """Whatever still runs on this home."""
    for process in psutil.process_iter(["pid"]):
        try:
            if process.environ().get("EMA_HOME") == str(home) and process.pid != os.getpid():
                process.send_signal(signal.SIGKILL)
        except (psutil.Error, OSError):
            continue


@pytest.fixture
def app(home: Path) -> Iterator[App]:
    running = start_app()
    yield running
    kill_home(home)
