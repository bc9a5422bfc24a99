"""Short and long intervals: whether they alternate, where each lies between, and what is usual among neighbours."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from jaxtyping import Bool, Float, Int

from lesde_infer.statistics import Statistics

NEIGHBOURS = 5  # intervals of like length, before and after, that are smoothed over
NEARBY = 10  # the same, that a mean is taken over: noise has heavy tails, and means need more of it than medians
SPIKE_RATIO = 1e3  # times what class means move in neighbouring intervals
MIXED_LENGTH_RATIO = 3.0  # intervals this unequal tell the scaling of noise with length apart from its change in time


def has_mixed_intervals(statistics: Statistics) -> bool:
    """Whether short and long intervals alternate, as they do in a recording in bursts."""
    short, long = np.quantile(statistics.n_steps, [0.1, 0.9])
    return bool(long >= MIXED_LENGTH_RATIO * short)


def relative_length(n_steps: Int[np.ndarray, " time"]) -> Float[np.ndarray, " time"]:
    """Return x of each interval: 0 for the shortest, 1 for the longest, linear in the logarithm; 1 if all are alike."""
    relative = np.log(n_steps / n_steps.min())
    return relative / relative.max() if relative.max() > 0 else np.ones_like(relative)


def smoothed(
    values: Float[np.ndarray, " time"],
    n_steps: Int[np.ndarray, " time"],
    observed: Bool[np.ndarray, " time"] | None = None,
) -> Float[np.ndarray, " time"]:
    """Median over neighbouring intervals, those that are short among themselves and those that are long.

    An interval has itself and up to `NEIGHBOURS` before and after it for neighbours, of those that were ``observed``;
    by default all were. Where none of its kind was it takes the median of all.
    """
    return _over_neighbours(values, n_steps, observed, NEIGHBOURS, np.median)


def neighbouring_mean(
    values: Float[np.ndarray, " time"],
    n_steps: Int[np.ndarray, " time"],
    observed: Bool[np.ndarray, " time"] | None = None,
) -> Float[np.ndarray, " time"]:
    """Mean over more neighbouring intervals, otherwise as `smoothed`."""
    return _over_neighbours(values, n_steps, observed, NEARBY, np.mean)


def _over_neighbours(
    values: Float[np.ndarray, " time"],
    n_steps: Int[np.ndarray, " time"],
    observed: Bool[np.ndarray, " time"] | None,
    reach: int,
    summary: Callable[[Float[np.ndarray, " nearby"]], np.floating],
) -> Float[np.ndarray, " time"]:
    usable = np.ones(len(values), dtype=bool) if observed is None else observed
    found = np.full_like(values, summary(values[usable]) if usable.any() else 0.0)
    is_long = relative_length(n_steps) >= 0.5
    for kind in (is_long, ~is_long):
        chosen = np.flatnonzero(kind & usable)
        if not chosen.size:
            continue
        for index in np.flatnonzero(kind):
            place, after = np.searchsorted(chosen, index, side="left"), np.searchsorted(chosen, index, side="right")
            found[index] = summary(values[chosen[max(place - reach, 0) : after + reach]])
    return found


def spikes(statistics: Statistics) -> Bool[np.ndarray, " time"]:
    """Intervals in which class means move more than a thousand times as far as in those around them."""
    found = np.zeros(len(statistics.lengths), dtype=bool)
    for stratum in (statistics.contrast, statistics.shared):
        floor = stratum.dimension * statistics.mean_rounding + np.finfo(np.float64).tiny
        size = 0.5 * np.log(np.maximum(stratum.increment_square, floor))
        usual = smoothed(size, statistics.n_steps, statistics.moved)
        found |= statistics.moved & (size > usual + np.log(SPIKE_RATIO))
    return found


def without_spikes(statistics: Statistics) -> Statistics:
    """Return statistics in which spikes count as intervals in which nothing moved.

    They are left out of the likelihood and of what scales priors: noise a thousand times the usual tells nothing of the
    drift, and everything of tails and of curves that might pass through it, so that chains would not find their way.
    """
    return replace(statistics, moved=statistics.moved & ~spikes(statistics))
