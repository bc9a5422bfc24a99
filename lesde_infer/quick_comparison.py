"""Architectures compared by quick estimates of γ, in seconds where fits take minutes.

Of each run γ at the end, at half, at equal loss and its integral are estimated from the inner products of its intervals
(`lesde_infer.running_gamma`), with standard errors, and put together over runs as fits are (`lesde_infer.comparison`).
It says less than fits do, and must not have the last word: there is no tail index, noise is not learned but met by
standard errors, one window of a run knows nothing of the others, and where residuals do not tell classes apart nothing
flags it. Where γ is lost in the noise of single steps it may even be wrong with confidence: of five runs of a
batch-normalised CNN on digits, where fits give 6 to 12, estimates were −50, −69, −47, 14 and −61, with standard errors
of 34 to 68, and together called negative. tests/lesde_infer/test_quick_comparison.py holds it against simulated runs
whose γ is known.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float

from data_tools.errors import InputError
from data_tools.recording import Recording
from lesde_infer.comparability import RunFacts, check_comparable
from lesde_infer.comparison import Comparison, compare_runs
from lesde_infer.equal_loss import LossCurve, equal_loss
from lesde_infer.fit_result import Fit
from lesde_infer.readable_runs import readable_runs
from lesde_infer.run_summary import NOT_AT_LOSS, RunSummary, WeightedDraws, observed_quantities
from lesde_infer.running_gamma import WINDOW, QuickRate, RunningGamma
from lesde_infer.time_axis import time_axis

N_DRAWS = 400
CAUTION = "these are quick estimates: confirm by fits (route two-stage) what matters, above all where noise is large"
UNTOLD = "quick estimates tell none; fit the runs"


def compare_quickly(
    architectures: Mapping[str, Sequence[str | os.PathLike[str] | Fit]],
    *,
    layer: str | None = None,
    loss: float | None = None,
    allow_different_data: bool = False,
    seed: int = 0,
) -> Comparison:
    """Compare architectures by quick estimates; see `lesde_infer.compare`, whose route ``quick`` this is.

    Raises
    ------
    InputError
        If something is no recording, or runs cannot be compared.
    """
    read, left_out = readable_runs(architectures, lambda name, source: _Run.read(name, source, layer))
    runs = [run for own in read.values() for run in own]
    remarks = check_comparable([run.facts for run in runs], allow_different_data=allow_different_data)
    at = equal_loss({name: [run.loss for run in own] for name, own in read.items()}, loss)
    remarks.append(CAUTION)
    summaries = {
        name: [run.summary(time) for run, time in zip(own, at.times[name], strict=True)] for name, own in read.items()
    }
    return compare_runs(summaries, at, [*left_out, *remarks], "quick", seed)


class _Run:
    """What is read of a recording, once."""

    def __init__(
        self,
        facts: RunFacts,
        loss: LossCurve | None,
        gamma: RunningGamma,
        times: Float[np.ndarray, " record"],
        observed: dict[str, float],
        untold: dict[str, str],
    ) -> None:
        self.facts, self.loss = facts, loss
        self._gamma, self._times, self._observed, self._untold = gamma, times, observed, untold

    @classmethod
    def read(cls, architecture: str, source: str | os.PathLike[str] | Fit, layer: str | None) -> "_Run":
        """Read a recording.

        Raises
        ------
        InputError
            If it is none, or too short for an estimate.
        """
        if isinstance(source, Fit) or Path(source).suffix == ".nc":
            raise InputError("a fit was given, and quick estimates are made of recordings; give the recording")
        path = Path(source)
        with Recording(path) as recording:
            layer = recording.choose_layer(layer)
            gamma = RunningGamma(layer)
            gamma.update(recording)
            if gamma.estimate() is None:
                raise InputError(f"{path}: too few intervals for an estimate of γ, or nothing drives its classes")
            axis, untold = time_axis(recording, "recorded"), {"tail_index": UNTOLD}
            observed = observed_quantities(recording, layer, recording.labels, int(recording.steps[-1]), untold)
            facts = RunFacts.recorded(architecture, path, recording, axis.unit)
            return cls(facts, LossCurve.recorded(recording, axis.times), gamma, axis.times, observed, untold)

    def summary(self, at_loss: float | None) -> RunSummary:
        """Return what is compared of the run; it is at equal loss at the time ``at_loss``."""
        untold, half = dict(self._untold), 0.5 * WINDOW * float(self._times[-1] - self._times[0])
        middle = 0.5 * float(self._times[0] + self._times[-1])
        found: dict[str, QuickRate | None] = {
            "gamma_end": self._gamma.estimate(),
            "gamma_at_half": self._gamma.gamma(middle - half, middle + half),
        }
        if at_loss is None:
            untold["gamma_at_loss"] = NOT_AT_LOSS
        else:
            found["gamma_at_loss"] = self._gamma.gamma(at_loss - half, at_loss + half)
        inferred = {name: _drawn(rate.draws(N_DRAWS)) for name, rate in found.items() if rate is not None}
        pieces = self._gamma.pieces()
        if pieces:
            rng = np.random.default_rng(0)
            total = sum(length * rng.permutation(rate.draws(N_DRAWS)) for length, rate in pieces)
            inferred["gamma_integral"] = _drawn(np.asarray(total))
        return RunSummary(Path(self.facts.name).stem, inferred, self._observed, untold)


def _drawn(values: Float[np.ndarray, " draw"]) -> WeightedDraws:
    return WeightedDraws(values, np.full(len(values), 1.0 / len(values)))
