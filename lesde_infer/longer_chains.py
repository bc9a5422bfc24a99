"""Which chains run for longer: those of the submodels that miss a limit.

Submodels are independent given the data, and some mix a hundred times better than others: the pull of LeNet on shapes
had 132 effective draws of 2,400 where γ had 2,300. So where a limit is missed all submodels get `COMMON` times the
draws, which settles r̂ of those that missed it by chance alone, and from there on only those that lag behind run for
longer, with those that are near it: of what is derived from a submodel, at other intervals than are looked at here, r̂
may be a little larger. (The noise of samples had r̂ of 1.011 at one interval and 1.009 at those looked at, while another
submodel ran on alone until there were no more draws to be had.) At last all run on where none lags and a limit is
missed all the same. What is reported are equally many draws of each, those of long chains thinned: draws of independent
parts may be joined in any order, and thinning leaves a chain's distribution what it is. Limits are then held by what is
reported. (The contrasts of a convolutional network on shapes visit curves of short length scale seldom, and stay: three
seeds in six had 300 to 380 effective draws after ten times as many, and 500 to 620 after 25 times.)

Effective sample sizes grow with the draws. Where a submodel's is so small that even the longest chains would leave it
below `HOPELESS` of what is asked for, they are not run: of 108 simulations of L/gp five had chains that disagreed
altogether (two to five effective draws after ten times the draws), and took longest of all to be refused.

tests/lesde_infer/test_longer_chains.py checks that a submodel that mixes badly is found, and thinned draws against all.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from lesde_infer._jax import jax
from lesde_infer.diagnostics import CURVE_POINTS, MAXIMAL_R_HAT, MINIMAL_ESS, worst
from lesde_infer.sampling import SampleRun, evenly_spread

COMMON = 2  # times the draws that are first asked for, which all submodels may get
NEAR = 0.8  # of r̂ − 1, and of what effective sample sizes are above a limit
HOPELESS = 0.25  # of an effective sample size, which is itself an estimate


def wanted_draws(n_draws: int, times: int, behind: Sequence[bool]) -> list[int]:
    """Return how many draws of each submodel are wanted when those behind get ``times`` as many as at first."""
    return [n_draws * (times if is_behind else min(times, COMMON)) for is_behind in behind]


class Mixing(NamedTuple):
    """How well the chains of a submodel mix: largest r̂ and smallest effective sample size; NaN where chains stick."""

    r_hat: float
    ess: float


def mixing(runs: Sequence[SampleRun]) -> list[Mixing]:
    """Return how well each submodel mixes, by all that varies of its sites and parameters."""
    return [Mixing(*worst(_varying(run))) for run in runs]


def lagging(
    found: Sequence[Mixing], maximal_r_hat: float = MAXIMAL_R_HAT, minimal_ess: float = MINIMAL_ESS
) -> list[bool]:
    """Tell of each submodel whether it has to run for longer: those that miss a limit or are near it, or all.

    (Where each is well within its limits but what is derived from several is not, more draws of all will help.)

    Parameters
    ----------
    found : sequence of Mixing
        Of the submodels.
    maximal_r_hat, minimal_ess : float
        Limits.
    """
    # Comparisons are written so that NaN, which stuck chains give, fails them.
    largest, least = 1.0 + NEAR * (maximal_r_hat - 1.0), minimal_ess / NEAR
    behind = [not (own.r_hat <= largest and own.ess >= least) for own in found]
    return behind if any(behind) else [True] * len(found)


def out_of_reach(found: Sequence[Mixing], growth: float, minimal_ess: float = MINIMAL_ESS) -> bool:
    """Whether some submodel would be far from its limit even with ``growth`` times the draws."""
    return any(not own.ess * growth >= HOPELESS * minimal_ess for own in found)


def _varying(run: SampleRun) -> Float[np.ndarray, "chain draw quantity"]:
    """Return all that varies of sites and parameters; of long axes, such as time, some points."""
    columns = []
    for array in (*run.values.values(), *jax.tree.leaves(run.parameters)):
        draws = np.asarray(array)
        for axis in range(2, draws.ndim):
            if draws.shape[axis] > CURVE_POINTS:
                draws = draws.take(evenly_spread(draws.shape[axis], CURVE_POINTS), axis=axis)
        flat = draws.reshape(*draws.shape[:2], -1)
        columns.append(flat[:, :, ~np.all(flat == flat[:1, :1], axis=(0, 1))])
    return np.concatenate(columns, axis=2)
