"""A normal whose coordinate is logarithmic next to one: the density is that of a normal, whatever the stretch."""

import numpy as np
import pytest
import scipy.integrate
import scipy.stats
from numpyro.distributions import biject_to

from lesde_infer._jax import jax, jnp
from lesde_infer.stretched_normal import StretchedNormal

STRETCHES = [0.01, 0.3, 2.0]


@pytest.mark.parametrize("stretch", STRETCHES)
def test_the_density_by_the_coordinate_is_a_density(stretch):
    normal = StretchedNormal(jnp.asarray(0.5), jnp.asarray(0.5), jnp.asarray(stretch))
    to_number = biject_to(normal.support)
    v = np.linspace(-12.0, 12.0, 40_001)
    x = to_number(v)
    density = np.exp(normal.log_prob(x) + to_number.log_abs_det_jacobian(v, x))
    assert scipy.integrate.trapezoid(density, v) == pytest.approx(1.0, abs=1e-6)
    below = np.where(np.asarray(x) < 0.8, density, 0.0)
    assert scipy.integrate.trapezoid(below, v) == pytest.approx(scipy.stats.norm.cdf(0.6), abs=2e-3)


@pytest.mark.parametrize("stretch", STRETCHES)
def test_numbers_come_back(stretch):
    to_number = biject_to(StretchedNormal(0.0, 1.0, jnp.asarray(stretch)).support)
    x = jnp.asarray([-3.0, 0.0, 0.5, 0.99, 1.0, 1.01, 2.5])
    v = to_number.inv(x)
    np.testing.assert_allclose(to_number(v), x, atol=1e-12)
    by_hand = jnp.log(jnp.abs(jax.vmap(jax.grad(lambda at: to_number(at)))(v)))
    np.testing.assert_allclose(to_number.log_abs_det_jacobian(v, x), by_hand, atol=1e-12)


def test_far_from_one_a_factor_is_a_step():
    """Halving 1 − x moves the coordinate by ln 2 where 1 − x is far above the stretch."""
    to_number = biject_to(StretchedNormal(0.0, 1.0, jnp.asarray(0.001)).support)
    v = to_number.inv(jnp.asarray([0.2, 0.6, 0.8, 0.9]))
    np.testing.assert_allclose(-np.diff(v), np.log(2.0), atol=1e-4)
