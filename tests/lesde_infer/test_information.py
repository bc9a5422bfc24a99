"""Fisher information against averages over data that are simulated from the model."""

from functools import partial

import numpy as np
import pytest
from core_helpers import random_strata
from scipy import linalg

from lesde_infer._jax import jax, jnp
from lesde_infer.curves import n_weights
from lesde_infer.information import curve_information
from lesde_infer.model import Parameters, evaluate_curves, increment_density, predict_intervals

N_INTERVALS, N_SIMULATIONS = 12, 20_000
DIMENSIONS = (6, 1)
DEGREES = jnp.array([2.2, 5.0])
TIME_SCALE = jnp.asarray(0.02)


@partial(jax.jit, static_argnames="curve")
def parameters_at(weights, data, curve):
    nothing = jnp.zeros(len(DEGREES))
    location, log_scale = evaluate_curves(curve, weights, TIME_SCALE, data)
    return Parameters(location, log_scale, DEGREES, nothing + 0.1, nothing + 0.05)


def interval_log_likelihood(weights, data, curve, coupled):
    parameters = parameters_at(weights, data, curve)
    return increment_density(parameters, data, coupled=coupled).log_prob(data.increment_square)


def simulate_increments(rng, weights, data, directions, curve, coupled):
    """Draw increments as vectors, σ√λ ε around Σ cⱼuⱼ; return their products with the directions, and their squares."""
    prediction = predict_intervals(parameters_at(weights, data, curve), data, coupled=coupled)
    products, squares = [], []
    for s, u in enumerate(directions):
        nu = float(DEGREES[s])
        mean = np.einsum("tj,tjd->td", np.asarray(prediction.coefficients)[s], u)
        factor = nu / rng.chisquare(nu, size=(N_SIMULATIONS, N_INTERVALS, 1))
        noise = np.exp(np.asarray(prediction.log_noise)[s])[:, None] * np.sqrt(factor)
        x = mean + noise * rng.normal(size=(N_SIMULATIONS, *mean.shape))
        products.append(np.einsum("ntd,tjd->ntj", x, u))
        squares.append((x**2).sum(axis=-1))
    return jnp.asarray(np.stack(products, axis=1)), jnp.asarray(np.stack(squares, axis=1))


def simulated_scores(rng, weights, data, directions, curve, coupled):
    """Gradient of the log likelihood in all weights, for each simulation: array (simulation, curve, weight)."""
    products, squares = simulate_increments(rng, weights, data, directions, curve, coupled)

    def total(w, product, square):
        changed = data._replace(direction_increment=product, increment_square=square)
        return interval_log_likelihood(w, changed, curve, coupled).sum()

    return np.asarray(jax.jit(jax.vmap(jax.grad(total), in_axes=(None, 0, 0)))(weights, products, squares))


def make_weights(rng, curve):
    return jnp.asarray(0.5 * rng.normal(size=(4, n_weights(curve))))


@pytest.mark.parametrize(
    ("curve", "coupled", "measured"),
    [("constant", False, True), ("power", False, False), ("power", True, False), ("gp", False, True)],
)
def test_information_is_the_covariance_of_the_score(curve, coupled, measured):
    """One and six dimensions, with and without measurement error, rates with feedback: within five standard errors."""
    rng = np.random.default_rng(3)
    dimensions = (6, 3) if coupled else DIMENSIONS
    data, directions, _ = random_strata(rng, N_INTERVALS, dimensions, 2, measured=measured)
    weights = make_weights(rng, curve)
    evaluate = jax.jit(partial(curve_information, curve=curve, coupled=coupled))
    found = np.asarray(evaluate(parameters_at(weights, data, curve), weights, TIME_SCALE, data))
    scores = simulated_scores(rng, weights, data, directions, curve, coupled)
    for c in range(4):
        eigenvalues, eigenvectors = linalg.eigh(found[c])
        for direction in eigenvectors.T[eigenvalues > 1e-6 * eigenvalues[-1]]:
            projected = (scores[:, c] @ direction) ** 2
            error = projected.std() / np.sqrt(N_SIMULATIONS)
            assert abs(projected.mean() - direction @ found[c] @ direction) < 5 * error
        mean_error = scores[:, c].std(axis=0) / np.sqrt(N_SIMULATIONS)
        assert (np.abs(scores[:, c].mean(axis=0)) < 5 * mean_error).all()


def test_rate_and_noise_share_no_information():
    rng = np.random.default_rng(4)
    data, directions, _ = random_strata(rng, N_INTERVALS, DIMENSIONS, 2)
    weights = make_weights(rng, "constant")
    scores = simulated_scores(rng, weights, data, directions, "constant", coupled=False)[:, :, 0]
    scores = scores / scores.std(axis=0)
    correlation = scores.T @ scores / N_SIMULATIONS
    np.testing.assert_allclose(correlation - np.diag(np.diag(correlation)), 0.0, atol=5 / np.sqrt(N_SIMULATIONS))


def test_information_of_one_interval_is_the_closed_form():
    """(ν + d)/(ν + d + 2) |u|²(∂c/∂rate)²/σ² and 2dν/(ν + d + 2), diluted by σ⁴/(σ² + error²)² on the scale."""
    rng = np.random.default_rng(5)
    data, *_ = random_strata(rng, 1, DIMENSIONS, 1, measured=True)
    weights = jnp.array([[0.0], [0.3], [-0.2], [0.4]])
    data = data._replace(n_steps=jnp.ones(1), feedback=jnp.zeros_like(data.feedback))
    evaluate = jax.jit(partial(curve_information, curve="constant", coupled=False))
    found = evaluate(parameters_at(weights, data, "constant"), weights, TIME_SCALE, data)[:, 0, 0]
    nu, d, u2 = np.asarray(DEGREES), np.array(DIMENSIONS), np.asarray(data.direction_square)[:, 0, 0]
    length, error = float(data.lengths[0]), float(data.error[1, 0])
    sd2 = np.array([np.exp(2 * -0.2) * length, np.exp(2 * 0.4)])
    push = np.array([float(data.reference[0]) * length / 3, 1.0])  # the derivative of sinh at zero is one
    noise2 = sd2 + np.array([0.0, error**2])
    location = (nu + d) / (nu + d + 2) * u2 * push**2 / noise2
    scale = 2 * d * nu / (nu + d + 2) * (sd2 / noise2) ** 2
    np.testing.assert_allclose(found, [*location, *scale], rtol=1e-10)


def test_information_is_positive_wherever_it_is_taken():
    rng = np.random.default_rng(6)
    data, *_ = random_strata(rng, N_INTERVALS, DIMENSIONS, 2, measured=True)
    evaluate = jax.jit(partial(curve_information, curve="gp", coupled=False))
    for _ in range(5):
        weights = jnp.asarray(4.0 * rng.normal(size=(4, n_weights("gp"))))
        found = np.asarray(evaluate(parameters_at(weights, data, "gp"), weights, TIME_SCALE, data))
        np.testing.assert_allclose(found, found.transpose(0, 2, 1), rtol=1e-9, atol=1e-12 * np.abs(found).max())
        for block in found:
            assert linalg.eigvalsh(block).min() >= -1e-10 * max(np.abs(block).max(), 1e-300)
