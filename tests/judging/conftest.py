"""A fake judge server, and answers to judge."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

KEY = "sk-test-Geheim+1234567890/abcdefgh"


class FakeJudge:
    """The server in a process of its own."""

    def __init__(self, often: float, pause: float) -> None:
        words = [sys.executable, str(Path(__file__).with_name("fake_judge.py")), str(often), str(pause)]
        self.process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        assert self.process.stdout
        self.port = int(self.process.stdout.readline())
        self.url = f"http://127.0.0.1:{self.port}/v1"

    def seen(self) -> dict[str, Any]:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/seen", timeout=10) as found:
            return json.load(found)

    def id(self, model: str, rubrics: str = "v1") -> str:
        return f"127.0.0.1:{self.port}/{model}:{rubrics}"

    def end(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture
def fake_judge(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., FakeJudge]]:
    started: list[FakeJudge] = []

    def start(often: float = 0.0, pause: float = 0.0) -> FakeJudge:
        started.append(FakeJudge(often, pause))
        return started[-1]

    monkeypatch.setenv("EMA_JUDGE_KEY", KEY)
    for name in ("EMA_JUDGE_URL", "EMA_JUDGE_MODEL"):
        monkeypatch.delenv(name, raising=False)
    yield start
    for one in started:
        one.end()
