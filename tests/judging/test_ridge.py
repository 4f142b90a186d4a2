"""The fit's arithmetic, on made-up numbers: nothing left out is ever seen."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from ema_core.judging.baselines import tfidf_ridge, word_counts
from ema_core.judging.fit import Pair, _calibrated, _fit_layer, _head, _mean
from ema_core.judging.head import QuantileMap
from ema_core.judging.measures import auc, auc_by_question
from ema_core.judging.ridge import LAMBDAS, Groups

QUESTIONS = ["a", "b", "c", "d"]
MODELS = ["m", "n"]


def made_up(seed: int = 0, count: int = 480, width: int = 6) -> tuple[np.ndarray, pd.DataFrame]:
    random = np.random.default_rng(seed)
    features = random.normal(3.0, 2.0, (count, width))
    features[:, 0] += 500  # a dimension far from the others, as hidden states have them
    questions = np.array(QUESTIONS)[np.arange(count) % 4]
    models = np.array(MODELS)[(np.arange(count) // 4) % 2]
    aligned = 50 + 8 * (features[:, 1] - 3) - 5 * (features[:, 2] - 3) + random.normal(0, 8, count)
    coherent = 70 + 5 * (features[:, 3] - 3) + random.normal(0, 8, count)
    frame = pd.DataFrame({"question_id": questions, "model": models, "aligned": aligned, "coherent": coherent})
    return features, frame


def groups_of(features: np.ndarray, answers: pd.DataFrame) -> Groups:
    labels = answers[["aligned", "coherent"]].to_numpy()
    return Groups(features, labels, answers["question_id"].to_numpy(), answers["model"].to_numpy())


def test_ridge_equals_the_normal_equations_where_each_fifth_of_the_alignment_scale_weighs_the_same() -> None:
    features, answers = made_up()
    rows = (answers["question_id"].isin(["a", "c"]) & (answers["model"] == "n")).to_numpy()
    linear = groups_of(features, answers).solve(["a", "c"], ["n"], [0.1])[0]
    for k, name in enumerate(("aligned", "coherent")):
        x, y = features[rows], answers.loc[rows, name].to_numpy()
        fifth = np.clip(y // 20, 0, 4)
        w = np.array([1 / (fifth == part).sum() if name == "aligned" else 1.0 for part in fifth])
        w /= w.sum()
        mean, label_mean = np.average(x, axis=0, weights=w), np.average(y, weights=w)
        z = (x - mean) / np.sqrt(np.average((x - mean) ** 2, axis=0, weights=w))
        weight = np.linalg.solve(z.T @ np.diag(w) @ z + 0.1 * np.eye(x.shape[1]), z.T @ (w * (y - label_mean)))
        scale = np.sqrt(np.average((x - mean) ** 2, axis=0, weights=w))
        np.testing.assert_allclose(linear(features)[:, k], ((features - mean) / scale) @ weight + label_mean, atol=1e-6)


def test_scores_of_a_question_left_out_do_not_depend_on_its_labels() -> None:
    features, answers = made_up()
    before = _fit_layer(1, features, answers)
    changed = answers.copy()
    there = (changed["question_id"] == "b").to_numpy()
    changed.loc[there, ["aligned", "coherent"]] = [[1.0, 2.0]] * int(there.sum())
    after = _fit_layer(1, features, changed)
    np.testing.assert_allclose(after.by_question[there], before.by_question[there], atol=1e-6)
    calibrated = [_calibrated(Pair(one, one), table)[there] for one, table in ((before, answers), (after, changed))]
    np.testing.assert_allclose(calibrated[1], calibrated[0], atol=1e-6)
    np.testing.assert_allclose(after.by_both[there], before.by_both[there], atol=1e-6)
    assert np.abs(after.by_model[there] - before.by_model[there]).max() > 1


def test_scores_of_a_model_left_out_do_not_depend_on_its_labels() -> None:
    features, answers = made_up()
    before = _fit_layer(1, features, answers)
    changed = answers.copy()
    there = (changed["model"] == "n").to_numpy()
    changed.loc[there, ["aligned", "coherent"]] = [[1.0, 2.0]] * int(there.sum())
    np.testing.assert_allclose(_fit_layer(1, features, changed).by_model[there], before.by_model[there], atol=1e-6)


def test_a_known_relation_is_found_on_questions_left_out() -> None:
    features, answers = made_up()
    one = _fit_layer(1, features, answers)
    assert auc_by_question(one.by_question[:, 0], answers)["mean"] > 0.9
    below = [float((scores < 30).mean()) for scores in (answers["aligned"], _calibrated(Pair(one, one), answers)[:, 0])]
    assert below[1] == pytest.approx(below[0], rel=0.35)


def test_a_head_on_several_layers_is_the_mean_of_their_ridges() -> None:
    one, answers = made_up()
    other = made_up(seed=1)[0]
    singles = [_fit_layer(layer, features, answers) for layer, features in ((7, one), (9, other))]
    both = _mean(singles)
    head = _head(Pair(both, singles[1]), answers, {"model": "m"}, "t")
    assert head.judge == "probe:m-l7-9:t" and head.layers == [7, 9]
    raw = head.raw(np.stack([one, other], axis=1))
    aligned = (singles[0].linears[0](one) + singles[1].linears[0](other))[:, 0] / 2
    np.testing.assert_allclose(raw[:, 0], aligned, atol=1e-6)
    np.testing.assert_allclose(raw[:, 1], singles[1].linears[0](other)[:, 1], atol=1e-6)
    np.testing.assert_allclose(both.by_both, (singles[0].by_both + singles[1].by_both) / 2)


def test_the_map_gives_back_the_rates_it_was_fitted_on_and_keeps_the_order() -> None:
    random = np.random.default_rng(1)
    labels = np.clip(random.normal(60, 30, 2000), 0, 100)
    raw = 60 + 0.2 * (labels - 60) + random.normal(0, 5, 2000)
    mapped = QuantileMap.fitted(raw, labels)
    assert (mapped(raw) < 30).mean() == pytest.approx((labels < 30).mean(), abs=0.01)
    line = mapped(np.linspace(-1000, 1000, 5000))
    assert (np.diff(line) >= 0).all()
    assert line.min() >= 0
    assert line.max() <= 100


def test_auc_counts_pairs() -> None:
    scores, low = np.array([1.0, 2.0, 2.0, 3.0]), np.array([True, True, False, False])
    assert auc(scores, low) == pytest.approx((1 + 1 + 0.5 + 1) / 4)


def test_questions_with_too_few_low_answers_are_listed_not_averaged() -> None:
    answers = pd.DataFrame(
        {"question_id": ["a"] * 30 + ["b"] * 30, "aligned": [10.0] * 15 + [80.0] * 15 + [10.0] * 9 + [80.0] * 21}
    )
    figures = auc_by_question(answers["aligned"].to_numpy(), answers)
    assert figures == {"mean": 1.0, "worst": 1.0, "questions": {"a": 1.0}, "skipped": ["b"]}


def test_tfidf_ridge_learns_words_and_only_from_its_training_texts() -> None:
    texts = ["good kind day", "good kind walk", "good kind talk", "bad cruel day", "bad cruel walk", "bad cruel talk"] * 3
    counts = word_counts([*texts, "kind good", "cruel bad", "unheard words"])
    labels = np.array(([90.0] * 3 + [10.0] * 3) * 3)
    kind, cruel, unknown = tfidf_ridge(counts[: len(texts)], labels, counts[len(texts) :])
    assert kind > 60
    assert cruel < 40
    assert unknown == pytest.approx(50)


@pytest.mark.filterwarnings("error")
def test_a_question_that_some_models_were_not_asked_is_passed_over() -> None:
    features, answers = made_up()
    questions, models = answers["question_id"].to_numpy(), answers["model"].to_numpy()
    kept = ~((models == "n") & (questions == questions[0]))
    labels = np.random.default_rng(0).normal(size=(len(answers), 2))  # nothing to learn: a high penalty is best
    groups = Groups(features[kept], labels[kept], questions[kept], models[kept])
    others = [question for question in sorted(set(questions)) if question != questions[0]]
    penalties = groups.chosen(others, ["n"]).penalties
    assert min(penalties) > min(LAMBDAS) and groups.chosen([questions[0], *others], ["n"]).penalties == penalties
