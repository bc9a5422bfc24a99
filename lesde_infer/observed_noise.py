"""What increments of class means tell of their noise, in one pass: effective dimension, memory, and directions."""

import numpy as np
from jaxtyping import Float

from lesde_infer.noise_dimension import EffectiveDimension, across, length_kind
from lesde_infer.noise_directions import ROUNDING, NoiseDirections, ObservedDirections
from lesde_infer.noise_memory import Autocovariance, Memory

ALIGNED = 1e-6
"""Of the size of the contrasts, below which what is left of them across the impact is rounding: they lie along it."""


class ObservedNoise:
    """Collects the increments of a stratum, in order of time."""

    def __init__(self) -> None:
        self._dimension = EffectiveDimension()
        self._directions, self._all_around = ObservedDirections(), ObservedDirections()
        self._alike: dict[int, Autocovariance] = {}
        self._shares = np.zeros((2, 2))  # along the contrasts, and all: across the impact, and all around

    def add(
        self,
        increment: Float[np.ndarray, "*shape"],
        direction: Float[np.ndarray, "*shape"],
        n_steps: int,
        contrasts: Float[np.ndarray, "*shape"] | None = None,
    ) -> None:
        """Take in the increment of an interval of so many steps, the direction of its drift, and the contrasts moved.

        What lies along the contrasts is a matter of `lesde_infer.common_growth`, and left out of all but the dimension.
        """
        self._dimension.add(increment, direction, n_steps)
        noise, around = across(increment, direction), increment.ravel()
        size = float(np.linalg.norm(increment))
        if contrasts is not None:
            own = across(contrasts, direction)
            if not np.linalg.norm(own) > ALIGNED * np.linalg.norm(contrasts):
                own = np.zeros_like(own)
            for place, (whole, along) in enumerate(((noise, own), (around, contrasts))):
                left = across(whole, along)
                if np.linalg.norm(whole) > ROUNDING * size > 0.0:
                    share = 1.0 - float(left @ left) / float(whole @ whole)
                    self._shares[place] += n_steps * np.array([share, 1.0])
            noise, around = across(noise, own), across(around, contrasts)
        self._directions.add(noise, size, n_steps, increment.shape)
        self._all_around.add(around, size, n_steps, increment.shape)
        self._alike.setdefault(int(length_kind(n_steps)), Autocovariance()).add(noise, n_steps)

    def shares_along(self) -> tuple[float, float]:
        """Return the share of the noise across the impact, and of all of it, that lies along the contrasts."""
        along, total = self._shares.T
        across_impact, all_around = np.divide(along, total, out=np.zeros(2), where=total > 0).clip(0.0, 1.0).tolist()
        return across_impact, all_around

    def dimension(self, dimension: int) -> float:
        """Return the effective dimension (`lesde_infer.noise_dimension`)."""
        return self._dimension.of(dimension)

    def directions(self, dimension: int, shape: tuple[int, ...]) -> NoiseDirections:
        """Return the shape of its covariance across the impact (`lesde_infer.noise_directions`)."""
        return self._directions.of(dimension, shape)

    def all_around(self, dimension: int, shape: tuple[int, ...]) -> NoiseDirections:
        """Return the same with what lies along the impact."""
        return self._all_around.of(dimension, shape)

    def memory(self, time_per_step: float) -> Memory:
        """Return what stays (`lesde_infer.noise_memory`), by increments of the length of which there is most noise."""
        if not self._alike:
            return Memory()
        return max(self._alike.values(), key=lambda own: own.variance).memory(time_per_step)
