"""What drives the future: the posterior's own curves where the record is, and the model's distributions of noise."""

import numpy as np
import pytest
from forecast_helpers import KNOWN, random_fit, steps_of
from scipy import stats

from data_tools.errors import InputError
from lesde_infer.extrapolation import chosen_draws, continue_curves
from lesde_infer.future_grid import FutureGrid
from lesde_infer.future_rates import future_rates
from lesde_infer.stretching import PRIOR_LAGS, PRIOR_SCALE, Stretching

N_DRAWS = 12
STRETCHING = Stretching(np.full(5, 0.2), np.full((5, 2), 0.1), np.array([[0.9, 0.5]] * 5))


def grid_between(first, last, mixed=False):
    """Points at the steps of the made-up run from one record to another; beyond its end the same spacing."""
    steps = steps_of(mixed)[first:last]
    return FutureGrid(steps, 0.5 * steps + 7.0, np.arange(first, last))


def rates_of(fit, grid, n_draws=N_DRAWS, seed=0):
    one_part = fit.settings.within == "isotropic"
    own = Stretching(STRETCHING.log_times, STRETCHING.changes[:, :1], STRETCHING.cosines[:, :1])
    return future_rates(fit, grid, own if one_part else STRETCHING, n_draws, seed)


def posterior_of(fit, name):
    return chosen_draws(fit.posterior.to_dataset()[[name]], N_DRAWS)[name].to_numpy()


@pytest.mark.parametrize(
    "case",
    [{}, {"elasticity": "matrix"}, {"elasticity": "matrix", "mixed": True}, {"impact": "L", "n_features": 3}],
    ids=str,
)
def test_on_the_record_itself_rates_are_those_of_the_posterior(case, tmp_path):
    fit = random_fit(tmp_path / "run.h5", **case)
    found = rates_of(fit, grid_between(1, KNOWN, mixed=case.get("mixed", False)))
    is_matrix = "elasticity" in case
    assert found.gamma == pytest.approx(posterior_of(fit, "gamma_kernel" if is_matrix else "gamma")[:, 1:])
    assert found.global_rate == pytest.approx(posterior_of(fit, "global_rate")[:, 1:])
    if is_matrix:
        drift = fit.data["constant_data"]["pattern_drift"].to_numpy()[None, 1:, None, None]
        pattern = posterior_of(fit, "contrast_pattern")[:, None]
        pattern = pattern + drift * posterior_of(fit, "contrast_pattern_drift")[:, None]
        expected = posterior_of(fit, "pattern_scale")[:, 1:, None, None] * pattern
        assert found.pattern == pytest.approx(expected)
        assert np.allclose(found.class_sd, found.impact_sd)


@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("stratum", ["class_noise", "shared"])
def test_factors_of_noise_follow_the_model(stratum, mixed, tmp_path):
    fit = random_fit(tmp_path / "run.h5", mixed=mixed, within="isotropic")
    grid = grid_between(KNOWN - 1, 26, mixed)
    name = {"class_noise": "class", "shared": "global"}[stratum]
    curve, largest = continue_curves(fit, grid.midpoints, N_DRAWS)[f"{name}_scale"], posterior_of(fit, f"{name}_scale")
    sd = np.minimum(curve, largest.max(axis=1, keepdims=True)) * np.sqrt(grid.lengths)
    degrees = chosen_draws(fit.posterior.to_dataset(), N_DRAWS)["degrees"].sel(stratum=stratum).to_numpy()
    nu = degrees[:, None] * np.ones_like(sd) if not mixed else None
    if mixed:
        n = fit.data["constant_data"]["n_steps"].to_numpy()
        x = np.log(grid.n_steps / n.min()) / np.log(n.max() / n.min())
        nu = degrees[:, :1] ** (1 - x) * degrees[:, 1:] ** x
        exponent = chosen_draws(fit.posterior.to_dataset(), N_DRAWS)["interval_exponent"].sel(stratum=stratum)
        sd = sd * (grid.n_steps / n.max()) ** exponent.to_numpy()[:, None]
    ranks = []
    for seed in range(6):
        found = getattr(rates_of(fit, grid, seed=seed), f"{name}_sd")
        ranks.append(stats.invgamma.cdf((found / sd) ** 2, nu / 2, scale=nu / 2))
    assert stats.kstest(np.ravel(ranks), "uniform").pvalue > 1e-3


def test_noise_along_the_impact_is_in_units_of_that_across(tmp_path):
    """Of the interval's own where that has many dimensions: the two share its factor."""
    fit = random_fit(tmp_path / "run.h5", n_features=9)
    fit.data["constant_data"]["dimension"].loc[{"stratum": "class_noise"}] = 15.0
    grid = grid_between(KNOWN - 1, 26)
    found = rates_of(fit, grid)
    degrees = chosen_draws(fit.posterior.to_dataset(), N_DRAWS)["degrees"].sel(stratum="contrast").to_numpy()[:, None]
    ratio = found.impact_sd / found.class_sd / continue_curves(fit, grid.midpoints, N_DRAWS)["impact_scale"]
    assert stats.kstest(np.ravel(stats.invgamma.cdf(ratio**2, degrees / 2, scale=degrees / 2)), "uniform").pvalue > 1e-3
    fit.data["constant_data"]["dimension"].loc[{"stratum": "class_noise"}] = 2.0
    few = rates_of(fit, grid)  # otherwise in units of what is usual, without the factor
    assert np.array_equal(few.class_sd, found.class_sd)
    largest = posterior_of(fit, "class_scale").max(axis=1, keepdims=True)
    scale = np.minimum(continue_curves(fit, grid.midpoints, N_DRAWS)["class_scale"], largest)
    unit = found.impact_sd / few.impact_sd / (found.class_sd / scale)
    assert np.std(np.log(found.class_sd / scale)) > 0.1
    unit *= np.sqrt(grid.lengths)
    assert unit == pytest.approx(np.broadcast_to(unit[:, :1], unit.shape))


def test_growth_is_a_walk_in_log_time(tmp_path):
    fit = random_fit(tmp_path / "run.h5")
    grid = grid_between(KNOWN - 1, 26)
    log_time = np.diff(np.log(grid.times - fit.times[0]))
    total = PRIOR_LAGS * PRIOR_SCALE**2 + 5 * 0.1**2 / 0.2
    degrees = PRIOR_LAGS + 5
    ranks = {"kappa": [], "kappa_across": []}
    for seed in range(40):
        found = rates_of(fit, grid, seed=seed)
        for name, own in ranks.items():
            walk = (getattr(found, name) * grid.lengths)[:, 0] / np.sqrt(log_time[0])  # one interval: draws are apart
            own.append(stats.t.cdf(walk / np.sqrt(total / degrees), degrees))
    for name, own in ranks.items():
        assert stats.kstest(np.ravel(own), "uniform").pvalue > 1e-3, name
    c = -np.log([0.9, 0.5]) / 0.2
    for name, rate in zip(("individual_sd", "individual_sd_across"), c, strict=True):
        cosine = (1 + getattr(found, name) ** 2) ** -0.5
        assert cosine == pytest.approx(np.broadcast_to(np.exp(-rate * log_time), cosine.shape))


def test_scales_are_held_to_the_largest_of_the_record(tmp_path):
    fit = random_fit(tmp_path / "run.h5", curve="power", impact="I")
    weights = fit.posterior["curve_weights"].copy()
    weights.loc[{"curve": "global_scale"}][..., 1] = -40.0  # grows by a power of 40
    fit.data["posterior"]["curve_weights"] = weights
    grid = grid_between(KNOWN - 1, 26)
    assert continue_curves(fit, grid.midpoints, N_DRAWS)["global_scale"].max() > 1e6
    many = np.array([rates_of(fit, grid, seed=seed).global_sd for seed in range(50)])
    largest = posterior_of(fit, "global_scale").max(axis=1, keepdims=True) * np.sqrt(grid.lengths)
    assert np.median(many / largest) < 2.0


def test_seeds_and_horizons(tmp_path):
    fit = random_fit(tmp_path / "run.h5", horizon=0.9)
    one, same, other = (rates_of(fit, grid_between(KNOWN - 1, 21), seed=seed) for seed in (1, 1, 2))
    assert np.array_equal(one.class_sd, same.class_sd)
    assert not np.array_equal(one.class_sd, other.class_sd)
    with pytest.raises(InputError, match="fit with a later horizon"):
        rates_of(fit, grid_between(KNOWN - 1, 26))
