"""What γ at the end owes to which samples happened to be probed.

The posterior of γ is about the recorded samples: given them it may be sharp, and yet say nothing of the network. Take
one whose labels have nothing to do with its inputs, and probe samples it is not trained on. As it trains, features
drift as a function of the input; the n_k probe samples of a class have class means that differ by chance, of the order
of 1/√n_k, so they drift apart by chance, steadily, for as long as the features do. A verdict is about the network, so
it adds the error of sampling the probe to the posterior (`lesde_infer.verdict`).

Over the last tenth of the record, the least-squares estimate of γ is a difference of class means of one number a
sample: with hₖ the contrasts of the impact and Δ the intervals,

    γ̂ = Σₖ mean{Aᵢ : i in k}/Q,     Aᵢ = Σ_t ⟨Xᵢ(t+Δ) − Xᵢ(t), hₖ(t)⟩,     Q = Σ_t Δ Σₖ |hₖ(t)|²/K,

so given the impacts its variance over draws of the probe is Σₖ s²ₖ/nₖ/Q², s²ₖ the variance of A within class k. That
holds individual noise too, of which the posterior already holds the share that reaches class means: where noise rather
than drift tells samples apart, the error counts twice.

tests/lesde_infer/test_probe_sampling.py compares it with the scatter over random labels.
"""

import numpy as np
from jaxtyping import Bool, Float, Int

from lesde_infer.sample_blocks import blocks, over_parts, own_block, times

END_SHARE = 0.1  # of the record: γ at the end is its average over the last tenth


def end_intervals(midpoints: Float[np.ndarray, " time"]) -> Bool[np.ndarray, " time"]:
    """Tell which intervals, given by their midpoints, are in the last tenth of the record."""
    return midpoints >= midpoints[-1] - END_SHARE * (midpoints[-1] - midpoints[0])


class EndSampling:
    """Adds up, over intervals at the end of the record, how far each sample moves along the impact of its class.

    Parameters
    ----------
    groups : array, shape (sample,)
        Class of each sample.
    n_classes : int
        Number of classes K; each has at least two samples.
    """

    def __init__(self, groups: Int[np.ndarray, " sample"], n_classes: int) -> None:
        self._groups, self._n_classes = groups, n_classes
        self._moved = np.zeros(len(groups))
        self._exposure = 0.0

    def add(self, moved: Float[np.ndarray, " sample"], impact_square: float, length: float) -> None:
        """Add an interval: how far each sample moves (`moved_along`), |h|² over all classes, and its length."""
        self._moved += moved
        self._exposure += length * impact_square / self._n_classes

    @property
    def rate(self) -> float:
        """Least-squares estimate of γ from all that was added, per unit of time; 0 where no impact was."""
        means = [self._moved[self._groups == class_].mean() for class_ in range(self._n_classes)]
        return float(sum(means)) / self._exposure if self._exposure > 0 else 0.0

    @property
    def error(self) -> float:
        """Its standard error over draws of the probe, per unit of time; 0 where no impact was."""
        own = [self._moved[self._groups == class_] for class_ in range(self._n_classes)]
        variance = sum(float(values.var(ddof=1)) / len(values) for values in own)
        return float(np.sqrt(variance)) / self._exposure if self._exposure > 0 else 0.0


def moved_along(
    before: Float[np.ndarray, "sample feature"],
    after: Float[np.ndarray, "sample feature"],
    impact: Float[np.ndarray, "class_ feature"],
    groups: Int[np.ndarray, " sample"],
) -> Float[np.ndarray, " sample"]:
    """Return how far each sample moves along the contrast of the impact of its class; 0 where it is missing."""
    turned = np.ascontiguousarray(impact.T)

    def add(part: slice) -> np.ndarray:
        found, values, change = np.empty(part.stop - part.start), own_block("values"), own_block("change")
        for block in blocks(part, impact.shape[1]):
            along = times(change.less(values.of(after[block]), before[block]), turned)
            found[block.start - part.start : block.stop - part.start] = along[np.arange(len(along)), groups[block]]
        return found

    return np.nan_to_num(np.concatenate(over_parts(before.shape, add)), nan=0.0)
