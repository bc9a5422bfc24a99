"""The intervals of the future: from the last record of a prefix to a horizon."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from data_tools.errors import InputError
from data_tools.recording import Recording
from lesde_infer.interval_lengths import MIXED_LENGTH_RATIO
from lesde_infer.time_axis import TimeChoice, time_axis

RECENT = 20
"""Intervals at the end of the prefix, or of the record, by which those that follow are spaced."""


@dataclass(frozen=True)
class FutureGrid:
    """Points in time that forecast paths pass, the first being the last record of the prefix.

    Attributes
    ----------
    steps, times : array, shape (point,)
        Optimizer steps and times, both increasing.
    records : array, shape (point,)
        Record of the recording at each point, −1 where there is none.
    """

    steps: Int[np.ndarray, " point"]
    times: Float[np.ndarray, " point"]
    records: Int[np.ndarray, " point"]

    @property
    def lengths(self) -> Float[np.ndarray, " interval"]:
        """Length of each interval, in the unit of time."""
        return np.diff(self.times)

    @property
    def n_steps(self) -> Int[np.ndarray, " interval"]:
        """Optimizer steps in each interval."""
        return np.diff(self.steps)

    @property
    def midpoints(self) -> Float[np.ndarray, " interval"]:
        """Time in the middle of each interval."""
        return (self.times[:-1] + self.times[1:]) / 2.0

    def chosen(self, n_points: int) -> Int[np.ndarray, " chosen"]:
        """Return up to ``n_points`` points after the first, evenly spread in steps, the last included."""
        wanted = self.steps[0] + (self.steps[-1] - self.steps[0]) * np.arange(1, n_points + 1) / n_points
        nearest = np.abs(self.steps[None, 1:] - wanted[:, None]).argmin(axis=1) + 1
        return np.unique(nearest)


def prefix_end(recording: Recording, at: float) -> int:
    """Return the last record of the prefix.

    Parameters
    ----------
    recording : Recording
    at : float
        Share of the recorded steps, above 0 and below 1, or an optimizer step from 2 on.

    Raises
    ------
    InputError
        If it is neither, or lies outside the record.
    """
    steps = recording.steps
    first, last = int(steps[0]), int(steps[-1])
    if not np.isfinite(at) or at <= 0 or at == 1:
        raise InputError(
            f"at is {at:g}; give a share of the recorded steps between 0 and 1, or a step within {first} … {last}"
        )
    if at > 1 and not first < at <= last:
        raise InputError(f"{recording.path}: at step {at:g} lies outside the record, steps {first} to {last}")
    step = first + at * (last - first) if at < 1 else at
    return int(np.searchsorted(steps, step, side="right")) - 1


def future_grid(recording: Recording, start: int, horizon: int | None, choice: TimeChoice) -> FutureGrid:
    """Lay out the future of a recording.

    Where the recording goes on, points are its records (their steps and times only: no feature is looked at) up to the
    horizon; beyond its end they are spaced like the long ones of its last intervals, in steps and in time. Records that
    follow another closely, as in bursts, are passed over, so that no interval is much shorter than the long ones of the
    prefix: noise that relaxes within a few steps must not add up over the bursts.

    Parameters
    ----------
    recording : Recording
    start : int
        Last record of the prefix.
    horizon : int or None
        Step of the last point; by default the last record.
    choice : {"recorded", "steps", "learning_rate"}
        Unit of time.

    Raises
    ------
    InputError
        If the horizon is not after the prefix, or no time passes until then.
    """
    steps, times = recording.steps.astype(np.int64), time_axis(recording, choice).times
    at = int(steps[start])
    if horizon is None:
        if start == len(steps) - 1:
            raise InputError(
                f"{recording.path}: the record ends at step {at}; say how far to forecast (--horizon STEP)"
            )
        horizon = int(steps[-1])
    if horizon <= at:
        raise InputError(f"horizon: step {horizon} is not after step {at}, where the forecast starts")
    spacing = _long_interval(np.diff(steps[max(start - RECENT, 0) : max(start, 1) + 1]))
    known = np.arange(start, len(steps))
    known = known[steps[known] <= horizon]
    found = [(int(steps[record]), float(times[record]), int(record)) for record in known]
    if horizon > found[-1][0]:
        found += _beyond(steps, times, found[-1][:2], horizon, spacing, n_known=len(steps))
    kept = [found[0]]
    for point in found[1:]:
        if point[1] > kept[-1][1] and point[0] - kept[-1][0] > spacing / MIXED_LENGTH_RATIO:
            kept.append(point)
    if kept[-1][0] < horizon and found[-1][1] > kept[-1][1]:  # the horizon itself is always a point
        kept = [*kept, found[-1]] if len(kept) == 1 else [*kept[:-1], found[-1]]
    if len(kept) == 1:
        raise InputError(
            f"{recording.path}: no time passes between steps {at} and {horizon} (learning rate 0?); use --time steps"
        )
    return FutureGrid(*(np.array(column) for column in zip(*kept, strict=True)))


def _long_interval(n_steps: Int[np.ndarray, " interval"]) -> int:
    """Return the usual length of the long ones among some intervals, in steps."""
    return int(np.median(n_steps[n_steps * MIXED_LENGTH_RATIO > n_steps.max()]))


def _beyond(
    steps: Int[np.ndarray, " record"],
    times: Float[np.ndarray, " record"],
    last: tuple[int, float],
    horizon: int,
    spacing: int,
    *,
    n_known: int,
) -> list[tuple[int, float, int]]:
    """Return points after one that is known, up to the horizon; between records time is linear."""
    new_steps = np.append(np.arange(last[0] + spacing, horizon, spacing), horizon)
    recent = max(n_known - 1 - RECENT, 0)
    rate = (times[-1] - times[recent]) / (steps[-1] - steps[recent])
    within = np.interp(new_steps, steps, times)
    new_times = np.where(new_steps <= steps[-1], within, times[-1] + rate * (new_steps - steps[-1]))
    return [(int(step), float(time), -1) for step, time in zip(new_steps, new_times, strict=True)]
