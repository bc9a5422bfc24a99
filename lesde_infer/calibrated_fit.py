"""One simulation of a calibration: a run from the prior, fitted as users' runs are, and how the truth ranks.

The fit is that of `lesde_infer.inference`: mode, whitening, chains with the same warm-up and acceptance, smaller steps
for submodels in which transitions diverged, longer chains where limits are missed (`lesde_infer.longer_chains`). Only
the chains may be fewer and shorter. Limits are then those of users' fits in proportion: effective sample sizes per
chain, and r̂² − 1, which chance alone makes inversely proportional to the number of draws, per draw. (With users' own
limit of 1.01 the worst r̂ of some 60 quantities misses it by chance in nearly every fit of 800 draws.)
"""

from dataclasses import dataclass
from threading import Event

import numpy as np
from jaxtyping import Float, Int

from lesde_infer._jax import jax
from lesde_infer.calibrated_quantities import Draws, quantities
from lesde_infer.calibration_template import Template
from lesde_infer.concurrent_sampling import equally_many
from lesde_infer.diagnostics import MAXIMAL_R_HAT, MINIMAL_ESS, worst
from lesde_infer.inference import CHAINS as USERS_CHAINS
from lesde_infer.inference import LONGER
from lesde_infer.longer_chains import COMMON, lagging, mixing, out_of_reach, wanted_draws
from lesde_infer.posterior import build_posterior
from lesde_infer.rank_statistics import RANKED_DRAWS
from lesde_infer.sampling import SampleRun
from lesde_infer.simulated_increments import SimulatedRun, simulation_key
from lesde_infer.submodel_sampler import SubmodelSampler

MINIMAL_ESS_OF_CHAIN = MINIMAL_ESS / USERS_CHAINS
DRAWS_OF_LIMIT = 3000  # of all chains, for which users' limit of r̂ leaves chance room enough


@dataclass(frozen=True)
class Simulation:
    """What is kept of one simulation; arrays have one entry a quantity, on the scale of `calibrated_quantities`.

    Attributes
    ----------
    number : int
        Which simulation.
    converged : bool
        Whether every limit was met.
    r_hat_max, ess_min : float
        Worst over all quantities; of the effective sample sizes of bulk and tails.
    divergences, n_draws : int
        Divergent transitions after warm-up, and draws of each chain.
    truth, mean, sd : array, shape (quantity,)
        What was drawn from the prior, and mean and standard deviation of the posterior.
    rank : array, shape (quantity,)
        Number of draws, of `RANKED_DRAWS`, below the truth.
    """

    number: int
    converged: bool
    r_hat_max: float
    ess_min: float
    divergences: int
    n_draws: int
    truth: Float[np.ndarray, " quantity"]
    mean: Float[np.ndarray, " quantity"]
    sd: Float[np.ndarray, " quantity"]
    rank: Int[np.ndarray, " quantity"]


def fit_simulation(
    template: Template, run: SimulatedRun, *, seed: int, number: int, n_chains: int, n_draws: int, stop: Event
) -> Simulation:
    """Fit a simulated run, and rank what it was simulated from.

    Parameters
    ----------
    template : Template
        What the run was modelled on.
    run : SimulatedRun
        Truth, and data.
    seed, number : int
        Seed of the calibration, and which simulation this is.
    n_chains, n_draws : int
        Chains, and draws of each after warm-up, before they are run for longer.
    stop : Event
        When set, sampling ends with `StoppedError`.
    """
    key = simulation_key(seed, number, "sampler")
    samplers = [
        SubmodelSampler(submodel, own, n_chains)
        for submodel, own in zip(run.submodels, jax.random.split(key, len(run.submodels)), strict=True)
    ]

    def report(_: int) -> None:
        if stop.is_set():
            raise StoppedError

    truth = _quantities(template, run, run.truth)
    behind, done = [True] * len(samplers), None
    for times in (1, *LONGER, *LONGER[-1:]):  # as `lesde_infer.inference` goes on
        wanted = wanted_draws(n_draws, times, behind)
        if wanted == done:
            break
        for sampler, own_draws in zip(samplers, wanted, strict=True):
            report(0)
            sampler.run_until(own_draws, report)
        done = wanted
        divergences = sum(sampler.divergences for sampler in samplers)
        runs = equally_many(samplers)
        draws = _quantities(template, run, runs)
        values = np.stack(list(draws.values()), axis=2)
        r_hat, ess = worst(values)
        # Comparisons are written so that NaN, which stuck chains give, fails them.
        limit = maximal_r_hat(n_chains * values.shape[1])
        converged = r_hat <= limit and ess >= MINIMAL_ESS_OF_CHAIN * n_chains and divergences == 0
        if converged or divergences:  # more draws do not mend what diverged with the smallest steps
            break
        if times < COMMON:  # all of them run on
            continue
        found = mixing(runs)
        if times > COMMON and out_of_reach(found, max(LONGER) / times, MINIMAL_ESS_OF_CHAIN * n_chains):
            break
        behind = lagging(found, limit, MINIMAL_ESS_OF_CHAIN * n_chains)
    true_values = np.array([value[0, 0] for value in truth.values()])
    generator = np.random.default_rng([seed, number, len(samplers)])
    return Simulation(
        number=number,
        converged=converged,
        r_hat_max=r_hat,
        ess_min=ess,
        divergences=divergences,
        n_draws=values.shape[1],
        truth=true_values,
        mean=values.mean(axis=(0, 1)),
        sd=values.std(axis=(0, 1), ddof=1),
        rank=rank_truth(values, true_values, generator),
    )


def maximal_r_hat(n_draws: int) -> float:
    """Return the limit of r̂ for so many draws of all chains: see the module's docstring."""
    share = min(n_draws / DRAWS_OF_LIMIT, 1.0)
    return float(np.sqrt(1.0 + (MAXIMAL_R_HAT**2 - 1.0) / share))


def _quantities(
    template: Template, run: SimulatedRun, draws: "list[SampleRun] | tuple[SampleRun, ...]"
) -> dict[str, Draws]:
    return quantities(build_posterior(template.statistics, run.submodels, draws, mixed=template.mixed), template)


def rank_truth(
    draws: Float[np.ndarray, "chain draw quantity"],
    truth: Float[np.ndarray, " quantity"],
    generator: np.random.Generator,
    n_ranked: int = RANKED_DRAWS,
) -> Int[np.ndarray, " quantity"]:
    """Return the rank of each truth among ``n_ranked`` draws that are spread evenly over the chains.

    Neighbouring draws of a chain resemble one another; those left are about independent where effective sample sizes
    meet their limit. Ties are broken at random. Draws that are not finite all lie on one side of the truth, either one:
    no interval of theirs holds it.
    """
    flat = draws.reshape(-1, draws.shape[2])
    chosen = flat[np.linspace(0, len(flat) - 1, n_ranked).round().astype(int)]
    below, ties = (chosen < truth).sum(axis=0), (chosen == truth).sum(axis=0)
    ranks = below + generator.integers(0, ties + 1)
    ends = n_ranked * generator.integers(0, 2, size=len(truth))
    return np.where(np.isfinite(chosen).all(axis=0), ranks, ends)


class StoppedError(Exception):
    """Raised in a thread that was told to stop; never seen outside."""
