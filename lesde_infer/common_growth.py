r"""Contrasts between class means and deviations from them grow and shrink together, and replications keep that.

In the LE-SDE noise of the contrasts C and noise of the deviations δ are independent. In networks both are scaled by the
same last layers, and the scale fluctuates: LeNet on shapes, one sample a step, recorded every 50 steps, contrasts grow
and shrink along themselves by 20 % from record to record, at any share of wrong labels and in any phase. That is half
to three quarters of the noise across the impact, and it is what deviations do (correlation 0.6 to 0.9). Simulated
apart, deviations keep the size that they had while contrasts do not, noise that should lie along the contrasts turns
them and, turning, makes them longer, and residuals are those of other features: at 10 to 40 % wrong labels class means
ended 1.3 to 2.5 times too far apart.

So let ρ be the share by which an interval's increment ΔC stretches the contrasts at its start besides the drift
Σⱼ cⱼ uⱼ (`lesde_infer.impacts`, at the posterior median of its rates), and h the log growth of the deviations:

    ρ = ⟨C, ΔC − Σⱼ cⱼ uⱼ⟩/|C|²,        h = ½ log(|δ'|²/|δ|²),        ρ = b h + e.

b and the variance of e are those of the `WINDOW` intervals of like length around, by least squares through the origin:
deviations that keep their size say nothing, and noise has mean 0. (Over 50 recordings the mean of e is −0.36 of its
variance; of the residual of log(1 + ρ) it would be −1.2.) A path that is simulated again takes its own h, draws e anew
with the memory that it has in the record (`lesde_infer.noise_memory`), and has ρC for its noise along the contrasts.
Across them noise is as before (`lesde_infer.path_noise`), less the share that lay along them.

Where paths go beyond the record it is deviations that follow contrasts (`lesde_infer.stretching`), and contrasts are
stretched by e^ρ, log(1 + ρ) of the last `WINDOW` intervals taken for ρ, with b = 0, and a memory where the record
leaves no doubt of one. What stays, r n of each interval with standard deviation s, gets the mean −(rs)²/2, so that its
noise has mean 0. (Of 60 forecasts of norms bands of 90 % hold 72 % with noise in fixed directions, as it was before.
With ρ itself of mean 0 forecasts come out too high, by a third in CRPS.)

An interval in which deviations or contrasts are no more than rounding, or class means jump
(`lesde_infer.interval_lengths`), tells nothing of this, and noise there is simulated as if there were none of it.
Nothing of this changes a posterior.

tests/lesde_infer/test_common_growth.py checks recovery of b, e and memory, that runs without any have none, and sizes
and directions of simulated noise.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import xarray as xr
from jaxtyping import Array, Bool, Float, Int
from numpy.lib.stride_tricks import sliding_window_view

from lesde_infer._jax import jnp
from lesde_infer.deviations import CUT_OFF
from lesde_infer.noise_dimension import length_kind
from lesde_infer.noise_memory import Autocovariance, Memory, memory_coefficients
from lesde_infer.phi import MAXIMAL_EXPONENT

WINDOW = 33
"""Intervals of like length around an interval, that b and e are taken from."""

FEWEST = 8
"""With fewer intervals b is taken to be 0."""

SMALLEST_SHARE = 1e-12
"""That noise which never lay along the contrasts is said to have there, where 0 says that nothing is known."""

DOUBT = 12.0
"""Squared distance (`lesde_infer.noise_memory.Autocovariance.memory`) below which independent ρ are in 95 of 100."""

LEAST_GROWTH = -0.9
"""Noise along the contrasts does not shrink them by more of themselves in one interval, nor turn them around."""


class GrowthProducts(NamedTuple):
    """What one interval tells of growth: |C|², ⟨C, ΔC⟩, ⟨C, uⱼ⟩ of each direction, and h, or None where not defined."""

    square: float
    product: float
    impact: Float[np.ndarray, " component"]
    deviations: float | None


@dataclass(frozen=True)
class GrowthStatistics:
    """What a record tells of growth.

    Attributes
    ----------
    contrasts : array, shape (time,)
        ⟨C, ΔC⟩/|C|².
    impact : array, shape (time, component)
        ⟨C, uⱼ⟩/|C|² of each direction of the drift.
    deviations : array, shape (time,)
        h.
    told : array, shape (time,)
        Whether C and δ are there, beyond rounding.
    share_across, share_all : float
        Share of the noise across the impact, and of all of it, that lies along the contrasts.
    """

    contrasts: Float[np.ndarray, " time"]
    impact: Float[np.ndarray, "time component"]
    deviations: Float[np.ndarray, " time"]
    told: Bool[np.ndarray, " time"]
    share_across: float
    share_all: float

    @classmethod
    def of(
        cls,
        intervals: Sequence[GrowthProducts],
        size: Float[np.ndarray, " time"],
        spread: Bool[np.ndarray, " time"],
        shares: tuple[float, float],
    ) -> "GrowthStatistics":
        """Gather intervals; deviations without ``spread`` are rounding, and |C|² far below the ``size`` of features."""
        square = np.array([interval.square for interval in intervals])
        told = (
            (square > CUT_OFF**2 * size)
            & spread
            & np.array([interval.deviations is not None for interval in intervals])
        )
        divisor = np.where(told, square, 1.0)
        return cls(
            np.where(told, [interval.product for interval in intervals] / divisor, 0.0),
            np.where(told[:, None], [interval.impact for interval in intervals] / divisor[:, None], 0.0),
            np.array([interval.deviations or 0.0 for interval in intervals]),
            told,
            *shares,
        )


@dataclass(frozen=True)
class CommonGrowth:
    """Growth of contrasts and of deviations in each interval.

    Attributes
    ----------
    contrasts : array, shape (time,)
        ρ.
    deviations : array, shape (time,)
        h.
    told : array, shape (time,)
        Intervals that tell both.
    share : float
        Share of the noise across the impact (of all noise of contrasts, where that is one stratum) that lies along the
        contrasts.
    """

    contrasts: Float[np.ndarray, " time"]
    deviations: Float[np.ndarray, " time"]
    told: Bool[np.ndarray, " time"]
    share: float

    def to_variables(self) -> dict[str, tuple[tuple[str, ...], np.ndarray]]:
        """Return arrays by name, as a fit keeps them."""
        return {
            "contrast_growth": (("time",), self.contrasts),
            "deviation_growth": (("time",), self.deviations),
            "growth_told": (("time",), self.told.astype(float)),
            "contrast_growth_share": ((), np.array(self.share)),
        }

    @classmethod
    def at(
        cls,
        found: GrowthStatistics,
        coefficients: Float[np.ndarray, "time component"],
        told: Bool[np.ndarray, " time"],
        *,
        all_around: bool,
    ) -> "CommonGrowth":
        """Return growth besides a drift of these coefficients cⱼ, in those intervals told of that tell of noise."""
        noise = found.contrasts - (coefficients * found.impact).sum(axis=1)
        share = found.share_all if all_around else found.share_across
        return cls(noise, found.deviations, found.told & told, share)

    @classmethod
    def from_variables(cls, constant: xr.Dataset) -> "CommonGrowth | None":
        """Read what `to_variables` wrote; fits of earlier versions kept none."""
        if "contrast_growth" not in constant:
            return None
        return cls(
            constant["contrast_growth"].to_numpy(),
            constant["deviation_growth"].to_numpy(),
            constant["growth_told"].to_numpy() > 0,
            float(constant["contrast_growth_share"]),
        )

    def replicated(
        self, n_steps: Int[np.ndarray, " time"], lengths: Float[np.ndarray, " time"]
    ) -> "GrowthCoupling | None":
        """Return how contrasts follow deviations in each interval of the record; None where no interval tells."""
        if not self.told.any():
            return None
        slope, sd = np.zeros(len(lengths)), np.zeros(len(lengths))
        kinds = length_kind(n_steps)
        for kind in np.unique(kinds[self.told]):
            own = np.flatnonzero(self.told & (kinds == kind))
            h, rho = self.deviations[own], self.contrasts[own]
            square = _window_means(h**2)
            if len(own) >= FEWEST:
                slope[own] = np.divide(_window_means(h * rho), square, out=np.zeros(len(own)), where=square > 0)
            sd[own] = np.sqrt(_window_means((rho - slope[own] * h) ** 2))
        memory = self._memory(
            kinds, lengths, self.contrasts - slope * self.deviations, sd, np.flatnonzero(self.told), 0.0
        )
        return GrowthCoupling(slope, sd, self.told.astype(float), self.share, memory)

    def ahead(
        self,
        n_steps: Int[np.ndarray, " time"],
        lengths: Float[np.ndarray, " time"],
        future: Float[np.ndarray, " interval"],
    ) -> "GrowthCoupling | None":
        """Return how contrasts grow along themselves in intervals of these lengths beyond the record."""
        kinds = length_kind(n_steps)
        long = np.flatnonzero(self.told & (kinds == kinds.max()))
        if len(long) < FEWEST:
            return None
        last, rho = long[-WINDOW:], np.log1p(np.maximum(self.contrasts, LEAST_GROWTH))
        per_root = np.sqrt(np.mean(rho[last] ** 2 / lengths[last]))
        sd = np.zeros(len(lengths))
        sd[long] = np.sqrt(_window_means(rho[long] ** 2))
        memory = self._memory(kinds, lengths, rho, sd, long[len(long) // 2 :], DOUBT)
        active = np.ones(len(future))
        return GrowthCoupling(0.0 * active, per_root * np.sqrt(future), active, self.share, memory)

    def _memory(
        self,
        kinds: Int[np.ndarray, " time"],
        lengths: Float[np.ndarray, " time"],
        values: Float[np.ndarray, " time"],
        sd: Float[np.ndarray, " time"],
        of: Int[np.ndarray, " chosen"],
        least: float,
    ) -> Memory:
        """Return what stays of values, each in units of its scale: by the longest intervals, of which most is known."""
        found = Autocovariance()
        chosen = of[(kinds[of] == kinds[of].max()) & (sd[of] > 0)]
        for place in chosen.tolist():
            found.add(values[place : place + 1] / sd[place], 1)
        return found.memory(float(lengths[chosen].mean()), least=least) if chosen.size else Memory()


@dataclass(frozen=True)
class GrowthCoupling:
    """How contrasts of a path grow along themselves in each interval.

    Attributes
    ----------
    slope, sd : array, shape (interval,)
        b, and the standard deviation of e.
    active : array, shape (interval,)
        1 where they are known, and 0 where noise is simulated as if there were none of it.
    share : float
        See `CommonGrowth`.
    memory : Memory
        How much of e stays.
    """

    slope: Float[np.ndarray, " interval"]
    sd: Float[np.ndarray, " interval"]
    active: Float[np.ndarray, " interval"]
    share: float
    memory: Memory

    def along(
        self,
        fitted: Int[np.ndarray, " time"],
        lengths: Float[np.ndarray, " interval"],
    ) -> "GrowthCoupling":
        """Return the same for each interval of a path, of which some were fitted: that of the fitted one nearest."""
        if len(fitted) == len(lengths):
            return self
        middles = np.cumsum(lengths) - lengths / 2
        nearest = np.abs(middles[:, None] - middles[fitted]).argmin(axis=1)
        ratio = np.sqrt(lengths / lengths[fitted][nearest])
        return GrowthCoupling(
            self.slope[nearest], self.sd[nearest] * ratio, self.active[nearest], self.share, self.memory
        )

    def arrays(self, lengths: Float[np.ndarray, " interval"]) -> "CouplingArrays":
        """Return the arrays that a simulation uses."""
        memory = memory_coefficients(self.memory, lengths)
        parts = self.slope, self.sd, self.active, max(self.share, SMALLEST_SHARE) * self.active, memory
        return CouplingArrays(*(jnp.asarray(part) for part in parts))


class CouplingArrays(NamedTuple):
    """The same; `share` is 0 where it is not active, `memory` holds φ, b and r of `lesde_infer.noise_memory`."""

    slope: Float[Array, " interval"]
    sd: Float[Array, " interval"]
    active: Float[Array, " interval"]
    share: Float[Array, " interval"]
    memory: Float[Array, "3 interval"]


def contrast_growth(
    arrays: CouplingArrays,
    interval: Int[Array, ""],
    normal: Float[Array, ""],
    fluctuation: Float[Array, ""],
    growth: Float[Array, ""] | None,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Return by which share contrasts grow, and the part of e that goes again at the end, given a normal number.

    ``growth`` is h; None beyond the record, where the share is e^ρ − 1.
    """
    decay, passing, stays = arrays.memory[:, interval]
    new = arrays.sd[interval] * normal
    kept = decay * fluctuation + passing * new
    drawn = stays * new + kept - fluctuation
    if growth is None:
        rho = drawn - 0.5 * (stays * arrays.sd[interval]) ** 2
        share = jnp.expm1(jnp.clip(rho, -MAXIMAL_EXPONENT, MAXIMAL_EXPONENT))
    else:
        share = jnp.maximum(arrays.slope[interval] * growth + drawn, LEAST_GROWTH)
    return share * arrays.active[interval], kept


def size_growth(before: Float[Array, "feature sample"], after: Float[Array, "feature sample"]) -> Float[Array, ""]:
    """Return h, the log of the ratio of the sizes of deviations; 0 where there are none."""
    first, last = jnp.sum(before**2), jnp.sum(after**2)
    defined = (first > 0) & (last > 0)
    return jnp.where(defined, 0.5 * jnp.log(jnp.where(defined, last, 1.0) / jnp.where(defined, first, 1.0)), 0.0)


def _window_means(values: Float[np.ndarray, " time"]) -> Float[np.ndarray, " time"]:
    """Return the mean over the `WINDOW` values around each, or the first or last so many."""
    width = min(WINDOW, len(values))
    first = np.clip(np.arange(len(values)) - width // 2, 0, len(values) - width)
    return sliding_window_view(values, width).mean(axis=1)[first]
