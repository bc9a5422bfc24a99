"""Where in time the level of a power law is pinned, so that level and exponent are told independently.

A rate r(t) = a (x/x₀)^−b, x = t + τ, has two numbers, of which intervals with estimates r̂ᵢ and standard errors eᵢ tell
a best where x₀ lies amid the information: with wᵢ = xᵢ^−2b/eᵢ², the information of interval i in the level, a and b are
uncorrelated if log x₀ = Σ wᵢ log xᵢ/Σ wᵢ (the normal equations of log r). Pinned elsewhere the posterior of both is a
bent ridge, and, since a level near zero leaves the exponent free, a funnel, in which transitions diverged. b is taken
from the data, as the mode of its profile likelihood times its prior N(0, 1), or 0 where that is hardly better.

tests/lesde_infer/test_power_pivot.py checks where it lies for rates and noise that are power laws themselves.
"""

import numpy as np
from jaxtyping import Float

from lesde_infer.curves import EXPONENT_SD, LATE_SHARE, TIME_SCALE_SHARE

EXPONENTS = np.linspace(-2.0, 2.0, 81)  # among which b is sought
LEAST_GAIN = 9.0  # of χ², by which an exponent must be better than none: three standard errors
LARGEST_ERROR_RATIO = 1e6  # of errors: weights of the few best intervals would overflow otherwise
EARLIEST, LATEST = 0.02, 1.0  # share of the record


def power_pivot(
    estimates: Float[np.ndarray, " time"],
    errors: Float[np.ndarray, " time"],
    elapsed: Float[np.ndarray, " time"],
    span: float,
) -> float:
    """Return t_ref as a share of the record.

    Parameters
    ----------
    estimates, errors : array
        Each interval's own estimate of the rate, and its standard error; only intervals with a positive, finite error
        count.
    elapsed : array
        Time from the first record to the middle of each interval.
    span : float
        Time from the first record to the last.
    """
    told = np.isfinite(estimates) & np.isfinite(errors) & (errors > 0)
    if not told.any():
        return LATE_SHARE
    estimates, errors = estimates[told], errors[told]
    errors = np.maximum(errors, errors.max() / LARGEST_ERROR_RATIO)
    log_x = np.log(elapsed[told] + TIME_SCALE_SHARE * span)
    middle = log_x.mean()
    shapes = np.exp(-EXPONENTS[:, None] * (log_x - middle))
    information = ((shapes / errors) ** 2).sum(axis=1)
    gain = (shapes @ (estimates / errors**2)) ** 2 / information  # by which χ² falls, the level being free
    better = gain - (EXPONENTS / EXPONENT_SD) ** 2
    constant = better[np.argmin(np.abs(EXPONENTS))]
    exponent = EXPONENTS[np.argmax(better)] if better.max() > constant + LEAST_GAIN else 0.0
    weights = np.exp(-2.0 * exponent * (log_x - middle)) / (errors / errors.min()) ** 2
    pinned = np.exp(weights @ log_x / weights.sum()) - TIME_SCALE_SHARE * span
    return float(np.clip(pinned / span, EARLIEST, LATEST))
