"""Curves of time for rates and noise scales: constant, power law, or Gaussian process.

Each curve is linear in a vector of *weights* given a few hyperparameters, which is what makes the
posterior's geometry tractable (`lesde_infer.whitening`). With t the time since the first record, t_ref
a time within it, and τ a time scale:

- ``constant``: u(t) = w₀.
- ``power``: u(t) = w₀ and the factor ((t + τ)/(t_ref + τ))^−r, r = w₁, multiplies the rate; τ is sampled.
- ``gp``: u(t) = w₀ + w₁ x + Σⱼ wⱼ₊₂ φⱼ(x), a linear trend plus a Hilbert-space Gaussian process (Matérn 5/2)
  in x = log(t + τ), scaled to [−1, 1], τ from `early_time` (Riutort-Mayol et al. 2023,
  doi:10.1007/s11222-022-10167-2; basis and spectral density from ``numpyro.contrib.hsgp``). The functions mean nothing
  beyond their domain, so where a curve is to be continued past the record x is scaled to [−1, 1] up to a *horizon*:
  there the process returns to its prior around the trend.

Rates may be negative, vanish, and span five orders of magnitude, so a rate is ``reference`` · sinh(u): linear in
u below the resolution of the data, ``reference``, and exponential above it. Noise scales are exp(u).
"""

from typing import Literal, NamedTuple

import numpy as np
import numpyro
import numpyro.distributions as dist
from jaxtyping import Array, Float
from numpyro.contrib.hsgp.laplacian import eigenfunctions
from numpyro.contrib.hsgp.spectral_densities import diag_spectral_density_matern
from numpyro.distributions import constraints

from lesde_infer._jax import jax, jnp
from lesde_infer.quick_functions import sinh
from lesde_infer.whitening import RescaledNormal

Curve = Literal["constant", "power", "gp"]
CURVES: tuple[Curve, ...] = ("constant", "power", "gp")
MINIMAL_INTERVALS: dict[Curve, int] = {"constant": 4, "power": 8, "gp": 16}
"""Intervals a curve needs so that its weights and a noise scale can be told apart."""

# Half-width of the Hilbert space in units of that of the record, and functions on it. Cost grows with the cube of their
# number. The Gaussian process' prior variance at the very edges of the record comes out too small, by 3 % at a length
# scale of 0.25 and 25 % at 0.5; in the middle half of log time it is right to 2 %. The trend, whose prior is wide,
# covers the edges.
DOMAIN_HALF_WIDTH = 1.4
BASIS_FUNCTIONS = 16
# Times closer to the start of the record than this share of it, or than this many intervals, are not resolved in log
# time. Were they, the first intervals would be isolated there: a curve that passes through one of them with a noise
# scale that vanishes around it is a spike of the likelihood. Chains mixed up to ten times worse on real runs without.
EARLY_SHARE, EARLY_INTERVALS = 0.04, 8
TIME_SCALE_SHARE = 0.01  # of the record: prior median of τ of power laws
SHARES_OF_RECORD = (np.arange(100) + 0.5) / 100  # over which the spread of log(t + τ) is taken
# Prior sd of the exponent r of power laws. The theory's border is r = 1; |r| = 2 is four orders of magnitude within a
# record. Where a rate is close to zero nothing else bounds its exponent, and a wide prior leads chains up a cliff.
EXPONENT_SD = 1.0
LATE_SHARE = 0.9  # t_ref as a share of the record, where nothing tells where else to pin the level of a power law
MAXIMAL_SINH_ARGUMENT = 40.0
MEDIAN_OF_HALF_NORMAL = 0.6745  # in units of its scale


class CurveDesign(NamedTuple):
    """Where in time a curve is wanted, and its basis there.

    Attributes
    ----------
    elapsed : array, shape (time,)
        Time since the first record.
    span : array, shape ()
        Time from the first record to the last.
    trend : array, shape (time, 2)
        Ones, and log time scaled to [−1, 1] over the record, or up to the horizon.
    basis : array, shape (time, function)
        Eigenfunctions of the Laplacian at the scaled log time.
    pivot : array, shape ()
        t_ref of power laws as a share of the record (`lesde_infer.power_pivot`).
    """

    elapsed: Float[Array, " time"]
    span: Float[Array, ""]
    trend: Float[Array, "time two"]
    basis: Float[Array, "time function"]
    pivot: Float[Array, ""]


class CurvePrior(NamedTuple):
    """Priors of several curves, in units of u (see the module's docstring).

    Attributes
    ----------
    level_mean, level_sd : array, shape (curve,)
        Normal prior of w₀.
    slope_sd : array, shape (curve,)
        Standard deviation of the trend's slope (``gp``), over half the record in log time; its mean is zero.
    amplitude_sd : array, shape (curve,)
        Scale of the half-normal prior of the Gaussian process' standard deviation.
    """

    level_mean: Float[Array, " curve"]
    level_sd: Float[Array, " curve"]
    slope_sd: Float[Array, " curve"]
    amplitude_sd: Float[Array, " curve"]


class SoftHalfNormal(dist.HalfNormal):  # type: ignore[misc]  # NumPyro is not typed
    """Half-normal that is sampled through a softplus instead of an exponential.

    In the logarithm z of a half-normal variable the log density has a wall, −e^{2z}/2: where data say little, z reaches
    far to the left, steps grow to that width, and trajectories diverge at the wall. Through a softplus the wall is a
    parabola.
    """

    support = constraints.softplus_positive


def early_time(elapsed: Float[np.ndarray, " time"], span: float) -> float:
    """Return τ of ``gp``, below which time since the first record is not resolved, from the intervals' midpoints."""
    return max(EARLY_SHARE * span, float(elapsed[min(EARLY_INTERVALS, len(elapsed)) - 1]))


def curve_design(
    elapsed: Float[np.ndarray, " time"], span: float, early: float, reach: float | None = None
) -> CurveDesign:
    """Prepare the basis at times ``elapsed`` since the first record, for a record that lasts ``span``.

    Log time is scaled to [−1, 1] up to ``reach`` since the first record, by default to the end of the record. Priors of
    slope and length scale of ``gp`` are then per half of that range; the power law does not change.
    """
    low, high = np.log(early), np.log((span if reach is None else reach) + early)
    x = 2.0 * (np.log(elapsed + early) - low) / (high - low) - 1.0
    basis = _eigenfunctions(x, DOMAIN_HALF_WIDTH, BASIS_FUNCTIONS)
    return CurveDesign(
        elapsed=jnp.asarray(elapsed),
        span=jnp.asarray(span, float),
        trend=jnp.asarray(np.stack([np.ones_like(x), x], axis=1)),
        basis=basis,
        pivot=jnp.asarray(LATE_SHARE),
    )


_eigenfunctions = jax.jit(eigenfunctions, static_argnums=(1, 2))  # one program in place of one for each operation


def n_weights(curve: Curve) -> int:
    """Return the number of weights of a curve."""
    return {"constant": 1, "power": 2, "gp": 2 + BASIS_FUNCTIONS}[curve]


def sample_weights(
    curve: Curve, prior: CurvePrior, time_scale: Float[Array, ""], shift: Float[Array, "curve weight"] | None = None
) -> Float[Array, "curve weight"]:
    """Sample the weights of several curves given their hyperparameters.

    The site is ``curve_weights``; for ``gp`` there are ``curve_amplitude`` and ``curve_length``, the standard
    deviation of each Gaussian process and its length scale (half the record in log time is one). The weights of
    ``power`` are told by how much its ``time_scale`` stretches log time, and all of them the ``shift`` of their
    whitened coordinates by other sites (`lesde_infer.whitening`).
    """
    mean = jnp.zeros((len(prior.level_mean), n_weights(curve))).at[:, 0].set(prior.level_mean)
    trend_sd, factor = jnp.stack([prior.level_sd, prior.slope_sd], axis=1), jnp.ones_like(mean)
    if curve == "constant":
        sd = trend_sd[:, :1]
    elif curve == "power":
        sd = trend_sd.at[:, 1].set(EXPONENT_SD)
        factor = factor.at[:, 1].set(log_spread(time_scale))
    else:
        amplitude = numpyro.sample("curve_amplitude", SoftHalfNormal(prior.amplitude_sd).to_event(1))
        # Within 0.19 and 1.33 with probability 0.95: curves bend on the scale of the record, not of single records.
        length = numpyro.sample("curve_length", dist.LogNormal(jnp.log(0.5), 0.5).expand(mean.shape[:1]).to_event(1))
        sd = jnp.concatenate([trend_sd, jax.vmap(_basis_sd)(amplitude, length)], axis=1)
    return numpyro.sample("curve_weights", RescaledNormal(mean, sd, factor, shift).to_event(2))


def _basis_sd(amplitude: Float[Array, ""], length: Float[Array, ""]) -> Float[Array, " function"]:
    """Return the standard deviations of the Hilbert-space weights: square root of the Matérn 5/2 spectral density."""
    density = diag_spectral_density_matern(
        nu=2.5, alpha=amplitude**2, length=length, ell=DOMAIN_HALF_WIDTH, m=BASIS_FUNCTIONS, dim=1
    )
    return jnp.sqrt(density)


def prior_width(curve: Curve, prior: CurvePrior, design: CurveDesign) -> Float[Array, "curve time"]:
    """Return the prior standard deviation of u(t); hyperparameters at their prior medians."""
    level = prior.level_sd[:, None]
    if curve == "constant":
        return level * jnp.ones_like(design.elapsed)
    if curve == "power":
        return jnp.hypot(level, EXPONENT_SD * log_time(design, jnp.asarray(TIME_SCALE_SHARE)))
    slope, amplitude = prior.slope_sd[:, None], MEDIAN_OF_HALF_NORMAL * prior.amplitude_sd[:, None]
    return jnp.hypot(jnp.hypot(level, slope * design.trend[:, 1]), amplitude)


def sample_time_scale() -> Float[Array, ""]:
    """Sample τ of the power laws as a share of the record: one percent, within a factor of seven."""
    return numpyro.sample("power_time_scale", dist.LogNormal(jnp.log(TIME_SCALE_SHARE), 1.0))


def log_spread(time_scale: Float[Array, ""]) -> Float[Array, ""]:
    """Return the standard deviation of log(t + τ) over the record, as a multiple of that at the prior median of τ."""

    def own(share: Float[Array, ""] | float) -> Float[Array, ""]:
        return jnp.log(SHARES_OF_RECORD + share).std()

    return own(time_scale) / own(TIME_SCALE_SHARE)


def log_time(design: CurveDesign, time_scale: Float[Array, "*batch"]) -> Float[Array, "*batch time"]:
    """Return log((t + τ)/(t_ref + τ)), τ given as a share of the record."""
    shift = (time_scale * design.span)[..., None]
    return jnp.log((design.elapsed + shift) / (design.pivot * design.span + shift))


def predictor(
    curve: Curve, weights: Float[Array, "*batch weight"], design: CurveDesign, time_scale: Float[Array, "*batch"]
) -> Float[Array, "*batch time"]:
    """u(t) of a log noise scale: level, power law or Gaussian process; ``time_scale`` matters to ``power`` only."""
    if curve == "constant":
        return weights[..., :1] * jnp.ones_like(design.elapsed)
    if curve == "power":
        return weights[..., :1] - weights[..., 1:] * log_time(design, time_scale)
    return weights[..., :2] @ design.trend.T + weights[..., 2:] @ design.basis.T


def rate(
    curve: Curve,
    weights: Float[Array, "*batch weight"],
    design: CurveDesign,
    time_scale: Float[Array, "*batch"],
    reference: Float[Array, "*batch"],
) -> Float[Array, "*batch time"]:
    """Return ``reference`` · sinh(u) for ``constant`` and ``gp``, and with the power law as a factor for ``power``."""
    limit, scale = MAXIMAL_SINH_ARGUMENT, reference[..., None]
    if curve == "power":
        level = jnp.clip(weights[..., :1], -limit, limit)
        exponent = jnp.clip(-weights[..., 1:] * log_time(design, time_scale), -limit, limit)
        return scale * sinh(level) * jnp.exp(exponent)
    return scale * sinh(jnp.clip(predictor(curve, weights, design, time_scale), -limit, limit))
