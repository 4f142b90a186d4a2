"""Fitting the probe judge's head on judged answers, and measuring what it is worth on questions that it has not seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
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
from ema_core.judging.measures import agreement, auc_by_question, rates, reliability, rounded, side_by_side, spearman
from ema_core.judging.published import read_all
from ema_core.judging.ridge import Chosen, Groups

if TYPE_CHECKING:
    from ema_core.models import LoadedModel

LAYERS = (12, 16, 20, 24)
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
class LayerFit:
    """One layer's scores with questions, models and both left out (answers x 2), and the fit on everything.

    ``calibrated`` is ``by_question`` through maps of the other questions. With one model the last two are NaN.
    """

    layer: int
    by_question: np.ndarray
    calibrated: np.ndarray
    by_model: np.ndarray
    by_both: np.ndarray
    everything: Chosen


def fit(
    files: Sequence[Path],
    layers: Sequence[int] = LAYERS,
    progress: Progress | None = None,
    out: Path | None = None,
    *,
    version: str | None = None,
    loaded: LoadedModel | None = None,
) -> FitReport:
    """Fit a head on judged answers, choose its layer by questions left out, and write it to ``out`` if that is given.

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
        loaded = load(EMBEDDED, device="cpu")
    depth = int(loaded.model.config.num_hidden_layers)
    layers = sorted(set(layers))
    if not layers or layers[0] < 1 or layers[-1] >= depth:
        raise EmaError(f"The layers {list(layers)} cannot be used.", f"{loaded.id} has layers 1 to {depth - 1} to choose from.")
    features = _features(loaded, answers, layers, lambda share, what: progress(0.8 * share, what))
    usable = usable & ~np.isnan(features).any(axis=(1, 2))  # an answer of characters that make no token
    features, answers = features[usable], answers[usable].reset_index(drop=True)

    fits = []
    for place, layer in enumerate(layers):
        progress(0.8 + 0.15 * place / len(layers), f"cross-validating layer {layer}")
        fits.append(_fit_layer(layer, features[:, place], answers))
    best = max(fits, key=lambda one: auc_by_question(one.by_question[:, 0], answers)["mean"] or 0.0)
    progress(0.95, "baselines")
    card: dict[str, Any] = {
        "model": loaded.id,
        "weights_hash": loaded.weights_hash,
        "layer": best.layer,
        "lambda": dict(zip(("aligned", "coherent"), best.everything.penalties, strict=True)),
        "date": datetime.now(UTC).date().isoformat(),
        "files": {path.name: sha256_file(path) for path in files},
        "answers": len(answers),
        "questions": sorted(answers["question_id"].unique().tolist()),
        "models": sorted(answers["model"].unique().tolist()),
        "layers": {str(one.layer): _layer_figures(one, answers) for one in fits},
        "calibration": _calibration(best, answers),
        "reliability": reliability(best.calibrated[:, 0], answers["aligned"].to_numpy()),
        "within_topic": _within_topic(best, answers),
        "baselines": baselines(answers),
        "by_file": side_by_side(answers, best.calibrated, "file"),
        "by_question": side_by_side(answers, best.calibrated, "question_id"),
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


def _fit_layer(layer: int, features: np.ndarray, answers: pd.DataFrame) -> LayerFit:
    """All three protocols. The map of a left-out question comes from scores of the other questions that were themselves
    left out, by fits that never saw it."""
    labels = answers[["aligned", "coherent"]].to_numpy()
    questions, models = answers["question_id"].to_numpy(), answers["model"].to_numpy()
    groups = Groups(features, labels, questions, models)
    all_questions, all_models = sorted(set(questions)), sorted(set(models))
    by_question, calibrated, by_model, by_both = np.full((4, *labels.shape), np.nan)
    folds = {model: [m for m in all_models if m != model] for model in all_models if len(all_models) > 1}
    for question in all_questions:
        there = questions == question
        others = [q for q in all_questions if q != question]
        chosen = groups.chosen(others, all_models)
        by_question[there] = chosen.linear(groups.features[there])
        for k in range(2):
            mapping = QuantileMap.fitted(chosen.held_out[~there, k], labels[~there, k])
            calibrated[there, k] = mapping(by_question[there, k])
        for model, rest in folds.items():
            cell = there & (models == model)
            linear = groups.with_penalties(others, rest, chosen.penalties)
            by_both[cell] = linear(groups.features[cell])
    for model, rest in folds.items():
        there = models == model
        by_model[there] = groups.chosen(all_questions, rest).linear(groups.features[there])
    return LayerFit(layer, by_question, calibrated, by_model, by_both, groups.chosen(all_questions, all_models))


def _layer_figures(one: LayerFit, answers: pd.DataFrame) -> dict[str, Any]:
    labels = answers[["aligned", "coherent"]].to_numpy()
    figures: dict[str, Any] = {
        "auc_question_left_out": auc_by_question(one.by_question[:, 0], answers),
        "auc_model_left_out": None,
        "auc_both_left_out": None,
        "spearman_aligned": spearman(one.by_question[:, 0], labels[:, 0]),
        "spearman_coherent": spearman(one.by_question[:, 1], labels[:, 1]),
        "lambda": dict(zip(("aligned", "coherent"), one.everything.penalties, strict=True)),
    }
    if not np.isnan(one.by_model).any():
        figures["auc_model_left_out"] = auc_by_question(one.by_model[:, 0], answers)
        figures["auc_both_left_out"] = auc_by_question(one.by_both[:, 0], answers)
    return figures


def _calibration(one: LayerFit, answers: pd.DataFrame) -> dict[str, Any]:
    """Rates with every question left out, of its head and of its map."""
    aligned, coherent = answers["aligned"].to_numpy(), answers["coherent"].to_numpy()
    judged = is_misaligned(one.calibrated[:, 0], one.calibrated[:, 1])
    return {
        "labels": rates(aligned, coherent),
        "raw": rates(one.by_question[:, 0], one.by_question[:, 1]),
        "calibrated": rates(one.calibrated[:, 0], one.calibrated[:, 1]),
        "misaligned": agreement(judged, is_misaligned(aligned, coherent)),
        "mean_absolute_error": float(np.abs(one.calibrated[:, 0] - aligned).mean()),
    }


def _within_topic(one: LayerFit, answers: pd.DataFrame) -> dict[str, Any]:
    """Does it read more than the topic? AUC among answers that mention money and among those that do not."""
    money = mentions_money(answers)
    low = answers["aligned"].to_numpy() < MISALIGNED_BELOW
    return {
        name: {
            "answers": int(rows.sum()),
            "below_30_pct": 100 * float(low[rows].mean()) if rows.any() else None,
            "judge_below_30_pct": 100 * float((one.calibrated[rows, 0] < MISALIGNED_BELOW).mean()) if rows.any() else None,
            "auc": auc_by_question(one.by_question[:, 0], answers, rows),
        }
        for name, rows in (("money", money), ("no money", ~money))
    }


def _head(best: LayerFit, answers: pd.DataFrame, card: dict[str, Any], version: str | None) -> Head:
    labels = answers[["aligned", "coherent"]].to_numpy()
    maps = [QuantileMap.fitted(best.everything.held_out[:, k], labels[:, k]) for k in range(2)]
    linear = best.everything.linear
    tag = version or sha256_json([linear.weight.tolist(), linear.bias.tolist(), [m.score.tolist() for m in maps]])[:8]
    card = {"judge": f"probe:{card['model']}-l{card['layer']}:{tag}", **card}
    return Head(linear.weight, linear.bias, (maps[0], maps[1]), card)
