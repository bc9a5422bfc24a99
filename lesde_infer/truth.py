"""Is the posterior right? Hold it against elasticity that was measured directly on the live network.

What the drift of the LE-SDE claims is the mean change of the class means in one real step of the optimizer, and that
can be measured while the network trains (`data_tools.elasticity`). Its separation rate γ_D is compared with the
posterior of γ in windows of the record.

*Which average.* Single snapshots of γ_D scatter, with tails, and grow with the size of the impact. The posterior of γ
comes from a likelihood with Student-t tails, which follows the typical interval, so it is held against the **median**
of the window's snapshots. Least squares on a log follows the ratio of sums Σ K⟨contrast D, contrast h⟩/Σ|contrast h|²,
which exceeds the median by a factor of 1 to 2 where large impacts go with large rates (DESIGN section 4.10): it stands
beside it (where sizes of steps are told, the posterior comes close to it as well, `lesde_infer.model`), and so does the
rate of the tangent drift, whose ratio to that of real steps tells how far they are from the limit of small steps.

*Its error.* The standard error of the median is √(π/2) · max(sd, e)/√n = 1.2533 · max(sd, e)/√n, with sd the standard
deviation of the n snapshots and e the root mean square of their errors of measurement, from repeated steps. Since
E sd² = τ² + e², τ² being the variance of the true rates within the window, sd holds both, a trend in the window
included; but that of three snapshots may by chance fall short of e, which is known better. √(π/2) is the ratio of the
errors of median and mean for many normal values; it is less for few (1.16 for three) and for heavier tails. Simulated,
calibrated posteriors are found compatible in 90 % of windows of ten snapshots, and in 94 % where all error is that of
measurement, since the larger of two estimates is taken. Of windows of three, whose sd is poorly known, it is 88 %, and
80 % where all error is scatter: measure more often. Snapshots count as independent.

*When both agree.* If the posterior is calibrated and the measurement unbiased, then measured − q50 scatters with the
variances of both, so the two are called compatible if

    |measured − q50| ≤ √(w² + (1.645 · standard error)²)

with w = q95 − q50 if the measured rate lies above the median and q50 − q05 if below: for normal posteriors this happens
in 90 % of the windows. Windows most of which a flag covers (`lesde_infer.flags`: nothing to identify γ by, or records
too far apart) are shown and left out of the totals: there the fit itself says not to read γ at face value.

tests/lesde_infer/test_truth.py checks the coverage where the truth is known, and that wrong posteriors are found.
"""

import os
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Float, Int

from data_tools.drift_measures import SeparationRates
from data_tools.errors import InputError
from data_tools.recorded_elasticity import RecordedElasticity
from data_tools.recording import Recording
from lesde_infer.explained_drift import ExplainedDrift, explained_drift, time_per_step
from lesde_infer.fitted_run import check_same_run
from lesde_infer.frequencies import class_weights

if TYPE_CHECKING:
    from lesde_infer.fit_result import Fit
    from lesde_infer.flags import Flag

LEAST_SNAPSHOTS = 3
"""Windows with fewer measurements are left out: their scatter is not known."""

FLAGS = ("gamma_not_identified", "interval_bias")
"""Flags of γ: what they cover does not count against the posterior."""

MEDIAN_ERROR = float(np.sqrt(np.pi / 2))
NORMAL_Q95 = 1.6449


@dataclass(frozen=True)
class TruthWindow:
    """Measured and inferred separation rate in a window of the record; all rates are per optimizer step.

    Attributes
    ----------
    start_step, stop_step : int
        Optimizer steps from which and up to which.
    n_snapshots : int
        Measurements inside.
    measured, measured_error : float
        Median of γ_D of the one-step drift, and its standard error.
    pooled, pooled_error : float
        Ratio of sums over the window, and its standard error from the repeats alone.
    tangent : float
        Median of γ_D of the tangent drift; not a number if that was not measured.
    q05, q50, q95 : float
        Quantiles of the posterior of γ, of each draw the median over the window's intervals.
    flag : str or None
        The flag that covers most of the window, if any does.
    """

    start_step: int
    stop_step: int
    n_snapshots: int
    measured: float
    measured_error: float
    pooled: float
    pooled_error: float
    tangent: float
    q05: float
    q50: float
    q95: float
    flag: str | None

    @property
    def compatible(self) -> bool:
        """Whether measurement and posterior agree within the errors of both: see the module's docstring."""
        width = self.q95 - self.q50 if self.measured > self.q50 else self.q50 - self.q05
        return bool(abs(self.measured - self.q50) <= np.hypot(width, NORMAL_Q95 * self.measured_error))

    @property
    def ratio(self) -> float:
        """Posterior median over measured rate."""
        return self.q50 / self.measured if self.measured else float("nan")

    @property
    def small_step_ratio(self) -> float:
        """Measured rate of real steps over that of the tangent drift: 1 while steps are small."""
        return self.measured / self.tangent if self.tangent else float("nan")

    def to_json(self) -> dict[str, Any]:
        """Return plain values; what is not a number is None."""
        derived = {name: getattr(self, name) for name in ("compatible", "ratio", "small_step_ratio")}
        return {name: _plain(value) for name, value in {**asdict(self), **derived}.items()}


@dataclass(frozen=True)
class TruthCheck:
    """The posterior of a fit beside what was measured on the live network.

    Attributes
    ----------
    windows : tuple of TruthWindow
        In order of time; those with too few measurements are left out.
    explained : ExplainedDrift or None
        Shares of the measured drift that elasticity accounts for; None without measurements in the second half.
    notes : tuple of str
        What was left out, and what to know of the measurement.
    """

    windows: tuple[TruthWindow, ...]
    explained: ExplainedDrift | None
    notes: tuple[str, ...]

    @property
    def unflagged(self) -> tuple[TruthWindow, ...]:
        """Windows that count."""
        return tuple(window for window in self.windows if window.flag is None)

    @property
    def n_windows(self) -> int:
        """Windows compared, flagged ones included."""
        return len(self.windows)

    @property
    def n_flagged(self) -> int:
        """Windows most of which a flag covers."""
        return len(self.windows) - len(self.unflagged)

    @property
    def coverage90(self) -> float:
        """Share of the unflagged windows in which both agree: 0.9 is expected. Not a number if all are flagged."""
        return float(np.mean([window.compatible for window in self.unflagged])) if self.unflagged else float("nan")

    @property
    def median_ratio(self) -> float:
        """Median of posterior over measured rate among the unflagged windows."""
        ratios = np.array([window.ratio for window in self.unflagged])
        ratios = ratios[np.isfinite(ratios)]
        return float(np.median(ratios)) if ratios.size else float("nan")

    def to_json(self) -> dict[str, Any]:
        """Return what `lesde check --truth --json` writes under ``truth``; what is not a number is None."""
        return {
            **{name: _plain(getattr(self, name)) for name in ("n_windows", "n_flagged", "coverage90", "median_ratio")},
            "explained": self.explained and {name: _plain(value) for name, value in asdict(self.explained).items()},
            "notes": list(self.notes),
            "windows": [window.to_json() for window in self.windows],
        }


def check_truth(fit: "Fit", recording: str | os.PathLike[str] | Recording, *, n_windows: int = 10) -> TruthCheck:
    """Compare the posterior of γ with elasticity measured on the live network, window by window.

    Parameters
    ----------
    fit : Fit
        Of impact R: what was measured is the rate along the residuals.
    recording : path or Recording
        The recording that was fitted, with elasticity measured by `data_tools.FeatureRecorder`,
        ``lesde record --measure-elasticity-every`` or kept by ``lesde convert``.
    n_windows : int
        Windows of equal length, in optimizer steps, into which the fitted record is divided.

    Raises
    ------
    InputError
        If the recording is not the one that was fitted, holds no measured elasticity of the layer and grouping fitted,
        or not enough of it for a single window; if the fit's impact is not R; or if n_windows is not positive.
    """
    if n_windows < 1:
        raise InputError(f"n_windows is {n_windows}; give a whole number from 1 on")
    with nullcontext(recording) if isinstance(recording, Recording) else Recording(recording) as opened:
        measured = _measured(fit, opened)
        weights = class_weights(fit.settings.class_frequencies)
        rates = measured.onestep_rates(weights)
        tangent = measured.tangent_rates(weights)
        explained = explained_drift(fit, measured)
    windows, notes = compare_windows(
        fit.steps, interval_middles(fit), gamma_per_step(fit), fit.flags, measured.steps, rates, tangent, n_windows
    )
    if not windows:
        raise InputError(
            f"{opened.path}: elasticity was measured {len(measured.steps)} times, which leaves no window with "
            f"{LEAST_SNAPSHOTS}; take fewer windows (--windows), or measure more often"
        )
    return TruthCheck(tuple(windows), explained, (*notes, *_remarks(measured)))


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
        inside = (measured_steps >= start) & (measured_steps < end) & np.isfinite(rates.rate)
        intervals = (middles >= start) & (middles < stop)
        count = int(np.count_nonzero(inside))
        if count < LEAST_SNAPSHOTS or not intervals.any():
            lack = (
                f"only {count} measurements there" if intervals.any() else "no interval of records has its middle there"
            )
            notes.append(f"steps {start} to {stop} left out: {lack}")
            continue
        low, median, high = np.quantile(np.median(draws[:, intervals], axis=1), [0.05, 0.5, 0.95]).tolist()
        typical, ratio_of_sums = median_rate(rates, inside), rates.pooled(inside)
        flag = covering_flag(flags, start, stop)
        window = (start, stop, count, *typical, *ratio_of_sums, _median(tangent[inside]), low, median, high, flag)
        windows.append(TruthWindow(*window))
    return windows, notes


def gamma_per_step(fit: "Fit") -> Float[np.ndarray, "draw time"]:
    """Return the draws of γ at the fitted intervals, per optimizer step whatever the fit's unit of time is."""
    gamma = fit.posterior["gamma"].transpose("chain", "draw", "time").to_numpy()
    return gamma.reshape(-1, gamma.shape[-1]) * time_per_step(fit)


def interval_middles(fit: "Fit") -> Float[np.ndarray, " time"]:
    """Return the middle of each fitted interval, in optimizer steps."""
    return (fit.steps[fit.interval_starts + 1] + fit.steps[fit.interval_starts]) / 2.0


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


def _measured(fit: "Fit", recording: Recording) -> RecordedElasticity:
    """Return what was measured of the layer that was fitted, after checking that it can be compared."""
    layer, group = fit.settings.layer, fit.settings.group
    if fit.settings.impact != "R":
        raise InputError(
            f"the fit has impact {fit.settings.impact}, but elasticity was measured along the residuals; fit impact R"
        )
    check_same_run(fit, recording, recording.labels if group == "labels" else recording.given_labels)
    measured = recording.elasticity(layer, group)
    if measured is None:
        raise InputError(
            f"{recording.path}: no elasticity of layer {layer!r} by {group} was measured; record with "
            "`lesde record --measure-elasticity-every N` or FeatureRecorder(…, measure_elasticity_every=N)"
        )
    if recording.n_classes != fit.n_classes:
        raise InputError(
            f"{recording.path}: elasticity was measured of {recording.n_classes} classes, but /{group} holds samples "
            f"of {fit.n_classes}; record samples of each class"
        )
    return measured


def _remarks(measured: RecordedElasticity) -> list[str]:
    remarks = []
    if measured.n_repeats < 2:
        remarks.append("each measurement is of a single step: its error is taken from the scatter of snapshots alone")
    if measured.momentum:
        remarks.append(
            f"momentum {measured.momentum:g}: a real step moves by the velocity that earlier steps left, the tangent "
            "rate is that of a gradient in the long run; their ratio is no pure test of small steps"
        )
    return remarks


def _median(values: Float[np.ndarray, " value"]) -> float:
    finite = values[np.isfinite(values)]
    return float(np.median(finite)) if finite.size else float("nan")


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and not np.isfinite(value) else value
