"""Impacts: the directions in which training on one class moves the features of all classes.

For class means X̄ᵏ(t) in R^p and class-mean residuals rₖ(t), the drift of the mean of class k is

    Dₖ = (1/K) Σₗ Eₖₗ hₗ,          E = α on the diagonal, β off it,

and the impact hₗ in R^p is one of

- ``I``: hₗ = X̄ˡ, the isotropic model (Zhang, Wang, Su 2021, section 2);
- ``L``: hₗ = d̂ₗ d̂ₗᵀ X̄ˡ with d̂ₗ the unit vector along eₗ − 1/K, the logits model (same paper, section 3);
- ``R``: hₗ = V rₗ, what a gradient step on the cross-entropy pushes along: V is the identity on the
  logits and Wᵀ on the layer that feeds a linear classifier W.

Splitting the class means into their mean over classes and their contrasts (deviations from it) splits
the drift too: with γ = α − β and the global rate g = (α + (K−1)β)/K,

    mean over k of Dₖ = g h̄,          Dₖ − mean = (γ/K)(hₖ − h̄).

*Sampling frequencies.* Where training draws class l with frequency πₗ instead of 1/K, the drift is

    Dₖ = Σₗ πₗ Eₖₗ hₗ = (1/K) Σₗ Eₖₗ h̃ₗ,        h̃ₗ = wₗ hₗ,   wₗ = K πₗ,   (1/K) Σₗ wₗ = 1,

that is, all above with h̃ in place of h: for homogeneous E the mean moves at g times the mean of h̃ and the contrasts
at γ/K times the contrasts of h̃, and the columns that a matrix E acts on are h̃ₗ. Directions below take the weights w.
This holds for I, L and R and at the start of an interval; what a motion does to the impacts within it does not stay as
simple, since a shift δₖ changes h̃ₖ by wₖ times what it changes hₖ:

- ``I``: contrasts (γ/K)(w c − mean) and the shift of all classes couple. Along its own direction u the contrast feeds
  back with λ = −Σₖ wₖ|uₖ|²/|u|² (its Rayleigh quotient; −1 if balanced), the mean with −1; the rest, of second order in
  Δ and vanishing with w − 1, is left to the noise. Balanced, it is exact.
- ``L``: amplitudes wₗaₗ take the place of aₗ, and coefficients are those for w = 1: of first order in Δ.
- ``R``: C̄ is the mean over classes of wₖ times the class' curvature, which is exactly what the mean of h̃ loses to a
  common shift; for contrasts it is the average it was.

Replications and simulations (`lesde_infer.integrators`) integrate I and L exactly for homogeneous E also then.

γ is always the effective separation rate *along the impacts as sampled*,

    γ = K⟨contrast(Σₗ πₗ Eₖₗ hₗ), contrast h̃⟩ / |contrast h̃|².

For homogeneous E that is α − β whatever π is. With contrast h in place of contrast h̃, it would be α − β times
⟨contrast h̃, contrast h⟩/|contrast h|², which depends on π and on the impacts: that γ be an effective rate of separation
and that it be α − β for homogeneous E go together only for h̃, or for balanced sampling.

Over an interval Δ with constant rates, each part moves the class means by Σⱼ cⱼ uⱼ, with orthogonal directions uⱼ
known from the record at the interval's start and coefficients cⱼ that carry all the dependence on the rates.
Under I and R each direction feeds back on itself linearly, δ' = a(1 − λδ) along it for a rate a, so that

    cⱼ = aΔ φ₁(−λⱼ aΔ),      φ₁(z) = (e^z − 1)/z,

with λ = −1 for I (exact), and the softmax curvature for R (exponential Euler; derivations below).
`isotropic_directions`, `logits_directions` and `residual_directions` give uⱼ and λⱼ, `feedback_coefficients` and
`logits_coefficients` give cⱼ;
tests/lesde_infer/test_impacts.py checks them against numerical integration.
"""

from dataclasses import dataclass, replace
from typing import Literal, NamedTuple, TypeVar

import numpy as np
from jaxtyping import Array, Float

from lesde_infer._jax import jax, jnp
from lesde_infer.phi import phi_1

Rate = TypeVar("Rate", np.ndarray, Array)
Impact = Literal["I", "L", "R"]
Elasticity = Literal["homogeneous", "matrix"]
IMPACTS: tuple[Impact, ...] = ("I", "L", "R")

# Growth of class means over one interval, a hundredfold: beyond it they move in proportion to the rate. Rates being
# exponential in u, the likelihood of I and L has cliffs without it, double exponential in u, and where an interval says
# little of a rate trajectories run into them. (Six simulations of L/gp had 57 divergent transitions in 4,800 draws,
# and have 6 with it.)
MAXIMAL_GROWTH = float(np.log(100.0))
MOST_UNROLLED = 4  # components whose sums are written out
MAXIMAL_RESIDUAL_GROWTH = 2.0  # exponent, of residuals within one interval


@dataclass(frozen=True)
class IntervalDirections:
    """Directions uⱼ along which the impacts move the class means in one interval.

    Attributes
    ----------
    contrast : array, shape (component, class, feature)
        Directions of the contrasts; their mean over classes vanishes, and they are orthogonal.
    contrast_feedback : array, shape (component,)
        λⱼ along each direction: −1 for I, the eigenvalue of the softmax curvature for R; not used for L.
    shared : array, shape (component, feature)
        Directions of the mean over classes; they are orthogonal.
    shared_feedback : array, shape (component,)
        As `contrast_feedback`, for the mean over classes.
    axes : array, shape (axis, feature)
        Orthonormal axes that span the impacts hₗ.
    coordinates : array, shape (class, axis)
        Coordinates of each class' impact along the axes.
    axis_feedback : array, shape (axis,)
        λ along each axis; 0 for L, whose feedback is not along axes.
    """

    contrast: Float[np.ndarray, "component class_ feature"]
    contrast_feedback: Float[np.ndarray, " component"]
    shared: Float[np.ndarray, "component feature"]
    shared_feedback: Float[np.ndarray, " component"]
    axes: Float[np.ndarray, "axis feature"]
    coordinates: Float[np.ndarray, "class_ axis"]
    axis_feedback: Float[np.ndarray, " axis"]

    @property
    def impact(self) -> Float[np.ndarray, "class_ feature"]:
        """Contrasts of the impact: hₖ less its mean over classes."""
        return self.contrast.sum(axis=0)

    @property
    def mean_impact(self) -> Float[np.ndarray, " feature"]:
        """Direction in which impacts drive the mean over classes."""
        return self.shared.sum(axis=0)


def simplex_directions(n_classes: int) -> Float[np.ndarray, "class_ class_"]:
    """Return the unit vectors d̂ₖ along eₖ − 1/K, as rows: the vertices of a centred simplex."""
    directions = np.eye(n_classes) - 1.0 / n_classes
    return directions / np.linalg.norm(directions, axis=1, keepdims=True)


Weights = Float[np.ndarray, " class_"] | None
"""w_l = K π_l of each class, None for balanced sampling."""


def weighted(impacts: Float[np.ndarray, "class_ *value"], weights: Weights) -> Float[np.ndarray, "class_ *value"]:
    """Return the impacts as sampled, h̃ₗ = wₗhₗ: see the module's docstring."""
    return impacts if weights is None else impacts * weights.reshape(-1, *[1] * (impacts.ndim - 1))


def isotropic_directions(
    class_means: Float[np.ndarray, "class_ feature"], weights: Weights = None
) -> IntervalDirections:
    """Directions of the I model: the class means themselves.

    Since hₖ = X̄ᵏ, the mean over classes solves dX̄ = g X̄ dt and the contrasts solve dc = (γ/K) c dt: one direction
    each, and e^{aΔ} − 1 = aΔ φ₁(aΔ) is the coefficient with λ = −1 (approximate with ``weights``: module's docstring).
    """
    impacts = weighted(class_means, weights)
    mean = impacts.mean(axis=0)
    contrast = impacts - mean
    feedback = -np.ones(1)
    if weights is not None and (square := float((contrast**2).sum())) > 0:
        feedback = -np.array([float((weights[:, None] * contrast**2).sum()) / square])
    axes = np.linalg.svd(impacts, full_matrices=False)[2]
    return IntervalDirections(
        contrast=contrast[None],
        contrast_feedback=feedback,
        shared=mean[None],
        shared_feedback=-np.ones(1),
        axes=axes,
        coordinates=impacts @ axes.T,
        axis_feedback=-np.ones(len(axes)),
    )


def logits_directions(class_means: Float[np.ndarray, "class_ class_"], weights: Weights = None) -> IntervalDirections:
    """Directions of the L model.

    With aₗ = d̂ₗ·X̄ˡ = ā + δₗ and d̂ₖ·d̂ₗ = −1/(K−1) for k ≠ l, the drift moves ā at rate γ/K and each δₗ at
    rate s/K, s = α + β/(K−1). Integrating Dₖ = (1/K)(γ ā d̂ₖ + α δₖ d̂ₖ + β Σ_{l≠k} δₗ d̂ₗ) (the term in ā uses
    Σₗ d̂ₗ = 0) and splitting off the mean over classes leaves

        contrasts:  (e^{γΔ/K} − 1) ā d̂ₖ  +  (γ/K) φ (δₖ d̂ₖ − m),      m = (1/K) Σₗ δₗ d̂ₗ,
        mean:       g φ m,                                              φ = (e^{sΔ/K} − 1)/(s/K).

    The two directions of the contrasts are orthogonal: Σₖ ā δₖ |d̂ₖ|² = 0 and Σₖ d̂ₖ = 0.
    """
    directions = simplex_directions(len(class_means))
    amplitudes = weighted((directions * class_means).sum(axis=1), weights)
    common = amplitudes.mean()
    individual = (amplitudes - common)[:, None] * directions
    mean = individual.mean(axis=0)
    return IntervalDirections(
        contrast=np.stack([common * directions, individual - mean]),
        contrast_feedback=np.zeros(2),
        shared=mean[None],
        shared_feedback=np.zeros(1),
        axes=np.eye(len(class_means)),
        coordinates=amplitudes[:, None] * directions,
        axis_feedback=np.zeros(len(class_means)),
    )


def residual_directions(
    residuals: Float[np.ndarray, "class_ given_class"],
    curvature: Float[np.ndarray, "given_class given_class"],
    classifier: Float[np.ndarray, "given_class feature"] | None,
) -> IntervalDirections:
    """Directions of the R model: the eigenvectors of the softmax curvature, as seen in feature space.

    Parameters
    ----------
    residuals : array, shape (class, given class)
        Class means of e_given − softmax(logits), times the weights wₗ if sampling is not balanced.
    curvature : array, shape (given class, given class)
        C̄, the mean over classes of the class means of diag(s) − s sᵀ, s = softmax(logits), times wₗ likewise.
    classifier : array, shape (given class, feature), or None
        W of the linear classifier on these features; None where the features are the logits.

    Notes
    -----
    Linearising the residuals around the record, a shift δ of the features changes rₖ by −C̄ W δ, so with
    a = γ/K (contrasts) or a = g (mean over classes) and V = Wᵀ

        dδ/dt = a V (r − C̄ Vᵀ δ)   ⇒   δ(Δ) = aΔ φ₁(−aΔ V C̄ Vᵀ) V r,    φ₁(z) = (e^z − 1)/z.

    With the thin singular value decomposition V = A S Bᵀ and S Bᵀ C̄ B S = U Λ Uᵀ this is
    δ(Δ) = Σⱼ aΔ φ₁(−aΔ λⱼ) (A U)ⱼ (Uᵀ S Bᵀ r)ⱼ: the directions are the columns of A U, orthonormal.
    """
    n_given = residuals.shape[1]
    if classifier is None:
        left, scaled = np.eye(n_given), np.eye(n_given)
    else:
        left, singular, right = np.linalg.svd(classifier.T, full_matrices=False)
        scaled = singular[:, None] * right
    eigenvalues, eigenvectors = np.linalg.eigh(scaled @ curvature @ scaled.T)
    axes = left @ eigenvectors  # (feature, component)
    coordinates = residuals @ scaled.T @ eigenvectors  # (class, component)
    mean = coordinates.mean(axis=0)
    eigenvalues = np.maximum(eigenvalues, 0.0)
    contrast = np.einsum("kj,fj->jkf", coordinates - mean, axes)
    return IntervalDirections(contrast, eigenvalues, (axes * mean).T, eigenvalues, axes.T, coordinates, eigenvalues)


def with_less_feedback(directions: IntervalDirections, share: float) -> IntervalDirections:
    """Return directions whose feedback is a share of what it was."""
    if share == 1.0:
        return directions
    return replace(
        directions,
        contrast_feedback=share * directions.contrast_feedback,
        shared_feedback=share * directions.shared_feedback,
        axis_feedback=share * directions.axis_feedback,
    )


def growing_phi_1(exponent: Float[Array, "..."]) -> Float[Array, "..."]:
    """Return φ₁ for class means that grow over an interval: what multiplies their push, up to `MAXIMAL_GROWTH`."""
    return phi_1(jnp.minimum(exponent, MAXIMAL_GROWTH))


def feedback_coefficients(
    push: Float[Array, "*batch time"], feedback: Float[Array, "*batch time component"]
) -> Float[Array, "*batch time component"]:
    """Coefficients cⱼ = aΔ φ₁(−λⱼ aΔ) for a push aΔ: γΔ/K for contrasts, gΔ for the mean over classes.

    Under R (λ > 0) a negative rate makes residuals grow exponentially, which the linearisation has no right to follow
    far, residuals being bounded by one: the exponent stops at `MAXIMAL_RESIDUAL_GROWTH`, and the coefficient grows
    linearly in the rate from there. Without the stop the likelihood has cliffs, double exponential in u. Class means
    that feed back on themselves (I, λ < 0) stop likewise at `MAXIMAL_GROWTH`.
    """
    return push[..., None] * feedback_factor(push, feedback)


def feedback_factor(
    push: Float[Array, "*batch time"], feedback: Float[Array, "*batch time component"]
) -> Float[Array, "*batch time component"]:
    """Return φ₁(−λⱼ aΔ), what feedback leaves of a push aΔ; stopped as in `feedback_coefficients`."""
    return phi_1(_stopped(push[..., None], feedback))


def _stopped(push: Float[Array, "..."], feedback: Float[Array, "..."]) -> Float[Array, "..."]:
    return jnp.minimum(-feedback * push, _limit(feedback))


def _limit(feedback: Float[Array, "..."]) -> Float[Array, "..."]:
    return jnp.where(feedback > 0.0, MAXIMAL_RESIDUAL_GROWTH, MAXIMAL_GROWTH)


@jax.custom_jvp
def feedback_sums(
    push: Float[Array, "*batch time"],
    moved: Float[Array, "*batch time"],
    feedback: Float[Array, "*batch time component"],
    square: Float[Array, "*batch time component"],
    increment: Float[Array, "*batch time component"],
) -> tuple[Float[Array, "*batch time"], Float[Array, "*batch time"]]:
    """Return Σⱼ cⱼ|uⱼ|² and Σⱼ cⱼ(2⟨uⱼ, Δ⟩ − cⱼ|uⱼ|²) for cⱼ = m φ₁(−λⱼ aΔ), m being what is ``moved``.

    One component after another, and with derivatives by push and ``moved`` alone, which are summed on the way: XLA
    computes several numbers at a time on a CPU only along one axis, and the exponentials of all components at once
    took half the time of a gradient of the posterior of ten classes. Few components are added up without a loop, which
    took a fifth of the gradient of three classes.
    """
    found = _sums_and_slopes(push, moved, feedback, square, increment)
    return found.first, found.second


class _Sums(NamedTuple):
    """Both sums, and the derivatives of each by push and by ``moved``."""

    first: Float[Array, "*batch time"]
    second: Float[Array, "*batch time"]
    first_by_push: Float[Array, "*batch time"]
    first_by_moved: Float[Array, "*batch time"]
    second_by_push: Float[Array, "*batch time"]
    second_by_moved: Float[Array, "*batch time"]


def _sums_and_slopes(
    push: Float[Array, "*batch time"],
    moved: Float[Array, "*batch time"],
    feedback: Float[Array, "*batch time component"],
    square: Float[Array, "*batch time component"],
    increment: Float[Array, "*batch time component"],
) -> _Sums:
    def add(sums: _Sums, component: tuple[Float[Array, "*batch time"], ...]) -> tuple[_Sums, None]:
        rate, size, seen = component
        factor, slope = jax.jvp(phi_1, (_stopped(push, rate),), (jnp.where(-rate * push < _limit(rate), -rate, 0.0),))
        coefficient, by_push = moved * factor, moved * slope
        more = 2.0 * (seen - coefficient * size)  # derivative of the second sum by the coefficient
        terms = _Sums(
            first=coefficient * size,
            second=coefficient * (2.0 * seen - coefficient * size),
            first_by_push=by_push * size,
            first_by_moved=factor * size,
            second_by_push=by_push * more,
            second_by_moved=factor * more,
        )
        return jax.tree.map(jnp.add, sums, terms), None

    components = tuple(jnp.moveaxis(array, -1, 0) for array in (feedback, square, increment))
    unrolled = len(components[0]) if len(components[0]) <= MOST_UNROLLED else 1
    sums, _ = jax.lax.scan(add, _Sums(*(jnp.zeros_like(push),) * 6), components, unroll=unrolled)
    return sums


def _change_of_sums(
    at: tuple[Float[Array, "..."], ...], directions: tuple[Float[Array, "..."], ...]
) -> tuple[tuple[Float[Array, "..."], Float[Array, "..."]], tuple[Float[Array, "..."], Float[Array, "..."]]]:
    push, moved, feedback, square, increment = at
    found = _sums_and_slopes(push, moved, feedback, square, increment)
    by_push, by_moved = directions[:2]
    changes = (
        found.first_by_push * by_push + found.first_by_moved * by_moved,
        found.second_by_push * by_push + found.second_by_moved * by_moved,
    )
    return (found.first, found.second), changes


feedback_sums.defjvp(_change_of_sums)


def logits_coefficients(
    gamma: Float[Array, " time"],
    global_rate: Float[Array, " time"],
    lengths: Float[Array, " time"],
    n_classes: Float[Array, ""],
) -> Float[Array, "2 time 2"]:
    """Coefficients of the L model's directions: contrasts first, then the mean over classes (padded by a zero).

    Growth beyond `MAXIMAL_GROWTH` is linear in the rate.
    """
    exponent = gamma * lengths / n_classes
    relative = growing_phi_1(spread_rate(gamma, global_rate, n_classes) * lengths / n_classes)
    contrast = jnp.stack([exponent * growing_phi_1(exponent), exponent * relative], axis=-1)
    shared = global_rate * lengths * relative
    return jnp.stack([contrast, jnp.stack([shared, jnp.zeros_like(shared)], axis=-1)])


def spread_rate(
    gamma: Float[Array, "..."], global_rate: Float[Array, "..."], n_classes: Float[Array, ""] | int
) -> Float[Array, "..."]:
    """Return s = α + β/(K−1), the rate at which differences of amplitude grow under L, per unit time."""
    alpha, beta = elasticity_from_rates(gamma, global_rate, n_classes)
    return alpha + beta / (n_classes - 1)


def elasticity_from_rates(gamma: Rate, global_rate: Rate, n_classes: Float[Array, ""] | int) -> tuple[Rate, Rate]:
    """Return α = g + γ(K−1)/K and β = g − γ/K, the inverse of γ = α − β, g = (α + (K−1)β)/K."""
    beta = global_rate - gamma / n_classes
    return beta + gamma, beta
