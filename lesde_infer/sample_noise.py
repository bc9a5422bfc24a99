r"""How the samples of a class are shaken together, for paths to be shaken alike.

Training on a sample moves others by how alike they are to the network, so that noise of deviations from class means is
the same few patterns over the samples again and again: a few samples are moved most of the time, and those alike move
together. LeNet on shapes with 40 % of the labels wrong: the mean square by which a sample moves, apart from growth,
ranges from 0.13 to 7.6 times the average over the second half of training, and is the same in even and odd intervals
(correlation 0.97). Simulated with noise of its own for each sample, all alike, deviations become Gaussian, where those
recorded have a kurtosis of 5 to 9 and lie in one class more than in others: classes of which a few samples are far out
then separate in simulations, as they did not in training.

So noise of deviations in an interval has the covariance, over samples and features together, of the movements z_s that
were recorded in W intervals around it,

    noise = √(1 − ρ) Σ_s g_s z_s/√W + √ρ ξ,        g, ξ independent standard normal, |z_s|² = d,

both sums brought to the same size first, since a single pattern may have any. z_s is what is left of the change of
deviations when the growth of each part (`lesde_infer.deviations`) is taken out, each part scaled to the same size in
all intervals, and ρ the share by which the covariance of W increments is drawn towards one that is alike in all
directions (`lesde_infer.noise_directions`). Each part of the noise then gets the size that the model says; this
module says which samples move, not how far. Nothing of this changes a posterior. (Forecasts are none the better for
it, in 47 of them: there deviations keep their pattern, and little of them is noise.)

tests/lesde_infer/test_sample_noise.py checks recovery of patterns, sizes, and that noise without pattern stays such.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from data_tools.recording import Recording
from lesde_infer._jax import jax, jnp
from lesde_infer.class_average import ClassAverage
from lesde_infer.deviations import contrast_axes
from lesde_infer.noise_dimension import across
from lesde_infer.noise_directions import ROUNDING, shrinkage_share
from lesde_infer.snapshots import MINIMAL_SAMPLES, present_samples, read_record

WINDOW = 33
"""W, movements that noise is made of."""

LARGEST_BYTES = 256 * 2**20
"""Of movements that are held: of larger ones every second, third … is left out, and windows reach further."""


@dataclass(frozen=True)
class SampleNoise:
    """Movements of samples that noise of deviations is made of.

    Attributes
    ----------
    movements : array, shape (movement, feature, sample)
        z_s, in order of time.
    first : array, shape (interval,)
        The first of the `WINDOW` movements, or of all if there are fewer, for each interval to be simulated.
    even : array, shape (interval,)
        ρ.
    """

    movements: Float[np.ndarray, "movement feature sample"]
    first: Int[np.ndarray, " interval"]
    even: Float[np.ndarray, " interval"]

    def arrays(self) -> "MovementArrays":
        """Return the arrays that a simulation uses."""
        width = min(WINDOW, len(self.movements))
        return MovementArrays(
            movements=jnp.asarray(self.movements),
            first=jnp.asarray(self.first),
            even=jnp.asarray(self.even),
            weights=jnp.full(width, width**-0.5),
        )


class MovementArrays(NamedTuple):
    """The same, and the weight 1/√W of each movement in a window."""

    movements: Float[Array, "movement feature sample"]
    first: Int[Array, " interval"]
    even: Float[Array, " interval"]
    weights: Float[Array, " window"]


def patterned(
    key: PRNGKeyArray, alike: Float[Array, "feature sample"], arrays: MovementArrays, interval: Int[Array, ""]
) -> Float[Array, "feature sample"]:
    """Return noise of an interval, with the patterns of recorded movements, given noise that is alike in all samples.

    Of each class its mean is zero, as far as that of ``alike`` and of the movements is.
    """
    width = len(arrays.weights)
    window = jax.lax.dynamic_slice_in_dim(arrays.movements, arrays.first[interval], width)
    together = jnp.tensordot(arrays.weights * jax.random.normal(key, (width,)), window, axes=1)
    square = jnp.sum(together**2)
    size = jnp.where(square > 0, jnp.sqrt(jnp.sum(alike**2) / jnp.where(square > 0, square, 1.0)), 0.0)
    even = arrays.even[interval]
    return jnp.sqrt(1.0 - even) * size * together + jnp.sqrt(even) * alike


def sized(
    parts: Float[Array, "part feature sample"], axes: Float[Array, "axis feature"] | None, n_classes: int
) -> Float[Array, "part feature sample"]:
    """Return parts of noise, each as large as unit variance in each of its dimensions makes it on average."""
    n_features, n_samples = parts.shape[1:]
    along = n_features if axes is None else jnp.sum(axes**2)
    dimensions = jnp.stack([jnp.asarray(along, dtype=parts.dtype), n_features - along])[: len(parts)]
    wanted = (n_samples - n_classes) * dimensions
    square = jnp.sum(parts**2, axis=(1, 2))
    return jnp.where(square > 0, jnp.sqrt(wanted / jnp.where(square > 0, square, 1.0)), 0.0)[:, None, None] * parts


def recorded_sample_noise(
    recording: Recording,
    layer: str,
    samples: Int[np.ndarray, " sample"],
    groups: Int[np.ndarray, " sample"],
    records: Int[np.ndarray, " point"],
    wanted: Int[np.ndarray, " interval"],
    *,
    by_parts: bool,
) -> SampleNoise | None:
    """Return the movements between records, and for each interval to be simulated those around it.

    Parameters
    ----------
    recording : Recording
    layer : str
    samples : array
        Samples of the recording that are simulated.
    groups : array
        Their classes, 0 to K − 1.
    records : array
        Records, ascending, between which movements are taken.
    wanted : array
        Place among the intervals between records that each simulated interval has.
    by_parts : bool
        Along and across the span of the class means, or all in one.

    Returns
    -------
    SampleNoise or None
        None where fewer than two movements were recorded.

    Notes
    -----
    Where samples are missing at an end of an interval their movement is 0, and where a class lacks two the interval has
    none. Of movements that would take more than `LARGEST_BYTES` those between every second, third … record are taken.
    """
    n_classes = int(groups.max()) + 1
    found, intervals = [], []
    held = read_record(recording, layer, int(records[0]))[samples]
    stride = -(-4 * held.size * len(records) // LARGEST_BYTES)
    for interval in range(0, len(records) - 1, stride):
        after = read_record(recording, layer, int(records[min(interval + stride, len(records) - 1)]))[samples]
        movement = _movement(held, after, groups, n_classes, by_parts=by_parts)
        if movement is not None:
            found.append(movement.T.astype(np.float32))
            intervals.append(interval)
        held = after
    return _windows(np.stack(found), np.array(intervals), wanted, n_classes) if len(found) > 1 else None


def _movement(
    before: Float[np.ndarray, "sample feature"],
    after: Float[np.ndarray, "sample feature"],
    groups: Int[np.ndarray, " sample"],
    n_classes: int,
    *,
    by_parts: bool,
) -> Float[np.ndarray, "sample feature"] | None:
    common = present_samples(before) & present_samples(after)
    own = groups[common]
    if np.bincount(own, minlength=n_classes).min() < MINIMAL_SAMPLES:
        return None
    average = ClassAverage(own, n_classes)
    before, after = before[common], after[common]
    means = average(before)
    deviations = before - means[own]
    change = after - average(after)[own] - deviations
    axes = contrast_axes(means, deviations) if by_parts else np.zeros((1, before.shape[1]))
    moved = np.zeros((len(common), before.shape[1]))
    n_axes = float((axes**2).sum())
    parts = [(deviations @ axes.T @ axes, change @ axes.T @ axes, n_axes)]
    parts.append((deviations - parts[0][0], change - parts[0][1], before.shape[1] - n_axes))
    for deviation, movement, dimension in parts:
        left = across(movement, deviation).reshape(movement.shape)
        size = float(np.linalg.norm(left))
        if size > ROUNDING * float(np.linalg.norm(before)):
            moved[common] += left * (np.sqrt((len(own) - n_classes) * dimension) / size)
    return moved


def _windows(
    movements: Float[np.ndarray, "movement feature sample"],
    intervals: Int[np.ndarray, " movement"],
    wanted: Int[np.ndarray, " interval"],
    n_classes: int,
) -> SampleNoise:
    """Give each interval of a path the movements around it."""
    width = min(WINDOW, len(movements))
    nearest = np.searchsorted(intervals, wanted)
    first = np.clip(nearest - width // 2, 0, len(movements) - width)
    flat = movements.reshape(len(movements), -1)
    gram = (flat @ flat.T).astype(np.float64)
    size = np.sqrt(np.maximum(np.diag(gram), np.finfo(np.float64).tiny))
    cosines = gram / size / size[:, None]
    dimension = movements.shape[1] * (movements.shape[2] - n_classes)
    shares = {
        start: shrinkage_share(
            float((cosines[start : start + width, start : start + width] ** 2).mean()), width, dimension
        )
        for start in np.unique(first).tolist()
    }
    return SampleNoise(movements, first, np.array([shares[start] for start in first.tolist()]))
