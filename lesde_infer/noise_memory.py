"""How much of an interval's noise stays: class means fluctuate around where they drift, and part of it goes again.

Where noise of one interval were independent of that of others, class means would walk at random. In real runs they are
pulled back. LeNet on shapes with 40 % of the labels wrong: over 32 intervals late in training contrasts move 0.05 times
as far, in squares, as 32 independent increments would, and a simulation of independent ones ends with class means twice
too far apart and separable, which they are not. So an increment of class means is drift and

    noise = r n + (f' − f),        f' = φ f + b n,        φ = e^{−Δ/τ},

one part that stays and one that fluctuates around it, with n independent and as large as the noise of the interval, f
the fluctuation at its start and f' at its end (both parts move with one n, as in the decomposition of Beveridge and
Nelson 1981). Of the variance of m increments together, in units of m times that of one, there is then

    VR(m) = w + (1 − w) (1 − φ^m)/(m (1 − φ)),        w = r²,

and the noise of one interval has its own variance if (b + r)² + b² (1 − φ)/(1 + φ) = 1, that is

    b = (1 + φ)/2 · (√(r² + 2 (1 − r²)/(1 + φ)) − r).

w and φ are those whose VR is nearest to that of the record, from products of increments up to 31 intervals apart, each
without its component along the impact, in which the drift is; variances weigh, so that late phases with much noise
count most, as they do for where a run ends. Contrasts and the mean over classes have their own. It changes no
posterior, which is about each interval by itself, only what is simulated from it.

tests/lesde_infer/test_noise_memory.py checks both formulas, recovery, and what simulations with it do.
"""

from collections import deque
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Array, Float

from lesde_infer._jax import jnp

LAGS = 31
SPANS = np.array([2, 4, 8, 16, 32])  # m at which VR is compared
FEWEST_INCREMENTS = 24  # of like length; with fewer noise is taken to stay
SHARES, DECAYS = np.linspace(0.0, 1.0, 41), np.linspace(0.0, 0.96, 49)


@dataclass(frozen=True)
class Memory:
    """What stays of the noise of a stratum.

    Attributes
    ----------
    share : float
        w, share of the variance that stays; 1: all, a random walk.
    time : float
        τ, time in which the rest goes; 0 if there is none.
    """

    share: float = 1.0
    time: float = 0.0


STAYS = Memory()
"""A random walk."""


@dataclass(frozen=True)
class NoiseMemory:
    """Memory of the noise of contrasts between class means, and of the mean over classes."""

    contrast: Memory = STAYS
    shared: Memory = STAYS

    @property
    def forgets(self) -> bool:
        """Whether any noise goes again."""
        return min(self.contrast.share, self.shared.share) < 1.0

    def coefficients(self, lengths: Float[np.ndarray, " interval"]) -> Float[np.ndarray, "stratum 3 interval"] | None:
        """Return φ, b and r of contrasts and of the mean, at intervals of these lengths; None if all noise stays."""
        if not self.forgets:
            return None
        return np.stack([memory_coefficients(own, lengths) for own in (self.contrast, self.shared)])

    def to_attributes(self) -> dict[str, float]:
        """Return numbers by name, as a fit keeps them."""
        return {
            "contrast_noise_share": self.contrast.share,
            "contrast_noise_time": self.contrast.time,
            "shared_noise_share": self.shared.share,
            "shared_noise_time": self.shared.time,
        }

    @classmethod
    def from_attributes(cls, attributes: Any) -> "NoiseMemory":
        """Read what `to_attributes` wrote; fits of earlier versions kept none, and their noise stays."""
        if "contrast_noise_share" not in attributes:
            return cls()
        parts = (
            Memory(float(attributes[f"{name}_noise_share"]), float(attributes[f"{name}_noise_time"]))
            for name in ("contrast", "shared")
        )
        return cls(*parts)


ALL_STAYS = NoiseMemory()


def memory_coefficients(own: Memory, lengths: Float[np.ndarray, " interval"]) -> Float[np.ndarray, "3 interval"]:
    """Return φ, b and r of each interval."""
    decay = np.exp(-lengths / own.time) if own.time > 0 else np.zeros(len(lengths))
    stays = np.sqrt(own.share)
    passing = (1.0 + decay) / 2.0 * (np.sqrt(own.share + 2.0 * (1.0 - own.share) / (1.0 + decay)) - stays)
    return np.stack([decay, passing, np.full(len(lengths), stays)])


def remember(
    noise: Float[Array, "class_ feature"],
    fluctuation: Float[Array, "class_ feature"],
    coefficients: Float[Array, "stratum 3"],
) -> tuple[Float[Array, "class_ feature"], Float[Array, "class_ feature"]]:
    """Return the noise of an interval and the fluctuation at its end, from what is new and the fluctuation before."""

    def parts(values: Float[Array, "class_ feature"]) -> tuple[Array, Array]:
        mean = values.mean(axis=0)
        return values - mean, jnp.broadcast_to(mean, values.shape)

    moved, kept = jnp.zeros_like(noise), jnp.zeros_like(noise)
    for (decay, passing, stays), new, old in zip(coefficients, parts(noise), parts(fluctuation), strict=True):
        at_end = decay * old + passing * new
        moved += stays * new + at_end - old
        kept += at_end
    return moved, kept


class Autocovariance:
    """Sums of products of increments up to `LAGS` apart."""

    def __init__(self) -> None:
        self._earlier: deque[Float[np.ndarray, " entry"]] = deque(maxlen=LAGS)
        self._sums = np.zeros(LAGS + 1)
        self._count = self._steps = 0

    def add(self, noise: Float[np.ndarray, " entry"], n_steps: int) -> None:
        """Take in the next increment, without its component along the impact."""
        self._sums[0] += noise @ noise
        for lag, earlier in enumerate(reversed(self._earlier), start=1):
            self._sums[lag] += noise @ earlier
        self._earlier.append(noise)
        self._count += 1
        self._steps += n_steps

    @property
    def variance(self) -> float:
        """Sum of squares of all increments."""
        return float(self._sums[0])

    def memory(self, time_per_step: float, *, least: float = 0.0) -> Memory:
        """Return what stays; time is per optimizer step.

        All stays unless independence, VR = 1, is farther from what was seen than ``least``, in squares of its error for
        n increments in one dimension, of which VR(m) has the variance 4m/(3n), summed over m.
        """
        ratios = self.variance_ratios()
        if ratios is None:
            return Memory()
        spans = SPANS[: len(ratios)]
        if float(((ratios - 1.0) ** 2 / spans).sum()) * 0.75 * self._count < least:
            return Memory()
        share, decay = nearest_memory(ratios)
        if share == 1.0 or decay == 0.0:
            return Memory(share, 0.0)
        return Memory(share, float(-self._steps / self._count / np.log(decay)) * time_per_step)

    def variance_ratios(self) -> Float[np.ndarray, " span"] | None:
        """Return VR at those of `SPANS` that the record is four times as long as; None where little is known."""
        if self._count < FEWEST_INCREMENTS or not self._sums[0] > 0.0:
            return None
        correlation = self._sums[1:] / self._sums[0]
        spans = SPANS[self._count >= 4 * SPANS]
        lags = np.arange(1, LAGS + 1)
        return np.array([1.0 + 2.0 * np.sum(np.maximum(1.0 - lags / span, 0.0) * correlation) for span in spans])


def variance_ratio(
    share: Float[np.ndarray, "*shape"], decay: Float[np.ndarray, "*shape"], span: Float[np.ndarray, "*shape"]
) -> Float[np.ndarray, "*shape"]:
    """Return VR(m) of a memory: see the module's docstring."""
    return share + (1.0 - share) * (1.0 - decay**span) / (span * (1.0 - decay))


def nearest_memory(ratios: Float[np.ndarray, " span"]) -> tuple[float, float]:
    """Return w and φ whose VR is nearest to that observed, in units of its error: its size times √m."""
    spans = SPANS[: len(ratios)].astype(float)
    share, decay = np.meshgrid(SHARES, DECAYS, indexing="ij")
    model = variance_ratio(share[..., None], decay[..., None], spans)
    distance = ((ratios - model) ** 2 / (spans * model**2)).sum(axis=-1)
    best = np.unravel_index(np.argmin(distance), distance.shape)
    return float(share[best]), float(decay[best])
