"""Coordinates around the mode: exact for normal posteriors, and good enough for chains on a narrow ridge."""

import numpy as np
import pytest
from scipy import stats

from lesde_infer._jax import jax, jnp
from lesde_infer.laplace_frame import LEAST_CURVATURE, Frame, curvature_of, laplace_frame


def normal_potential(mean, covariance):
    precision = jnp.asarray(np.linalg.inv(covariance))
    return lambda x: 0.5 * (x - jnp.asarray(mean)) @ precision @ (x - jnp.asarray(mean))


def random_covariance(rng, size, condition):
    axes = stats.ortho_group.rvs(size, random_state=rng)
    return axes * np.geomspace(1.0 / condition, 1.0, size) @ axes.T


@pytest.mark.parametrize("condition", [1.0, 1e6])
def test_a_normal_posterior_becomes_a_standard_normal(condition):
    rng = np.random.default_rng(0)
    mean, covariance = rng.normal(size=4), random_covariance(rng, 4, condition)
    taken = np.ones(4, dtype=bool)
    frame = laplace_frame(jax.jit(curvature_of(normal_potential(mean, covariance), taken)), jnp.asarray(mean), taken)
    np.testing.assert_array_equal(frame.centre, mean)
    np.testing.assert_allclose(frame.root @ frame.root.T, covariance, rtol=1e-6, atol=1e-10)
    x = rng.normal(size=(5, 4))
    potentials = [normal_potential(mean, covariance)(position) for position in frame.position(x)]
    np.testing.assert_allclose(potentials, (x**2).sum(axis=1) / 2, rtol=1e-6)


def test_flat_directions_do_not_lead_far_away():
    taken = np.ones(2, dtype=bool)
    frame = laplace_frame(jax.jit(curvature_of(lambda x: 0.5 * x[0] ** 2, taken)), jnp.array([1.0, 3.0]), taken)
    np.testing.assert_array_equal(frame.centre, [1.0, 3.0])
    np.testing.assert_allclose(np.sort(np.linalg.norm(frame.root, axis=0)), [1.0, LEAST_CURVATURE**-0.5])


def test_coordinates_that_are_not_taken_stay_as_they_are():
    rng = np.random.default_rng(1)
    mean, covariance = rng.normal(size=3), random_covariance(rng, 3, 100.0)
    taken = np.array([True, False, True])
    start = jnp.asarray(rng.normal(size=3))
    frame = laplace_frame(jax.jit(curvature_of(normal_potential(mean, covariance), taken)), start, taken)
    assert frame.centre[1] == start[1]
    np.testing.assert_array_equal(frame.root[1], [0.0, 1.0, 0.0])
    np.testing.assert_array_equal(frame.root[:, 1], [0.0, 1.0, 0.0])
    given = np.linalg.inv(np.linalg.inv(covariance)[np.ix_(taken, taken)])  # of the others, given the one left alone
    own = np.asarray(frame.root)[np.ix_(taken, taken)]
    np.testing.assert_allclose(own @ own.T, given, rtol=1e-8)


def test_a_potential_that_is_not_a_number_leaves_coordinates_as_they_are():
    taken = np.ones(2, dtype=bool)
    start = jnp.array([0.5, -0.5])
    frame = laplace_frame(jax.jit(curvature_of(lambda x: jnp.sqrt(-1.0 - x @ x), taken)), start, taken)
    np.testing.assert_array_equal(frame.centre, start)
    np.testing.assert_array_equal(frame.root, np.eye(2))


def test_positions_have_leading_axes():
    frame = Frame(jnp.array([1.0, 2.0]), jnp.array([[2.0, 0.0], [1.0, 1.0]]))
    x = np.arange(12.0).reshape(2, 3, 2)
    expected = np.array([1.0, 2.0]) + np.einsum("ij,abj->abi", np.asarray(frame.root), x)
    np.testing.assert_allclose(frame.position(jnp.asarray(x)), expected)
