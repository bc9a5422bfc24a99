"""Sampling the posterior of one submodel by NUTS in whitened coordinates.

Chains start around the mode (`lesde_infer.mode`), whitened by the information there. They are lanes of one program,
compiled once per shape: a second submodel of the same shape compiles nothing.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from jaxtyping import Array, Float, Int
from numpyro.infer.hmc import HMCState, hmc

from lesde_infer._jax import jax, jit_briefly_used, jnp
from lesde_infer.kept_traces import kept_trace
from lesde_infer.log_prior import top_level_log_prior
from lesde_infer.variant import (
    Points,
    Position,
    Variant,
    at_origin,
    interval_log_likelihood,
    site_values,
    traced_alone,
    whitened_potential,
)

START_JITTER = 0.2  # at most, of unconstrained hyperparameters around the mode: chains start apart, in the typical set
WEIGHT_JITTER = 0.5  # of the whitened weights, in units of their posterior's standard deviation
MAXIMAL_TREE_DEPTH = 8
DRAWS_AT_ONCE = 50  # whose intermediate values, of all intervals, are in memory together
CHUNK = 50  # iterations of one call of the compiled program, so that any total is made of one program


@dataclass(frozen=True)
class SampleRun:
    """Draws of a submodel.

    Attributes
    ----------
    values : dict of arrays, shape (chain, draw, ...)
        Values of all sites.
    parameters : NamedTuple of arrays with leading axes (chain, draw)
        Rates, noise scales and the rest, as the variant gives them.
    log_likelihood : array, shape (chain, draw, stratum, time)
        Log density of each interval.
    statistics : dict of arrays, shape (chain, draw)
        ``diverging``, ``n_steps`` (gradients), ``energy``, ``lp``, ``acceptance_rate``, ``step_size``.
    log_prior : array, shape (chain, draw), or None
        Log density of the priors that depend on no other site (`lesde_infer.log_prior`), where it is known.

    Where chains were thinned (`Chains.draws`) statistics speak of all transitions since the last draw: gradients are
    added up, a transition that diverged among them counts, and acceptance is their mean.
    """

    values: Position
    parameters: Any
    log_likelihood: Float[np.ndarray, "chain draw stratum time"]
    statistics: dict[str, np.ndarray]
    log_prior: Float[np.ndarray, "chain draw"] | None = None


@dataclass(frozen=True)
class Layout:
    """Order and shapes of the sites of one model in a flat vector: NUTS moves one array faster than several.

    Attributes
    ----------
    sites : tuple of (name, shape)
        Sites in order.
    """

    sites: tuple[tuple[str, tuple[int, ...]], ...]

    @classmethod
    def of(cls, position: Position, n_lead: int) -> "Layout":
        """Return the layout of a position with ``n_lead`` leading axes."""
        return cls(tuple((name, value.shape[n_lead:]) for name, value in sorted(position.items())))

    def ravel(self, position: Position, n_lead: int) -> Float[Array, "*lead position"]:
        """Concatenate the sites of a position with ``n_lead`` leading axes."""
        flat = [position[name].reshape(*position[name].shape[:n_lead], -1) for name, _ in self.sites]
        return jnp.concatenate(flat, axis=-1)

    def unravel(self, flat: Float[Array, "*lead position"]) -> Position:
        """Undo `ravel`."""
        ends = np.cumsum([int(np.prod(shape)) for _, shape in self.sites])
        parts = jnp.split(flat, ends[:-1], axis=-1)
        return {
            name: part.reshape(*flat.shape[:-1], *shape) for (name, shape), part in zip(self.sites, parts, strict=True)
        }


@dataclass(frozen=True)
class _Kernel:
    """NUTS over chains, as two compiled functions."""

    start: Callable[[Array, Array, Array, Any, Points], HMCState]
    advance: Callable[[HMCState, Any, Points], tuple[HMCState, HMCState]]


@lru_cache(maxsize=32)
def _kernel(variant: Variant, n_warmup: int, target_acceptance: float, layout: Layout) -> _Kernel:
    def potential(data: Any, points: Points) -> Callable[[Array], Array]:
        return lambda flat: whitened_potential(variant, layout.unravel(flat), data, points)

    initialise, step = hmc(potential_fn_gen=potential, algo="NUTS")
    initialised = False

    def start_one(flat: Array, key: Array, spread: Array, data: Any, points: Points) -> HMCState:
        nonlocal initialised
        variance, initialised = spread**2, True
        return initialise(
            flat,
            n_warmup,
            inverse_mass_matrix=jnp.diag(variance) if variant.dense_mass else variance,
            target_accept_prob=target_acceptance,
            max_tree_depth=MAXIMAL_TREE_DEPTH,
            dense_mass=variant.dense_mass,
            model_args=(data, points),
            rng_key=key,
        )

    def step_one(state: HMCState, data: Any, points: Points) -> HMCState:
        return step(state, (data, points))

    step_chains = jax.vmap(step_one, (0, None, None))

    def advance(state: HMCState, data: Any, points: Points) -> tuple[HMCState, HMCState]:
        if not initialised:  # the start was kept: but NumPyro's step is told how to adapt by the tracing of its start
            jax.eval_shape(start_one, state.z[0], state.rng_key[0], state.z[0], data, points)

        def body(state: HMCState, _: None) -> tuple[HMCState, HMCState]:
            state = step_chains(state, data, points)
            return state, state._replace(z_grad=None, adapt_state=state.adapt_state.step_size, rng_key=None)

        return jax.lax.scan(body, state, length=CHUNK)

    kind = (variant, n_warmup, target_acceptance, layout)
    start = kept_trace(jax.vmap(start_one, (0, 0, None, None, None)), "start of chains", *kind)
    return _Kernel(jit_briefly_used(start), jax.jit(kept_trace(advance, "chains", *kind)))


@lru_cache(maxsize=32)
def _of_draws(variant: Variant) -> Callable[..., tuple[Position, Any, Array, Array]]:
    """Return the function from positions to sites, parameters, interval log likelihoods and log priors."""

    @traced_alone
    def one(position: Position, data: Any, points: Points) -> tuple[Position, Any, Array, Array]:
        values = site_values(variant, position, data, points)
        log_likelihood = interval_log_likelihood(variant, values, data)
        log_prior = top_level_log_prior(variant.model, values, data)
        return values, variant.parameters(values, data), log_likelihood, log_prior

    def all_draws(positions: Position, data: Any, points: Points) -> tuple[Position, Any, Array, Array]:
        shape = next(iter(positions.values())).shape[:2]
        flat = {name: value.reshape(-1, *value.shape[2:]) for name, value in positions.items()}
        found = jax.lax.map(lambda position: one(position, data, points), flat, batch_size=DRAWS_AT_ONCE)
        return jax.tree.map(lambda value: value.reshape(*shape, *value.shape[1:]), found)

    return jax.jit(kept_trace(all_draws, "draws", variant))


class Chains:
    """NUTS chains of a submodel, which can be run for longer.

    Parameters
    ----------
    variant, data
        What is sampled.
    mode, points
        Where chains start, and the whitening there (`lesde_infer.mode.find_mode`).
    spread
        How far posteriors reach around the mode (`lesde_infer.mode.spread_around`): the scale of the first steps.
    key : jax.Array
        Seed of all random numbers.
    n_chains : int
        Number of chains.
    n_warmup : int
        Iterations of adaptation; rounded up to a multiple of `CHUNK`, as all iterations are.
    target_acceptance : float
        Acceptance probability that the step size is adapted to.
    """

    def __init__(
        self,
        variant: Variant,
        data: Any,
        mode: Position,
        points: Points,
        spread: Position,
        *,
        key: jax.Array,
        n_chains: int,
        n_warmup: int,
        target_acceptance: float,
    ) -> None:
        self._variant, self._data, self._points = variant, data, points
        self._layout = Layout.of(mode, 0)
        self._n_warmup = iterations(n_warmup)
        self._kernel = _kernel(variant, self._n_warmup, target_acceptance, self._layout)
        run_key, jitter_key = jax.random.split(key)
        start = self._layout.ravel(_scatter(mode, spread, jitter_key, n_chains), 1)
        keys = jax.random.split(run_key, n_chains)
        self._state = self._kernel.start(start, keys, self._layout.ravel(spread, 0), data, points)
        self._kept: list[HMCState] = []
        self._found: list[tuple[Position, Any, Array, Array]] = []  # what `_of_draws` gives for all of those kept
        self.n_done = 0

    def advance(self) -> int:
        """Move each chain by some iterations, and return by how many; draws are kept once chains are warm."""
        self._state, states = self._kernel.advance(self._state, self._data, self._points)
        if self.n_done >= self._n_warmup:
            self._kept.append(jax.tree.map(np.asarray, states))
        self.n_done += CHUNK
        return CHUNK

    def take_smaller_steps(self, share: float) -> None:
        """Go on at a share of the step size; draws so far are thrown away, and `CHUNK` iterations let chains settle."""
        adapted = self._state.adapt_state
        self._state = self._state._replace(adapt_state=adapted._replace(step_size=share * adapted.step_size))
        self._kept, self._found = [], []
        self.n_done = self._n_warmup - CHUNK

    @property
    def divergences(self) -> int:
        """Divergent transitions after warm-up."""
        return int(sum(states.diverging.sum() for states in self._kept))

    @property
    def n_draws(self) -> int:
        """Draws of each chain."""
        return CHUNK * len(self._kept)

    def draws(self, n_draws: int | None = None) -> SampleRun:
        """Return all draws so far, or so many of them, evenly spread and the last included."""
        kept = np.arange(self.n_draws)
        if n_draws is not None and n_draws < self.n_draws:
            kept = evenly_spread(self.n_draws, n_draws)
        # Iterations lead; chains go before draws.
        states = jax.tree.map(lambda *chunks: np.moveaxis(np.concatenate(chunks), 0, 1), *self._kept)
        positions = states.z[:, kept]
        found = [] if len(kept) < self.n_draws else self._found
        # Chunk by chunk, so that one program serves chains of any length.
        for first in range(CHUNK * len(found), len(kept), CHUNK):
            position = self._layout.unravel(positions[:, first : first + CHUNK])
            found.append(jax.tree.map(np.asarray, _of_draws(self._variant)(position, self._data, self._points)))
        values, parameters, log_likelihood, log_prior = jax.tree.map(
            lambda *chunks: np.concatenate(chunks, axis=1), *found
        )
        starts = np.concatenate([[0], kept[:-1] + 1])
        lengths = np.diff(starts, append=kept[-1] + 1)
        statistics = {
            "diverging": np.logical_or.reduceat(states.diverging, starts, axis=1),
            "n_steps": np.add.reduceat(states.num_steps, starts, axis=1),
            "energy": states.energy[:, kept],
            "lp": -states.potential_energy[:, kept],
            "acceptance_rate": np.add.reduceat(states.accept_prob, starts, axis=1) / lengths,
            "step_size": states.adapt_state[:, kept],
        }
        return SampleRun(values, parameters, log_likelihood, statistics, log_prior)


def evenly_spread(n_available: int, n_wanted: int) -> Int[np.ndarray, " wanted"]:
    """Return which of so many draws to keep, in order; the last is among them."""
    return np.arange(1, n_wanted + 1) * n_available // n_wanted - 1


def iterations(wanted: int) -> int:
    """Return the number of iterations done where ``wanted`` are asked for: a multiple of `CHUNK`."""
    return -(-wanted // CHUNK) * CHUNK


def _scatter(mode: Position, spread: Position, key: Array, n_chains: int) -> Position:
    """Scatter chains: hyperparameters around their mode, whitened weights around zero, their own centre."""
    keys = jax.random.split(key, len(mode))
    starts = {}
    for (name, value), site_key in zip(sorted(at_origin(mode).items()), keys, strict=True):
        distance = WEIGHT_JITTER if name.endswith("_whitened") else jnp.minimum(START_JITTER, spread[name])
        starts[name] = value + distance * jax.random.normal(site_key, (n_chains, *value.shape))
    return starts
