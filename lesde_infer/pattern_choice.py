"""What a pattern of elasticity is worth: ELPD of a matrix against that of homogeneous elasticity, noise being equal.

`lesde_infer.model_choice` compares fits as they are: homogeneous ones under I and R give noise along the impact a scale
of its own, and a difference in ELPD is of noise as much as of drift. Here both are the model of
`lesde_infer.pattern_model`, with one noise in all directions, the same curves and sizes of steps; the homogeneous one
is its special case M = a (1 − 1/K). What differs is the drift, and increments are the same numbers. PSIS-LOO leaves out
one recording interval at a time. Differences below 4, or below two standard errors √(n · variance), decide nothing.
tests/lesde_infer/test_pattern_choice.py checks runs with a pattern and without one.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from lesde_infer.assembly import pattern_submodel
from lesde_infer.concurrent_sampling import ConcurrentSampler
from lesde_infer.curves import Curve
from lesde_infer.interval_lengths import without_spikes
from lesde_infer.model_choice import LEAST_DIFFERENCE, LEAST_ERRORS
from lesde_infer.predictive_density import leave_out, pareto_k_limit
from lesde_infer.sampling import SampleRun
from lesde_infer.statistics import Statistics


@dataclass(frozen=True)
class PatternWorth:
    """ELPD of the contrasts under a matrix less that under homogeneous elasticity, in nats.

    Attributes
    ----------
    difference, difference_se : float
        Above zero if the matrix predicts better; paired by interval.
    elpd : tuple of float
        Of the matrix and of homogeneous elasticity.
    p_loo : tuple of float
        Their effective numbers of parameters.
    bad_share : tuple of float
        Share of intervals whose Pareto k is too large for their estimates to be trusted.
    pointwise : array, shape (time,)
        The difference, interval by interval.
    """

    difference: float
    difference_se: float
    elpd: tuple[float, float]
    p_loo: tuple[float, float]
    bad_share: tuple[float, float]
    pointwise: Float[np.ndarray, " time"]

    @property
    def resolved(self) -> bool:
        """Whether the difference decides anything."""
        return abs(self.difference) >= max(LEAST_DIFFERENCE, LEAST_ERRORS * self.difference_se)


def sample_contrasts(
    statistics: Statistics,
    curve: Curve,
    *,
    homogeneous: Sequence[bool] = (False, True),
    seed: int = 0,
    n_chains: int = 4,
    n_draws: int = 500,
) -> list[SampleRun]:
    """Sample the contrasts of a run alone, with a pattern of elasticity or without one.

    Parameters
    ----------
    statistics : Statistics
        Of the run.
    curve : {"constant", "power", "gp"}
        Family of curves.
    homogeneous : sequence of bool
        For each set of chains, whether elasticity is homogeneous.
    seed, n_chains, n_draws : int
        Seed, chains, and draws of each after its warm-up.
    """
    told = without_spikes(statistics)
    submodels = [pattern_submodel(told, curve, homogeneous=alike) for alike in homogeneous]
    sampler = ConcurrentSampler(submodels, seed=seed, n_chains=n_chains)
    sampler.run_until(n_draws)
    return sampler.draws()


def pattern_worth(
    matrix: Float[np.ndarray, "chain draw time"], homogeneous: Float[np.ndarray, "chain draw time"]
) -> PatternWorth:
    """Compare log densities of the contrasts' increments in each interval, of draws with a pattern and without."""
    found = [leave_out(np.asarray(log_density)) for log_density in (matrix, homogeneous)]
    pointwise = found[0][0] - found[1][0]
    limits = [pareto_k_limit(log_density.shape[0] * log_density.shape[1]) for log_density in (matrix, homogeneous)]
    bad = [float(np.mean(~(own[1] <= limit))) for own, limit in zip(found, limits, strict=True)]
    return PatternWorth(
        difference=float(pointwise.sum()),
        difference_se=float(np.sqrt(len(pointwise) * pointwise.var())),
        elpd=(float(found[0][0].sum()), float(found[1][0].sum())),
        p_loo=(float(found[0][2].sum()), float(found[1][2].sum())),
        bad_share=(bad[0], bad[1]),
        pointwise=pointwise,
    )
