"""Growth, pull and noise of the deviations from class means, measured interval by interval.

The stratum has (n − K)p dimensions, 10³ to 10⁹, so each is measured almost without error in an interval; what the model
describes is how they scatter around smooth curves. Deviations are measured as one, and by parts
(`lesde_infer.deviations`).

*As one.* The change Δ of the deviations δ is regressed on them by least squares: Δ = (f − 1)δ + ε, f = ⟨δ, δ + Δ⟩/|δ|².

*By parts.* The same along the span of the class means at the interval's start, and across it. Where the impact is R, a
sample is besides moved by its own residual, more than by those of the others of its class (local elasticity among
samples): with q = V(r − r̄) the deviations of the sample-level impacts and δ_∥, δ_⊥ the parts of δ,

    Δ = (f_∥ − 1) δ_∥ + (f_⊥ − 1) δ_⊥ + η q° + ε,        q° = q − δ_∥⟨δ_∥, q⟩/|δ_∥|² − δ_⊥⟨δ_⊥, q⟩/|δ_⊥|².

q° is what is left of q when the deviations have explained what they can, so that η, the coefficient of q in the
regression on everything (theorem of Frisch, Waugh and Lovell), is measured apart from the growth, which is what it is
without q: early on residuals are linear in the features, and nothing could tell η from growth.

tests/lesde_infer/test_within_statistics.py holds all against a plain regression of all samples.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from lesde_infer.deviations import Within
from lesde_infer.rounding import ROUNDING_MARGIN

SMALLEST_FACTOR = 1e-3  # a change of sign of the deviations cannot be a growth: f is floored here
UNMEASURED = 1e3  # standard error, in logarithms, or in units of the largest, of what an interval does not measure
TINY = float(np.finfo(np.float64).tiny)


@dataclass(frozen=True)
class WithinStatistics:
    """Growth and noise of deviations, or of a part of them.

    Attributes
    ----------
    log_growth : array, shape (time,)
        log of the least-squares factor by which deviations grew over the interval (κ̂Δ).
    log_variance : array, shape (time,)
        log of the residual variance per dimension over the interval (of σ̂ᵢ²Δ), in squared feature units.
    log_growth_error, log_variance_error : array, shape (time,)
        Standard errors. That of the log variance is √(2/d), as of the log of a χ² variable. Where d is zero both are
        10³, and numbers are those of the nearest interval that has any: they say nothing.
    dimension : array, shape (time,)
        d: (n − K)p, or (n − K) times the dimensions of the part.
    spread : array, shape (time,)
        Whether samples of a class differ by more than rounding (`lesde_infer.rounding`); else nothing is measured.
    """

    log_growth: Float[np.ndarray, " time"]
    log_variance: Float[np.ndarray, " time"]
    log_growth_error: Float[np.ndarray, " time"]
    log_variance_error: Float[np.ndarray, " time"]
    dimension: Int[np.ndarray, " time"]
    spread: Bool[np.ndarray, " time"]


@dataclass(frozen=True)
class PullStatistics:
    """How far the residuals of single samples moved them over the interval, besides what moves their class.

    Attributes
    ----------
    strength : array, shape (time,)
        η̂Δ, in units of γΔ: features over residuals (R on logits), or the same for hidden layers.
    error : array, shape (time,)
        Its standard error.
    """

    strength: Float[np.ndarray, " time"]
    error: Float[np.ndarray, " time"]


@dataclass(frozen=True)
class PartStatistics:
    """Deviations along and across the span of the class means.

    Attributes
    ----------
    along : WithinStatistics
    across : WithinStatistics or None
        None where the span is all of the feature space throughout.
    pull : PullStatistics or None
        Where the impact is R, and residuals say anything that deviations do not.
    """

    along: WithinStatistics
    across: WithinStatistics | None
    pull: PullStatistics | None


class PartProducts(NamedTuple):
    """Inner products of a part of the deviations over one interval: |δ|², ⟨δ, Δ⟩, |Δ|², |q°|², ⟨q°, Δ⟩; dimensions.

    q° is the part's share of that of the module.
    """

    square: float
    product: float
    change_square: float
    push_square: float
    push_product: float
    axes: int

    @property
    def log_size_growth(self) -> float | None:
        """Log of the ratio of the sizes of all deviations at the end and at the start; None where one is 0."""
        after = self.square + 2.0 * self.product + self.change_square
        return 0.5 * float(np.log(after / self.square)) if self.square > 0.0 and after > 0.0 else None


class DeviationProducts(NamedTuple):
    """Inner products of one interval: all deviations, and their parts (`lesde_infer.deviation_sums`)."""

    whole: PartProducts
    along: PartProducts
    across: PartProducts


def measure_whole(
    intervals: Sequence[DeviationProducts], degrees: Int[np.ndarray, " time"], rounding: Float[np.ndarray, " time"]
) -> WithinStatistics:
    """Measure deviations as one; ``degrees`` is n − K in each interval, ``rounding`` as in `lesde_infer.rounding`."""
    parts = [interval.whole for interval in intervals]
    return _within(parts, np.zeros(len(parts)), degrees, rounding)


def measure_parts(
    intervals: Sequence[DeviationProducts], degrees: Int[np.ndarray, " time"], rounding: Float[np.ndarray, " time"]
) -> PartStatistics:
    """Measure deviations by parts; arguments as of `measure_whole`."""
    along, across = [interval.along for interval in intervals], [interval.across for interval in intervals]
    square, product = (
        np.array([getattr(a, name) + getattr(b, name) for a, b in zip(along, across, strict=True)])
        for name in ("push_square", "push_product")
    )
    # Below rounding of the deviations' impacts themselves nothing is left of them.
    pulled = square > 0.0
    strength = np.divide(product, square, out=np.zeros_like(product), where=pulled)
    measured_along = _within(along, strength, degrees, rounding)
    measured_across = _within(across, strength, degrees, rounding) if any(part.axes for part in across) else None
    pull = None
    if pulled.any():
        variance = np.zeros_like(square)
        for parts, found in ((along, measured_along), (across, measured_across)):
            if found is not None:
                share = np.array([part.push_square for part in parts])
                variance += np.where(found.dimension > 0, np.exp(found.log_variance) * share, 0.0)
        error = np.divide(np.sqrt(variance), square, out=np.zeros_like(square), where=pulled)
        unmeasured = UNMEASURED * max(float(error.max()), float(np.abs(strength).max()), TINY)
        pull = PullStatistics(strength, np.where(pulled, error, unmeasured))
    return PartStatistics(measured_along, measured_across, pull)


def _within(
    parts: Sequence[PartProducts],
    strength: Float[np.ndarray, " time"],
    degrees: Int[np.ndarray, " time"],
    rounding: Float[np.ndarray, " time"],
) -> WithinStatistics:
    """Least-squares growth of a part, and what it and a pull of given strength leave: no less than rounding leaves."""
    square, product, change_square, push_square, push_product = (
        np.array([part[column] for part in parts]) for column in range(5)
    )
    dimension = np.array([part.axes for part in parts]) * degrees
    factor = np.divide(product, square, out=np.zeros_like(product), where=square > 0)
    residual = change_square - factor * product - strength * (2.0 * push_product - strength * push_square)
    per_dimension = np.maximum(dimension, 1)
    variance = np.maximum(residual / per_dimension, np.maximum(rounding, TINY))
    growth = 1.0 + np.maximum(factor, SMALLEST_FACTOR - 1.0)
    nearest = _nearest(dimension > 0)
    return WithinStatistics(
        log_growth=np.log(growth)[nearest],
        log_variance=np.log(variance)[nearest],
        log_growth_error=np.where(
            dimension > 0, np.sqrt(variance) / np.sqrt(np.maximum(square, TINY)) / growth, UNMEASURED
        ),
        log_variance_error=np.where(dimension > 0, np.sqrt(2.0 / per_dimension), UNMEASURED),
        dimension=dimension,
        spread=square > ROUNDING_MARGIN * dimension * rounding,
    )


def _nearest(present: np.ndarray) -> Int[np.ndarray, " time"]:
    """Return, for each interval, the nearest one that is present; itself where none is."""
    places, found = np.arange(len(present)), np.flatnonzero(present)
    if not len(found):
        return places
    return found[np.abs(places[:, None] - found).argmin(axis=1)]


class Measured(NamedTuple):
    """Numbers measured once an interval, with standard errors, and what they are called among the observed data.

    ``spread`` tells the intervals in which deviations were there to be measured.
    """

    name: str
    values: Float[np.ndarray, " time"]
    error: Float[np.ndarray, " time"]
    spread: Bool[np.ndarray, " time"]


def measured_strata(whole: WithinStatistics, parts: PartStatistics, within: Within) -> dict[str, Measured]:
    """Return the measured numbers of each stratum of deviations: log growth κ̂Δ, strength η̂Δ and log variance σ̂ᵢ²Δ."""
    if within == "isotropic":
        found, pull = {"": whole}, None
    else:
        found, pull = {"_along": parts.along}, parts.pull
        if parts.across is not None:
            found["_across"] = parts.across
    growth = {
        f"growth{suffix}": Measured(f"log_growth{suffix}", part.log_growth, part.log_growth_error, part.spread)
        for suffix, part in found.items()
    }
    noise = {
        f"individual{suffix}": Measured(
            f"log_variance{suffix}", part.log_variance, part.log_variance_error, part.spread
        )
        for suffix, part in found.items()
    }
    pulls = {} if pull is None else {"pull": Measured("pull_strength", pull.strength, pull.error, parts.along.spread)}
    return {**growth, **pulls, **noise}
