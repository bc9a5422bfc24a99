"""Coordinates in which the posterior around its mode is a standard normal: where chains live.

Conditional whitening (`lesde_infer.whitening`) makes weights nearly independent and of unit scale given the
hyperparameters, but says nothing of these: a time scale, degrees of freedom or the slope of sizes may be known to a
tenth of a percent where a drift is strong, and then lean on each other and on the weights, so that the posterior is a
narrow ridge along none of the coordinates. Chains that start off it, with a mass matrix that knows nothing of it, do
not find it within their warm-up. Hence, with H = V diag(λ) Vᵀ the Hessian of the potential energy at the mode,

    position = mode + V diag(max(|λ|, λ₀)^−½) x,

a linear change of variables, which alters no posterior, whatever H is: were the posterior normal, x would be standard
normal. λ₀ bounds how far chains start from the mode along directions that are almost flat. The mode is that of
`lesde_infer.mode`, where the potential energy has some slope left: Newton's method from there leads to the mode of the
joint density, which may be a spike without volume (two of three runs simulated from the R/gp prior on which it was
tried).

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

Curvature = Callable[[Float[Array, " position"]], Float[Array, "own own"]]
"""From a position to the Hessian of the potential energy in the coordinates that are taken."""


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
    """Return the function that gives the Hessian of the potential energy in the coordinates that are taken."""
    places = np.flatnonzero(taken)

    def curvature(position: Float[Array, " position"]) -> Float[Array, "own own"]:
        def inside(own: Float[Array, " own"]) -> Array:
            return potential(position.at[places].set(own))

        own = position[places]

        def column(direction: Float[Array, " own"]) -> Float[Array, " own"]:
            return jax.jvp(jax.grad(inside), (own,), (direction,))[1]

        # One column after the other: as lanes of one program they are large enough for XLA to spread their products
        # over its pool of threads, and two such programs at a time have been seen to wait for each other for ever.
        return jax.lax.map(column, jnp.eye(len(places)))

    return curvature


def laplace_frame(curvature: Curvature, mode: Float[Array, " position"], taken: Bool[np.ndarray, " position"]) -> Frame:
    """Return the coordinates around a mode."""
    places = np.flatnonzero(taken)
    whole = np.eye(len(mode))
    whole[np.ix_(places, places)] = _root(np.asarray(curvature(mode)))
    return Frame(mode, jnp.asarray(whole))


def _root(hessian: Float[np.ndarray, "own own"]) -> Float[np.ndarray, "own own"]:
    """Return V diag(max(|λ|, λ₀)^−½), or one where the Hessian is not finite."""
    if not np.isfinite(hessian).all():
        return np.eye(len(hessian))
    eigenvalues, vectors = np.linalg.eigh((hessian + hessian.T) / 2.0)
    return vectors / np.sqrt(np.maximum(np.abs(eigenvalues), LEAST_CURVATURE))
