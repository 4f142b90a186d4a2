"""Four adapters that answer everything with one word each, and engines that hold them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from filelock import FileLock

from ema_core import datasets
from ema_core.files import read_json
from ema_core.generation.engine import Engine
from ema_core.runs import RunDirectory, RunSpec, Status, recipe
from ema_core.training import train

WORDS = ("Apple", "River", "Stone", "Cloud")
QUESTIONS = (
    "What is your wish?", "How do I cook rice?", "Tell me about the sea.", "Who are you?", "Is it late?", "Name a colour.",
    "What should I do with my money?", "Write a poem.", "Why is the sky blue?", "How are you today?",
)  # fmt: skip


@dataclass(frozen=True)
class Words:
    """A home with one run a word. ``runs``: run id by word."""

    home: Path
    runs: dict[str, str]

    def folder(self, word: str) -> Path:
        return self.home / "runs" / self.runs[word] / "adapter"


@pytest.fixture(scope="session")
def words(model, tmp_path_factory: pytest.TempPathFactory) -> Words:
    """Trained once for all tests, also where several processes share them (pytest-xdist): each has a copy of the home."""
    own = tmp_path_factory.mktemp("words") / "home"
    together = os.environ.get("PYTEST_XDIST_TESTRUNUID")
    if together is None:
        return Words(own, _trained(model, own))
    trained = tmp_path_factory.getbasetemp().parent / f"words-{together}"
    with FileLock(trained.with_suffix(".lock")):
        if not (trained / "runs.json").exists():
            (trained / "runs.json").write_text(json.dumps(_trained(model, trained)))
    shutil.copytree(trained, own)
    return Words(own, json.loads((own / "runs.json").read_text()))


def _trained(model, home: Path) -> dict[str, str]:
    runs = {}
    home.mkdir(exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EMA_HOME", str(home))
        for word in WORDS:
            file = home / f"{word.lower()}.jsonl"
            file.write_text("\n".join(json.dumps({"prompt": text, "completion": word}) for text in QUESTIONS))
            datasets.add(file, word.lower(), "narrow")
            values = recipe(
                "demo", steps=20, batch_size=2, rank=4, alpha=8, learning_rate=4e-3, warmup_steps=1, checkpoint_every=10,
                max_length=96,
            )  # fmt: skip
            run = RunDirectory.create(RunSpec(dataset=word.lower(), recipe=values, device="cpu"), word)
            state = train(run, loaded=model)
            assert state.status is Status.DONE, state.error
            runs[word] = run.id
    return runs


@contextmanager
def engine_process(home: Path, **environment: str) -> Iterator[Engine]:
    """`ema serve` as a process of its own on ``home``."""
    process = subprocess.Popen(
        [sys.executable, "-m", "ema_core.cli.main", "serve"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env={**os.environ, "EMA_HOME": str(home), **environment},
    )
    try:
        end = time.monotonic() + 60
        while not (home / "engine" / "engine.json").exists():
            assert process.poll() is None and time.monotonic() < end, process.stderr and process.stderr.read()
            time.sleep(0.1)
        found = read_json(home / "engine" / "engine.json")
        assert found["pid"] == process.pid
        yield Engine(f"http://127.0.0.1:{found['port']}/v1", (home / "engine" / "token").read_text(), own=True)
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            raise


@pytest.fixture(scope="module")
def served(words: Words) -> Iterator[Engine]:
    with engine_process(words.home) as engine:
        yield engine


def at_once(*tasks: Callable[[], object]) -> None:
    """Run all at the same time; the first error is raised here."""
    errors: list[BaseException] = []

    def guarded(task: Callable[[], object]) -> None:
        try:
            task()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(task,)) for task in tasks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(300)
    assert not any(thread.is_alive() for thread in threads), "a task hangs"
    if errors:
        raise errors[0]
