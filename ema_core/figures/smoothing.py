"""Pure functions on a curve: smoothing, and fewer points."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pandas as pd


def smooth(values: Sequence[float] | np.ndarray, weight: float) -> np.ndarray:
    """Exponential moving average with bias correction; ``weight`` 0 leaves the values, 0.99 nearly flattens them.

    y_n = sum_i weight^(n-i) x_i / sum_i weight^(n-i). A value that is no finite number stays out of the mean and comes back NaN.
    """
    if not 0 <= weight < 1:
        raise ValueError(f"the smoothing weight is {weight}; it is at least 0 and below 1")
    raw = np.asarray(values, dtype=float)
    finite = np.where(np.isfinite(raw), raw, np.nan)
    if weight == 0 or len(raw) == 0:
        return finite
    mean = pd.Series(finite).ewm(alpha=1 - weight, adjust=True, ignore_na=True).mean().to_numpy()
    return np.where(np.isfinite(raw), mean, np.nan)


def thin(values: np.ndarray, points: int) -> np.ndarray:
    """Indices of at most ``points`` values that keep the curve's shape: first, last, and the extremes of equal stretches."""
    count = len(values)
    if count <= points:
        return np.arange(count)
    edges = np.linspace(0, count, max(1, (points - 2) // 2) + 1).astype(int)
    low, high = np.where(np.isnan(values), np.inf, values), np.where(np.isnan(values), -np.inf, values)
    kept = {0, count - 1}
    for start, end in pairwise(edges):
        kept.update((start + int(np.argmin(low[start:end])), start + int(np.argmax(high[start:end]))))
    return np.array(sorted(kept))
