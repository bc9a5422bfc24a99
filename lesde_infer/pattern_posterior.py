"""From draws of the contrasts' model to rates of elasticity as a matrix (`lesde_infer.pattern_model`).

What is reported of E = C + (column means), C being s(t) (M₀ + x̃(t) M₁):

- ``gamma``, the effective separation rate K⟨contrast(Σ_l π_l E_kl h_l), contrast h⟩/|contrast h|² = ⟨C, N⟩ with
  N_kl = ⟨contrast h_k, h_l⟩/Σ_m|contrast h_m|² from the recorded impacts at each interval's start;
- ``gamma_kernel`` = tr C/(K − 1) = α − β, mean diagonal minus mean off-diagonal: 3 to 8 times the former where
  residuals sit on pairs of classes that are confused, which are also the most strongly coupled (DESIGN section 4.8);
- ``contrast_pattern`` and ``pattern_scale``, M₀ and s(t), and ``contrast_pattern_drift``, M₁, if the pattern may drift;
- ``E`` at a few times. Its column means are taken to be equal, (α + (K−1)β)/K, the rate of the mean over classes:
  columns' differences move all classes alike, and contrasts say nothing about them.

tests/lesde_infer/test_pattern_posterior.py checks the identities.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from lesde_infer.pattern_model import PatternData
from lesde_infer.sampling import SampleRun
from lesde_infer.statistics import Statistics

MATRIX_TIMES = 5  # at which E is kept: first, last, and between


@dataclass(frozen=True)
class PatternDraws:
    """Draws of the contrasts; arrays have leading axes (chain, draw).

    Attributes
    ----------
    gamma, gamma_kernel, scale : array, shape (chain, draw, time)
    patterns : array, shape (chain, draw, pattern, class_to, class_from)
        M₀ and, if the pattern may drift, M₁.
    drift : array, shape (time, pattern)
        1 and x̃.
    """

    gamma: Float[np.ndarray, "chain draw time"]
    gamma_kernel: Float[np.ndarray, "chain draw time"]
    scale: Float[np.ndarray, "chain draw time"]
    patterns: Float[np.ndarray, "chain draw pattern class_to class_from"]
    drift: Float[np.ndarray, "time pattern"]

    @classmethod
    def of(cls, run: SampleRun, data: PatternData, statistics: Statistics) -> "PatternDraws":
        """Arrange the draws of a run."""
        basis, drift = np.asarray(data.basis), np.asarray(data.drift)
        entries = np.asarray(run.parameters.pattern)
        entries = entries.reshape(*entries.shape[:3], drift.shape[1], len(basis))
        patterns = np.einsum("kr,cdrbl->cdbkl", basis, entries)
        scale = np.exp(np.asarray(run.parameters.log_scale_curve))
        impacts = statistics.pattern.coordinates
        contrasts = impacts - impacts.mean(axis=2, keepdims=True)
        alignment = np.einsum("tjk,tjl->tkl", contrasts, impacts)
        alignment /= np.maximum((contrasts**2).sum(axis=(1, 2)), np.finfo(float).tiny)[:, None, None]
        along = np.einsum("cdbkl,tkl,tb->cdt", patterns, alignment, drift, optimize=True)
        traces = np.einsum("cdbkk,tb->cdt", patterns, drift, optimize=True) / (len(basis) - 1)
        return cls(scale * along, scale * traces, scale, patterns, drift)

    def elasticity(
        self, column_mean: Float[np.ndarray, "chain draw time"], chosen: np.ndarray
    ) -> Float[np.ndarray, "chain draw matrix_time class_to class_from"]:
        """Return E at the chosen intervals, its columns having the given mean."""
        patterns = np.einsum("cdbkl,tb->cdtkl", self.patterns, self.drift[chosen], optimize=True)
        return self.scale[:, :, chosen, None, None] * patterns + column_mean[:, :, chosen, None, None]


def matrix_times(n_intervals: int) -> np.ndarray:
    """Return the intervals at which E is kept."""
    return np.unique(np.linspace(0, n_intervals - 1, MATRIX_TIMES).round().astype(int))
