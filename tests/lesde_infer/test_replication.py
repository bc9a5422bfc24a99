"""Latent sizes of noise, given what was recorded: against closed forms, and calibrated over simulated intervals."""

import numpy as np
import pytest
from scipy import stats

from lesde_infer.replication import scale_factors, scatter

N = 4000


def student_log_density(residual, scale, nu):
    """Log density of a vector under an isotropic multivariate Student-t, by SciPy."""
    d = residual.shape[-1]
    return stats.multivariate_t(np.zeros(d), scale**2 * np.eye(d), df=nu).logpdf(residual)


@pytest.mark.parametrize(("nu", "d", "size"), [(1.3, 1, 0.0), (2.0, 6, 3.0), (8.0, 30, 0.01)])
def test_factors_follow_their_closed_form(nu, d, size):
    scale = 0.7
    residual = np.full(d, size)
    density = np.full((N, 1), student_log_density(residual, scale, nu))
    draws = scale_factors(density, np.full((N, 1), scale), np.full(N, nu), d, np.random.default_rng(1))
    expected = stats.invgamma((nu + d) / 2, scale=(nu + residual @ residual / scale**2) / 2)
    assert stats.kstest(draws[:, 0], expected.cdf).pvalue > 1e-3


@pytest.mark.parametrize(("nu", "d"), [(1.3, 2), (5.0, 6)])
def test_factors_drawn_given_simulated_noise_are_those_of_the_prior(nu, d):
    rng = np.random.default_rng(2)
    scale = np.exp(rng.normal(size=N))
    true = stats.invgamma(nu / 2, scale=nu / 2).rvs(N, random_state=rng)
    residual = (scale * np.sqrt(true))[:, None] * rng.normal(size=(N, d))
    density = np.array([student_log_density(*pair, nu) for pair in zip(residual, scale, strict=True)])
    draws = scale_factors(density[:, None], scale[:, None], np.full(N, nu), d, rng)[:, 0]
    assert stats.ks_2samp(draws, true).pvalue > 1e-3
    assert stats.spearmanr(draws, true).statistic > 0.3  # they know of the interval, too


@pytest.mark.parametrize("error", [0.02, 0.5, 10.0])
def test_scatter_is_calibrated(error):
    """The true scatter and one drawn given the measurement are exchangeable."""
    rng = np.random.default_rng(3)
    nu, sd = 3.0, 0.6
    factors = stats.invgamma(nu / 2, scale=nu / 2).rvs((N, 1), random_state=rng)
    true = sd * np.sqrt(factors) * rng.normal(size=(N, 1))
    measured = true + error * np.sqrt(factors) * rng.normal(size=(N, 1))
    draws = scatter(measured, np.full((N, 1), sd), np.array([error]), factors, rng)
    assert stats.ks_2samp(draws[:, 0], true[:, 0]).pvalue > 1e-3
    below = (draws < true).mean()
    assert abs(below - 0.5) < 4 * 0.5 / np.sqrt(N)
    # Its distance from the truth is that of two independent draws of the posterior of the scatter.
    share = sd**2 / (sd**2 + error**2)
    standardised = (draws - true) / (error * np.sqrt(2 * share * factors))
    assert standardised.var() == pytest.approx(1.0, abs=5 * np.sqrt(2 / N))
