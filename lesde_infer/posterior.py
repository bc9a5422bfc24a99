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

from lesde_infer._jax import jnp
from lesde_infer.assembly import COUPLED, STRATA, Stratum, Submodel, locate, noise_is_all_around
from lesde_infer.common_growth import CommonGrowth
from lesde_infer.deviations import Within
from lesde_infer.impacts import elasticity_from_rates, feedback_coefficients, logits_coefficients
from lesde_infer.interval_lengths import spikes
from lesde_infer.model import StrataData
from lesde_infer.pattern_model import PatternData
from lesde_infer.pattern_posterior import PatternDraws, matrix_times
from lesde_infer.sampling import SampleRun
from lesde_infer.statistics import Statistics
from lesde_infer.within_statistics import Measured, measured_strata

LOCATIONS: dict[Stratum, str] = {
    "contrast": "gamma",
    "shared": "global_rate",
    "growth": "kappa",
    "growth_along": "kappa",
    "growth_across": "kappa_across",
    "pull": "pull",
    "individual": "individual_log_variance",
    "individual_along": "individual_log_variance",
    "individual_across": "individual_log_variance_across",
}
"""What the location curve of a stratum is called; deviations have those along the span of the class means in the place
of those of all of them."""
NOISE_SCALES: dict[Stratum, str] = {
    "contrast": "impact_scale",
    "class_noise": "class_scale",
    "shared": "global_scale",
    "growth": "growth_scatter",
    "growth_along": "growth_scatter",
    "growth_across": "growth_scatter_across",
    "pull": "pull_scatter",
    "individual": "individual_scatter",
    "individual_along": "individual_scatter",
    "individual_across": "individual_scatter_across",
}
LOG_VARIANCE, SCALE = "individual_log_variance", "individual_scale"
JOINT = "+"  # between the strata of one submodel, in its name
LATE_SHARE = 2.0 / 3.0  # of the record: where the tail index starts to look


@dataclass(frozen=True)
class _StratumDraws:
    """Draws of one stratum; arrays have leading axes (chain, draw)."""

    location: Float[np.ndarray, "chain draw time"]
    noise: Float[np.ndarray, "chain draw time"]
    attenuation: Float[np.ndarray, "chain draw time"]
    degrees: Float[np.ndarray, "chain draw 2"]
    interval_exponent: Float[np.ndarray, "chain draw"]
    log_likelihood: Float[np.ndarray, "chain draw time"]
    curves: list[dict[str, Float[np.ndarray, "chain draw ..."]]]
    """Weights and hyperparameters of the location curve, of the noise scale, and of ψ if intervals are mixed."""
    pattern: PatternDraws | None = None
    """Where elasticity is a matrix; the location is the effective γ."""


def _strata(
    statistics: Statistics, submodels: Sequence[Submodel], runs: Sequence[SampleRun]
) -> dict[Stratum, _StratumDraws]:
    draws = {}
    for submodel, run in zip(submodels, runs, strict=True):
        for index, name in enumerate(submodel.strata):
            if isinstance(submodel.data, PatternData):
                draws[name] = _of_pattern(run, submodel.data, statistics)
                continue
            parameters, n_strata = run.parameters, len(submodel.strata)
            sites = {site: np.asarray(v) for site, v in run.values.items() if site.startswith("curve_")}
            n_kinds = sites["curve_weights"].shape[2] // n_strata
            draws[name] = _StratumDraws(
                location=np.asarray(parameters.location)[:, :, index],
                noise=np.exp(np.asarray(parameters.log_scale)[:, :, index]),
                attenuation=np.asarray(parameters.attenuation)[:, :, index],
                degrees=np.asarray(parameters.degrees)[:, :, index],
                interval_exponent=np.asarray(parameters.interval_exponent)[:, :, index],
                log_likelihood=run.log_likelihood[:, :, index],
                curves=[
                    {site: values[:, :, kind * n_strata + index] for site, values in sites.items()}
                    for kind in range(n_kinds)
                ],
            )
    return draws


def _of_pattern(run: SampleRun, data: PatternData, statistics: Statistics) -> _StratumDraws:
    """Arrange the draws of the contrasts where elasticity is a matrix."""
    parameters, pattern = run.parameters, PatternDraws.of(run, data, statistics)
    sites = {site: np.asarray(v) for site, v in run.values.items() if site.startswith("curve_")}
    return _StratumDraws(
        location=pattern.gamma,
        noise=np.exp(np.asarray(parameters.log_scale)[:, :, 0]),
        attenuation=np.asarray(parameters.attenuation)[:, :, 0],
        degrees=np.asarray(parameters.degrees)[:, :, 0],
        interval_exponent=np.asarray(parameters.interval_exponent)[:, :, 0],
        log_likelihood=run.log_likelihood[:, :, 0],
        curves=[
            {site: values[:, :, kind] for site, values in sites.items()}
            for kind in range(sites["curve_weights"].shape[2])
        ],
        pattern=pattern,
    )


def build_posterior(
    statistics: Statistics, submodels: Sequence[Submodel], runs: Sequence[SampleRun], *, mixed: bool
) -> xr.DataTree:
    """Arrange draws as a DataTree with groups posterior, sample_stats, log_likelihood, observed_data, constant_data.

    Where runs know the log prior of their draws there is also ``log_prior``: one variable a submodel, named by its
    strata with ``+`` between them.

    Parameters
    ----------
    statistics : Statistics
        What was fitted.
    submodels, runs : sequences
        Submodels and their draws, in the same order.
    mixed : bool
        Whether short and long intervals alternate, so that their scaling was learned.
    """
    draws = _strata(statistics, submodels, runs)
    strata = [name for name in STRATA if name in draws]
    within: Within = "isotropic" if "growth" in draws else "spanned"
    all_around = noise_is_all_around(submodels)
    measured = measured_strata(statistics.within, statistics.parts, within)
    rates = {LOCATIONS[name]: draws[name].location for name in strata if name in LOCATIONS}
    data, place = locate(submodels, "contrast")
    pattern = draws["contrast"].pattern
    kernel_gamma = rates["gamma"] if pattern is None else pattern.gamma_kernel
    alpha, beta = elasticity_from_rates(kernel_gamma, rates["global_rate"], statistics.n_classes)
    curve = ("chain", "draw", "time")
    variables = {
        **{name: (curve, values) for name, values in rates.items() if not name.startswith(LOG_VARIANCE)},
        "alpha": (curve, alpha),
        "beta": (curve, np.asarray(beta)),
        **{
            name.replace(LOG_VARIANCE, SCALE): (curve, np.exp(values / 2.0))
            for name, values in rates.items()
            if name.startswith(LOG_VARIANCE)
        },
        **{NOISE_SCALES[name]: (curve, draws[name].noise) for name in strata},
        "tail_index": (("chain", "draw"), tail_index(rates["gamma"], statistics, float(data.reference[place]))),
        "paper_tail_index": (("chain", "draw"), paper_tail_index(alpha, statistics)),
    }
    if not all_around:  # noise along the impact was sampled in units of that across it
        across = np.exp(np.asarray(data.log_length[place])) / np.sqrt(statistics.lengths)
        variables["impact_scale"] = (curve, draws["contrast"].noise * across)
    else:  # contrasts have one noise in all directions
        variables["class_scale"] = variables.pop("impact_scale")
    slope = next((run.values["size_slope"] for run in runs if "size_slope" in run.values), None)
    if slope is not None:  # of contrasts alone
        kinds = ("interval_kind",) if mixed else ()
        own = np.asarray(slope)[:, :, 0] if mixed else np.asarray(slope)[:, :, 0, 0]
        variables["size_slope"] = (("chain", "draw", *kinds), own)
    if pattern is not None:
        variables.update(_matrix_variables(pattern, rates["global_rate"]))
    degrees = np.stack([draws[name].degrees for name in strata], axis=2)
    if mixed:
        variables["degrees"] = (("chain", "draw", "stratum", "interval_kind"), degrees)
        exponents = np.stack([draws[name].interval_exponent for name in strata], axis=-1)
        variables["interval_exponent"] = (("chain", "draw", "stratum"), exponents)
        attenuation = np.stack([draws[name].attenuation for name in COUPLED], axis=2)
        variables["log_attenuation"] = (("chain", "draw", "class_mean_stratum", "time"), attenuation)
    else:
        variables["degrees"] = (("chain", "draw", "stratum"), degrees[..., 0])
    curves = _named_curves(draws, has_class_noise=not all_around)
    for site in draws["contrast"].curves[0]:
        values = np.stack([sites[site] for sites in curves.values()], axis=2)
        variables[site] = (("chain", "draw", "curve", *(("weight",) if values.ndim == 4 else ())), values)
    coordinates = {
        "time": statistics.midpoints,
        "stratum": strata,
        "class_mean_stratum": list(COUPLED),
        "interval_kind": ["shortest", "longest"],
        "curve": list(curves),
        "matrix_time": statistics.midpoints[matrix_times(len(statistics.lengths))],
    }
    log_likelihood = {name: (curve, draws[name].log_likelihood) for name in strata}
    groups = {
        "posterior": xr.Dataset(variables),
        "sample_stats": _sample_statistics(runs),
        "log_likelihood": xr.Dataset(log_likelihood),
        "observed_data": _observed(statistics, measured),
        "constant_data": _constant(
            statistics, [locate(submodels, name) for name in strata], strata, measured, all_around=all_around
        ).assign(
            common_growth_variables(
                statistics,
                np.median(kernel_gamma, axis=(0, 1)),
                np.median(rates["global_rate"], axis=(0, 1)),
                all_around=all_around,
            )
        ),
    }
    log_prior = {
        JOINT.join(submodel.strata): (curve[:2], run.log_prior)
        for submodel, run in zip(submodels, runs, strict=True)
        if run.log_prior is not None
    }
    if len(log_prior) == len(submodels):
        groups["log_prior"] = xr.Dataset(log_prior)
    return xr.DataTree.from_dict({name: _with_coordinates(group, coordinates) for name, group in groups.items()})


def _matrix_variables(
    pattern: PatternDraws, global_rate: Float[np.ndarray, "chain draw time"]
) -> dict[str, tuple[tuple[str, ...], np.ndarray]]:
    curve, matrix = ("chain", "draw", "time"), ("class_to", "class_from")
    chosen = matrix_times(global_rate.shape[2])
    names = ("contrast_pattern", "contrast_pattern_drift")[: pattern.patterns.shape[2]]
    return {
        "gamma_kernel": (curve, pattern.gamma_kernel),
        "pattern_scale": (curve, pattern.scale),
        **{name: (("chain", "draw", *matrix), pattern.patterns[:, :, b]) for b, name in enumerate(names)},
        "E": (("chain", "draw", "matrix_time", *matrix), pattern.elasticity(global_rate, chosen)),
    }


def curve_names(stratum: Stratum, *, is_pattern: bool, has_class_noise: bool) -> tuple[str | None, str, str | None]:
    """Return what location curve, noise scale and ψ of a stratum are called; None where no such curve matters."""
    return (
        "pattern_scale" if is_pattern else LOCATIONS.get(stratum),
        "class_scale" if stratum == "contrast" and not has_class_noise else NOISE_SCALES[stratum],
        f"log_attenuation_{stratum}" if stratum in COUPLED else None,
    )


def _named_curves(
    draws: dict[Stratum, _StratumDraws], *, has_class_noise: bool
) -> dict[str, dict[str, Float[np.ndarray, "chain draw ..."]]]:
    """Return the sites of every curve that the likelihood depends on, by the curve's name."""
    named = {}
    for name, own in draws.items():
        kinds = curve_names(name, is_pattern=own.pattern is not None, has_class_noise=has_class_noise)
        named.update({kind: sites for kind, sites in zip(kinds, own.curves, strict=False) if kind is not None})
    return named


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


def _observed(statistics: Statistics, measured: dict[str, Measured]) -> xr.Dataset:
    return xr.Dataset(
        {
            "contrast_increment_square": ("time", statistics.contrast.increment_square),
            "shared_increment_square": ("time", statistics.shared.increment_square),
            **{found.name: ("time", found.values) for found in measured.values()},
        }
    )


def _constant(
    statistics: Statistics,
    places: list[tuple[StrataData | PatternData, int]],
    strata: list[Stratum],
    measured: dict[str, Measured],
    *,
    all_around: bool,
) -> xr.Dataset:
    dimension = [float(data.dimension[place]) for data, place in places]
    # Of strata of class means whose noise has a unit of its own, which noise along the impact has not.
    in_own_unit = {"class_noise", "shared"} | ({"contrast"} if all_around else set())
    concentration = [
        float(np.exp(2.0 * data.log_length[place][0]) / statistics.lengths[0]) if name in in_own_unit else 1.0
        for name, (data, place) in zip(strata, places, strict=True)
    ]
    data, _ = places[strata.index("contrast")]
    directions = statistics.noise_all_around if all_around else statistics.noise_directions
    return xr.Dataset(
        {
            "step": ("record", statistics.steps),
            "record_time": ("record", statistics.times),
            "class_size": ("class_", statistics.class_sizes),
            "start_record": ("time", statistics.starts),
            "start_samples": ("time", statistics.start_samples),
            "length": ("time", statistics.lengths),
            "n_steps": ("time", statistics.n_steps),
            "impact_f": ("time", statistics.impact_f),
            "impact_persistence": ("time", statistics.impact_persistence),
            "interval_loss": ("time", statistics.interval_loss),
            "moved": ("time", statistics.moved.astype(float)),
            "driven": ("time", statistics.driven.astype(float)),
            "spike": ("time", spikes(statistics).astype(float)),
            "relative_length": ("time", np.asarray(data.relative_length)),
            **({"pattern_drift": ("time", np.asarray(data.drift[:, 1]))} if isinstance(data, PatternData) else {}),
            "shared_feedback": ("time", statistics.shared.feedback.max(axis=1)),
            **{f"{found.name}_error": ("time", found.error) for found in measured.values()},
            **{f"{found.name}_spread": ("time", found.spread.astype(float)) for found in measured.values()},
            "dimension": ("stratum", dimension),
            "noise_concentration": ("stratum", concentration),
            **({} if directions is None else directions.to_variables()),
        },
        attrs={
            "n_features": statistics.n_features,
            "gamma_sampling_error": statistics.gamma_sampling_error,
            **statistics.noise_memory.to_attributes(),
        },
    )


def common_growth_variables(
    statistics: Statistics,
    gamma: Float[np.ndarray, " time"],
    global_rate: Float[np.ndarray, " time"],
    *,
    all_around: bool,
) -> dict[str, tuple[tuple[str, ...], np.ndarray]]:
    """Return what contrasts and deviations grow by (`lesde_infer.common_growth`), besides the drift of these rates.

    Where elasticity is a matrix the drift is that of its γ, as if it were homogeneous.
    """
    if statistics.growth is None:
        return {}
    if statistics.impact == "L":
        lengths, n_classes = jnp.asarray(statistics.lengths), jnp.asarray(statistics.n_classes)
        coefficients = logits_coefficients(jnp.asarray(gamma), jnp.asarray(global_rate), lengths, n_classes)[0]
    else:
        push = jnp.asarray(gamma * statistics.lengths / statistics.n_classes)
        coefficients = feedback_coefficients(push, jnp.asarray(statistics.contrast.feedback))
    told = statistics.moved & ~spikes(statistics)
    return CommonGrowth.at(statistics.growth, np.asarray(coefficients), told, all_around=all_around).to_variables()


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
