"""Is the posterior right? Hold it against elasticity that was measured directly on the live network.

What the drift of the LE-SDE claims is the mean change of the class means in one real step of the optimizer, and that
can be measured while the network trains (`data_tools.elasticity`). Its separation rate γ_D is compared with the
posterior of γ in windows of the record (`lesde_infer.truth_windows` says how). Windows most of which a flag covers
(`lesde_infer.flags`: nothing to identify γ by, or records too far apart) are shown and left out of the totals: there
the fit itself says not to read γ at face value. Beside them stands the rate of the tangent drift, whose ratio to that
of real steps tells how far they are from the limit of small steps.
"""

import os
from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from data_tools.errors import InputError
from data_tools.recorded_elasticity import RecordedElasticity
from data_tools.recording import Recording
from lesde_infer.explained_drift import ExplainedDrift, explained_drift, time_per_step
from lesde_infer.fitted_run import check_same_run
from lesde_infer.frequencies import class_weights
from lesde_infer.plain_values import plain
from lesde_infer.truth_windows import LEAST_SNAPSHOTS, Comparison, TruthWindow, compare_windows

if TYPE_CHECKING:
    from lesde_infer.fit_result import Fit


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
        """Share of unflagged windows in which mean rates agree: 0.9 is expected. Not a number if all are flagged."""
        return _share(window.mean for window in self.unflagged)

    @property
    def median_ratio(self) -> float:
        """Median of posterior over measured mean rate among the unflagged windows."""
        return _middle_ratio(window.mean for window in self.unflagged)

    def to_json(self) -> dict[str, Any]:
        """Return what `lesde check --truth --json` writes under ``truth``; what is not a number is None."""
        medians = [window.median for window in self.unflagged]
        of_medians = {"coverage90_of_medians": _share(medians), "median_ratio_of_medians": _middle_ratio(medians)}
        totals = {name: getattr(self, name) for name in ("n_windows", "n_flagged", "coverage90", "median_ratio")}
        return {
            **plain({**totals, **of_medians}),
            "explained": self.explained and plain(asdict(self.explained)),
            "notes": list(self.notes),
            "windows": [window.to_json() for window in self.windows],
        }


def _share(comparisons: Iterable[Comparison]) -> float:
    agree = [comparison.compatible for comparison in comparisons]
    return float(np.mean(agree)) if agree else float("nan")


def _middle_ratio(comparisons: Iterable[Comparison]) -> float:
    ratios = np.array([comparison.ratio for comparison in comparisons])
    ratios = ratios[np.isfinite(ratios)]
    return float(np.median(ratios)) if ratios.size else float("nan")


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


def gamma_per_step(fit: "Fit") -> Float[np.ndarray, "draw time"]:
    """Return the draws of γ at the fitted intervals, per optimizer step whatever the fit's unit of time is."""
    gamma = fit.posterior["gamma"].transpose("chain", "draw", "time").to_numpy()
    return gamma.reshape(-1, gamma.shape[-1]) * time_per_step(fit)


def interval_middles(fit: "Fit") -> Float[np.ndarray, " time"]:
    """Return the middle of each fitted interval, in optimizer steps."""
    return (fit.steps[fit.interval_starts + 1] + fit.steps[fit.interval_starts]) / 2.0


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
