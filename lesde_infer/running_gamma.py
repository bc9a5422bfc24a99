"""γ of a run that goes on: a quick estimate, which costs what was added and not what is there.

Of each interval only inner products are kept (`lesde_infer.interval_products`). Under elasticity γ the contrasts move,
in the mean over an interval of length Δ, by Σⱼ (γΔ/K) fⱼ uⱼ with fⱼ = φ₁(−λⱼ γΔ/K), so that along the directions uⱼ

    s(γ) = Σⱼ fⱼ (⟨uⱼ, ΔX⟩ − (γΔ/K) fⱼ |uⱼ|²)

has mean zero whatever the noise is. The estimate is the root of Σ s over the intervals of a window, the last tenth of
the record: the ratio of sums that least squares gives, corrected for what residuals relax by. Its standard error is
that of M-estimators, √(Σ s²) over the derivative, which takes intervals for independent but not their noise for alike;
the interval is Student's with one degree of freedom less than there are intervals.

Where records were taken in bursts only intervals of the fewest steps are used: long ones see residuals relax and would
say too little (DESIGN section 4.10). The posterior of a fit takes both into account, and smooths over time; this does
neither, and is no substitute for it. tests/lesde_infer/test_running_gamma.py measures how often intervals hold the
truth.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import scipy.optimize
import scipy.special
import scipy.stats
from jaxtyping import Float

from data_tools.errors import InputError
from data_tools.recording import Recording
from lesde_infer.impacts import MAXIMAL_RESIDUAL_GROWTH
from lesde_infer.interval_products import IntervalProducts
from lesde_infer.snapshots import Snapshot, SnapshotReader
from lesde_infer.time_axis import time_axis

WINDOW = 0.1  # of the record's time
FEWEST_INTERVALS = 8  # that an interval takes
WIDTH = 0.9  # of the interval


@dataclass(frozen=True)
class GammaNow:
    """γ over the last tenth of a record, per unit of time.

    Attributes
    ----------
    mean, q05, q95 : float
        Estimate and ends of its 90 % interval.
    n_intervals : int
        Intervals that it is made of.
    """

    mean: float
    q05: float
    q95: float
    n_intervals: int


class _Products(NamedTuple):
    middle: float
    length: float
    n_steps: int
    square: Float[np.ndarray, " component"]
    increment: Float[np.ndarray, " component"]
    feedback: Float[np.ndarray, " component"]


class RunningGamma:
    """Inner products of the intervals of a recording that grows, under impact R, classes by label.

    Parameters
    ----------
    layer : str
        Layer that is looked at.
    """

    def __init__(self, layer: str) -> None:
        self._layer = layer
        self._intervals: list[_Products] = []
        self._n_records, self._n_classes = 0, 2
        self._last: tuple[np.ndarray, Snapshot | None] | None = None

    @property
    def n_records(self) -> int:
        """Records taken in so far."""
        return self._n_records

    def update(self, recording: Recording) -> None:
        """Take in the records that were added since the last call.

        Raises
        ------
        InputError
            If the recording gives no residuals, is reduced, or features are not finite.
        """
        if recording.is_reduced:
            raise InputError(f"{recording.path}: a reduced recording; fit it for γ")
        reader = SnapshotReader(recording, self._layer, "R", "labels")
        self._n_classes = reader.n_classes
        steps, times = recording.steps, time_axis(recording, "recorded").times
        for record in range(self._n_records, recording.n_records):
            held, snapshot = reader.read(record)
            if self._last is not None and times[record] > times[record - 1]:
                held_before, before = self._last
                common = held_before & held
                average = reader.average_over(common)
                if before is not None and snapshot is not None and average is not None:
                    products, _ = IntervalProducts.between(before, snapshot, average, common)
                    self._intervals.append(
                        _Products(
                            0.5 * float(times[record] + times[record - 1]),
                            float(times[record] - times[record - 1]),
                            int(steps[record] - steps[record - 1]),
                            products.contrast.direction_square,
                            products.contrast.direction_increment,
                            products.contrast.feedback,
                        )
                    )
            self._last, self._n_records = (held, snapshot), record + 1

    def estimate(self) -> GammaNow | None:
        """Return γ over the last tenth; None where that holds too few intervals, or nothing drives the classes."""
        if not self._intervals:
            return None
        fewest = min(own.n_steps for own in self._intervals)
        usable = [own for own in self._intervals if own.n_steps == fewest]
        start, end = usable[0].middle, usable[-1].middle
        window = [own for own in usable if own.middle >= end - WINDOW * (end - start)]
        window = window if len(window) >= FEWEST_INTERVALS else usable[-FEWEST_INTERVALS:]
        if len(window) < FEWEST_INTERVALS:
            return None
        share = np.array([own.length for own in window]) / self._n_classes
        square, increment, feedback = (np.stack(arrays) for arrays in list(zip(*window, strict=True))[3:])

        def scores(gamma: float) -> Float[np.ndarray, " interval"]:
            push = gamma * share[:, None]
            factor = _phi_1(np.minimum(-feedback * push, MAXIMAL_RESIDUAL_GROWTH))
            return np.asarray((factor * (increment - push * factor * square)).sum(axis=1))

        slope = float((share[:, None] * square).sum())
        if not slope > 0.0:
            return None
        guess = float(increment.sum()) / slope
        reach = abs(guess) + 10.0 * float(np.sqrt((scores(guess) ** 2).sum())) / slope
        root = _root(lambda gamma: float(scores(gamma).sum()), guess, reach)
        step = 1e-4 * max(reach, 1e-300)
        derivative = float((scores(root + step) - scores(root - step)).sum()) / (2.0 * step)
        if not derivative < 0.0:
            return None
        n = len(window)
        error = float(np.sqrt((scores(root) ** 2).sum() * n / (n - 1))) / -derivative
        half = float(scipy.stats.t.ppf(0.5 + WIDTH / 2, n - 1)) * error
        return GammaNow(root, root - half, root + half, n)


def _root(function: Callable[[float], float], guess: float, reach: float) -> float:
    """Return the root nearest a guess; the guess where none is within reach of it."""
    for times in (0.25, 1.0, 4.0, 16.0):
        low, high = guess - times * reach, guess + times * reach
        if function(low) > 0.0 > function(high):
            return float(scipy.optimize.brentq(function, low, high, xtol=1e-12 * max(reach, 1e-300)))
    return guess


def _phi_1(z: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
    """Return φ₁(z) = (eᶻ − 1)/z, 1 at 0."""
    return np.asarray(scipy.special.exprel(z))
