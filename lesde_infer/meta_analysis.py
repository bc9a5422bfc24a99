"""What several runs of each architecture say together: architecture means, chance from run to run, and contrasts.

Of run i of architecture a the data say yᵢ ± sᵢ of a quantity θᵢ, and runs of one architecture scatter around its mean,

    yᵢ ~ N(θᵢ, sᵢ²),      θᵢ ~ N(μₐ, τₐ²),      μₐ ~ N(m, 10²),      τₐ ~ half-Student-t with 4 degrees of freedom, ½,

with m the mean of all yᵢ. Quantities are on a scale on which runs differ by sums (`Scale`): logarithms of what is
positive, asinh(x/r) of what may have either sign, which is a logarithm up to a constant where |x| ≫ r. There a τ of ½
means that runs differ by a factor of e^½ = 1.6. With τₐ given all else is Gaussian:

    yᵢ ~ N(m, (sᵢ² + τₐ²) I + 10² 11ᵀ),

so that the posterior of τₐ is a function of one number, evaluated on a grid, and that of μₐ a mixture of Gaussians over
it. Nothing is sampled that could fail to converge, and a hundred runs take milliseconds. That is the *two-stage* route.
The *joint* route samples μ, τ and every θᵢ by NUTS, with the weighted kernel density of each run's draws in place of
N(yᵢ, sᵢ²). Both must agree; that they do is checked in tests/lesde_infer/test_meta_analysis.py, as are the closed form
for τ known and how often equal architectures are called different.

With one run of an architecture its τₐ is the prior's: the interval of μₐ then says what seeds may do by experience
with other runs, and not what they do here.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float
from scipy.special import logsumexp
from scipy.stats import t as student_t

from lesde_infer.run_summary import WeightedDraws

Route = Literal["two-stage", "joint", "quick"]
"""How runs are put together; ``quick`` is two-stage, from estimates in the place of posteriors."""
Scale = Literal["asinh", "log", "linear"]

MEAN_SPREAD = 10.0  # prior sd of μ around the mean of all runs
CHANCE_SCALE, CHANCE_DEGREES = 0.5, 4.0  # of the prior of τ
GRID = np.concatenate([[0.0], np.geomspace(1e-3, 1e2, 300)])
N_DRAWS = 4000
KERNEL_POINTS = 200


@dataclass(frozen=True)
class GroupPosterior:
    """What the runs of one architecture say of a quantity, on the scale on which runs differ by sums.

    Attributes
    ----------
    mean : array, shape (draw,)
        Draws of μ, the mean over runs that might have been made.
    chance : array, shape (draw,)
        Draws of τ, the standard deviation from run to run.
    n_runs : int
        Runs that tell the quantity.
    error : float
        Root mean square of the sᵢ.
    """

    mean: Float[np.ndarray, " draw"]
    chance: Float[np.ndarray, " draw"]
    n_runs: int
    error: float


def two_stage(
    values: Float[np.ndarray, " run"], errors: Float[np.ndarray, " run"], centre: float, seed: int
) -> GroupPosterior:
    """Return the posterior of an architecture from means and standard deviations of its runs.

    Parameters
    ----------
    values, errors : array, shape (run,)
        yᵢ and sᵢ; errors may be 0.
    centre : float
        m, of the prior of μ.
    seed : int
        Of the draws.
    """
    rng = np.random.default_rng(seed)
    log_prior = student_t.logpdf(GRID / CHANCE_SCALE, CHANCE_DEGREES) + np.log(_widths(GRID))
    variance = errors**2 + GRID[:, None] ** 2
    with np.errstate(divide="ignore", invalid="ignore"):
        precision = 1.0 / variance
        total = precision.sum(axis=1) + MEAN_SPREAD**-2
        mean = ((values - centre) * precision).sum(axis=1) / total
        square = ((values - centre) ** 2 * precision).sum(axis=1) - total * mean**2
        log_likelihood = 0.5 * np.log(precision).sum(axis=1) - 0.5 * np.log(total) - 0.5 * square
    # τ = 0 has no density of its own where errors are 0 as well: two equal numbers would settle everything.
    log_posterior = np.where(np.isfinite(log_likelihood), log_prior + log_likelihood, -np.inf)
    weights = np.exp(log_posterior - logsumexp(log_posterior))
    chosen = rng.choice(len(GRID), size=N_DRAWS, p=weights)
    draws = centre + mean[chosen] + rng.normal(size=N_DRAWS) / np.sqrt(total[chosen])
    return GroupPosterior(draws, GRID[chosen], len(values), float(np.sqrt(np.mean(errors**2))))


def _widths(grid: Float[np.ndarray, " point"]) -> Float[np.ndarray, " point"]:
    """Return the length of the axis that each point of a grid stands for."""
    edges = np.concatenate([grid[:1], 0.5 * (grid[1:] + grid[:-1]), grid[-1:]])
    return np.diff(edges)


def moments(draws: WeightedDraws) -> tuple[float, float]:
    """Return mean and standard deviation of weighted draws."""
    mean = float(draws.weights @ draws.values)
    return mean, float(np.sqrt(draws.weights @ (draws.values - mean) ** 2))


def joint(runs: Sequence[WeightedDraws], centre: float, seed: int, *, n_chains: int = 4) -> GroupPosterior:
    """Return the posterior of an architecture by NUTS over μ, τ and every θᵢ, from the draws of each run.

    Parameters
    ----------
    runs : sequence of WeightedDraws
        What each run's data say.
    centre, seed
        As of `two_stage`.
    n_chains : int
        Chains.

    Raises
    ------
    ConvergenceError
        If r̂ of μ or τ is above 1.01, or fewer than 400 draws are effective.
    """
    import numpyro
    import numpyro.distributions as dist
    from arviz_stats.base import array_stats
    from numpyro.infer import MCMC, NUTS

    from lesde_infer._jax import jax, jnp
    from lesde_infer.diagnostics import MAXIMAL_R_HAT, MINIMAL_ESS
    from lesde_infer.inference import ConvergenceError

    of_runs = [moments(run) for run in runs]
    values, errors = (np.array(column) for column in zip(*of_runs, strict=True))
    kernels = [_kernel(run, error) for run, error in zip(runs, errors, strict=True)]
    points, log_weights, widths = (jnp.asarray(np.stack(part)) for part in zip(*kernels, strict=True))

    def model() -> None:
        mean = numpyro.sample("mean", dist.Normal(centre, MEAN_SPREAD))
        half = dist.FoldedDistribution(dist.StudentT(CHANCE_DEGREES, 0.0, CHANCE_SCALE))
        chance = numpyro.sample("chance", half)
        # Non-centred where runs are told badly, centred where they are told well.
        share = chance**2 / (chance**2 + errors**2)
        raw = numpyro.sample("raw", dist.Normal(jnp.zeros(len(runs)), 1.0))
        own = (1.0 - share) * mean + share * values + jnp.sqrt(share) * errors * raw
        jacobian = 0.5 * jnp.log(jnp.maximum(share, 1e-300)) + jnp.log(errors)
        prior = dist.Normal(mean, chance).log_prob(own) - dist.Normal().log_prob(raw) + jacobian
        density = dist.Normal(points, widths[:, None]).log_prob(own[:, None]) + log_weights
        numpyro.factor("runs", (prior + jax.scipy.special.logsumexp(density, axis=1)).sum())

    sampler = MCMC(
        NUTS(model, target_accept_prob=0.95),
        num_warmup=1000,
        num_samples=N_DRAWS // n_chains,
        num_chains=n_chains,
        chain_method="vectorized",
        progress_bar=False,
    )
    sampler.run(jax.random.key(seed))
    draws = {name: np.asarray(value) for name, value in sampler.get_samples(group_by_chain=True).items()}
    for name in ("mean", "chance"):
        r_hat = float(array_stats.rhat(draws[name], chain_axis=0, draw_axis=1))
        ess = float(array_stats.ess(draws[name], chain_axis=0, draw_axis=1, method="bulk"))
        if not (r_hat <= MAXIMAL_R_HAT and ess >= MINIMAL_ESS):
            raise ConvergenceError(
                f"the joint model of {len(runs)} runs did not converge (r_hat of {name} {r_hat:.3f}, ESS {ess:.0f}); "
                "use the two-stage route"
            )
    return GroupPosterior(draws["mean"].ravel(), draws["chance"].ravel(), len(runs), float(np.sqrt(np.mean(errors**2))))


def _kernel(run: WeightedDraws, error: float) -> tuple[Float[np.ndarray, " point"], Float[np.ndarray, " point"], float]:
    """Return points, their log weights and the bandwidth of a kernel density: quantiles of the draws, narrowed.

    Points are drawn in towards their mean so that the density has the draws' own variance.
    """
    order = np.argsort(run.values)
    cumulative = np.cumsum(run.weights[order])
    levels = (np.arange(KERNEL_POINTS) + 0.5) / KERNEL_POINTS
    points = run.values[order][np.searchsorted(cumulative, levels).clip(0, len(order) - 1)]
    share = KERNEL_POINTS**-0.2  # Scott's rule
    width = max(share * error, 1e-9)
    centre = points.mean()
    narrowed = centre + (points - centre) * np.sqrt(max(1.0 - share**2, 0.0))
    return narrowed, np.full(KERNEL_POINTS, -np.log(KERNEL_POINTS)), width
