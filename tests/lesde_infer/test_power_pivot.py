"""Where power laws are pinned: amid the information, whatever rates and noise do."""

import numpy as np
import pytest

from lesde_infer.curves import LATE_SHARE, TIME_SCALE_SHARE
from lesde_infer.power_pivot import EARLIEST, power_pivot

SPAN = 1000.0
ELAPSED = np.arange(2.5, SPAN, 5.0)
X = ELAPSED + TIME_SCALE_SHARE * SPAN


def pivot(rate, noise, seed=0):
    errors = noise * np.ones_like(X)
    return power_pivot(rate + errors * np.random.default_rng(seed).normal(size=X.size), errors, ELAPSED, SPAN)


@pytest.mark.parametrize("exponent", [-1.0, 0.0, 0.8])
def test_level_and_exponent_are_uncorrelated_there(exponent):
    """Of r = a (x/x₀)^−b the information between log a and b is Σ r² log(x/x₀)/e², which vanishes at x₀."""
    rate = (X / SPAN) ** -exponent
    found = pivot(rate, 0.01)
    between = rate**2 @ np.log(X / (found * SPAN + TIME_SCALE_SHARE * SPAN))
    spread = rate**2 @ np.log(X / X.mean()) ** 2
    assert abs(between) < 0.05 * spread


def test_it_is_late_where_only_late_intervals_tell_and_early_where_early_ones_do():
    none = np.zeros_like(X)
    assert pivot(none, 1e-3 * (X / SPAN) ** -2.0) > 0.7
    assert pivot(none, 1e-3 * (X / SPAN) ** 2.0) < 0.1
    assert EARLIEST < pivot(none, 1.0) < LATE_SHARE


def test_noise_alone_makes_no_exponent():
    """Where there is no drift the pivot is that of equal weights, up to what chance does."""
    flat = np.exp(np.log(X).mean()) / SPAN - TIME_SCALE_SHARE
    found = [pivot(np.zeros_like(X), 1.0, seed) for seed in range(20)]
    assert np.median(found) == pytest.approx(flat, rel=0.35)


def test_units_do_not_matter():
    rng = np.random.default_rng(1)
    estimates, errors = rng.normal(size=X.size), rng.uniform(0.5, 2.0, size=X.size)
    one = power_pivot(estimates, errors, ELAPSED, SPAN)
    assert power_pivot(1e-9 * estimates, 1e-9 * errors, 60.0 * ELAPSED, 60.0 * SPAN) == pytest.approx(one)


def test_intervals_that_tell_nothing_do_not_count():
    rate = (X / SPAN) ** -0.5
    errors = 0.1 * np.ones_like(X)
    lost = rate.copy()
    lost[::3] = np.nan
    kept = np.isfinite(lost)
    assert power_pivot(lost, errors, ELAPSED, SPAN) == power_pivot(rate[kept], errors[kept], ELAPSED[kept], SPAN)
    assert power_pivot(lost, 0 * errors, ELAPSED, SPAN) == LATE_SHARE
