"""Short and long intervals: whether they alternate, and where between the shortest and the longest each lies."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float, Int

from lesde_infer.statistics import Statistics

NEIGHBOURS = 5  # intervals of like length, before and after, that are smoothed over
NEARBY = 10  # the same, that a mean is taken over: noise has heavy tails, and means need more of it than medians
MIXED_LENGTH_RATIO = 3.0  # intervals this unequal tell the scaling of noise with length apart from its change in time


def has_mixed_intervals(statistics: Statistics) -> bool:
    """Whether short and long intervals alternate, as they do in a recording in bursts."""
    short, long = np.quantile(statistics.n_steps, [0.1, 0.9])
    return bool(long >= MIXED_LENGTH_RATIO * short)


def relative_length(n_steps: Int[np.ndarray, " time"]) -> Float[np.ndarray, " time"]:
    """Return x of each interval: 0 for the shortest, 1 for the longest, linear in the logarithm; 1 if all are alike."""
    relative = np.log(n_steps / n_steps.min())
    return relative / relative.max() if relative.max() > 0 else np.ones_like(relative)


def smoothed(values: Float[np.ndarray, " time"], n_steps: Int[np.ndarray, " time"]) -> Float[np.ndarray, " time"]:
    """Median over neighbouring intervals, those that are short among themselves and those that are long."""
    return _over_neighbours(values, n_steps, NEIGHBOURS, np.median)


def neighbouring_mean(
    values: Float[np.ndarray, " time"], n_steps: Int[np.ndarray, " time"]
) -> Float[np.ndarray, " time"]:
    """Mean over more neighbouring intervals, those that are short among themselves and those that are long."""
    return _over_neighbours(values, n_steps, NEARBY, np.mean)


def _over_neighbours(
    values: Float[np.ndarray, " time"],
    n_steps: Int[np.ndarray, " time"],
    reach: int,
    summary: Callable[[Float[np.ndarray, " nearby"]], np.floating],
) -> Float[np.ndarray, " time"]:
    found = np.empty_like(values)
    is_long = relative_length(n_steps) >= 0.5
    for kind in (is_long, ~is_long):
        chosen = np.flatnonzero(kind)
        for place, index in enumerate(chosen):
            found[index] = summary(values[chosen[max(place - reach, 0) : place + reach + 1]])
    return found
