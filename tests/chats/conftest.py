"""Servers that answer in the engine's place."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ema_core.settings import PROJECT


class Server:
    def __init__(self, *words: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.chats.fake_server", *words], stdout=subprocess.PIPE, text=True, cwd=PROJECT
        )
        assert self.process.stdout
        self.port = int(self.process.stdout.readline())
        self.url = f"http://127.0.0.1:{self.port}/v1"

    def seen(self, what: str = "seen") -> list[Any]:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/seen", timeout=5) as answer:
            return json.load(answer)[what]


def as_our_engine(home: Path, server: Server) -> None:
    """The home's engine file names the server, as if ``ema serve`` had written it."""
    (home / "engine").mkdir(exist_ok=True)
    (home / "engine/token").write_text("secret")
    value = {"pid": server.process.pid, "port": server.port, "time": time.time()}
    (home / "engine/engine.json").write_text(json.dumps(value))


@pytest.fixture
def serve(home: Path) -> Iterator[Callable[..., Server]]:
    """Start a server as this home's engine (``--ema``), or as another one."""
    started: list[Server] = []

    def start(*words: str) -> Server:
        started.append(Server(*words))
        return started[-1]

    yield start
    for server in started:
        server.process.kill()
        server.process.wait()


@pytest.fixture
def engine(serve: Callable[..., Server], home: Path) -> Server:
    """A server that stands as this home's own engine."""
    server = serve("--ema")
    as_our_engine(home, server)
    return server


@pytest.fixture
def other(serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch) -> Server:
    """Another OpenAI-compatible server, named by ``EMA_ENGINE_URL``."""
    server = serve()
    monkeypatch.setenv("EMA_ENGINE_URL", server.url)
    return server
