"""How the records of a recording are spread over training."""

from collections import Counter
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

_MUCH_LONGER = 3  # times the intervals around


@dataclass(frozen=True)
class Gap:
    """An interval in which records seem to be missing: steps of the record before and of that after."""

    first_step: int
    last_step: int


@dataclass(frozen=True)
class Timeline:
    """Spacing of records.

    Attributes
    ----------
    n_bursts
        Runs of consecutive steps; a record by itself is one, too.
    burst_length
        Their most frequent length in records.
    burst_distance
        The most frequent number of steps from the start of one to that of the next; None if there is just one.
    gaps
        Intervals from one to the next that are more than three times as long as those before and after.
    """

    n_bursts: int
    burst_length: int
    burst_distance: int | None
    gaps: tuple[Gap, ...]


def timeline(steps: Int[np.ndarray, " time"]) -> Timeline:
    """Describe the spacing of records.

    Parameters
    ----------
    steps
        (T,) steps of the records, strictly increasing, at least one.
    """
    starts = np.flatnonzero(np.diff(steps, prepend=steps[0] - 2) > 1)
    lengths = np.diff(starts, append=steps.size)
    distances = np.diff(steps[starts])
    last_of_burst = starts + lengths - 1
    intervals = steps[starts[1:]] - steps[last_of_burst[:-1]]
    around = np.zeros((2, intervals.size), dtype=np.int64)  # an end has one neighbour, and an only interval has none
    around[0, 1:], around[1, :-1] = intervals[:-1], intervals[1:]
    longest = around.max(axis=0, initial=0)
    long = np.flatnonzero((longest > 0) & (intervals > _MUCH_LONGER * longest))
    return Timeline(
        int(starts.size),
        _most_frequent(lengths),
        _most_frequent(distances) if distances.size else None,
        tuple(Gap(int(steps[last_of_burst[burst]]), int(steps[starts[burst + 1]])) for burst in long),
    )


def _most_frequent(values: Int[np.ndarray, " burst"]) -> int:
    return int(Counter(values.tolist()).most_common(1)[0][0])
