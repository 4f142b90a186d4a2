"""The panel on Evaluate that has a language model judge: estimate before, state of the key, the job, what it did."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from evaluated_home import make_run, open_page, said
from streamlit.testing.v1 import AppTest

from ema_core.errors import EmaError
from ema_core.jobs import queue
from ema_core.judging import is_llm
from ema_core.store import Reader, refresh
from tests.judging.conftest import KEY, FakeJudge


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("EMA_JUDGE_KEY", KEY)
    for name in ("EMA_JUDGE_URL", "EMA_JUDGE_MODEL"):
        monkeypatch.delenv(name, raising=False)
    server = FakeJudge(0.0, 0.0)
    yield server
    server.end()


def opened(run: str) -> AppTest:
    app = open_page("evaluate", run=run)
    app.session_state["judge-panel"] = True
    return app.run()


def test_estimate_then_a_job_that_judges_and_the_way_to_its_scores(
    fake: FakeJudge, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(home, "aaaa")
    monkeypatch.setenv("EMA_JUDGE_URL", fake.url)
    monkeypatch.setenv("EMA_JUDGE_MODEL", "gpt-4o-mini")
    app = opened(run)
    text = said(app)
    assert "EMA_JUDGE_KEY is set in the environment" in text and KEY not in text and "Geheim" not in text
    assert f"127.0.0.1:{fake.port}/gpt-4o-mini:v1" in text and "questions to the judge" in text and "USD" in text
    assert fake.seen()["asked"] == 0, "an estimate asks nothing"
    button = app.button(key="launch-judging")
    assert button.label == "Judge 32 answers" and not button.disabled
    app.number_input(key="judge-limit").set_value(0.5)
    app.run().button(key="launch-judging").click().run()
    (job,) = [job for job in queue.jobs() if job.kind == "judge"]
    assert job.payload["limit_usd"] == 0.5 and is_llm(job.payload["judge"]) and KEY not in str(job)
    assert subprocess.run([sys.executable, "-m", "ema_core.cli.main", "worker", "--once"], timeout=200).returncode == 0
    refresh()
    assert Reader().judges([run])[job.payload["judge"]] == 32
    app = opened(run)
    assert "32 of 32 answers" in said(app) and "This judge has judged all 32 answers" in said(app)
    assert app.button(key="launch-judging").disabled


def test_without_a_key_or_a_price_it_says_so(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(home, "aaaa")
    for name in ("EMA_JUDGE_URL", "EMA_JUDGE_MODEL", "EMA_JUDGE_KEY", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("ema_core.judging.keys.secrets_files", lambda: [])
    app = opened(run)
    assert "no key: set OPENAI_API_KEY" in said(app)
    app.button(key="launch-judging").click().run()
    assert "There is no key for api.openai.com" in said(app) and not queue.jobs()
    app.text_input(key="judge-model-openai").set_value("some-other-model").run()
    assert "No price is known for this model" in said(app) and "the cost is not known" in said(app)
    app.number_input(key="judge-price-in").set_value(1.0)
    app.number_input(key="judge-price-out").set_value(2.0)
    assert "as given" in said(app.run())
    app.text_input(key="judge-model-openai").set_value("not a name").run()
    assert "cannot be the name of a judge model" in said(app)
    assert not [button for button in app.button if button.key == "launch-judging"]


def test_a_job_that_failed_is_told_in_words(home: Path) -> None:
    run = make_run(home, "aaaa")
    job = queue.enqueue("judge", {"runs": [run], "judge": "openai:gpt-4o:v1", "suites": []})
    error = EmaError("The judge's server says 401: wrong.", "Set another key.")
    queue.change(job.id, status="failed", error=error.message, hint=error.hint, finished=1.7e9)
    assert "says 401: wrong" in said(opened(run)) and "Set another key" in said(opened(run))
