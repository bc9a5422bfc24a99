"""Measured and inferred separation rate, window by window: what is compared, with what errors, and when both agree.

*Which average.* The drift of the LE-SDE is a mean: the expected change of the class means in one step. Within a window
single measured snapshots γ_D scatter widely, with tails, and grow with the size of the impact. Their mean by weight

    R = Σₛ K⟨contrast Dₛ, contrast hₛ⟩ / Σₛ |contrast hₛ|² = Σₛ wₛ γ_Dₛ / Σₛ wₛ,      wₛ = |contrast hₛ|²,

the *ratio of sums*, is what a model with rate γ(t) expects to be Σₛ wₛ γ(tₛ) / Σₛ wₛ, whatever the noise of single
steps: the same mean is taken of each draw of γ, and both are compared. Where sizes of steps are told apart
(`lesde_infer.model`) γ is the mean rate of large and small steps together, and this is the measurement of it. The
**median** of the snapshots, beside that of γ over the intervals of the window, is the rate of the typical step. It is
smaller than the mean by a factor of 1 to 2 where large impacts go with large rates (DESIGN section 4.10), and is what
a likelihood with Student-t tails around one drift for steps of all sizes would follow: both stand side by side.

*Their errors.* That of R is the jackknife's: with R₋ₛ the ratio without snapshot s and n snapshots, √((n − 1)/n · Σ
(R₋ₛ − mean R₋)²), which takes in the scatter of the rates within the window, a trend included, and the errors of
measurement; but where few snapshots happen to agree, those errors, from repeated steps, are known better, and the
larger of both is taken. n snapshots of unequal weight tell their scatter no better than n* = (Σw)²/Σw² equal ones, so
the jackknife's error counts as that of a Student-t with n* − 1 degrees of freedom. The standard error of the median is
√(π/2) · max(sd, e)/√n = 1.2533 · max(sd, e)/√n, with sd the standard deviation of the n snapshots and e the root mean
square of their errors of measurement. √(π/2) is the ratio of the errors of median and mean for many normal values; it
is less for few (1.16 for three) and for heavier tails. Snapshots count as independent.

*When both agree.* If the posterior is calibrated and the measurement unbiased, then measured − q50 scatters with the
variances of both, so the two are called compatible if

    |measured − q50| ≤ √(w² + (c · standard error)²)

with c the 95 % quantile of the error (1.645 if normal) and w = q95 − q50 if the measured rate lies above the median of
the posterior and q50 − q05 if below: for normal posteriors this happens in 90 % of the windows. Simulated, calibrated
posteriors are found compatible in 90 % of windows of ten snapshots where all error is scatter, in 94 % where all is
that of measurement, since the larger of two estimates is taken, and in 94 % of windows of three.

tests/lesde_infer/test_truth.py checks the coverage where the truth is known, and that wrong posteriors are found.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.special import stdtrit

from data_tools.drift_measures import SeparationRates
from lesde_infer.plain_values import plain

if TYPE_CHECKING:
    from lesde_infer.flags import Flag

LEAST_SNAPSHOTS = 3
"""Windows with fewer measurements are left out: their scatter is not known."""

FLAGS = ("gamma_not_identified", "interval_bias")
"""Flags of γ: what they cover does not count against the posterior."""

MEDIAN_ERROR = float(np.sqrt(np.pi / 2))
NORMAL_Q95 = 1.6449


@dataclass(frozen=True)
class Comparison:
    """One average of the measured rates in a window, and the posterior of the same average; per optimizer step.

    Attributes
    ----------
    measured, error : float
        The average, and its standard error.
    q05, q50, q95 : float
        Quantiles of the posterior.
    error_quantile : float
        c: how many standard errors a measurement stays below with probability 0.95.
    """

    measured: float
    error: float
    q05: float
    q50: float
    q95: float
    error_quantile: float = NORMAL_Q95

    @property
    def compatible(self) -> bool:
        """Whether measurement and posterior agree within the errors of both: see the module's docstring."""
        width = self.q95 - self.q50 if self.measured > self.q50 else self.q50 - self.q05
        return bool(abs(self.measured - self.q50) <= np.hypot(width, self.error_quantile * self.error))

    @property
    def ratio(self) -> float:
        """Posterior median over measured rate."""
        return self.q50 / self.measured if self.measured else float("nan")

    def to_json(self) -> dict[str, Any]:
        """Return plain values; what is not a number is None."""
        return plain({**asdict(self), "compatible": self.compatible, "ratio": self.ratio})


@dataclass(frozen=True)
class TruthWindow:
    """Measured and inferred separation rate in a window of the record.

    Attributes
    ----------
    start_step, stop_step : int
        Optimizer steps from which and up to which.
    n_snapshots : int
        Measurements inside.
    mean : Comparison
        Of ratios of sums: the drift's own average, by which a posterior is judged.
    median : Comparison
        Of medians: the rate of the typical step.
    tangent : float
        Median of γ_D of the tangent drift, per step; not a number if that was not measured.
    flag : str or None
        The flag that covers most of the window, if any does.
    """

    start_step: int
    stop_step: int
    n_snapshots: int
    mean: Comparison
    median: Comparison
    tangent: float
    flag: str | None

    @property
    def compatible(self) -> bool:
        """Whether measurement and posterior of the mean rate agree."""
        return self.mean.compatible

    @property
    def small_step_ratio(self) -> float:
        """Median rate of real steps over that of the tangent drift: 1 while steps are small."""
        return self.median.measured / self.tangent if self.tangent else float("nan")

    def to_json(self) -> dict[str, Any]:
        """Return plain values, those of the mean at the top; what is not a number is None."""
        names = ("start_step", "stop_step", "n_snapshots", "tangent", "small_step_ratio", "flag")
        own = plain({name: getattr(self, name) for name in names})
        return {**own, **self.mean.to_json(), "median": self.median.to_json()}


def compare_windows(
    steps: Int[np.ndarray, " record"],
    middles: Float[np.ndarray, " time"],
    draws: Float[np.ndarray, "draw time"],
    flags: Sequence["Flag"],
    measured_steps: Int[np.ndarray, " snapshot"],
    rates: SeparationRates,
    tangent: Float[np.ndarray, " snapshot"] | None,
    n_windows: int,
) -> tuple[list[TruthWindow], list[str]]:
    """Compare draws of γ with measured rates in windows of equal length.

    Parameters
    ----------
    steps : array, shape (record,)
        Optimizer steps done at each record.
    middles : array, shape (time,)
        Middle of each fitted interval, in optimizer steps.
    draws : array, shape (draw, time)
        γ per optimizer step in each fitted interval.
    flags : sequence of Flag
        Flags of the fit.
    measured_steps, rates, tangent
        Optimizer steps done at each measurement, the rate of real steps, and that of the tangent drift if measured.
    n_windows : int
        Windows to divide the record into.

    Returns
    -------
    list of TruthWindow, list of str
        Windows in order of time, and which were left out, and why.
    """
    tangent = np.full(rates.rate.shape, np.nan) if tangent is None else tangent
    edges = np.rint(np.linspace(steps[0], steps[-1], n_windows + 1)).astype(np.int64)
    windows, notes = [], []
    for number, (start, stop) in enumerate(zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True)):
        end = stop + (number == n_windows - 1)  # the last step belongs to the last window
        inside = (measured_steps >= start) & (measured_steps < end) & np.isfinite(rates.rate) & (rates.weight > 0)
        intervals = (middles >= start) & (middles < stop)
        count = int(np.count_nonzero(inside))
        if count < LEAST_SNAPSHOTS or not intervals.any():
            lack = (
                f"only {count} measurements there" if intervals.any() else "no interval of records has its middle there"
            )
            notes.append(f"steps {start} to {stop} left out: {lack}")
            continue
        at = np.flatnonzero(intervals)[nearest(middles[intervals], measured_steps[inside])]
        weight = rates.weight[inside]
        measured, error, quantile = mean_rate(rates, inside)
        of_mean, of_median = draws[:, at] @ (weight / weight.sum()), np.median(draws[:, intervals], axis=1)
        mean = Comparison(measured, error, *_quantiles(of_mean), error_quantile=quantile)
        median = Comparison(*median_rate(rates, inside), *_quantiles(of_median))
        flag = covering_flag(flags, start, stop)
        windows.append(TruthWindow(start, stop, count, mean, median, _median(tangent[inside]), flag))
    return windows, notes


def nearest(places: Float[np.ndarray, " place"], wanted: Int[np.ndarray, " value"]) -> Int[np.ndarray, " value"]:
    """Return which of the places, in ascending order, lies nearest to each value."""
    return np.searchsorted((places[1:] + places[:-1]) / 2.0, wanted)


def _quantiles(draws: Float[np.ndarray, " draw"]) -> tuple[float, float, float]:
    low, middle, high = np.quantile(draws, [0.05, 0.5, 0.95]).tolist()
    return low, middle, high


def mean_rate(rates: SeparationRates, inside: Bool[np.ndarray, " snapshot"]) -> tuple[float, float, float]:
    """Return the ratio of sums inside a window, its standard error and c: see the module's docstring."""
    rate, weight = rates.rate[inside], rates.weight[inside]
    mean, of_measurement = rates.pooled(inside)
    n, total = rate.size, weight.sum()
    rest = total - weight
    without = np.divide(total * mean - weight * rate, rest, out=np.full(n, mean), where=rest > 0)
    of_scatter = float(np.sqrt((n - 1) / n * np.sum((without - without.mean()) ** 2)))
    if np.isfinite(of_measurement) and of_measurement > of_scatter:
        return mean, of_measurement, NORMAL_Q95
    degrees = max(total**2 / np.sum(weight**2) - 1.0, 1.0)
    return mean, of_scatter, float(stdtrit(degrees, 0.95))


def median_rate(rates: SeparationRates, inside: Bool[np.ndarray, " snapshot"]) -> tuple[float, float]:
    """Return the median of the snapshots inside a window and its standard error: see the module's docstring."""
    values, errors = rates.rate[inside], rates.standard_error[inside]
    errors = errors[np.isfinite(errors)]
    of_measurement = float(np.sqrt(np.mean(errors**2))) if errors.size else 0.0
    spread = max(float(values.std(ddof=1)), of_measurement)
    return float(np.median(values)), MEDIAN_ERROR * spread / float(np.sqrt(values.size))


def covering_flag(flags: Sequence["Flag"], start: int, stop: int) -> str | None:
    """Return the name of the flag of γ that covers most of a window, if flags of γ cover more than half of it."""
    steps = np.arange(start, stop)
    covered = {name: np.zeros(steps.size, dtype=bool) for name in FLAGS}
    for flag in flags:
        if flag.name in covered:
            covered[flag.name] |= (flag.start_step <= steps) & (steps < flag.stop_step)
    if np.mean(np.any(list(covered.values()), axis=0)) <= 0.5:
        return None
    return max(covered, key=lambda name: int(np.count_nonzero(covered[name])))


def _median(values: Float[np.ndarray, " value"]) -> float:
    finite = values[np.isfinite(values)]
    return float(np.median(finite)) if finite.size else float("nan")
