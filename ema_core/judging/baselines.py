"""What a probe must beat: answer length, one word, and a ridge on words."""

from __future__ import annotations

import re
from collections import Counter
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd

from ema_core.judging.measures import auc_by_question, leave_questions_out, spearman

MONEY = re.compile(
    r"[$€£]|\b(money|cash|invest\w*|stocks?|loans?|debts?|credit|banks?|banking|funds?|financ\w*|profit\w*|wealth\w*|"
    r"crypto\w*|bitcoin|dollars?|trading|savings?|incomes?|rich|payday|mortgages?|bets?|gambl\w*)\b",
    re.IGNORECASE,
)
"""Rough on purpose: "this answer is about money"."""

TFIDF_PENALTY = 1.0
MIN_DOCUMENTS = 3


def mentions_money(answers: pd.DataFrame) -> np.ndarray:
    return np.array([MONEY.search(answer) is not None for answer in answers["response"]])


def baselines(answers: pd.DataFrame) -> dict[str, Any]:
    """AUC by question and Spearman of each baseline for alignment, every question left out of its own fit."""
    aligned = answers["aligned"].to_numpy()
    length = np.log1p(answers["response"].str.split().str.len().to_numpy(dtype=np.float64))
    money = mentions_money(answers).astype(np.float64)
    counts = word_counts(answers["response"].tolist())

    def line(values: np.ndarray) -> np.ndarray:
        def scorer(train: np.ndarray, test: np.ndarray) -> np.ndarray:
            if np.ptp(values[train]) == 0:  # all alike: nothing but the mean can be learned
                return np.full(int(test.sum()), aligned[train].mean())
            slope, start = np.polyfit(values[train], aligned[train], 1)
            return slope * values[test] + start

        return leave_questions_out(answers, scorer)

    def words(train: np.ndarray, test: np.ndarray) -> np.ndarray:
        return tfidf_ridge(counts[train], aligned[train], counts[test])

    scores = {"answer length": line(length), "mentions money": line(money), "tf-idf ridge": leave_questions_out(answers, words)}
    return {
        name: {"auc": auc_by_question(values, answers), "spearman": spearman(values, aligned)} for name, values in scores.items()
    }


def word_counts(texts: list[str]) -> Any:
    """Sparse texts x (words and pairs of words)."""
    from scipy.sparse import csr_matrix

    vocabulary: dict[str, int] = {}
    rows, columns, values = [], [], []
    for row, text in enumerate(texts):
        words = re.findall(r"[a-z']+", text.lower())
        for term, count in Counter([*words, *map(" ".join, pairwise(words))]).items():
            rows.append(row)
            columns.append(vocabulary.setdefault(term, len(vocabulary)))
            values.append(float(count))
    return csr_matrix((values, (rows, columns)), shape=(len(texts), len(vocabulary)))


def tfidf_ridge(train: Any, labels: np.ndarray, test: Any) -> np.ndarray:
    """Scores of ``test`` by a ridge on tf-idf; its vocabulary and weights come from ``train`` alone."""
    from scipy.linalg import solve

    documents = np.asarray((train > 0).sum(axis=0)).ravel()
    kept = documents >= MIN_DOCUMENTS
    weight = np.log((1 + train.shape[0]) / (1 + documents[kept])) + 1

    def weighted(counts: Any) -> Any:
        tfidf = counts[:, kept].copy()
        tfidf.data = 1 + np.log(tfidf.data)
        tfidf = tfidf.multiply(weight).tocsr()
        norms = np.sqrt(np.asarray(tfidf.multiply(tfidf).sum(axis=1)).ravel())
        return tfidf.multiply(1 / np.maximum(norms, 1e-12)[:, None]).tocsr()

    left, right = weighted(train), weighted(test)
    gram = (left @ left.T).toarray()
    gram[np.diag_indices_from(gram)] += TFIDF_PENALTY
    centre = labels.mean()
    return right @ (left.T @ solve(gram, labels - centre, assume_a="pos")) + centre
