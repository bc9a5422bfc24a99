"""log Γ against SciPy's."""

import numpy as np
import pytest
from scipy.special import digamma, gammaln

from lesde_infer._jax import jax, jnp
from lesde_infer.log_gamma import LARGEST, log_gamma

ARGUMENTS = np.concatenate([np.geomspace(1e-6, 1e8, 4001), [0.25, 0.5, 1.0, 1.5, 2.0, LARGEST]])


def test_values_are_those_of_scipy():
    found, exact = np.asarray(log_gamma(jnp.asarray(ARGUMENTS))), gammaln(ARGUMENTS)
    # Near 1 and 2, where log Γ vanishes, what is left is the rounding of terms of size 20.
    np.testing.assert_allclose(found, exact, rtol=2e-14, atol=2e-14)


def test_derivatives_are_those_of_scipy():
    found = np.asarray(jax.vmap(jax.grad(log_gamma))(jnp.asarray(ARGUMENTS)))
    np.testing.assert_allclose(found, digamma(ARGUMENTS), rtol=2e-14, atol=2e-14)


@pytest.mark.parametrize("z", [0.3, 1.0, 2.7, 45.0])
def test_the_recurrence_holds(z):
    assert float(log_gamma(jnp.asarray(z + 1.0)) - log_gamma(jnp.asarray(z))) == pytest.approx(np.log(z), abs=1e-13)
