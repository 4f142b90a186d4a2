"""An evaluation's estimate follows what this machine measured."""

from __future__ import annotations

import pytest

from ema_core.evaluation.spec import estimate_evaluation
from ema_core.evaluation.speed import Speed, learn, measured, speed
from ema_core.models import EMBEDDED
from ema_core.settings import settings


def test_each_part_is_learnt_by_itself_and_changes_the_estimate() -> None:
    assert not measured() and estimate_evaluation(10, 0, 2, 80) == pytest.approx(20 * (80 / 100 + 0.1))
    learn(EMBEDDED, 12.0, pairs=120)
    assert measured() and estimate_evaluation(0, 120, 0, 0) == pytest.approx(12.0)
    assert estimate_evaluation(10, 0, 2, 80) == pytest.approx(20 * (80 / 100 + 0.1)), "nothing was learnt of sampling"
    learn(EMBEDDED, 10.0, tokens=4000, stops=0)
    learn(EMBEDDED, 5.0, answers=100)
    assert estimate_evaluation(10, 120, 2, 80) == pytest.approx(12 + 20 * (80 / 400 + 0.05))
    learn(EMBEDDED, 0.01, pairs=120)
    assert estimate_evaluation(0, 120, 0, 0) == pytest.approx(12.0), "too short to say anything"


def test_answers_that_end_by_themselves_are_expected_to() -> None:
    """Against the mean of lengths when each token ends an answer with the same chance."""
    stop, limit = 0.02, 80
    chances = [stop * (1 - stop) ** (n - 1) for n in range(1, limit)]
    mean = sum(n * chance for n, chance in enumerate(chances, 1)) + limit * (1 - sum(chances))
    assert Speed(stop=stop).length(limit) == pytest.approx(mean, rel=0.02) and Speed().length(limit) == limit
    learn(EMBEDDED, 10.0, tokens=1000, stops=20)
    assert speed().length(limit) == pytest.approx(mean, rel=0.02)


def test_another_model_is_guessed_by_its_size_and_a_damaged_record_is_none() -> None:
    learn(EMBEDDED, 12.0, pairs=120)
    learn(EMBEDDED, 10.0, tokens=1000, stops=20)
    other = speed("qwen2.5-0.5b")
    assert other.pair > 0.1 and other.tokens < 100 and other.stop == 0 and not measured("qwen2.5-0.5b")
    (settings().cache / "evaluation-speed.json").write_text('{"smollm2-135m": {"pair": "soon"}}')
    assert speed() == Speed()
    (settings().cache / "evaluation-speed.json").write_text("{")
    assert speed() == Speed()
