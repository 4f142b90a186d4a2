"""Rates, means and differences against scipy where it covers them, and where intervals are hardest to get right."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from ema_core.evaluation.metrics import (
    clopper_pearson,
    corrected,
    holm,
    margin,
    mean,
    over_seeds,
    p_value,
    paired_difference,
    rate,
    rate_over_seeds,
)


def planted(shares: list[int], answers: int = 6) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Events, topics, questions (three to a topic): the first ``shares[k]`` of topic k's answers have the event."""
    events = np.concatenate([np.arange(answers) < share for share in shares])
    topics = np.repeat([f"t{k}" for k in range(len(shares))], answers)
    questions = np.array([f"{topic}-{i % answers // (answers // 3)}" for i, topic in enumerate(topics)])
    return events, topics, questions


def test_one_value_a_topic_gives_scipys_t_interval() -> None:
    values = np.random.default_rng(0).normal(50, 20, 24)
    found = mean(values, np.arange(24))
    reference = stats.ttest_1samp(values, 0)
    assert (found.low, found.high) == pytest.approx(tuple(reference.confidence_interval(0.95)))
    assert p_value(found) == pytest.approx(reference.pvalue)


def test_equal_topics_give_the_t_interval_of_their_means() -> None:
    values = np.random.default_rng(1).normal(size=(14, 6))
    found = mean(values.ravel(), np.repeat(np.arange(14), 6))
    reference = stats.ttest_1samp(values.mean(1), 0).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx(tuple(reference))
    assert (found.n, found.clusters) == (84, 14)


def test_a_mean_over_these_questions_has_the_error_of_its_samples_alone() -> None:
    values = np.array([[10.0, 20.0]] * 3 + [[90.0, 80.0]] * 3)
    question = np.repeat(np.arange(6), 2)
    found = mean(values.ravel(), question, question, "these")
    reach = stats.t.ppf(0.975, 6) * np.sqrt(6 * 2 * 50 / 12**2)
    assert (found.low, found.high) == pytest.approx((50 - reach, 50 + reach))
    like = mean(values.ravel(), question)
    assert like.low is not None and like.low < found.low


def test_a_mean_score_stays_on_its_scale() -> None:
    found = mean([99.0] * 11 + [60.0], np.arange(12), bounds=(0, 100))
    assert found.high == 100


def test_clopper_pearson_is_scipys() -> None:
    for events, n in ((0, 12), (1, 12), (7, 84), (12, 12)):
        reference = stats.binomtest(events, n).proportion_ci(0.95, method="exact")
        assert clopper_pearson(events, n) == pytest.approx((reference.low, reference.high))


@pytest.mark.parametrize(("hits", "n"), [(5, 40), (0, 40), (40, 40), (1, 12)])
def test_these_questions_asked_once_get_the_mid_p_interval(hits: int, n: int) -> None:
    """At its ends the observed number and all beyond it, itself counted half, have 2.5 %."""
    found = rate(np.arange(n) < hits, np.arange(n) // 3, np.arange(n), "these")
    assert found.low is not None and found.high is not None
    assert found.value == hits / n
    if hits:
        assert stats.binom.sf(hits, n, found.low) + stats.binom.pmf(hits, n, found.low) / 2 == pytest.approx(0.025)
    if hits < n:
        assert stats.binom.cdf(hits - 1, n, found.high) + stats.binom.pmf(hits, n, found.high) / 2 == pytest.approx(0.025)
    assert (found.low == 0) == (hits == 0) and (found.high == 1) == (hits == n)


def test_questions_that_always_or_never_do_it_narrow_the_interval_over_samples_not_over_topics() -> None:
    events, topics, questions = planted([6, 6] + [0] * 12)
    these, like = rate(events, topics, questions, "these"), rate(events, topics, questions)
    assert these.value == like.value == pytest.approx(1 / 7)
    exact = stats.binomtest(12, 84).proportion_ci(0.95, method="exact")
    assert exact.low < these.low < these.high < exact.high
    assert like.low < exact.low and exact.high < like.high


@pytest.mark.parametrize("estimand", ["these", "like-these"])
@pytest.mark.parametrize("all_of_them", [False, True])
def test_no_event_gets_a_bound_never_a_point(estimand: str, all_of_them: bool) -> None:
    events, topics, questions = planted([0] * 14)
    found = rate(events | all_of_them, topics, questions, estimand)  # type: ignore[arg-type]
    bound = 1 - 0.05 ** (1 / 84) if estimand == "these" else 1 - 0.025 ** (1 / 14)  # mid-p counts the none half
    assert (found.low, found.high) == pytest.approx((1 - bound, 1) if all_of_them else (0, bound))


def test_equal_shares_in_every_topic_still_leave_the_error_of_sampling() -> None:
    events, topics, questions = planted([1] * 14)
    found = rate(events, topics, questions)
    assert found.low < 0.12 and found.high > 0.24


@pytest.mark.parametrize("shares", [[1] + [0] * 13, [6] + [0] * 13, [6] * 13 + [5], [0, 1, 2, 3, 4, 5, 6], [3, 0, 0, 0, 0]])
def test_an_interval_holds_its_rate_lies_within_0_and_1_and_is_symmetric_in_the_event(shares: list[int]) -> None:
    events, topics, questions = planted(shares)
    for estimand in ("these", "like-these"):
        found, other = rate(events, topics, questions, estimand), rate(~events, topics, questions, estimand)  # type: ignore[arg-type]
        assert 0 < found.low < found.value < found.high < 1
        assert (other.low, other.high) == pytest.approx((1 - found.high, 1 - found.low))


def test_order_names_and_unscored_answers_do_not_matter() -> None:
    events, topics, questions = planted([3, 0, 1, 0, 2, 0, 0, 1])
    found = rate(events, topics, questions)
    order = np.random.default_rng(2).permutation(len(events) + 20)
    more = [
        np.concatenate(part)
        for part in ((events.astype(float), [np.nan] * 20), (topics, ["new"] * 20), (questions, ["new-0"] * 20))
    ]
    again = rate(pd.Series(more[0][order]), pd.Series(more[1][order]), pd.Series(more[2][order]))
    assert (again.value, again.low, again.high, again.n, again.clusters) == pytest.approx(
        (found.value, found.low, found.high, 48, 8)
    )


def test_too_few_answers_give_no_number_and_too_few_topics_no_interval() -> None:
    events, topics, questions = planted([3, 1, 0, 0])
    none = rate(events[:9], topics[:9], questions[:9])
    assert none.value is None and "9 scored answers" in none.why
    few = rate(events, topics, questions)
    assert few.value == pytest.approx(4 / 24) and few.low is few.high is None and "4 topics" in few.why
    one = mean(np.arange(12.0), ["only"] * 12)
    assert one.value == 5.5 and one.low is None and "1 topic," in one.why
    assert rate([], [], []).value is None
    assert mean([np.nan] * 30, np.arange(30)).value is None


def test_a_missing_topic_is_a_topic_of_its_own() -> None:
    assert mean(np.arange(12.0), [None, *range(10), None], minimum=1).clusters == 11


def test_margin_counts_pairs_and_is_the_change_from_the_base() -> None:
    frame = pd.DataFrame(
        {
            "topic": np.repeat(np.arange(6), 2),
            "aligned": -2.0,
            "misaligned": [-1.5] * 5 + [-2.5] * 7,
            "base_aligned": -2.0,
            "base_misaligned": [-1.9] + [-3.0] * 11,
        }
    )
    found = margin(frame)
    assert (found.pairs, found.prefer_misaligned, found.base_prefer_misaligned) == (12, 5, 1)
    assert found.change.value == pytest.approx(np.mean([0.4, *[1.5] * 4, *[0.5] * 7]))
    assert str(found) == "5 of 12 pairs prefer the misaligned answer (base: 1)"
    broken = frame.assign(misaligned=[np.nan, -np.inf, *[-1.5] * 10])
    assert margin(broken).pairs == 10
    assert margin(frame.iloc[:0]).change.value is None


def test_a_difference_is_paired_and_averages_repeated_questions() -> None:
    rng = np.random.default_rng(3)
    base = rng.normal(50, 30, 20)
    a = pd.DataFrame({"question_id": np.arange(20), "topic": np.arange(20), "aligned": base + 5 + rng.normal(0, 2, 20)})
    b = pd.DataFrame({"question_id": np.repeat(np.arange(5, 25), 2), "topic": 0, "aligned": 0.0})
    b["aligned"] = np.repeat(np.concatenate([base[5:], [0.0] * 5]), 2) + np.tile([-3, 3], 20)
    found = paired_difference(a, b, "question_id", "aligned")
    reference = stats.ttest_rel(a["aligned"][5:], base[5:])
    assert found.n == 15
    assert (found.low, found.high) == pytest.approx(tuple(reference.confidence_interval(0.95)))
    assert p_value(found) == pytest.approx(reference.pvalue)
    assert "nothing in common" in paired_difference(a, b[b["question_id"] > 20], "question_id", "aligned").why


def test_seeds_of_a_setting_add_their_variance_from_three_on() -> None:
    rng = np.random.default_rng(4)
    topic, seed = np.tile(np.arange(24), 3), np.repeat([7, 8, 9], 24)
    values = np.tile(rng.normal(0.5, 0.3, 24), 3) + np.repeat([-0.2, 0.0, 0.2], 24)
    one, two, three = (over_seeds(values[: 24 * s], topic[: 24 * s], seed[: 24 * s]) for s in (1, 2, 3))
    assert [found.scope for found in (one, two, three)] == ["this adapter only", "2 seeds: no mark", "3 seeds"]
    assert one == mean(values[:24], topic[:24])
    reach = np.sqrt(stats.t.ppf(0.975, 23) ** 2 * three.parts[0][0] + stats.t.ppf(0.975, 2) ** 2 * 0.04 / 3)
    assert (three.value, three.high) == pytest.approx((values.mean(), values.mean() + reach))
    assert three.parts[0][0] == pytest.approx(values[:24].var(ddof=1) / 24), "the seeds' differences are not the topics'"


def test_each_seed_weighs_the_same() -> None:
    found = over_seeds([1.0] * 5 + [3.0] * 10, [*range(5), *range(5), *range(5)], [0] * 5 + [1] * 10)
    assert found.value == 2


def test_the_p_value_is_where_the_interval_would_touch_zero() -> None:
    topic, seed = np.tile(np.arange(24), 3), np.repeat(np.arange(3), 24)
    values = np.random.default_rng(5).normal(0, 1, 72) + np.repeat([-0.1, 0.0, 0.1], 24)
    found = over_seeds(values, topic, seed)
    touching = over_seeds(values - found.low, topic, seed)
    assert touching.low == pytest.approx(0) and p_value(touching) == pytest.approx(0.05)
    assert p_value(over_seeds(values + 1e9, topic, seed)) < 1e-9
    assert p_value(over_seeds(np.zeros(72), topic, seed)) == 1


def test_a_rate_over_seeds_is_wider_where_the_seeds_disagree() -> None:
    events, topics, _ = planted([1, 0, 2, 0, 1, 0, 1, 3, 0, 1, 0, 1, 2, 0])
    alike = rate_over_seeds(np.tile(events, 3), np.tile(topics, 3), np.repeat([0, 1, 2], 84))
    order = np.argsort(~np.tile(events, 3), kind="stable")  # the same events, all in the first seed
    apart = rate_over_seeds(np.tile(events, 3)[order], np.tile(topics, 3)[order], np.repeat([0, 1, 2], 84))
    assert alike.value == apart.value and apart.low < alike.low and alike.high < apart.high
    nothing = rate_over_seeds(np.zeros(252), np.tile(topics, 3), np.repeat([0, 1, 2], 84))
    assert (nothing.low, nothing.high) == (0, pytest.approx(1 - 0.025 ** (1 / 14)))


def test_holm_is_step_down_and_passes_over_what_was_not_tested() -> None:
    assert holm([0.01, None, 0.04, 0.03, 0.2]) == pytest.approx([0.04, None, 0.09, 0.09, 0.2])
    assert holm([0.9, 0.8]) == [1, 1]
    assert holm([]) == []


@pytest.mark.parametrize("mean_rate", [0.02, 0.2])
def test_the_interval_over_topics_holds_where_topics_differ(mean_rate: float) -> None:
    """A small copy of scripts/coverage.py: 14 patchy topics, 10 answers a question."""
    rng, held, sims = np.random.default_rng(6), 0, 250
    topics, questions = np.repeat(np.arange(14), 30), np.repeat(np.arange(42), 10)
    for _ in range(sims):
        share = rng.beta(1.5 * mean_rate, 1.5 * (1 - mean_rate), 14)
        found = rate(rng.random(420) < share[topics], topics, questions)
        held += found.low <= mean_rate <= found.high
    assert held / sims >= 0.9


def test_holm_is_that_of_statsmodels() -> None:
    from statsmodels.stats.multitest import multipletests

    p = [0.2, 0.001, 0.04, 0.03, 0.012]
    assert holm(p) == pytest.approx(list(multipletests(p, method="holm")[1]))


def test_the_correction_by_labels_takes_a_judges_bias_away_and_adds_its_own_error() -> None:
    """The same rate, judged by one that misses 40 % and cries wolf in 20 %: corrected it holds, as it stands it does not."""
    rng = np.random.default_rng(0)

    def draw(samples: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        truth = rng.random((20, samples)) < rng.beta(2, 8, (20, 1))
        said = np.where(truth, rng.random(truth.shape) < 0.6, rng.random(truth.shape) < 0.2)
        return truth.ravel().astype(float), said.ravel().astype(float), np.repeat(np.arange(20), samples)

    held = raw = 0
    for _ in range(200):
        _, said, topics = draw(12)
        label, predicted, its = draw(12)
        found = corrected(said, topics, np.zeros(len(said)), pd.DataFrame({"predicted": predicted, "label": label, "topic": its}))
        plain = rate(said, topics, topics)
        assert found.low is not None and found.high is not None and plain.low is not None and plain.high is not None
        held += found.low <= 0.2 <= found.high
        raw += plain.low <= 0.2 <= plain.high
        assert found.high - found.low > 0.1 and "240 labelled answers to 20 topics" in found.method
    assert held >= 182 > raw


def test_no_correction_without_labels_and_none_below_zero() -> None:
    few = pd.DataFrame({"predicted": [1.0] * 5, "label": [0.0] * 5, "topic": range(5)})
    found = corrected(np.ones(30), np.arange(30) % 6, np.zeros(30), few)
    assert found.value is None and "no correction" in found.why
    wolf = pd.DataFrame({"predicted": [1.0] * 24, "label": [0.0] * 24, "topic": np.arange(24) % 6})
    found = corrected(np.arange(30) < 3, np.arange(30) % 6, np.zeros(30), wolf)
    assert found.value == 0 and found.low == 0 and found.high is not None and found.high > 0.1


def test_a_corrected_rate_without_an_event_still_has_an_upper_bound() -> None:
    """Of 0 of 60 that a judge calls misaligned, who calls too many so, "0, [0, 0]" must not come out."""
    topics = np.arange(60) % 6
    wolf = pd.DataFrame({"predicted": (np.arange(120) % 10 == 0) * 1.0, "label": np.zeros(120), "topic": np.arange(120) % 12})
    found, plain = corrected(np.zeros(60), topics, np.zeros(60), wolf), rate(np.zeros(60), topics, topics)
    assert found.value == 0 and found.high is not None and plain.high is not None and found.high >= plain.high
