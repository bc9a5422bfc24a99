"""From statistics to what is sampled: groups of strata that depend on one another, and those that do not.

Under I and R the four strata are four independent models of one shape; under L contrasts and mean are one model of two
strata, and the measured growth and variance one each. Models of one shape share one compiled program.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float

from lesde_infer._jax import jnp
from lesde_infer.curves import curve_design, early_time
from lesde_infer.model import StrataData
from lesde_infer.priors import TINY, StratumScale, curve_prior, log_variance_scale, rate_scale
from lesde_infer.statistics import Statistics, StratumStatistics

Stratum = Literal["contrast", "shared", "growth", "individual"]
STRATA: tuple[Stratum, ...] = ("contrast", "shared", "growth", "individual")
MIXED_LENGTH_RATIO = 3.0  # intervals this unequal tell the scaling of noise with length apart from its change in time


@dataclass(frozen=True)
class Submodel:
    """Strata that are sampled together, independent of all others given the data.

    Attributes
    ----------
    strata : tuple of str
        Their names.
    data : StrataData
        Their data.
    coupled : bool
        Whether they are contrasts and mean under L.
    """

    strata: tuple[Stratum, ...]
    data: StrataData
    coupled: bool


def locate(submodels: Sequence[Submodel], stratum: Stratum) -> tuple[StrataData, int]:
    """Return the data of the submodel that holds a stratum, and the stratum's place in it."""
    for submodel in submodels:
        if stratum in submodel.strata:
            return submodel.data, submodel.strata.index(stratum)
    raise KeyError(stratum)


@dataclass(frozen=True)
class _StratumArrays:
    """One stratum before stacking; see `lesde_infer.model.StrataData`."""

    direction_square: Float[np.ndarray, "time component"]
    direction_increment: Float[np.ndarray, "time component"]
    increment_square: Float[np.ndarray, " time"]
    feedback: Float[np.ndarray, "time component"]
    dimension: int
    exposure: Float[np.ndarray, " time"]
    log_length: Float[np.ndarray, " time"]
    error: Float[np.ndarray, " time"]
    is_rate: bool
    relaxes: bool
    scale: StratumScale


def has_mixed_intervals(statistics: Statistics) -> bool:
    """Whether short and long intervals alternate, as they do in a recording in bursts."""
    short, long = np.quantile(statistics.n_steps, [0.1, 0.9])
    return bool(long >= MIXED_LENGTH_RATIO * short)


def assemble(statistics: Statistics) -> list[Submodel]:
    """Return the submodels that together are the LE-SDE of a run."""
    strata: dict[Stratum, _StratumArrays] = {
        "contrast": _class_means(statistics.contrast, statistics.lengths, statistics.n_classes),
        "shared": _class_means(statistics.shared, statistics.lengths, 1),
        "growth": _growth(statistics),
        "individual": _individual(statistics),
    }
    n_components = max(stratum.feedback.shape[1] for stratum in strata.values())
    coupled: tuple[Stratum, ...] = STRATA[:2] if statistics.impact == "L" else ()
    groups = ([coupled] if coupled else []) + [(name,) for name in STRATA if name not in coupled]
    return [
        Submodel(names, _strata_data(statistics, [strata[name] for name in names], n_components), names == coupled)
        for names in groups
    ]


def _class_means(stratum: StratumStatistics, lengths: Float[np.ndarray, " time"], divisor: int) -> _StratumArrays:
    """Arrange a stratum of class means; the rate acts as rate·Δ/``divisor`` along the directions."""
    square = np.maximum(stratum.direction_square.sum(axis=1), TINY)
    product = stratum.direction_increment.sum(axis=1)
    residual = np.maximum(stratum.increment_square - product**2 / square, TINY) / max(stratum.dimension - 1, 1)
    noise = np.sqrt(np.maximum(stratum.increment_square, TINY) / stratum.dimension / lengths)
    unit = divisor / lengths
    return _StratumArrays(
        direction_square=stratum.direction_square,
        direction_increment=stratum.direction_increment,
        increment_square=stratum.increment_square,
        feedback=stratum.feedback,
        dimension=stratum.dimension,
        exposure=lengths / divisor,
        log_length=0.5 * np.log(lengths),
        error=np.zeros_like(lengths),
        is_rate=True,
        relaxes=True,
        scale=rate_scale(unit * product / square, unit * np.sqrt(residual / square), noise),
    )


def _measured(
    values: Float[np.ndarray, " time"],
    error: Float[np.ndarray, " time"] | float,
    lengths: Float[np.ndarray, " time"] | None,
    scale: StratumScale,
) -> _StratumArrays:
    """Arrange a stratum of one measured number an interval; a rate where ``lengths`` are given."""
    ones = np.ones_like(values)
    return _StratumArrays(
        direction_square=ones[:, None],
        direction_increment=values[:, None],
        increment_square=values**2,
        feedback=np.zeros((len(values), 1)),
        dimension=1,
        exposure=ones if lengths is None else lengths,
        log_length=0.0 * ones if lengths is None else 0.5 * np.log(lengths),
        error=ones * error,
        is_rate=lengths is not None,
        relaxes=False,
        scale=scale.measured(),
    )


def _growth(statistics: Statistics) -> _StratumArrays:
    values, lengths = statistics.within.log_growth, statistics.lengths
    rates = values / lengths
    noise = np.maximum(np.abs(rates - np.median(rates)) * np.sqrt(lengths), TINY)
    errors = np.full_like(noise, np.median(noise)) / np.sqrt(lengths)
    return _measured(values, statistics.within.log_growth_error, lengths, rate_scale(rates, errors, noise).smooth())


def _individual(statistics: Statistics) -> _StratumArrays:
    values = statistics.within.log_variance - np.log(statistics.lengths)
    return _measured(values, statistics.within.log_variance_error, None, log_variance_scale(values))


def _strata_data(statistics: Statistics, strata: list[_StratumArrays], n_components: int) -> StrataData:
    def pad(values: Float[np.ndarray, "time component"]) -> Float[np.ndarray, "time {n_components}"]:
        return np.pad(values, ((0, 0), (0, n_components - values.shape[1])))

    duration = float(statistics.times[-1] - statistics.times[0])
    elapsed = statistics.midpoints - statistics.times[0]
    return StrataData(
        direction_square=jnp.stack([pad(s.direction_square) for s in strata]),
        direction_increment=jnp.stack([pad(s.direction_increment) for s in strata]),
        increment_square=jnp.stack([s.increment_square for s in strata]),
        feedback=jnp.stack([pad(s.feedback) for s in strata]),
        dimension=jnp.asarray([s.dimension for s in strata], float),
        exposure=jnp.stack([s.exposure for s in strata]),
        log_length=jnp.stack([s.log_length for s in strata]),
        error=jnp.stack([s.error for s in strata]),
        reference=jnp.asarray([s.scale.reference for s in strata]),
        is_rate=jnp.asarray([s.is_rate for s in strata], float),
        relaxes=jnp.asarray([s.relaxes for s in strata], float),
        prior=curve_prior([s.scale for s in strata]),
        design=curve_design(elapsed, duration, early_time(elapsed, duration)),
        lengths=jnp.asarray(statistics.lengths),
        n_steps=jnp.asarray(statistics.n_steps, float),
        n_classes=jnp.asarray(statistics.n_classes, float),
    )
