"""Measures of drifts give back what drifts were made of, and errors that are neither too small nor too large."""

import numpy as np
import pytest

from data_tools.drift_measures import (
    class_means,
    contrasts,
    kernel_elasticity,
    mean_diagonal,
    mean_drift,
    mean_off_diagonal,
    mean_residuals,
    onestep_separation_rates,
    relative_similarity,
    separation_rate,
    small_step_ratio,
)

RNG = np.random.default_rng(0)


@pytest.mark.parametrize(("n_classes", "width"), [(3, 3), (4, 7), (10, 2)])
def test_homogeneous_elasticity_gives_alpha_minus_beta(n_classes, width):
    alpha, beta = 0.7, -0.2
    elasticity = np.full((n_classes, n_classes), beta) + (alpha - beta) * np.eye(n_classes)
    impact = RNG.normal(size=(5, n_classes, width))
    drift = elasticity @ impact / n_classes
    np.testing.assert_allclose(separation_rate(drift, impact), alpha - beta)
    change = elasticity.T[:, :, None] * impact[:, :, None]  # what moves each class per step on each class
    np.testing.assert_allclose(change.mean(axis=1), drift)
    kernel = kernel_elasticity(change, impact)
    np.testing.assert_allclose(kernel, np.broadcast_to(elasticity, kernel.shape))
    np.testing.assert_allclose(mean_diagonal(kernel), alpha)
    np.testing.assert_allclose(mean_off_diagonal(kernel), beta)


def test_kernel_rows_move_and_columns_are_stepped_on():
    impact = RNG.normal(size=(3, 4))
    elasticity = RNG.normal(size=(3, 3))
    change = elasticity.T[:, :, None] * impact[:, None]
    np.testing.assert_allclose(kernel_elasticity(change, impact), elasticity)
    impact[1] = 0
    assert np.isnan(kernel_elasticity(change, impact)[:, 1]).all()


def test_drift_across_the_contrasts_does_not_count():
    impact = RNG.normal(size=(4, 3))
    shift = np.ones((4, 1)) * RNG.normal(size=3)
    drift = 0.3 * impact / 4
    assert separation_rate(drift + shift, impact) == pytest.approx(0.3)
    assert separation_rate(drift, impact + shift) == pytest.approx(0.3)
    assert np.isnan(separation_rate(drift, np.ones((4, 3))))


def test_pooling_is_the_ratio_of_sums():
    impact = RNG.normal(size=(6, 3, 2)) * np.arange(1, 7)[:, None, None]
    onestep = RNG.normal(size=(6, 3, 5, 3, 2))
    shares = np.array([0.5, 0.3, 0.2])
    rates = onestep_separation_rates(onestep, impact, shares)
    drift, _ = mean_drift(onestep, shares)
    direction = contrasts(impact)
    np.testing.assert_allclose(rates.rate, separation_rate(drift, impact))
    chosen = [1, 2, 5]
    expected = 3 * np.sum(drift[chosen] * direction[chosen]) / np.sum(direction[chosen] ** 2)
    assert rates.pooled(chosen)[0] == pytest.approx(expected)
    assert rates.pooled(np.arange(6) < 0) == (pytest.approx(np.nan, nan_ok=True),) * 2
    errors = rates.standard_error * rates.weight / rates.weight.sum()
    assert rates.pooled()[1] == pytest.approx(np.sqrt(np.sum(errors**2)))


@pytest.mark.parametrize("shares", [[1.0], [0.2, 0.5, 0.3]])
def test_standard_errors_are_those_of_repeated_measurements(shares):
    # 4,000 measurements: the mean of the estimated variances is within 5 % of what the estimates scatter by.
    n_repeats, scale = 6, np.array([1.0, 3.0, 0.5])[: len(shares), None, None, None]
    noise = RNG.normal(size=(4000, len(shares), n_repeats, 3, 2)) * scale
    impact = np.broadcast_to(RNG.normal(size=(3, 2)), (4000, 3, 2))
    rates = onestep_separation_rates(noise + 0.1, impact, np.array(shares))
    assert np.mean(rates.standard_error**2) == pytest.approx(rates.rate.var(), rel=0.1)
    drift, error = mean_drift(noise, np.array(shares))
    np.testing.assert_allclose(np.mean(error**2, axis=0), drift.var(axis=0), rtol=0.12)


def test_a_single_repeat_has_no_error():
    rates = onestep_separation_rates(np.ones((2, 1, 1, 3, 2)), RNG.normal(size=(2, 3, 2)), np.ones(1))
    assert np.isfinite(rates.rate).all()
    assert np.isnan(rates.standard_error).all()


def test_small_step_ratio_is_a_projection():
    tangent = RNG.normal(size=(3, 2))
    assert small_step_ratio(0.4 * tangent + 5, tangent) == pytest.approx(0.4)
    assert np.isnan(small_step_ratio(tangent, np.zeros((3, 2))))


def test_class_means_and_residuals():
    features = np.array([[1.0, 2], [3, 4], [10, 20]], dtype=np.float32)
    np.testing.assert_array_equal(class_means(features, np.array([1, 1, 0]), 3), [[10, 20], [2, 3], [np.nan] * 2])
    logits = np.log([[0.5, 0.3, 0.2], [0.1, 0.1, 0.8]])
    residuals = mean_residuals(logits, np.array([0, 1]), np.array([2, 0]))
    np.testing.assert_allclose(residuals[[2, 0]], [[0.5, -0.3, -0.2], [-0.1, 0.9, -0.8]])


def test_similarity_within_and_across():
    moves = np.array([[2.0, 1, 0.5], [2, 4, 1], [1, 1, 1]])
    within, across = relative_similarity(moves, np.array([0, 0, 1]), np.zeros(3))
    assert within == pytest.approx((1 / 2 + 2 / 4) / 2)
    assert across == pytest.approx((0.5 / 2 + 1 / 4 + 1 + 1) / 4)
    within, across = relative_similarity(moves, np.array([0, 0, 1]), np.array([0, 5, 5.0]))
    assert (within, across) == (0.5, 0.25)
    assert np.isnan(relative_similarity(moves, np.array([0, 0, 1]), np.full(3, 9.0))).all()
