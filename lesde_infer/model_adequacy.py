"""How well the drift that was compared explains runs, beside other classes of drift.

A comparison of γ under one impact is as good as that impact. For each run, the expected log predictive density (ELPD)
of the increments of its class means (`lesde_infer.predictive_density`, group ``class_means``, which every impact
describes) under the impact compared, less that under a rival, paired by interval and divided by the number n of
intervals, is in nats an interval. Its standard error is that of a mean of n differences taken for independent, and
rather too small (`lesde_infer.model_choice`). Over the runs of an architecture the mean is given with the standard
error from run to run, or, of a single run, with the run's own.

tests/lesde_infer/test_model_adequacy.py checks differences of fits whose densities are known.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from data_tools.errors import InputError
from lesde_infer.impacts import Impact
from lesde_infer.predictive_density import expected_log_predictive_density

if TYPE_CHECKING:
    from lesde_infer.fit_result import Fit

GROUP = "class_means"


@dataclass(frozen=True)
class RunAdequacy:
    """How much better one impact explains a run than a rival.

    Attributes
    ----------
    run : str
        What the run is called.
    impact, rival : str
        Impacts, of which the first was compared.
    difference, error : float
        ELPD of the impact less that of the rival, in nats an interval, and its standard error.
    n_intervals : int
        Intervals.
    bad_share : float
        Share of intervals whose Pareto k is too high in either, so that their part of it cannot be trusted.
    warnings : tuple of str
        What ArviZ warned of.
    """

    run: str
    impact: str
    rival: str
    difference: float
    error: float
    n_intervals: int
    bad_share: float
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class Adequacy:
    """How much better one impact explains the runs of an architecture than a rival, in the mean over runs.

    Attributes
    ----------
    impact, rival : str
        Impacts, of which the first was compared.
    difference, error : float
        Mean over runs, in nats an interval, and its standard error.
    n_runs : int
        Runs that were fitted under both.
    runs : tuple of RunAdequacy
        Each of them.
    """

    impact: str
    rival: str
    difference: float
    error: float
    n_runs: int
    runs: tuple[RunAdequacy, ...]

    def to_json(self) -> dict[str, Any]:
        """Return plain numbers, strings and lists."""
        found = {name: getattr(self, name) for name in ("impact", "rival", "difference", "error", "n_runs")}
        return {**found, "runs": [{**vars(run), "warnings": list(run.warnings)} for run in self.runs]}


def run_adequacy(name: str, fit: "Fit", rival: "Fit") -> RunAdequacy:
    """Hold a fit against that of a rival impact on the same run.

    Raises
    ------
    InputError
        If the fits are not of the same intervals.
    """
    own, other = expected_log_predictive_density(fit), expected_log_predictive_density(rival)
    # Deviations may be measured otherwise: only class means are compared.
    if difference := replace(own.run, measured=other.run.measured).difference(other.run):
        raise InputError(f"{name}: the fit under impact {rival.settings.impact} is of another run: {difference}")
    elpd = [density.pointwise["elpd"].sel(group=GROUP).to_numpy() for density in (own, other)]
    behind = elpd[0] - elpd[1]
    return RunAdequacy(
        run=name,
        impact=fit.settings.impact,
        rival=rival.settings.impact,
        difference=float(behind.mean()),
        error=float(behind.std() / np.sqrt(len(behind))),
        n_intervals=len(behind),
        bad_share=max(float(density.table["pareto_k_bad_share"].sel(group=GROUP)) for density in (own, other)),
        warnings=tuple(dict.fromkeys((*own.warnings, *other.warnings))),
    )


def over_runs(runs: Sequence[RunAdequacy]) -> Adequacy:
    """Put together what the runs of an architecture say of one rival."""
    differences = np.array([run.difference for run in runs])
    error = runs[0].error if len(runs) == 1 else float(differences.std(ddof=1) / np.sqrt(len(runs)))
    return Adequacy(runs[0].impact, runs[0].rival, float(differences.mean()), error, len(runs), tuple(runs))


def judge_rivals(
    fitted: "Sequence[tuple[str, Path, Fit, Path | None]]",
    rivals: Sequence[Impact],
    make: "Callable[[Path, Impact], Fit]",
) -> tuple[dict[str, list[Adequacy]], list[str]]:
    """Fit runs under rival impacts.

    Parameters
    ----------
    fitted : sequence
        Architecture, name, fit and recording of each run.
    rivals : sequence of str
        Impacts to try.
    make : callable
        Fits a recording under an impact.

    Returns
    -------
    dict of list of Adequacy
        By architecture, one for each rival under which a run could be fitted.
    list of str
        What was left out, and why.
    """
    from lesde_infer.inference import ConvergenceError

    remarks: list[str] = []
    by_architecture: dict[str, list[Adequacy]] = {}
    for rival in rivals:
        runs: dict[str, list[RunAdequacy]] = {}
        for architecture, path, fit, source in fitted:
            if source is None:
                remarks.append(f"{path.stem}: impact {rival} is not tried, which takes the recording")
                continue
            try:
                runs.setdefault(architecture, []).append(run_adequacy(path.stem, fit, make(source, rival)))
            except (InputError, ConvergenceError) as error:
                remarks.append(f"{path.stem}: impact {rival} is left out: {error}")
        for architecture, own in runs.items():
            if own:
                by_architecture.setdefault(architecture, []).append(over_runs(own))
    return by_architecture, remarks
