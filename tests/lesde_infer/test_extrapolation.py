"""Curves continued beyond a record: the posterior's own within it, direct evaluation of the basis after it."""

import numpy as np
import pytest
from forecast_helpers import random_fit

from data_tools.errors import InputError
from lesde_infer.curves import BASIS_FUNCTIONS, DOMAIN_HALF_WIDTH, EARLY_INTERVALS, EARLY_SHARE, LATE_SHARE
from lesde_infer.extrapolation import PRIOR_DOMINATES, chosen_draws, continue_curves, prior_weight

ALL = 10**6  # more draws than there are: all of them
CASES = [
    {"curve": "gp"},
    {"curve": "gp", "mixed": True, "within": "isotropic"},
    {"curve": "gp", "elasticity": "matrix", "mixed": True},
    {"curve": "power", "elasticity": "matrix"},
    {"curve": "power", "impact": "I", "mixed": True},
    {"curve": "constant", "impact": "L", "within": "isotropic", "n_features": 3},
]


@pytest.fixture(scope="module", params=CASES, ids=str)
def fitted(request, tmp_path_factory):
    return random_fit(tmp_path_factory.mktemp("curves") / "run.h5", **request.param)


def posterior_of(fit, name):
    return chosen_draws(fit.posterior.to_dataset()[[name]], ALL)[name].to_numpy()


def test_within_the_record_curves_are_those_of_the_posterior(fitted):
    found = continue_curves(fitted, fitted.posterior["time"].to_numpy(), ALL)
    compared = 0
    for name, values in found.items():
        if name == "individual_log_variance" or name == "individual_log_variance_across":
            values, name = np.exp(values / 2.0), name.replace("log_variance", "scale")
        if name == "impact_scale" or name.startswith("log_attenuation") or name not in fitted.posterior:
            continue
        assert values == pytest.approx(posterior_of(fitted, name), rel=1e-9), name
        compared += 1
    assert compared >= 6
    assert {"class_scale", "global_rate", "global_scale"} <= found.keys()


def test_noise_along_the_impact_is_in_units_of_noise_across_it(fitted):
    if "impact_scale" not in fitted.posterior:
        return
    unit = (
        posterior_of(fitted, "impact_scale")
        / continue_curves(fitted, fitted.posterior["time"].to_numpy(), ALL)["impact_scale"]
    )
    assert unit == pytest.approx(np.broadcast_to(unit[:1], unit.shape), rel=1e-9)  # the same for all draws


def test_beyond_the_record_a_gp_is_its_trend_and_its_eigenfunctions(tmp_path):
    fit = random_fit(tmp_path / "run.h5")
    horizon = fit.settings.horizon
    times = np.linspace(fit.times[-1], horizon, 7)
    elapsed, span = fit.posterior["time"].to_numpy() - fit.times[0], fit.times[-1] - fit.times[0]
    early = max(EARLY_SHARE * span, elapsed[EARLY_INTERVALS - 1])
    low, high = np.log(early), np.log(horizon - fit.times[0] + early)
    x = 2 * (np.log(times - fit.times[0] + early) - low) / (high - low) - 1
    assert x[-1] == pytest.approx(1.0)
    ell, j = DOMAIN_HALF_WIDTH, np.arange(1, BASIS_FUNCTIONS + 1)
    basis = np.sqrt(1 / ell) * np.sin(np.pi * j * (x[:, None] + ell) / (2 * ell))
    features = np.column_stack([np.ones_like(x), x, basis])
    found = continue_curves(fit, times, ALL)
    weights = chosen_draws(fit.posterior.to_dataset()[["curve_weights"]], ALL)["curve_weights"]
    for name in ("class_scale", "individual_log_variance"):
        u = weights.sel(curve=name).to_numpy() @ features.T
        assert found[name] == pytest.approx(np.exp(u) if name == "class_scale" else u, rel=1e-9)
    reference = float(fit.data["curves"]["reference"].sel(curve="gamma"))
    assert found["gamma"] == pytest.approx(reference * np.sinh(weights.sel(curve="gamma").to_numpy() @ features.T))


def test_beyond_the_record_a_power_law_goes_on(tmp_path):
    fit = random_fit(tmp_path / "run.h5", curve="power", impact="I")
    times = np.array([fit.times[-1], fit.settings.horizon])
    weights = chosen_draws(fit.posterior.to_dataset()[["curve_weights"]], ALL)["curve_weights"].sel(curve="class_scale")
    table = fit.data["curves"].to_dataset()
    tau = chosen_draws(table[["time_scale"]], ALL)["time_scale"].sel(curve="class_scale").to_numpy()[:, None]
    span = fit.times[-1] - fit.times[0]
    ratio = (times - fit.times[0] + tau * span) / (LATE_SHARE * span + tau * span)
    level, exponent = weights.to_numpy().T[:, :, None]
    assert continue_curves(fit, times, ALL)["class_scale"] == pytest.approx(np.exp(level) * ratio**-exponent)


def test_beyond_the_horizon_is_refused(tmp_path):
    fit = random_fit(tmp_path / "run.h5")
    for time in (fit.settings.horizon + 1.0, fit.times[0] - 1.0):
        with pytest.raises(InputError, match="curves of this fit reach from time 7"):
            continue_curves(fit, np.array([time]), 3)


def test_a_fit_without_a_horizon_cannot_be_continued(tmp_path):
    fit = random_fit(tmp_path / "run.h5")
    del fit.data["curves"]
    with pytest.raises(InputError, match="fit with a horizon to continue them"):
        prior_weight(fit)


def test_prior_weight_is_a_ratio_of_standard_deviations(tmp_path):
    """Weights that scatter with the prior's own standard deviations leave a ratio of 1, a tenth of them 0.1."""
    fit = random_fit(tmp_path / "run.h5", curve="constant", impact="I")
    table = fit.data["curves"].to_dataset()
    draws = fit.posterior["curve_weights"].to_numpy().copy()
    shape = draws.shape[:2]
    normal = np.linspace(-1.0, 1.0, shape[0] * shape[1])
    normal = (normal / normal.std()).reshape(shape)
    for share in (1.0, 0.1):
        for place, name in enumerate(fit.posterior["curve"].to_numpy().tolist()):
            own = table.sel(curve=name)
            draws[:, :, place, 0] = float(own["level_mean"]) + share * float(own["level_sd"]) * normal
        fit.data["posterior"]["curve_weights"] = fit.posterior["curve_weights"].copy(data=draws)
        found = prior_weight(fit)
        assert set(found.ratios) == {"gamma", "global_rate"}
        for name in found.ratios:
            assert found.ratios[name] == pytest.approx((share, share))
        assert found.dominates is (share >= PRIOR_DOMINATES)
    times = fit.posterior["time"].to_numpy()
    start, end = fit.times[0], fit.times[-1]
    early = max(EARLY_SHARE * (end - start), times[EARLY_INTERVALS - 1] - start)
    expected = np.log((fit.settings.horizon - start + early) / (end - start + early)) / np.log(
        (fit.settings.horizon - start + early) / early
    )
    assert found.log_time_extrapolated == pytest.approx(expected)
    assert 0.1 < expected < 0.5


def test_the_scale_of_a_pattern_has_no_level(tmp_path):
    """It cancels in the model, so that a constant scale leans on no prior, however its level scatters."""
    fit = random_fit(tmp_path / "run.h5", curve="constant", elasticity="matrix")
    assert fit.posterior["curve_weights"].sel(curve="pattern_scale").std() > 0.1
    found = prior_weight(fit)
    assert found.ratios["pattern_scale"] == (0.0, 0.0)
    assert not found.dominates
    assert found.ratios["global_rate"][0] > 0.0
