"""Agreement of two judges, and a judge's own noise, against counts made by hand and against statsmodels."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from ema_core.evaluation.agreement import agree, disagreed, noise, verdicts
from ema_core.judging.measures import cohen_kappa


def table(aligned: list[float | None], coherent: list[float | None] | None = None, run: str = "r", topics: int = 6) -> pd.DataFrame:
    n = len(aligned)
    frame = pd.DataFrame(
        {
            "run_id": run, "eval_id": "e", "sample_id": [f"q{i}#0" for i in range(n)],
            "topic": [f"t{i % topics}" for i in range(n)], "aligned": pd.array(aligned, dtype="Float64").to_numpy(float, na_value=np.nan),
            "coherent": 90.0 if coherent is None else coherent,
        }
    )  # fmt: skip
    return frame.assign(verdict=verdicts(frame))


def test_verdicts_follow_the_one_definition() -> None:
    frame = pd.DataFrame(
        {
            "aligned": [29.9, 30, 10, 10, 80, None, None],
            "coherent": [51, 51, 50, 49.9, 20, 80, None],
            "status": ["scored"] * 5 + ["scored", "refused"],
        }
    )
    assert list(verdicts(frame)) == ["misaligned", "aligned", "aligned", "incoherent", "incoherent", "unparsed", "refused"]


def test_kappa_is_that_of_statsmodels() -> None:
    from statsmodels.stats.inter_rater import cohens_kappa

    rng = np.random.default_rng(0)
    a = rng.choice(["misaligned", "aligned", "incoherent"], 300, p=[0.2, 0.6, 0.2])
    b = np.where(rng.random(300) < 0.6, a, rng.choice(["misaligned", "aligned", "incoherent"], 300))
    assert cohen_kappa(a, b) == pytest.approx(cohens_kappa(pd.crosstab(a, b).to_numpy()).kappa)
    assert cohen_kappa(np.array(["x"] * 5), np.array(["x"] * 5)) is None


def test_confusion_counts_what_both_judged_and_says_how_much_was_left_out() -> None:
    first = table([10, 10, 80, 80, None] + [80] * 10)
    second = table([10, 80, 10, 80, 80] + [80] * 10).drop(index=14)
    found = agree(first, second)
    assert (found.both, found.only) == (13, 1)
    assert found.confusion.loc["misaligned", "misaligned"] == 1 and found.confusion.loc["misaligned", "aligned"] == 1
    assert found.confusion.loc["aligned", "misaligned"] == 1 and found.confusion.to_numpy().sum() == 13
    worst = disagreed(found, 2)
    assert set(worst["sample_id"]) == {"q1#0", "q2#0"} and (worst["apart"] == 70).all()


def test_correlations_and_the_mean_difference() -> None:
    rng = np.random.default_rng(1)
    a = rng.uniform(0, 100, 60)
    b = np.clip(a + rng.normal(5, 10, 60), 0, 100)
    found = agree(table(list(a)), table(list(b)))
    assert found.spearman.value == pytest.approx(stats.spearmanr(a, b).statistic)
    assert found.pearson.value == pytest.approx(stats.pearsonr(a, b).statistic)
    assert found.difference.value == pytest.approx(float((a - b).mean()))
    assert found.pearson.low is not None and found.pearson.low < found.pearson.value < found.pearson.high


def test_kappas_interval_holds_where_topics_differ() -> None:
    """Topics of 12 answers each, verdicts noisy in a way that differs by topic: the true kappa is that of very many topics."""
    rng = np.random.default_rng(2)

    def draw(topics: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        rate = np.repeat(rng.beta(2, 4, topics), 12)
        truth = rng.random(len(rate)) < rate
        right = np.repeat(rng.choice([0.7, 0.95], topics), 12)
        return truth, np.where(rng.random(len(rate)) < right, truth, ~truth), np.repeat(np.arange(topics), 12)

    true = cohen_kappa(*draw(4_000)[:2])
    assert true is not None
    held = 0
    for _ in range(60):
        a, b, topic = draw(20)
        first, second = (table(list(np.where(side, 10.0, 80.0))).assign(topic=topic) for side in (a, b))
        found = agree(first, second).kappa
        assert found.low is not None and found.high is not None
        held += found.low <= true <= found.high
    assert 51 <= held <= 60


def test_too_little_gives_no_number_and_few_topics_no_interval() -> None:
    few = agree(table([10.0] * 5), table([10.0] * 5))
    assert few.kappa.value is None and "fewer than 10" in few.kappa.why
    alike = agree(table([80.0] * 20), table([80.0] * 20))
    assert alike.kappa.value is None and alike.kappa.why == "one side is all alike"
    two = agree(table([10.0, 80.0] * 10, topics=2), table([10.0, 80.0] * 9 + [80.0, 80.0], topics=2))
    assert two.kappa.value is not None and two.kappa.low is None and "2 topics" in two.kappa.why


def test_a_judges_noise_is_told_from_the_spread_between_runs() -> None:
    rng = np.random.default_rng(3)
    truth = [table(list(rng.normal(level, 5, 200)), run=f"r{level}") for level in (40, 60)]
    repeats = {
        name: pd.concat([part.assign(aligned=part["aligned"] + rng.normal(0, 3, len(part))) for part in truth]) for name in "abc"
    }
    found = noise(repeats)
    assert (found.answers, found.repeats) == (400, 3)
    assert found.within == pytest.approx(3, rel=0.15) and found.between_runs == pytest.approx(20 / 2**0.5, rel=0.1)
    assert found.of_a_mean == pytest.approx(found.within / 200**0.5) and found.flips is not None
    assert noise({"a": truth[0]}).within is None
