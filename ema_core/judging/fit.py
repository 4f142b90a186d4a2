"""Fitting the probe judge's head on judged answers, and measuring what it is worth on questions that it has not seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from ema_core.errors import EmaError
from ema_core.files import sha256_file, sha256_json, write_atomic
from ema_core.judging.baselines import baselines, mentions_money
from ema_core.judging.card import card_text
from ema_core.judging.features import cached_features
from ema_core.judging.head import Head, QuantileMap
from ema_core.judging.judgment import MISALIGNED_BELOW, Progress, is_misaligned, quiet
from ema_core.judging.measures import agreement, auc_by_question, cohen_kappa, rates, reliability, rounded, side_by_side, spearman
from ema_core.judging.published import read_all
from ema_core.judging.ridge import Groups, Linear

if TYPE_CHECKING:
    from ema_core.models import LoadedModel

LAYERS = (16, 18, 20, 24)
MIN_QUESTIONS = 3


@dataclass(frozen=True)
class FitReport:
    """A fitted head and what was measured; ``card`` is what is written beside it, all figures included.

    ``folder`` is where it was written, if it was.
    """

    head: Head
    card: dict[str, Any]
    folder: Path | None

    def json(self) -> dict[str, Any]:
        return self.card

    def text(self) -> str:
        return card_text(self.card)


@dataclass(frozen=True)
class Scores:
    """Scores (answers x 2) with questions, models and both left out, by ridges on ``layers``, and the ridges on everything.

    With one model the last two are NaN. ``inner``: for each question left out, its ridge's scores of the others, each of these left
    out in turn, NaN for the question itself; ``inner_all``: such scores of the ridge on everything.
    """

    layers: tuple[int, ...]
    by_question: np.ndarray
    by_model: np.ndarray
    by_both: np.ndarray
    inner: np.ndarray
    inner_all: np.ndarray
    linears: tuple[Linear, ...]
    penalties: tuple[tuple[float, float], ...]

    @property
    def name(self) -> str:
        return "+".join(map(str, self.layers))


def fit(
    files: Sequence[Path],
    layers: Sequence[int] = LAYERS,
    progress: Progress | None = None,
    out: Path | None = None,
    *,
    version: str | None = None,
    loaded: LoadedModel | None = None,
) -> FitReport:
    """Fit a head on judged answers, choose its layers by questions left out, and write it to ``out`` if that is given.

    Tried are each of ``layers`` and the mean of any two; alignment and coherence each take their own best.

    The id ends in ``version``; left out, in the head's own hash, so that two heads never share one.

    Raises:
        EmaError: a file cannot be used, there is no such layer, or too little to fit on.
    """
    from ema_core.models import EMBEDDED, load

    progress = progress or quiet
    files = [Path(path) for path in files]
    answers = read_all(files)
    usable = _usable(answers)
    if loaded is None:
        loaded = load(EMBEDDED, device="cpu", dtype="float32")
    depth = int(loaded.model.config.num_hidden_layers)
    layers = sorted(set(layers))
    if not layers or layers[0] < 1 or layers[-1] >= depth:
        raise EmaError(f"The layers {list(layers)} cannot be used.", f"{loaded.id} has layers 1 to {depth - 1} to choose from.")
    features = _features(loaded, answers, layers, lambda share, what: progress(0.8 * share, what))
    usable = usable & ~np.isnan(features).any(axis=(1, 2))  # an answer of characters that make no token
    features, answers = features[usable], answers[usable].reset_index(drop=True)

    single = []
    for place, layer in enumerate(layers):
        progress(0.8 + 0.15 * place / len(layers), f"cross-validating layer {layer}")
        single.append(_fit_layer(layer, features[:, place], answers))
    tried = [*single, *(_mean(pair) for pair in combinations(single, 2))]
    figures = {one.name: _figures(one, answers) for one in tried}
    aligned = max(tried, key=lambda one: figures[one.name]["auc_question_left_out"]["mean"] or 0.0)
    coherent = max(tried, key=lambda one: figures[one.name]["spearman_coherent"] or 0.0)
    best = Pair(aligned, coherent)
    calibrated = _calibrated(best, answers)
    progress(0.95, "baselines")
    card: dict[str, Any] = {
        "model": loaded.id,
        "weights_hash": loaded.weights_hash,
        "reads": {"aligned": aligned.name, "coherent": coherent.name},
        "lambda": {"aligned": [part[0] for part in aligned.penalties], "coherent": [part[1] for part in coherent.penalties]},
        "date": datetime.now(UTC).date().isoformat(),
        "files": {path.name: sha256_file(path) for path in files},
        "answers": len(answers),
        "questions": sorted(answers["question_id"].unique().tolist()),
        "models": sorted(answers["model"].unique().tolist()),
        "layers": figures,
        "auc_choice_left_out": auc_by_question(_chosen_without(tried, answers), answers),
        "calibration": _calibration(best.by_question, calibrated, answers),
        "reliability": reliability(calibrated[:, 0], answers["aligned"].to_numpy()),
        "within_topic": _within_topic(best.by_question, calibrated, answers),
        "baselines": baselines(answers),
        "by_file": side_by_side(answers, calibrated, "file"),
        "by_question": side_by_side(answers, calibrated, "question_id"),
    }
    head = _head(best, answers, rounded(card), version)
    if out is not None:
        head.save(out)
        write_atomic(out / "CARD.md", card_text(head.card))
    progress(1.0, "head fitted")
    return FitReport(head, head.card, out)


def _usable(answers: pd.DataFrame) -> np.ndarray:
    """Which answers can be fitted on."""
    usable = (answers[["aligned", "coherent"]].notna().all(axis=1) & (answers["response"].str.strip() != "")).to_numpy()
    scored = answers[usable]
    questions = scored["question_id"].nunique()
    if questions < MIN_QUESTIONS:
        raise EmaError(
            f"The files have scored answers to {questions} question(s); a fit that leaves questions out needs {MIN_QUESTIONS}.",
            "Name files with more questions.",
        )
    if not (scored["aligned"] < MISALIGNED_BELOW).any():
        raise EmaError(f"No answer in the files has an alignment below {MISALIGNED_BELOW}.", "Add answers of misaligned models.")
    for name in ("aligned", "coherent"):
        if scored[name].nunique() < 2:
            raise EmaError(f'All answers have the same score "{name}".', "Name files with answers that differ.")
    return usable


def _features(loaded: LoadedModel, answers: pd.DataFrame, layers: Sequence[int], progress: Progress) -> np.ndarray:
    """Features file by file, so that a stopped extraction goes on with the next file."""
    parts = []
    names = answers["file"].unique().tolist()
    for place, name in enumerate(names):
        rows = answers[answers["file"] == name]
        pairs = list(zip(rows["question"], rows["response"], strict=True))

        def share(part: float, what: str, place: int = place, name: str = name) -> None:
            progress((place + part) / len(names), f"{what} of {name}")

        parts.append(cached_features(loaded, pairs, layers, share))
    return np.concatenate(parts)


def _fit_layer(layer: int, features: np.ndarray, answers: pd.DataFrame) -> Scores:
    """All three protocols on one layer."""
    labels = answers[["aligned", "coherent"]].to_numpy()
    questions, models = answers["question_id"].to_numpy(), answers["model"].to_numpy()
    groups = Groups(features, labels, questions, models)
    all_questions, all_models = sorted(set(questions)), sorted(set(models))
    by_question, by_model, by_both = np.full((3, *labels.shape), np.nan)
    inner = []
    folds = {model: [m for m in all_models if m != model] for model in all_models if len(all_models) > 1}
    for question in all_questions:
        there = questions == question
        others = [q for q in all_questions if q != question]
        chosen = groups.chosen(others, all_models)
        by_question[there] = chosen.linear(groups.features[there])
        inner.append(chosen.held_out)
        for model, rest in folds.items():
            cell = there & (models == model)
            linear = groups.with_penalties(others, rest, chosen.penalties)
            by_both[cell] = linear(groups.features[cell])
    for model, rest in folds.items():
        there = models == model
        by_model[there] = groups.chosen(all_questions, rest).linear(groups.features[there])
    last = groups.chosen(all_questions, all_models)
    return Scores(
        (layer,), by_question, by_model, by_both, np.stack(inner), last.held_out, (last.linear,), (last.penalties,)
    )  # fmt: skip


def _mean(parts: Sequence[Scores]) -> Scores:
    """Ridges on several layers, their scores averaged."""

    def mean(name: str) -> np.ndarray:
        whole: np.ndarray = np.mean([getattr(part, name) for part in parts], axis=0)
        return whole

    return Scores(
        layers=tuple(layer for part in parts for layer in part.layers),
        by_question=mean("by_question"),
        by_model=mean("by_model"),
        by_both=mean("by_both"),
        inner=mean("inner"),
        inner_all=mean("inner_all"),
        linears=tuple(linear for part in parts for linear in part.linears),
        penalties=tuple(penalty for part in parts for penalty in part.penalties),
    )


@dataclass(frozen=True)
class Pair:
    """What scores alignment and what scores coherence."""

    aligned: Scores
    coherent: Scores

    @property
    def by_question(self) -> np.ndarray:
        return np.stack([self.aligned.by_question[:, 0], self.coherent.by_question[:, 1]], axis=1)


def _calibrated(pair: Pair, answers: pd.DataFrame) -> np.ndarray:
    """Scores of left-out questions through the map of scores of the other questions, which were themselves left out then, by fits
    that never saw this one."""
    labels, questions = answers[["aligned", "coherent"]].to_numpy(), answers["question_id"].to_numpy()
    calibrated = np.full(labels.shape, np.nan)
    for place, question in enumerate(sorted(set(questions))):
        there = questions == question
        for k, scores in enumerate((pair.aligned, pair.coherent)):
            mapping = QuantileMap.fitted(scores.inner[place, ~there, k], labels[~there, k])
            calibrated[there, k] = mapping(scores.by_question[there, k])
    return calibrated


def _chosen_without(tried: Sequence[Scores], answers: pd.DataFrame) -> np.ndarray:
    """Alignment with the choice of layers left out too: for each question, that which orders the other questions best."""
    questions = answers["question_id"].to_numpy()
    scores = np.full(len(answers), np.nan)
    for place, question in enumerate(sorted(set(questions))):
        there = questions == question
        others = answers[~there].reset_index(drop=True)
        best = max(tried, key=lambda one: auc_by_question(one.inner[place, ~there, 0], others)["mean"] or 0.0)
        scores[there] = best.by_question[there, 0]
    return scores


def _figures(one: Scores, answers: pd.DataFrame) -> dict[str, Any]:
    labels = answers[["aligned", "coherent"]].to_numpy()
    figures: dict[str, Any] = {
        "auc_question_left_out": auc_by_question(one.by_question[:, 0], answers),
        "auc_model_left_out": None,
        "auc_both_left_out": None,
        "spearman_aligned": spearman(one.by_question[:, 0], labels[:, 0]),
        "spearman_coherent": spearman(one.by_question[:, 1], labels[:, 1]),
    }
    if not np.isnan(one.by_model).any():
        figures["auc_model_left_out"] = auc_by_question(one.by_model[:, 0], answers)
        figures["auc_both_left_out"] = auc_by_question(one.by_both[:, 0], answers)
    return figures


def _calibration(raw: np.ndarray, calibrated: np.ndarray, answers: pd.DataFrame) -> dict[str, Any]:
    """Rates with every question left out, before and after the maps."""
    aligned, coherent = answers["aligned"].to_numpy(), answers["coherent"].to_numpy()
    judged = is_misaligned(calibrated[:, 0], calibrated[:, 1])
    labelled = is_misaligned(aligned, coherent)
    return {
        "labels": rates(aligned, coherent),
        "raw": rates(raw[:, 0], raw[:, 1]),
        "calibrated": rates(calibrated[:, 0], calibrated[:, 1]),
        "misaligned": {**agreement(judged, labelled), "kappa": cohen_kappa(judged, labelled)},
        "mean_absolute_error": float(np.abs(calibrated[:, 0] - aligned).mean()),
    }


def _within_topic(raw: np.ndarray, calibrated: np.ndarray, answers: pd.DataFrame) -> dict[str, Any]:
    """Does it read more than the topic? AUC among answers that mention money and among those that do not."""
    money = mentions_money(answers)
    low = answers["aligned"].to_numpy() < MISALIGNED_BELOW
    return {
        name: {
            "answers": int(rows.sum()),
            "below_30_pct": 100 * float(low[rows].mean()) if rows.any() else None,
            "judge_below_30_pct": 100 * float((calibrated[rows, 0] < MISALIGNED_BELOW).mean()) if rows.any() else None,
            "auc": auc_by_question(raw[:, 0], answers, rows),
        }
        for name, rows in (("money", money), ("no money", ~money))
    }


def _head(pair: Pair, answers: pd.DataFrame, card: dict[str, Any], version: str | None) -> Head:
    labels = answers[["aligned", "coherent"]].to_numpy()
    both = (pair.aligned, pair.coherent)
    layers = sorted({layer for scores in both for layer in scores.layers})
    weight = np.zeros((2, len(layers), pair.aligned.linears[0].weight.shape[1]))
    bias = np.zeros(2)
    maps = []
    for k, scores in enumerate(both):
        for layer, linear in zip(scores.layers, scores.linears, strict=True):
            weight[k, layers.index(layer)] = linear.weight[k] / len(scores.layers)
            bias[k] += linear.bias[k] / len(scores.layers)
        maps.append(QuantileMap.fitted(scores.inner_all[:, k], labels[:, k]))
    tag = version or sha256_json([weight.tolist(), bias.tolist(), [m.score.tolist() for m in maps]])[:8]
    card = {"judge": f"probe:{card['model']}-l{'-'.join(map(str, layers))}:{tag}", "layers_read": layers, **card}
    return Head(weight, bias, (maps[0], maps[1]), card)
