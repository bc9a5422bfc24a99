"""What increments of class means tell of their noise, in one pass: effective dimension, memory, and directions."""

import numpy as np
from jaxtyping import Float

from lesde_infer.noise_dimension import LIKE_LENGTHS, EffectiveDimension, across
from lesde_infer.noise_directions import NoiseDirections, ObservedDirections
from lesde_infer.noise_memory import Autocovariance, Memory


class ObservedNoise:
    """Collects the increments of a stratum, in order of time."""

    def __init__(self) -> None:
        self._dimension = EffectiveDimension()
        self._directions, self._all_around = ObservedDirections(), ObservedDirections()
        self._alike: dict[int, Autocovariance] = {}

    def add(self, increment: Float[np.ndarray, "*shape"], direction: Float[np.ndarray, "*shape"], n_steps: int) -> None:
        """Take in the increment of an interval of so many steps, and the direction of its drift."""
        self._dimension.add(increment, direction, n_steps)
        noise = across(increment, direction)
        size = float(np.linalg.norm(increment))
        self._directions.add(noise, size, n_steps, increment.shape)
        self._all_around.add(increment.ravel(), size, n_steps, increment.shape)
        alike = round(np.log(max(n_steps, 1)) / np.log(LIKE_LENGTHS))
        self._alike.setdefault(alike, Autocovariance()).add(noise, n_steps)

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
