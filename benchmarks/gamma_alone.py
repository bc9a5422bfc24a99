"""The posterior of γ by itself, as `lesde_infer.fit` would give it, in a fifth of the time.

Under impacts R and I no stratum depends on another's parameters (`lesde_infer.model`): the posterior of γ is that of
the contrasts along their impact, whatever is done about noise, mean and deviations. Studies of many runs that ask about
γ only need nothing else.
"""

from dataclasses import dataclass

import numpy as np
import xarray as xr
from arviz_stats.base import array_stats
from jaxtyping import Float

from lesde_infer._jax import jax
from lesde_infer.assembly import assemble, locate
from lesde_infer.calibrated_fit import maximal_r_hat
from lesde_infer.curves import prior_width
from lesde_infer.flags import Flag, flags_where, hardly_learned, impact_within_chance
from lesde_infer.model import StrataData
from lesde_infer.statistics import Statistics
from lesde_infer.submodel_sampler import SubmodelSampler

LONGER = (2, 4)  # times as many draws where chains disagree


@dataclass(frozen=True)
class GammaPosterior:
    """Draws of γ, what they do not identify, and how well they mixed.

    Attributes
    ----------
    gamma : DataArray, dimensions chain, draw and time
        γ per unit of time in each interval.
    flags : list of Flag
        Where γ is not identified.
    r_hat_max, ess_min : float
        Worst values over γ at 20 intervals.
    divergences : int
        Divergent transitions after warm-up.
    """

    gamma: xr.DataArray
    flags: list[Flag]
    r_hat_max: float
    ess_min: float
    divergences: int

    @property
    def mixed(self) -> bool:
        """Whether chains agree on γ, and none diverged."""
        n_draws = self.gamma.sizes["chain"] * self.gamma.sizes["draw"]
        return self.r_hat_max <= maximal_r_hat(n_draws) and not self.divergences

    @property
    def flat(self) -> Float[np.ndarray, "draw time"]:
        """All draws."""
        values = self.gamma.to_numpy()
        return values.reshape(-1, values.shape[-1])


def gamma_alone(statistics: Statistics, seed: int, *, n_chains: int, n_draws: int) -> GammaPosterior:
    """Sample γ of a run; homogeneous elasticity, curve ``gp``.

    Chains run on, to two and four times as many draws, where they disagree: r̂ is judged in proportion to the draws, as
    in calibrations (`lesde_infer.calibrated_fit`).
    """
    if statistics.impact == "L":
        raise ValueError("under L contrasts depend on the mean over classes; use lesde_infer.fit")
    submodels = assemble(statistics, "gp")
    own = next(submodel for submodel in submodels if "contrast" in submodel.strata)
    data, place = locate(submodels, "contrast")
    assert isinstance(data, StrataData)  # noqa: S101  (elasticity is homogeneous)
    sampler = SubmodelSampler(own, jax.random.key(seed), n_chains)
    for times in (1, *LONGER):
        sampler.run_until(times * n_draws, lambda _: None)
        run = sampler.draws()
        gamma = np.asarray(run.parameters.location)[:, :, place]
        grid = gamma[:, :, np.unique(np.linspace(0, gamma.shape[2] - 1, 20).round().astype(int))]
        r_hat = float(np.max(array_stats.rhat(grid, chain_axis=0, draw_axis=1)))
        if r_hat <= maximal_r_hat(gamma.shape[0] * gamma.shape[1]) and not sampler.divergences:
            break
    width = np.asarray(prior_width("gp", data.prior, data.design)[place])
    unknown = hardly_learned(gamma.reshape(-1, gamma.shape[-1]), float(data.reference[place]), width)
    unknown |= impact_within_chance(statistics.impact_f, statistics.n_classes, statistics.start_samples)
    return GammaPosterior(
        gamma=xr.DataArray(gamma, dims=("chain", "draw", "time"), coords={"time": statistics.midpoints}),
        flags=flags_where("gamma_not_identified", unknown, statistics.steps, statistics.starts),
        r_hat_max=r_hat,
        ess_min=float(np.min(array_stats.ess(grid, chain_axis=0, draw_axis=1, method="bulk"))),
        divergences=int(run.statistics["diverging"].sum()),
    )
