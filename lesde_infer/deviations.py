"""Deviations from class means in two parts: along the span of the contrasts between class means, and across it.

Let M be the class means at the start of an interval, M̄ their mean, and P the orthogonal projection on the span of the
contrasts M_k − M̄, of at most min(K−1, p) dimensions. With δ = x − M_g the deviation of a sample of class g,

    dδ = κ_∥ Pδ dt + κ_⊥ (1 − P)δ dt + (σ_∥ P + σ_⊥ (1 − P)) dw,      w: noise of samples less its class mean.

P is held over the interval, so that both parts move on their own: Pδ grows by e^{κ_∥Δ}, (1 − P)δ by e^{κ_⊥Δ}, and noise
adds σ_∥²Δ to the variance of each direction of the span and σ_⊥²Δ to that of each other. At the next record the span is
that of the class means there, and what was along the old one may be across the new. With equal rates and scales P drops
out: the model with deviations that are alike in all directions.

NC1, tr(Σ_W Σ_B⁺), is a matter of the part along alone, since Σ_B⁺ vanishes across; and in networks that separate it is
this part that grows.

tests/lesde_infer/test_deviations.py checks the projection, tests/lesde_infer/test_dynamics_parts.py the motion.
"""

from types import ModuleType
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
from jaxtyping import Array, Float

from lesde_infer._jax import jnp
from lesde_infer.integrators import growth

Within: TypeAlias = Literal["isotropic", "spanned"]
"""How deviations are modelled: alike in all directions, or apart along and across the span of class means."""

CUT_OFF = float(np.finfo(np.float32).eps)
"""Of the Frobenius norm of the class means: contrasts below it are rounding of single precision, and span nothing."""


class DeviationRates(NamedTuple):
    """Rates κ and noise of an interval, by part: one entry if deviations are alike in all directions, or along, across."""

    kappa: Float[Array, " part"]
    sd: Float[Array, " part"]


def contrast_axes(means: Any, numpy: ModuleType = np) -> Any:
    """Return orthonormal axes of the span of the contrasts between class means.

    Parameters
    ----------
    means : array, shape (class, feature)
        Class means.
    numpy : module
        Where arrays live: NumPy, or `jax.numpy`.

    Returns
    -------
    array, shape (axis, feature)
        min(K−1, p) rows, right singular vectors of the centred class means, by falling singular value. A row is zero
        where the singular value is below `CUT_OFF` times the Frobenius norm of the class means, so that the span has
        as many dimensions as there are rows that are not, none if all class means coincide; `axesᵀ axes` is P.
    """
    n_axes = min(means.shape[0] - 1, means.shape[1])
    _, singular, axes = numpy.linalg.svd(means - means.mean(axis=0), full_matrices=False)
    present = singular[:n_axes] > CUT_OFF * numpy.sqrt((means**2).sum())
    return numpy.where(present[:, None], axes[:n_axes], 0.0)


def split(
    deviations: Float[Array, "feature sample"], axes: Float[Array, "axis feature"] | None
) -> Float[Array, "part feature sample"]:
    """Return the parts of deviations along and across the axes, or all of them as one part where there are no axes."""
    if axes is None:
        return deviations[None]
    along = axes.T @ (axes @ deviations)
    return jnp.stack([along, deviations - along])


def move(
    parts: Float[Array, "part feature sample"],
    rates: DeviationRates,
    length: Float[Array, ""],
    noise: Float[Array, "part feature sample"] | None,
) -> Float[Array, "feature sample"]:
    """Return the deviations after an interval: each part grown by e^{κΔ}, and its noise times its scale.

    Parameters
    ----------
    parts, noise : array, shape (part, feature, sample)
        Parts of the deviations, and of standard normal numbers less their class means, by `split`.
    rates : DeviationRates
    length : array, scalar
        Δ.
    """
    moved = jnp.tensordot(growth(rates.kappa * length), parts, axes=1)
    return moved if noise is None else moved + jnp.tensordot(rates.sd, noise, axes=1)
