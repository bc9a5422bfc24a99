"""φ₁(z) = (eᶻ − 1)/z, with a derivative of its own; tests/lesde_infer/test_impacts.py holds both against SciPy."""

import math

from jaxtyping import Array, Float

from lesde_infer._jax import jax, jnp

# Growth by e^50 over one interval explains nothing a record could hold; the clip keeps gradients finite.
MAXIMAL_EXPONENT = 50.0
SERIES_REACH = 0.5  # of the series of φ₂
PHI_2_SERIES = tuple(1.0 / math.factorial(k + 2) for k in range(13, -1, -1))  # the next term is below 10⁻¹⁷


def phi_1(exponent: Float[Array, "..."]) -> Float[Array, "..."]:
    """φ₁(z) = (e^z − 1)/z, with φ₁(0) = 1, smooth there; z is clipped from above at `MAXIMAL_EXPONENT`."""
    return _phi_1(jnp.minimum(exponent, MAXIMAL_EXPONENT))


@jax.custom_jvp
def _phi_1(z: Float[Array, "..."]) -> Float[Array, "..."]:
    """Return φ₁(z)."""
    return _phi_1_and_2(z)[0]


def _slope_of_phi_1(
    at: tuple[Float[Array, "..."]], direction: tuple[Float[Array, "..."]]
) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
    """Return φ₁ and its derivative, φ₁′ = φ₁ − φ₂."""
    (z,), (moved,) = at, direction
    value, second = _phi_1_and_2(z)
    return value, (value - second) * moved


_phi_1.defjvp(_slope_of_phi_1)


def _phi_1_and_2(z: Float[Array, "..."]) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
    """Return φ₁(z) and φ₂(z) = (φ₁(z) − 1)/z.

    Up to `SERIES_REACH` φ₂ is Σ zᵏ/(k + 2)! and φ₁ = 1 + z φ₂; beyond φ₁ = (eᶻ − 1)/z loses two bits at most, and φ₂
    another two. All of it is computed on several numbers at a time, which ``expm1`` is not.
    """
    small = jnp.abs(z) < SERIES_REACH
    near, far = jnp.where(small, z, 0.0), jnp.where(small, 1.0, z)  # harmless where the other serves
    series, direct = _series(PHI_2_SERIES, near), (jnp.exp(far) - 1.0) / far
    return jnp.where(small, 1.0 + near * series, direct), jnp.where(small, series, (direct - 1.0) / far)


def _series(coefficients: tuple[float, ...], z: Float[Array, "..."]) -> Float[Array, "..."]:
    """Return a polynomial, whose coefficients are given from the highest power down."""
    total = jnp.zeros_like(z)
    for coefficient in coefficients:
        total = coefficient + z * total
    return total
