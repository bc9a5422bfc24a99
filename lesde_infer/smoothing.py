"""Slopes of curves recorded at irregular times: an even grid, and a Savitzky–Golay filter on it."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from scipy.signal import savgol_filter

from data_tools.errors import InputError

MINIMAL_SHARE = 0.1  # of the records, that an even subset of them must keep
RELATIVE_TOLERANCE = 1e-9  # of the record's length: times that differ by less are the same


@dataclass(frozen=True)
class EvenGrid:
    """Evenly spaced times.

    Attributes
    ----------
    times : array, shape (grid,)
        The times.
    spacing : float
        The distance between two.
    """

    times: Float[np.ndarray, " grid"]
    spacing: float


def even_grid(times: Float[np.ndarray, " record"]) -> EvenGrid:
    """Return an even grid for a record.

    Where records from the first to the last contain an evenly spaced subset, that is the grid, and nothing is
    interpolated: all records if they are even, every other one for bursts 0, 1, 50, 51, 100, …; records after its last
    point are not on it. The densest such subset is taken, if it keeps at least a tenth of the records. Otherwise the
    grid has as many points as there are records, over the same span.
    """
    span = float(times[-1] - times[0])
    tolerance = RELATIVE_TOLERANCE * span
    for stride in range(1, int(1.0 / MINIMAL_SHARE) + 1):
        if stride >= len(times):
            break
        spacing = float(times[stride] - times[0])
        grid = times[0] + spacing * np.arange(int((span + tolerance) / spacing) + 1)
        if len(grid) < MINIMAL_SHARE * len(times):
            break
        after = np.minimum(np.searchsorted(times, grid), len(times) - 1)
        nearest = np.minimum(np.abs(times[after] - grid), np.abs(times[np.maximum(after - 1, 0)] - grid))
        if len(grid) <= len(times) and nearest.max() <= tolerance:
            return EvenGrid(grid, spacing)
    return EvenGrid(np.linspace(times[0], times[-1], len(times)), span / (len(times) - 1))


def window_length(window: int, steps: Int[np.ndarray, " record"], n_points: int, order: int) -> int:
    """Turn a window in optimizer steps into an odd number of points of a grid over a record.

    It is rounded to the nearest odd number, raised to `order` + 3 at least (`order` + 2 where that is odd), so that the
    polynomial smooths and does not interpolate, and cut to the grid.

    Raises
    ------
    InputError
        If the grid has too few points for a polynomial of this degree to smooth.
    """
    least = order + 2 + (order + 1) % 2
    if n_points < least:
        raise InputError(
            f"{n_points} evenly spaced records are too few for slopes by polynomials of order {order}, which need "
            f"{least}; record more often"
        )
    wanted = window * (n_points - 1) / float(steps[-1] - steps[0])
    odd = 2 * round((wanted - 1) / 2) + 1
    return min(max(odd, least), n_points - (n_points + 1) % 2)


def slopes(
    values: Float[np.ndarray, " record"],
    times: Float[np.ndarray, " record"],
    grid: EvenGrid,
    window: int,
    order: int,
) -> Float[np.ndarray, " grid"]:
    """Return slopes on the grid: of the least-squares polynomial of degree `order` in a window around each point.

    Near the ends it is the polynomial of the first or last window. Between records that are not on the grid, values are
    interpolated linearly, which is exact on records. A curve that is not finite everywhere has no slopes: all are NaN.
    """
    if not np.isfinite(values).all():
        return np.full(len(grid.times), np.nan)
    even = np.interp(grid.times, times, values)
    return savgol_filter(even, window, order, deriv=1, delta=grid.spacing)
