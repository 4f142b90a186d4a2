"""Question by question and seed by seed, on planted numbers."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from ema_core.evaluation.by_question import question_table
from ema_core.evaluation.scorecard import setting_table
from ema_core.evaluation.seeds import seed_table, spread
from tests.evaluation.test_decisions import Planted
from tests.evaluation.test_scorecard import PROBE


def answers(study: Planted, run_id: str, scores: dict[str, list[float]]) -> None:
    """Answers to the general questions; a question is named after its topic, ``topic/form``."""
    study.evaluation(run_id, "general", "general")
    for question, given in scores.items():
        for k, score in enumerate(given):
            study.tables["samples"].append(
                {
                    "run_id": run_id, "eval_id": "general", "sample_id": f"{question}#{k}", "question_id": question,
                    "topic": question.split("/")[0], "finish": "stop", "refused": False, "correct": None, "judge": PROBE, "aligned": score,
                    "coherent": 90.0, "status": "scored",
                }
            )  # fmt: skip


@pytest.fixture
def study() -> Planted:
    """kl=1 is 20 points better on topic a (two forms), the same on topic b."""
    found = Planted()
    for seed in (0, 1):
        for defense, more in (("none", 0.0), ("kl=1", 20.0)):
            found.run(f"{defense}-{seed}", defense, seed)
            a = [50 + more + wobble for wobble in (-4.0, 0.0, 4.0)]
            answers(found, f"{defense}-{seed}", {"a/plain": a, "a/json": [one + 10 for one in a], "b/plain": [70.0, 76.0, 73.0]})
    return found


def test_a_topics_difference_is_that_of_its_questions_with_an_interval_over_samples(study: Planted) -> None:
    found = question_table(study.frames, PROBE, "key-kl=1", "alignment").set_index("topic")
    a = found.loc["a"]
    assert a["difference"] == pytest.approx(20) and (a["own"], a["twin"]) == (pytest.approx(75), pytest.approx(55))
    assert (a["n"], a["n_twin"], a["seeds"], a["questions"]) == (12, 12, 2, ["a/json", "a/plain"])
    # by hand: 8 means of 3 samples each (2 seeds, 2 sides, 2 questions), variance 16 each; Welch's df is 8 * 2
    error = np.sqrt(8 * (16 / 3) / 2**2 / 2**2)
    assert a["high"] - 20 == pytest.approx(20 - a["low"]) == pytest.approx(2.1199 * error, rel=1e-3)
    assert found.loc["b", "difference"] == pytest.approx(0) and found.loc["b", "low"] < 0 < found.loc["b", "high"]


def test_single_samples_get_no_interval_and_the_reason(study: Planted) -> None:
    study.tables["samples"] = [row for row in study.tables["samples"] if row["topic"] != "b" or row["sample_id"].endswith("#0")]
    row = question_table(study.frames, PROBE, "key-kl=1", "alignment").set_index("topic").loc["b"]
    assert np.isnan(row["low"]) and "fewer than two scored answers" in row["why"]


def test_other_judges_other_settings_and_the_twin_itself_have_no_rows_to_show(study: Planted) -> None:
    assert question_table(study.frames, "openai:gpt-4o:v1", "key-kl=1", "alignment").empty
    assert question_table(study.frames, PROBE, "unknown", "alignment").empty
    assert question_table(study.frames, PROBE, "key-kl=1", "narrow").empty, "no pairs were measured"


def test_pairs_of_a_topic_are_compared_pair_by_pair() -> None:
    found = Planted()
    found.setting("none", 0.5, 2.0)
    found.setting("kl=1", 0.2, 1.0)
    table = question_table(found.frames, PROBE, "key-kl=1", "general")
    whole = setting_table(found.frames, PROBE).set_index("defense_label").loc["kl=1"]
    assert np.average(table["difference"], weights=table["n"]) == pytest.approx(whole["margin_difference"])
    assert list(table["difference"]) == sorted(table["difference"]) and (table["seeds"] == 3).all()
    assert (table["low"] < table["difference"]).all(), "three seeds speak where a topic has few pairs"


def test_the_seeds_mean_is_the_settings_number_and_their_spread_is_told() -> None:
    found = Planted()
    found.setting("none", 0.5, 2.0)
    found.setting("kl=1", 0.2, 1.0)
    found.benign("kl=1", 0.8, 15)
    seeds, settings = seed_table(found.frames, PROBE), setting_table(found.frames, PROBE).set_index("setting_key")
    for key, rows in seeds.groupby("setting_key"):
        for name in ("general_margin", "narrow_margin", "benign_margin", "benign"):
            told, mean = settings.loc[key, name], rows[name].mean()
            assert (pd.isna(told) and pd.isna(mean)) or told == pytest.approx(mean), (key, name)
    assert set(seeds["setting_key"]) == set(settings.index), "siblings are no settings of their own"
    told = spread(pd.Series([1.0, 3.0, np.nan]))
    assert told == {"seeds": 2, "sd": pytest.approx(2**0.5), "lowest": 1.0, "highest": 3.0}
    assert np.isnan(spread(pd.Series([1.0]))["sd"])
