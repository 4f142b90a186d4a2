"""What is told of the time before a question is asked."""

from __future__ import annotations

import pytest

from ema_core.chats import speed
from ema_core.chats.view import Answers, Question, Sample, Turn


def turn(tokens: int, seconds: float, first: float = 10.0, finish: str = "stop") -> Turn:
    sample = Sample(0, "x", finish, tokens, seconds)  # type: ignore[arg-type]
    return Turn(1, Question("?", ("base",)), 0.0, {"base": Answers(1, "base", 0, 0, (sample,), 0.0, first=first)})


def test_the_stated_rate_gives_way_to_the_measured_one_without_the_loading(home) -> None:
    stated, measured = speed.estimate(1, 100)
    assert not measured and stated == pytest.approx(100 * (speed.STEP_SECONDS + speed.ROW_SECONDS))
    speed.record(turn(50, 10 + stated))  # twice as slow, once the model was there
    assert speed.estimate(1, 100) == (pytest.approx(2 * stated), True)
    assert speed.estimate(12, 100)[0] > speed.estimate(1, 100)[0]


def test_what_was_cut_or_short_says_nothing_and_a_damaged_record_is_no_harm(home) -> None:
    for one in (turn(50, 99, finish="stopped"), turn(3, 99)):
        speed.record(one)
    assert not speed.estimate(1, 100)[1]
    (home / "cache").mkdir(exist_ok=True)
    (home / "cache/chat-speed.json").write_text("[1]")
    assert not speed.estimate(1, 100)[1]
    speed.record(turn(50, 20))
    assert speed.estimate(1, 100)[1]
