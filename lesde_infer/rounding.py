"""What the rounding of stored numbers leaves in increments: a floor below which nothing was measured.

A number x stored with relative precision ε (2⁻²³ for single precision) is off by up to ε|x|/2, uniformly, variance
ε²x²/12; a difference of two has both. Whatever numbers were stored as, computing with them in double precision rounds
too, up to `ARITHMETIC` in all. tests/lesde_infer/test_degenerate_runs.py holds fits to it.
"""

import numpy as np
from jaxtyping import Float

ROUNDING_MARGIN = 9.0  # squared sizes up to so many times that of rounding are rounding
# Relative precision of deviations along and across axes, known the worse the closer class means are to a line.
ARITHMETIC = 256.0 * float(np.finfo(np.float64).eps)
AVERAGING = 4.0 * float(np.finfo(np.float64).eps)  # relative precision of class means, whatever features were stored as


def rounding_variance(
    start_square: Float[np.ndarray, " time"], stop_square: Float[np.ndarray, " time"], relative: float
) -> Float[np.ndarray, " time"]:
    """Return the variance that rounding gives the increment of a feature.

    Parameters
    ----------
    start_square, stop_square : array, shape (time,)
        Mean of all squared features at both ends of each interval.
    relative : float
        Distance of neighbouring stored numbers, relative to their size.
    """
    return max(relative, ARITHMETIC) ** 2 / 12.0 * (start_square + stop_square)
