"""How good estimates of what policies are worth are, by the measures of DOPE (Fu et al. 2021, arXiv:2103.16596)."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike


def rank_correlation(estimate: ArrayLike, true: ArrayLike) -> float:
    """Spearman's rho over policies (C,); NaN where either has one value only."""
    from scipy.stats import spearmanr

    first, second = np.asarray(estimate, dtype=float), np.asarray(true, dtype=float)
    if np.ptp(first) == 0 or np.ptp(second) == 0:
        return math.nan
    return float(spearmanr(first, second).statistic)


def regret(estimate: ArrayLike, true: ArrayLike, k: int) -> float:
    """Regret@k: how much worse the truly best of the k best estimates is than the truly best of all policies (C,)."""
    true = np.asarray(true, dtype=float)
    top = np.argsort(-np.asarray(estimate, dtype=float), kind="stable")[:k]
    return float(true.max() - true[top].max())
