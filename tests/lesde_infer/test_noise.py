"""The collapsed Student-t against the density of all coordinates."""

from functools import partial

import numpy as np
import pytest
from scipy import integrate, linalg, stats

from lesde_infer._jax import jax, jnp
from lesde_infer.noise import CollapsedStudentT, explained_square


def one_interval(coefficients, directions, increment, log_scale, degrees, dimension=None):
    """Log density of one increment given as a vector, from inner products only."""
    products = (coefficients, (directions**2).sum(axis=-1), directions @ increment)
    distribution = CollapsedStudentT(
        explained_square(*(jnp.asarray(product)[None, None] for product in products)),
        jnp.array([[log_scale]]),
        jnp.array([[degrees]]),
        jnp.array([[float(len(increment) if dimension is None else dimension)]]),
    )
    return float(distribution.log_prob(jnp.array([[increment @ increment]]))[0, 0])


@pytest.mark.parametrize("degrees", [0.6, 2.0, 30.0])
@pytest.mark.parametrize("dimension", [1, 3, 40])
def test_collapsed_density_is_the_multivariate_student_t(dimension, degrees):
    rng = np.random.default_rng(dimension)
    for _ in range(3):
        n_directions = min(dimension, 3)
        axes = linalg.qr(rng.normal(size=(dimension, dimension)))[0][:n_directions]
        directions = axes * rng.uniform(0.1, 5.0, size=(n_directions, 1))
        coefficients, increment = rng.normal(size=n_directions), rng.normal(size=dimension)
        log_scale = rng.normal(-1.0, 2.0)
        exact = stats.multivariate_t(
            coefficients @ directions, np.exp(2 * log_scale) * np.eye(dimension), df=degrees
        ).logpdf(increment)
        found = one_interval(coefficients, directions, increment, log_scale, degrees)
        assert found == pytest.approx(exact, rel=1e-10)


@pytest.mark.parametrize("degrees", [1.0, 2.5, 8.0])
@pytest.mark.parametrize("dimension", [1, 6])
def test_student_t_is_a_normal_with_an_inverse_gamma_factor(dimension, degrees):
    """Integrate over log λ: that is what λ ~ InverseGamma(ν/2, ν/2) in the noise's definition means."""
    increment = np.full(dimension, 0.8)
    sigma = 0.4

    def joint(log_factor):
        factor = np.exp(log_factor)
        likelihood = stats.norm.logpdf(increment, 0.0, sigma * np.sqrt(factor)).sum()
        return np.exp(likelihood + stats.invgamma(degrees / 2, scale=degrees / 2).logpdf(factor) + log_factor)

    exact = np.log(integrate.quad(joint, -20.0, 40.0, epsabs=0.0, epsrel=1e-10, limit=400, points=[0.0, 3.0])[0])
    found = one_interval(np.zeros(1), np.ones((1, dimension)), increment, np.log(sigma), degrees)
    assert found == pytest.approx(exact, rel=1e-8)


def test_many_degrees_of_freedom_are_a_normal():
    increment = np.random.default_rng(0).normal(size=5)
    found = one_interval(np.zeros(1), np.ones((1, 5)), increment, 0.0, 1e6)
    assert found == pytest.approx(stats.norm.logpdf(increment).sum(), abs=1e-4)


def test_every_interval_has_degrees_of_freedom_of_its_own():
    rng = np.random.default_rng(5)
    square, log_scale = rng.uniform(0.1, 9.0, size=(2, 4)), rng.normal(size=(2, 4))
    degrees, dimension = rng.uniform(0.5, 20.0, size=(2, 4)), np.array([1, 3])
    values = (np.zeros((2, 4)), log_scale, degrees, dimension[:, None].astype(float))
    found = CollapsedStudentT(*map(jnp.asarray, values)).log_prob(jnp.asarray(square))
    for s, d in enumerate(dimension):
        for t in range(4):
            increment = np.sqrt(square[s, t] / d) * np.ones(d)
            exact = stats.multivariate_t(np.zeros(d), np.exp(2 * log_scale[s, t]) * np.eye(d), df=degrees[s, t])
            assert float(found[s, t]) == pytest.approx(exact.logpdf(increment), rel=1e-10)


def test_what_is_explained_is_the_squared_norm_less_that_of_what_is_left():
    rng = np.random.default_rng(4)
    directions = linalg.qr(rng.normal(size=(6, 6)))[0][:2] * np.array([[2.0], [0.1]])
    coefficients, increment = rng.normal(size=2), rng.normal(size=6)
    arguments = (coefficients, (directions**2).sum(axis=1), directions @ increment)
    exact = increment @ increment - ((increment - coefficients @ directions) ** 2).sum()
    assert float(explained_square(*map(jnp.asarray, arguments))) == pytest.approx(exact, rel=1e-12)


def test_extreme_values_keep_density_and_gradient_finite():
    """Exact fits, vanished impacts, exploding rates, and noise scales far off: finite, so that a sampler survives."""

    @jax.jit
    @partial(jax.value_and_grad, argnums=(0, 1, 2))
    def total(coefficients, log_scale, degrees):
        square, product = jnp.array([[[4.0], [0.0], [4.0], [1e-30]]]), jnp.array([[[2.0], [0.0], [2.0], [1e-15]]])
        dimension = jnp.array([[2048.0]])
        explained = explained_square(coefficients, square, product)
        distribution = CollapsedStudentT(explained, log_scale, degrees, dimension)
        return distribution.log_prob(jnp.array([[1.0, 0.0, 1.0, 1.0]])).sum()

    for coefficient in (0.0, 0.5, -1e21, 1e21):
        for log_scale in (-300.0, 0.0, 300.0):
            for degrees in (0.5, 1e3):
                arguments = (
                    jnp.full((1, 4, 1), coefficient),
                    jnp.full((1, 4), log_scale),
                    jnp.full((1, 4), degrees),
                )
                value, gradients = total(*arguments)
                assert np.isfinite(value), (coefficient, log_scale, degrees)
                assert all(np.isfinite(g).all() for g in gradients), (coefficient, log_scale, degrees)


def test_collapsed_density_does_not_pretend_to_simulate():
    distribution = CollapsedStudentT(*(jnp.ones((1, 1)) for _ in range(4)))
    with pytest.raises(NotImplementedError, match="dynamics"):
        distribution.sample(jax.random.key(0))
