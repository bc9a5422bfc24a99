"""In how many dimensions class-mean noise moves: fewer than there are.

Noise of stochastic gradient descent is far from isotropic: a mini-batch moves class means along the few directions that
its samples push, and logits sum to zero but for the bias. Taken for isotropic in all d dimensions, an interval's noise
would seem to be known to √(2/d), intervals that happened to be quiet would decide everything, and posteriors would be
too narrow. What counts is the effective dimension of noise with covariance Σ,

    d* = (tr Σ)²/tr Σ²,        1 ≤ d* ≤ d.

The squared norm of Gaussian noise scatters as that of d* dimensions does, relative variance 2/d*. And for directions û,
v̂ of two independent increments of covariance Σ, E⟨û, v̂⟩² ≈ tr Σ²/(tr Σ)² = 1/d*, whatever their Student-t factors,
which leave directions alone. So d* is one over the mean squared cosine between neighbouring increments of like length,
each without its component along the impact, which is counted as one dimension more. On recordings of LeNet (K = p = 3)
d* is 2 to 4 of 6 for contrasts, and 2 of 3 for the mean over classes; of an MLP on ten digits, 9 of 90.

An interval's density is then taken in d* dimensions, with noise of variance σ²d/d* in each, σ² being the variance per
dimension of all d (`lesde_infer.assembly`): as if noise filled d* dimensions and the drift lay among them. It does:
elasticity sends noise and drift the same way, and noise along the impact is about as much larger.
tests/lesde_infer/test_noise_dimension.py compares with covariances that are known.
"""

from collections import deque

import numpy as np
from jaxtyping import Float, Int

NEIGHBOURS = 5  # intervals of like length before an interval, that its increment is compared with
LIKE_LENGTHS = 3.0  # ratio of lengths below which intervals are alike
REACH = 4 * NEIGHBOURS  # intervals back, among which those of like length are looked for


def length_kind(n_steps: Int[np.ndarray, "*shape"] | int) -> Int[np.ndarray, "*shape"]:
    """Return a number that intervals of like length have in common, and longer ones a larger one."""
    return np.round(np.log(np.maximum(n_steps, 1)) / np.log(LIKE_LENGTHS)).astype(np.int64)


def across(
    increment: Float[np.ndarray, "*shape"], direction: Float[np.ndarray, "*shape"]
) -> Float[np.ndarray, " entry"]:
    """Return an increment, flat, without its component along a direction."""
    noise, along = increment.ravel(), direction.ravel()
    square = along @ along
    return noise - (along @ noise) / square * along if square > 0.0 else noise


class EffectiveDimension:
    """Effective dimension of a stratum's noise, from its increments in order of time."""

    def __init__(self) -> None:
        self._earlier: deque[tuple[int, Float[np.ndarray, " entry"]]] = deque(maxlen=REACH)
        self._sum = 0.0
        self._count = 0

    def add(self, increment: Float[np.ndarray, "*shape"], direction: Float[np.ndarray, "*shape"], n_steps: int) -> None:
        """Take in the increment of an interval of so many steps, and the direction of its drift."""
        noise = across(increment, direction)
        length = np.sqrt(noise @ noise)
        if not length > 1e-12 * np.sqrt(increment.ravel() @ increment.ravel()):  # rounding has any direction
            return
        unit = noise / length
        alike = [v for n, v in self._earlier if max(n, n_steps) < LIKE_LENGTHS * min(n, n_steps)]
        for other in alike[-NEIGHBOURS:]:
            self._sum += float(unit @ other) ** 2
            self._count += 1
        self._earlier.append((n_steps, unit))

    def of(self, dimension: int) -> float:
        """Return d*, from 2 (or ``dimension`` if that is less) to ``dimension``, which it is where nothing is known."""
        if self._count == 0 or self._sum == 0.0:
            return float(dimension)
        return float(np.clip(1.0 + self._count / self._sum, min(2, dimension), dimension))
