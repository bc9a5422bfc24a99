"""Curves against plain formulas, the Gaussian process they approximate, and changes of the unit of time."""

from functools import partial

import numpy as np
import numpyro
import pytest
from numpyro.contrib.hsgp.laplacian import eigenfunctions
from numpyro.contrib.hsgp.spectral_densities import diag_spectral_density_matern

from lesde_infer._jax import jax, jnp
from lesde_infer.curves import (
    BASIS_FUNCTIONS,
    CURVES,
    DOMAIN_HALF_WIDTH,
    MAXIMAL_SINH_ARGUMENT,
    CurvePrior,
    curve_design,
    early_time,
    log_time,
    n_weights,
    predictor,
    prior_width,
    rate,
    sample_weights,
)

SPAN = 3000.0
EARLY = 0.05 * SPAN
ELAPSED = np.array([0.5, 10.0, 250.0, 1500.0, 2700.0, 2990.0])
TIME_SCALE = 0.02
REFERENCE = 1e-4


def plain_predictor(curve, weights, elapsed=ELAPSED, span=SPAN):
    """u(t), function by function; for ``power`` without the power law's factor on a rate."""
    if curve == "constant":
        return np.full(len(elapsed), weights[0])
    if curve == "power":
        shift = TIME_SCALE * span
        return weights[0] - weights[1] * np.log((elapsed + shift) / (0.9 * span + shift))
    start, end = np.log(EARLY), np.log(span + EARLY)
    x = -1 + 2 * (np.log(elapsed + EARLY) - start) / (end - start)
    total = weights[0] + weights[1] * x
    for j in range(BASIS_FUNCTIONS):
        frequency = (j + 1) * np.pi / (2 * DOMAIN_HALF_WIDTH)
        total += weights[j + 2] * np.sin(frequency * (x + DOMAIN_HALF_WIDTH)) / np.sqrt(DOMAIN_HALF_WIDTH)
    return total


def some_weights(curve, seed=0):
    return np.random.default_rng(seed).normal(size=n_weights(curve))


@pytest.mark.parametrize("curve", CURVES)
def test_predictor_is_the_plain_formula(curve):
    weights = some_weights(curve)
    found = predictor(curve, jnp.asarray(weights), curve_design(ELAPSED, SPAN, EARLY), jnp.asarray(TIME_SCALE))
    np.testing.assert_allclose(found, plain_predictor(curve, weights), rtol=1e-12)


@pytest.mark.parametrize("curve", CURVES)
def test_rate_is_sinh_with_the_power_law_as_a_factor(curve):
    weights = some_weights(curve)
    arguments = curve_design(ELAPSED, SPAN, EARLY), jnp.asarray(TIME_SCALE), jnp.asarray(REFERENCE)
    found = rate(curve, jnp.asarray(weights), *arguments)
    if curve == "power":
        shift = TIME_SCALE * SPAN
        expected = REFERENCE * np.sinh(weights[0]) * ((ELAPSED + shift) / (0.9 * SPAN + shift)) ** -weights[1]
    else:
        expected = REFERENCE * np.sinh(plain_predictor(curve, weights))
    np.testing.assert_allclose(found, expected, rtol=1e-11)


def test_power_law_meets_its_level_late_in_the_record():
    design = curve_design(np.array([0.9 * SPAN]), SPAN, EARLY)
    for exponent in (-2.0, 0.0, 5.0):
        found = rate("power", jnp.array([1.2, exponent]), design, jnp.asarray(TIME_SCALE), jnp.asarray(REFERENCE))
        assert float(found[0]) == pytest.approx(REFERENCE * np.sinh(1.2), rel=1e-12)


@pytest.mark.parametrize(("n_intervals", "share"), [(1000, 0.04), (100, 0.075), (8, 0.9375), (4, 0.875)])
def test_the_start_is_resolved_by_neither_a_small_share_nor_few_intervals(n_intervals, share):
    elapsed = SPAN * (np.arange(n_intervals) + 0.5) / n_intervals
    assert early_time(elapsed, SPAN) == pytest.approx(share * SPAN)


def test_slope_of_a_power_law_in_log_time_is_its_exponent():
    early = 1e-9  # a time scale so short that it is out of the way
    design = curve_design(np.array([100.0, 1000.0]), SPAN, EARLY)
    values = rate("power", jnp.array([0.7, 1.3]), design, jnp.asarray(early), jnp.asarray(1.0))
    assert float(jnp.log(values[1] / values[0]) / np.log(10.0)) == pytest.approx(-1.3, rel=1e-6)


@pytest.mark.parametrize("curve", CURVES)
def test_rates_change_sign_with_u_and_resolve_zero(curve):
    design = curve_design(ELAPSED, SPAN, EARLY)

    def at(level):
        weights = jnp.zeros(n_weights(curve)).at[0].set(level)
        return np.asarray(rate(curve, weights, design, jnp.asarray(TIME_SCALE), jnp.asarray(REFERENCE)))

    np.testing.assert_allclose(at(-3.0), -at(3.0), rtol=1e-14)
    assert not at(0.0).any()
    # Below the reference a rate is linear in u, far above it exponential.
    np.testing.assert_allclose(at(1e-3), 1e-3 * REFERENCE, rtol=1e-6)
    np.testing.assert_allclose(at(20.0) / at(19.0), np.e, rtol=1e-12)


@pytest.mark.parametrize("curve", CURVES)
def test_rates_beyond_reach_stay_finite(curve):
    design = curve_design(ELAPSED, SPAN, EARLY)

    @jax.jit
    @jax.value_and_grad
    def total(weights):
        return rate(curve, weights, design, jnp.asarray(TIME_SCALE), jnp.asarray(REFERENCE)).sum()

    for level in (-1e6, -MAXIMAL_SINH_ARGUMENT, 1e6):
        value, gradient = total(jnp.full(n_weights(curve), level))
        assert np.isfinite(value)
        assert np.isfinite(gradient).all()


@pytest.mark.parametrize("curve", CURVES)
def test_curves_do_not_depend_on_the_unit_of_time(curve):
    weights = jnp.asarray(some_weights(curve, seed=1))
    for unit in (1e-3, 60.0):
        plain, changed = curve_design(ELAPSED, SPAN, EARLY), curve_design(unit * ELAPSED, unit * SPAN, unit * EARLY)
        np.testing.assert_allclose(changed.trend, plain.trend, atol=1e-12)
        np.testing.assert_allclose(changed.basis, plain.basis, atol=1e-11)
        one, other = (predictor(curve, weights, design, jnp.asarray(TIME_SCALE)) for design in (plain, changed))
        np.testing.assert_allclose(other, one, rtol=1e-10)


def test_scaled_log_time_spans_the_record():
    design = curve_design(np.array([0.0, SPAN]), SPAN, EARLY)
    np.testing.assert_allclose(design.trend, [[1.0, -1.0], [1.0, 1.0]], atol=1e-14)
    shifted = log_time(design, jnp.array([0.01, 0.5]))
    np.testing.assert_allclose(shifted, np.log([[0.01 / 0.91, 1.01 / 0.91], [0.5 / 1.4, 1.5 / 1.4]]), atol=1e-12)


def test_curves_of_several_strata_at_once_are_those_one_by_one():
    design = curve_design(ELAPSED, SPAN, EARLY)
    for curve in CURVES:
        weights = jnp.stack([jnp.asarray(some_weights(curve, seed)) for seed in range(3)])
        scales, references = jnp.array([0.01, 0.02, 0.3]), jnp.array([1e-4, 1.0, 10.0])
        evaluate = jax.jit(partial(rate, curve))
        batch = evaluate(weights, design, scales, references)
        for i in range(3):
            one = evaluate(weights[i], design, scales[i], references[i])
            np.testing.assert_allclose(batch[i], one, rtol=1e-12)


def matern(distance, length):
    """Matérn 5/2 correlation (Rasmussen & Williams 2006, equation 4.17)."""
    r = np.sqrt(5) * distance / length
    return (1 + r + r**2 / 3) * np.exp(-r)


def covariance(x, amplitude, length, half_width, n_functions):
    basis = np.asarray(eigenfunctions(x, half_width, n_functions))
    density = diag_spectral_density_matern(nu=2.5, alpha=amplitude, length=length, ell=half_width, m=n_functions, dim=1)
    return basis * np.asarray(density) @ basis.T


@jax.jit
def sampled_basis_sd(amplitude, length):
    """Standard deviations that `sample_weights` gives to the basis functions' weights at given hyperparameters."""
    prior = CurvePrior(*(jnp.array([x]) for x in (0.0, 1.0, 1.0, 1.0)))
    values = {"curve_amplitude": jnp.array([amplitude]), "curve_length": jnp.array([length])}
    substituted = numpyro.handlers.substitute(numpyro.handlers.seed(sample_weights, jax.random.key(0)), data=values)
    trace = numpyro.handlers.trace(substituted).get_trace("gp", prior, jnp.zeros(()))
    return trace["curve_weights"]["fn"].base_dist.scale[0, 2:]


@pytest.mark.parametrize("amplitude", [0.5, 3.0])
def test_basis_weights_have_the_matern_spectral_density(amplitude):
    """S(ω) = a² 2√π Γ(3)/Γ(5/2) 5^{5/2}/ℓ⁵ (5/ℓ² + ω²)⁻³ at ω = jπ/(2L): Rasmussen & Williams 2006, equation 4.15."""
    length = 0.4
    frequency = np.arange(1, BASIS_FUNCTIONS + 1) * np.pi / (2 * DOMAIN_HALF_WIDTH)
    front = amplitude**2 * 2 * np.sqrt(np.pi) * 2.0 / (0.75 * np.sqrt(np.pi)) * 5**2.5 / length**5
    expected = front * (5 / length**2 + frequency**2) ** -3.0
    np.testing.assert_allclose(sampled_basis_sd(amplitude, length) ** 2, expected, rtol=1e-12)


def test_gaussian_process_converges_to_the_matern_kernel():
    x = np.linspace(-1, 1, 41)
    distance = np.abs(x[:, None] - x)
    for length in (0.3, 0.5, 1.0):
        np.testing.assert_allclose(covariance(x, 1.0, length, 8.0, 300), matern(distance, length), atol=1e-4)


@pytest.mark.parametrize(("length", "tolerance"), [(0.19, 0.025), (0.25, 0.015), (0.35, 0.005), (0.5, 0.015)])
def test_prior_is_the_matern_kernel_in_the_middle_of_the_record(length, tolerance):
    """With the basis that is used, over the middle half of log time, at lengths up to the prior's median."""
    x = np.linspace(-1, 1, 41)
    start, end = np.log(EARLY), np.log(SPAN + EARLY)
    elapsed = np.exp(start + (x + 1) / 2 * (end - start)) - EARLY
    basis = np.asarray(curve_design(np.maximum(elapsed, 0.0), SPAN, EARLY).basis)
    found = basis * sampled_basis_sd(1.0, length) ** 2 @ basis.T
    middle = np.abs(x) <= 0.5
    error = np.abs(found - matern(np.abs(x[:, None] - x), length))[np.ix_(middle, middle)]
    assert error.max() < tolerance


@pytest.mark.parametrize("curve", CURVES)
def test_prior_width_is_that_of_draws(curve):
    """Of u in the middle of the record, with the amplitude at its median and, for a power law, τ at its own."""
    prior = CurvePrior(*(jnp.array(x) for x in ([0.0], [0.5], [1.5], [2.0])))
    design = curve_design(ELAPSED, SPAN, EARLY)
    keys = jax.random.split(jax.random.key(3), 4000)
    known = {"curve_amplitude": jnp.array([0.6745 * 2.0]), "curve_length": jnp.array([0.3])}

    @jax.jit
    @jax.vmap
    def draw(key):
        model = numpyro.handlers.substitute(sample_weights, data=known) if curve == "gp" else sample_weights
        weights = numpyro.handlers.seed(model, key)(curve, prior, jnp.asarray(0.01))
        return predictor(curve, weights, design, jnp.full(1, 0.01))

    np.testing.assert_allclose(draw(keys).std(axis=0)[0, 2:5], prior_width(curve, prior, design)[0, 2:5], rtol=0.06)


@pytest.mark.parametrize("curve", CURVES)
def test_draws_from_the_prior_are_finite_and_have_its_moments(curve):
    prior = CurvePrior(*(jnp.array(x) for x in ([2.0, -7.0], [0.5, 5.0], [1.5, 0.2], [1.0, 3.0])))
    draw = jax.jit(jax.vmap(lambda key: numpyro.handlers.seed(sample_weights, key)(curve, prior, jnp.asarray(0.3))))
    weights = np.asarray(draw(jax.random.split(jax.random.key(1), 2000)))
    assert weights.shape == (2000, 2, n_weights(curve))
    assert np.isfinite(weights).all()
    level = weights[:, :, 0]
    np.testing.assert_allclose((level.mean(axis=0) - [2.0, -7.0]) / [0.5, 5.0], 0.0, atol=5 / np.sqrt(2000))
    np.testing.assert_allclose(level.std(axis=0) / [0.5, 5.0], 1.0, atol=5 / np.sqrt(2 * 2000))
    if curve != "constant":
        spread = [1.0, 1.0] if curve == "power" else [1.5, 0.2]
        np.testing.assert_allclose(weights[:, :, 1].std(axis=0) / spread, 1.0, atol=5 / np.sqrt(2 * 2000))


def test_weights_of_power_laws_keep_their_shape_in_units_of_the_spread_of_log_time():
    """Whatever τ, c times the exponent moves a curve about as far over the record; the exponent alone does not."""
    prior = CurvePrior(*(jnp.array(x) for x in ([0.0], [0.5], [1.5], [2.0])))
    design = curve_design(np.linspace(0.5, 99.5, 100), 100.0, EARLY)
    moved, factors = [], []
    for share in (0.001, 0.01, 0.1, 1.0):
        seeded = numpyro.handlers.seed(sample_weights, jax.random.key(0))
        trace = numpyro.handlers.trace(seeded).get_trace("power", prior, jnp.asarray(share))
        factors.append(np.asarray(trace["curve_weights"]["fn"].base_dist.factor)[0])
        exponent = jnp.array([[0.0, 1.0]])
        moved.append(float(predictor("power", exponent, design, jnp.full(1, share)).std()))
    factors, moved = np.array(factors), np.array(moved)
    np.testing.assert_allclose(factors[:, 0], 1.0)
    assert factors[1, 1] == pytest.approx(1.0, rel=1e-9)
    np.testing.assert_allclose(moved / factors[:, 1], moved[1], rtol=1e-6)
    assert moved[1] > 4 * moved[3]
