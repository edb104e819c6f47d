"""Measures of off-policy evaluation, by hand."""

import numpy as np
import pytest

from bench.analysis.ope_metrics import rank_correlation, regret


def test_how_good_estimates_are():
    true, estimate = np.array([-1.0, -2.0, -3.0, -4.0]), np.array([-3.0, -1.0, -2.0, -5.0])
    assert regret(estimate, true, 1) == 1.0
    assert regret(estimate, true, 3) == 0.0
    assert regret(estimate, true, 9) == 0.0
    assert rank_correlation(true, true) == pytest.approx(1.0)
    assert rank_correlation(-true, true) == pytest.approx(-1.0)
    assert np.isnan(rank_correlation(np.ones(4), true))
