"""From statistics to what is sampled: groups of strata that depend on one another, and those that do not.

Under I and R the strata are independent models of one shape; under L contrasts, with all their dimensions, and mean are
one model of two strata. Each number that is measured of deviations, growth, pull and variance, of all of them or by
parts (`lesde_infer.within_statistics`), is a model of its own. Models of one shape share one compiled program.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, cast, get_args

import numpy as np
from jaxtyping import Bool, Float

from lesde_infer._jax import jnp
from lesde_infer.curves import LATE_SHARE, Curve, n_weights
from lesde_infer.deviations import Within
from lesde_infer.impacts import Elasticity
from lesde_infer.interval_design import interval_design
from lesde_infer.interval_lengths import has_mixed_intervals, relative_length, smoothed, without_spikes
from lesde_infer.length_kinds import length_kinds
from lesde_infer.model import StrataData
from lesde_infer.pattern_assembly import pattern_data
from lesde_infer.pattern_model import PatternData, PatternVariant
from lesde_infer.power_pivot import power_pivot
from lesde_infer.priors import (
    TINY,
    StratumScale,
    class_mean_scale,
    curve_prior,
    log_variance_scale,
    no_rate_scale,
    rate_scale,
)
from lesde_infer.size_lean import no_lean
from lesde_infer.statistics import Statistics
from lesde_infer.step_sizes import step_sizes
from lesde_infer.strata_variant import StrataVariant
from lesde_infer.variant import Variant
from lesde_infer.within_statistics import measured_strata

Stratum = Literal[
    "contrast",
    "class_noise",
    "shared",
    "growth",
    "growth_along",
    "growth_across",
    "pull",
    "individual",
    "individual_along",
    "individual_across",
]
STRATA: tuple[Stratum, ...] = get_args(Stratum)
LEAST_RELATIVE_SIZE = 0.01  # of noise, over its mean nearby: class means that stand still would be sure of anything
COUPLED: tuple[Stratum, ...] = ("contrast", "shared")  # under L


@dataclass(frozen=True)
class Submodel:
    """Strata that are sampled together, independent of all others given the data.

    Attributes
    ----------
    strata : tuple of str
        Their names.
    data : StrataData or PatternData
        Their data.
    variant : Variant
        What is compiled for them.
    """

    strata: tuple[Stratum, ...]
    data: StrataData | PatternData
    variant: Variant


Parts: TypeAlias = Literal["all", "rates"]
OF_RATES: tuple[Stratum, ...] = ("contrast", "shared")  # all that γ, α and β and their tail indices depend on


def of_parts(submodels: Sequence[Submodel], parts: Parts) -> list[Submodel]:
    """Return all submodels, or those of the rates between classes, which share nothing with the others."""
    return [own for own in submodels if parts == "all" or any(name in OF_RATES for name in own.strata)]


def locate(submodels: Sequence[Submodel], stratum: Stratum) -> tuple[StrataData | PatternData, int]:
    """Return the data of the submodel that holds a stratum, and the stratum's place in it."""
    for submodel in submodels:
        if stratum in submodel.strata:
            return submodel.data, submodel.strata.index(stratum)
    raise KeyError(stratum)


def noise_is_all_around(submodels: Sequence[Submodel]) -> bool:
    """Tell whether contrasts have one noise in all directions, rather than one along their impact and one across it."""
    data, place = locate(submodels, "contrast")
    return isinstance(data, PatternData) or not float(data.is_number[place])


@dataclass(frozen=True)
class _StratumArrays:
    """One stratum before stacking; see `lesde_infer.model.StrataData`."""

    direction_square: Float[np.ndarray, "time component"]
    direction_increment: Float[np.ndarray, "time component"]
    increment: Float[np.ndarray, " time"] | None
    increment_square: Float[np.ndarray, " time"]
    feedback: Float[np.ndarray, "time component"]
    dimension: float
    exposure: Float[np.ndarray, " time"]
    log_length: Float[np.ndarray, " time"]
    error: Float[np.ndarray, " time"]
    observed: Bool[np.ndarray, " time"]
    is_rate: bool
    relaxes: bool
    scale: StratumScale
    relative_size: Float[np.ndarray, " time"] | None = None


def assemble(
    statistics: Statistics,
    curve: Curve,
    elasticity: Elasticity = "homogeneous",
    within: Within = "isotropic",
    horizon: float | None = None,
) -> list[Submodel]:
    """Return the submodels that together are the LE-SDE of a run; curves reach up to a time ``horizon`` (`curves`).

    Spikes are left out (`lesde_infer.interval_lengths.without_spikes`).
    """
    mixed = has_mixed_intervals(statistics)
    statistics = without_spikes(statistics)
    contrasts: dict[Stratum, _StratumArrays]
    if elasticity == "matrix":
        contrasts = {}
    elif statistics.impact == "L":
        contrasts = {"contrast": _class_means(statistics, "contrast")}
    else:
        contrasts = dict(zip(("contrast", "class_noise"), _along_and_across(statistics), strict=True))
    strata: dict[Stratum, _StratumArrays] = {
        **contrasts,
        "shared": _class_means(statistics, "shared"),
        **_deviations(statistics, within),
    }
    n_components = max(stratum.feedback.shape[1] for stratum in strata.values())
    coupled = COUPLED if statistics.impact == "L" and contrasts else ()
    groups = ([coupled] if coupled else []) + [(name,) for name in strata if name not in coupled]
    submodels = []
    for names in groups:
        data = _strata_data(statistics, [strata[name] for name in names], n_components, horizon)
        sized = any(strata[name].relative_size is not None for name in names)
        if sized:  # along the impact only, a stratum by itself
            data = data._replace(lean=no_lean(1 + mixed, len(data.prior.level_mean), n_weights(curve)))
        submodels.append(Submodel(names, data, StrataVariant(curve, names == coupled, mixed, sized=sized)))
    if elasticity == "matrix":
        submodels.insert(0, pattern_submodel(statistics, curve, horizon=horizon))
    return submodels


def pattern_submodel(
    statistics: Statistics, curve: Curve, *, homogeneous: bool = False, horizon: float | None = None
) -> Submodel:
    """Return the contrasts as `lesde_infer.pattern_model` describes them."""
    mixed, sized = has_mixed_intervals(statistics), bool(step_sizes(statistics).told.any())
    variant = PatternVariant(curve, mixed, sized, homogeneous)
    return Submodel(("contrast",), pattern_data(statistics, mixed=mixed, horizon=horizon), variant)


def _class_means(statistics: Statistics, name: Literal["contrast", "shared"]) -> _StratumArrays:
    """Arrange a stratum of class means; the rate acts as γΔ/K or gΔ along the directions."""
    stratum = statistics.contrast if name == "contrast" else statistics.shared
    lengths, n_classes = statistics.lengths, statistics.n_classes
    divisor = n_classes if name == "contrast" else 1
    rounding = statistics.mean_rounding / (1 if name == "contrast" else n_classes)
    return _StratumArrays(
        direction_square=stratum.direction_square,
        direction_increment=stratum.direction_increment,
        increment=None,
        increment_square=stratum.increment_square,
        feedback=stratum.feedback,
        dimension=stratum.effective_dimension,
        exposure=lengths / divisor,
        log_length=0.5 * np.log(lengths * stratum.dimension / stratum.effective_dimension),
        error=np.sqrt(rounding),
        observed=statistics.moved,
        is_rate=True,
        relaxes=True,
        scale=class_mean_scale(stratum, lengths, lengths / divisor, rounding, statistics.moved),
    )


def _along_and_across(statistics: Statistics) -> tuple[_StratumArrays, _StratumArrays]:
    """Split contrasts into their component along the impact and those across it.

    Along the unit vector û of u = Σⱼ uⱼ, the uⱼ being orthogonal, the increment is Σⱼ⟨uⱼ, Δ⟩/|u| and that which
    coefficients cⱼ predict Σⱼ cⱼ|uⱼ|²/|u|. Across it |Δ|² less the first squared remains; what unequal cⱼ (unequal
    feedback) move across it is left to the noise.

    The scale of noise along the impact is given in units of the interval's own noise across it, s. Steps of gradient
    descent differ in size, at batch size 1 by orders of magnitude, and both parts grow with it: if noise is alike all
    around, its part along the impact over s is a Student-t with as many degrees of freedom as s has dimensions, however
    sizes scatter. So does the drift, a large step being one along a large gradient: how far it does is learned from the
    relative size of the interval's noise (`lesde_infer.model`). Otherwise intervals that happened to be quiet would
    decide γ. Where noise moves in less than `LEAST_SIZE_DIMENSIONS` effective dimensions s is noisy itself, and quiet
    intervals would again decide: s is then smoothed over neighbours, except in intervals of few steps, whose sizes
    differ by more than that. (LeNet on shapes, recorded every 60 steps, d* = 3: with s of each interval γ seemed to be
    ten times as large early on, and the run simulated again separated thousands of steps too soon.)
    Where impacts vanish nothing is along them.
    """
    stratum, lengths, n_classes = statistics.contrast, statistics.lengths, statistics.n_classes
    moved, driven, sizes = statistics.moved, statistics.moved & statistics.driven, step_sizes(statistics)
    length, increment, dimension = sizes.impact, sizes.along, sizes.dimension
    effective = max(stratum.effective_dimension - 1.0, 1.0)
    log_noise = np.where(
        sizes.told,
        np.log(np.maximum(sizes.size, LEAST_RELATIVE_SIZE * sizes.nearby)),
        smoothed(np.log(sizes.size), statistics.n_steps, moved),
    )
    unit = n_classes / lengths / length
    ones = np.ones_like(lengths)
    along = _StratumArrays(
        direction_square=stratum.direction_square / length[:, None],
        direction_increment=np.zeros_like(stratum.direction_square),
        increment=increment,
        increment_square=increment**2,
        feedback=stratum.feedback,
        dimension=1,
        exposure=lengths / n_classes,
        log_length=log_noise,
        error=np.sqrt(statistics.mean_rounding),
        observed=driven,
        is_rate=True,
        relaxes=True,
        scale=rate_scale((unit * increment)[driven], (unit * np.exp(log_noise))[driven], ones).relative(),
        relative_size=sizes.relative if sizes.told.any() else None,
    )
    noise = sizes.size / np.sqrt(lengths)
    none = np.zeros((len(lengths), 1))
    rest = _StratumArrays(
        direction_square=none,
        direction_increment=none,
        increment=None,
        increment_square=sizes.across,
        feedback=none,
        dimension=effective,
        exposure=np.zeros_like(lengths),
        log_length=0.5 * np.log(lengths * dimension / effective),
        error=np.sqrt(statistics.mean_rounding),
        observed=moved,
        is_rate=True,
        relaxes=False,
        scale=no_rate_scale(noise[moved]),
    )
    return along, rest


def _measured(
    values: Float[np.ndarray, " time"],
    error: Float[np.ndarray, " time"] | float,
    lengths: Float[np.ndarray, " time"] | None,
    scale: StratumScale,
    observed: Bool[np.ndarray, " time"],
) -> _StratumArrays:
    """Arrange a stratum of one measured number an interval; a rate where ``lengths`` are given."""
    ones = np.ones_like(values)
    return _StratumArrays(
        direction_square=ones[:, None],
        direction_increment=0.0 * ones[:, None],
        increment=values,
        increment_square=values**2,
        feedback=np.zeros((len(values), 1)),
        dimension=1,
        exposure=ones if lengths is None else lengths,
        log_length=0.0 * ones if lengths is None else 0.5 * np.log(lengths),
        error=ones * error,
        observed=observed,
        is_rate=lengths is not None,
        relaxes=False,
        scale=scale.measured(),
    )


def _deviations(statistics: Statistics, within: Within) -> dict[Stratum, _StratumArrays]:
    lengths = statistics.lengths
    strata: dict[Stratum, _StratumArrays] = {}
    for name, (_, values, error, spread) in measured_strata(statistics.within, statistics.parts, within).items():
        observed = statistics.moved & spread
        if name.startswith("individual"):
            log_rate = values - np.log(lengths)
            scale = log_variance_scale(log_rate[observed] if observed.sum() > 1 else log_rate)
            arrays = _measured(log_rate, error, None, scale, observed)
        else:
            if observed.any():
                scale = _rate_scale(values[observed], error[observed], lengths[observed], is_growth=name != "pull")
            else:  # a factor of e in an interval, of which nothing will be learned
                scale = _rate_scale(0.0 * values, np.ones_like(values), lengths, is_growth=True)
            arrays = _measured(values, error, lengths, scale, observed)
        strata[cast(Stratum, name)] = arrays
    return strata


def _rate_scale(
    values: Float[np.ndarray, " time"],
    error: Float[np.ndarray, " time"],
    lengths: Float[np.ndarray, " time"],
    *,
    is_growth: bool,
) -> StratumScale:
    """Scale the prior of a measured rate; growth is resolved down to its scatter, a pull down to its errors."""
    rates = values / lengths
    noise = np.maximum(
        np.abs(rates - np.median(rates)) * np.sqrt(lengths), error / np.sqrt(lengths) if is_growth else TINY
    )
    errors = np.full_like(noise, np.median(noise)) / np.sqrt(lengths) if is_growth else error / lengths
    return rate_scale(rates, errors, noise).smooth()


def _strata_data(
    statistics: Statistics, strata: list[_StratumArrays], n_components: int, horizon: float | None
) -> StrataData:
    def pad(values: Float[np.ndarray, "time component"]) -> Float[np.ndarray, "time {n_components}"]:
        return np.pad(values, ((0, 0), (0, n_components - values.shape[1])))

    mixed = has_mixed_intervals(statistics)
    none = np.zeros_like(statistics.lengths)
    design = interval_design(statistics.times, statistics.midpoints, horizon)
    relative = relative_length(statistics.n_steps) if mixed else none + 1.0
    return StrataData(
        direction_square=jnp.stack([pad(s.direction_square) for s in strata]),
        direction_increment=jnp.stack([pad(s.direction_increment) for s in strata]),
        increment=jnp.stack([none if s.increment is None else s.increment for s in strata]),
        increment_square=jnp.stack([s.increment_square for s in strata]),
        is_number=jnp.asarray([s.increment is not None for s in strata], float),
        feedback=jnp.stack([pad(s.feedback) for s in strata]),
        dimension=jnp.asarray([s.dimension for s in strata], float),
        exposure=jnp.stack([s.exposure for s in strata]),
        log_length=jnp.stack([s.log_length for s in strata]),
        error=jnp.stack([s.error for s in strata]),
        observed=jnp.stack([jnp.asarray(s.observed, float) for s in strata]),
        reference=jnp.asarray([s.scale.reference for s in strata]),
        is_rate=jnp.asarray([s.is_rate for s in strata], float),
        relaxes=jnp.asarray([s.relaxes for s in strata], float),
        prior=curve_prior([s.scale for s in strata], mixed=mixed),
        design=design._replace(pivot=jnp.asarray(_pivot(statistics, strata[0]))),
        lengths=jnp.asarray(statistics.lengths),
        n_steps=jnp.asarray(statistics.n_steps, float),
        relative_length=jnp.asarray(relative),
        kinds=length_kinds(relative),
        n_classes=jnp.asarray(statistics.n_classes, float),
        relative_size=jnp.stack([none if s.relative_size is None else s.relative_size for s in strata]),
    )


def _pivot(statistics: Statistics, stratum: _StratumArrays) -> float:
    """Return where power laws of a stratum are pinned, from each interval's own rate and the noise around it.

    A log variance is no rate: it is linear in its weights, and its level may be pinned anywhere.
    """
    if not stratum.is_rate:
        return LATE_SHARE
    size = np.maximum(stratum.increment_square / stratum.dimension, np.maximum(stratum.error**2, TINY))
    in_units = np.log(size) - 2.0 * stratum.log_length  # noise of strata has a unit in each interval
    noise = np.exp(0.5 * smoothed(in_units, statistics.n_steps, statistics.moved) + stratum.log_length)
    if stratum.increment is None:
        length = np.sqrt(stratum.direction_square.sum(axis=1))
        along = stratum.direction_increment.sum(axis=1) / np.maximum(length, TINY)
    else:
        length, along = stratum.direction_square.sum(axis=1), stratum.increment
    push = np.where(stratum.observed, np.abs(length) * stratum.exposure, 0.0)
    told = push > TINY
    push = np.where(told, push, 1.0)
    errors = np.where(told, np.hypot(noise, stratum.error) / push, 0.0)
    span = float(statistics.times[-1] - statistics.times[0])
    return power_pivot(along / push, errors, statistics.midpoints - statistics.times[0], span)
