"""Noise of the simulator: strata, scales and Student-t factors; along the drift of the contrasts and across it."""

from dataclasses import replace

import numpy as np
import pytest
from dynamics_helpers import case, class_means, constant_rates, run
from scipy import stats

from lesde_infer.dynamics import simulate_records

N_DRAWS = 4000
PULL = {"alpha": 0.7, "beta": -0.2, "kappa": 0.1}


def noise_of_contrasts(rates, impact="I", seed=11):
    """Noise of one interval's contrasts: its part along their drift, array (draw,), and all of it (draw, coordinate).

    Fails if the mean over classes or the deviations feel anything of it.
    """
    features, groups, given = case(3, 3)
    arguments = (features, groups, given, np.ones(1))
    options = {"seed": seed, "keep": np.array([1]), "n_classes": 3}
    noisy = simulate_records(*arguments, rates, impact, **options)[:, 0]
    quiet = simulate_records(*arguments, rates, impact, noise=False, **options)[:, 0]
    noise = np.stack([(noisy - quiet)[:, groups == k].mean(axis=1) for k in range(3)], axis=1)
    np.testing.assert_allclose(noise.mean(axis=1), 0.0, atol=1e-12)
    np.testing.assert_allclose(noisy - quiet, noise[:, groups], atol=1e-12)
    drift = class_means(quiet[0] - features, groups)
    contrast = drift - drift.mean(axis=0)
    size = np.linalg.norm(contrast)
    unit = contrast / size if size > 0 else contrast
    return np.einsum("nkp,kp->n", noise, unit), noise.reshape(len(noise), -1)


def contrast_rates(class_sd, impact_sd, dof=np.inf, **changes):
    pull = {**PULL, **changes}
    return constant_rates(**pull, n_classes=3, n_draws=N_DRAWS, sd=(0.0, class_sd, 0.0), dof=dof, impact_sd=impact_sd)


@pytest.mark.parametrize("impact", ["I", "R"])
@pytest.mark.parametrize(("class_sd", "impact_sd"), [(0.5, 2.0), (2.0, 0.5), (0.0, 1.0), (1.0, 0.0)])
def test_contrasts_have_a_scale_along_their_drift_and_another_across_it(impact, class_sd, impact_sd):
    """Of 3 classes and 3 features, 6 dimensions: variance impact_sd² in one, class_sd² in each of the other five."""
    along, noise = noise_of_contrasts(contrast_rates(class_sd, impact_sd), impact)
    across = ((noise**2).sum(axis=1) - along**2) / 5
    for found, sd, dimension in ((along**2, impact_sd, 1), (across, class_sd, 5)):
        # Five standard errors of a mean of squares of normals.
        assert abs(found.mean() - sd**2) <= 5 * sd**2 * np.sqrt(2 / (dimension * N_DRAWS)) + 1e-12


def test_parts_along_and_across_have_factors_of_their_own():
    """Each is multivariate Student-t; their sizes have nothing to do with one another."""
    along, noise = noise_of_contrasts(replace(contrast_rates(0.5, 2.0), **degrees(class_dof=3.0, impact_dof=6.0)))
    across = ((noise**2).sum(axis=1) - along**2) / (5 * 0.5**2)
    # Seeds are fixed; a correct sampler fails one of these tests for 1 seed in 1000.
    assert stats.kstest(along / 2.0, stats.t(6.0).cdf).pvalue > 1e-3
    assert stats.kstest(across, stats.f(5, 3.0).cdf).pvalue > 1e-3
    assert abs(stats.spearmanr(along**2, across).statistic) < 4 / np.sqrt(N_DRAWS)


def degrees(**dof):
    return {name: np.full(N_DRAWS, value) for name, value in dof.items()}


@pytest.mark.parametrize("dof", [2.5, np.inf])
@pytest.mark.parametrize(
    ("impact", "changes"),
    [
        ("L", {}),
        ("I", {"alpha": 0.0, "beta": 0.0}),
        ("I", {"alpha": 0.4, "beta": 0.4}),
        ("I", {"alpha": 9.0, "beta": 9.0}),
    ],
)
def test_contrasts_that_are_one_stratum_have_one_noise_all_around(impact, changes, dof):
    """Under L, and where nothing drives contrasts, the mean over classes apart: one scale and one factor."""
    _, noise = noise_of_contrasts(contrast_rates(0.5, 9.0, dof, **changes), impact)
    ratio = (noise**2).sum(axis=1) / (6 * 0.5**2)
    expected = stats.f(6, dof) if np.isfinite(dof) else stats.chi2(6, scale=1 / 6)
    assert stats.kstest(ratio, expected.cdf).pvalue > 1e-3


def test_a_matrix_of_elasticity_has_one_noise_all_around():
    pattern = np.broadcast_to(np.diag([1.0, 2.0, 3.0]) - np.diag([1.0, 2.0, 3.0]).mean(axis=0), (N_DRAWS, 1, 3, 3))
    rates = replace(contrast_rates(0.5, 9.0, 3.0), pattern=pattern)
    _, noise = noise_of_contrasts(rates)
    assert stats.kstest((noise**2).sum(axis=1) / (6 * 0.5**2), stats.f(6, 3.0).cdf).pvalue > 1e-3


def test_homogeneous_elasticity_leaves_noise_along_the_drift_as_large_as_across_it():
    rates = constant_rates(**PULL, n_classes=3, n_draws=2, n_intervals=3, sd=(1.0, 2.0, 3.0), dof=4.0)
    np.testing.assert_array_equal(rates.impact_sd, rates.class_sd)
    np.testing.assert_array_equal(rates.impact_dof, rates.class_dof)


@pytest.mark.parametrize("with_pattern", [False, True])
def test_rates_of_some_draws_are_those_draws_whole(with_pattern):
    rates = constant_rates(**PULL, n_classes=3, n_draws=4, n_intervals=2, sd=(1.0, 2.0, 3.0), dof=4.0)
    pattern = np.random.default_rng(0).normal(size=(4, 2, 3, 3)) if with_pattern else None
    rates = replace(rates, gamma=np.arange(8.0).reshape(4, 2), impact_dof=np.arange(1.0, 5.0), pattern=pattern)
    chosen = rates.of_draws(np.array([3, 1]))
    np.testing.assert_array_equal(chosen.gamma, [[6.0, 7.0], [2.0, 3.0]])
    np.testing.assert_array_equal(chosen.impact_dof, [4.0, 2.0])
    assert chosen.n_draws == 2
    if with_pattern:
        np.testing.assert_array_equal(chosen.pattern, pattern[[3, 1]])
    else:
        assert chosen.pattern is None


@pytest.mark.parametrize("stratum", [0, 1, 2])
def test_each_noise_moves_its_stratum_and_no_other(stratum):
    features, groups, given = case(3, 5)
    sd = np.eye(3)[stratum]
    rates = constant_rates(0.0, 0.0, 0.0, 3, n_intervals=4, sd=sd, dof=3)
    change = run(features, groups, given, 1.0, rates, "I", noise=True) - features
    means = class_means(change, groups)
    parts = [means.mean(axis=0), means - means.mean(axis=0), change - means[groups]]
    for index, part in enumerate(parts):
        if index == stratum:
            assert np.abs(part).max() > 0.1
        else:
            np.testing.assert_allclose(part, 0.0, atol=1e-14)


@pytest.mark.parametrize("dof", [2.5, 8.0, np.inf])
def test_squared_size_of_each_stratum_follows_the_f_distribution(dof):
    """A multivariate t of m dimensions and scale s has |x|²/(m s²) ~ F(m, dof)."""
    features, groups, given = case(3, 2)
    sd = (0.5, 1.5, 3.0)
    rates = constant_rates(0.0, 0.0, 0.0, 3, n_draws=2000, n_intervals=1, sd=sd, dof=dof)
    keep = np.array([1])
    final = simulate_records(features, groups, given, np.ones(1), rates, "I", seed=7, keep=keep, n_classes=3)[:, 0]
    change = final - features
    means = np.stack([change[:, groups == k].mean(axis=1) for k in range(3)], axis=1)
    common = means.mean(axis=1, keepdims=True)
    strata = [(common, 2), (means - common, 4), (change - means[:, groups], (len(groups) - 3) * 2)]
    for scale, (part, dimensions) in zip(sd, strata, strict=True):
        ratio = (part**2).sum(axis=(1, 2)) / (dimensions * scale**2)
        expected = stats.f(dimensions, dof) if np.isfinite(dof) else stats.chi2(dimensions, scale=1 / dimensions)
        # The seed is fixed; a correct sampler fails one of these nine tests for 1 seed in 1000.
        assert stats.kstest(ratio, expected.cdf).pvalue > 1e-4


def test_noise_is_independent_between_intervals_draws_and_strata():
    features, groups, given = case(3, 2)
    rates = constant_rates(0.0, 0.0, 0.0, 3, n_draws=400, n_intervals=2, sd=(1.0, 1.0, 1.0))
    keep = np.array([0, 1, 2])
    records = simulate_records(features, groups, given, np.ones(2), rates, "I", seed=8, keep=keep, n_classes=3)
    steps = np.diff(records, axis=1)
    means = np.stack([steps[:, :, groups == k].mean(axis=2) for k in range(3)], axis=2)
    series = np.stack([means.mean(axis=2)[..., 0], (means[:, :, 0] - means[:, :, 1])[..., 0]], axis=1).reshape(400, 4)
    correlation = np.corrcoef(np.concatenate([series, np.roll(series, 1, axis=0)], axis=1).T)
    off_diagonal = correlation[~np.eye(8, dtype=bool)]
    assert np.abs(off_diagonal).max() < 4.5 / np.sqrt(400)
