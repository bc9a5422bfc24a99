"""In what unit time passes: as recorded, in optimizer steps, or in cumulative learning rate.

Rates are per unit of time. In cumulative effective learning rate,

    t = Σ lr/(1 − m)    over optimizer steps, m the momentum,

they do not change with a schedule of the learning rate as long as steps are small: with momentum a gradient goes on to
move the weights by lr (1 + m + m² + …) = lr/(1 − m) times itself.

The learning rate at each record (the scalar ``lr``: that of the update just made) is taken to be linear in the number
of steps between records, and summed step by step: over the n steps from lr₀ to lr₁

    Σ lr = n lr₀ + (lr₁ − lr₀)(n + 1)/2,

exact for schedules that are constant or linear between records, and for pairs of consecutive steps whatever the
schedule. Where the first record has none (no update was made before it), that of the next record stands for it. A
learning rate of zero makes time stand still; such intervals are dropped (`lesde_infer.missing`).

tests/lesde_infer/test_time_axis.py checks the sums against schedules added up step by step.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float

from data_tools.errors import InputError
from data_tools.recording import Recording

TimeChoice = Literal["recorded", "steps", "learning_rate"]
TIME_UNITS = {
    "steps": "step",
    "learning_rate": "unit of cumulative learning rate lr/(1 − momentum)",
    "recorded": "unit of the recorded time",
}
"""Units of time, and how rates per unit are called."""


@dataclass(frozen=True)
class TimeAxis:
    """Time of every record.

    Attributes
    ----------
    times : array, shape (record,)
        Never decreasing.
    unit : {"steps", "learning_rate", "recorded"}
        What one unit is; ``recorded`` where the recorded time is not the number of steps.
    """

    times: Float[np.ndarray, " record"]
    unit: TimeChoice


def time_axis(recording: Recording, choice: TimeChoice = "recorded") -> TimeAxis:
    """Return the time of every record in the unit asked for.

    Parameters
    ----------
    recording : Recording
    choice : {"recorded", "steps", "learning_rate"}
        As recorded; optimizer steps; or cumulative effective learning rate.

    Raises
    ------
    InputError
        If no learning rate is recorded though it is asked for, or learning rates or momentum cannot be right; if the
        recorded time is not finite or goes backwards.
    """
    steps = recording.steps.astype(np.float64)
    if choice == "steps":
        return TimeAxis(steps, "steps")
    if choice == "learning_rate":
        return TimeAxis(_cumulative_rate(recording), "learning_rate")
    times = recording.time
    wrong = np.flatnonzero(~np.isfinite(times) | (np.diff(times, prepend=times[:1]) < 0))
    if wrong.size:
        raise InputError(
            f"{recording.path}: /time is {times[wrong[0]]} at step {recording.steps[wrong[0]]}: it must be finite and "
            "never decrease; use --time steps"
        )
    return TimeAxis(times, "steps" if np.array_equal(times, steps) else "recorded")


def recorded_momentum(recording: Recording) -> float:
    """Return the momentum of the optimizer as recorded in the provenance, 0 if none is.

    Raises
    ------
    InputError
        If it is not from 0 to below 1.
    """
    found = recording.provenance.get("momentum", 0.0)
    if isinstance(found, str | bool) or not 0 <= found < 1:
        raise InputError(
            f"{recording.path}: momentum is recorded as {found!r}; it must be a number from 0 to below 1; "
            "use --time steps"
        )
    return float(found)


def _cumulative_rate(recording: Recording) -> Float[np.ndarray, " record"]:
    momentum = recorded_momentum(recording)
    n_steps = np.diff(recording.steps).astype(np.float64)
    rates = _learning_rates(recording)
    sums = n_steps * rates[:-1] + (rates[1:] - rates[:-1]) * (n_steps + 1) / 2
    sums = np.where(n_steps == 1, rates[1:], sums)  # the same, but not rounded: zero has to stay zero
    return np.concatenate([[0.0], np.cumsum(sums)]) / (1 - momentum)


def _learning_rates(recording: Recording) -> Float[np.ndarray, " record"]:
    """Return the learning rate at every record."""
    rates = recording.scalars.get("lr")
    if rates is None:
        constant = recording.provenance.get("lr")
        if isinstance(constant, str | bool) or constant is None:
            raise InputError(
                f"{recording.path}: no learning rate is recorded, neither as the scalar lr nor as a number in the "
                "provenance; record it (recorder.step(lr=…)), or use --time steps"
            )
        rates = np.full(recording.n_records, float(constant))
    rates = rates.copy()
    if np.isnan(rates[0]) and len(rates) > 1:
        rates[0] = rates[1]
    wrong = np.flatnonzero(~(np.isfinite(rates) & (rates >= 0)))
    if wrong.size:
        raise InputError(
            f"{recording.path}: the learning rate is {rates[wrong[0]]} at step {recording.steps[wrong[0]]}; it must be "
            "finite and not negative: use --time steps"
        )
    return rates
