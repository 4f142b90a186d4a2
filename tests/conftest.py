"""Every test has a home of its own and shares the prepared embedded model."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("EMA_THREADS", "2")
os.environ.setdefault("EMA_INSIDE", "off")  # ten seconds a run that hardly any test looks at


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests first: of two processes that share the files, none is left alone with a long one at the end."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty ``EMA_HOME``."""
    folder = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("EMA_HOME", str(folder))
    monkeypatch.setenv("EMA_RECORDED", "off")
    monkeypatch.delenv("EMA_DEVICE", raising=False)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    return folder


@pytest.fixture(scope="session")
def model() -> Iterator[object]:
    """The embedded model, loaded once for the session."""
    from ema_core.models import load

    yield load("smollm2-135m", "cpu")


@pytest.fixture
def ema(home: Path):
    """Call the real command line in a process of its own."""

    def call(*words: str, timeout: float = 300, check: bool = False, **environment: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-m", "ema_core.cli.main", *words],
            capture_output=True,
            text=True,
            timeout=timeout,
            env={**os.environ, **environment},
        )
        assert not check or done.returncode == 0, done.stderr
        return done

    return call
