"""A loss at which runs are compared: one that all runs of as many architectures as can be pass.

γ falls as training proceeds, and who learns faster is further along at the same step; at equal loss networks are alike
in what is left to learn. The loss is that of the probe, smoothed. An architecture passes a level if *every* run of it
starts above and comes down to it: of one whose runs get there only sometimes, those that do would be the luckier ones.
So with a the lowest loss of the run that gets least far, and b the initial loss of the run that starts lowest, an
architecture passes all levels in [a, b). Where no level is common to all, that is taken which most architectures pass
(of equally many, the widest range of log loss); the others are named and left out of γ at equal loss, and of nothing
else. The level is the geometric mean of the range's ends, √(ab). A range of less than a factor of `LEAST_RANGE` does
not count: with one network that learned next to nothing all would be compared where they had learned nothing.

tests/lesde_infer/test_equal_loss.py checks closed forms, and that order and names of architectures do not matter.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from data_tools.recording import Recording

if TYPE_CHECKING:
    from lesde_infer.fit_result import Fit

SMOOTHED = 9  # records, over which the median of the loss is taken
LEAST_RANGE = 1.25  # b/a, of a range from which a level is taken
NO_LEVEL = "γ is not compared at equal loss: there is no loss that two architectures pass in all their runs"


@dataclass(frozen=True)
class LossCurve:
    """Loss of the probe over a run, smoothed.

    Attributes
    ----------
    times : array, shape (record,)
        Times of the records, in the fit's unit.
    values : array, shape (record,)
        Running median, in nats.
    """

    times: Float[np.ndarray, " record"]
    values: Float[np.ndarray, " record"]

    @classmethod
    def of(cls, fit: "Fit", recording: Recording | None) -> "LossCurve | None":
        """Return the loss at the records that were fitted; None where it was not recorded, or is not finite."""
        return None if recording is None else cls.recorded(recording, fit.times)

    @classmethod
    def recorded(cls, recording: Recording, times: Float[np.ndarray, " record"]) -> "LossCurve | None":
        """Return the loss at the records whose times are given; None where it was not recorded, or is not finite."""
        if "loss" not in recording.scalars:
            return None
        loss = np.asarray(recording.scalars["loss"], dtype=np.float64)[: len(times)]
        if not np.isfinite(loss).all():
            return None
        half = SMOOTHED // 2
        smooth = np.array([np.median(loss[max(i - half, 0) : i + half + 1]) for i in range(len(loss))])
        return cls(times, smooth)

    def time_of(self, level: float) -> float | None:
        """Return the time at which the loss first is at a level or below; None where it never is."""
        below = self.values <= level
        return float(self.times[np.argmax(below)]) if below.any() else None


@dataclass(frozen=True)
class EqualLoss:
    """A loss, and when runs are at it.

    Attributes
    ----------
    level : float or None
        In nats; None where no two architectures pass one.
    times : dict of list of (float or None)
        Of the runs of each architecture, in their order; None in an architecture that is left out.
    left_out : dict of str
        Why an architecture is left out; empty where there is no level.
    """

    level: float | None
    times: dict[str, list[float | None]]
    left_out: dict[str, str]

    @property
    def remarks(self) -> list[str]:
        """What to keep in mind."""
        if self.level is None:
            return [NO_LEVEL]
        return [f"{name} is not compared at equal loss: {reason}" for name, reason in self.left_out.items()]


def equal_loss(losses: Mapping[str, Sequence[LossCurve | None]], level: float | None = None) -> EqualLoss:
    """Find a loss at which most architectures can be compared, and when each run is at it.

    Parameters
    ----------
    losses : dict of sequences
        Loss of each run of each architecture; None where it is not known.
    level : float, optional
        The loss to take, in nats, instead of one that is found.
    """
    spans = {name: _span(own) for name, own in losses.items()}
    known = {name: span for name, span in spans.items() if span is not None and 0.0 < span[0] < span[1]}
    if level is None:
        level = _level_of_most(list(known.values()))
    if level is None:
        return EqualLoss(None, {name: [None] * len(own) for name, own in losses.items()}, {})
    times: dict[str, list[float | None]] = {}
    left_out = {}
    for name, own in losses.items():
        reason = _why_not(own, spans[name], level)
        if reason is None:
            times[name] = [None if loss is None else loss.time_of(level) for loss in own]
        else:
            left_out[name], times[name] = reason, [None] * len(own)
    return EqualLoss(level, times, left_out)


def _span(losses: Sequence[LossCurve | None]) -> tuple[float, float] | None:
    """Return [a, b) of an architecture; None where the loss of a run is not known."""
    known = [loss.values for loss in losses if loss is not None]
    if not known or len(known) < len(losses):
        return None
    return max(float(loss.min()) for loss in known), min(float(loss[0]) for loss in known)


def _level_of_most(spans: Sequence[tuple[float, float]]) -> float | None:
    """Return √(ab) of the range that most of the given ones share, two at least, and the widest of such."""
    best, found = (1, 0.0), None
    for lowest in sorted({span[0] for span in spans}):
        for initial in sorted({span[1] for span in spans if span[1] >= LEAST_RANGE * lowest}):
            n_shared = sum(low <= lowest and initial <= high for low, high in spans)
            score = (n_shared, initial / lowest)
            if n_shared > 1 and score > best:
                best, found = score, float(np.sqrt(lowest * initial))
    return found


def _why_not(losses: Sequence[LossCurve | None], span: tuple[float, float] | None, level: float) -> str | None:
    """Return why an architecture is not at a level in all its runs; None where it is."""
    if span is None:
        return "the loss of a run is not known"
    lowest, initial = span
    if level < lowest:
        never = sum(loss.time_of(level) is None for loss in losses if loss is not None)
        return f"the loss of {never} of {len(losses)} runs never falls to {level:.3g} nats"
    return None if level < initial else f"the loss of a run is {initial:.3g} nats at the start, not above {level:.3g}"
