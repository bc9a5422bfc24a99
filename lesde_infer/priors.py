"""Weakly informative priors, scaled to the run.

Scaling uses three things of each stratum: the size of its noise, the resolution of its rate, that is the standard
error with which the better intervals determine it, and how far the intervals' own estimates reach. None says
where the rate lies or whether it is positive: every rate's prior is symmetric around zero.
"""

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float

from lesde_infer._jax import jnp
from lesde_infer.curves import CurvePrior
from lesde_infer.statistics import StratumStatistics

RESOLUTION_QUANTILE = 0.1  # of the standard errors of the intervals: a rate below it could not be told from zero
LARGEST_QUANTILE = 0.9  # of the intervals' own estimates, in absolute value
MINIMAL_SPREAD = 2.0  # of u: a factor of e^±4, or either sign, even where the intervals agree
NOISE_SPREAD = (2.0, 3.0, 2.0)  # sd of level, slope and amplitude of log σ: noise changes by five orders within a run
MEASURED_NOISE_SPREAD = (2.0, 2.0, 1.0)  # the same where an interval is one number: see `measured`
MEASURED_RATE_AMPLITUDE = 1.0  # of u around its trend: a factor of e^±2
NOISE_RATIO_SPREAD = (1.0, 0.5, 0.5)  # of the log of noise along the impact over noise across it, see `relative`
# Mean of the level, sd of level, slope and amplitude of ψ: long intervals see some 70 % of a one-step drift, and a
# quarter to twice it within two sd.
ATTENUATION = (-0.35, 0.5, 0.5, 0.5)
VARIANCE_SPREAD = (4.0, 6.0, 4.0)  # of log σ²
TINY = 1e-300  # keeps logarithms and divisions defined where an impact or an increment vanishes exactly


@dataclass(frozen=True)
class StratumScale:
    """Scales of the priors of one stratum.

    Attributes
    ----------
    reference : float
        Resolution of the rate, per unit time (1 where the location curve is no rate).
    location : tuple of float
        Mean of the level, and standard deviations of level, slope and amplitude, of the location curve's u.
    noise : tuple of float
        The same of the log noise scale.
    """

    reference: float
    location: tuple[float, float, float, float]
    noise: tuple[float, float, float, float]

    def measured(self) -> "StratumScale":
        """Narrow the noise's prior for a stratum of one number an interval.

        There a wiggly location could pass through a single interval, isolated in log time, while a wiggly noise scale
        vanishes around it, and the likelihood would have spikes. Noise scales of such strata vary less.
        """
        return replace(self, noise=(self.noise[0], *MEASURED_NOISE_SPREAD))

    def relative(self) -> "StratumScale":
        """Give the noise in units of a scale that is known, up to a factor that hardly changes, for the same reason."""
        return replace(self, noise=(0.0, *NOISE_RATIO_SPREAD))

    def smooth(self) -> "StratumScale":
        """Keep a rate that is measured once an interval close to its trend, for the same reason."""
        return replace(self, location=(*self.location[:3], MEASURED_RATE_AMPLITUDE))


def rate_scale(
    estimates: Float[np.ndarray, " time"], errors: Float[np.ndarray, " time"], noise: Float[np.ndarray, " time"]
) -> StratumScale:
    """Scale the prior of a rate by each interval's own estimate of it, its standard error, and the noise scale.

    Two standard deviations of u reach the largest rates that the intervals suggest, with either sign. Level, slope and
    amplitude share them: u(t) varies by level and Gaussian process in the middle of the record, by level and slope
    more at its ends, where half of the variance is the slope's. With the whole span for each of the three, rates at the
    ends would reach far beyond any that an interval suggests, and of the runs simulated from such a prior one in seven
    has increments hundreds of times the noise, around which chains do not find their way.
    """
    reference = max(float(np.quantile(errors, RESOLUTION_QUANTILE)), TINY)
    reach = np.arcsinh(float(np.quantile(np.abs(estimates), LARGEST_QUANTILE)) / reference)
    spread = max(MINIMAL_SPREAD, float(reach) / 2.0)
    part = spread / np.sqrt(2.0)  # two of the three parts make up most of the variance anywhere
    return StratumScale(reference, (0.0, part, part, part), (_log_median(noise), *NOISE_SPREAD))


def least_squares(
    stratum: StratumStatistics, exposure: Float[np.ndarray, " time"], rounding: Float[np.ndarray, " time"]
) -> tuple[Float[np.ndarray, " time"], Float[np.ndarray, " time"]]:
    """Return each interval's own estimate of the rate of class means, without feedback, and its standard error.

    The rate acts as rate · ``exposure`` along the sum of the directions. The residual variance is no less than
    ``rounding``, per dimension. In one dimension nothing is left beside the rate; the whole increment then stands for
    the noise.
    """
    square = np.maximum(stratum.direction_square.sum(axis=1), TINY)
    product = stratum.direction_increment.sum(axis=1)
    explained = product**2 / square if stratum.dimension > 1 else 0.0
    residual = (stratum.increment_square - explained) / max(stratum.dimension - 1, 1)
    residual = np.maximum(residual, np.maximum(rounding, TINY))
    residual *= stratum.dimension / stratum.effective_dimension  # in each dimension that noise moves in, and drift
    return product / square / exposure, np.sqrt(residual / square) / exposure


def class_mean_scale(
    stratum: StratumStatistics,
    lengths: Float[np.ndarray, " time"],
    exposure: Float[np.ndarray, " time"],
    rounding: Float[np.ndarray, " time"],
    observed: Bool[np.ndarray, " time"],
) -> StratumScale:
    """Scale the prior of a stratum of class means by its own least squares, and by the size of its increments."""
    noise = np.sqrt(np.maximum(stratum.increment_square / stratum.dimension, np.maximum(rounding, TINY)) / lengths)
    estimates, errors = least_squares(stratum, exposure, rounding)
    driven = observed & (stratum.direction_square.sum(axis=1) > 0)
    if not driven.any():
        return no_rate_scale(noise[observed])
    return rate_scale(estimates[driven], errors[driven], noise[observed])


def no_rate_scale(noise: Float[np.ndarray, " time"]) -> StratumScale:
    """Scale the prior of a stratum that is noise alone."""
    return StratumScale(1.0, (0.0, 1.0, 1.0, 1.0), (_log_median(noise), *NOISE_SPREAD))


def log_variance_scale(log_variance: Float[np.ndarray, " time"]) -> StratumScale:
    """Scale the prior of a log variance by its median, and its scatter by how far neighbours lie apart."""
    scatter = np.abs(np.diff(log_variance)) / np.sqrt(2.0)
    location = (float(np.median(log_variance)), *VARIANCE_SPREAD)
    return StratumScale(1.0, location, (_log_median(scatter), *NOISE_SPREAD))


def _log_median(values: Float[np.ndarray, " time"]) -> float:
    return float(np.log(max(np.median(values), TINY)))


def curve_prior(scales: list[StratumScale], *, mixed: bool = False) -> CurvePrior:
    """Arrange priors for the model: location curves, then log noise scales, then ψ if intervals are mixed."""
    rows = [scale.location for scale in scales] + [scale.noise for scale in scales]
    rows += [ATTENUATION] * len(scales) if mixed else []
    return CurvePrior(*(jnp.asarray(column, float) for column in zip(*rows, strict=True)))
