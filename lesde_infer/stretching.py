"""Deviations beyond the record: stretched along with the class means, and reshuffled, as they were in the record.

Continued like other curves, the growth rate κ of deviations would decide nothing but how fast a forecast goes astray:
what is left of κ over a long time is e^{∫κ}, in which any error is exponential, and its scatter from interval to
interval, like individual noise, mostly relaxes within a few more (over ten intervals of the recordings of LeNet on
shapes, log sizes move by a third of the variance that independent increments would add up to). What does persist was
measured: after separation deviations are stretched along with the means and little else (DESIGN section 4.11), before
it the ratio of the two drifts slowly. So beyond the record each part of the deviations (`lesde_infer.deviations`) has

    d log size = d log |contrasts| + s dB(log t),        cos of its samples' pattern = e^{−c Δlog t},

a ratio to the contrasts that walks at random in log t, and a pattern, which sample lies where within its class, that is
forgotten at a rate c in log t. Both are measured in the prefix over long lags, of `LAG` in t, whatever relaxes sooner
being gone. s² is drawn from its posterior under the scaled inverse χ² prior with `PRIOR_LAGS` degrees of freedom and
scale `PRIOR_SCALE`, given the squared changes over the lags; the mean of −log cos over the lags gives c.

tests/lesde_infer/test_stretching.py checks both against walks of known rates.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from data_tools.recording import Recording
from lesde_infer.deviations import contrast_axes
from lesde_infer.separability import class_means
from lesde_infer.snapshots import MINIMAL_SAMPLES, present_samples, read_record

LAG, LAGS = 1.25, 6
"""Ratio of the times at the ends of a lag, and number of lags before the end of the prefix: from a quarter of it on."""

PRIOR_LAGS, PRIOR_SCALE = 2.0, 0.5
"""The prior of s: as if changes over this many lags had been seen, of this size per root of log time."""

LEAST_COSINE = 0.05
"""A pattern that is forgotten within a lag is taken to be that much alike."""


@dataclass(frozen=True)
class Stretching:
    """How deviations moved relative to contrasts over the last lags of a prefix.

    Attributes
    ----------
    log_times : array, shape (lag,)
        Length of each lag in log time.
    changes : array, shape (lag, part)
        Change of the log of each part's size over that of the contrasts; NaN where one vanishes.
    cosines : array, shape (lag, part)
        Cosine between the deviations of the same samples at the ends of the lag.
    """

    log_times: Float[np.ndarray, " lag"]
    changes: Float[np.ndarray, "lag part"]
    cosines: Float[np.ndarray, "lag part"]

    @property
    def forgetting(self) -> Float[np.ndarray, " part"]:
        """C of each part, per unit of log time."""
        lost = -np.log(np.clip(self.cosines, LEAST_COSINE, 1.0))
        defined = np.isfinite(lost)
        total = np.where(defined, lost, 0.0).sum(axis=0)
        return total / np.maximum((defined * self.log_times[:, None]).sum(axis=0), self.log_times.min())

    def draw_walk(self, n_draws: int, rng: np.random.Generator) -> Float[np.ndarray, "draw part"]:
        """Draw s of each part from its posterior, per root of log time."""
        squares = self.changes**2 / self.log_times[:, None]
        defined = np.isfinite(squares)
        total = PRIOR_LAGS * PRIOR_SCALE**2 + np.where(defined, squares, 0.0).sum(axis=0)
        degrees = PRIOR_LAGS + defined.sum(axis=0)
        return np.sqrt(total / rng.chisquare(degrees, size=(n_draws, len(degrees))))


def measure_stretching(
    recording: Recording,
    layer: str,
    groups: Int[np.ndarray, " sample"],
    times: Float[np.ndarray, " record"],
    *,
    by_parts: bool,
) -> Stretching:
    """Measure how deviations moved over the last lags of a prefix.

    Parameters
    ----------
    recording : Recording
    layer : str
    groups : array
        Class of each sample, 0 to K − 1.
    times : array, shape (record,)
        Times of the records of the prefix; no record after them is read.
    by_parts : bool
        Along and across the span of the class means, or all in one.
    """
    elapsed = times - times[0]
    wanted = elapsed[-1] * LAG ** -np.arange(LAGS, -1, -1.0)
    records = np.unique(np.abs(elapsed[:, None] - wanted).argmin(axis=0))
    records = records[elapsed[records] > 0]
    n_classes = int(groups.max()) + 1
    held = [read_record(recording, layer, record) for record in records.tolist()]
    lags, changes, cosines = [], [], []
    for before, after, start, stop in zip(held[:-1], held[1:], records[:-1], records[1:], strict=True):
        common = present_samples(before) & present_samples(after)
        if np.bincount(groups[common], minlength=n_classes).min() < MINIMAL_SAMPLES:
            continue
        change, cosine = _over_lag(before, after, common, groups, n_classes, by_parts=by_parts)
        lags.append(np.log(elapsed[stop] / elapsed[start]))
        changes.append(change)
        cosines.append(cosine)
    if not lags:
        n_parts = 2 if by_parts else 1
        return Stretching(np.array([np.log(LAG)]), np.full((1, n_parts), np.nan), np.full((1, n_parts), np.nan))
    return Stretching(np.array(lags), np.array(changes), np.array(cosines))


def _over_lag(
    before: Float[np.ndarray, "sample feature"],
    after: Float[np.ndarray, "sample feature"],
    common: Bool[np.ndarray, " sample"],
    groups: Int[np.ndarray, " sample"],
    n_classes: int,
    *,
    by_parts: bool,
) -> tuple[list[float], list[float]]:
    own = groups[common]
    sizes, parts = [], []
    for features in (before[common], after[common]):
        means = class_means(features, own, n_classes)
        deviations = features - means[own]
        axes = contrast_axes(means, deviations) if by_parts else np.eye(means.shape[1])
        along = deviations @ axes.T @ axes
        parts.append([along, deviations - along][: 1 + by_parts])
        sizes.append(float(np.linalg.norm(means - means.mean(axis=0))))
    floor = np.finfo(np.float32).eps * max(float(np.linalg.norm(part)) for part in (*parts[0], *parts[1]))
    changes, cosines = [], []
    for first, second in zip(*parts, strict=True):
        norms = float(np.linalg.norm(first)), float(np.linalg.norm(second))
        if min(*norms, *sizes) <= floor:
            changes.append(float("nan"))
            cosines.append(float("nan"))
            continue
        changes.append(float(np.log(norms[1] / norms[0]) - np.log(sizes[1] / sizes[0])))
        cosines.append(float(np.vdot(first, second)) / (norms[0] * norms[1]))
    return changes, cosines
