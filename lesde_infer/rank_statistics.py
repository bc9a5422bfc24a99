"""Are ranks uniform? Simultaneous bands for their distribution, coverage, and what is wrong where they are not.

If parameters θ are drawn from the prior, data given θ, and L independent draws from the posterior given the data, then
the rank of θ among the draws, the number of draws below it, is uniform on 0 … L, whatever the model (Talts et al. 2018,
arXiv 1804.06788). With n such ranks Rₛ and zᵢ = i/(L + 1), the counts

    N_i = #{s : Rₛ < i} ~ Binomial(n, zᵢ),        i = 1 … L,

and N_{i+1} − N_i given N_i is Binomial(n − N_i, (z_{i+1} − zᵢ)/(1 − zᵢ)). A band of all counts whose two-sided tail
probability exceeds a level at each i holds all N_i at once with a probability that follows by running through i
(Säilynoja, Bürkner & Vehtari 2022, Statistics and Computing 32:32, doi:10.1007/s11222-022-10090-6). No simulation is
needed, so that levels far out, where many quantities are checked together, are exact too.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.special import gammaln
from scipy.stats import binom

RANKED_DRAWS = 119  # L; L + 1 = 120 is divided by the tails of every level of `COVERAGE_LEVELS`
COVERAGE_LEVELS = (0.5, 0.8, 0.9, 0.95)
FALSE_ALARM = 0.05  # probability that any of the quantities of a calibrated posterior leaves its band

Verdict = Literal["calibrated", "too narrow", "too wide", "shifted up", "shifted down"]
"""What the posterior is, compared with the distribution of the truth: shifted up means too large."""


@dataclass(frozen=True)
class RankCheck:
    """What the ranks of one quantity say.

    Attributes
    ----------
    verdict : str
        ``calibrated`` if the ranks' distribution stays in its band, else what is wrong with the posterior.
    p_value : float
        Probability that the ranks of a calibrated posterior stray as far from uniform, all points considered at once.
    coverage : dict of float to float
        Share of truths inside central intervals of the level that is the key.
    """

    verdict: Verdict
    p_value: float
    coverage: dict[float, float]


def check_ranks(
    ranks: Int[np.ndarray, " simulation"], n_ranked: int = RANKED_DRAWS, *, n_quantities: int = 1
) -> RankCheck:
    """Judge ranks.

    Parameters
    ----------
    ranks : array, shape (simulation,)
        Ranks of the truth among ``n_ranked`` draws, from 0 to ``n_ranked``.
    n_quantities : int
        Quantities that are checked together: each has its share of `FALSE_ALARM`.
    """
    p_value = uniformity_p_value(ranks, n_ranked)
    coverage = {level: covered_share(ranks, level, n_ranked) for level in COVERAGE_LEVELS}
    verdict: Verdict = "calibrated" if p_value > FALSE_ALARM / n_quantities else _defect(ranks, n_ranked)
    return RankCheck(verdict, p_value, coverage)


def covered_share(ranks: Int[np.ndarray, " simulation"], level: float, n_ranked: int = RANKED_DRAWS) -> float:
    """Return the share of truths inside the central intervals of a level.

    Expected to be ``level`` exactly if (L + 1)(1 − level)/2 is whole.
    """
    tail = round((n_ranked + 1) * (1.0 - level) / 2.0, 6)
    return float(np.mean((ranks >= tail) & (ranks <= n_ranked - tail)))


def _defect(ranks: Int[np.ndarray, " simulation"], n_ranked: int) -> Verdict:
    """Say whether ranks depart more in their mean or in their spread, in units of their standard errors."""
    all_ranks = np.arange(n_ranked + 1) - n_ranked / 2.0
    variance = np.mean(all_ranks**2)
    shift = (ranks.mean() - n_ranked / 2.0) / np.sqrt(variance / len(ranks))
    # Around their own mean: ranks that are all small say that the posterior lies too high, not that it is narrow.
    excess = (ranks.var() - variance) / np.sqrt(np.var(all_ranks**2) / len(ranks))
    if abs(shift) > abs(excess):
        return "shifted down" if shift > 0 else "shifted up"
    return "too narrow" if excess > 0 else "too wide"


def rank_counts(ranks: Int[np.ndarray, " simulation"], n_ranked: int = RANKED_DRAWS) -> Int[np.ndarray, " point"]:
    """Return N_i, i = 1 … L."""
    return np.cumsum(np.bincount(ranks, minlength=n_ranked + 1))[:-1]


def uniformity_p_value(ranks: Int[np.ndarray, " simulation"], n_ranked: int = RANKED_DRAWS) -> float:
    """Probability that uniform ranks leave, somewhere, the narrowest band that these ranks leave."""
    tails = _tail_probabilities(len(ranks), n_ranked)
    reached = tails[np.arange(n_ranked), rank_counts(ranks, n_ranked)].min()
    return 1.0 - _simultaneous_probability(len(ranks), n_ranked, float(reached))


@lru_cache(maxsize=16)
def simultaneous_band(
    n_simulations: int, probability: float, n_ranked: int = RANKED_DRAWS
) -> tuple[Int[np.ndarray, " point"], Int[np.ndarray, " point"]]:
    """Return the smallest and the largest N_i, i = 1 … L, of a band.

    It holds all counts of uniform ranks at once with at least the given probability, and no narrower one does.
    """
    low, high = np.log(1e-16), 0.0  # of the pointwise level: the band is wide enough at the first, not at the second
    for _ in range(40):
        middle = (low + high) / 2.0
        if _simultaneous_probability(n_simulations, n_ranked, float(np.exp(middle))) >= probability:
            low = middle
        else:
            high = middle
    inside = _inside(n_simulations, n_ranked, float(np.exp(low)))
    return inside.argmax(axis=1), n_simulations - inside[:, ::-1].argmax(axis=1)


@lru_cache(maxsize=16)
def _tail_probabilities(n: int, n_ranked: int) -> Float[np.ndarray, "point count"]:
    """Two-sided tail probability of each count at each point."""
    counts, z = np.arange(n + 1), np.arange(1, n_ranked + 1)[:, None] / (n_ranked + 1.0)
    lower: Float[np.ndarray, "point count"] = np.asarray(binom.cdf(counts, n, z))
    # The upper tail at z is the lower tail of n − N at 1 − z. Computed so, tails that are equal are so to the last bit.
    return 2.0 * np.minimum(lower, lower[::-1, ::-1])


def _inside(n: int, n_ranked: int, level: float) -> Bool[np.ndarray, "point count"]:
    """Return which counts are inside the band of a pointwise level."""
    return _tail_probabilities(n, n_ranked) > level


def _simultaneous_probability(n: int, n_ranked: int, level: float) -> float:
    """Probability that the counts of uniform ranks have tail probabilities above a level at every point."""
    inside = _inside(n, n_ranked, level)
    if not inside.any(axis=1).all():
        return 0.0
    log_factorial = gammaln(np.arange(n + 1) + 1.0)
    reached, probability = np.zeros(1, dtype=int), np.ones(1)  # at z = 0 nothing is counted
    for point in range(n_ranked):
        following = np.flatnonzero(inside[point])
        share = 1.0 / (n_ranked + 1.0 - point)  # of those not yet counted, the next point counts this share
        steps, left = following - reached[:, None], n - reached[:, None]
        possible = steps >= 0
        added = np.where(possible, steps, 0)
        log_mass = (
            log_factorial[left]
            - log_factorial[added]
            - log_factorial[left - added]
            + added * np.log(share)
            + (left - added) * np.log1p(-share)
        )
        probability = probability @ np.where(possible, np.exp(log_mass), 0.0)
        reached = following
    return float(min(probability.sum(), 1.0))
