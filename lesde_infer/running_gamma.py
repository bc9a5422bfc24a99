"""γ of a run that goes on: a quick estimate, which costs what was added and not what is there.

Of each interval only inner products are kept (`lesde_infer.interval_products`). Under elasticity γ the contrasts move,
in the mean over an interval of length Δ, by Σⱼ (γΔ/K) fⱼ uⱼ with fⱼ = φ₁(−λⱼ γΔ/K), so that along the directions uⱼ

    s(γ) = Σⱼ fⱼ (⟨uⱼ, ΔX⟩ − (γΔ/K) fⱼ |uⱼ|²)

has mean zero whatever the noise is; for the mean over classes Δ stands in the place of Δ/K. The estimate is the root of
Σ s over the intervals of a window, the last tenth of the record: the ratio of sums that least squares gives, corrected
for what residuals relax by. Its standard error is that of M-estimators, √(Σ s²) over the derivative, which takes
intervals for independent but not their noise for alike; the interval is Student's with one degree of freedom less than
there are intervals.

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
from lesde_infer.interval_products import IntervalProducts, StratumProducts
from lesde_infer.snapshots import Snapshot, SnapshotReader
from lesde_infer.time_axis import time_axis

WINDOW = 0.1  # of the record's time
FEWEST_INTERVALS = 8  # that an interval takes
WIDTH = 0.9  # of the interval
MOST_PIECES = 10  # of a record whose integral is wanted


@dataclass(frozen=True)
class QuickRate:
    """A rate over a window of a record, per unit of time.

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

    def draws(self, n_draws: int) -> Float[np.ndarray, " draw"]:
        """Return evenly spread quantiles of what the estimate says of the rate, Student's t around it."""
        t = scipy.stats.t(self.n_intervals - 1)
        shares = (np.arange(n_draws) + 0.5) / n_draws
        return np.asarray(self.mean + (self.q95 - self.mean) / t.ppf(0.5 + WIDTH / 2) * t.ppf(shares))


class _Stratum(NamedTuple):
    square: Float[np.ndarray, " component"]
    increment: Float[np.ndarray, " component"]
    feedback: Float[np.ndarray, " component"]

    @classmethod
    def of(cls, products: StratumProducts) -> "_Stratum":
        return cls(products.direction_square, products.direction_increment, products.feedback)


class _Interval(NamedTuple):
    middle: float
    length: float
    n_steps: int
    contrast: _Stratum
    shared: _Stratum


class RunningGamma:
    """Inner products of the intervals of a recording that grows, under impact R, classes by label.

    Parameters
    ----------
    layer : str
        Layer that is looked at.
    """

    def __init__(self, layer: str) -> None:
        self._layer = layer
        self._intervals: list[_Interval] = []
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
            raise InputError(f"{recording.path}: a reduced recording gives no quick estimates; fit it")
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
                        _Interval(
                            0.5 * float(times[record] + times[record - 1]),
                            float(times[record] - times[record - 1]),
                            int(steps[record] - steps[record - 1]),
                            _Stratum.of(products.contrast),
                            _Stratum.of(products.shared),
                        )
                    )
            self._last, self._n_records = (held, snapshot), record + 1

    @property
    def _usable(self) -> list[_Interval]:
        fewest = min((own.n_steps for own in self._intervals), default=0)
        return [own for own in self._intervals if own.n_steps == fewest]

    def estimate(self) -> QuickRate | None:
        """Return γ over the last tenth; None where that holds too few intervals, or nothing drives the classes."""
        usable = self._usable
        if not usable:
            return None
        end = usable[-1].middle
        return self.gamma(end - WINDOW * (end - usable[0].middle), end)

    def gamma(self, start: float, end: float) -> QuickRate | None:
        """Return γ over a window of time, or the intervals nearest to it where it holds too few."""
        return self._rate(_nearest(self._usable, start, end), is_contrast=True)

    def mean_rate(self, start: float, end: float) -> QuickRate | None:
        """Return (α + (K − 1)β)/K over a window, the rate at which the mean over classes is driven."""
        return self._rate(_nearest(self._usable, start, end), is_contrast=False)

    def pieces(self) -> list[tuple[float, QuickRate]]:
        """Return γ of stretches that follow one another and cover the record, each with its length in time."""
        usable = self._usable
        n_pieces = min(MOST_PIECES, len(usable) // FEWEST_INTERVALS)
        found: list[tuple[float, QuickRate]] = []
        if n_pieces == 0:
            return found
        places = np.array_split(np.arange(len(usable)), n_pieces)
        ends = [self._intervals[-1].middle + 0.5 * self._intervals[-1].length]
        ends = [*(0.5 * (usable[own[-1]].middle + usable[own[-1] + 1].middle) for own in places[:-1]), *ends]
        start = self._intervals[0].middle - 0.5 * self._intervals[0].length
        for own, end in zip(places, ends, strict=True):
            rate = self._rate([usable[place] for place in own], is_contrast=True)
            if rate is None:
                return []
            found.append((end - start, rate))
            start = end
        return found

    def _rate(self, window: list[_Interval], *, is_contrast: bool) -> QuickRate | None:
        if len(window) < FEWEST_INTERVALS:
            return None
        share = np.array([own.length for own in window]) / (self._n_classes if is_contrast else 1)
        strata = [own.contrast if is_contrast else own.shared for own in window]
        square, increment, feedback = (np.stack(arrays) for arrays in zip(*strata, strict=True))

        def scores(rate: float) -> Float[np.ndarray, " interval"]:
            push = rate * share[:, None]
            factor = scipy.special.exprel(np.minimum(-feedback * push, MAXIMAL_RESIDUAL_GROWTH))
            return np.asarray((factor * (increment - push * factor * square)).sum(axis=1))

        slope = float((share[:, None] * square).sum())
        if not slope > 0.0:
            return None
        guess = float(increment.sum()) / slope
        reach = abs(guess) + 10.0 * float(np.sqrt((scores(guess) ** 2).sum())) / slope
        root = _root(lambda rate: float(scores(rate).sum()), guess, reach)
        step = 1e-4 * max(reach, 1e-300)
        derivative = float((scores(root + step) - scores(root - step)).sum()) / (2.0 * step)
        if not derivative < 0.0:
            return None
        n = len(window)
        error = float(np.sqrt((scores(root) ** 2).sum() * n / (n - 1))) / -derivative
        half = float(scipy.stats.t.ppf(0.5 + WIDTH / 2, n - 1)) * error
        return QuickRate(root, root - half, root + half, n)


def _nearest(usable: list[_Interval], start: float, end: float) -> list[_Interval]:
    """Return the intervals in a window, or those nearest to it where it holds too few."""
    inside = [own for own in usable if start <= own.middle <= end]
    if len(inside) >= FEWEST_INTERVALS:
        return inside
    return sorted(usable, key=lambda own: max(start - own.middle, own.middle - end))[:FEWEST_INTERVALS]


def _root(function: Callable[[float], float], guess: float, reach: float) -> float:
    """Return the root nearest a guess; the guess where none is within reach of it."""
    for times in (0.25, 1.0, 4.0, 16.0):
        low, high = guess - times * reach, guess + times * reach
        if function(low) > 0.0 > function(high):
            return float(scipy.optimize.brentq(function, low, high, xtol=1e-12 * max(reach, 1e-300)))
    return guess
