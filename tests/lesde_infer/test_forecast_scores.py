"""Scores against closed forms."""

from itertools import product

import numpy as np
import pytest
from scipy.stats import norm

from lesde_infer.forecast_scores import crps, log_linear_extrapolation, log_score, pit, score, scored

NORMAL = 2.0 + 0.5 * norm.ppf((np.arange(40_000) + 0.5) / 40_000)  # a sample of N(2, 0.5²) without its randomness


@pytest.mark.parametrize("observed", [0.5, 1.9, 2.0, 3.7])
def test_crps_of_a_normal_sample(observed):
    z = (observed - 2.0) / 0.5
    expected = 0.5 * (z * (2 * norm.cdf(z) - 1) + 2 * norm.pdf(z) - 1 / np.sqrt(np.pi))
    assert crps(np.random.default_rng(0).permutation(NORMAL), observed) == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("observed", [0.5, 1.9, 3.1])
def test_log_score_of_a_normal_sample(observed):
    assert log_score(NORMAL, observed) == pytest.approx(-norm.logpdf(observed, 2.0, 0.5), abs=2e-3)


def test_crps_is_the_mean_distance_less_half_the_mean_distance_of_pairs():
    draws = np.random.default_rng(1).standard_t(2, size=7)
    pairs = np.abs(draws[:, None] - draws)
    expected = np.abs(draws - 0.3).mean() - pairs.sum() / (2 * 7 * 6)
    assert crps(np.append(draws, np.nan), 0.3) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("n", [2, 3, 5])
def test_expected_crps_does_not_depend_on_the_number_of_draws(n):
    """Of 0 or 1 with equal chances, against 0.3: ½·0.3 + ½·0.7 − ½·½."""
    values = [crps(np.array(draws, float), 0.3) for draws in product([0, 1], repeat=n)]
    assert np.mean(values) == pytest.approx(0.25, rel=1e-12)


def test_crps_of_a_point_forecast_is_the_absolute_error():
    assert crps(np.full(9, 1.5), -0.25) == 1.75


def test_crps_favours_the_right_scale():
    truth = np.random.default_rng(2).normal(size=400)
    mean = {s: np.mean([crps(s * (NORMAL[::80] - 2.0) / 0.5, y) for y in truth]) for s in (0.3, 1.0, 3.0)}
    assert mean[1.0] < min(mean[0.3], mean[3.0])


def test_pit_is_a_mid_rank():
    draws = np.array([1.0, 2.0, 2.0, 3.0, np.nan])
    assert pit(draws, 0.0) == pytest.approx(0.5 / 5)
    assert pit(draws, 2.0) == pytest.approx((1 + 1 + 0.5) / 5)
    assert pit(draws, 9.0) == pytest.approx(4.5 / 5)


def test_nothing_is_made_of_what_is_not_defined():
    nothing = np.full(5, np.nan)
    for value in (crps(nothing, 1.0), pit(nothing, 1.0), crps(NORMAL, np.nan), log_score(np.ones(5), 1.0)):
        assert np.isnan(value)
    found = score("nc1", nothing, 1.0, {"persistence": 2.0})
    assert found["inside90"] is None
    assert np.isnan(found["skill_persistence"])


def test_a_line_in_log_time_is_continued():
    elapsed = np.linspace(0.0, 100.0, 21)
    values = 2.0 - 0.5 * np.log(np.maximum(elapsed, 1.0))
    values[elapsed < 50] = 7.0  # before the last half: not looked at
    values[15] = np.nan
    assert log_linear_extrapolation(elapsed, values, np.array([400.0])) == pytest.approx(2.0 - 0.5 * np.log(400.0))
    assert np.isnan(log_linear_extrapolation(elapsed, np.full(21, np.nan), np.array([400.0])))


def test_scores_of_positive_metrics_are_of_logarithms():
    draws = np.exp(NORMAL[::100])
    found = score("between_norm", draws, float(np.exp(2.6)), {"persistence": float(np.exp(1.0)), "log_linear": 0.0})
    assert found["scale"] == "log"
    assert found["crps"] == pytest.approx(crps(NORMAL[::100], 2.6))
    assert found["crps_persistence"] == pytest.approx(1.6)  # that of a point forecast is its absolute error
    assert found["skill_persistence"] == pytest.approx(1 - crps(NORMAL[::100], 2.6) / 1.6)
    assert np.isnan(found["skill_log_linear"])  # log 0
    assert found["inside90"] is True
    assert score("between_norm", draws, float(np.exp(3.1)), {})["inside90"] is False
    plain = score("linear_accuracy", np.array([0.8, 0.9, 1.0]), 0.9, {"persistence": 0.5})
    assert plain["crps_persistence"] == pytest.approx(0.4)
    assert scored("linear_accuracy", np.array([0.0])) == 0.0
