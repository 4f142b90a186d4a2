"""Ridge regression over groups of answers, any of which can be left out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

LAMBDAS = tuple(10.0 ** (step / 2) for step in range(-2, 4))
"""On standardised features and a mean (not a sum) of squared errors."""


@dataclass(frozen=True)
class Linear:
    """``features @ weight.T + bias``; weight targets x features."""

    weight: np.ndarray
    bias: np.ndarray

    def __call__(self, features: np.ndarray) -> np.ndarray:
        return features @ self.weight.T + self.bias


class Groups:
    """Features and labels (alignment and coherence) by question and model.

    Alignment is fitted with ``balance``; coherence without: that few answers are incoherent did not make it better there.
    """

    def __init__(self, features: np.ndarray, labels: np.ndarray, questions: np.ndarray, models: np.ndarray) -> None:
        self.features = np.asarray(features, dtype=np.float64)
        self.labels = np.asarray(labels, dtype=np.float64)
        self.questions, self.models = questions, models

    def rows(self, questions: Sequence[str], models: Sequence[str]) -> np.ndarray:
        return np.isin(self.questions, questions) & np.isin(self.models, models)

    def solve(self, questions: Sequence[str], models: Sequence[str], lambdas: Sequence[float]) -> list[Linear]:
        """One ridge a lambda, fitted on these questions of these models; features standardised by the same answers."""
        there = self.rows(questions, models)
        x, y = self.features[there], self.labels[there]
        targets = [_ridges(x, y[:, 0], balance(y[:, 0]), lambdas), _ridges(x, y[:, 1], np.ones(len(y)), lambdas)]
        return [
            Linear(np.stack([weight for weight, _ in parts]), np.array([bias for _, bias in parts]))
            for parts in zip(*targets, strict=True)
        ]

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


def balance(labels: np.ndarray) -> np.ndarray:
    """Weights by which each fifth of the scale counts as much as any other, whatever the number of answers there.

    Most answers score high. Unweighted, a ridge spends itself on telling good from better; few bad ones are there to learn from.
    """
    fifth = np.clip((labels / 20).astype(int), 0, 4)
    weights: np.ndarray = 1 / np.bincount(fifth)[fifth]
    return weights


def _ridges(x: np.ndarray, y: np.ndarray, weights: np.ndarray, lambdas: Sequence[float]) -> list[tuple[np.ndarray, float]]:
    """Weight and bias for each lambda."""
    from scipy.linalg import cho_factor, cho_solve

    shares = weights / weights.sum()
    mean, label_mean = shares @ x, float(shares @ y)
    x = (x - mean) * np.sqrt(shares)[:, None]
    covariance = x.T @ x
    scale = np.sqrt(np.maximum(np.diag(covariance), 1e-12))
    correlation = covariance / np.outer(scale, scale)
    slopes = x.T @ ((y - label_mean) * np.sqrt(shares)) / scale
    fitted = []
    for penalty in lambdas:
        weight = cho_solve(cho_factor(correlation + penalty * np.eye(len(scale)), lower=True), slopes) / scale
        fitted.append((weight, label_mean - float(weight @ mean)))
    return fitted


@dataclass(frozen=True)
class Chosen:
    """A ridge, its lambdas, and for each training answer the score that it gets with its question left out (else NaN)."""

    linear: Linear
    penalties: tuple[float, float]
    held_out: np.ndarray
