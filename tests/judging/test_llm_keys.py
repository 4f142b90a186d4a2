"""A key goes to the judge's server and nowhere else: not into a file, an output or an error, even where the server sends it back."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import pytest

from ema_core.errors import EmaError
from ema_core.judging import LlmJudge, keys
from ema_core.judging.keys import HIDDEN, key_for, key_state, without_keys
from tests.judging.conftest import KEY, FakeJudge
from tests.judging.test_llm_session import items, run_with_answers

Start = Callable[..., FakeJudge]
FORMS = (KEY, quote(KEY, safe=""), KEY[:14], KEY[3:20], "Geheim")
"""A piece of it would be too much."""


def leaks(home: Path, *texts: str) -> list[str]:
    """Where a form of the key stands, among texts and all files of a home."""
    found = [f"text {place}: {form}" for place, text in enumerate(texts) for form in FORMS if form in text]
    for path in home.rglob("*"):
        if path.is_file():
            raw = path.read_bytes()
            found += [f"{path}: {form}" for form in FORMS if form.encode() in raw or form in path.name]
    return found


@pytest.mark.slow
def test_the_key_is_nowhere(fake_judge: Start, home: Path) -> None:
    server = fake_judge(often=0.5)
    run_with_answers(24)
    environment = {**os.environ, "EMA_JUDGE_URL": server.url, "OPENAI_API_KEY": "sk-other-Geheim-0987654321"}
    texts = []

    def ema(*words: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-m", "ema_core.cli.main", *words], capture_output=True, text=True, env=environment, timeout=200
        )
        texts.extend((done.stdout, done.stderr))
        return done

    assert ema("judge", "run", "base-smollm2-135m", "--judge", "openai:plain", "--timeout", "1", "--json").returncode == 0
    done = json.loads(ema("judge", "run", "base-smollm2-135m", "--judge", "openai:echo-key", "--json").stdout)
    assert done["statuses"] == {"unparsed": 24} and HIDDEN in next(iter(done["reasons"])), "the judge said nothing but the key"
    wrong = ema("judge", "run", "base-smollm2-135m", "--judge", "openai:wrong-key")
    assert wrong.returncode == 2 and HIDDEN in wrong.stderr and "EMA_JUDGE_KEY is set in the environment" in wrong.stderr
    assert ema("judge", "run", "base-smollm2-135m", "--judge", "openai:wrong-key", "--queue").returncode == 0
    assert ema("worker", "--once").returncode == 0
    job = json.loads(next((home / "queue" / "jobs").glob("*.json")).read_text())
    assert job["status"] == "failed" and HIDDEN in job["error"], "the job's error was written, without the key"
    for words in (["judge", "list"], ["doctor"], ["samples", "--run", "base-smollm2-135m"], ["index"]):
        ema(*words)
    assert leaks(home, *texts) == []
    authorized = server.seen()["authorized"]
    assert authorized == [hashlib.sha256(f"Bearer {KEY}".encode()).hexdigest()], "the server did get it, and only this one"


def test_openais_key_goes_to_openai_alone(fake_judge: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    server = fake_judge()
    monkeypatch.delenv("EMA_JUDGE_KEY")
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    LlmJudge(server.id("plain")).run(items(2))
    assert server.seen()["authorized"] == [hashlib.sha256(b"Bearer none").hexdigest()]
    found = key_for("https://api.openai.com/v1")
    assert found and found.value == KEY and KEY not in repr(found)
    assert key_for("https://api.openai.com.evil.example/v1") is None
    monkeypatch.delenv("OPENAI_API_KEY")
    with pytest.raises(EmaError, match="There is no key for"):
        LlmJudge("openai:gpt-4o:v1").run(items(1))
    monkeypatch.setenv("EMA_JUDGE_KEY", f"{KEY}\nX-Other: 1")
    with pytest.raises(EmaError, match="is no key") as told:
        LlmJudge(server.id("plain")).run(items(1))
    assert "Geheim" not in str(told.value)


def test_a_key_from_secrets_toml_counts_and_is_hidden_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "secrets.toml"
    path.write_text(f'OPENAI_API_KEY = "{KEY}"\n')
    monkeypatch.setattr(keys, "secrets_files", lambda: [tmp_path / "none.toml", path])
    monkeypatch.delenv("EMA_JUDGE_KEY", raising=False)
    assert key_state("https://api.openai.com/v1") == "OPENAI_API_KEY is set in secrets.toml"
    said = without_keys(f"url {quote(KEY, safe='')} bare {KEY} cut {KEY[:12]} end")
    assert "Geheim" not in said and KEY[:12] not in said and said.endswith("end")
    assert without_keys("Incorrect API key provided: sk-ab12********wxyz.") == f"Incorrect API key provided: {HIDDEN}"
