"""Noise of one recording interval: a multivariate Student-t per stratum, on collapsed statistics.

Noise has three strata (DESIGN section 2): shared by all classes, shared by a class, individual. They are defined
to be orthogonal: shared noise moves only the mean over classes of the class means, class noise only
the contrasts between class means, individual noise only deviations from class means. With d the
dimension of a stratum, its increment over an interval is

    Δ = Σⱼ cⱼ uⱼ + σ √Δt √λ ε,      ε ~ N(0, I_d),   λ ~ InverseGamma(ν/2, ν/2),

so that integrating the interval's factor λ out gives a d-dimensional Student-t. The factor is needed:
in real runs class-mean noise jumps from interval to interval, and one smooth scale is badly overconfident.

The log density needs only the squared residual |Δ − Σ cⱼuⱼ|² = |Δ|² − 2 Σ cⱼ⟨uⱼ,Δ⟩ + Σ cⱼ²|uⱼ|², the
uⱼ being orthogonal (`explained_square`).
tests/lesde_infer/test_noise.py compares it with the density of all coordinates.
"""

from typing import ClassVar

import numpyro.distributions as dist
from jaxtyping import Array, Float
from numpyro.distributions import constraints

from lesde_infer._jax import jax, jnp
from lesde_infer.log_gamma import log_gamma
from lesde_infer.quick_functions import softplus

TINY = 2.3e-308  # the smallest normal double: its logarithm is finite
LEAST_SQUARE = 1e-150  # of a residual: its logarithm has finite derivatives up to the second
ROUNDING = 1e-16  # of a squared residual that is a difference of squares, as a share of these


class CollapsedStudentT(dist.Distribution):  # type: ignore[misc]  # NumPyro is not typed
    """Student-t density of an interval's increment, as a function of its squared norm |Δ|².

    The value is |Δ|².

    Parameters
    ----------
    explained : array, shape (stratum, time)
        |Δ|² less the squared residual |Δ − mean|².
    log_scale : array, shape (stratum, time)
        log of the noise standard deviation of the interval per dimension, σ√Δt.
    degrees : array, shape (stratum, time), (stratum, 1) or (stratum, kind)
        Degrees of freedom ν: of each interval, of all, or of each of the kinds that `members` tells.
    dimension : array, shape (stratum, 1)
        d, dimensions of the stratum.
    observed : array, shape (stratum, time), optional
        1 where the increment was observed, and 0 where the interval tells nothing; its log density is then 0.
    members : array, shape (time, kind), optional
        1 where an interval is of a kind (`lesde_infer.length_kinds`).
    """

    arg_constraints: ClassVar = {
        "explained": constraints.real,
        "log_scale": constraints.real,
        "degrees": constraints.positive,
        "dimension": constraints.positive,
    }
    support = constraints.nonnegative

    def __init__(
        self,
        explained: Float[Array, "stratum time"],
        log_scale: Float[Array, "stratum time"],
        degrees: Float[Array, "stratum time_or_kind"],
        dimension: Float[Array, "stratum 1"],
        observed: Float[Array, "stratum time"] | None = None,
        members: Float[Array, "time kind"] | None = None,
    ) -> None:
        self.explained = explained
        self.log_scale = log_scale
        self.degrees = degrees
        self.dimension = dimension
        self.observed = observed
        self.members = members
        super().__init__(batch_shape=log_scale.shape, validate_args=False)

    def log_prob(self, value: Float[Array, "stratum time"]) -> Float[Array, "stratum time"]:
        """Log density of the increment in R^d, all constants kept."""
        # Rounding may leave it negative. Below its floor the density is flat, in its second derivatives as well.
        residual = jnp.maximum(value - self.explained, jnp.maximum(ROUNDING * value, LEAST_SQUARE))
        nu, d = self.degrees, self.dimension
        log_nu, half = jnp.log(nu), 0.5 * (nu + d)
        constant = log_gamma(half) - log_gamma(0.5 * nu) - 0.5 * d * (jnp.log(jnp.pi) + log_nu)
        if self.members is not None:
            constant, half, log_nu = (own @ self.members.T for own in (constant, half, log_nu))
        excess = softplus(jnp.log(residual) - log_nu - 2.0 * self.log_scale)
        density = constant - d * self.log_scale - half * excess
        return density if self.observed is None else jnp.where(self.observed > 0, density, 0.0)

    def sample(self, key: jax.Array, sample_shape: tuple[int, ...] = ()) -> Float[Array, "*sample time"]:
        """Refuse: the collapsed density describes data, which `lesde_infer.dynamics` simulates sample by sample."""
        raise NotImplementedError("increments are simulated by lesde_infer.dynamics, not from collapsed statistics")


def explained_square(
    coefficients: Float[Array, "*batch component"],
    direction_square: Float[Array, "*batch component"],
    direction_increment: Float[Array, "*batch component"],
) -> Float[Array, "*batch"]:
    """|Δ|² − |Δ − Σ cⱼuⱼ|² from inner products with orthogonal directions."""
    return (coefficients * (2.0 * direction_increment - coefficients * direction_square)).sum(axis=-1)
