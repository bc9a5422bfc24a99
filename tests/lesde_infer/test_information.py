"""Fisher information against averages over data that are simulated from the model."""

from functools import partial

import numpy as np
import pytest
from core_helpers import random_strata
from scipy import linalg

from lesde_infer._jax import jax, jnp
from lesde_infer.curves import n_weights
from lesde_infer.information import curve_information
from lesde_infer.model import (
    Parameters,
    evaluate_curves,
    increment_density,
    interval_degrees,
    one_step_location,
    predict_intervals,
)

N_INTERVALS, N_SIMULATIONS = 12, 20_000
DIMENSIONS = (6, 1)
DEGREES = jnp.array([[2.2, 9.0], [30.0, 5.0]])  # of the shortest and of the longest intervals
TIME_SCALE = jnp.asarray(0.02)


@partial(jax.jit, static_argnames="curve")
def parameters_at(weights, data, curve):
    seen, log_scale, attenuation = evaluate_curves(curve, weights, TIME_SCALE, data)
    location = one_step_location(seen, attenuation, data)
    return Parameters(location, log_scale, attenuation, DEGREES, jnp.full(2, 0.1))


def interval_log_likelihood(weights, data, curve, coupled):
    parameters = parameters_at(weights, data, curve)
    return increment_density(parameters, data, coupled=coupled).log_prob(data.increment_square)


def simulate_increments(rng, weights, data, directions, curve, coupled):
    """Draw increments as vectors, σ√λ ε around Σ cⱼuⱼ; return what the data keep of them, for each simulation."""
    prediction = predict_intervals(parameters_at(weights, data, curve), data, coupled=coupled)
    degrees = np.asarray(interval_degrees(DEGREES, data.relative_length))
    products, numbers, squares = [], [], []
    for s, u in enumerate(directions):
        mean = np.einsum("tj,tjd->td", np.asarray(prediction.coefficients)[s], u)
        factor = degrees[s] / rng.chisquare(degrees[s], size=(N_SIMULATIONS, len(u)))
        noise = np.exp(np.asarray(prediction.log_noise)[s]) * np.sqrt(factor)
        x = mean + noise[:, :, None] * rng.normal(size=(N_SIMULATIONS, *mean.shape))
        is_number = bool(data.is_number[s])
        products.append(np.einsum("ntd,tjd->ntj", x, u) * (not is_number))
        numbers.append(x[:, :, 0] * is_number)
        squares.append((x**2).sum(axis=-1))
    return {
        "direction_increment": jnp.asarray(np.stack(products, axis=1)),
        "increment": jnp.asarray(np.stack(numbers, axis=1)),
        "increment_square": jnp.asarray(np.stack(squares, axis=1)),
    }


def simulated_scores(rng, weights, data, directions, curve, coupled):
    """Gradient of the log likelihood in all weights, for each simulation: array (simulation, curve, weight)."""
    simulated = simulate_increments(rng, weights, data, directions, curve, coupled)

    def total(w, one):
        return interval_log_likelihood(w, data._replace(**one), curve, coupled).sum()

    return np.asarray(jax.jit(jax.vmap(jax.grad(total), in_axes=(None, 0)))(weights, simulated))


def make_weights(rng, curve, mixed=False):
    return jnp.asarray(0.5 * rng.normal(size=(6 if mixed else 4, n_weights(curve))))


@pytest.mark.parametrize(
    ("curve", "coupled", "last", "mixed"),
    [
        ("constant", False, "measured", False),
        ("power", False, "vector", False),
        ("power", True, "vector", False),
        ("gp", False, "measured", False),
        ("gp", False, "number", False),
        ("constant", False, "number", True),
        ("constant", True, "vector", True),
        ("power", False, "measured", True),
    ],
)
def test_information_is_the_covariance_of_the_score(curve, coupled, last, mixed):
    """Six dimensions and one, vectors and numbers, with and without measurement error: within five standard errors."""
    rng = np.random.default_rng(3)
    dimensions = (6, 3) if coupled else DIMENSIONS
    kind = {"numbers": [1]} if last == "number" else {"measured": last == "measured"}
    data, directions, _ = random_strata(rng, N_INTERVALS, dimensions, 2, mixed=mixed, **kind)
    weights = make_weights(rng, curve, mixed)
    evaluate = jax.jit(partial(curve_information, curve=curve, coupled=coupled))
    found = np.asarray(evaluate(parameters_at(weights, data, curve), weights, TIME_SCALE, data))
    scores = simulated_scores(rng, weights, data, directions, curve, coupled)
    for c in range(len(weights)):
        nothing = mixed and c == 5 and last == "measured"  # ψ of a stratum that does not relax
        assert (found[c] != 0).any() != nothing
        eigenvalues, eigenvectors = linalg.eigh(found[c])
        for direction in eigenvectors.T[eigenvalues > 1e-6 * eigenvalues[-1]]:
            projected = (scores[:, c] @ direction) ** 2
            error = projected.std() / np.sqrt(N_SIMULATIONS)
            assert abs(projected.mean() - direction @ found[c] @ direction) < 5 * error
        mean_error = scores[:, c].std(axis=0) / np.sqrt(N_SIMULATIONS)
        assert (np.abs(scores[:, c].mean(axis=0)) <= 5 * mean_error).all()


def test_rate_and_noise_share_no_information():
    rng = np.random.default_rng(4)
    data, directions, _ = random_strata(rng, N_INTERVALS, DIMENSIONS, 2)
    weights = make_weights(rng, "constant")
    scores = simulated_scores(rng, weights, data, directions, "constant", coupled=False)[:, :, 0]
    scores = scores / scores.std(axis=0)
    correlation = scores.T @ scores / N_SIMULATIONS
    np.testing.assert_allclose(correlation - np.diag(np.diag(correlation)), 0.0, atol=5 / np.sqrt(N_SIMULATIONS))


@pytest.mark.parametrize("last", ["measured", "number"])
def test_information_of_one_interval_is_the_closed_form(last):
    """With m the mean: (ν + d)/(ν + d + 2) (∂m/∂w)²/σ², ∂m/∂ψ being m (x − 1); and 2dν/(ν + d + 2) on the scale.

    Error dilutes the latter by σ⁴/(σ² + error²)².
    """
    rng = np.random.default_rng(5)
    kind = {"numbers": [1]} if last == "number" else {"measured": True}
    data, *_ = random_strata(rng, 1, DIMENSIONS, 1, mixed=False, **kind)
    weights = jnp.array([[0.2], [0.3], [-0.2], [0.4], [-0.5], [-0.3]])
    x = 0.7
    data = data._replace(n_steps=jnp.ones(1), feedback=jnp.zeros_like(data.feedback), relative_length=jnp.full(1, x))
    evaluate = jax.jit(partial(curve_information, curve="constant", coupled=False))
    found = evaluate(parameters_at(weights, data, "constant"), weights, TIME_SCALE, data)[:, 0, 0]
    nu = np.asarray(DEGREES[:, 0] ** (1 - x) * DEGREES[:, 1] ** x)
    d, u2 = np.array(DIMENSIONS), np.asarray(data.direction_square)[:, 0, 0] * [1.0, data.direction_square[1, 0, 0]]
    length, error = float(data.lengths[0]), float(data.error[1, 0])
    is_rate, reference = np.array([1.0, last == "number"]), np.asarray(data.reference)
    sd2 = np.exp([2 * -0.2, 2 * 0.4]) * length**is_rate
    exposure = np.where(is_rate, length / 3, 1.0)
    surviving = np.exp(np.array([-0.5, -0.3]) * (x - 1) * is_rate)
    push = surviving * exposure * np.where(is_rate, reference * np.cosh([0.2, 0.3]), 1.0)
    mean = surviving * exposure * np.where(is_rate, reference * np.sinh([0.2, 0.3]), 0.3)
    noise2 = sd2 + np.array([0.0, error**2])
    shrink = (nu + d) / (nu + d + 2) * u2 / noise2
    scale = 2 * d * nu / (nu + d + 2) * (sd2 / noise2) ** 2
    np.testing.assert_allclose(
        found, [*(shrink * push**2), *scale, *(shrink * (mean * (x - 1) * is_rate) ** 2)], rtol=1e-10
    )


def test_information_is_positive_wherever_it_is_taken():
    rng = np.random.default_rng(6)
    data, *_ = random_strata(rng, N_INTERVALS, DIMENSIONS, 2, numbers=[1], mixed=True)
    evaluate = jax.jit(partial(curve_information, curve="gp", coupled=False))
    for _ in range(5):
        weights = jnp.asarray(4.0 * rng.normal(size=(6, n_weights("gp"))))
        found = np.asarray(evaluate(parameters_at(weights, data, "gp"), weights, TIME_SCALE, data))
        np.testing.assert_allclose(found, found.transpose(0, 2, 1), rtol=1e-9, atol=1e-12 * np.abs(found).max())
        for block in found:
            assert linalg.eigvalsh(block).min() >= -1e-10 * max(np.abs(block).max(), 1e-300)
