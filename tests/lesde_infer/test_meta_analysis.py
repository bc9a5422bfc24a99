"""Architecture means: closed forms, the joint route, coverage, how often equal architectures are called different."""

import numpy as np
import pytest
from scipy.stats import norm

from lesde_infer.contrasts import EQUIVALENT, Quantity, contrast, further_runs
from lesde_infer.meta_analysis import GRID, GroupPosterior, _kernel, joint, moments, two_stage
from lesde_infer.run_summary import WeightedDraws


def gaussian_draws(mean, sd, n=2000, seed=0):
    levels = (np.random.default_rng(seed).permutation(n) + 0.5) / n
    return WeightedDraws(mean + sd * norm.ppf(levels), np.full(n, 1.0 / n))


def test_precise_runs_that_agree_have_little_chance_between_them():
    found = two_stage(np.array([1.0, 1.001, 0.999, 1.0, 1.0005]), np.full(5, 1e-3), 1.0, 0)
    assert np.quantile(found.chance, 0.95) < 0.01
    assert np.quantile(np.abs(found.mean - 1.0), 0.95) < 0.005


def test_with_errors_far_above_chance_the_mean_is_the_weighted_one():
    values, errors = np.array([1.0, 3.0]), np.array([5.0, 10.0])
    found = two_stage(values, errors, 2.0, 0)
    weights = 1.0 / (errors**2 + 0.25)
    assert found.mean.mean() == pytest.approx((weights * values).sum() / weights.sum(), abs=0.5)
    assert found.mean.std() == pytest.approx(1.0 / np.sqrt(weights.sum() + 0.01), rel=0.1)


def test_the_grid_is_the_integral_over_chance():
    """Posterior mean and sd of μ by numerical integration over (μ, τ) on a plain grid."""
    values, errors, centre = np.array([0.3, 1.1, -0.2]), np.array([0.2, 0.4, 0.1]), 0.4
    mu, tau = np.linspace(-4, 5, 901)[:, None], np.geomspace(1e-3, 30, 600)[None, :]
    density = norm.pdf(mu, centre, 10.0) * (1 + (tau / 0.5) ** 2 / 4) ** -2.5 * tau
    for value, error in zip(values, errors, strict=True):
        density = density * norm.pdf(value, mu, np.sqrt(error**2 + tau**2))
    of_mean = density.sum(axis=1) / density.sum()
    expected = float((of_mean * mu[:, 0]).sum())
    spread = float(np.sqrt((of_mean * (mu[:, 0] - expected) ** 2).sum()))
    found = two_stage(values, errors, centre, 1)
    assert found.mean.mean() == pytest.approx(expected, abs=4 * spread / np.sqrt(4000))
    assert found.mean.std() == pytest.approx(spread, rel=0.08)


def test_results_move_and_scale_with_the_data():
    values, errors = np.array([0.3, 1.1, -0.2]), np.array([0.2, 0.4, 0.1])
    here, there = two_stage(values, errors, 0.4, 1), two_stage(values + 7.0, errors, 7.4, 1)
    np.testing.assert_allclose(there.mean, here.mean + 7.0, rtol=1e-10)
    np.testing.assert_array_equal(there.chance, here.chance)


def test_observed_numbers_have_no_error_of_their_own():
    found = two_stage(np.array([1.0, 2.0, 3.0]), np.zeros(3), 2.0, 0)
    assert np.isfinite(found.mean).all()
    assert (found.chance > 0).all()
    assert np.median(found.chance) == pytest.approx(1.0, rel=0.4)


def test_one_run_leaves_chance_to_its_prior():
    found = two_stage(np.array([2.0]), np.array([0.1]), 2.0, 0)
    prior = np.abs(np.random.default_rng(0).standard_t(4, 20_000)) * 0.5
    assert np.median(found.chance) == pytest.approx(np.median(prior), rel=0.1)
    assert (found.mean > 0).mean() > 0.9


def test_both_routes_agree_on_gaussian_posteriors():
    truths = np.random.default_rng(2).normal(1.0, 0.4, size=6)
    runs = [gaussian_draws(mean, 0.2, seed=i) for i, mean in enumerate(truths)]
    values, errors = (np.array(column) for column in zip(*map(moments, runs), strict=True))
    fast, full = two_stage(values, errors, 1.0, 0), joint(runs, 1.0, 0)
    assert full.mean.mean() == pytest.approx(fast.mean.mean(), abs=0.03)
    assert full.mean.std() == pytest.approx(fast.mean.std(), rel=0.1)
    assert np.median(full.chance) == pytest.approx(np.median(fast.chance), rel=0.1)


def test_the_joint_route_knows_that_a_posterior_is_skewed():
    """Runs told by skewed draws: the mode of each, near which runs agree, counts for more than its mean."""
    rng = np.random.default_rng(0)
    skewed = [
        WeightedDraws(mean + rng.gamma(0.7, 1.0, 4000), np.full(4000, 1 / 4000)) for mean in (0.0, 0.05, 0.1, 0.0)
    ]
    values, errors = (np.array(column) for column in zip(*map(moments, skewed), strict=True))
    assert joint(skewed, 0.5, 0).mean.mean() < two_stage(values, errors, 0.5, 0).mean.mean() - 0.1


def test_kernels_have_mean_and_variance_of_the_draws():
    draws = gaussian_draws(3.0, 0.5)
    points, log_weights, width = _kernel(draws, 0.5)
    weights = np.exp(log_weights)
    assert weights.sum() == pytest.approx(1.0)
    assert (weights * points).sum() == pytest.approx(3.0, abs=1e-3)
    assert np.sqrt((weights * (points - 3.0) ** 2).sum() + width**2) == pytest.approx(0.5, rel=0.02)


@pytest.mark.parametrize(("chance", "error"), [(0.2, 0.1), (0.5, 0.1), (0.1, 0.3), (1.0, 0.2)])
def test_equal_architectures_are_rarely_called_different(chance, error):
    """Studies of five runs each, two hundred of them: at most 5 % are called different, and 90 % intervals cover."""
    rng = np.random.default_rng(int(100 * chance + 10 * error))
    quantity = Quantity("tail_index", "linear")
    n_studies, called, covered = 200, 0, 0
    for study in range(n_studies):
        groups = []
        for place in range(2):
            values = 1.0 + chance * rng.normal(size=5) + error * rng.normal(size=5)
            groups.append(two_stage(values, np.full(5, error), 1.0, 2 * study + place))
        found = contrast("a", "b", quantity, *groups)
        called += found.verdict in ("a greater", "b greater")
        covered += found.q05 <= 0.0 <= found.q95
    assert called <= 0.05 * n_studies + 1.65 * np.sqrt(0.05 * 0.95 * n_studies)
    assert covered >= 0.9 * n_studies - 1.65 * np.sqrt(0.09 * n_studies)


def posterior(mean, sd, chance, n_runs, error=0.05, seed=0):
    draws = gaussian_draws(mean, sd, 4000, seed).values
    return GroupPosterior(draws, np.full(4000, chance), n_runs, error)


@pytest.mark.parametrize(
    ("difference", "sd", "verdict"),
    [(1.0, 0.1, "a greater"), (-1.0, 0.1, "b greater"), (0.02, 0.02, "equivalent"), (0.2, 0.2, "open")],
)
def test_verdicts(difference, sd, verdict):
    of_a, of_b = posterior(difference, sd, 0.1, 5, seed=1), posterior(0.0, sd, 0.1, 5, seed=2)
    found = contrast("a", "b", Quantity("nc1", "log"), of_a, of_b)
    assert found.verdict == verdict
    assert (found.further_runs == 0) == (verdict != "open")


def test_further_runs_are_those_that_the_standard_error_asks_for():
    of_a, of_b = posterior(0.3, 0.3, 0.4, 3), posterior(0.0, 0.3, 0.4, 3)
    more = further_runs(0.3, of_a, of_b)
    error = lambda n: np.sqrt(2 * (0.4**2 + 0.05**2) / (3 + n))  # noqa: E731
    assert 1.96 * error(more) < 0.3 <= 1.96 * error(more - 1)
    assert further_runs(0.0, of_a, of_b) is not None  # enough of them show that the two are equivalent
    assert further_runs(EQUIVALENT, posterior(0, 1, 30.0, 3), of_b) is None


def test_the_grid_reaches_from_no_chance_to_more_than_any():
    assert GRID[0] == 0.0
    assert np.all(np.diff(GRID) > 0)
