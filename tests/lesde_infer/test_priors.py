"""Priors follow the units of a run: what a unit changes in the scales, and that it changes nothing in the model."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from core_helpers import make_run
from numpyro.infer.util import log_density

from lesde_infer._jax import jax, jnp
from lesde_infer.assembly import STRATA, assemble, locate
from lesde_infer.curves import CURVES, n_weights
from lesde_infer.model import strata_model
from lesde_infer.priors import (
    ATTENUATION,
    LARGEST_QUANTILE,
    MEASURED_NOISE_SPREAD,
    MEASURED_RATE_AMPLITUDE,
    MINIMAL_SPREAD,
    NOISE_RATIO_SPREAD,
    NOISE_SPREAD,
    RESOLUTION_QUANTILE,
    TINY,
    VARIANCE_SPREAD,
    curve_prior,
    log_variance_scale,
    no_rate_scale,
    rate_scale,
)
from lesde_infer.statistics import compute_statistics

CHANGE = 50.0  # of a unit
N_RECORDS = 8
TOLERANCE = 1e-8  # of a log density


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("priors")


def strata_of(run, path, impact):
    """Return data of every stratum by name: (data of its model, its place in the model)."""
    with run.write(path, force=True) as recording:
        submodels = assemble(compute_statistics(recording, "hidden", impact), "gp")
    present = {name for submodel in submodels for name in submodel.strata}
    return {name: locate(submodels, name) for name in STRATA if name in present}


def scales(strata):
    """Return reference, level of the location curve and level of the noise curve, stratum by stratum."""
    return {
        name: (float(d.reference[s]), float(d.prior.level_mean[s]), float(d.prior.level_mean[len(d.reference) + s]))
        for name, (d, s) in strata.items()
    }


def spreads(strata):
    """Return all that no unit may touch: standard deviations of levels, slopes and amplitudes."""
    return [
        [np.asarray(d.prior.level_sd), np.asarray(d.prior.slope_sd), np.asarray(d.prior.amplitude_sd)]
        for d, _ in strata.values()
    ]


@pytest.mark.parametrize("impact", ["I", "L", "R"])
def test_unit_of_features_shifts_noise_and_nothing_else(impact, folder):
    """Features times c: log σ of class means shifts by log c, log σᵢ² by 2 log c, and rates stay.

    Under R on a hidden layer the classifier shrinks by c for the same logits, so impacts shrink while features grow:
    rates are c² times as large. Noise along the impact is in units of that across it, and stays.
    """
    run = make_run(3, 3, N_RECORDS, seed=1)
    changed = replace(run, features=CHANGE * run.features, weight=run.weight / CHANGE)
    one, other = strata_of(run, folder / "a.h5", impact), strata_of(changed, folder / "b.h5", impact)
    shift, factor = np.log(CHANGE), CHANGE**2 if impact == "R" else 1.0
    for name, (reference, location, noise) in scales(one).items():
        has_unit = name in ("class_noise", "shared") or (name == "contrast" and impact == "L")
        expected = (
            reference * (factor if name in ("contrast", "shared") else 1.0),
            location + (2 * shift if name == "individual" else 0.0),
            noise + (shift if has_unit else 0.0),
        )
        np.testing.assert_allclose(scales(other)[name], expected, rtol=1e-8, atol=1e-8, err_msg=name)
    for plain, scaled in zip(spreads(one), spreads(other), strict=True):
        np.testing.assert_allclose(scaled, plain, rtol=1e-8)


@pytest.mark.parametrize("impact", ["I", "L", "R"])
def test_unit_of_time_scales_rates_and_noise(impact, folder):
    """Time times c: rates divided by c, σ by √c, log σᵢ² lower by log c; the scatter of log σᵢ² stays."""
    run = make_run(3, 3, N_RECORDS, seed=2)
    slower = replace(run, time=CHANGE * run.time)
    one, other = strata_of(run, folder / "a.h5", impact), strata_of(slower, folder / "b.h5", impact)
    shift = np.log(CHANGE)
    for name, (reference, location, noise) in scales(one).items():
        if name == "individual":
            expected = (1.0, location - shift, noise)
        elif name == "class_noise":
            expected = (1.0, 0.0, noise - shift / 2)
        else:
            is_relative = name == "contrast" and impact != "L"
            expected = (reference / CHANGE, 0.0, noise if is_relative else noise - shift / 2)
        np.testing.assert_allclose(scales(other)[name], expected, rtol=1e-8, atol=1e-8, err_msg=name)
    for plain, scaled in zip(spreads(one), spreads(other), strict=True):
        np.testing.assert_allclose(scaled, plain, rtol=1e-8)


@partial(jax.jit, static_argnames=("curve", "mixed"))
def model_log_density(data, sites, *, curve, mixed):
    return log_density(strata_model, (data,), {"curve": curve, "coupled": False, "mixed": mixed}, sites)[0]


def density_at(data, offsets, curve):
    """Log density of a stratum with each curve's level at the given distance from its prior's mean."""
    n_curves = len(data.prior.level_mean)
    mixed = n_curves == 3
    sites = {
        "curve_weights": jnp.asarray(offsets[:n_curves]).at[:, 0].add(data.prior.level_mean),
        "degrees_excess": jnp.array([[1.5, 2.5]])[:, : 1 + mixed],
    }
    if mixed:
        sites["interval_exponent"] = jnp.array([0.2])
    if curve == "gp":
        sites |= {"curve_amplitude": jnp.array([0.5, 0.7, 0.6]), "curve_length": jnp.array([0.4, 0.6, 0.5])}
        sites |= {name: sites[name][:n_curves] for name in ("curve_amplitude", "curve_length")}
    if curve == "power":
        sites["power_time_scale"] = jnp.asarray(0.02)
    return float(model_log_density(data, sites, curve=curve, mixed=mixed))


@pytest.mark.parametrize("in_bursts", [False, True])
@pytest.mark.parametrize("curve", CURVES)
def test_unit_of_time_leaves_the_posterior_where_it_was(curve, in_bursts, folder):
    """With levels moved along with the unit, prior and likelihood keep their density: the unit is no information."""
    steps = np.arange(N_RECORDS) * 10 + 9 * in_bursts * (np.arange(N_RECORDS) % 2)
    run = replace(make_run(3, 3, N_RECORDS, seed=3), steps=steps, time=0.1 * steps)
    slower = replace(run, time=CHANGE * run.time)
    one, other = strata_of(run, folder / "a.h5", "R"), strata_of(slower, folder / "b.h5", "R")
    rng = np.random.default_rng(0)
    for name in one:
        # The levels are those of the prior, which move with the unit as the tests above say.
        offsets = 0.3 * rng.normal(size=(3, n_weights(curve)))
        found = [density_at(strata[name][0], offsets, curve) for strata in (one, other)]
        assert found[0] == pytest.approx(found[1], abs=TOLERANCE), name
        assert len(one[name][0].prior.level_mean) == (3 if in_bursts else 2)


@pytest.mark.parametrize("curve", CURVES)
def test_unit_of_features_changes_densities_by_its_jacobian_only(curve, folder):
    """A density in R^d of features times c is c^−d times what it was, in every interval of the class means."""
    run = make_run(3, 3, N_RECORDS, seed=4)
    larger = replace(run, features=CHANGE * run.features)
    one, other = strata_of(run, folder / "a.h5", "I"), strata_of(larger, folder / "b.h5", "I")
    for name, (data, _) in one.items():
        offsets = np.full((3, n_weights(curve)), 0.2)
        found = [density_at(strata[name][0], offsets, curve) for strata in (one, other)]
        is_mean = name in ("contrast", "class_noise", "shared")
        jacobian = float(data.dimension[0]) * (N_RECORDS - 1) * np.log(CHANGE) if is_mean else 0.0
        assert found[0] - found[1] == pytest.approx(jacobian, abs=TOLERANCE), name


def test_rates_of_either_sign_are_equally_likely():
    """Turning every estimate around changes no prior: nothing says whether a rate is positive."""
    rng = np.random.default_rng(5)
    estimates, errors, noise = rng.normal(size=30), rng.uniform(0.1, 1.0, 30), rng.uniform(0.1, 1.0, 30)
    assert rate_scale(estimates, errors, noise) == rate_scale(-estimates, errors, noise)
    assert rate_scale(estimates, errors, noise).location[0] == 0.0


def test_two_standard_deviations_reach_the_largest_estimates():
    estimates, errors = np.linspace(0.0, 1000.0, 101), np.full(101, 1e-3)
    scale = rate_scale(estimates, errors, np.ones(101))
    assert scale.reference == pytest.approx(np.quantile(errors, RESOLUTION_QUANTILE))
    reach = scale.reference * np.sinh(2 * np.hypot(scale.location[1], scale.location[2]))  # at the ends of the record
    assert reach == pytest.approx(np.quantile(estimates, LARGEST_QUANTILE), rel=1e-9)


def test_intervals_that_agree_leave_room_all_the_same():
    scale = rate_scale(np.zeros(10), np.ones(10), np.ones(10))
    part = MINIMAL_SPREAD / np.sqrt(2.0)
    assert scale.location == (0.0, part, part, part)
    assert scale.noise == (0.0, *NOISE_SPREAD)
    assert scale.measured().noise == (0.0, *MEASURED_NOISE_SPREAD)
    assert scale.measured().location == scale.location
    assert scale.smooth().location == (0.0, part, part, MEASURED_RATE_AMPLITUDE)
    assert scale.smooth().noise == scale.noise


def test_noise_that_is_relative_is_as_large_as_its_unit_give_or_take():
    scale = rate_scale(np.zeros(10), np.ones(10), np.full(10, 7.0))
    assert scale.relative().noise == (0.0, *NOISE_RATIO_SPREAD)
    assert (scale.relative().location, scale.relative().reference) == (scale.location, scale.reference)
    assert np.exp(2 * NOISE_RATIO_SPREAD[0]) > 5.0  # noise along impacts was up to 2.5 times that across them


def test_noise_alone_has_no_rate_to_scale():
    scale = no_rate_scale(np.array([1.0, 3.0, 100.0]))
    assert scale.noise == (pytest.approx(np.log(3.0)), *NOISE_SPREAD)
    assert (scale.reference, scale.location[0]) == (1.0, 0.0)


def test_vanishing_increments_leave_scales_finite():
    scale = rate_scale(np.zeros(5), np.zeros(5), np.zeros(5))
    assert scale.reference == TINY
    assert np.isfinite([*scale.location, *scale.noise]).all()
    constant = log_variance_scale(np.full(5, -3.0))
    assert constant.location == (-3.0, *VARIANCE_SPREAD)
    assert np.isfinite(constant.noise).all()


def test_scatter_of_a_log_variance_does_not_count_its_trend():
    """Neighbours of a record whose variance falls by five orders lie close: the noise level is theirs."""
    rng = np.random.default_rng(6)
    trend, scatter = np.linspace(0.0, -11.5, 2000), rng.normal(0.0, 0.1, 2000)
    level = log_variance_scale(trend + scatter).noise[0]
    # The median of |x − y|/√2 for standard normals is 0.674.
    assert level == pytest.approx(np.log(0.1 * 0.674), abs=0.1)


@pytest.mark.parametrize("mixed", [False, True])
def test_locations_come_before_noise_and_noise_before_attenuation_in_the_curves_prior(mixed):
    first, second = rate_scale(np.ones(4), np.ones(4), np.full(4, 2.0)), log_variance_scale(np.array([1.0, 2.0, 4.0]))
    prior = curve_prior([first, second], mixed=mixed)
    attenuation = [ATTENUATION] * 2 if mixed else []
    rows = [first.location, second.location, first.noise, second.noise, *attenuation]
    assert rows[1] == (2.0, *VARIANCE_SPREAD)
    for leaf, column in zip(prior, np.array(rows).T, strict=True):
        np.testing.assert_allclose(leaf, column)


def test_long_intervals_may_see_all_of_a_drift_or_a_quarter_of_it():
    mean, sd = ATTENUATION[:2]
    assert np.exp(mean - 2 * sd) == pytest.approx(0.25, abs=0.02)
    assert np.exp(mean + 2 * sd) > 1.0
