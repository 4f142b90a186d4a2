"""Ridge regression over groups of answers: any set of groups can be left out without a new pass over the features."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

LAMBDAS = tuple(10.0 ** (step / 2) for step in range(-6, 5))
"""On standardised features and a mean (not a sum) of squared errors."""


@dataclass(frozen=True)
class Linear:
    """``features @ weight.T + bias``; weight targets x features."""

    weight: np.ndarray
    bias: np.ndarray

    def __call__(self, features: np.ndarray) -> np.ndarray:
        return features @ self.weight.T + self.bias


class Groups:
    """Features and labels by (question, model), and the moments of each such cell."""

    def __init__(self, features: np.ndarray, labels: np.ndarray, questions: np.ndarray, models: np.ndarray) -> None:
        self.features = np.asarray(features, dtype=np.float64)
        self.labels = np.asarray(labels, dtype=np.float64)
        self.questions, self.models = questions, models
        # Moments are taken around the overall mean, which keeps the differences of sums below exact; it cancels again.
        self._centre = self.features.mean(axis=0)
        self._cells = {}
        for cell in sorted(set(zip(questions.tolist(), models.tolist(), strict=True))):
            rows = (questions == cell[0]) & (models == cell[1])
            x, y = self.features[rows] - self._centre, self.labels[rows]
            self._cells[cell] = (float(len(x)), x.sum(0), x.T @ x, y.sum(0), x.T @ y)

    def rows(self, questions: Sequence[str], models: Sequence[str]) -> np.ndarray:
        return np.isin(self.questions, questions) & np.isin(self.models, models)

    def solve(self, questions: Sequence[str], models: Sequence[str], lambdas: Sequence[float]) -> list[Linear]:
        """One ridge a lambda, fitted on these questions of these models; features standardised by the same answers."""
        cells = [moments for (q, m), moments in self._cells.items() if q in questions and m in models]
        n, sx, sxx, sy, sxy = (sum(part[1:], start=part[0]) for part in zip(*cells, strict=True))
        mean, label_mean = sx / n, sy / n
        covariance = sxx / n - np.outer(mean, mean)
        scale = np.sqrt(np.maximum(np.diag(covariance), 1e-12))
        values, vectors = np.linalg.eigh(covariance / np.outer(scale, scale))
        projected = vectors.T @ ((sxy / n - np.outer(mean, label_mean)) / scale[:, None])
        fitted = []
        for penalty in lambdas:
            weight = (vectors @ (projected / (np.maximum(values, 0) + penalty)[:, None])).T / scale
            fitted.append(Linear(weight, label_mean - weight @ (mean + self._centre)))
        return fitted

    def chosen(self, questions: Sequence[str], models: Sequence[str]) -> Chosen:
        """Ridge with lambdas by the squared error on each of ``questions`` in turn, left out, around that question's mean error.

        How high a new question's answers score as a whole cannot be learned from eight questions; counted as error, it would
        drive the penalty up until nothing is left that tells one answer from another.
        """
        held_out = np.full((len(LAMBDAS), len(self.labels), 2), np.nan)
        errors = np.zeros((len(LAMBDAS), 2))
        for question in questions:
            there = self.rows([question], models)
            if not there.any():  # these models were not asked it
                continue
            others = [q for q in questions if q != question]
            for place, linear in enumerate(self.solve(others, models, LAMBDAS)):
                held_out[place, there] = linear(self.features[there])
            wrong = held_out[:, there] - self.labels[there]  # lambdas x answers x targets
            errors += ((wrong - wrong.mean(axis=1, keepdims=True)) ** 2).sum(axis=1)
        best = errors.argmin(axis=0)
        penalties = (float(LAMBDAS[best[0]]), float(LAMBDAS[best[1]]))
        return Chosen(
            linear=self.with_penalties(questions, models, penalties),
            penalties=penalties,
            held_out=np.stack([held_out[best[k], :, k] for k in range(2)], axis=1),
        )

    def with_penalties(self, questions: Sequence[str], models: Sequence[str], penalties: Sequence[float]) -> Linear:
        """A ridge with its own lambda for each target."""
        linears = self.solve(questions, models, penalties)
        return Linear(
            np.stack([linear.weight[k] for k, linear in enumerate(linears)]),
            np.stack([linear.bias[k] for k, linear in enumerate(linears)]),
        )


@dataclass(frozen=True)
class Chosen:
    """A ridge, its lambdas, and for each training answer the score that it gets with its question left out (else NaN)."""

    linear: Linear
    penalties: tuple[float, float]
    held_out: np.ndarray
