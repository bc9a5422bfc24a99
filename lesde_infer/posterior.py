"""From draws of the strata to the posterior of the LE-SDE, as an ArviZ DataTree.

Strata that are independent given the data were sampled side by side, so pairing their draws in order is a draw of the
joint posterior.

Two tail indices are reported, and differ (DESIGN section 4.5). `tail_index` is local: minus the slope of
log γ on log t over the last third of the record, γ being softened at its resolution so that it may change sign;
γ(t) ∝ t^−r has tail index r, and r < 1 is the regime in which classes separate (Zhang, Wang, Su 2021, Theorem 1).
`paper_tail_index` is 1 − log A(t)/log t at the end, A(t) = ∫α, the paper's estimator with the posterior's α.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr
from jaxtyping import Float

from lesde_infer.assembly import STRATA, Stratum, Submodel, locate
from lesde_infer.impacts import elasticity_from_rates
from lesde_infer.sampling import SampleRun
from lesde_infer.statistics import Statistics

LOCATIONS: dict[Stratum, str] = {
    "contrast": "gamma",
    "shared": "global_rate",
    "growth": "kappa",
    "individual": "individual_log_variance",
}
NOISE_SCALES: dict[Stratum, str] = {
    "contrast": "class_scale",
    "shared": "global_scale",
    "growth": "growth_scatter",
    "individual": "individual_scatter",
}
LATE_SHARE = 2.0 / 3.0  # of the record: where the tail index starts to look


@dataclass(frozen=True)
class _StratumDraws:
    """Draws of one stratum; arrays have leading axes (chain, draw)."""

    location: Float[np.ndarray, "chain draw time"]
    noise: Float[np.ndarray, "chain draw time"]
    degrees: Float[np.ndarray, "chain draw"]
    interval_exponent: Float[np.ndarray, "chain draw"]
    relaxation: Float[np.ndarray, "chain draw"]
    log_likelihood: Float[np.ndarray, "chain draw time"]
    curves: dict[str, Float[np.ndarray, "chain draw 2 ..."]]
    """Weights and hyperparameters of the location curve and of the noise scale."""


def _strata(submodels: Sequence[Submodel], runs: Sequence[SampleRun]) -> dict[Stratum, _StratumDraws]:
    draws = {}
    for submodel, run in zip(submodels, runs, strict=True):
        for index, name in enumerate(submodel.strata):
            parameters, own = run.parameters, [index, len(submodel.strata) + index]
            draws[name] = _StratumDraws(
                location=np.asarray(parameters.location)[:, :, index],
                noise=np.exp(np.asarray(parameters.log_scale)[:, :, index]),
                degrees=np.asarray(parameters.degrees)[:, :, index],
                interval_exponent=np.asarray(parameters.interval_exponent)[:, :, index],
                relaxation=np.asarray(parameters.relaxation)[:, :, index],
                log_likelihood=run.log_likelihood[:, :, index],
                curves={
                    site: np.asarray(values)[:, :, own]
                    for site, values in run.values.items()
                    if site.startswith("curve_")
                },
            )
    return draws


def build_posterior(
    statistics: Statistics, submodels: Sequence[Submodel], runs: Sequence[SampleRun], *, mixed: bool
) -> xr.DataTree:
    """Arrange draws as a DataTree with groups posterior, sample_stats, log_likelihood, observed_data, constant_data.

    Parameters
    ----------
    statistics : Statistics
        What was fitted.
    submodels, runs : sequences
        Submodels and their draws, in the same order.
    mixed : bool
        Whether short and long intervals alternate, so that their scaling was learned.
    """
    draws = _strata(submodels, runs)
    rates = {LOCATIONS[name]: draws[name].location for name in STRATA}
    data, place = locate(submodels, "contrast")
    alpha, beta = elasticity_from_rates(rates["gamma"], rates["global_rate"], statistics.n_classes)
    curve = ("chain", "draw", "time")
    variables = {
        **{name: (curve, values) for name, values in rates.items() if name != LOCATIONS["individual"]},
        "alpha": (curve, alpha),
        "beta": (curve, np.asarray(beta)),
        "individual_scale": (curve, np.exp(rates[LOCATIONS["individual"]] / 2.0)),
        **{NOISE_SCALES[name]: (curve, draws[name].noise) for name in STRATA},
        "degrees": (("chain", "draw", "stratum"), np.stack([draws[name].degrees for name in STRATA], axis=-1)),
        "tail_index": (("chain", "draw"), tail_index(rates["gamma"], statistics, float(data.reference[place]))),
        "paper_tail_index": (("chain", "draw"), paper_tail_index(alpha, statistics)),
    }
    if mixed:
        exponents = np.stack([draws[name].interval_exponent for name in STRATA], axis=-1)
        relaxation = np.stack([draws[name].relaxation for name in STRATA[:2]], axis=-1)
        variables["interval_exponent"] = (("chain", "draw", "stratum"), exponents)
        variables["relaxation"] = (("chain", "draw", "class_mean_stratum"), relaxation)
    for site in draws["contrast"].curves:
        location = [draws[name].curves[site][:, :, 0] for name in STRATA]
        noise = [draws[name].curves[site][:, :, 1] for name in STRATA]
        weight = ("weight",) if location[0].ndim == 3 else ()
        variables[site] = (("chain", "draw", "curve", *weight), np.stack(location + noise, axis=2))
    coordinates = {
        "time": statistics.midpoints,
        "stratum": list(STRATA),
        "class_mean_stratum": list(STRATA[:2]),
        "curve": [*LOCATIONS.values(), *NOISE_SCALES.values()],
    }
    log_likelihood = {name: (curve, draws[name].log_likelihood) for name in STRATA}
    groups = {
        "posterior": xr.Dataset(variables),
        "sample_stats": _sample_statistics(runs),
        "log_likelihood": xr.Dataset(log_likelihood),
        "observed_data": _observed(statistics),
        "constant_data": _constant(statistics),
    }
    return xr.DataTree.from_dict({name: _with_coordinates(group, coordinates) for name, group in groups.items()})


def _with_coordinates(dataset: xr.Dataset, coordinates: dict[str, object]) -> xr.Dataset:
    """Give a dataset the coordinates of the dimensions it has, and count chains and draws."""
    own = {name: values for name, values in coordinates.items() if name in dataset.dims}
    counted = {name: np.arange(dataset.sizes[name]) for name in ("chain", "draw") if name in dataset.dims}
    return dataset.assign_coords({**own, **counted})


def _sample_statistics(runs: Sequence[SampleRun]) -> xr.Dataset:
    """Combine the independent chains of the submodels: one draw of the joint posterior is one of each."""

    def stack(name: str) -> Float[np.ndarray, "submodel chain draw"]:
        return np.stack([run.statistics[name] for run in runs])

    dims = ("chain", "draw")
    return xr.Dataset(
        {
            "diverging": (dims, stack("diverging").any(axis=0)),
            "n_steps": (dims, stack("n_steps").sum(axis=0)),
            "energy": (dims, stack("energy").sum(axis=0)),
            "lp": (dims, stack("lp").sum(axis=0)),
            "acceptance_rate": (dims, stack("acceptance_rate").mean(axis=0)),
            "n_steps_by_submodel": (("submodel", *dims), stack("n_steps")),
            "energy_by_submodel": (("submodel", *dims), stack("energy")),
            "step_size_by_submodel": (("submodel", *dims), stack("step_size")),
        }
    )


def _observed(statistics: Statistics) -> xr.Dataset:
    return xr.Dataset(
        {
            "contrast_increment_square": ("time", statistics.contrast.increment_square),
            "shared_increment_square": ("time", statistics.shared.increment_square),
            "log_growth": ("time", statistics.within.log_growth),
            "log_variance": ("time", statistics.within.log_variance),
        }
    )


def _constant(statistics: Statistics) -> xr.Dataset:
    square = statistics.contrast.direction_square
    feedback = (statistics.contrast.feedback * square).sum(axis=1) / np.maximum(square.sum(axis=1), 1e-300)
    return xr.Dataset(
        {
            "step": ("record", statistics.steps),
            "record_time": ("record", statistics.times),
            "class_size": ("class_", statistics.class_sizes),
            "length": ("time", statistics.lengths),
            "n_steps": ("time", statistics.n_steps),
            "impact_f": ("time", statistics.impact_f),
            "contrast_feedback": ("time", feedback),
            "shared_feedback": ("time", statistics.shared.feedback.max(axis=1)),
            "log_growth_error": ("time", statistics.within.log_growth_error),
            "log_variance_error": ("time", np.full(len(square), statistics.within.log_variance_error)),
            "dimension": ("stratum", [statistics.contrast.dimension, statistics.shared.dimension, 1, 1]),
        },
        attrs={"n_features": statistics.n_features},
    )


def tail_index(
    gamma: Float[np.ndarray, "*batch time"], statistics: Statistics, resolution: float
) -> Float[np.ndarray, "*batch"]:
    """Local tail index of γ: see the module's docstring."""
    elapsed = statistics.midpoints - statistics.times[0]
    late = elapsed >= LATE_SHARE * (statistics.times[-1] - statistics.times[0])
    late[-2:] = True  # a slope takes two points
    x = np.log(elapsed[late])
    x = x - x.mean()
    # hypot may square γ only up to 10¹⁵⁴; a rate that large has been refused as not converged long before.
    return -(np.log(np.hypot(gamma[..., late], resolution)) @ x) / (x @ x)


def paper_tail_index(alpha: Float[np.ndarray, "*batch time"], statistics: Statistics) -> Float[np.ndarray, "*batch"]:
    """Return the paper's tail index at the end of the record, from ∫α over it, in optimizer steps."""
    integral = np.abs((alpha * statistics.lengths).sum(axis=-1))
    return 1.0 - np.log(np.maximum(integral, 1e-300)) / np.log(float(statistics.steps[-1] - statistics.steps[0]))
