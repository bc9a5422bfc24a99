"""log(1 + eˣ) and sinh x for the gradient of a posterior: several numbers at a time, once differentiated by hand.

XLA computes exponentials, and logarithms of what is given, on several numbers at a time on a CPU; ``log1p``, ``expm1``
and what is made of them (``logaddexp``, ``softplus``, ``sinh``) it does not, or at two to four times the cost. Both are
called once an interval and gradient. What is lost against them is a relative precision that is not needed here: errors
are 10⁻¹⁶ of one where a result is next to zero, and log densities and rates in units of their resolution are sums of
numbers of order one. tests/lesde_infer/test_quick_functions.py compares values and derivatives, twice, with JAX's own.
"""

from jaxtyping import Array, Float

from lesde_infer._jax import jax, jnp


@jax.custom_jvp
def softplus(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Return log(1 + eˣ) = max(x, 0) + log(1 + e^−|x|)."""
    return jnp.maximum(x, 0.0) + jnp.log(1.0 + jnp.exp(jnp.where(x >= 0.0, -x, x)))


@softplus.defjvp
def _slope_of_softplus(
    at: tuple[Float[Array, "*shape"]], direction: tuple[Float[Array, "*shape"]]
) -> tuple[Float[Array, "*shape"], Float[Array, "*shape"]]:
    (x,), (moved,) = at, direction
    small = jnp.exp(jnp.where(x >= 0.0, -x, x))
    whole = 1.0 + small
    return jnp.maximum(x, 0.0) + jnp.log(whole), jnp.where(x >= 0.0, 1.0, small) / whole * moved


@jax.custom_jvp
def sinh(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Return (eˣ − e⁻ˣ)/2."""
    grown = jnp.exp(x)
    return 0.5 * (grown - 1.0 / grown)


@sinh.defjvp
def _slope_of_sinh(
    at: tuple[Float[Array, "*shape"]], direction: tuple[Float[Array, "*shape"]]
) -> tuple[Float[Array, "*shape"], Float[Array, "*shape"]]:
    (x,), (moved,) = at, direction
    grown = jnp.exp(x)
    shrunk = 1.0 / grown
    return 0.5 * (grown - shrunk), 0.5 * (grown + shrunk) * moved
