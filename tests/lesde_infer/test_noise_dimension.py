"""Effective dimension of noise, against covariances that are known."""

from dataclasses import replace

import numpy as np
import pytest
from core_helpers import make_run
from scipy.stats import special_ortho_group

from lesde_infer.assembly import assemble, locate
from lesde_infer.noise_dimension import EffectiveDimension
from lesde_infer.statistics import compute_statistics

D = 12


def estimate(increments, directions=None, n_steps=None):
    found = EffectiveDimension()
    for index, increment in enumerate(increments):
        direction = np.zeros_like(increment) if directions is None else directions[index]
        found.add(increment, direction, 1 if n_steps is None else n_steps[index])
    return found.of(increments[0].size)


def noise(variances, n=3000, degrees=2.0, seed=0):
    """Student-t noise of a diagonal covariance: one factor for all entries of an interval."""
    rng = np.random.default_rng(seed)
    factor = np.sqrt(degrees / rng.chisquare(degrees, size=(n, 1)))
    return factor * rng.normal(size=(n, len(variances))) * np.sqrt(variances)


@pytest.mark.parametrize("n_active", [2, 5, 11])
def test_noise_in_some_dimensions_counts_these_and_the_impact(n_active):
    variances = np.r_[np.ones(n_active), np.zeros(D - n_active)]
    assert estimate(noise(variances)) == pytest.approx(n_active + 1, rel=0.04)


def test_unequal_variances_count_as_their_participation():
    variances = 2.0 ** -np.arange(D)
    along = np.zeros((3000, D))
    along[:, 0] = 1.0  # the largest is taken for the impact: what remains is across it
    rest = variances[1:]
    unit = np.random.default_rng(4).normal(size=(200_000, D - 1)) * np.sqrt(rest)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    found = estimate(noise(variances), along)
    assert found == pytest.approx(1.0 + 1.0 / ((unit**2).mean(axis=0) ** 2).sum(), rel=0.04)
    # Directions lean a little less on the largest variance than the ratio of traces does.
    assert 1.0 < found / (1.0 + rest.sum() ** 2 / (rest**2).sum()) < 1.3


def test_drift_along_the_impact_is_not_taken_for_noise():
    rng = np.random.default_rng(1)
    along = rng.normal(size=D) + 0.0 * np.zeros((3000, 1))
    pushed = noise(np.r_[np.ones(D)]) + 50.0 * along
    assert estimate(pushed, along) == pytest.approx(D, rel=0.04)
    assert estimate(pushed) < 3.0  # had it been


def test_it_does_not_depend_on_axes_units_or_sizes():
    increments = noise(2.0 ** -np.arange(D), n=300)
    turn = special_ortho_group.rvs(D, random_state=2)
    sizes = np.exp(np.random.default_rng(3).normal(size=(300, 1)))
    assert estimate(sizes * increments @ turn) == pytest.approx(estimate(1e-9 * increments), rel=1e-9)


def test_short_and_long_intervals_are_compared_among_themselves():
    """Short ones move along one half of the axes, long ones along the other: between them cosines would vanish."""
    increments = noise(np.ones(D), n=2000)
    increments[::2, : D // 2] = 0.0
    increments[1::2, D // 2 :] = 0.0
    n_steps = np.where(np.arange(2000) % 2, 19, 1)
    assert estimate(increments, n_steps=n_steps) == pytest.approx(D / 2 + 1, rel=0.05)
    assert estimate(increments) > 1.5 * D / 2


def test_increments_that_vanish_say_nothing():
    assert estimate(np.zeros((10, D))) == D
    exact = np.outer(np.arange(1.0, 11.0), np.ones(D))
    assert estimate(exact, exact) == D  # all along the impact: rounding is left, which is no noise


def test_one_dimension_stays_one():
    assert estimate(noise(np.ones(1), n=50)) == 1.0


def test_posteriors_do_not_take_idle_features_for_quiet_ones(tmp_path):
    """Features that never move change what the fit is told of each interval by constants only."""
    run = make_run(3, 6, 30)
    with run.write(tmp_path / "run.h5") as recording:
        plain = compute_statistics(recording, "out", "I")
    wide_run = replace(run, logits=np.concatenate([run.logits, np.zeros_like(run.logits)], axis=2))
    with wide_run.write(tmp_path / "wide.h5", logits=None, classifier=None) as recording:
        wide = compute_statistics(recording, "out", "I")
    assert wide.contrast.dimension == 2 * plain.contrast.dimension
    assert wide.contrast.effective_dimension == pytest.approx(plain.contrast.effective_dimension, rel=1e-9)
    for stratum in ("class_noise", "shared"):
        (one, place), (other, _) = (locate(assemble(found, "gp"), stratum) for found in (plain, wide))
        assert float(other.dimension[place]) == pytest.approx(float(one.dimension[place]), rel=1e-9)
        # What differs between the two: log noise per dimension of all, and the prior's centre, by the same.
        shift = np.asarray(other.log_length - one.log_length)[place]
        assert shift == pytest.approx(shift[0])
