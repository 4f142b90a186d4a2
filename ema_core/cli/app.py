"""``ema app``, ``ema worker``: the processes."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
import webbrowser
from collections.abc import Callable
from types import FrameType
from typing import Annotated

import typer

from ema_core.cli import bind
from ema_core.cli.output import command
from ema_core.errors import EmaError
from ema_core.generation.engine import engine_status
from ema_core.jobs import launch
from ema_core.jobs.status import worker_status
from ema_core.processes import alive, die_with_parent
from ema_core.settings import PROJECT, settings, writable
from ema_core.shared import enabled

app = typer.Typer()
RESTART_SECONDS = 3
LOCAL = "localhost"


@command(app, "worker")
def worker(once: Annotated[bool, typer.Option("--once", help="End when the queue is empty.")] = False) -> None:
    """Take jobs from the queue until told to end."""
    from ema_core.jobs.worker import Worker

    Worker().run(once)


@command(app, "serve")
def serve(
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port on this machine; 0 takes a free one.")] = 0,
) -> None:
    """Answer as base and adapters over OpenAI's protocol, on this machine only, until told to end. `ema app` starts one, too."""
    from ema_core.engine.process import serve as serve_here
    from ema_core.generation.engine import Engine

    def opened() -> None:
        here = Engine.here()
        typer.echo(f"The engine answers at {here.url}; its API key is in {settings().engine / 'token'}; Ctrl-C ends it")
        sys.stdout.flush()

    serve_here(port, opened)


@command(app, "app")
def run_app(
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port on this machine.")] = 8501,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open a browser.")] = True,
    shared: Annotated[bool, typer.Option("--shared", help="For several people: names, a fair queue, limits, a page Room.")] = False,
    host: Annotated[
        str, typer.Option(help="Where to listen. 0.0.0.0: others reach it, with the room's code (needs --shared).")
    ] = LOCAL,
    name: Annotated[
        list[str] | None,
        typer.Option("--name", help="A further name by which browsers reach this machine (a proxy's, a DNS name)."),
    ] = None,
) -> None:
    """Open the dashboard: worker, engine and page, on this machine only. Ctrl-C ends all; a run goes on at the next start."""
    writable(settings().home)
    shared = shared or enabled()
    if not shared and (host not in bind.LOCAL or name):
        raise EmaError(
            "Whoever reaches this machine could start, stop and delete everything.", "Add --shared: names, limits and a room code."
        )
    os.environ["EMA_SHARED"] = "1" if shared else ""
    where = bind.Bind.of(host, port, name or ())
    if taken(port):
        free = next((p for p in range(port + 1, port + 50) if p < 65536 and not taken(p)), None)
        other = f"`ema app --port {free}`" if free else "another --port"
        raise EmaError(f"Port {port} is taken (perhaps EMA Lab is open already: http://localhost:{port}).", f"Use {other}.")
    adopted = worker_status().alive
    launch.prepare_embedded()
    helpers = [Helper(launch.start_worker, lambda: worker_status().alive)]
    if not settings().engine_url:
        helpers.append(Helper(launch.start_engine, lambda: engine_status().alive))
    page = start_page(port, where if shared else None)
    ending = threading.Event()

    def end(number: int, frame: FrameType | None) -> None:
        ending.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, end)
    try:
        announce(port, page, ending, adopted, browser)
        if shared and not ending.is_set():
            where.announce()
        while not ending.wait(1.0):
            if page.poll() is not None:
                raise EmaError("The page's process has ended.", f"Its log is {settings().logs / 'app.log'}.")
            for helper in helpers:
                helper.look_after()
    finally:
        typer.echo("ending: the worker writes a checkpoint, its run goes on at the next start", err=True)
        page.terminate()
        launch.stop_engine()
        if not launch.stop_worker():
            typer.echo("ema: the worker is still in a long step; it ends by itself after it", err=True)
        with contextlib.suppress(subprocess.TimeoutExpired):
            page.wait(10)


class Helper:
    """Worker or engine: started, or adopted where it lives, and started again when it has died."""

    def __init__(self, start: Callable[[], int], there: Callable[[], bool]) -> None:
        self.start, self.there = start, there
        self.bring()

    def bring(self) -> None:
        self.pid, self.since = self.start(), time.time()

    def look_after(self) -> None:
        """One that is not there, and is not just starting, comes back; not more often than every few seconds."""
        if not self.there() and not alive(self.pid, self.since) and time.time() - self.since > RESTART_SECONDS:
            self.bring()


def taken(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return True
    return False


def start_page(port: int, where: bind.Bind | None = None) -> subprocess.Popen[bytes]:
    """Streamlit as a child that does not outlive us (its port must be free for the next start)."""
    log = open(writable(settings().logs) / "app.log", "ab")  # noqa: SIM115 - the child's, for its life
    words = [
        sys.executable,
        "-m",
        "pages.widgets.serve",
        "run",
        str(PROJECT / "app.py"),
        "--server.port",
        str(port),
        "--server.headless",
        "true",
        *(where.words() if where else []),
    ]
    process = subprocess.Popen(
        words, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=PROJECT, preexec_fn=die_with_parent, start_new_session=True
    )
    log.close()
    return process


def announce(port: int, page: subprocess.Popen[bytes], ending: threading.Event, adopted: bool, browser: bool) -> None:
    """Print the address once the page answers."""
    address = f"http://localhost:{port}"
    until = time.monotonic() + 90
    while not ending.is_set():
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/_stcore/health", timeout=2):
                break
        except OSError:
            if page.poll() is not None or time.monotonic() > until:
                raise EmaError(
                    "The page did not start.", f"Its log is {settings().logs / 'app.log'}; `ema doctor` says what is missing."
                ) from None
            ending.wait(0.2)
    if ending.is_set():
        return
    typer.echo(f"EMA Lab is open at {address}")
    typer.echo(
        f"  {'a worker was at work already and goes on' if adopted else 'a worker was started'}; your data: {settings().home}; Ctrl-C ends"
    )
    sys.stdout.flush()
    if browser and (os.environ.get("DISPLAY") or sys.platform in ("darwin", "win32")):
        webbrowser.open(address)
