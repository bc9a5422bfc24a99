"""Noise of one recording interval: a multivariate Student-t per stratum, on collapsed statistics.

Noise has three strata (DESIGN section 2): shared by all classes, shared by a class, individual. They are defined
to be orthogonal: shared noise moves only the mean over classes of the class means, class noise only
the contrasts between class means, individual noise only deviations from class means. With d the
dimension of a stratum, its increment over an interval is

    Δ = Σⱼ cⱼ uⱼ + σ √Δt √λ ε,      ε ~ N(0, I_d),   λ ~ InverseGamma(ν/2, ν/2),

so that integrating the interval's factor λ out gives a d-dimensional Student-t. The factor is needed:
in real runs class-mean noise jumps from interval to interval, and one smooth scale is badly overconfident.

The log density needs only the squared residual |Δ − Σ cⱼuⱼ|² = |Δ|² − 2 Σ cⱼ⟨uⱼ,Δ⟩ + Σ cⱼ²|uⱼ|², the
uⱼ being orthogonal.
tests/lesde_infer/test_noise.py compares it with the density of all coordinates.
"""

from typing import ClassVar

import numpyro.distributions as dist
from jax.scipy.special import gammaln
from jaxtyping import Array, Float
from numpyro.distributions import constraints

from lesde_infer._jax import jax, jnp

TINY = 2.3e-308  # the smallest normal double: its logarithm is finite


class CollapsedStudentT(dist.Distribution):  # type: ignore[misc]  # NumPyro is not typed
    """Student-t density of an interval's increment, as a function of its squared norm |Δ|².

    The value is |Δ|²; the inner products with the directions are parameters, being constants of the data.

    Parameters
    ----------
    coefficients : array, shape (stratum, time, component)
        cⱼ, from `lesde_infer.impacts`.
    direction_square, direction_increment : array, shape (stratum, time, component)
        |uⱼ|² and ⟨uⱼ, Δ⟩.
    log_scale : array, shape (stratum, time)
        log of the noise standard deviation of the interval per dimension, σ√Δt.
    degrees : array, shape (stratum, 1)
        Degrees of freedom ν.
    dimension : array, shape (stratum, 1)
        d, dimensions of the stratum.
    """

    arg_constraints: ClassVar = {
        "coefficients": constraints.real,
        "direction_square": constraints.nonnegative,
        "direction_increment": constraints.real,
        "log_scale": constraints.real,
        "degrees": constraints.positive,
        "dimension": constraints.positive,
    }
    support = constraints.nonnegative

    def __init__(
        self,
        coefficients: Float[Array, "stratum time component"],
        direction_square: Float[Array, "stratum time component"],
        direction_increment: Float[Array, "stratum time component"],
        log_scale: Float[Array, "stratum time"],
        degrees: Float[Array, "stratum 1"],
        dimension: Float[Array, "stratum 1"],
    ) -> None:
        self.coefficients = coefficients
        self.direction_square = direction_square
        self.direction_increment = direction_increment
        self.log_scale = log_scale
        self.degrees = degrees
        self.dimension = dimension
        super().__init__(batch_shape=log_scale.shape, validate_args=False)

    def log_prob(self, value: Float[Array, "stratum time"]) -> Float[Array, "stratum time"]:
        """Log density of the increment in R^d, all constants kept."""
        residual = residual_square(self.coefficients, self.direction_square, self.direction_increment, value)
        nu, d = self.degrees, self.dimension
        log_scaled = jnp.log(nu) + 2.0 * self.log_scale
        return (
            gammaln((nu + d) / 2.0)
            - gammaln(nu / 2.0)
            - d / 2.0 * (jnp.log(jnp.pi) + log_scaled)
            - (nu + d) / 2.0 * jax.nn.softplus(jnp.log(residual) - log_scaled)
        )

    def sample(self, key: jax.Array, sample_shape: tuple[int, ...] = ()) -> Float[Array, "*sample time"]:
        """Refuse: the collapsed density describes data, which `lesde_infer.dynamics` simulates sample by sample."""
        raise NotImplementedError("increments are simulated by lesde_infer.dynamics, not from collapsed statistics")


def residual_square(
    coefficients: Float[Array, "*batch component"],
    direction_square: Float[Array, "*batch component"],
    direction_increment: Float[Array, "*batch component"],
    increment_square: Float[Array, "*batch"],
) -> Float[Array, "*batch"]:
    """|Δ − Σ cⱼuⱼ|² from inner products, floored at the smallest normal number against rounding."""
    explained = (coefficients * (coefficients * direction_square - 2.0 * direction_increment)).sum(axis=-1)
    return jnp.maximum(increment_square + explained, TINY)


def attenuation(relaxation: Float[Array, "*batch"], n_steps: Float[Array, " time"]) -> Float[Array, "*batch time"]:
    """Mean of e^(−θj) over j = 0 … n−1: the share of a one-step drift that survives an interval of n steps.

    Class-mean residuals fluctuate from step to step and relax within a few steps, so an increment over a
    long interval sees a fluctuating residual only while it lasts (errors in variables): a residual that
    relaxes by the factor e^−θ at each step drives, over n steps, (1 − e^−θn)/(n(1 − e^−θ)) times what it would
    if it stayed. One step is never attenuated.
    """
    still = (relaxation <= 0.0)[..., None]
    theta = jnp.where(still, 1.0, relaxation[..., None])
    return jnp.where(still, 1.0, jnp.expm1(-theta * n_steps) / (n_steps * jnp.expm1(-theta)))
