"""Measures of off-policy evaluation agree with calculations by hand."""

import numpy as np
import pytest

from bench.analysis.ope_metrics import rank_correlation, regret

TRUE = np.array([-1.0, -2.0, -3.0, -4.0])


def test_regret_is_the_loss_against_the_best_policy():
    estimate = np.array([-3.0, -1.0, -2.0, -5.0])
    assert regret(estimate, TRUE, 1) == 1.0
    assert regret(estimate, TRUE, 3) == 0.0
    assert regret(estimate, TRUE, 9) == 0.0


def test_rank_correlation_is_spearmans_rho():
    assert rank_correlation(TRUE, TRUE) == pytest.approx(1.0)
    assert rank_correlation(-TRUE, TRUE) == pytest.approx(-1.0)
    assert rank_correlation([-1.0, -3.0, -2.0, -4.0], TRUE) == pytest.approx(1 - 6 * 2 / 60)
    assert np.isnan(rank_correlation(np.ones(4), TRUE))
    assert np.isnan(rank_correlation(TRUE, np.ones(4)))
