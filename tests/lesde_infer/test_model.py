"""The whole NumPyro model, priors included, against a plain NumPy log density."""

from functools import partial

import numpy as np
import numpyro
import pytest
from core_helpers import random_strata, relative_log_length
from numpyro.infer.util import log_density
from scipy import stats

from lesde_infer._jax import jax, jnp
from lesde_infer.curves import BASIS_FUNCTIONS, CURVES, DOMAIN_HALF_WIDTH, n_weights
from lesde_infer.model import MINIMAL_DEGREES, interval_degrees, sample_parameters, strata_model

N_INTERVALS = 7


def random_sites(rng, curve, mixed, n_strata, spread=0.4):
    """Values of all sites of the model."""
    n_curves = (3 if mixed else 2) * n_strata
    values = {"curve_weights": spread * rng.normal(size=(n_curves, n_weights(curve)))}
    values["degrees_excess"] = rng.uniform(0.2, 8.0, size=(n_strata, 2 if mixed else 1))
    if curve == "gp":
        values["curve_amplitude"] = rng.uniform(0.2, 2.0, size=n_curves)
        values["curve_length"] = rng.uniform(0.2, 1.2, size=n_curves)
    if curve == "power":
        values["power_time_scale"] = np.array(rng.uniform(0.003, 0.1))
    if mixed:
        values["interval_exponent"] = rng.normal(0.0, 0.5, size=n_strata)
    return values


def log_prior(values, data, curve, mixed):
    """Log density of the sites, one scalar at a time."""
    total = sum(stats.gamma(2.0, scale=2.0).logpdf(x) for x in values["degrees_excess"].ravel())
    if curve == "power":
        total += stats.lognorm(1.0, scale=0.01).logpdf(values["power_time_scale"])
    if mixed:
        total += sum(stats.norm(0.0, 0.5).logpdf(x) for x in values["interval_exponent"])
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
        return np.array([push if f == 0 else -np.expm1(-f * push) / f for f in feedback])
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
        if mixed and float(data.relaxes[s]) > 0:  # the curve is what the longest intervals see
            locations[s] *= np.exp(-curve_values(curve, values["curve_weights"][2 * n_strata + s], data, time_scale)[0])
    steps = np.asarray(data.n_steps)
    for s in range(n_strata):
        log_scale, *_ = curve_values(curve, values["curve_weights"][n_strata + s], data, time_scale)
        psi, exponent = np.zeros(n_intervals), 0.0
        if mixed:
            psi, *_ = curve_values(curve, values["curve_weights"][2 * n_strata + s], data, time_scale)
            exponent = values["interval_exponent"][s]
        degrees = 0.5 + values["degrees_excess"][s]
        is_rate = float(data.is_rate[s]) > 0
        for t in range(n_intervals):
            relative = exponent * np.log(steps[t] / steps.max())
            coefficients = plain_coefficients(locations, s, t, data, directions, coupled)
            sd = np.exp(log_scale[t] + float(data.log_length[s, t]))
            if is_rate:
                sd *= np.exp(relative)
            else:
                coefficients = coefficients + 2 * relative
            surviving, nu = 1.0, degrees[0]
            if mixed:
                x = relative_log_length(steps)[t]
                nu = degrees[0] ** (1 - x) * degrees[1] ** x
                surviving = np.exp(psi[t] * x) if float(data.relaxes[s]) > 0 else 1.0
            mean = surviving * coefficients @ directions[s][t]
            variance = sd**2 + float(data.error[s, t]) ** 2
            total += stats.multivariate_t(mean, variance * np.eye(len(mean)), nu).logpdf(increments[s][t])
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
    """Vectors with and without attenuation, a number with directions of either sign, and a measured log variance."""
    rng = np.random.default_rng(7)
    data, directions, increments = random_strata(
        rng, N_INTERVALS, (6, 3, 1, 1), 2, numbers=[2], measured=True, mixed=mixed
    )
    # Half the feedback: no residual grows so fast within an interval that the model stops following it.
    data = data._replace(relaxes=data.relaxes.at[1].set(0.0), feedback=data.feedback / 2)
    for _ in range(2):
        values = random_sites(rng, curve, mixed, 4)
        found, expected = both_log_densities(data, directions, increments, values, curve, mixed, coupled=False)
        assert found == pytest.approx(expected, rel=1e-11)


@pytest.mark.parametrize(("curve", "mixed"), [("gp", False), ("constant", True), ("power", True)])
def test_coupled_model_is_the_plain_log_density(curve, mixed):
    rng = np.random.default_rng(8)
    data, directions, increments = random_strata(rng, N_INTERVALS, (6, 3), 2, mixed=mixed)
    values = random_sites(rng, curve, mixed, 2)
    found, expected = both_log_densities(data, directions, increments, values, curve, mixed, coupled=True)
    assert found == pytest.approx(expected, rel=1e-11)


@pytest.mark.parametrize("mixed", [False, True])
def test_strata_that_share_nothing_may_be_fitted_apart(mixed):
    """The log density of three strata at once is the sum of those of each by itself."""
    rng = np.random.default_rng(10)
    data, directions, increments = random_strata(rng, N_INTERVALS, (5, 4, 1), 2, numbers=[2], mixed=mixed)
    values = random_sites(rng, "gp", mixed, 3)
    whole, _ = both_log_densities(data, directions, increments, values, "gp", mixed, coupled=False)
    n_curves, parts = len(values["curve_weights"]), 0.0
    of_all = {"design", "lengths", "n_steps", "relative_length", "n_classes", "prior", "lean", "kinds"}
    for s in range(3):
        rows = np.arange(s, n_curves, 3)
        fields = {name: getattr(data, name)[s : s + 1] for name in data._fields if name not in of_all}
        one = data._replace(**fields, prior=type(data.prior)(*(leaf[rows] for leaf in data.prior)))
        own = {name: value[rows] if len(value) == n_curves else value[s : s + 1] for name, value in values.items()}
        parts += both_log_densities(one, directions[s : s + 1], increments[s : s + 1], own, "gp", mixed, False)[0]
    assert whole == pytest.approx(parts, rel=1e-12)


def test_a_number_is_a_vector_of_one_dimension():
    """The density of a number around u is that of a vector of one dimension around u, one direction being enough."""
    rng = np.random.default_rng(11)
    number, directions, increments = random_strata(rng, N_INTERVALS, (1, 1), 1, numbers=[0, 1])
    u, x = np.asarray(directions)[..., 0], np.asarray(increments)
    vector = number._replace(
        direction_square=jnp.asarray(u**2), direction_increment=jnp.asarray(u * x), is_number=jnp.zeros(2)
    )
    values = {name: jnp.asarray(value) for name, value in random_sites(rng, "gp", False, 2).items()}
    options = {"curve": "gp", "mixed": False, "coupled": False}
    one, other = (float(model_log_density(data, values, **options)) for data in (number, vector))
    assert one == pytest.approx(other, rel=1e-12)


def test_degrees_of_freedom_run_from_those_of_the_shortest_interval_to_those_of_the_longest():
    degrees = jnp.array([[2.0, 32.0], [5.0, 5.0]])
    found = interval_degrees(degrees, jnp.array([0.0, 0.25, 0.5, 1.0]))
    np.testing.assert_allclose(found, [[2.0, 4.0, 8.0, 32.0], [5.0] * 4], rtol=1e-12)


def test_nothing_attenuates_where_intervals_are_alike():
    rng = np.random.default_rng(12)
    data, *_ = random_strata(rng, N_INTERVALS, (6, 1), 1, numbers=[1])
    sampled = numpyro.handlers.seed(sample_parameters, jax.random.key(0))(data, curve="gp", mixed=False)
    np.testing.assert_array_equal(sampled.attenuation, np.zeros((2, N_INTERVALS)))
    np.testing.assert_array_equal(sampled.interval_exponent, np.zeros(2))
    np.testing.assert_array_equal(sampled.degrees[:, 0], sampled.degrees[:, 1])
    assert (sampled.degrees > MINIMAL_DEGREES).all()


@pytest.mark.parametrize("coupled", [False, True])
def test_extreme_parameters_keep_density_and_gradient_finite(coupled):
    """Rates that explode or vanish, noise far off, drift that is seen a hundredfold or not at all."""
    rng = np.random.default_rng(13)
    dimensions, numbers = ((6, 3), []) if coupled else ((6, 1), [1])
    data, *_ = random_strata(rng, N_INTERVALS, dimensions, 2, numbers=numbers, mixed=True)
    values = {name: jnp.asarray(value) for name, value in random_sites(rng, "constant", True, 2).items()}

    def total(weights):
        sites = {**values, "curve_weights": weights[:, None]}
        return log_density(strata_model, (data,), {"curve": "constant", "coupled": coupled, "mixed": True}, sites)[0]

    evaluate = jax.jit(jax.value_and_grad(total))
    for location in (-45.0, 0.0, 45.0):
        for log_scale in (-50.0, 50.0):
            for psi in (-50.0, 5.0):
                weights = jnp.repeat(jnp.array([location, log_scale, psi]), 2)
                value, gradient = evaluate(weights)
                assert np.isfinite(value), (location, log_scale, psi)
                assert np.isfinite(gradient).all(), (location, log_scale, psi)
