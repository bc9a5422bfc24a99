"""Sampling the posterior of one submodel: mode, information there, then NUTS in whitened coordinates.

With no information given, conditional whitening is the non-centred parametrisation, in which a first mode is sought;
the Fisher information there whitens the model, in whose coordinates the mode is refined (it is now the mode of
Laplace's approximation of the marginal posterior of the hyperparameters), and the information taken again for
NUTS. Chains are lanes of one program, compiled once per shape: a second submodel of the same shape compiles nothing.

Submodels may be sampled in threads side by side: programs run without Python's lock. Only tracing, in which NumPyro
keeps its handlers in a stack of the whole process, is done by one thread at a time (`_traced_alone`).
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial, wraps
from threading import RLock
from typing import Any, NamedTuple, ParamSpec, Protocol, TypeVar

import numpy as np
import numpyro
import scipy.optimize
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float
from numpyro.infer.hmc import HMCState, hmc
from numpyro.infer.util import constrain_fn, log_density, potential_energy, unconstrain_fn

from lesde_infer._jax import jax, jnp
from lesde_infer.whitening import ConditionalWhitening, WhiteningPoint

Position = dict[str, Array]
Arguments = ParamSpec("Arguments")
Returned = TypeVar("Returned")

START_JITTER = 0.2  # of the unconstrained hyperparameters around the mode: chains start apart, in the typical set
WEIGHT_JITTER = 0.5  # of the whitened weights, in units of their posterior's standard deviation
MAXIMAL_TREE_DEPTH = 8
FORBIDDEN = 1e100  # potential energy where it overflows
FIRST_ITERATIONS = 400
REFINING_ITERATIONS = 60
MOST_REFINEMENTS = 8
REFINED = 0.5  # posterior standard deviations that whitened weights still moved
DRAWS_AT_ONCE = 50  # whose intermediate values, of all intervals, are in memory together
CHUNK = 50  # iterations of one call of the compiled program, so that any total is made of one program


_tracing = RLock()


def _traced_alone(function: Callable[Arguments, Returned]) -> Callable[Arguments, Returned]:
    """Let one thread at a time run a function that runs a NumPyro model, which happens only while it is traced."""

    @wraps(function)
    def alone(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Returned:
        with _tracing:
            return function(*args, **kwargs)

    return alone


class Variant(Protocol):
    """A kind of model, hashable, so that it is compiled once: its equations without its data."""

    def __hash__(self) -> int:
        """Equal variants compile to the same program."""

    @property
    def dense_mass(self) -> bool:
        """Whether hyperparameters lean on each other so much that NUTS needs a dense mass matrix."""

    def model(self, data: Any) -> None:
        """Run the NumPyro model in its own coordinates; its likelihood is the site ``increment``."""

    def parameters(self, values: Position, data: Any) -> NamedTuple:
        """Return what is kept of a draw, from values of the model's sites."""

    def information(self, values: Position, data: Any) -> Position:
        """Return the information of the likelihood in each site that is whitened, shape (*row*, entry, entry)."""

    def whitened_shapes(self, data: Any) -> dict[str, tuple[int, int]]:
        """Return the shapes (row, entry) of the sites that are whitened, normal a priori given all others."""


Points = dict[str, WhiteningPoint]


def _whitened_model(variant: Variant, data: Any, points: Points) -> None:
    """Run the model in whitened coordinates."""
    with numpyro.handlers.reparam(config={site: ConditionalWhitening(point) for site, point in points.items()}):
        variant.model(data)


def interval_log_likelihood(variant: Variant, values: Position, data: Any) -> Float[Array, "stratum time"]:
    """Log density of each interval at values of the model's sites."""
    _, trace = log_density(variant.model, (data,), {}, values)
    return trace["increment"]["fn"].log_prob(trace["increment"]["value"])


def non_centred(variant: Variant, data: Any) -> Points:
    """Return the whitening without information, which is the non-centred parametrisation."""
    return {
        site: WhiteningPoint(jnp.zeros((*shape, shape[-1])), jnp.zeros(shape))
        for site, shape in variant.whitened_shapes(data).items()
    }


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
    """

    values: Position
    parameters: Any
    log_likelihood: Float[np.ndarray, "chain draw stratum time"]
    statistics: dict[str, np.ndarray]


@_traced_alone
def _potential(variant: Variant, position: Position, data: Any, points: Points) -> Array:
    return potential_energy(partial(_whitened_model, variant), (data, points), {}, position)


@lru_cache(maxsize=32)
def _objective(variant: Variant) -> Callable[[Position, Any, Points], tuple[Array, Position]]:
    return jax.jit(jax.value_and_grad(lambda *args: _potential(variant, *args)))


@lru_cache(maxsize=32)
def _start(variant: Variant) -> Callable[[Any, Points], Position]:
    """Return the function that gives the median of every hyperparameter's prior, and weights at their centre."""
    model = partial(_whitened_model, variant)

    @_traced_alone
    def start(data: Any, points: Points) -> Position:
        seeded = numpyro.handlers.seed(model, jax.random.key(0))
        initialised = numpyro.handlers.substitute(seeded, substitute_fn=numpyro.infer.init_to_median(num_samples=15))
        trace = numpyro.handlers.trace(initialised).get_trace(data, points)
        latent = {n: s["value"] for n, s in trace.items() if s["type"] == "sample" and not s["is_observed"]}
        return _at_origin(unconstrain_fn(model, (data, points), {}, latent))

    return jax.jit(start)


def _at_origin(position: Position) -> Position:
    """Put whitened weights at the origin, where they are at their own mode."""
    return {name: jnp.zeros_like(v) if name.endswith("_whitened") else v for name, v in position.items()}


@lru_cache(maxsize=32)
def _whiten_at(variant: Variant) -> Callable[[Position, Any, Points], Points]:
    """Return the function that gives the Gaussian approximation of the likelihood at a position."""

    def log_likelihood(whitened: Position, values: Position, data: Any) -> Array:
        return interval_log_likelihood(variant, {**values, **whitened}, data).sum()

    @_traced_alone
    def whiten_at(position: Position, data: Any, points: Points) -> Points:
        values = _values(variant, position, data, points)
        at = {site: values[site] for site in points}
        score = jax.grad(log_likelihood)(at, values, data)
        information = variant.information(values, data)
        return {
            site: WhiteningPoint(own, jnp.einsum("cij,cj->ci", own, at[site]) + score[site])
            for site, own in information.items()
        }

    return jax.jit(whiten_at)


def _values(variant: Variant, position: Position, data: Any, points: Points) -> Position:
    """Return the model's own sites at an unconstrained position, without those that whitening adds."""
    model = partial(_whitened_model, variant)
    values = constrain_fn(model, (data, points), {}, position, return_deterministic=True)
    return {name: v for name, v in values.items() if not name.endswith(("_whitened", "_jacobian"))}


def _descend(variant: Variant, data: Any, points: Points, start: Position, iterations: int) -> Position:
    """Lower the potential energy by L-BFGS from ``start``."""
    flat, unravel = ravel_pytree(start)
    objective = _objective(variant)

    def function(x: Float[np.ndarray, " position"]) -> tuple[float, Float[np.ndarray, " position"]]:
        value, gradient = objective(unravel(jnp.asarray(x)), data, points)
        flat_gradient = np.asarray(ravel_pytree(gradient)[0])
        if not np.isfinite(value) or not np.isfinite(flat_gradient).all():
            return FORBIDDEN, np.zeros_like(flat_gradient)  # the line search steps back
        return float(value), flat_gradient

    options = {"maxiter": iterations, "maxfun": 2 * iterations, "maxcor": 50}
    # The stubs of SciPy know no function that returns value and gradient as one pair of types.
    result = scipy.optimize.minimize(function, np.asarray(flat), jac=True, method="L-BFGS-B", options=options)  # type: ignore[call-overload]
    return unravel(jnp.asarray(result.x))


def find_mode(variant: Variant, data: Any) -> tuple[Position, Points]:
    """Find where chains start, and the whitening there.

    Returns
    -------
    position : dict of arrays
        Mode in whitened coordinates, unconstrained.
    points : dict of WhiteningPoint
        Information at the mode.
    """
    points = non_centred(variant, data)
    mode = _descend(variant, data, points, _start(variant)(data, points), FIRST_ITERATIONS)
    for _ in range(MOST_REFINEMENTS):
        points = _whiten_at(variant)(mode, data, points)
        mode = _descend(variant, data, points, _at_origin(mode), REFINING_ITERATIONS)
        if max(float(jnp.abs(mode[f"{site}_whitened"]).max()) for site in points) < REFINED:
            break
    return mode, _whiten_at(variant)(mode, data, points)


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

    start: Callable[[Array, Array, Any, Points], HMCState]
    advance: Callable[[HMCState, Any, Points], tuple[HMCState, HMCState]]


@lru_cache(maxsize=32)
def _kernel(variant: Variant, n_warmup: int, target_acceptance: float, layout: Layout) -> _Kernel:
    def potential(data: Any, points: Points) -> Callable[[Array], Array]:
        return lambda flat: _potential(variant, layout.unravel(flat), data, points)

    initialise, step = hmc(potential_fn_gen=potential, algo="NUTS")

    def start_one(flat: Array, key: Array, data: Any, points: Points) -> HMCState:
        return initialise(
            flat,
            n_warmup,
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
        def body(state: HMCState, _: None) -> tuple[HMCState, HMCState]:
            state = step_chains(state, data, points)
            return state, state._replace(z_grad=None, adapt_state=state.adapt_state.step_size, rng_key=None)

        return jax.lax.scan(body, state, length=CHUNK)

    return _Kernel(jax.jit(jax.vmap(start_one, (0, 0, None, None))), jax.jit(advance))


@lru_cache(maxsize=32)
def _of_draws(variant: Variant) -> Callable[..., tuple[Position, Any, Array]]:
    """Return the function from unconstrained positions to sites, parameters and interval log likelihoods."""

    @_traced_alone
    def one(position: Position, data: Any, points: Points) -> tuple[Position, Any, Array]:
        values = _values(variant, position, data, points)
        return values, variant.parameters(values, data), interval_log_likelihood(variant, values, data)

    def all_draws(positions: Position, data: Any, points: Points) -> tuple[Position, Any, Array]:
        shape = next(iter(positions.values())).shape[:2]
        flat = {name: value.reshape(-1, *value.shape[2:]) for name, value in positions.items()}
        found = jax.lax.map(lambda position: one(position, data, points), flat, batch_size=DRAWS_AT_ONCE)
        return jax.tree.map(lambda value: value.reshape(*shape, *value.shape[1:]), found)

    return jax.jit(all_draws)


class Chains:
    """NUTS chains of a submodel, which can be run for longer.

    Parameters
    ----------
    variant, data
        What is sampled.
    mode, points
        Where chains start, and the whitening there (`find_mode`).
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
        start = self._layout.ravel(_scatter(mode, jitter_key, n_chains), 1)
        self._state = self._kernel.start(start, jax.random.split(run_key, n_chains), data, points)
        self._kept: list[HMCState] = []
        self.n_done = 0

    def advance(self) -> int:
        """Move each chain by some iterations, and return by how many; draws are kept once chains are warm."""
        self._state, states = self._kernel.advance(self._state, self._data, self._points)
        if self.n_done >= self._n_warmup:
            self._kept.append(jax.tree.map(np.asarray, states))
        self.n_done += CHUNK
        return CHUNK

    @property
    def has_diverged(self) -> bool:
        """Whether any transition after warm-up diverged."""
        return any(states.diverging.any() for states in self._kept)

    def draws(self) -> SampleRun:
        """Return all draws so far."""
        # Iterations lead; chains go before draws.
        draws = jax.tree.map(lambda *chunks: np.moveaxis(np.concatenate(chunks), 0, 1), *self._kept)
        position = self._layout.unravel(draws.z)
        values, parameters, log_likelihood = _of_draws(self._variant)(position, self._data, self._points)
        statistics = {
            "diverging": draws.diverging,
            "n_steps": draws.num_steps,
            "energy": draws.energy,
            "lp": -draws.potential_energy,
            "acceptance_rate": draws.accept_prob,
            "step_size": draws.adapt_state,
        }
        return SampleRun(values, parameters, np.asarray(log_likelihood), statistics)


def iterations(wanted: int) -> int:
    """Return the number of iterations done where ``wanted`` are asked for: a multiple of `CHUNK`."""
    return -(-wanted // CHUNK) * CHUNK


def _scatter(mode: Position, key: Array, n_chains: int) -> Position:
    """Scatter chains: hyperparameters around their mode, whitened weights around zero, their own centre."""
    keys = jax.random.split(key, len(mode))
    starts = {}
    for (name, value), site_key in zip(sorted(_at_origin(mode).items()), keys, strict=True):
        spread = WEIGHT_JITTER if name.endswith("_whitened") else START_JITTER
        starts[name] = value + spread * jax.random.normal(site_key, (n_chains, *value.shape))
    return starts
