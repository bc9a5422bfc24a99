"""The collapsed Student-t against the density of all coordinates, and the attenuation of long intervals."""

from functools import partial

import numpy as np
import pytest
from scipy import integrate, linalg, stats

from lesde_infer._jax import jax, jnp
from lesde_infer.noise import CollapsedStudentT, attenuation, residual_square


def one_interval(coefficients, directions, increment, log_scale, degrees, dimension=None):
    """Log density of one increment given as a vector, from inner products only."""
    distribution = CollapsedStudentT(
        jnp.asarray(coefficients)[None, None],
        jnp.asarray((directions**2).sum(axis=-1))[None, None],
        jnp.asarray(directions @ increment)[None, None],
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


def test_residual_is_the_squared_norm_of_what_is_left():
    rng = np.random.default_rng(4)
    directions = linalg.qr(rng.normal(size=(6, 6)))[0][:2] * np.array([[2.0], [0.1]])
    coefficients, increment = rng.normal(size=2), rng.normal(size=6)
    arguments = (coefficients, (directions**2).sum(axis=1), directions @ increment, increment @ increment)
    exact = ((increment - coefficients @ directions) ** 2).sum()
    assert float(residual_square(*map(jnp.asarray, arguments))) == pytest.approx(exact, rel=1e-12)


def test_extreme_values_keep_density_and_gradient_finite():
    """Exact fits, vanished impacts, exploding rates, and noise scales far off: finite, so that a sampler survives."""

    @jax.jit
    @partial(jax.value_and_grad, argnums=(0, 1, 2))
    def total(coefficients, log_scale, degrees):
        square, product = jnp.array([[[4.0], [0.0], [4.0], [1e-30]]]), jnp.array([[[2.0], [0.0], [2.0], [1e-15]]])
        dimension = jnp.array([[2048.0]])
        distribution = CollapsedStudentT(coefficients, square, product, log_scale, degrees, dimension)
        return distribution.log_prob(jnp.array([[1.0, 0.0, 1.0, 1.0]])).sum()

    for coefficient in (0.0, 0.5, -1e21, 1e21):
        for log_scale in (-300.0, 0.0, 300.0):
            for degrees in (0.5, 1e3):
                arguments = (
                    jnp.full((1, 4, 1), coefficient),
                    jnp.full((1, 4), log_scale),
                    jnp.array([[degrees]]),
                )
                value, gradients = total(*arguments)
                assert np.isfinite(value), (coefficient, log_scale, degrees)
                assert all(np.isfinite(g).all() for g in gradients), (coefficient, log_scale, degrees)


def test_collapsed_density_does_not_pretend_to_simulate():
    distribution = CollapsedStudentT(*(jnp.ones((1, 1, 1)) for _ in range(3)), *(jnp.ones((1, 1)) for _ in range(3)))
    with pytest.raises(NotImplementedError, match="dynamics"):
        distribution.sample(jax.random.key(0))


def test_attenuation_is_the_mean_of_a_relaxing_residual():
    for theta in (1e-6, 0.01, 0.3, 5.0):
        for n in (1, 2, 17, 400):
            exact = np.mean([np.exp(-theta * j) for j in range(n)])
            assert float(attenuation(jnp.asarray(theta), jnp.array([float(n)]))[0]) == pytest.approx(exact, rel=1e-12)


@pytest.mark.parametrize("theta", [0.0, 1e-12, 0.1, 3.0, 1e4, 1e300])
def test_one_step_is_never_attenuated(theta):
    assert float(attenuation(jnp.asarray(theta), jnp.ones(1))[0]) == 1.0


def test_limits_of_attenuation():
    n_steps = jnp.array([1.0, 5.0, 50.0, 1e4])
    np.testing.assert_allclose(attenuation(jnp.asarray(0.0), n_steps), 1.0, atol=1e-5)
    np.testing.assert_allclose(attenuation(jnp.asarray(1e3), n_steps), 1 / n_steps, rtol=1e-12)
    # Long intervals see 1/(1 − e^−θ) steps, however long they are.
    seen = attenuation(jnp.asarray(0.02), jnp.array([1e4, 1e6])) * jnp.array([1e4, 1e6])
    np.testing.assert_allclose(seen, 1 / -np.expm1(-0.02), rtol=1e-12)


def test_attenuation_falls_with_relaxation_and_with_length():
    theta = jnp.geomspace(1e-4, 10.0, 30)
    values = np.asarray(attenuation(theta, jnp.array([1.0, 2.0, 10.0, 100.0])))
    assert (np.diff(values[:, 1:], axis=0) < 0).all()
    assert (np.diff(values, axis=1) < 0).all()
    gradient = jax.jit(jax.grad(lambda x: attenuation(x, jnp.array([1.0, 50.0])).sum()))
    assert all(np.isfinite(gradient(jnp.asarray(x))) for x in (0.0, 1e-12, 1.0, 1e300))
