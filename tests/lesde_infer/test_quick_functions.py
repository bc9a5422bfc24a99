"""log(1 + eˣ) and sinh x against JAX's own, with first and second derivatives, and where they could overflow."""

import numpy as np
import pytest

from lesde_infer._jax import jax, jnp
from lesde_infer.quick_functions import sinh, softplus

POINTS = jnp.asarray([-800.0, -40.0, -3.0, -0.2, -1e-9, 0.0, 1e-9, 0.2, 3.0, 40.0])
APART = jnp.asarray([-3.0, -0.2, -1e-9, 1e-9, 0.2, 3.0])  # max(x, 0) of JAX's own has half its slope at 0


@pytest.mark.parametrize(
    ("own", "other", "points"),
    [(softplus, jax.nn.softplus, jnp.append(POINTS, 800.0)), (sinh, jnp.sinh, POINTS[1:])],
)
@pytest.mark.parametrize("order", [0, 1, 2])
def test_values_and_derivatives_agree(own, other, points, order):
    for _ in range(order):
        own, other = jax.grad(own), jax.grad(other)
    found, expected = jax.vmap(own)(points), jax.vmap(other)(points)
    np.testing.assert_allclose(found, expected, rtol=1e-13, atol=2e-16)


def test_derivatives_in_reverse_over_forward_agree():
    hessian = jax.hessian(lambda x: (softplus(x) * sinh(x)).sum())(APART)
    expected = jax.hessian(lambda x: (jax.nn.softplus(x) * jnp.sinh(x)).sum())(APART)
    np.testing.assert_allclose(hessian, expected, rtol=1e-12, atol=1e-14)
