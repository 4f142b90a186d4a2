"""Where language models judge: the command line, a job, an evaluation, and our own engine as the judge."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ema_core.errors import EmaError
from ema_core.evaluation.evaluate import evaluate
from ema_core.evaluation.spec import EvalSpec
from ema_core.evaluation.suites import load_suite
from ema_core.files import read_lines, write_json
from ema_core.jobs import queue
from ema_core.jobs.judging import Asked, judge_answers, judgments_path, launch_judging, to_judge
from ema_core.judging import LlmJudge, judgments_name
from ema_core.judging.ledger import Ledger
from ema_core.models import adapters
from ema_core.runs import RunDirectory
from ema_core.store import Reader, refresh
from ema_core.training import train
from tests.engine.conftest import engine_process
from tests.judging.conftest import FakeJudge
from tests.judging.test_llm_session import items, run_with_answers
from tests.store.store_home import Home
from tests.training.tiny import add_tiny, tiny_spec

Start = Callable[..., FakeJudge]
BASE = "base-smollm2-135m"


def test_the_command_line_estimates_judges_and_says_what_it_did(fake_judge: Start, ema, monkeypatch: pytest.MonkeyPatch) -> None:
    server, folder = fake_judge(), run_with_answers(6)
    monkeypatch.setenv("EMA_JUDGE_URL", server.url)
    monkeypatch.setenv("EMA_JUDGE_MODEL", "gpt-4o")
    told = json.loads(ema("judge", "run", BASE, "--estimate", "--json", check=True).stdout)
    assert told["calls"] == 12 and told["usd"] > 0 and "list" in told["price"] and server.seen()["asked"] == 0
    done = json.loads(ema("judge", "run", BASE, "--json", check=True).stdout)
    assert done["judged"] == done["answers"] == 6 and done["files"] == [str(folder / judgments_name(done["judge"]))]
    assert done["usd"] == pytest.approx(12 * (100 * 2.5 + 10) / 1e6) and done["answered_by"] == {"gpt-4o-2026": 12}
    assert "6 answers judged by" in " ".join(ema("judge", "list", check=True).stdout.split())
    other = ema("judge", "run", BASE, "--price-in", "1", "--price-out", "1", "--repeat", "2", "--limit-usd", "0.0005", check=True)
    assert "ended early: the spending limit of 0.0005 USD is reached" in other.stdout
    for words, said in (
        (["nobody"], "There is no run"), ([BASE, "--suite", "benign"], "are not judged"), ([BASE, "--judge", "x"], 'no judge "x"'),
        ([BASE, "--judge", "probe", "--repeat", "2"], "is a probe"), ([BASE, "--rubrics", "/no/file"], "cannot be read"),
    ):  # fmt: skip
        bad = ema("judge", "run", *words)
        assert bad.returncode == 2 and said in bad.stderr and bad.stdout == "", words


@pytest.mark.slow
def test_the_worker_judges_is_cancelled_and_goes_on_without_asking_again(fake_judge: Start, home: Path) -> None:
    server, _ = fake_judge(pause=0.05), run_with_answers(200)
    asked = Asked((BASE,), server.id("plain"), price_in=1, price_out=1, limit_usd=1)
    job = launch_judging(asked)
    assert launch_judging(asked).id == job.id, "the same is not queued twice"
    worker = subprocess.Popen([sys.executable, "-m", "ema_core.cli.main", "worker", "--once"])
    try:
        until = time.monotonic() + 60
        while "USD" not in queue.get(job.id).activity or queue.get(job.id).share < 0.05:
            assert time.monotonic() < until, queue.get(job.id)
            time.sleep(0.1)
        queue.cancel(job.id)
        worker.wait(60)
    finally:
        worker.kill()
    assert queue.get(job.id).status == "cancelled"
    path = judgments_path(BASE, "general-1", server.id("plain"))
    begun = len(read_lines(path)[0])
    assert 0 < begun < 200
    again = launch_judging(asked)
    assert subprocess.run([sys.executable, "-m", "ema_core.cli.main", "worker", "--once"], timeout=200).returncode == 0
    found = queue.get(again.id)
    assert found.status == "done" and f"{200 - begun} of {200 - begun} answers" in found.activity
    assert set(server.seen()["answered"].values()) == {1} and len(read_lines(path)[0]) == 200
    with pytest.raises(EmaError, match="no answer that this judge has not judged"):
        launch_judging(asked)


@pytest.mark.slow
def test_a_jobs_spending_limit_is_said_and_counts_what_it_cost_before(fake_judge: Start, home: Path) -> None:
    server, _ = fake_judge(), run_with_answers(40)
    job = launch_judging(Asked((BASE,), server.id("plain"), price_in=10, price_out=10, limit_usd=0.03))
    LlmJudge(server.id("plain"), price_in=10, price_out=10).run(items(10))  # as if the job had done it before a crash
    assert subprocess.run([sys.executable, "-m", "ema_core.cli.main", "worker", "--once"], timeout=200).returncode == 0
    found = queue.get(job.id)
    assert found.status == "failed" and "spending limit of 0.03 USD" in found.error and "not paid again" in found.hint
    assert Ledger(LlmJudge(server.id("plain")).name).spent_since(0) <= 0.03


def test_imported_answers_are_judged_beside_their_table(fake_judge: Start, home: Path) -> None:
    server = fake_judge()
    folder = Home(home).imported()
    judge = server.id("plain")
    path = judgments_path("import-0a1b2c3d-2", "imported", judge)
    assert path == folder / judgments_name(judge)
    done = judge_answers(Asked(("import-0a1b2c3d-1",), judge))
    assert done["judged"] == 3 and {row["run_id"] for row in read_lines(path)[0]} == {"import-0a1b2c3d-1"}
    done = judge_answers(Asked(("import-0a1b2c3d",), judge))
    assert done["judged"] == 3 and done["before"] == 3 and len(read_lines(path)[0]) == 6
    refresh()
    judged = Reader().judges(["import-0a1b2c3d-1", "import-0a1b2c3d-2"])
    assert judged == {"imported:gpt": 6, judge: 6}
    with pytest.raises(EmaError, match="no imported run"):
        judge_answers(Asked(("import-ffffffff",), judge))


def test_a_failed_answer_is_asked_again_and_rule_scored_suites_are_left_out(fake_judge: Start, home: Path) -> None:
    judge, folder = "openai:gpt-4o:v1", run_with_answers(3)
    path = folder / judgments_name(judge)
    rows = [("q0#0", "failed"), ("q1#0", "scored"), ("q2#0", "scored"), ("q2#0", "failed")]
    path.write_text("".join(json.dumps({"sample_id": one, "judge": judge, "status": status}) + "\n" for one, status in rows))
    write_json(folder.parent / "benign-1" / "spec.json", {"suite": "benign"})
    (group,) = to_judge([BASE], judge)
    assert [item[0] for item in group.items] == ["q0#0", "q2#0"] and group.there == 3


@pytest.mark.slow
def test_an_evaluation_is_judged_by_a_language_model_in_domain_too(fake_judge: Start, model, home: Path) -> None:
    server = fake_judge()
    add_tiny(home)
    run = RunDirectory.create(tiny_spec())
    train(run, loaded=model)
    judge = server.id("plain")
    specs = [EvalSpec(suite="general", samples=1, max_tokens=3, judge=judge)]
    there = {"adapter_hash": adapters.adapter_hash(run.adapter), "suite_hash": load_suite("general", "tiny").hash, "created": 0.0}
    write_json(run.evals / specs[0].id / "spec.json", there)
    (run.evals / specs[0].id / "margins.jsonl").write_text("")  # the margin needs no judge
    (folder,) = evaluate({run: specs}, loader=lambda name, device: model)[run.id]
    judged = read_lines(folder / judgments_name(judge))[0]
    answers = read_lines(folder / "samples.jsonl")[0]
    assert {row["sample_id"] for row in judged} == {row["sample_id"] for row in answers} and len(judged) == len(answers)
    assert {row["judge"] for row in judged} == {judge} and all(row["spread"] for row in judged)
    asked = server.seen()["asked"]
    evaluate({run: specs}, loader=lambda name, device: model)
    assert server.seen()["asked"] == asked
    with pytest.raises(EmaError, match="is not running"):
        evaluate(
            {run: [EvalSpec(suite="general", samples=1, max_tokens=3, judge="engine:base")]}, loader=lambda name, device: model
        )


@pytest.mark.slow
def test_our_own_engine_judges_by_the_same_protocol(home: Path) -> None:
    """What a 135M model says as a judge is worth nothing; that it is asked, read and told is what counts here."""
    done = []
    with engine_process(home) as engine:
        report = LlmJudge("engine:base:v1").run(items(3), done.extend)
        assert engine.token not in "".join(path.read_text() for path in (home / "judged").glob("*.jsonl"))
    assert len(done) == 3 and not report.statuses["failed"] and report.usd == 0.0
    assert all(one.judge == "engine:base:v1" and (one.status == "scored" or one.reason) for one in done)
    assert not (home / "judges" / "servers.json").exists()
