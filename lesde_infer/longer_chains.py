"""Which chains run for longer: those of the submodels that miss a limit.

Submodels are independent given the data, and some mix a hundred times better than others: the pull of LeNet on shapes
had 132 effective draws of 2,400 where γ had 2,300. So where a limit is missed all submodels get `COMMON` times the
draws, which settles r̂ of those that missed it by chance alone, and from there on only those that lag behind run for
longer. What is reported are equally many draws of each, those of long chains thinned: draws of independent parts may be
joined in any order, and thinning leaves a chain's distribution what it is. Limits are then held by what is reported.

tests/lesde_infer/test_longer_chains.py checks that a submodel that mixes badly is found, and thinned draws against all.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from lesde_infer._jax import jax
from lesde_infer.diagnostics import CURVE_POINTS, MAXIMAL_R_HAT, MINIMAL_ESS, worst
from lesde_infer.sampling import SampleRun, evenly_spread

COMMON = 2  # times the draws that are first asked for, which all submodels may get


def wanted_draws(n_draws: int, times: int, behind: Sequence[bool]) -> list[int]:
    """Return how many draws of each submodel are wanted when those behind get ``times`` as many as at first."""
    return [n_draws * (times if is_behind else min(times, COMMON)) for is_behind in behind]


def lagging(
    runs: Sequence[SampleRun], maximal_r_hat: float = MAXIMAL_R_HAT, minimal_ess: float = MINIMAL_ESS
) -> list[bool]:
    """Tell of each submodel whether it has to run for longer: those that miss a limit, or all where none does.

    (Where each meets its limits but what is derived from several does not, more draws of all will help.)

    Parameters
    ----------
    runs : sequence of SampleRun
        Draws of the submodels.
    maximal_r_hat, minimal_ess : float
        Limits.
    """
    behind = [not _meets(run, maximal_r_hat, minimal_ess) for run in runs]
    return behind if any(behind) else [True] * len(runs)


def _meets(run: SampleRun, maximal_r_hat: float, minimal_ess: float) -> bool:
    r_hat, ess = worst(_varying(run))
    # Comparisons are written so that NaN, which stuck chains give, fails them.
    return r_hat <= maximal_r_hat and ess >= minimal_ess


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
