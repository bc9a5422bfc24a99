"""Coordinates in which the posterior around its mode is a standard normal: where chains live.

Conditional whitening (`lesde_infer.whitening`) makes weights nearly independent and of unit scale given the
hyperparameters, but says nothing of these: a time scale, degrees of freedom or the slope of sizes may be known to a
tenth of a percent where a drift is strong, and then lean on each other and on the weights, so that the posterior is a
narrow ridge along none of the coordinates. Chains that start off it, with a mass matrix that knows nothing of it, do
not find it within their warm-up. Hence, with H = V diag(λ) Vᵀ the Hessian of the potential energy at the mode,

    position = mode + V diag(max(|λ|, λ₀)^−½) x,

a linear change of variables, which alters no posterior, whatever H is: were the posterior normal, x would be standard
normal. The mode found for the weights is refined first, by Newton's method on the same Hessian. λ₀ bounds how far
chains start from the mode along directions that are almost flat.

Sites of many entries (a pattern of elasticity) keep the coordinates that whitening gave them.
tests/lesde_infer/test_laplace_frame.py checks it on normal posteriors, where it is exact, and on a ridge.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Array, Bool, Float

from lesde_infer._jax import jax, jnp

LEAST_CURVATURE = 0.25  # λ₀: standard deviations of at most 2; priors and whitened weights have about 1
MOST_ENTRIES = 100  # of a site whose curvature is taken
NEWTON_STEPS = 20
REFINED = 1e-3  # squared length of a Newton step, in standard deviations, below which the mode is found
HALVINGS = 12

Curvature = Callable[[Float[Array, " position"]], tuple[Array, Float[Array, " own"], Float[Array, "own own"]]]
"""From a position to the potential energy, and its gradient and Hessian in the coordinates that are taken."""


class Frame(NamedTuple):
    """Linear coordinates: position = centre + root · x.

    Attributes
    ----------
    centre : array, shape (position,)
        The mode.
    root : array, shape (position, position)
        V diag(max(|λ|, λ₀)^−½) in the coordinates whose curvature was taken, one in the others.
    """

    centre: Float[Array, " position"]
    root: Float[Array, "position position"]

    def position(self, x: Float[Array, "*lead position"]) -> Float[Array, "*lead position"]:
        """Return the position at coordinates x."""
        return self.centre + x @ self.root.T


def curvature_of(
    potential: Callable[[Float[Array, " position"]], Array], taken: Bool[np.ndarray, " position"]
) -> Curvature:
    """Return the function that gives potential energy, gradient and Hessian in the coordinates that are taken."""
    places = np.flatnonzero(taken)

    def curvature(position: Float[Array, " position"]) -> tuple[Array, Array, Array]:
        def inside(own: Float[Array, " own"]) -> Array:
            return potential(position.at[places].set(own))

        own = position[places]
        value, gradient = jax.value_and_grad(inside)(own)

        def column(direction: Float[Array, " own"]) -> Float[Array, " own"]:
            return jax.jvp(jax.grad(inside), (own,), (direction,))[1]

        # One column after the other: as lanes of one program they are large enough for XLA to spread their products
        # over its pool of threads, and two such programs at a time have been seen to wait for each other for ever.
        return value, gradient, jax.lax.map(column, jnp.eye(len(places)))

    return curvature


def laplace_frame(
    curvature: Curvature, start: Float[Array, " position"], taken: Bool[np.ndarray, " position"]
) -> Frame:
    """Refine the mode from ``start`` on, and return the coordinates there.

    Steps that are not finite, or do not lower the potential energy, end the refinement: `Frame` serves any centre.
    """
    places = np.flatnonzero(taken)
    centre = np.array(start)
    value, gradient, hessian = map(np.asarray, curvature(jnp.asarray(centre)))
    for _ in range(NEWTON_STEPS):
        root = _root(hessian)
        scaled = root.T @ gradient
        if not np.isfinite(scaled).all() or scaled @ scaled < REFINED:
            break
        for halving in range(HALVINGS):
            tried = centre.copy()
            tried[places] -= 0.5**halving * root @ scaled
            found = tuple(map(np.asarray, curvature(jnp.asarray(tried))))
            if np.isfinite(found[2]).all() and found[0] < value:
                break
        else:
            break
        centre, (value, gradient, hessian) = tried, found
    whole = np.eye(len(centre))
    whole[np.ix_(places, places)] = _root(hessian)
    return Frame(jnp.asarray(centre), jnp.asarray(whole))


def _root(hessian: Float[np.ndarray, "own own"]) -> Float[np.ndarray, "own own"]:
    """Return V diag(max(|λ|, λ₀)^−½), or one where the Hessian is not finite."""
    if not np.isfinite(hessian).all():
        return np.eye(len(hessian))
    eigenvalues, vectors = np.linalg.eigh((hessian + hessian.T) / 2.0)
    return vectors / np.sqrt(np.maximum(np.abs(eigenvalues), LEAST_CURVATURE))
