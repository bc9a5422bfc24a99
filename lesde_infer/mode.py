"""Where chains start: the mode, and the information there that whitens.

It is the mode of Laplace's approximation of the marginal posterior of the hyperparameters: with weights w of prior
standard deviations S(θ) and information Λ(w, θ), of −log p(w, θ | y) + ½ log det(Λ + S⁻²). The mode of the joint
density p(w, θ | y) will not do: where an interval is one number, curves can pass through many of them while the noise
scale vanishes there, a spike without volume. The mode is sought first without information, where conditional whitening
is the non-centred parametrisation, then refined in whitened coordinates. With Λ₀ the information that whitens, the
objective is the potential energy plus ½ log det(1 + SΛS) − ½ log det(1 + SΛ₀S), whose second term takes off what the
change of variables holds already. tests/lesde_infer/test_mode.py checks that it does not depend on the coordinates.
"""

from collections.abc import Callable, Mapping
from functools import lru_cache, partial
from typing import Any

import numpy as np
import numpyro
import numpyro.distributions as dist
import scipy.optimize
from jaxtyping import Array, ArrayLike, Float
from numpyro.infer.util import unconstrain_fn

from lesde_infer._jax import jax, jit_briefly_used, jnp
from lesde_infer.kept_traces import kept_trace
from lesde_infer.variant import (
    Points,
    Position,
    Variant,
    at_origin,
    interval_log_likelihood,
    non_centred,
    site_values,
    traced_alone,
    whitened_model,
    whitened_potential,
)
from lesde_infer.whitening import WhiteningPoint, factor_of

FORBIDDEN = 1e100  # objective where it overflows
FIRST_ITERATIONS = 400
REFINING_ITERATIONS = 60
MOST_REFINEMENTS = 8
REFINED = 0.5  # posterior standard deviations that whitened weights still moved
PROBE = 1e-4  # of an unconstrained hyperparameter, over which the curvature is measured


@lru_cache(maxsize=32)
def objective(variant: Variant) -> Callable[[Position, Any, Points], tuple[Array, Position]]:
    """Return the function that gives the objective and its gradient; see the module's docstring."""

    @traced_alone
    def evaluate(position: Position, data: Any, points: Points) -> Array:
        values = site_values(variant, position, data, points)
        priors, information = _priors(variant, points, values, data), variant.information(values, data)
        volume = jnp.zeros(())
        for site, point in points.items():
            prior = priors[site]
            volume += _log_determinant(information[site], prior.scale)
            volume -= _log_determinant(point.information, factor_of(prior) * prior.scale)
        return whitened_potential(variant, position, data, points) + 0.5 * volume

    return jax.jit(kept_trace(jax.value_and_grad(evaluate), "objective", variant))


def _priors(variant: Variant, points: Points, values: Position, data: Any) -> dict[str, dist.Normal]:
    """Return the normal prior of each whitened site, given the values of the others."""
    trace = numpyro.handlers.trace(numpyro.handlers.substitute(variant.model, data=values)).get_trace(data)
    return {site: trace[site]["fn"].base_dist for site in points}


def _log_determinant(information: Float[Array, "row entry entry"], sd: Float[Array, "row entry"]) -> Float[Array, ""]:
    """Return log det(1 + SΛS), summed over rows."""
    scaled = sd[:, :, None] * information * sd[:, None, :]
    return jnp.linalg.slogdet(jnp.eye(sd.shape[1]) + scaled)[1].sum()


@lru_cache(maxsize=32)
def _start(variant: Variant) -> Callable[[Any, Points], Position]:
    """Return the function that gives the median of every hyperparameter's prior, and weights at their centre."""
    model = partial(whitened_model, variant)

    @traced_alone
    def start(data: Any, points: Points) -> Position:
        seeded = numpyro.handlers.seed(model, jax.random.key(0))
        initialised = numpyro.handlers.substitute(seeded, substitute_fn=numpyro.infer.init_to_median(num_samples=15))
        trace = numpyro.handlers.trace(initialised).get_trace(data, points)
        latent = {n: s["value"] for n, s in trace.items() if s["type"] == "sample" and not s["is_observed"]}
        return at_origin(unconstrain_fn(model, (data, points), {}, latent))

    return jit_briefly_used(kept_trace(start, "start", variant))


@lru_cache(maxsize=32)
def _whiten_at(variant: Variant) -> Callable[[Position, Any, Points], Points]:
    """Return the function that gives the Gaussian approximation of the likelihood at a position."""

    def log_likelihood(whitened: Position, values: Position, data: Any) -> Array:
        return interval_log_likelihood(variant, {**values, **whitened}, data).sum()

    @traced_alone
    def whiten_at(position: Position, data: Any, points: Points) -> Points:
        values = site_values(variant, position, data, points)
        at = {site: values[site] for site in points}
        score = jax.grad(log_likelihood)(at, values, data)
        priors, found = _priors(variant, points, values, data), {}
        for site, own in variant.information(values, data).items():
            factor = factor_of(priors[site])
            scaled = own / (factor[:, :, None] * factor[:, None, :])
            natural = jnp.einsum("cij,cj->ci", scaled, factor * at[site]) + score[site] / factor
            found[site] = WhiteningPoint(scaled, natural)
        return found

    return jit_briefly_used(kept_trace(whiten_at, "whitening", variant))


def descend(
    variant: Variant,
    data: Any,
    points: Points,
    start: Position,
    iterations: int,
    *,
    held: str | None = None,
    tolerance: float = 0.0,
) -> Position:
    """Lower the objective by L-BFGS from ``start``.

    A site may be ``held`` where it is. The descent ends where an iteration lowers the objective by less than
    ``tolerance``, or by a few of its roundings.
    """
    free = {name: np.full(np.shape(value), float(name != held)) for name, value in start.items()}
    evaluate, moves = objective(variant), _ravel(free)

    def function(x: Float[np.ndarray, " position"]) -> tuple[float, Float[np.ndarray, " position"]]:
        value, gradient = evaluate(_unravel(x, start), data, points)
        flat_gradient = moves * _ravel(gradient)
        if not np.isfinite(value) or not np.isfinite(flat_gradient).all():
            return FORBIDDEN, np.zeros_like(flat_gradient)  # the line search steps back
        return float(value), flat_gradient

    flat = _ravel(start)
    options: dict[str, float] = {"maxiter": iterations, "maxfun": 2 * iterations, "maxcor": 50}
    if tolerance > 0.0:
        options["ftol"] = tolerance / max(abs(function(flat)[0]), 1.0)
    # The stubs of SciPy know no function that returns value and gradient as one pair of types.
    result = scipy.optimize.minimize(function, flat, jac=True, method="L-BFGS-B", options=options)  # type: ignore[call-overload]
    return _unravel(result.x, start)


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
    mode = descend(variant, data, points, _start(variant)(data, points), FIRST_ITERATIONS)
    for _ in range(MOST_REFINEMENTS):
        points = _whiten_at(variant)(mode, data, points)
        mode = descend(variant, data, points, at_origin(mode), REFINING_ITERATIONS)
        if max(float(jnp.abs(mode[f"{site}_whitened"]).max()) for site in points) < REFINED:
            break
    return mode, _whiten_at(variant)(mode, data, points)


def spread_around(variant: Variant, data: Any, mode: Position, points: Points) -> Position:
    """Return how far each unconstrained hyperparameter may move from the mode, the others staying: its conditional sd.

    That is 1/√H for the curvature H of the objective, from differences of its gradient, and no more than 1; whitened
    weights have 1 by construction. Where drift is thousands of times the noise, a hyperparameter that enters the drift
    (the time scale of a power law, the slope of step sizes) is known to a thousandth, and chains that
    start a fifth away do not find one another again (tests/lesde_infer/test_mode.py).
    """
    flat = _ravel(mode)
    gradient = objective(variant)
    whitened = {name: np.full(np.shape(value), float(name.endswith("_whitened"))) for name, value in mode.items()}
    spread = np.ones(len(flat))
    for index in np.flatnonzero(_ravel(whitened) == 0.0):
        low, high = (
            _ravel(gradient(_unravel(flat + step * (np.arange(len(flat)) == index), mode), data, points)[1])[index]
            for step in (-PROBE, PROBE)
        )
        curvature = float(high - low) / (2.0 * PROBE)
        if np.isfinite(curvature) and curvature > 1.0:
            spread[index] = 1.0 / np.sqrt(curvature)
    return _unravel(spread, mode)


def _ravel(position: Mapping[str, ArrayLike]) -> Float[np.ndarray, " position"]:
    """Concatenate the sites of a position, by name; NumPy has no program to compile for each shape."""
    return np.concatenate([np.ravel(np.asarray(value)) for _, value in sorted(position.items())])


def _unravel(flat: Float[np.ndarray, " position"], like: Position) -> Position:
    """Undo `_ravel`, given a position of the same shapes."""
    sites, start = {}, 0
    for name, value in sorted(like.items()):
        sites[name] = jnp.asarray(flat[start : start + value.size].reshape(value.shape))
        start += value.size
    return sites
