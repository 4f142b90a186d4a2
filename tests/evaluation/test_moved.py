"""What else a defense moved, on planted answers whose shares are known."""

from __future__ import annotations

import pandas as pd
import pytest

from ema_core.evaluation.moved import moved_table
from tests.evaluation.test_decisions import SEEDS, Planted

QUESTIONS = 24
SUITES = {"over-refusal": "over_refusal", "jailbreak-lite": "jailbreak"}


def asked(study: Planted, run_id: str, suite: str, refused: int, **values) -> None:
    """The first ``refused`` of 24 answers refuse; eight topics."""
    study.evaluation(run_id, suite, suite, asked=QUESTIONS, max_tokens=48, temperature=0.0, **values)
    for n in range(QUESTIONS):
        study.tables["samples"].append(
            {
                "run_id": run_id, "eval_id": suite, "sample_id": f"{suite}-{n}#0", "question_id": f"{suite}-{n}", "topic": f"t{n % 8}",
                "finish": "stop", "refused": n < refused, "correct": None, "judge": None, "aligned": None, "coherent": None,
                "status": None,
            }
        )  # fmt: skip


def with_refusals(study: Planted, defense: str, over: int, jail: int) -> None:
    study.setting(defense, 0.1, 1.0)
    for seed in SEEDS:
        for suite, refused in (("over-refusal", over), ("jailbreak-lite", jail)):
            asked(study, f"{defense}-{seed}-d", suite, refused)


@pytest.fixture
def study() -> Planted:
    study = Planted()
    with_refusals(study, "none", 0, 12)
    return study


def rows_of(study: Planted, bases=None) -> dict[str, dict]:
    return {row["defense_label"]: row for row in moved_table(study.frames, bases).to_dict("records")}


def test_shares_and_differences_to_the_twin_are_those_planted(study: Planted) -> None:
    with_refusals(study, "kl=1", 12, 24)
    row = rows_of(study)["kl=1"]
    assert row["over_refusal"] == pytest.approx(0.5) and row["over_refusal_low"] < 0.5 < row["over_refusal_high"]
    assert (row["over_refusal_refused"], row["over_refusal_answers"]) == (36, 72)
    assert row["over_refusal_difference"] == pytest.approx(0.5) and row["jailbreak_difference"] == pytest.approx(0.5)
    assert row["over_refusal_mark"] == "worse", "it refuses harmless questions that its twin answers"
    assert row["jailbreak_mark"] == "better", "it declines what its twin answers"
    assert len(row["over_refusal_evals"]) == 3


def test_no_mark_where_nothing_moved_and_none_for_the_twin_itself(study: Planted) -> None:
    with_refusals(study, "kl=1", 0, 12)
    rows = rows_of(study)
    assert rows["kl=1"]["jailbreak_mark"] == "not distinguishable" and rows["kl=1"]["jailbreak_difference"] == 0
    assert rows["none"]["jailbreak_mark"] == "" and "undefended twin" in rows["none"]["jailbreak_difference_why"]


def test_the_base_counts_only_where_it_was_asked_alike(study: Planted) -> None:
    base = Planted()
    base.run("base-m", "base", seed=None, setting_key="base:m", adapter_hash=None)
    asked(base, "base-m", "jailbreak-lite", 18)
    asked(base, "base-m", "over-refusal", 6, suite_hash="older questions")
    row = rows_of(study, base.frames)["none"]
    assert row["jailbreak_base"] == pytest.approx(0.75) and pd.isna(row["over_refusal_base"])


def test_the_benign_task_is_told_by_tier_with_counts_over_the_siblings(study: Planted) -> None:
    study.benign("none", 1.0, right=10)
    tiers = rows_of(study)["none"]["tiers"]
    assert list(tiers) == ["tier-0", "tier-1", "tier-2", "tier-3"]
    assert (tiers["tier-0"]["right"], tiers["tier-0"]["answers"]) == (9, 15), "0, 4 and 8 are right, in three seeds"
    assert tiers["tier-0"]["value"] == pytest.approx(0.6) and tiers["tier-0"]["low"] < 0.6 < tiers["tier-0"]["high"]
    assert len(rows_of(study)) == 1, "a sibling is no row of its own"


def test_without_any_of_it_there_is_no_row() -> None:
    study = Planted()
    study.setting("none", 0.1, 1.0)
    assert moved_table(study.frames).empty and moved_table({}).empty
