"""Which kept state of a run is the best by its live probes."""

from __future__ import annotations

import math

import pytest

from ema_core.runs import Probes, RunDirectory, RunSpec, Status, parse_defense
from ema_core.training.best import best_state


def run_with(
    probed: dict[int, tuple[float, float | None]], kept: list[int], *defenses: str, end: int | None = 12, **probes
) -> RunDirectory:
    run = RunDirectory.create(RunSpec(defenses=tuple(map(parse_defense, defenses)), probes=Probes(**probes)))
    for step, (general, inside) in probed.items():
        run.append_event({"kind": "probe", "attempt": 1, "step": step, "general": general, "in_domain": inside, "answers": []})
    for step in kept:
        (run.checkpoints / f"step-{step}").mkdir(parents=True)
    run.update(status=Status.DONE if end else Status.RUNNING, step=end or 9, total_steps=12)
    return run


PROBED = {0: (0.0, 0.0), 3: (0.1, 0.9), 6: (0.2, 1.6), 9: (0.5, 2.0), 12: (0.7, 1.9)}


def test_the_most_narrow_learning_under_the_limit_among_states_that_were_kept() -> None:
    run = run_with(PROBED, [3, 6, 9])
    anything, under = best_state(run), best_state(run, 0.3)
    assert (anything.step, anything.final, anything.limit, anything.looked) == (9, False, None, 4)
    assert (under.step, under.under, under.model(run.id)) == (6, 2, f"{run.id}@6")
    assert best_state(run_with(PROBED, [3]), 0.3).step == 3, "step 6 was probed, but not kept"


def test_the_end_is_a_state_too_and_has_the_runs_own_name() -> None:
    run = run_with({**PROBED, 12: (0.2, 2.4)}, [3, 6])
    found = best_state(run, 0.3)
    assert found.step == 12 and found.final and found.model(run.id) == run.id
    assert best_state(run_with(PROBED, [], end=None), 1.0).step is None, "a run at work has no end yet"


def test_the_runs_own_rule_is_the_limit_unless_another_is_given() -> None:
    run = run_with(PROBED, [3, 6, 9], stop_margin=0.15)
    assert best_state(run).step == 3 and best_state(run, 0.3).step == 6
    assert best_state(run, math.inf).step == 9 and best_state(run, math.inf).limit is None


@pytest.mark.parametrize(
    ("run", "why"),
    [
        (lambda: run_with({}, [3]), "no live probes"),
        (lambda: run_with({5: (0.1, 1.0)}, [3]), "No checkpoint was kept"),
        (lambda: run_with({3: (0.1, None)}, [3]), "no in-domain pairs"),
        (lambda: run_with({3: (0.5, 1.0)}, [3], stop_margin=0.2), "above 0.2"),
        (lambda: run_with(PROBED, [3, 6], "safe-lora=10"), "safe-lora changes the adapter after training"),
    ],
)
def test_why_there_is_none(run, why: str) -> None:
    found = best_state(run())
    assert found.step is None and found.model("r") is None and why in found.words
