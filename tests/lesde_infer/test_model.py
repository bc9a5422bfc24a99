"""The whole NumPyro model, priors included, against a plain NumPy log density; and what assembly feeds it."""

from functools import partial

import numpy as np
import pytest
from core_helpers import make_run, random_strata
from numpyro.infer.util import log_density
from scipy import stats

from lesde_infer._jax import jax, jnp
from lesde_infer.assembly import STRATA, assemble, has_mixed_intervals
from lesde_infer.curves import BASIS_FUNCTIONS, CURVES, DOMAIN_HALF_WIDTH, n_weights
from lesde_infer.model import strata_model
from lesde_infer.statistics import compute_statistics

N_INTERVALS = 7


def random_sites(rng, curve, mixed, n_strata, spread=0.4):
    """Values of all sites of the model."""
    values = {"curve_weights": spread * rng.normal(size=(2 * n_strata, n_weights(curve)))}
    values["degrees_excess"] = rng.uniform(0.2, 8.0, size=n_strata)
    if curve == "gp":
        values["curve_amplitude"] = rng.uniform(0.2, 2.0, size=2 * n_strata)
        values["curve_length"] = rng.uniform(0.2, 1.2, size=2 * n_strata)
    if curve == "power":
        values["power_time_scale"] = np.array(rng.uniform(0.003, 0.1))
    if mixed:
        values["interval_exponent"] = rng.normal(0.0, 0.5, size=n_strata)
        values["relaxation"] = rng.uniform(0.001, 0.5, size=n_strata)
    return values


def log_prior(values, data, curve, mixed):
    """Log density of the sites, one scalar at a time."""
    total = sum(stats.gamma(2.0, scale=2.0).logpdf(x) for x in values["degrees_excess"])
    if curve == "power":
        total += stats.lognorm(1.0, scale=0.01).logpdf(values["power_time_scale"])
    if mixed:
        longest = float(np.asarray(data.n_steps).max())
        total += sum(stats.norm(0.0, 0.5).logpdf(x) for x in values["interval_exponent"])
        total += sum(stats.lognorm(2.0, scale=1 / longest).logpdf(x) for x in values["relaxation"])
    for c, weights in enumerate(values["curve_weights"]):
        total += stats.norm(data.prior.level_mean[c], data.prior.level_sd[c]).logpdf(weights[0])
        if curve != "constant":
            total += stats.norm(0.0, 1.0 if curve == "power" else data.prior.slope_sd[c]).logpdf(weights[1])
        if curve == "gp":
            amplitude, length = values["curve_amplitude"][c], values["curve_length"][c]
            total += stats.halfnorm(scale=data.prior.amplitude_sd[c]).logpdf(amplitude)
            total += stats.lognorm(0.5, scale=0.5).logpdf(length)
            for j, weight in enumerate(weights[2:]):
                frequency = (j + 1) * np.pi / (2 * DOMAIN_HALF_WIDTH)
                density = amplitude**2 * 16 / 3 * 5**2.5 / length**5 * (5 / length**2 + frequency**2) ** -3.0
                total += stats.norm(0.0, np.sqrt(density)).logpdf(weight)
    return float(total)


def curve_values(curve, weights, data, time_scale):
    """u(t) at the intervals, and for ``power`` the level and the factor it is made of."""
    elapsed, span = np.asarray(data.design.elapsed), float(data.design.span)
    if curve == "constant":
        return np.full(len(elapsed), weights[0]), weights[0], 1.0
    if curve == "power":
        shift = time_scale * span
        factor = ((elapsed + shift) / (0.9 * span + shift)) ** -weights[1]
        return weights[0] + np.log(factor), weights[0], factor
    x = 2 * np.log((elapsed + 0.04 * span) / (0.04 * span)) / np.log(26.0) - 1
    u = weights[0] + weights[1] * x
    for j in range(BASIS_FUNCTIONS):
        phase = (j + 1) * np.pi * (x + DOMAIN_HALF_WIDTH) / (2 * DOMAIN_HALF_WIDTH)
        u = u + weights[2 + j] * np.sin(phase) / np.sqrt(DOMAIN_HALF_WIDTH)
    return u, u, 1.0


def plain_coefficients(rates, s, t, data, directions, coupled):
    """Coefficients of the directions of stratum s in interval t, before attenuation, for rates (stratum, time)."""
    push = rates[s, t] * float(data.exposure[s, t])
    if not coupled:
        feedback = np.asarray(data.feedback)[s, t]
        return np.array([push if f == 0 else (1 - np.exp(-f * push)) / f for f in feedback])
    n_classes, length = float(data.n_classes), float(data.lengths[t])
    gamma, global_rate = rates[:, t]
    alpha, beta = global_rate + gamma * (n_classes - 1) / n_classes, global_rate - gamma / n_classes
    spread = (alpha + beta / (n_classes - 1)) / n_classes
    phi = (np.exp(spread * length) - 1) / spread
    if s == 0:
        return np.array([np.exp(gamma / n_classes * length) - 1, gamma / n_classes * phi])
    return np.array([global_rate * phi, 0.0])


def log_likelihood(values, data, directions, increments, curve, mixed, coupled):
    """Log density of the increments as vectors, stratum by stratum and interval by interval."""
    n_strata, n_intervals = len(increments), len(increments[0])
    time_scale = values.get("power_time_scale")
    locations, total = np.zeros((n_strata, n_intervals)), 0.0
    for s in range(n_strata):
        u, level, factor = curve_values(curve, values["curve_weights"][s], data, time_scale)
        is_rate = float(data.is_rate[s]) > 0
        locations[s] = float(data.reference[s]) * np.sinh(level) * factor if is_rate else u
    steps = np.asarray(data.n_steps)
    for s in range(n_strata):
        log_scale, *_ = curve_values(curve, values["curve_weights"][n_strata + s], data, time_scale)
        exponent = values["interval_exponent"][s] if mixed else 0.0
        relaxation = values["relaxation"][s] if mixed and float(data.relaxes[s]) > 0 else 0.0
        is_rate = float(data.is_rate[s]) > 0
        for t in range(n_intervals):
            relative = exponent * np.log(steps[t] / steps.max())
            coefficients = plain_coefficients(locations, s, t, data, directions, coupled)
            sd = np.exp(log_scale[t] + float(data.log_length[s, t]))
            if is_rate:
                sd *= np.exp(relative)
            else:
                coefficients = coefficients + 2 * relative
            surviving = np.mean(np.exp(-relaxation * np.arange(steps[t])))
            mean = surviving * coefficients @ directions[s][t]
            variance = sd**2 + float(data.error[s, t]) ** 2
            shape = variance * np.eye(len(mean))
            total += stats.multivariate_t(mean, shape, 0.5 + values["degrees_excess"][s]).logpdf(increments[s][t])
    return float(total)


@partial(jax.jit, static_argnames=("curve", "mixed", "coupled"))
def model_log_density(data, sites, *, curve, mixed, coupled):
    options = {"curve": curve, "coupled": coupled, "mixed": mixed}
    total, trace = log_density(strata_model, (data,), options, sites)
    # A site that was left out would be drawn at random and add to the density unnoticed.
    assert {n for n, site in trace.items() if site["type"] == "sample" and not site["is_observed"]} == set(sites)
    return total


def both_log_densities(data, directions, increments, values, curve, mixed, coupled):
    sites = {name: jnp.asarray(value) for name, value in values.items()}
    found = model_log_density(data, sites, curve=curve, mixed=mixed, coupled=coupled)
    plain = log_prior(values, data, curve, mixed)
    return float(found), plain + log_likelihood(values, data, directions, increments, curve, mixed, coupled)


@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("curve", CURVES)
def test_model_is_the_plain_log_density(curve, mixed):
    rng = np.random.default_rng(7)
    data, directions, increments = random_strata(rng, N_INTERVALS, (6, 3, 1), 2, measured=True)
    for _ in range(2):
        values = random_sites(rng, curve, mixed, 3)
        found, expected = both_log_densities(data, directions, increments, values, curve, mixed, coupled=False)
        # Attenuation is floored at a relaxation of 10⁻⁹ per step, where it differs from one by up to 2·10⁻⁸.
        assert found == pytest.approx(expected, rel=1e-8)


@pytest.mark.parametrize(("curve", "mixed"), [("gp", False), ("constant", True)])
def test_coupled_model_is_the_plain_log_density(curve, mixed):
    rng = np.random.default_rng(8)
    data, directions, increments = random_strata(rng, N_INTERVALS, (6, 3), 2)
    values = random_sites(rng, curve, mixed, 2)
    found, expected = both_log_densities(data, directions, increments, values, curve, mixed, coupled=True)
    assert found == pytest.approx(expected, rel=1e-8)


def test_model_is_the_plain_log_density_to_rounding_where_nothing_attenuates():
    rng = np.random.default_rng(9)
    data, directions, increments = random_strata(rng, N_INTERVALS, (6, 3, 1), 2, measured=True)
    data = data._replace(n_steps=jnp.ones(N_INTERVALS))
    values = random_sites(rng, "gp", False, 3)
    found, expected = both_log_densities(data, directions, increments, values, "gp", mixed=False, coupled=False)
    assert found == pytest.approx(expected, rel=1e-12)


def test_strata_that_share_nothing_may_be_fitted_apart():
    """The log density of three strata at once is the sum of those of each by itself."""
    rng = np.random.default_rng(10)
    data, directions, increments = random_strata(rng, N_INTERVALS, (5, 4, 2), 2)
    values = random_sites(rng, "gp", False, 3)
    whole, _ = both_log_densities(data, directions, increments, values, "gp", mixed=False, coupled=False)
    parts = 0.0
    for s in range(3):
        rows = np.array([s, 3 + s])
        shared = {"design": data.design, "lengths": data.lengths, "n_steps": data.n_steps, "n_classes": data.n_classes}
        fields = {name: getattr(data, name)[s : s + 1] for name in data._fields if name not in {*shared, "prior"}}
        one = data._replace(**fields, prior=type(data.prior)(*(leaf[rows] for leaf in data.prior)))
        own = {name: value[rows] if len(value) == 6 else value[s : s + 1] for name, value in values.items()}
        parts += both_log_densities(one, directions[s : s + 1], increments[s : s + 1], own, "gp", False, False)[0]
    assert whole == pytest.approx(parts, rel=1e-12)


@pytest.mark.parametrize("impact", ["I", "L", "R"])
def test_assembly_arranges_every_stratum_once(impact, tmp_path):
    run = make_run(3, 3, n_records=6)
    with run.write(tmp_path / "run.h5") as recording:
        statistics = compute_statistics(recording, "hidden", impact)
    submodels = assemble(statistics)
    assert sorted(name for submodel in submodels for name in submodel.strata) == sorted(STRATA)
    assert [submodel.coupled for submodel in submodels] == ([True, False, False] if impact == "L" else [False] * 4)
    for submodel in submodels:
        assert submodel.data.increment_square.shape == (len(submodel.strata), 5)
        for s, name in enumerate(submodel.strata):
            check_stratum(statistics, submodel.data, s, name)


def check_stratum(statistics, data, s, name):
    lengths, within = statistics.lengths, statistics.within
    if name in ("contrast", "shared"):
        stratum = getattr(statistics, name)
        divisor = 3 if name == "contrast" else 1
        expected = (stratum.increment_square, stratum.dimension, lengths / divisor, 0.0, 0.5 * np.log(lengths))
    elif name == "growth":
        expected = (within.log_growth**2, 1, lengths, within.log_growth_error, 0.5 * np.log(lengths))
    else:
        values = within.log_variance - np.log(lengths)
        expected = (values**2, 1, np.ones(5), within.log_variance_error, np.zeros(5))
        np.testing.assert_allclose(data.direction_increment[s, :, 0], values)
    for field, value in zip(
        ("increment_square", "dimension", "exposure", "error", "log_length"), expected, strict=True
    ):
        np.testing.assert_allclose(getattr(data, field)[s], value, rtol=1e-12, err_msg=f"{name} {field}")
    assert float(data.is_rate[s]) == (name != "individual")
    assert float(data.relaxes[s]) == (name in ("contrast", "shared"))


@pytest.mark.parametrize(
    ("steps", "mixed"), [(np.arange(0, 200, 10), False), (np.arange(20) // 2 * 50 + np.arange(20) % 2, True)]
)
def test_bursts_are_noticed(steps, mixed, tmp_path):
    run = make_run(2, 2, n_records=20)
    with run.write(tmp_path / "run.h5", steps=steps, time=steps.astype(float)) as recording:
        assert has_mixed_intervals(compute_statistics(recording, "hidden", "I")) is mixed
