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
from functools import lru_cache, wraps
from threading import RLock
from typing import ParamSpec, TypeVar

import numpy as np
import numpyro
import scipy.optimize
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float
from numpyro.infer.hmc import HMCState, hmc
from numpyro.infer.util import constrain_fn, log_density, potential_energy, unconstrain_fn

from lesde_infer._jax import jax, jnp
from lesde_infer.curves import Curve, n_weights
from lesde_infer.information import curve_information
from lesde_infer.model import Parameters, StrataData, sample_parameters, strata_model
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
REFINEMENTS = 2
CHUNK = 50  # iterations of one call of the compiled program, so that any total is made of one program


_tracing = RLock()


def _traced_alone(function: Callable[Arguments, Returned]) -> Callable[Arguments, Returned]:
    """Let one thread at a time run a function that runs a NumPyro model, which happens only while it is traced."""

    @wraps(function)
    def alone(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Returned:
        with _tracing:
            return function(*args, **kwargs)

    return alone


@dataclass(frozen=True)
class Variant:
    """What is compiled once: family of curves, whether strata are coupled, whether interval lengths are mixed."""

    curve: Curve
    coupled: bool
    mixed: bool

    def model(self, data: StrataData, point: WhiteningPoint) -> None:
        """Run the model in whitened coordinates."""
        with numpyro.handlers.reparam(config={"curve_weights": ConditionalWhitening(point)}):
            self.plain_model(data)

    def plain_model(self, data: StrataData) -> None:
        """Run the model in its own coordinates."""
        strata_model(data, curve=self.curve, coupled=self.coupled, mixed=self.mixed)

    def parameters(self, values: Position, data: StrataData) -> Parameters:
        """Return the parameters of the strata at values of the model's sites."""
        substituted = numpyro.handlers.substitute(sample_parameters, data=values)
        return substituted(data, curve=self.curve, mixed=self.mixed)

    def interval_log_likelihood(self, values: Position, data: StrataData) -> Float[Array, "stratum time"]:
        """Log density of each interval at values of the model's sites."""
        _, trace = log_density(self.plain_model, (data,), {}, values)
        return trace["increment"]["fn"].log_prob(trace["increment"]["value"])

    def non_centred(self, data: StrataData) -> WhiteningPoint:
        """Return the whitening without information, which is the non-centred parametrisation."""
        shape = (*data.prior.level_mean.shape, n_weights(self.curve))
        return WhiteningPoint(jnp.zeros((*shape, shape[-1])), jnp.zeros(shape))


@dataclass(frozen=True)
class SampleRun:
    """Draws of a submodel.

    Attributes
    ----------
    values : dict of arrays, shape (chain, draw, ...)
        Values of all sites.
    parameters : Parameters, with leading axes (chain, draw)
        Rates, noise scales and the rest, per stratum and interval.
    log_likelihood : array, shape (chain, draw, stratum, time)
        Log density of each interval.
    statistics : dict of arrays, shape (chain, draw)
        ``diverging``, ``n_steps`` (gradients), ``energy``, ``lp``, ``acceptance_rate``, ``step_size``.
    """

    values: Position
    parameters: Parameters
    log_likelihood: Float[np.ndarray, "chain draw stratum time"]
    statistics: dict[str, np.ndarray]


@_traced_alone
def _potential(variant: Variant, position: Position, data: StrataData, point: WhiteningPoint) -> Array:
    return potential_energy(variant.model, (data, point), {}, position)


@lru_cache(maxsize=32)
def _objective(variant: Variant) -> Callable[[Position, StrataData, WhiteningPoint], tuple[Array, Position]]:
    return jax.jit(jax.value_and_grad(lambda *args: _potential(variant, *args)))


@lru_cache(maxsize=32)
def _start(variant: Variant) -> Callable[[StrataData, WhiteningPoint], Position]:
    """Return the function that gives the median of every hyperparameter's prior, and weights at their centre."""

    @_traced_alone
    def start(data: StrataData, point: WhiteningPoint) -> Position:
        seeded = numpyro.handlers.seed(variant.model, jax.random.key(0))
        initialised = numpyro.handlers.substitute(seeded, substitute_fn=numpyro.infer.init_to_median(num_samples=15))
        trace = numpyro.handlers.trace(initialised).get_trace(data, point)
        latent = {n: s["value"] for n, s in trace.items() if s["type"] == "sample" and not s["is_observed"]}
        return _at_origin(unconstrain_fn(variant.model, (data, point), {}, latent))

    return jax.jit(start)


def _at_origin(position: Position) -> Position:
    """Put whitened weights at the origin, where they are at their own mode."""
    return {name: jnp.zeros_like(v) if name.endswith("_whitened") else v for name, v in position.items()}


@lru_cache(maxsize=32)
def _whiten_at(variant: Variant) -> Callable[[Position, StrataData, WhiteningPoint], WhiteningPoint]:
    """Return the function that gives the Gaussian approximation of the likelihood at a position."""

    def log_likelihood(weights: Array, values: Position, data: StrataData) -> Array:
        return variant.interval_log_likelihood({**values, "curve_weights": weights}, data).sum()

    @_traced_alone
    def whiten_at(position: Position, data: StrataData, point: WhiteningPoint) -> WhiteningPoint:
        values = _sites(constrain_fn(variant.model, (data, point), {}, position, return_deterministic=True))
        weights, time_scale = values["curve_weights"], values.get("power_time_scale", jnp.zeros(()))
        parameters = variant.parameters(values, data)
        information = curve_information(
            parameters, weights, time_scale, data, curve=variant.curve, coupled=variant.coupled
        )
        score = jax.grad(log_likelihood)(weights, values, data)
        return WhiteningPoint(information, jnp.einsum("cij,cj->ci", information, weights) + score)

    return jax.jit(whiten_at)


def _sites(values: Position) -> Position:
    """Keep the model's own sites, and leave out those that whitening adds."""
    return {name: v for name, v in values.items() if not name.endswith(("_whitened", "_jacobian"))}


def _descend(variant: Variant, data: StrataData, point: WhiteningPoint, start: Position, iterations: int) -> Position:
    """Lower the potential energy by L-BFGS from ``start``."""
    flat, unravel = ravel_pytree(start)
    objective = _objective(variant)

    def function(x: Float[np.ndarray, " position"]) -> tuple[float, Float[np.ndarray, " position"]]:
        value, gradient = objective(unravel(jnp.asarray(x)), data, point)
        flat_gradient = np.asarray(ravel_pytree(gradient)[0])
        if not np.isfinite(value) or not np.isfinite(flat_gradient).all():
            return FORBIDDEN, np.zeros_like(flat_gradient)  # the line search steps back
        return float(value), flat_gradient

    options = {"maxiter": iterations, "maxfun": 2 * iterations, "maxcor": 50}
    # The stubs of SciPy know no function that returns value and gradient as one pair of types.
    result = scipy.optimize.minimize(function, np.asarray(flat), jac=True, method="L-BFGS-B", options=options)  # type: ignore[call-overload]
    return unravel(jnp.asarray(result.x))


def find_mode(variant: Variant, data: StrataData) -> tuple[Position, WhiteningPoint]:
    """Find where chains start, and the whitening there.

    Returns
    -------
    position : dict of arrays
        Mode in whitened coordinates, unconstrained.
    point : WhiteningPoint
        Information at the mode.
    """
    point = variant.non_centred(data)
    mode = _descend(variant, data, point, _start(variant)(data, point), FIRST_ITERATIONS)
    for _ in range(REFINEMENTS):
        point = _whiten_at(variant)(mode, data, point)
        mode = _descend(variant, data, point, _at_origin(mode), REFINING_ITERATIONS)
    return mode, _whiten_at(variant)(mode, data, point)


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

    start: Callable[[Array, Array, StrataData, WhiteningPoint], HMCState]
    advance: Callable[[HMCState, StrataData, WhiteningPoint], tuple[HMCState, HMCState]]


@lru_cache(maxsize=32)
def _kernel(variant: Variant, n_warmup: int, target_acceptance: float, layout: Layout) -> _Kernel:
    def potential(data: StrataData, point: WhiteningPoint) -> Callable[[Array], Array]:
        return lambda flat: _potential(variant, layout.unravel(flat), data, point)

    initialise, step = hmc(potential_fn_gen=potential, algo="NUTS")

    def start_one(flat: Array, key: Array, data: StrataData, point: WhiteningPoint) -> HMCState:
        return initialise(
            flat,
            n_warmup,
            target_accept_prob=target_acceptance,
            max_tree_depth=MAXIMAL_TREE_DEPTH,
            dense_mass=variant.curve == "power",  # the time scale of a power law leans on its level and exponent
            model_args=(data, point),
            rng_key=key,
        )

    def step_one(state: HMCState, data: StrataData, point: WhiteningPoint) -> HMCState:
        return step(state, (data, point))

    step_chains = jax.vmap(step_one, (0, None, None))

    def advance(state: HMCState, data: StrataData, point: WhiteningPoint) -> tuple[HMCState, HMCState]:
        def body(state: HMCState, _: None) -> tuple[HMCState, HMCState]:
            state = step_chains(state, data, point)
            return state, state._replace(z_grad=None, adapt_state=state.adapt_state.step_size, rng_key=None)

        return jax.lax.scan(body, state, length=CHUNK)

    return _Kernel(jax.jit(jax.vmap(start_one, (0, 0, None, None))), jax.jit(advance))


@lru_cache(maxsize=32)
def _of_draws(variant: Variant) -> Callable[..., tuple[Position, Parameters, Array]]:
    """Return the function from unconstrained positions to sites, parameters and interval log likelihoods."""

    @_traced_alone
    def one(position: Position, data: StrataData, point: WhiteningPoint) -> tuple[Position, Parameters, Array]:
        values = _sites(constrain_fn(variant.model, (data, point), {}, position, return_deterministic=True))
        return values, variant.parameters(values, data), variant.interval_log_likelihood(values, data)

    draws = jax.vmap(one, (0, None, None))
    return jax.jit(jax.vmap(draws, (0, None, None)))


class Chains:
    """NUTS chains of a submodel, which can be run for longer.

    Parameters
    ----------
    variant, data
        What is sampled.
    mode, point
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
        data: StrataData,
        mode: Position,
        point: WhiteningPoint,
        *,
        key: jax.Array,
        n_chains: int,
        n_warmup: int,
        target_acceptance: float,
    ) -> None:
        self._variant, self._data, self._point = variant, data, point
        self._layout = Layout.of(mode, 0)
        self._n_warmup = iterations(n_warmup)
        self._kernel = _kernel(variant, self._n_warmup, target_acceptance, self._layout)
        run_key, jitter_key = jax.random.split(key)
        start = self._layout.ravel(_scatter(mode, jitter_key, n_chains), 1)
        self._state = self._kernel.start(start, jax.random.split(run_key, n_chains), data, point)
        self._kept: list[HMCState] = []
        self.n_done = 0

    def advance(self) -> int:
        """Move each chain by some iterations, and return by how many; draws are kept once chains are warm."""
        self._state, states = self._kernel.advance(self._state, self._data, self._point)
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
        values, parameters, log_likelihood = _of_draws(self._variant)(position, self._data, self._point)
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
