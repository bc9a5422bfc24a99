"""Comparison of architectures: is A more locally elastic than B, does it separate earlier, beyond chance of seeds.

Each run is fitted by itself (`lesde_infer.inference.fit`), a few numbers of it are taken (`lesde_infer.run_summary`),
and those of one architecture are put together (`lesde_infer.meta_analysis`). Runs share nothing but that, so that this
is the same as one model of all runs, but for the prior of γ, which is taken out, and for the shapes of posteriors,
which the joint route takes into account.

What a contrast is, and when it is settled, is in `lesde_infer.contrasts`. How well the impact itself explains the runs
is said beside where rivals are named (`lesde_infer.model_adequacy`).

benchmarks/comparison.py measures how often equal architectures are called different, and unequal ones told apart.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from data_tools.errors import InputError
from data_tools.recording import Recording
from lesde_infer.comparability import RunFacts, check_comparable
from lesde_infer.contrasts import EQUIVALENT, Contrast, Quantity, contrast
from lesde_infer.equal_loss import EqualLoss, LossCurve, equal_loss
from lesde_infer.fit_result import Fit, load
from lesde_infer.impacts import Impact
from lesde_infer.meta_analysis import GroupPosterior, Route, joint, moments, two_stage
from lesde_infer.model_adequacy import Adequacy, judge_rivals
from lesde_infer.plain_values import plain
from lesde_infer.readable_runs import readable_runs
from lesde_infer.run_summary import (
    GAMMAS,
    QUANTITIES,
    RunSummary,
    WeightedDraws,
    summarise_run,
)

if TYPE_CHECKING:
    import pandas as pd

FEWEST_RUNS = 2  # of an architecture, in a quantity, for differences from it
RunSource = str | os.PathLike[str] | Fit


@dataclass(frozen=True)
class Comparison:
    """Architectures compared.

    Attributes
    ----------
    quantities : dict of Quantity
        What was compared, by name.
    runs : dict of list of RunSummary
        Runs of each architecture.
    posteriors : dict of dict of GroupPosterior
        By architecture and quantity.
    contrasts : list of Contrast
        All pairs in all quantities that both tell.
    loss_level : float or None
        Loss at which ``gamma_at_loss`` is taken, of those architectures of which all runs pass it.
    remarks : list of str
        What to keep in mind.
    route : str
        How runs were put together.
    adequacy : dict of list of Adequacy
        By architecture, how much better the impact compared explains its runs than rivals that were asked for.
    """

    quantities: dict[str, Quantity]
    runs: dict[str, list[RunSummary]]
    posteriors: dict[str, dict[str, GroupPosterior]]
    contrasts: list[Contrast]
    loss_level: float | None
    remarks: list[str]
    route: Route
    adequacy: dict[str, list[Adequacy]] = field(default_factory=dict)

    def interval(self, architecture: str, quantity: str) -> dict[str, float]:
        """Return median, and 5 % and 95 % quantiles, of an architecture's mean, in the unit of the quantity."""
        draws = self.quantities[quantity].back(self.posteriors[architecture][quantity].mean)
        low, median, high = np.quantile(draws, [0.05, 0.5, 0.95])
        return {"mean": float(median), "q05": float(low), "q95": float(high)}

    def to_dataframe(self) -> "pd.DataFrame":
        """Return the contrasts, one a row, with the attributes of `lesde_infer.contrasts.Contrast` as columns."""
        from lesde_infer.result_tables import contrast_table

        return contrast_table(self)

    def to_latex(self) -> str:
        """Return means over runs and contrasts as two LaTeX tables (booktabs)."""
        from lesde_infer.result_tables import latex_tables

        return latex_tables(self)

    def to_json(self) -> dict[str, Any]:
        """Return the machine-readable result (DESIGN section 6): plain numbers, strings and lists.

        ``mean`` of an architecture is the mean on the scale on which runs differ by sums, carried back.
        """
        architectures: dict[str, Any] = {}
        for name, found in self.posteriors.items():
            own: dict[str, Any] = {"n_runs": len(self.runs[name]), **_elastic(found.get("gamma_end"), self.runs[name])}
            for quantity, posterior in found.items():
                low, median, high = np.quantile(posterior.chance, [0.05, 0.5, 0.95])
                own[quantity] = {
                    **self.interval(name, quantity),
                    "n_runs": posterior.n_runs,
                    "between_run_sd": {"q05": float(low), "q50": float(median), "q95": float(high)},
                    "within_run_sd": posterior.error,
                }
            own["runs"] = [_run_to_json(run) for run in self.runs[name]]
            own["adequacy"] = [found.to_json() for found in self.adequacy.get(name, [])]
            architectures[name] = own
        return {
            "architectures": architectures,
            "contrasts": [plain(vars(contrast)) for contrast in self.contrasts],
            "scales": {name: {"scale": own.scale, "reference": own.reference} for name, own in self.quantities.items()},
            "loss_level": self.loss_level,
            "equivalent_below": EQUIVALENT,
            "route": self.route,
            "remarks": self.remarks,
        }


def compare(
    architectures: Mapping[str, Sequence[RunSource]],
    *,
    loss: float | None = None,
    route: Route = "two-stage",
    allow_different_data: bool = False,
    seed: int = 0,
    rivals: Sequence[Impact] = (),
    fit_run: Callable[[Path, Impact], Fit] | None = None,
    **fit_options: Any,
) -> Comparison:
    """Compare architectures, of each of which there are one or more runs.

    Parameters
    ----------
    architectures : dict of lists
        Runs of each architecture: recordings, which are fitted; fits, or files of fits, of which only what is inferred
        is compared.
    loss : float, optional
        Loss in nats at which γ is compared; by default one that most architectures pass in all their runs
        (`lesde_infer.equal_loss`).
    route : str
        ``two-stage``, ``joint`` (`lesde_infer.meta_analysis`), or ``quick``, which fits nothing
        (`lesde_infer.quick_comparison`).
    allow_different_data : bool
        Compare in spite of different probe sets or label noise.
    seed : int
        Fixes all that is random.
    rivals : sequence of str
        Impacts under which recordings are fitted as well, to see how much worse these explain them.
    fit_run : callable, optional
        Fits a recording under an impact in place of `lesde_infer.fit`, for instance to keep the fits.
    **fit_options
        Of `lesde_infer.fit`, such as ``impact`` and ``layer``; ``parts`` is ``rates`` unless there are rivals.

    Raises
    ------
    InputError
        If there are fewer than two architectures, one has no runs, or runs cannot be compared
        (`lesde_infer.comparability`).
    ConvergenceError
        If the joint model did not converge, or so few fits that fewer than two architectures are left. Runs that
        cannot be fitted are otherwise left out, with a remark.
    """
    from lesde_infer.inference import fit

    if len(architectures) < 2:
        raise InputError("give two architectures or more, as NAME=FILE,FILE…")
    if loss is not None and not (np.isfinite(loss) and loss > 0):
        raise InputError(f"loss is {loss}; give a positive number of nats")
    for name, sources in architectures.items():
        if not sources:
            raise InputError(f"{name}: no runs; give one recording or more")
    if route == "quick":
        from lesde_infer.quick_comparison import compare_quickly

        if rivals or fit_run is not None or set(fit_options) - {"layer"}:
            raise InputError(
                "the quick route fits nothing and takes no option of fits but the layer; leave out the others"
            )
        layer = fit_options.get("layer")
        return compare_quickly(
            architectures, layer=layer, loss=loss, allow_different_data=allow_different_data, seed=seed
        )
    impact: Impact = fit_options.pop("impact", "R")
    fit_options.setdefault("parts", "all" if rivals else "rates")
    make = fit_run or (lambda path, of_impact: fit(path, impact=of_impact, seed=seed, **fit_options))
    of_architectures, left_out = readable_runs(
        architectures, lambda name, source: (name, *_converged(source, lambda path: make(path, impact)))
    )
    fitted = [run for own in of_architectures.values() for run in own]
    found = compare_fits(fitted, loss=loss, route=route, allow_different_data=allow_different_data, seed=seed)
    adequacy, remarks = judge_rivals(fitted, [rival for rival in rivals if rival != impact], make)
    return replace(found, adequacy=adequacy, remarks=[*left_out, *found.remarks, *remarks])


FittedRun = tuple[str, Path, Fit, Path | None]
"""Architecture, name, fit and, where it is at hand, recording of a run."""


def _fit_of(source: RunSource, make: Callable[[Path], Fit]) -> tuple[Path, Fit, Path | None]:
    """Return the name of a run, its fit, and its recording if that is at hand."""
    if isinstance(source, Fit):
        return Path(source.provenance.get("recording", "fit")), source, None
    path = Path(source)
    if path.suffix == ".nc":
        return path, load(path), None
    return path, make(path), path


def compare_fits(
    fitted: Sequence[FittedRun],
    *,
    loss: float | None,
    route: Route,
    allow_different_data: bool,
    seed: int,
) -> Comparison:
    """Compare runs that are fitted: architecture, name, fit and recording of each. See `compare`."""
    facts = []
    losses = dict[str, list[LossCurve | None]]()
    for architecture, path, fit, source in fitted:
        with _opened(source) as recording:
            facts.append(RunFacts.of(architecture, path, fit, recording))
            losses.setdefault(architecture, []).append(LossCurve.of(fit, recording))
    remarks = check_comparable(facts, allow_different_data=allow_different_data)
    at = equal_loss(losses, loss)
    runs: dict[str, list[RunSummary]] = {name: [] for name in losses}
    for architecture, path, fit, source in fitted:
        time = at.times[architecture][len(runs[architecture])]
        with _opened(source) as recording:
            runs[architecture].append(summarise_run(path.stem, fit, recording, time))
    return compare_runs(runs, at, remarks, route, seed)


def compare_runs(
    runs: dict[str, list[RunSummary]], at: EqualLoss, remarks: list[str], route: Route, seed: int
) -> Comparison:
    """Compare runs that are summarised, and when they are at a loss."""
    remarks = [*remarks, *at.remarks]
    remarks += [
        f"{run.name}: {name} is left out: {reason}"
        for own in runs.values()
        for run in own
        for name, reason in run.untold.items()
        if name in GAMMAS and name != "gamma_at_loss"
    ]
    quantities = {name: _quantity(name, [run for own in runs.values() for run in own]) for name in QUANTITIES}
    posteriors: dict[str, dict[str, GroupPosterior]] = {name: {} for name in runs}
    told: dict[str, Quantity] = {}
    for number, (name, quantity) in enumerate(quantities.items()):
        of_runs = {architecture: _on_scale(own, quantity) for architecture, own in runs.items()}
        everything = [moments(run)[0] for own in of_runs.values() for run in own]
        if not everything:
            continue
        told[name] = quantity
        for place, (architecture, own) in enumerate(of_runs.items()):
            if own:
                key = seed + 1000 * number + place
                posteriors[architecture][name] = _together(own, float(np.mean(everything)), route, key)
    contrasts = [
        contrast(a, b, quantity, posteriors[a][name], posteriors[b][name])
        for name, quantity in told.items()
        for a, b in combinations(runs, 2)
        if all(name in posteriors[own] and posteriors[own][name].n_runs >= FEWEST_RUNS for own in (a, b))
    ]
    remarks += [
        f"{name}: one run says nothing of the chance from seed to seed: no difference from it is given; add runs"
        for name, own in runs.items()
        if len(own) < FEWEST_RUNS
    ]
    return Comparison(told, runs, posteriors, contrasts, at.level, remarks, route)


def _converged(source: RunSource, make: Callable[[Path], Fit]) -> tuple[Path, Fit, Path | None]:
    """Return the same of a fit that converged.

    Raises
    ------
    ConvergenceError
        If it did not.
    """
    from lesde_infer.inference import ConvergenceError

    path, fit, recording = _fit_of(source, make)
    if not fit.diagnostics().converged:
        raise ConvergenceError(f"{path}: its fit did not converge; fit it anew")
    return path, fit, recording


def _opened(source: Path | None) -> AbstractContextManager[Recording | None]:
    """Open a recording, if there is one."""
    return nullcontext() if source is None else Recording(source)


def _quantity(name: str, runs: list[RunSummary]) -> Quantity:
    if name not in GAMMAS:
        return Quantity(name, "linear" if name == "tail_index" else "log")
    errors = [moments(run.inferred[name])[1] for run in runs if name in run.inferred]
    return Quantity(name, "asinh", float(np.median(errors)) if errors else 1.0)


def _on_scale(runs: list[RunSummary], quantity: Quantity) -> list[WeightedDraws]:
    found = []
    for run in runs:
        if quantity.name in run.inferred:
            draws = run.inferred[quantity.name]
            found.append(WeightedDraws(quantity.forward(draws.values), draws.weights))
        elif quantity.name in run.observed:
            value = quantity.forward(np.array([run.observed[quantity.name]]))
            found.append(WeightedDraws(value, np.ones(1)))
    return found


def _together(runs: list[WeightedDraws], centre: float, route: Route, seed: int) -> GroupPosterior:
    values, errors = (np.array(column) for column in zip(*map(moments, runs), strict=True))
    if route == "joint" and errors.min() > 0:
        return joint(runs, centre, seed)
    return two_stage(values, errors, centre, seed)


def _elastic(posterior: GroupPosterior | None, runs: list[RunSummary]) -> dict[str, Any]:
    """Return the probability that γ at the end is positive: of the mean over runs, and of one further run."""
    if posterior is None:
        return {"probability_elastic": None, "probability_elastic_next_run": None}
    rng = np.random.default_rng(len(runs))
    further = posterior.mean + posterior.chance * rng.normal(size=len(posterior.mean))
    return {
        "probability_elastic": float((posterior.mean > 0).mean()),
        "probability_elastic_next_run": float((further > 0).mean()),
    }


def _run_to_json(run: RunSummary) -> dict[str, Any]:
    inferred = {name: dict(zip(("mean", "sd"), moments(draws), strict=True)) for name, draws in run.inferred.items()}
    return {"name": run.name, **inferred, **run.observed, "untold": run.untold}
