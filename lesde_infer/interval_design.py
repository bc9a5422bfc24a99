"""Where in time curves are wanted: in the middle of each interval of a record, or of those that follow it."""

import numpy as np
from jaxtyping import Float

from lesde_infer.curves import CurveDesign, curve_design, early_time


def interval_design(
    times: Float[np.ndarray, " record"],
    midpoints: Float[np.ndarray, " time"],
    horizon: float | None = None,
    *,
    wanted: Float[np.ndarray, " wanted"] | None = None,
) -> CurveDesign:
    """Return the basis of the curves of a run.

    Parameters
    ----------
    times, midpoints : array
        Times of the records that are fitted, and of the middles of their intervals.
    horizon : float, optional
        Time up to which the basis reaches; the last record by default, and at least.
    wanted : array, optional
        Times at which the same curves are wanted, up to the horizon; the middles of the intervals by default.
    """
    start, stop = float(times[0]), float(times[-1])
    early = early_time(midpoints - start, stop - start)
    reach = None if horizon is None else max(horizon, stop) - start
    return curve_design((midpoints if wanted is None else wanted) - start, stop - start, early, reach)
