"""φ₁(z) = (eᶻ − 1)/z, with a derivative of its own; tests/lesde_infer/test_impacts.py holds both against SciPy."""

import math

from jaxtyping import Array, Bool, Float

from lesde_infer._jax import jax, jnp

# Growth by e^50 over one interval explains nothing a record could hold; the clip keeps gradients finite.
MAXIMAL_EXPONENT = 50.0
SERIES_REACH = 0.5  # of the series of φ₁
PHI_1_SERIES = tuple(1.0 / math.factorial(k + 1) for k in range(13, -1, -1))  # the next term is below 10⁻¹⁶
SLOPE_SERIES = tuple((k + 1.0) / math.factorial(k + 2) for k in range(13, -1, -1))


def phi_1(exponent: Float[Array, "..."]) -> Float[Array, "..."]:
    """φ₁(z) = (e^z − 1)/z, with φ₁(0) = 1, smooth there; z is clipped from above at `MAXIMAL_EXPONENT`."""
    return _phi_1(jnp.minimum(exponent, MAXIMAL_EXPONENT))


@jax.custom_jvp
def _phi_1(z: Float[Array, "..."]) -> Float[Array, "..."]:
    """Return φ₁(z): up to `SERIES_REACH` by Σ zᵏ/(k + 1)!, and beyond by e^z − 1, which loses two bits at most there.

    Both are computed on several numbers at a time, which ``expm1`` is not. The derivative is φ₁′ = ((z − 1) φ₁ + 1)/z,
    or Σ (k + 1) zᵏ/(k + 2)!.
    """
    small, near, far = _near_and_far(z)
    return jnp.where(small, _series(PHI_1_SERIES, near), (jnp.exp(far) - 1.0) / far)


def _slope_of_phi_1(
    at: tuple[Float[Array, "..."]], direction: tuple[Float[Array, "..."]]
) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
    (z,), (moved,) = at, direction
    value = _phi_1(z)
    small, near, far = _near_and_far(z)
    return value, jnp.where(small, _series(SLOPE_SERIES, near), ((far - 1.0) * value + 1.0) / far) * moved


_phi_1.defjvp(_slope_of_phi_1)


def _near_and_far(z: Float[Array, "..."]) -> tuple[Bool[Array, "..."], Float[Array, "..."], Float[Array, "..."]]:
    """Tell where the series serves, and return z for it and for the other formula, harmless where the other serves."""
    small = jnp.abs(z) < SERIES_REACH
    return small, jnp.where(small, z, 0.0), jnp.where(small, 1.0, z)


def _series(coefficients: tuple[float, ...], z: Float[Array, "..."]) -> Float[Array, "..."]:
    """Return a polynomial, whose coefficients are given from the highest power down."""
    total = jnp.zeros_like(z)
    for coefficient in coefficients:
        total = coefficient + z * total
    return total
