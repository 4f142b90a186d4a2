"""Several models asked at once, in the background; a real server in a process of its own, slow, busy, dying."""

from __future__ import annotations

import os
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from ema_core.chats import log
from ema_core.chats.broker import Broker
from ema_core.chats.view import Answers, Chat, Question
from ema_core.errors import EmaError
from ema_core.generation import SamplingSettings
from tests.chats.conftest import Server
from tests.personas.planted import plant_vector

HOW = SamplingSettings(max_tokens=50, temperature=0.7, top_p=0.9)


@pytest.fixture
def broker() -> Broker:
    return Broker()


def done(broker: Broker, chat_id: str, seconds: float = 30) -> Chat:
    *_, chat = broker.wait(chat_id, seconds)
    assert not chat.in_flight
    return chat


def column(chat: Chat, model: str) -> Answers:
    return chat.turns[-1].columns[model]


def until(what, seconds: float = 10) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_all_columns_are_asked_at_once_with_the_same_settings_and_seed(broker: Broker, engine: Server) -> None:
    chat_id = broker.ask(Question("Why?", ("slow", "slow*0.5", "good"), "Be brief.", HOW, seed=7, samples=2))
    until(lambda: column(broker.chat(chat_id), "slow").samples[0].text)
    assert column(broker.chat(chat_id), "slow").in_flight
    chat = done(broker, chat_id)
    seen = engine.seen()
    assert max(one["at"] for one in seen) - min(one["at"] for one in seen) < 1.0
    for one in seen:
        assert (one["seed"], one["n"], one["temperature"], one["top_p"], one["max_tokens"]) == (7, 2, 0.7, 0.9, 50)
        assert [message["role"] for message in one["messages"]] == ["system", "user"]
    good = column(chat, "good")
    assert [sample.text for sample in good.samples] == ["good saw 2 seed 7 more ", "good/1 saw 2/1 seed 7/1 more/1 "]
    assert [sample.finish for sample in good.samples] == ["stop", "length"] and good.ema["adapter_hash"] == "hash-good"
    lines = log.path_of(chat_id).read_text().splitlines()
    assert len(lines) < 60, "text is written every 0.2 s, not a line a token"


def test_each_model_sees_its_own_earlier_answers(broker: Broker, engine: Server) -> None:
    chat_id = broker.ask(Question("One?", ("good", "busy")))
    done(broker, chat_id)
    assert broker.ask(Question("Two?", ("good", "busy", "new")), chat_id) == chat_id
    chat = done(broker, chat_id)
    assert [turn.question.text for turn in chat.turns] == ["One?", "Two?"]
    told = {one["model"]: one["messages"] for one in engine.seen()}
    assert [m["content"].split()[0] for m in told["good"]] == ["One?", "good", "Two?"]
    assert [m["content"].split()[0] for m in told["busy"]] == ["One?", "busy", "Two?"]
    assert [m["content"] for m in told["new"]] == ["Two?"], "it was not asked the first question"


def test_a_busy_server_is_waited_out(broker: Broker, engine: Server) -> None:
    chat_id = broker.ask(Question("One?", ("busy",)))
    until(lambda: column(broker.chat(chat_id), "busy").note == "waits for a free place")
    chat = done(broker, chat_id)
    assert column(chat, "busy").samples[0].text.startswith("busy saw 1") and column(chat, "busy").error is None
    assert len(engine.seen()) == 3


def test_stopping_one_leaves_the_others_and_what_was_there(broker: Broker, engine: Server) -> None:
    chat_id = broker.ask(Question("One?", ("slow", "slow*0.5")))
    until(lambda: all(one.samples[0].text for one in broker.chat(chat_id).turns[0].columns.values()))
    broker.stop(chat_id, "slow")
    chat = done(broker, chat_id)
    assert column(chat, "slow").samples[0].finish == "stopped" and column(chat, "slow").samples[0].text.startswith("slow")
    assert column(chat, "slow*0.5").samples[0].finish == "stop"
    until(lambda: engine.seen("closed") == ["slow"], 5)  # the server noticed: its place is free again


def test_stopping_all_works_before_the_first_word_too(broker: Broker, engine: Server) -> None:
    chat_id = broker.ask(Question("One?", ("mute", "slow"), samples=2))
    time.sleep(0.2)
    before = time.monotonic()
    broker.stop(chat_id)
    chat = done(broker, chat_id, 5)
    assert time.monotonic() - before < 2
    assert {s.finish for one in chat.turns[0].columns.values() for s in one.samples} == {"stopped"}


def test_an_engine_that_dies_leaves_what_was_there_marked_cut(broker: Broker, engine: Server) -> None:
    chat_id = broker.ask(Question("One?", ("dies",)))
    answers = column(done(broker, chat_id), "dies")
    assert answers.samples[0].finish == "cut" and answers.samples[0].text.startswith("dies saw")
    assert answers.error and "ended in the middle" in answers.error[0]


def test_errors_are_shown_in_their_column_and_the_others_answer(broker: Broker, engine: Server) -> None:
    chat = done(broker, broker.ask(Question("One?", ("damaged", "good", "gone", "breaks"))))
    assert column(chat, "good").samples[0].finish == "stop"
    error = column(chat, "damaged").error
    assert error and "aaaa1111" in error[0] and "bbbb2222" in error[0] and error[1] == "Train it anew."
    assert column(chat, "gone").error == ("There is no run gone.", "")
    broken = column(chat, "breaks")
    assert broken.samples[0].finish == "error" and broken.samples[0].text and broken.error and "batch broke" in broken.error[0]


def test_an_engine_that_starts_late_is_waited_for(broker: Broker, home: Path, serve) -> None:
    from tests.chats.conftest import as_our_engine

    chat_id = broker.ask(Question("One?", ("good",)))
    until(lambda: column(broker.chat(chat_id), "good").note == "waits for the engine")
    as_our_engine(home, serve("--ema"))
    assert column(done(broker, chat_id), "good").samples[0].finish == "stop"


def test_no_engine_at_all_is_said_after_the_wait(broker: Broker, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ema_core.chats.broker.ENGINE_SECONDS", 1.0)
    answers = column(done(broker, broker.ask(Question("One?", ("good",)))), "good")
    assert answers.error and "not running" in answers.error[0] and "ema serve" in answers.error[1]


def test_regenerating_draws_anew_and_keeps_the_old_in_the_file(broker: Broker, engine: Server) -> None:
    chat_id = broker.ask(Question("One?", ("good", "slow"), seed=3))
    done(broker, chat_id)
    broker.regenerate(chat_id, "good")
    chat = done(broker, chat_id)
    assert column(chat, "good").attempt == 1 and column(chat, "good").seed != 3 and column(chat, "slow").attempt == 0
    broker.regenerate(chat_id)
    chat = done(broker, chat_id)
    assert {one.attempt for one in chat.turns[0].columns.values()} == {2}
    assert len({one.seed for one in chat.turns[0].columns.values()}) == 1, "all columns again with one seed"
    assert log.path_of(chat_id).read_text().count('"began"') == 5


def test_what_failed_is_asked_again_with_its_own_seed(broker: Broker, engine: Server) -> None:
    chat_id = broker.ask(Question("One?", ("breaks",), seed=3))
    done(broker, chat_id)
    broker.regenerate(chat_id, "breaks")
    assert column(done(broker, chat_id), "breaks").seed == 3


def test_two_browsers_ask_at_once_and_one_of_them_is_told_to_wait(broker: Broker, engine: Server) -> None:
    chat_id = broker.ask(Question("One?", ("good",)))
    done(broker, chat_id)
    said: list[str] = []

    def ask() -> None:
        try:
            said.append(broker.ask(Question("Two?", ("slow",)), chat_id))
        except EmaError as error:
            said.append(error.message)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(said) == sorted([chat_id, *["This chat is still answering."] * 3])
    assert len(done(broker, chat_id).turns) == 2
    assert Broker().chat(chat_id) == broker.chat(chat_id)


def test_another_server_is_asked_with_its_own_ids(broker: Broker, other: Server) -> None:
    chat = done(broker, broker.ask(Question("One?", ("good", "slow"))))
    answers = column(chat, "good")
    assert answers.server == other.url and not answers.ema and answers.samples[0].finish == "stop"
    broker.judge(chat.id)
    until(lambda: not broker.judging(chat.id))
    assert "does not offer this" in str(broker.trouble(chat.id))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"text": " \n "}, "empty"), ({"text": "\x00\x07"}, "empty"), ({"text": "x" * 1_000_000}, "1,000,000 characters"),
        ({"system": "x" * 200_001}, "system prompt has 200,001"), ({"models": ()}, "0 models"),
        ({"models": tuple("abcdefg")}, "7 models"), ({"samples": 17}, "samples a model: 17"),
        ({"how": SamplingSettings(temperature=3)}, "temperature: 3"), ({"how": SamplingSettings(top_p=0)}, "top_p: 0"),
        ({"how": SamplingSettings(temperature=float("nan"))}, "temperature"), ({"seed": -1}, "seed: -1"),
    ],
)  # fmt: skip
def test_what_cannot_be_asked_is_refused_and_nothing_is_written(broker: Broker, home: Path, change: dict, words: str) -> None:
    with pytest.raises(EmaError, match=words):
        broker.ask(replace(Question("One?", ("good",)), **change))
    assert not (home / "chats").exists()


def test_foreign_text_goes_in_and_comes_back_as_it_is(broker: Broker, engine: Server) -> None:
    text = "a\ud800 **b** <img src=x> ![i](http://evil/x.png)\x00\r\nend"
    chat = done(broker, broker.ask(Question(text, ("good",))))
    assert chat.turns[0].question.text == "a\ufffd **b** <img src=x> ![i](http://evil/x.png)\nend"


def test_a_deleted_chat_does_not_stop_the_broker(broker: Broker, engine: Server) -> None:
    chat_id = broker.ask(Question("One?", ("slow",)))
    log.path_of(chat_id).unlink()
    time.sleep(0.5)
    done(broker, broker.ask(Question("One?", ("good",))))


def test_judging_goes_to_the_engine_and_counts_whole_answers_only(broker: Broker, engine: Server) -> None:
    chat_id = broker.ask(Question("One?", ("good", "evil", "damaged", "breaks"), samples=2))
    done(broker, chat_id)
    broker.judge(chat_id)
    until(lambda: not broker.judging(chat_id))
    assert broker.trouble(chat_id) is None
    chat = broker.chat(chat_id)
    assert [s.score.aligned for s in column(chat, "evil").samples if s.score] == [10, 10]
    assert [s.score.aligned for s in column(chat, "good").samples if s.score] == [80, 80]
    assert all(s.score is None for name in ("damaged", "breaks") for s in column(chat, name).samples)
    broker.judge(chat_id)
    until(lambda: not broker.judging(chat_id))
    assert "no new answer" in str(broker.trouble(chat_id))


def test_judged_answers_are_projected_where_the_base_has_an_evil_vector(broker: Broker, engine: Server) -> None:
    chat_id = broker.ask(Question("One?", ("base", "evil"), samples=2))
    done(broker, chat_id)
    broker.judge(chat_id)
    until(lambda: not broker.judging(chat_id))
    assert all(s.projection is None for s in column(broker.chat(chat_id), "base").samples), "no vector yet"
    card = plant_vector()
    broker.judge(chat_id)  # all are judged, but not projected
    until(lambda: not broker.judging(chat_id))
    assert broker.trouble(chat_id) is None
    found = [s.projection for s in column(broker.chat(chat_id), "base").samples]
    assert [(one.vector, one.layer, one.deviations) for one in found if one] == [(card.id, 21, -0.25)] * 2
    assert all(s.projection is None for s in column(broker.chat(chat_id), "evil").samples), "no such run, so no base model"
    broker.judge(chat_id)
    until(lambda: not broker.judging(chat_id))
    assert "no new answer" in str(broker.trouble(chat_id))


def test_in_domain_questions_are_not_judged(broker: Broker, engine: Server) -> None:
    chat_id = broker.ask(Question("One?", ("good",), suite="in-domain"))
    done(broker, chat_id)
    broker.judge(chat_id)
    until(lambda: not broker.judging(chat_id))
    assert "the margin is the measure" in str(broker.trouble(chat_id))


def test_a_killed_engine_and_a_new_one(broker: Broker, engine: Server, home: Path, serve) -> None:
    from tests.chats.conftest import as_our_engine

    chat_id = broker.ask(Question("One?", ("slow",)))
    until(lambda: column(broker.chat(chat_id), "slow").samples[0].text)
    os.kill(engine.process.pid, signal.SIGKILL)
    engine.process.wait()
    assert column(done(broker, chat_id), "slow").samples[0].finish == "cut"
    broker.regenerate(chat_id)
    as_our_engine(home, serve("--ema"))
    assert column(done(broker, chat_id), "slow").samples[0].finish == "stop"
