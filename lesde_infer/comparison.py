"""Comparison of architectures: is A more locally elastic than B, does it separate earlier, beyond chance of seeds.

Each run is fitted by itself (`lesde_infer.inference.fit`), a few numbers of it are taken (`lesde_infer.run_summary`),
and those of one architecture are put together (`lesde_infer.meta_analysis`). Runs share nothing but that, so that this
is the same as one model of all runs, but for the prior of γ, which is taken out, and for the shapes of posteriors,
which the joint route takes into account.

A contrast is the difference of two architecture means on the scale on which runs differ by sums. It is called *settled*
where its central 95 % interval lies on one side of 0 (the architectures differ) or inside ± ln 1.25 (they are
equivalent). 25 % is what a fit may be off: posteriors of γ lay between 0.8 and 1.25 times the elasticity measured on
live networks (benchmarks/results/measured_truth.md). Where it is not settled, the number of further runs of each that
would settle it is given, if means and chance from run to run are what they seem.

How well the impact itself explains the runs is said beside where rivals are named (`lesde_infer.model_adequacy`).

benchmarks/comparison.py measures how often equal architectures are called different, and unequal ones told apart.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from data_tools.errors import InputError
from data_tools.recording import Recording
from lesde_infer.comparability import RunFacts, check_comparable
from lesde_infer.fit_result import Fit, load
from lesde_infer.impacts import Impact
from lesde_infer.meta_analysis import GroupPosterior, Route, Scale, joint, moments, two_stage
from lesde_infer.model_adequacy import Adequacy, judge_rivals
from lesde_infer.plain_values import plain
from lesde_infer.run_summary import (
    GAMMAS,
    QUANTITIES,
    LossCurve,
    RunSummary,
    WeightedDraws,
    matched_loss,
    summarise_run,
)

EQUIVALENT = float(np.log(1.25))
SURE = 0.95
MOST_FURTHER_RUNS = 1000
RunSource = str | os.PathLike[str] | Fit


@dataclass(frozen=True)
class Quantity:
    """How a quantity is carried to the scale on which runs differ by sums, and back.

    Attributes
    ----------
    name : str
        One of `lesde_infer.run_summary.QUANTITIES`.
    scale : str
        ``asinh`` of x over `reference`, ``log``, or ``linear``.
    reference : float
        What γ's posteriors resolve: the median over runs of their standard deviations.
    """

    name: str
    scale: Scale
    reference: float = 1.0

    def forward(self, values: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
        """Carry values to the scale."""
        if self.scale == "linear":
            return values
        return np.log(values) if self.scale == "log" else np.arcsinh(values / self.reference)

    def back(self, values: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
        """Carry values back."""
        if self.scale == "linear":
            return values
        return np.exp(values) if self.scale == "log" else self.reference * np.sinh(values)


@dataclass(frozen=True)
class Contrast:
    """Difference a − b of two architectures in a quantity; see the module's docstring.

    Attributes
    ----------
    a, b, quantity, scale : str
        What is compared, and on which scale (`Quantity`).
    mean, q05, q95 : float
        Posterior mean and central 90 % interval of the difference.
    probability_greater : float
        Probability that a's mean is greater.
    probability_equivalent : float
        Probability that the difference is smaller than ln 1.25.
    verdict : str
        ``a greater``, ``b greater``, ``equivalent`` or ``open``.
    further_runs : int or None
        Further runs of each that would settle it; 0 where it is settled, None where a thousand would not.
    """

    a: str
    b: str
    quantity: str
    scale: Scale
    mean: float
    q05: float
    q95: float
    probability_greater: float
    probability_equivalent: float
    verdict: str
    further_runs: int | None


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
        Loss at which ``gamma_at_loss`` is taken.
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
        Loss in nats at which γ is compared; by default one that all runs pass (`lesde_infer.run_summary.matched_loss`).
    route : str
        ``two-stage``, or ``joint`` (`lesde_infer.meta_analysis`).
    allow_different_data : bool
        Compare in spite of different probe sets or label noise.
    seed : int
        Fixes all that is random.
    rivals : sequence of str
        Impacts under which recordings are fitted as well, to see how much worse these explain them.
    fit_run : callable, optional
        Fits a recording under an impact in place of `lesde_infer.fit`, for instance to keep the fits.
    **fit_options
        Of `lesde_infer.fit`, such as ``impact`` and ``layer``.

    Raises
    ------
    InputError
        If there are fewer than two architectures, one has no runs, or runs cannot be compared
        (`lesde_infer.comparability`).
    ConvergenceError
        If a fit, or the joint model, did not converge.
    """
    from lesde_infer.inference import fit

    if len(architectures) < 2:
        raise InputError("give two architectures or more, as NAME=FILE,FILE…")
    if loss is not None and not (np.isfinite(loss) and loss > 0):
        raise InputError(f"loss is {loss}; give a positive number of nats")
    impact: Impact = fit_options.pop("impact", "R")
    make = fit_run or (lambda path, of_impact: fit(path, impact=of_impact, seed=seed, **fit_options))
    fitted: list[tuple[str, Path, Fit, Path | None]] = []
    for name, sources in architectures.items():
        if not sources:
            raise InputError(f"{name}: no runs; give one recording or more")
        fitted += [(name, *_fit_of(source, lambda path: make(path, impact))) for source in sources]
    found = compare_fits(fitted, loss=loss, route=route, allow_different_data=allow_different_data, seed=seed)
    adequacy, remarks = judge_rivals(fitted, [rival for rival in rivals if rival != impact], make)
    return replace(found, adequacy=adequacy, remarks=[*found.remarks, *remarks])


def _fit_of(source: RunSource, make: Callable[[Path], Fit]) -> tuple[Path, Fit, Path | None]:
    """Return the name of a run, its fit, and its recording if that is at hand."""
    if isinstance(source, Fit):
        return Path(source.provenance.get("recording", "fit")), source, None
    path = Path(source)
    if path.suffix == ".nc":
        return path, load(path), None
    return path, make(path), path


def compare_fits(
    fitted: Sequence[tuple[str, Path, Fit, Path | None]],
    *,
    loss: float | None,
    route: Route,
    allow_different_data: bool,
    seed: int,
) -> Comparison:
    """Compare runs that are fitted: architecture, name, fit and recording of each. See `compare`."""
    facts, losses = [], []
    for architecture, path, fit, source in fitted:
        with _opened(source) as recording:
            facts.append(RunFacts.of(architecture, path, fit, recording))
            losses.append(LossCurve.of(fit, recording))
    remarks = check_comparable(facts, allow_different_data=allow_different_data)
    level = matched_loss(losses) if loss is None else loss
    if level is None:
        remarks.append("γ is not compared at equal loss: the loss of a run is not known, or none that all pass")
    runs = dict[str, list[RunSummary]]()
    for (architecture, path, fit, source), own_loss in zip(fitted, losses, strict=True):
        at_loss = None if level is None or own_loss is None else own_loss.time_of(level)
        with _opened(source) as recording:
            runs.setdefault(architecture, []).append(summarise_run(path.stem, fit, recording, at_loss))
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
        if name in posteriors[a] and name in posteriors[b]
    ]
    return Comparison(told, runs, posteriors, contrasts, level, remarks, route)


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


def contrast(a: str, b: str, quantity: Quantity, of_a: GroupPosterior, of_b: GroupPosterior) -> Contrast:
    """Return the difference of two architectures; draws of both are independent."""
    n = min(len(of_a.mean), len(of_b.mean))
    difference = of_a.mean[:n] - of_b.mean[:n]
    low, high = np.quantile(difference, [0.5 - SURE / 2, 0.5 + SURE / 2])
    verdict = "open"
    if low > 0:
        verdict = "a greater"
    elif high < 0:
        verdict = "b greater"
    elif max(-low, high) < EQUIVALENT:
        verdict = "equivalent"
    q05, q95 = np.quantile(difference, [0.05, 0.95])
    return Contrast(
        a=a,
        b=b,
        quantity=quantity.name,
        scale=quantity.scale,
        mean=float(difference.mean()),
        q05=float(q05),
        q95=float(q95),
        probability_greater=float((difference > 0).mean()),
        probability_equivalent=float((np.abs(difference) < EQUIVALENT).mean()),
        verdict=verdict,
        further_runs=0 if verdict != "open" else further_runs(float(difference.mean()), of_a, of_b),
    )


def further_runs(mean: float, of_a: GroupPosterior, of_b: GroupPosterior) -> int | None:
    """Return how many further runs of each would settle a difference, if it and the chance of runs stay what they are.

    With n runs of each the standard error is √((τₐ² + sₐ²)/nₐ + (τ_b² + s_b²)/n_b), at the posterior medians of τ.
    """
    variances = [float(np.median(own.chance)) ** 2 + own.error**2 for own in (of_a, of_b)]
    for more in range(1, MOST_FURTHER_RUNS + 1):
        counts = (of_a.n_runs + more, of_b.n_runs + more)
        error = np.sqrt(sum(variance / count for variance, count in zip(variances, counts, strict=True)))
        if abs(mean) > 1.96 * error or abs(mean) + 1.96 * error < EQUIVALENT:
            return more
    return None


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
