"""What a job that is under way says of the time that is left."""

from __future__ import annotations

from pathlib import Path

import pytest

from ema_core.evaluation import evaluate as module
from ema_core.evaluation import share as clock_of
from ema_core.evaluation.share import Share
from ema_core.evaluation.spec import EvalSpec
from ema_core.evaluation.suites import load_suite
from ema_core.runs import RunDirectory, RunSpec, parse_defense


def test_a_part_that_was_reckoned_far_too_long_does_not_shrink_what_is_left(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    now, told = [0.0], [0.0]
    monkeypatch.setattr(clock_of.time, "monotonic", lambda: now[0])
    share = Share(300.0, lambda: False, lambda part, what: told.__setitem__(0, part))

    def left() -> float:
        return now[0] * (1 - told[0]) / told[0]  # as the queue and Evaluate reckon it

    share.part(200.0)  # margins: planned 200 s, in truth 20
    now[0] = 20.0
    share.say("margins", 200.0)
    assert left() == pytest.approx(100.0)  # the answers as they were planned, not a tenth of that
    share.part(100.0)  # answers: planned 100 s, in truth 300
    now[0] += 60.0
    share.say("58 of 288 answers", 20.0)
    assert left() == pytest.approx(240.0)


def test_who_is_measured_is_said_in_words(home: Path) -> None:
    def said(*defenses: str, **changes: object) -> str:
        run = RunDirectory.create(RunSpec(defenses=tuple(parse_defense(text) for text in defenses)))
        spec = EvalSpec.model_validate({"suite": "general", "samples": 0, **changes})
        return module.Item(run, spec, load_suite("general", "risky-finance"), run.adapter, "smollm2-135m", "cpu").said

    assert said() == "the undefended run"
    assert said(scale=0.25) == "the undefended run with the adapter at a quarter of its strength"
    assert said("kl=1", step=10) == "kl=1 as it was at step 10"
