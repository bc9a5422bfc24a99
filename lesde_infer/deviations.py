"""Deviations from class means in two parts: along the span of the contrasts between class means, and across it.

Let M be the class means at the start of an interval, M̄ their mean, and P the orthogonal projection on the span of the
contrasts M_k − M̄, of at most min(K−1, p) dimensions. With δ = x − M_g the deviation of a sample of class g,

    dδ = κ_∥ Pδ dt + κ_⊥ (1 − P)δ dt + η q° dt + (σ_∥ P + σ_⊥ (1 − P)) dw,     w: noise of samples less its class mean.

P is held over the interval, so that both parts move on their own: Pδ grows by e^{κ_∥Δ}, (1 − P)δ by e^{κ_⊥Δ}, and noise
adds σ_∥²Δ to the variance of each direction of the span and σ_⊥²Δ to that of each other. At the next record the span is
that of the class means there, and what was along the old one may be across the new. With equal rates and scales, and
η = 0, P drops out: the model with deviations that are alike in all directions.

The pull η is there under impact R. With q_i = V(r_i − r̄_g) the impact of a sample less the mean of its class, local
elasticity among samples would be η q: a sample is moved by its own residual more than by those of others. Since κ is
what deviations grow by on average, all causes together, q° is what is left of q when each part of all deviations is
taken out, ⟨q°, Pδ⟩ = ⟨q°, (1 − P)δ⟩ = 0, as in `lesde_infer.within_statistics`, where η is measured; it is held over
the interval as well. The pull decides how deviations are distributed, rather than how large they are: it holds back
samples that are about to be misclassified. Without it, deviations become Gaussian, a few far samples keep residuals
large where those of a network vanish, and class means are driven apart for too long.

NC1, tr(Σ_W Σ_B⁺), is a matter of the part along alone, since Σ_B⁺ vanishes across; and in networks that separate it is
this part that grows.

tests/lesde_infer/test_deviations.py checks the projection, tests/lesde_infer/test_dynamics_parts.py the motion.
"""

from types import ModuleType
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
from jaxtyping import Array, Float, Int

from lesde_infer._jax import jax, jnp
from lesde_infer.integrators import Classes, Readout, growth

Within: TypeAlias = Literal["isotropic", "spanned"]
"""How deviations are modelled: alike in all directions, or apart along and across the span of class means."""

CUT_OFF = float(np.finfo(np.float32).eps)
"""Of the size of the features: contrasts below it are rounding of single precision, and span nothing."""


class DeviationRates(NamedTuple):
    """Rates κ, noise and pull η of an interval, by part.

    One part if deviations are alike in all directions, or those along and across; None where there is no pull.
    """

    kappa: Float[Array, " part"]
    sd: Float[Array, " part"]
    pull: Float[Array, ""] | None = None


def contrast_axes(means: Any, deviations: Any, numpy: ModuleType = np) -> Any:
    """Return orthonormal axes of the span of the contrasts between class means.

    Parameters
    ----------
    means : array, shape (class, feature)
        Class means.
    deviations : array, shape (feature, sample) or (sample, feature)
        Deviations from them.
    numpy : module
        Where arrays live: NumPy, or `jax.numpy`.

    Returns
    -------
    array, shape (axis, feature)
        min(K−1, p) rows, right singular vectors of the centred class means, by falling singular value. A row is zero
        where the singular value is below `CUT_OFF` times the root of |M|² + mean |δ|², |M| being the Frobenius norm of
        the class means, so that the span has as many dimensions as there are rows that are not, none if all class means
        coincide; `axesᵀ axes` is P.
    """
    return axes_beyond_rounding(means, (deviations**2).mean(), numpy)


def axes_beyond_rounding(means: Any, mean_square: Any, numpy: ModuleType = np) -> Any:
    """Return what `contrast_axes` does, given the mean of |δ|² over samples and features."""
    n_axes = min(means.shape[0] - 1, means.shape[1])
    _, singular, axes = numpy.linalg.svd(means - means.mean(axis=0), full_matrices=False)
    size = numpy.sqrt((means**2).sum() + means.shape[1] * mean_square)
    present = singular[:n_axes] > CUT_OFF * size
    return numpy.where(present[:, None], axes[:n_axes], 0.0)


def split(
    deviations: Float[Array, "feature sample"], axes: Float[Array, "axis feature"] | None
) -> Float[Array, "part feature sample"]:
    """Return the parts of deviations along and across the axes, or all of them as one part where there are no axes."""
    if axes is None:
        return deviations[None]
    along = axes.T @ (axes @ deviations)
    return jnp.stack([along, deviations - along])


def orthogonal_push(
    parts: Float[Array, "part feature sample"],
    push: Float[Array, "feature sample"],
    axes: Float[Array, "axis feature"] | None,
) -> Float[Array, "feature sample"]:
    """Return q°: a push q of the samples, less what each part of the deviations explains of it."""
    pushed = split(push, axes) if len(parts) > 1 else push[None]
    square, product = (jnp.sum(parts * other, axis=(1, 2)) for other in (parts, pushed))
    share = jnp.where(square > 0, product / jnp.where(square > 0, square, 1.0), 0.0)
    return jnp.sum(pushed - share[:, None, None] * parts, axis=0)


def residual_push(
    features: Float[Array, "feature sample"], readout: Readout, classes: Classes, given: Int[Array, " sample"]
) -> Float[Array, "feature sample"]:
    """Return q = V(r − r̄): residuals of samples in feature space, less the means of their classes.

    Parameters
    ----------
    features : array, shape (feature, sample)
    readout : Readout
        The classifier W x + b; V = Wᵀ.
    classes : Classes
    given : array, shape (sample,)
        Given labels.
    """
    weight = readout.mixing @ readout.basis
    targets = jnp.arange(weight.shape[0])[:, None] == given
    residuals = targets - jax.nn.softmax(weight @ features + readout.bias[:, None], axis=0)
    return weight.T @ (residuals - (residuals @ classes.averages)[:, classes.groups])


def move(
    parts: Float[Array, "part feature sample"],
    rates: DeviationRates,
    length: Float[Array, ""],
    *,
    push: Float[Array, "feature sample"] | None,
    noise: Float[Array, "part feature sample"] | None,
) -> Float[Array, "feature sample"]:
    """Return the deviations after an interval: each part grown by e^{κΔ}, plus ηΔq° and the noise of each part.

    Parameters
    ----------
    parts, noise : array, shape (part, feature, sample)
        Parts of the deviations, and of standard normal numbers less their class means, by `split`; None: no noise.
    rates : DeviationRates
    length : array, scalar
        Δ.
    push : array, shape (feature, sample), or None
        q°, of `orthogonal_push`.
    """
    moved = jnp.tensordot(growth(rates.kappa * length), parts, axes=1)
    if rates.pull is not None and push is not None:
        moved = moved + rates.pull * length * push
    return moved if noise is None else moved + jnp.tensordot(rates.sd, noise, axes=1)


def move_along_with(
    parts: Float[Array, "part feature sample"],
    rates: DeviationRates,
    length: Float[Array, ""],
    *,
    stretch: Float[Array, ""],
    axes: Float[Array, "axis feature"] | None,
    push: Float[Array, "part feature sample"] | None,
    noise: Float[Array, "part feature sample"] | None,
) -> Float[Array, "feature sample"]:
    """Return the deviations after an interval in which they are stretched along with the class means.

    Each part is moved by ηΔq° and noise, then scaled so that its root mean square has grown by e^{κΔ} times
    ``stretch``: κ is the growth of a part relative to that of the contrasts, and σ, relative to the part's own root
    mean square, says how far noise reshuffles the samples. Along the axes noise has the covariance of the deviations
    themselves, over all classes: it forgets which sample lies where, not in which directions samples lie. A part that
    is zero stays zero.

    Parameters
    ----------
    parts, rates, length, noise
        As in `move`.
    push : array, shape (part, feature, sample), or None
        Parts of q°.
    stretch : array, scalar
        Factor by which the contrasts have grown.
    axes : array, shape (axis, feature), or None
        Those by which parts were split.
    """

    def size(values: Float[Array, "part feature sample"]) -> Float[Array, "part 1 1"]:
        return jnp.sqrt(jnp.mean(values**2, axis=(1, 2), keepdims=True))

    def share(values: Float[Array, "part 1 1"], by: Float[Array, "part 1 1"]) -> Float[Array, "part 1 1"]:
        return jnp.where(by > 0, values / jnp.where(by > 0, by, 1.0), 0.0)

    before, moved = size(parts), parts
    if rates.pull is not None and push is not None:
        moved = moved + rates.pull * length * push
    if noise is not None:
        if axes is not None:
            noise = noise.at[0].set(_coloured(noise[0], parts[0], axes))
        moved = moved + rates.sd[:, None, None] * share(before, size(noise)) * noise
    target = before * stretch * growth(rates.kappa * length)[:, None, None]
    return jnp.sum(moved * share(target, size(moved)), axis=0)


def _coloured(
    noise: Float[Array, "feature sample"], part: Float[Array, "feature sample"], axes: Float[Array, "axis feature"]
) -> Float[Array, "feature sample"]:
    """Give noise along the axes, alike in all of their directions, the covariance that a part has there."""
    coordinates = axes @ part
    values, vectors = jnp.linalg.eigh(coordinates @ coordinates.T)
    root = (vectors * jnp.sqrt(jnp.maximum(values, 0.0))) @ vectors.T
    return axes.T @ (root @ (axes @ noise))
