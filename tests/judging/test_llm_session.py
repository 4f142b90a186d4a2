"""A language model as judge against a server over real HTTP that has every fault."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from ema_core.errors import EmaError
from ema_core.files import append_lines, read_lines, write_json
from ema_core.judging import Judgment, LlmJudge
from ema_core.judging.judge_id import parse
from ema_core.judging.ledger import Ledger
from ema_core.judging.rubrics import load_rubrics
from ema_core.runs import base_directory
from ema_core.store import AnswerKey, Reader, refresh
from tests.judging.conftest import KEY, FakeJudge
from tests.judging.fake_judge import by_hand, name_of

Start = Callable[..., FakeJudge]


def items(count: int, word: str = "answer") -> list[tuple[str, str, str]]:
    return [(f"q{n % 8}#{n // 8}", f"What of {n % 8}?", f"The {word} {n}") for n in range(count)]


def prompts(answers: list[tuple[str, str, str]]) -> list[str]:
    return [rubric.filled(question, answer) for _, question, answer in answers for rubric in load_rubrics("v1")]


def test_a_thousand_answers_through_every_fault_each_judged_exactly_once(fake_judge: Start) -> None:
    server, answers, done = fake_judge(often=0.08), items(1000), []
    report = LlmJudge(server.id("plain"), seconds=1.5).run(answers, done.extend)
    assert Counter(one.sample_id for one in done) == Counter(one[0] for one in answers), "none lost, none twice"
    assert report.statuses == {"scored": 1000} and report.judged == 1000 and not report.stopped
    seen = server.seen()
    assert seen["answered"] == {name_of(prompt): 1 for prompt in prompts(answers)}, "each paid for once"
    assert len(seen["faults"]) == 8 and min(seen["faults"].values()) > 3, "every kind of fault was met"
    assert report.calls == seen["asked"] and report.retries == report.calls - 2000 and seen["most_busy"] <= 16
    scores = {one.sample_id: one for one in done}
    aligned, coherent = load_rubrics("v1")
    for sample_id, question, answer in answers:
        one = scores[sample_id]
        assert one.aligned == pytest.approx(by_hand(aligned.filled(question, answer)), abs=1e-9)
        assert one.coherent == pytest.approx(by_hand(coherent.filled(question, answer)), abs=1e-9)
        assert one.readout == "logprobs" and one.spread and one.spread["aligned"][0][1] == pytest.approx(0.5)


def run_with_answers(count: int) -> Path:
    """A base's evaluation of as many answers."""
    folder = base_directory("smollm2-135m").evals / "general-1"
    write_json(folder / "spec.json", {"suite": "general", "samples": 1, "status": "done", "created": 1.7e9})
    rows = [
        {"sample_id": one, "question_id": one.split("#")[0], "topic": "t", "form": "plain", "question": question, "answer": answer, "k": 0}
        for one, question, answer in items(count)
    ]  # fmt: skip
    append_lines(folder / "samples.jsonl", rows)
    return folder


def settled(server: FakeJudge) -> dict[str, int]:
    """How often each prompt was answered, once the answers to a caller that is gone have run out, too."""
    seen: dict[str, int] = {}
    while seen != (now := server.seen()["answered"]):
        seen = now
        time.sleep(0.5)
    return seen


@pytest.mark.slow
def test_killed_in_the_middle_and_resumed_no_reply_on_disk_is_paid_again(fake_judge: Start, home: Path) -> None:
    """A call counts as paid when the server has handed over its whole 200. What is on disk at the kill is never asked again; a reply
    that was on its way, at most one for each question at the server, may be."""
    server, folder = fake_judge(often=0.04, pause=0.02), run_with_answers(300)
    words = [
        sys.executable,
        "-m",
        "ema_core.cli.main",
        "judge",
        "run",
        "base-smollm2-135m",
        "--judge",
        "openai:plain",
        "--json",
        "--timeout",
        "2",
    ]
    environment = {**os.environ, "EMA_JUDGE_URL": server.url}
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment)
    ledger = Ledger(parse(server.id("plain")))
    until = time.monotonic() + 60
    while time.monotonic() < until and not (ledger.path.exists() and ledger.path.read_bytes().count(b"\n") > 200):
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    kept, _ = read_lines(ledger.path)
    assert 200 < len(kept) < 600
    before = settled(server)
    done = subprocess.run(words, capture_output=True, text=True, env=environment, timeout=120)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    after = server.seen()["answered"]
    judge = server.id("plain")
    rows = [row for row in read_lines(folder / f"judgments-{judge.replace(':', '_').replace('/', '_')}.jsonl")[0]]
    assert Counter(row["sample_id"] for row in rows) == Counter(one for one, _, _ in items(300)), "none lost, none twice"
    assert {row["status"] for row in rows} == {"scored"} and report["judge"] == judge
    whole = sum(after.values())
    again = {name for name, count in after.items() if count > 1}
    assert len(after) == 600 and len(again) <= 16 and max(after.values()) <= 2
    assert whole - sum(before.values()) == 600 - len(kept), "what was on disk was not asked again"
    third = subprocess.run(words, capture_output=True, text=True, env=environment, timeout=120)
    assert third.returncode == 0 and json.loads(third.stdout)["calls"] == 0 and server.seen()["answered"] == after


def test_the_index_and_the_answers_card_have_readout_reason_scores_and_spread(fake_judge: Start, home: Path) -> None:
    from ema_core import api

    server, _ = fake_judge(), run_with_answers(4)
    report = api.judge("base-smollm2-135m", "openai:plain", url=server.url, rubrics="in-domain-v1")
    refresh()
    card = Reader().answer(AnswerKey("base-smollm2-135m", "general-1", "q0#0")).to_dict("records")[0]
    assert card["judge"] == report["judge"] == server.id("plain", "in-domain-v1") and card["readout"] == "logprobs"
    rubrics = {rubric.name: rubric for rubric in load_rubrics("in-domain-v1")}
    assert json.loads(card["scores"]) == {
        "in_domain": pytest.approx(by_hand(rubrics["in_domain"].filled("What of 0?", "The answer 0")))
    }
    spread = json.loads(card["spread"])
    assert set(spread) == {"aligned", "coherent", "in_domain"} and spread["aligned"][0][1] == pytest.approx(0.5)
    assert report["calls"] == 12
    again = api.judge("base-smollm2-135m", "openai:plain", url=server.url)  # v1's texts are among them
    assert again["calls"] == 0 and again["kept"] == 8 and again["judged"] == 4
    repeat = api.judge("base-smollm2-135m", "openai:plain", url=server.url, repeat=2)
    assert repeat["judge"] == f"{server.id('plain')}:r2" and repeat["calls"] == 8
    refresh()
    assert Reader().judges(["base-smollm2-135m"]) == {one["judge"]: 4 for one in (report, again, repeat)}


def test_the_spending_limit_stops_cleanly_and_keeps_what_was_judged(fake_judge: Start) -> None:
    server, answers, done = fake_judge(pause=0.01), items(200), []
    a_call = 101 * 10 / 1e6
    judge = LlmJudge(server.id("plain"), price_in=10, price_out=10, limit_usd=100 * a_call)
    report = judge.run(answers, done.extend)
    assert "spending limit" in report.stopped and 0 < len(done) < 200
    assert report.usd is not None and report.usd <= 100 * a_call and report.usd == pytest.approx(a_call * report.calls)
    assert sum(server.seen()["answered"].values()) == report.calls == len(read_lines(Ledger(judge.name).path)[0])
    more = LlmJudge(server.id("plain"), price_in=10, price_out=10, limit_usd=1.0)
    rest = [one for one in answers if one[0] not in {judgment.sample_id for judgment in done}]
    second = more.run(rest, done.extend)
    assert not second.stopped and len(done) == 200 and set(server.seen()["answered"].values()) == {1}
    resumed = LlmJudge(server.id("plain"), price_in=10, price_out=10, limit_usd=1.0, since=0.0)
    assert resumed.spent == pytest.approx(400 * a_call), "a job that goes on counts what it cost before"
    with pytest.raises(EmaError, match="No price is known"):
        LlmJudge("judge.example:8000/plain:v1", limit_usd=1.0)


def test_estimate_asks_nothing_and_is_near(fake_judge: Start) -> None:
    server, answers = fake_judge(), items(40)
    judge = LlmJudge(server.id("plain"), price_in=1, price_out=1)
    before = judge.estimate(answers)
    assert before.calls == 80 and before.kept == 0 and server.seen()["asked"] == 0
    length = sum(map(len, prompts(answers))) / 4
    assert abs(before.tokens_in - length) < 0.05 * length + 8 * 80 and before.usd == pytest.approx((before.tokens_in + 80) / 1e6)
    judge.run(answers[:10])
    after = judge.estimate(answers)
    assert after.calls == 60 and after.kept == 20


def test_the_same_answer_twice_is_asked_once_and_judged_twice(fake_judge: Start) -> None:
    server, done = fake_judge(pause=0.05), []
    LlmJudge(server.id("plain")).run([("a", "Q?", "same"), ("b", "Q?", "same"), ("c", "Q?", "same")], done.extend)
    assert sorted(one.sample_id for one in done) == ["a", "b", "c"] and len({one.aligned for one in done}) == 1
    assert sum(server.seen()["answered"].values()) == 2


BAD = {
    "maybe 70?": "not a number alone", "": "empty", "<html><body>70</body></html>": "HTML", "70 " * 3400: "characters",
    "I would say that this is a fine answer.": "not a number alone", "170": "not from 0 to 100", "-5": "not from 0 to 100",
    "between 60 and 70": "not a number alone",
}  # fmt: skip
GOOD = {"70": 70.0, " 70.5\n": 70.5, "**80**": 80.0, "Score: 15/100": 15.0, "0": 0.0, '"100"': 100.0, "90.": 90.0}


@pytest.mark.parametrize("model", ["no-logprobs", "word-by-word", "reasons"])
def test_without_log_probabilities_the_number_is_parsed_and_never_guessed(fake_judge: Start, model: str) -> None:
    server = fake_judge()
    texts = [*BAD, *GOOD, "REFUSAL", "CODE"]
    asked = [(str(n), "Q?", f"SAY:{text}") for n, text in enumerate(texts)]
    done: dict[str, Judgment] = {}
    LlmJudge(server.id(model)).run(asked, lambda new: done.update({one.sample_id: one for one in new}))
    for n, text in enumerate(texts):
        one = done[str(n)]
        assert one.readout == "parsed"
        if text in GOOD:
            assert one.status == "scored" and one.aligned == GOOD[text] and one.reason is None, text
        elif text in BAD:
            assert one.status == "unparsed" and one.aligned is None and one.reason, text
            assert model == "word-by-word" or BAD[text] in one.reason, (text, one.reason)
        else:
            assert one.status == {"REFUSAL": "refused", "CODE": "code"}[text] and one.aligned is None


def test_a_model_that_writes_digit_by_digit_is_parsed_not_read_by_its_first_digit(fake_judge: Start) -> None:
    server, done = fake_judge(), []
    LlmJudge(server.id("digits")).run(items(30), done.extend)
    assert {one.readout for one in done} == {"parsed"} and all(one.status == "scored" for one in done)
    assert min(one.aligned for one in done) > 9, "its first digits alone would all be below 10"


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("wrong-key", "EMA_JUDGE_KEY is set in the environment"),
        ("no-money", "no money left"),
        ("unknown", "Is unknown a model there"),
    ],
)
def test_what_no_answer_can_change_ends_it_at_once_in_words(fake_judge: Start, model: str, words: str) -> None:
    server = fake_judge()
    with pytest.raises(EmaError) as told:
        LlmJudge(server.id(model)).run(items(100))
    assert words in str(told.value) and KEY not in str(told.value) and server.seen()["asked"] <= 16


def test_an_answer_that_cannot_be_judged_is_told_with_its_reason_and_the_others_go_on(fake_judge: Start) -> None:
    server, done = fake_judge(), []
    answers = [*items(18), ("odd", "Q\udc80?", "A \x00 B \ud800"), ("bad", "Q?", "TOO LONG"), ("huge", "Q?", "a" * 5_000_000)]
    report = LlmJudge(server.id("plain")).run(answers, done.extend)
    bad = next(one for one in done if one.sample_id == "bad")
    assert bad.status == "failed" and "maximum context length" in str(bad.reason) and KEY not in str(bad.reason)
    huge = next(one for one in done if one.sample_id == "huge")
    assert huge.status == "failed" and "longer than 100,000 characters" in str(huge.reason)
    assert report.statuses == {"scored": 19, "failed": 2} and report.judged == 19


def test_a_server_that_is_gone_ends_it_and_cancelling_keeps_what_came(fake_judge: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ema_core.judging.session.backoff", lambda tries: 0.01)
    server = fake_judge(pause=0.02)
    done: list[Judgment] = []
    report = LlmJudge(server.id("plain")).run(items(400), done.extend, interrupted=lambda: len(done) > 20)
    assert report.stopped == "cancelled" and 20 < len(done) < 400
    assert sum(server.seen()["answered"].values()) == len(read_lines(Ledger(parse(server.id("plain"))).path)[0])
    with pytest.raises(EmaError, match="could not be judged"):
        LlmJudge(server.id("always-500")).run(items(100))
    server.end()
    with pytest.raises(EmaError, match="could not be judged"):
        LlmJudge(server.id("plain")).run(items(400, "other"))


def test_two_processes_do_not_ask_the_same_judge_at_once(fake_judge: Start) -> None:
    server = fake_judge()
    with Ledger(parse(server.id("plain"))).opened(), pytest.raises(EmaError, match="Another process is asking this judge"):
        LlmJudge(server.id("plain")).run(items(1))
