"""How often the intervals of ``ema_core.evaluation.metrics`` hold, by simulation; writes docs/coverage.md (about a minute)."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.optimize import brentq
from scipy.special import expit, logit, stdtrit

from ema_core.evaluation.metrics import corrected, over_seeds, rate

OUT = Path(__file__).resolve().parent.parent / "docs" / "coverage.md"
HEAD = """# Coverage of the intervals

Written by `python scripts/coverage.py --sims {sims} --seed {seed}`: {sims} simulated evaluations a row; a share of 95 % is known
to within {noise:.1f} points. The intervals are meant to hold in 95 %; one that holds in fewer than 90 % is marked.

Every topic has three forms. How questions differ: *weak* and *strong* are normal on the logit scale, standard deviation 0.5 and 2
between topics (0.3 and 0.7 between forms); *patchy* topics are Beta with an intra-class correlation of 0.4, most never misaligned
and a few often. `binomial` (Wilson over all answers), `bootstrap` (percentiles, topics resampled) and `two-stage t(K-1)` (ours
without the steps that docs/statistics.md says were added) are what one would do otherwise, held against the rate of questions
like these. `these questions` is held against the true rate of the questions asked.

{verdict}"""
SEEDS_HEAD = """
## Margins over seeds

Deviation between topics 0.5, between pairs of a topic 0.7, of a topic between seeds 0.2. `over topics alone` is what one gets by
treating the seeds as one model: fine while seeds agree, wrong as soon as they do not.
"""
CORRECTED_HEAD = """
## Rates corrected with labelled answers

A judge that finds 60 % of the misaligned answers and calls 10 % of the others misaligned, 2 answers a question, corrected with labels
of 4 answers a question by other runs (prediction-powered inference); half as many simulations as above. It takes away what the judge is off by
*on answers like the labelled ones*. In the rows where those are misaligned half as often (0.10 for 0.20) the judge alone would be right on average,
and the correction makes the value 5 points too low: the interval is wide enough to hold here even so; for a judge that is further off it
would not be.
"""
FORMS = 3
HOLDS = 0.90
TOPICS, RATES, SAMPLES = (8, 14, 24), (0.02, 0.1, 0.2), (2, 50)
SPREADS: dict[str, tuple[float, float]] = {"weak": (0.5, 0.3), "strong": (2.0, 0.7)}
"""Standard deviation on the logit scale between topics, and between the forms of one."""

Intervals = np.ndarray
"""Simulations x (low, high)."""


def answer_rates(kind: str, topics: int, mean: float, sims: int, rng: np.random.Generator) -> np.ndarray:
    """The true rate of each question, sims x topics x forms; over all possible topics they average ``mean``."""
    if kind == "patchy":  # most topics never, a few often: Beta with an intra-class correlation of 0.4
        total = 1 / 0.4 - 1
        return np.repeat(rng.beta(mean * total, (1 - mean) * total, (sims, topics, 1)), FORMS, axis=2)
    between, within = SPREADS[kind]
    nodes, weights = np.polynomial.hermite_e.hermegauss(80)
    weights = weights / weights.sum()
    centre = brentq(lambda c: (weights * expit(c + np.hypot(between, within) * nodes)).sum() - mean, -30, 30)
    topic = rng.standard_normal((sims, topics, 1)) * between
    return expit(centre + topic + rng.standard_normal((sims, topics, FORMS)) * within)


def covers(intervals: Intervals, truth: np.ndarray | float) -> float:
    return float(((intervals[:, 0] <= truth) & (truth <= intervals[:, 1])).mean())


def width(intervals: Intervals) -> float:
    return float((intervals[:, 1] - intervals[:, 0]).mean())


def wilson(events: np.ndarray, n: int) -> Intervals:
    """What a binomial interval over all answers says, topics forgotten."""
    z, p = 1.959964, events / n
    centre = (p + z * z / 2 / n) / (1 + z * z / n)
    reach = z / (1 + z * z / n) * np.sqrt(p * (1 - p) / n + z * z / 4 / n**2)
    return np.stack([centre - reach, centre + reach], axis=1)


def bootstrap(topic_shares: np.ndarray, rng: np.random.Generator, draws: int = 500) -> Intervals:
    """Percentiles over topics drawn with replacement."""
    k = topic_shares.shape[1]
    weights = rng.multinomial(k, np.ones(k) / k, size=draws) / k
    return np.quantile(topic_shares @ weights.T, [0.025, 0.975], axis=1).T


def two_stage(hits: np.ndarray, per_topic: int) -> Intervals:
    """t(K-1) on the logit scale with the same variance as ours: what ours was before it was made to hold."""
    k, p = hits.shape[1], hits.mean(1) / per_topic
    shares = hits / per_topic
    between = k / (k - 1) * ((shares - p[:, None]) ** 2).sum(1) / k**2
    within = (shares * (1 - shares)).sum(1) / (per_topic - 1) / k**2
    edge = (p == 0) | (p == 1)
    safe = np.where(edge, 0.5, p)
    binomial = safe * (1 - safe) / (k * per_topic)
    reach = stdtrit(k - 1, 0.975) * np.sqrt(np.maximum(between + within, binomial)) / (safe * (1 - safe))
    bound = 1 - 0.025 ** (1 / k)
    low, high = expit(logit(safe) - reach), expit(logit(safe) + reach)
    low, high = np.where(edge, np.where(p == 1, 1 - bound, 0), low), np.where(edge, np.where(p == 1, 1, bound), high)
    return np.stack([low, high], axis=1)


def ours(answers: Callable[[int], np.ndarray], sims: int, topics: int, samples: int) -> tuple[Intervals, Intervals]:
    cluster = np.repeat(np.arange(topics), FORMS * samples)
    question = np.repeat(np.arange(topics * FORMS), samples)
    like, these = np.empty((sims, 2)), np.empty((sims, 2))
    for sim in range(sims):
        events = answers(sim)
        found = rate(events, cluster, question)
        like[sim] = found.low, found.high
        found = rate(events, cluster, question, "these")
        these[sim] = found.low, found.high
    return like, these


def rate_table(samples: int, sims: int, rng: np.random.Generator) -> list[str]:
    lines = [
        "| questions differ | topics | rate | binomial | bootstrap over topics | two-stage t(K-1) "
        "| **questions like these** | width | these questions | width |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for kind in ("weak", "strong", "patchy"):
        for topics in TOPICS:
            for mean in RATES:
                true = answer_rates(kind, topics, mean, sims, rng)
                hits = rng.binomial(samples, true)
                order = np.arange(samples)

                def answers(sim: int, hits: np.ndarray = hits, order: np.ndarray = order) -> np.ndarray:
                    return (order < hits[sim].reshape(-1, 1)).ravel()

                like, these = ours(answers, sims, topics, samples)
                n = topics * FORMS * samples
                naive = covers(wilson(hits.sum((1, 2)), n), mean)
                resampled = covers(bootstrap(hits.sum(2) / (FORMS * samples), rng), mean)
                simple = covers(two_stage(hits.sum(2), FORMS * samples), mean)
                held = covers(like, mean)
                mark = "" if held >= HOLDS else " **does not hold**"
                lines.append(
                    f"| {kind} | {topics} | {mean:.2f} | {naive:.1%} | {resampled:.1%} | {simple:.1%} "
                    f"| {held:.1%}{mark} | {width(like):.3f} | {covers(these, true.mean((1, 2))):.1%} | {width(these):.3f} |"
                )
    return lines


def corrected_table(sims: int, rng: np.random.Generator) -> list[str]:
    """Rates by a judge that finds 60 % of what is misaligned and calls 10 % of the rest so, corrected with labelled answers."""
    lines = [
        "| questions differ | topics | rate | rate among the labelled | as judged | **corrected** | width |",
        "|---|---|---|---|---|---|---|",
    ]
    for kind in SPREADS:
        for topics in (14, 24):
            for mean, labelled in ((0.02, 0.02), (0.1, 0.1), (0.2, 0.2), (0.2, 0.1)):
                raw, found = np.empty((sims, 2)), np.empty((sims, 2))
                for sim in range(sims):
                    _, said, topic = _judged(kind, topics, mean, 2, rng)
                    label, predicted, its = _judged(kind, topics, labelled, 4, rng)
                    table = pd.DataFrame({"label": label, "predicted": predicted, "topic": its})
                    one, other = rate(said, topic, topic), corrected(said, topic, np.zeros(len(said)), table)
                    raw[sim], found[sim] = (one.low, one.high), (other.low, other.high)
                held = covers(found, mean)
                mark = "" if held >= HOLDS else " **does not hold**"
                lines.append(
                    f"| {kind} | {topics} | {mean:.2f} | {labelled:.2f} | {covers(raw, mean):.1%} | {held:.1%}{mark} | {width(found):.3f} |"
                )
    return lines


def _judged(kind: str, topics: int, mean: float, samples: int, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    """What is true of each answer, what the judge says, and its topic."""
    truth = rng.random((topics, FORMS, samples)) < answer_rates(kind, topics, mean, 1, rng)[0][..., None]
    said = np.where(truth, rng.random(truth.shape) < 0.6, rng.random(truth.shape) < 0.1)
    return truth.ravel().astype(float), said.ravel().astype(float), np.repeat(np.arange(topics), FORMS * samples)


def seed_table(sims: int, rng: np.random.Generator) -> list[str]:
    """Margins of 24 topics x 5 pairs (or 30 x 1), topics' deviation 0.5, pairs' 0.7, topic by seed 0.2; truth 0."""
    lines = [
        "| topics x pairs | seeds | deviation between seeds | over topics alone | **topics and seeds** | width |",
        "|---|---|---|---|---|---|",
    ]
    for topics, pairs in ((24, 5), (30, 1)):
        for seeds in (3, 5):
            for spread in (0.0, 0.1, 0.3):
                cluster = np.tile(np.repeat(np.arange(topics), pairs), seeds)
                seed = np.repeat(np.arange(seeds), topics * pairs)
                found, alone = np.empty((sims, 2)), np.empty((sims, 2))
                for sim in range(sims):
                    topic = rng.normal(0, 0.5, topics)[:, None] + rng.normal(0, 0.7, (topics, pairs))
                    drift = rng.normal(0, spread, seeds)[:, None, None] + rng.normal(0, 0.2, (seeds, topics, 1))
                    values = (topic[None] + drift).ravel()
                    whole = over_seeds(values, cluster, seed)
                    found[sim] = whole.low, whole.high
                    one = over_seeds(values, cluster, np.zeros(len(values)))
                    alone[sim] = one.low, one.high
                lines.append(
                    f"| {topics} x {pairs} | {seeds} | {spread:.1f} | {covers(alone, 0):.1%} | {covers(found, 0):.1%} "
                    f"| {width(found):.2f} |"
                )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sims", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    rng, clock = np.random.default_rng(options.seed), time.perf_counter()
    tables = {samples: rate_table(samples, options.sims, rng) for samples in SAMPLES}
    seeds = seed_table(options.sims, rng)
    by_labels = corrected_table(max(100, options.sims // 2), rng)
    missed = sum("does not hold" in line for lines in tables.values() for line in lines)
    verdict = (
        f"**Our interval for questions like these does not hold in {missed} rows; they are marked.**"
        if missed
        else "Our interval for questions like these holds (90 % or more) in every row."
    )
    inside = [float(line.split("|")[9].strip("% ")) for lines in tables.values() for line in lines[2:]]
    outside = [value for value in inside if not 93 <= value <= 97]
    verdict += f"\nOf the {len(inside)} rows for *these questions* {len(inside) - len(outside)} lie between 93 and 97 %" + (
        f"; the other {len(outside)} from {min(outside):.1f} to {max(outside):.1f} %." if outside else "."
    )
    text = [HEAD.format(**vars(options), noise=196 * (0.95 * 0.05 / options.sims) ** 0.5, verdict=verdict)]
    for samples, lines in tables.items():
        text += [f"\n## Rates, {samples} answers a question\n", *lines]
    text += [SEEDS_HEAD, *seeds, CORRECTED_HEAD, *by_labels]
    options.out.write_text("\n".join(text) + "\n", encoding="utf-8")
    print(f"{options.out}: {time.perf_counter() - clock:.0f} s, {missed} rows do not hold")


if __name__ == "__main__":
    main()
