"""Sizes of steps: how large the noise of each interval is, compared with those around it (`lesde_infer.model`).

An interval's size is that of its contrasts' increment across the impact, less its component along û, which elasticity
moves most. Over its mean nearby, less 1, it is q. Where noise moves in less than `LEAST_SIZE_DIMENSIONS` effective
dimensions an increment does not tell its size, and q is 0, but in intervals of few steps, whose sizes differ by more
than that.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from lesde_infer.interval_lengths import neighbouring_mean
from lesde_infer.priors import TINY
from lesde_infer.statistics import Statistics

LEAST_SIZE_DIMENSIONS = 4  # of noise, so that it tells its size in an interval
FEW_STEPS = 3  # whose sizes differ so much that fewer dimensions tell them


@dataclass(frozen=True)
class StepSizes:
    """Contrasts' increments split into what is along the impact and what is across it.

    Attributes
    ----------
    impact : array, shape (time,)
        |u|, norm of the impact.
    along : array, shape (time,)
        Component of the increment along û.
    across : array, shape (time,)
        Squared norm of the rest, at least that of rounding.
    dimension : int
        Dimensions across the impact.
    size : array, shape (time,)
        Root mean square of the rest's coordinates.
    nearby : array, shape (time,)
        Its mean over neighbouring intervals of like length.
    told : array, shape (time,)
        Whether the noise of an interval tells its size.
    """

    impact: Float[np.ndarray, " time"]
    along: Float[np.ndarray, " time"]
    across: Float[np.ndarray, " time"]
    dimension: int
    size: Float[np.ndarray, " time"]
    nearby: Float[np.ndarray, " time"]
    told: Bool[np.ndarray, " time"]

    @property
    def relative(self) -> Float[np.ndarray, " time"]:
        """Return q, 0 where noise does not tell its size."""
        return np.where(self.told, self.size / self.nearby - 1.0, 0.0)


def step_sizes(statistics: Statistics) -> StepSizes:
    """Return the sizes of a run's intervals."""
    stratum, moved = statistics.contrast, statistics.moved
    impact = np.sqrt(np.maximum(stratum.direction_square.sum(axis=1), TINY))
    along = stratum.direction_increment.sum(axis=1) / impact
    dimension = max(stratum.dimension - 1, 1)
    # One contrast of one feature has nothing across; its noise is then that along.
    across = stratum.increment_square - (along**2 if stratum.dimension > 1 else 0.0)
    across = np.maximum(across, dimension * np.maximum(statistics.mean_rounding, TINY))
    size = np.sqrt(across / dimension)
    few_steps = statistics.n_steps <= (FEW_STEPS if stratum.dimension > LEAST_SIZE_DIMENSIONS else 0)
    told = (stratum.effective_dimension > LEAST_SIZE_DIMENSIONS) | few_steps
    return StepSizes(impact, along, across, dimension, size, neighbouring_mean(size, statistics.n_steps, moved), told)
