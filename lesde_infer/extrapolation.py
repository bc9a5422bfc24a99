"""Curves beyond the record: what the posterior says of rates and noise scales up to a horizon, and how far it is prior.

A draw of a curve's weights is a draw of the curve everywhere in the domain of its basis (`lesde_infer.curves`). A fit
with a horizon (`lesde_infer.inference.fit`) has a basis that reaches that far, and its draws are continued simply by
evaluating them there:

- ``constant`` stays, ``power`` follows its power law;
- ``gp`` follows its trend, a straight line in log t, and the Gaussian process around it, conditioned on the record,
  returns to its prior within a length scale of the record's end.

How much a continued curve owes to its prior is told by the ratio of posterior to prior standard deviation of u. For a
Gaussian its square is the share of the prior in the posterior's precision: a ratio near 0 is a curve that the record
determines, at 1 the record says nothing.

tests/lesde_infer/test_extrapolation.py holds continued curves against direct evaluation and against the posterior.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from jaxtyping import Array, Float

from data_tools.errors import InputError
from lesde_infer._jax import jnp
from lesde_infer.assembly import COUPLED, Submodel
from lesde_infer.curves import CurveDesign, CurvePrior, early_time, predictor, prior_width, rate
from lesde_infer.interval_design import interval_design
from lesde_infer.pattern_model import MAXIMAL_LOG_SCALE, PatternData
from lesde_infer.posterior import LOCATIONS, NOISE_SCALES, curve_names
from lesde_infer.sampling import SampleRun

if TYPE_CHECKING:
    from lesde_infer.fit_result import Fit

DRIVES = ("gamma", "pattern_scale")
CONTINUED = (*DRIVES, "global_rate", "pull")
"""Location curves that forecasts continue; deviations are stretched instead (`lesde_infer.stretching`)."""

PRIOR_DOMINATES = 0.7
"""Ratio of posterior to prior standard deviation from which the prior has half of the precision, or more."""


def curve_table(submodels: Sequence[Submodel], runs: Sequence[SampleRun]) -> xr.Dataset:
    """Return what is needed to evaluate every curve anywhere, beside the weights that the posterior holds.

    One row a curve, by the names of ``curve`` in the posterior: ``reference`` and ``is_rate`` (rates are
    reference · sinh(u)), the prior's ``level_mean``, ``level_sd``, ``slope_sd`` and ``amplitude_sd``, and for power
    laws ``pivot`` (t_ref as a share of the record) and ``time_scale`` (chain, draw, curve).
    """
    has_class_noise = any("class_noise" in submodel.strata for submodel in submodels)
    rows: dict[str, dict[str, float]] = {}
    time_scales = {}
    for submodel, run in zip(submodels, runs, strict=True):
        data, n_strata = submodel.data, len(submodel.strata)
        is_pattern = isinstance(data, PatternData)
        for place, stratum in enumerate(submodel.strata):
            names = curve_names(stratum, is_pattern=is_pattern, has_class_noise=has_class_noise)
            n_kinds = len(data.prior.level_mean) // n_strata
            for kind, name in enumerate(names[:n_kinds]):
                if name is None:
                    continue
                index = kind * n_strata + place
                is_rate = kind == 0 and not isinstance(data, PatternData) and float(data.is_rate[place]) > 0
                rows[name] = {field: float(getattr(data.prior, field)[index]) for field in CurvePrior._fields}
                rows[name] |= {"is_rate": float(is_rate), "reference": float(data.reference[place]) if is_rate else 1.0}
                rows[name]["pivot"] = float(data.design.pivot)
                time_scales[name] = run.values.get("power_time_scale")
    table = xr.Dataset(
        {field: ("curve", [row[field] for row in rows.values()]) for field in next(iter(rows.values()))},
        coords={"curve": list(rows)},
    )
    if next(iter(time_scales.values())) is not None:
        table["time_scale"] = (
            ("chain", "draw", "curve"),
            np.stack([np.asarray(scale) for scale in time_scales.values()], axis=-1),
        )
    return table


def chosen_draws(group: xr.Dataset, n_draws: int) -> xr.Dataset:
    """Return draws spread evenly over the chains, along the dimension ``sample``."""
    samples = group.stack(sample=("chain", "draw")).transpose("sample", ...)
    return samples.isel(sample=np.unique(np.linspace(0, samples.sizes["sample"] - 1, n_draws).round().astype(int)))


def continued_design(fit: "Fit", times: Float[np.ndarray, " time"]) -> CurveDesign:
    """Return the basis of a fit's curves at other times, from its first record to its horizon.

    Raises
    ------
    InputError
        If a time lies outside of that.
    """
    horizon = fit.times[-1] if fit.settings.horizon is None else fit.settings.horizon
    outside = (times < fit.times[0]) | (times > max(horizon, fit.times[-1]))
    if outside.any():
        raise InputError(
            f"curves of this fit reach from time {fit.times[0]:g} to {horizon:g}, not to {times[outside][0]:g}; "
            "fit with a later horizon"
        )
    midpoints = fit.posterior["time"].to_numpy()
    return interval_design(fit.times, midpoints, fit.settings.horizon, wanted=times)


def continue_curves(
    fit: "Fit", times: Float[np.ndarray, " time"], n_draws: int
) -> dict[str, Float[np.ndarray, "draw time"]]:
    """Evaluate all curves of a fit at times up to its horizon.

    Parameters
    ----------
    fit : Fit
        Fitted with a ``horizon``.
    times : array
        Times, in the fit's unit.
    n_draws : int
        Posterior draws, spread evenly over the chains.

    Returns
    -------
    dict of array, shape (draw, time)
        By the names of ``curve`` in the posterior: rates per unit of time (of single steps, as in the posterior), noise
        scales, ψ; log variances of individual noise. ``impact_scale`` is in units of the noise across the impact, where
        there is ``class_scale`` beside it under I and R.

    Raises
    ------
    InputError
        If the fit has no horizon, or a time lies beyond it.
    """
    table, curve, design = _table(fit), fit.settings.curve, continued_design(fit, times)
    weights, time_scales = _weights(fit, n_draws)
    values = {}
    for name, own in weights.items():
        row, pinned = table.sel(curve=name), _pinned(design, table, name)
        if float(row["is_rate"]):
            reference = jnp.full(len(own), float(row["reference"]))
            values[name] = np.asarray(rate(curve, own, pinned, time_scales[name], reference))
        else:
            values[name] = np.asarray(predictor(curve, own, pinned, time_scales[name]))
            if name in NOISE_SCALES.values():
                values[name] = np.exp(values[name])
    for stratum in COUPLED:  # from what the longest intervals see to what single steps do
        attenuation, location = values.get(f"log_attenuation_{stratum}"), LOCATIONS[stratum]
        if attenuation is not None and location in values:
            values[location] = values[location] * np.exp(-attenuation)
    if "pattern_scale" in values:
        values["pattern_scale"] = _continued_scale(fit, values, n_draws)
    return values


def _pinned(design: CurveDesign, table: xr.Dataset, name: str) -> CurveDesign:
    """Return a design in which power laws are pinned where a curve was; fits of old do not say where."""
    if "pivot" not in table:
        return design
    return design._replace(pivot=jnp.asarray(float(table["pivot"].sel(curve=name))))


def _weights(
    fit: "Fit", n_draws: int
) -> tuple[dict[str, Float[Array, "draw weight"]], dict[str, Float[Array, "draw"]]]:
    """Return weights and time scales of each curve."""
    table = _table(fit)
    draws = chosen_draws(fit.posterior.to_dataset()[["curve_weights"]], n_draws)["curve_weights"]
    weights = {name: jnp.asarray(draws.sel(curve=name).to_numpy()) for name in table["curve"].to_numpy().tolist()}
    if "time_scale" not in table:
        return weights, {name: jnp.zeros(len(own)) for name, own in weights.items()}
    scales = chosen_draws(table[["time_scale"]], n_draws)["time_scale"]
    return weights, {name: jnp.asarray(scales.sel(curve=name).to_numpy()) for name in weights}


def _continued_scale(
    fit: "Fit", curves: dict[str, Float[np.ndarray, "draw time"]], n_draws: int
) -> Float[np.ndarray, "draw time"]:
    """Return s(t) = e^{u − ū − ψ} of `lesde_infer.pattern_model`; ū from s at the last interval of the record."""
    names = ("pattern_scale", "log_attenuation_contrast")
    weights, time_scales = _weights(fit, n_draws)
    table, design = _table(fit), continued_design(fit, fit.posterior["time"].to_numpy()[-1:])
    last = {
        name: np.asarray(predictor(fit.settings.curve, weights[name], _pinned(design, table, name), time_scales[name]))
        for name in names
        if name in weights
    }
    known = chosen_draws(fit.posterior.to_dataset()[["pattern_scale"]], n_draws)["pattern_scale"].to_numpy()[:, -1:]
    log_scale = np.log(known)
    for name, sign in zip(names, (1.0, -1.0), strict=True):
        if name in weights:
            log_scale = log_scale + sign * (curves[name] - last[name])
    return np.exp(np.clip(log_scale, -MAXIMAL_LOG_SCALE, MAXIMAL_LOG_SCALE))


def _table(fit: "Fit") -> xr.Dataset:
    if "curves" not in fit.data.children:
        raise InputError("this fit's curves end with its record; fit with a horizon to continue them")
    return fit.data["curves"].to_dataset()


@dataclass(frozen=True)
class PriorWeight:
    """How far a continuation leans on the prior.

    Attributes
    ----------
    log_time_extrapolated : float
        Share of the range of log(t + τ), from the first record to the horizon, that lies beyond the record.
    ratios : dict of (float, float)
        Posterior over prior standard deviation of u, hyperparameters of the prior at their medians, at the end of the
        record and at the horizon, for the location curves that are continued.
    """

    log_time_extrapolated: float
    ratios: dict[str, tuple[float, float]]

    @property
    def dominates(self) -> bool:
        """Whether at the horizon the curve of γ (of the scale, if elasticity is a matrix) owes most to its prior."""
        return next(ratios[1] for name, ratios in self.ratios.items() if name in DRIVES) >= PRIOR_DOMINATES

    def to_json(self) -> dict[str, Any]:
        """Return plain numbers."""
        return {
            "log_time_extrapolated": self.log_time_extrapolated,
            "posterior_to_prior_sd": {
                name: {"at": at, "horizon": horizon} for name, (at, horizon) in self.ratios.items()
            },
            "dominates": self.dominates,
        }


def prior_weight(fit: "Fit") -> PriorWeight:
    """Tell how far the continuation of a fit to its horizon leans on the prior.

    Raises
    ------
    InputError
        If the fit has no horizon.
    """
    table = _table(fit)
    ends = np.array([fit.times[-1], max(fit.settings.horizon or 0.0, fit.times[-1])])
    design = continued_design(fit, ends)
    weights, time_scales = _weights(fit, fit.posterior.sizes["chain"] * fit.posterior.sizes["draw"])
    names = [name for name in weights if name in CONTINUED]
    rows = table.sel(curve=names)
    fields = {field: rows[field].to_numpy().copy() for field in CurvePrior._fields}
    fields["level_sd"][[name == "pattern_scale" for name in names]] = 0.0
    ratios = {}
    for place, name in enumerate(names):
        own, pinned = weights[name], _pinned(design, table, name)
        prior = CurvePrior(**{field: jnp.asarray(values[place : place + 1]) for field, values in fields.items()})
        width = np.asarray(prior_width(fit.settings.curve, prior, pinned))[0]
        if name == "pattern_scale":  # its level cancels in u − ū, and has no posterior of its own
            own = own.at[:, 0].set(0.0)
        sd = np.asarray(predictor(fit.settings.curve, own, pinned, time_scales[name])).std(axis=0)
        ratio_at, ratio_horizon = np.divide(sd, width, out=np.zeros_like(sd), where=width > 0).tolist()
        ratios[name] = (ratio_at, ratio_horizon)
    early = early_time(fit.posterior["time"].to_numpy() - fit.times[0], float(fit.times[-1] - fit.times[0]))
    at, horizon = np.log((ends - fit.times[0] + early) / early).tolist()
    return PriorWeight(1.0 - at / horizon, ratios)
