"""Accuracy of off-policy evaluation: the measures of DOPE (Fu et al. 2021, arXiv:2103.16596).

C policies are compared by an estimate of their return and by their true return.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike


def rank_correlation(estimate: ArrayLike, true: ArrayLike) -> float:
    """Return Spearman's rho of estimates (C,) and true returns (C,).

    NaN where all estimates or all true returns are equal.
    """
    from scipy.stats import rankdata

    first = np.asarray(estimate, dtype=float)
    second = np.asarray(true, dtype=float)
    if np.ptp(first) == 0 or np.ptp(second) == 0:
        return math.nan
    ranks = np.column_stack([rankdata(first), rankdata(second)])
    return float(np.corrcoef(ranks, rowvar=False)[1, 0])


def regret(estimate: ArrayLike, true: ArrayLike, k: int) -> float:
    """Return regret@k, in units of the return.

    Regret@k is the true return of the best policy less that of the truly best one among the k
    policies with the highest estimates.

    Parameters
    ----------
    estimate, true
        (C,) estimated and true returns.
    k
        Number of policies that are selected by their estimates.
    """
    true = np.asarray(true, dtype=float)
    top = np.argsort(-np.asarray(estimate, dtype=float), kind="stable")[:k]
    return float(true.max() - true[top].max())
