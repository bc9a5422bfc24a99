"""Latent sizes of noise, given what was recorded: against closed forms, and calibrated over simulated intervals."""

import numpy as np
import pytest
import xarray as xr
from scipy import stats

from lesde_infer.replication import replicated_rates, scale_factors, scatter

N = 4000
SEEN = np.array([True])


def student_log_density(residual, scale, nu):
    """Log density of a vector under an isotropic multivariate Student-t, by SciPy."""
    d = residual.shape[-1]
    return stats.multivariate_t(np.zeros(d), scale**2 * np.eye(d), df=nu).logpdf(residual)


@pytest.mark.parametrize(("nu", "d", "size"), [(1.3, 1, 0.0), (2.0, 6, 3.0), (8.0, 30, 0.01)])
def test_factors_follow_their_closed_form(nu, d, size):
    scale = 0.7
    residual = np.full(d, size)
    density = np.full((N, 1), student_log_density(residual, scale, nu))
    draws = scale_factors(density, np.full((N, 1), scale), np.full((N, 1), nu), d, np.random.default_rng(1), SEEN)
    expected = stats.invgamma((nu + d) / 2, scale=(nu + residual @ residual / scale**2) / 2)
    assert stats.kstest(draws[:, 0], expected.cdf).pvalue > 1e-3


@pytest.mark.parametrize(("nu", "d"), [(1.3, 2), (5.0, 6)])
def test_factors_drawn_given_simulated_noise_are_those_of_the_prior(nu, d):
    rng = np.random.default_rng(2)
    scale = np.exp(rng.normal(size=N))
    true = stats.invgamma(nu / 2, scale=nu / 2).rvs(N, random_state=rng)
    residual = (scale * np.sqrt(true))[:, None] * rng.normal(size=(N, d))
    density = np.array([student_log_density(*pair, nu) for pair in zip(residual, scale, strict=True)])
    draws = scale_factors(density[:, None], scale[:, None], np.full((N, 1), nu), d, rng, SEEN)[:, 0]
    assert stats.ks_2samp(draws, true).pvalue > 1e-3
    assert stats.spearmanr(draws, true).statistic > 0.3  # they know of the interval, too


@pytest.mark.parametrize("error", [0.02, 0.5, 10.0])
def test_scatter_is_calibrated(error):
    """The true scatter and one drawn given the measurement are exchangeable."""
    rng = np.random.default_rng(3)
    nu, sd = 3.0, 0.6
    factors = stats.invgamma(nu / 2, scale=nu / 2).rvs((N, 1), random_state=rng)
    true = sd * np.sqrt(factors) * rng.normal(size=(N, 1))
    measured = true + error * rng.normal(size=(N, 1))
    anything = np.ones((N, 1))
    draws = scatter(measured, np.full((N, 1), sd), np.array([error]), np.full((N, 1), nu), anything, rng)
    assert stats.ks_2samp(draws[:, 0], true[:, 0]).pvalue > 1e-3
    assert stats.ks_2samp((draws - measured)[:, 0], (true - measured)[:, 0]).pvalue > 1e-3
    below = (draws < true).mean()
    assert abs(below - 0.5) < 4 * 0.5 / np.sqrt(N)


def test_a_residual_of_many_errors_is_scatter():
    """Like one in a record of LeNet: growth by −0.32 ± 0.02 where it otherwise scatters by thousandths."""
    rng = np.random.default_rng(4)
    residual, one = np.full((N, 1), -0.32), np.ones((N, 1))
    draws = scatter(residual, 0.005 * one, np.array([0.02]), 1.5 * one, one, rng)
    assert np.mean(draws) == pytest.approx(-0.32, abs=0.01)
    assert np.std(draws) == pytest.approx(0.02, abs=0.004)


STRATA = ("contrast", "class_noise", "shared", "growth", "individual")
DIMENSIONS = {"contrast": 1, "class_noise": 5, "shared": 3, "growth": 1, "individual": 1}
STEPS = np.array([1, 7, 49])
LENGTHS = 0.5 * STEPS
SCALES = {
    "impact_scale": 0.8,
    "class_scale": 0.3,
    "global_scale": 0.5,
    "individual_scale": 0.2,
    "growth_scatter": 1e-9,
    "individual_scatter": 1e-9,
}


def made_up_fit(degrees, *, split=True, exponents=None):
    """A fit of three intervals without residuals: rates and scales that never change, and given ν by stratum."""
    strata = [name for name in STRATA if split or name != "class_noise"]
    dimension = [DIMENSIONS[name] + (5 if name == "contrast" and not split else 0) for name in strata]
    curve, shape = ("chain", "draw", "time"), (2, N // 2, 3)
    values = {"gamma": 0.3, "global_rate": 0.1, "kappa": 0.02, **SCALES}
    if not split:
        del values["impact_scale"]
    variables = {name: (curve, np.full(shape, value)) for name, value in values.items()}
    kinds = ("interval_kind",) if np.ndim(degrees) else ()
    own = np.broadcast_to(degrees, (*shape[:2], len(strata), *np.shape(degrees)))
    variables["degrees"] = (("chain", "draw", "stratum", *kinds), own)
    if exponents is not None:
        variables["interval_exponent"] = (("chain", "draw", "stratum"), np.broadcast_to(exponents, own.shape[:3]))
    own_degrees = np.full(3, degrees) if np.ndim(degrees) == 0 else np.exp(np.linspace(*np.log(degrees), 3))
    sd_of = dict(zip(STRATA, ("impact_scale", "class_scale", "global_scale"), strict=False))
    exponent_of = dict(zip(strata, np.zeros(len(strata)) if exponents is None else exponents, strict=True))
    densities = {}
    for name, d in zip(strata, dimension, strict=True):
        scale = values[sd_of[name] if split or name != "contrast" else "class_scale"] if name in sd_of else 1.0
        sd = scale * np.sqrt(LENGTHS) * (STEPS / 49) ** exponent_of[name]
        at_zero = [student_log_density(np.zeros(d), s, nu) for s, nu in zip(sd, own_degrees, strict=True)]
        densities[name] = (curve, np.broadcast_to(at_zero, shape))
    measured = {"log_growth": 0.02 * LENGTHS, "log_variance": np.log(0.2**2 * LENGTHS)}
    constant = {"length": LENGTHS, "n_steps": STEPS, "relative_length": np.log(STEPS) / np.log(49)}
    constant |= {f"{name}_error": np.full(3, 1e-9) for name in measured}
    coordinates = {"stratum": strata}
    return xr.DataTree.from_dict(
        {
            "posterior": xr.Dataset(variables, coordinates),
            "log_likelihood": xr.Dataset(densities),
            "constant_data": xr.Dataset(
                {name: ("time", value) for name, value in constant.items()}
                | {"dimension": ("stratum", dimension), "noise_concentration": ("stratum", np.ones(len(dimension)))},
                coordinates,
            ),
            "observed_data": xr.Dataset({name: ("time", value) for name, value in measured.items()}),
        }
    )


def test_noise_along_the_impact_and_across_it_are_replicated_apart():
    """With ν so large that factors are one, each is its own scale: times √Δ, and (n/n_max)^ω of its own stratum."""
    exponents = np.array([-0.3, 0.2, 0.1, 0.0, 0.0])
    rates = replicated_rates(made_up_fit([1e9, 1e9], exponents=exponents), 20, seed=0)
    for name, scale, exponent in zip(("impact", "class", "global"), (0.8, 0.3, 0.5), exponents, strict=False):
        expected = scale * np.sqrt(LENGTHS) * (STEPS / 49) ** exponent
        np.testing.assert_allclose(getattr(rates, f"{name}_sd"), np.tile(expected, (20, 1)), rtol=1e-3, err_msg=name)
        assert np.isinf(getattr(rates, f"{name}_dof")).all()
    np.testing.assert_array_equal(rates.gamma, 0.3)  # whatever attenuation there is: rates are those of the motion


def test_deviations_are_replicated_part_by_part():
    """Without scatter each is its own curve: κ and noise along and across, and the pull; without parts there is one."""
    one = made_up_fit(1e9)
    assert replicated_rates(one, 20, seed=0).kappa_across is None
    assert replicated_rates(one, 20, seed=0).pull is None
    parts = {"growth": "growth_along", "individual": "individual_along"}
    added = {"growth_across": "growth", "pull": "growth", "individual_across": "individual"}
    posterior, constant, observed, densities = (
        one[name].to_dataset() for name in ("posterior", "constant_data", "observed_data", "log_likelihood")
    )
    strata = [parts.get(name, name) for name in STRATA] + list(added)
    places = [*range(len(STRATA)), *(STRATA.index(like) for like in added.values())]
    posterior, constant = (data.isel(stratum=places).assign_coords(stratum=strata) for data in (posterior, constant))
    scales = {"kappa_across": -0.05, "pull": 0.4, "individual_scale_across": 0.6}
    scales |= dict.fromkeys(("growth_scatter_across", "pull_scatter", "individual_scatter_across"), 1e-9)
    posterior = posterior.assign({name: xr.full_like(posterior["kappa"], value) for name, value in scales.items()})
    densities = densities.rename(parts).assign({name: densities[like] for name, like in added.items()})
    numbers = {
        "log_growth_along": 0.02 * LENGTHS,
        "log_growth_across": -0.05 * LENGTHS,
        "pull_strength": 0.4 * LENGTHS,
        "log_variance_along": np.log(0.2**2 * LENGTHS),
        "log_variance_across": np.log(0.6**2 * LENGTHS),
    }
    observed = observed.assign({name: ("time", values) for name, values in numbers.items()})
    constant = constant.assign({f"{name}_error": ("time", np.full(3, 1e-9)) for name in numbers})
    groups = {"posterior": posterior, "constant_data": constant, "observed_data": observed, "log_likelihood": densities}
    rates = replicated_rates(xr.DataTree.from_dict(groups), 20, seed=0)
    for found, expected in (
        (rates.kappa, np.full(3, 0.02)),
        (rates.kappa_across, np.full(3, -0.05)),
        (rates.pull, np.full(3, 0.4)),
        (rates.individual_sd, 0.2 * np.sqrt(LENGTHS)),
        (rates.individual_sd_across, 0.6 * np.sqrt(LENGTHS)),
    ):
        np.testing.assert_allclose(found, np.tile(expected, (20, 1)), rtol=1e-6)


def test_contrasts_that_are_one_stratum_are_replicated_with_one_noise():
    rates = replicated_rates(made_up_fit(3.0, split=False), 20, seed=0)
    np.testing.assert_array_equal(rates.impact_sd, rates.class_sd)
    assert rates.class_sd.std(axis=0).min() > 0.01


def test_latent_factors_of_short_and_long_intervals_have_degrees_of_their_own():
    """An increment without residual in d dimensions: λ ~ InverseGamma((ν + d)/2, ν/2), log ν linear in log length."""
    rates = replicated_rates(made_up_fit([2.0, 32.0]), N, seed=1)
    for name, scale, d in (("impact", 0.8, 1), ("class", 0.3, 5), ("global", 0.5, 3)):
        factors = (getattr(rates, f"{name}_sd") / (scale * np.sqrt(LENGTHS))) ** 2
        for t, nu in enumerate((2.0, 8.0, 32.0)):
            expected = stats.invgamma((nu + d) / 2, scale=nu / 2)
            assert stats.kstest(factors[:, t], expected.cdf).pvalue > 1e-3, (name, t)


def with_constants(fit, **masks):
    """The same fit, with masks of its intervals among its constants; log densities are 0 where nothing was observed."""
    groups = {name: fit[name].to_dataset() for name in fit.children}
    groups["constant_data"] = groups["constant_data"].assign(
        {k: ("time", np.array(m, float)) for k, m in masks.items()}
    )
    hidden = {"moved": STRATA, "driven": ("contrast",), "log_growth_spread": ("growth",)}
    densities = groups["log_likelihood"]
    for name, mask in masks.items():
        for stratum in hidden.get(name, ("individual",)):
            densities[stratum] = densities[stratum].where(np.array(mask, bool), 0.0)
    return xr.DataTree.from_dict(groups)


def test_nothing_moves_in_the_replication_of_a_standstill():
    fit = made_up_fit(2.0)
    still = replicated_rates(with_constants(fit, moved=[1, 0, 1]), 20, seed=0)
    for name in ("gamma", "global_rate", "kappa", "global_sd", "class_sd", "impact_sd", "individual_sd"):
        moving = getattr(still, name)
        np.testing.assert_array_equal(moving[:, 1], 0.0, err_msg=name)
        assert (moving[:, [0, 2]] != 0).all(), name


def test_samples_that_are_equal_stay_equal():
    """The growth of nothing is not guessed from the prior, and noise is as small as rounding left it."""
    equal = with_constants(made_up_fit(2.0), log_growth_spread=[1, 0, 1], log_variance_spread=[1, 0, 1])
    equal["observed_data"] = (
        equal["observed_data"].to_dataset().assign(log_variance=("time", [np.log(0.02), -60.0, np.log(0.98)]))
    )
    rates = replicated_rates(equal, 20, seed=0)
    np.testing.assert_array_equal(rates.kappa[:, 1], 0.0)
    np.testing.assert_allclose(rates.individual_sd[:, 1], np.exp(-30.0))
    np.testing.assert_allclose(rates.kappa[:, [0, 2]], 0.02, rtol=1e-3)
    assert rates.individual_sd[:, [0, 2]].min() > 0.1


def test_a_spike_is_repeated_with_the_size_it_had():
    """Class means jump as far again: |Δ|² = s²χ²_d on average over draws; deviations do what was measured."""
    fit = with_constants(made_up_fit(2.0), spike=[0, 1, 0])
    constant, observed = fit["constant_data"].to_dataset(), fit["observed_data"].to_dataset()
    fit["constant_data"] = constant.assign(class_size=("class_", [5, 5, 5])).assign_attrs(n_features=3)
    squares = {
        "contrast_increment_square": ("time", [1.0, 4e8, 1.0]),
        "shared_increment_square": ("time", [1.0, 9e8, 1.0]),
    }
    fit["observed_data"] = observed.assign(squares | {"log_growth": ("time", [0.01, 0.7, 0.49])})
    rates = replicated_rates(fit, N, seed=1)
    for name, square, dimension in (("class", 4e8, 6), ("impact", 4e8, 6), ("global", 9e8, 3)):
        found = square / getattr(rates, f"{name}_sd")[:, 1] ** 2
        assert stats.kstest(found, stats.chi2(dimension).cdf).pvalue > 1e-3, name
        assert getattr(rates, f"{name}_sd")[:, [0, 2]].max() < 1e3
    np.testing.assert_allclose(rates.kappa[:, 1], 0.7 / LENGTHS[1])


def test_noise_along_impacts_that_vanish_has_the_factors_of_its_prior():
    rates = replicated_rates(with_constants(made_up_fit(2.0), driven=[1, 0, 1]), N, seed=1)
    factors = (rates.impact_sd / (0.8 * np.sqrt(LENGTHS))) ** 2
    assert stats.kstest(factors[:, 1], stats.invgamma(1.0, scale=1.0).cdf).pvalue > 1e-3
    assert stats.kstest(factors[:, 0], stats.invgamma(1.5, scale=1.0).cdf).pvalue > 1e-3
