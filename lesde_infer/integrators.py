"""Move the class means of the LE-SDE over one interval between two records, without noise.

With homogeneous elasticity (α on the diagonal of E, β off it) and balanced sampling, class k drifts by

    D_k = (1/K) Σ_l E_kl h_l = g h̄ + (γ/K) (h_k − h̄),     γ = α − β,   g = (α + (K−1) β)/K,

so the mean of the class means is driven by the mean impact h̄ at the rate g, and the contrasts between
classes by the contrasts of the impacts at γ/K. Where elasticity is a matrix, contrasts are driven by (1/K) Σ_l C_kl h_l
instead, with C_kl = E_kl less the mean of its column, and γ = tr C/(K − 1) is the rate at which they feed back on
themselves (`lesde_infer.pattern_model`). Rates are constant over the interval, of length Δ.
The functions here differ in the impact h_l alone, and each is for one draw (`jax.vmap` adds draws).

Exponents are clipped so that no single interval multiplies anything by more than e^50: a step of such a
draw is a statement that it explodes, not a number to be used.
"""

from typing import NamedTuple

from jaxtyping import Array, Float, Int

from lesde_infer._jax import jax, jnp
from lesde_infer.impacts import (
    elasticity_from_rates,
    growing_phi_1,
    simplex_directions,
    spread_rate,
)
from lesde_infer.phi import MAXIMAL_EXPONENT, phi_1

# Pull back to the start, relative to the squared size of the classifier's rows, below which that of a proximal
# step is not let fall. It leaves a mean residual of about this size times the shift, and bounds the
# condition of the Newton steps and the rounding errors along directions that the softmax does not see.
SMALLEST_PULL = 1e-10
# The error left by a damped Newton step of size x is of order x²/2, here less than 1e-10 of a logit.
NEWTON_TOLERANCE = 1e-5
# A damped step crosses about 25 logits where the softmax is saturated, and a few steps finish.
NEWTON_STEPS = 200

Scalar = Float[Array, ""]
Pattern = Float[Array, "class_ class_"]


class Classes(NamedTuple):
    """Which sample belongs where, in the form that the integrators use.

    Parameters
    ----------
    groups
        The class of each sample, whose mean it drifts with.
    averages
        Matrix that turns samples into class means: column k holds 1/n_k at the samples of class k.
    targets
        Row k holds the shares of the given labels among the samples of class k.
    frequencies
        Sampling frequencies π of the classes; None if balanced.
    """

    groups: Int[Array, "sample"]
    averages: Float[Array, "sample class_"]
    targets: Float[Array, "class_ label"]
    frequencies: Float[Array, "class_"] | None = None

    @property
    def weights(self) -> Float[Array, "class_"] | None:
        """w_l = K π_l, by which impacts are weighted; None if sampling is balanced."""
        return None if self.frequencies is None else len(self.frequencies) * self.frequencies


class Readout(NamedTuple):
    """A classifier W x + b with W factored as `mixing` @ `basis`, the rows of `basis` being orthonormal.

    The residual impact moves features only within the span of `basis`, which has at most K dimensions
    however wide the layer is. The logits layer is its own readout: both factors are the identity.
    """

    mixing: Float[Array, "label direction"]
    basis: Float[Array, "direction feature"]
    bias: Float[Array, "label"]


def elasticity_matrix(gamma: Scalar, global_rate: Scalar, n_classes: int) -> Float[Array, "class_ class_"]:
    """Return homogeneous E, with α on its diagonal and β off it."""
    _, beta = elasticity_from_rates(gamma, global_rate, n_classes)
    return gamma * jnp.eye(n_classes) + beta


def growth(exponent: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Return e^exponent, the exponent clipped to ±50."""
    return jnp.exp(jnp.clip(exponent, -MAXIMAL_EXPONENT, MAXIMAL_EXPONENT))


def isotropic_means(
    means: Float[Array, "class_ feature"],
    gamma: Scalar,
    global_rate: Scalar,
    length: Scalar,
    pattern: Pattern | None = None,
    weights: Float[Array, "class_"] | None = None,
) -> Float[Array, "class_ feature"]:
    """Move class means under impact I, h_k = m_k: exact, but for a ``pattern`` C.

    The mean of the class means solves m̄' = g m̄ and each contrast c_k' = (γ/K) c_k. With weights w_l = K π_l the class
    means solve m' = (1/K) E diag(w) m, by the exponential of a K×K matrix; with a pattern the step is explicit. But for
    that exponential, growth beyond `lesde_infer.impacts.MAXIMAL_GROWTH` is linear in the rate.
    """
    if weights is not None:
        if pattern is None:
            elasticity = elasticity_matrix(gamma, global_rate, means.shape[0])
            return jax.scipy.linalg.expm(length / means.shape[0] * elasticity * weights) @ means
        impacts = weights[:, None] * means
        moved = growing_phi_1(gamma * length / means.shape[0]) / means.shape[0] * (pattern @ impacts)
        return means + length * (global_rate * growing_phi_1(global_rate * length) * impacts.mean(axis=0) + moved)
    centre = means.mean(axis=0)
    contrasts = means - centre
    if pattern is not None:
        moved = length / means.shape[0] * growing_phi_1(gamma * length / means.shape[0]) * (pattern @ means)
        return _grown(centre, global_rate * length) + contrasts + moved
    return _grown(centre, global_rate * length) + _grown(contrasts, gamma * length / means.shape[0])


def _grown(values: Float[Array, "*shape"], exponent: Scalar) -> Float[Array, "*shape"]:
    """Return values times e^exponent, linear in the exponent beyond `lesde_infer.impacts.MAXIMAL_GROWTH`."""
    return values + exponent * growing_phi_1(exponent) * values


def simplex_means(
    means: Float[Array, "class_ class_"],
    gamma: Scalar,
    global_rate: Scalar,
    length: Scalar,
    pattern: Pattern | None = None,
    weights: Float[Array, "class_"] | None = None,
) -> Float[Array, "class_ class_"]:
    """Move class means (of logits) under impact L, h_k = a_k d̂_k with a_k = d̂_k·m_k: exact, but for a ``pattern`` C.

    As Σ_l d̂_l = 0, the drift is D_k = (1/K) (γ a_k d̂_k + β Σ_l a_l d̂_l). Its product with d̂_k gives
    a_k' = (1/K) (s a_k − K β ā/(K−1)), s = α + β/(K−1), so that with a_k = ā + δ_k

        ā' = (γ/K) ā,     δ_k' = (s/K) δ_k,

    and integrating D_k, in which β Σ_l a_l d̂_l = β Σ_l δ_l d̂_l,

        Δm_k = (Δ/K) [γ ā φ₁(γΔ/K) d̂_k + (γ δ_k d̂_k + β Σ_l δ_l d̂_l) φ₁(sΔ/K)].

    with φ₁ up to `lesde_infer.impacts.MAXIMAL_GROWTH`, beyond which growth is linear in the rate.

    With weights w_l = K π_l amplitudes a_l become w_l a_l in D_k, so that

        a' = A a,     A = (1/K) (s I − β/(K−1) 1 1ᵀ) diag(w),     Δm_k = (1/K) (γ w_k b_k d̂_k + β Σ_l w_l b_l d̂_l)

    with b = ∫a = Δ φ₁(AΔ) a, the last column of the exponential of A and a side by side.
    """
    n_classes = means.shape[0]
    directions = jnp.asarray(simplex_directions(n_classes))
    if pattern is not None:  # an explicit step; the mean over classes moves by g times that of the impacts
        impacts = jnp.sum(directions * means, axis=1)[:, None] * directions
        impacts = impacts if weights is None else weights[:, None] * impacts
        return means + length * (global_rate * impacts.mean(axis=0) + pattern @ impacts / n_classes)
    _, beta = elasticity_from_rates(gamma, global_rate, n_classes)
    slope = spread_rate(gamma, global_rate, n_classes)
    along = jnp.sum(directions * means, axis=1)
    if weights is not None:
        operator = (slope * jnp.eye(n_classes) - beta / (n_classes - 1)) * weights * length / n_classes
        augmented = (
            jnp.zeros((n_classes + 1, n_classes + 1))
            .at[:-1]
            .set(jnp.concatenate([operator, length * along[:, None]], axis=1))
        )
        driven = weights * jax.scipy.linalg.expm(augmented)[:-1, -1]
        return means + (gamma * driven[:, None] * directions + beta * (driven @ directions)) / n_classes
    common = along.mean()
    differences = along - common
    own = gamma * common * growing_phi_1(gamma * length / n_classes) * directions
    others = (gamma * differences[:, None] * directions + beta * (differences @ directions)) * growing_phi_1(
        slope * length / n_classes
    )
    return means + length / n_classes * (own + others)


def residual_means(
    means: Float[Array, "class_ feature"],
    deviations: Float[Array, "part feature sample"],
    gamma: Scalar,
    global_rate: Scalar,
    kappa: Float[Array, " part"],
    length: Scalar,
    *,
    readout: Readout,
    classes: Classes,
    substeps: Int[Array, ""],
    pattern: Pattern | None = None,
) -> Float[Array, "class_ feature"]:
    """Move class means under impact R, h_k = Wᵀ r_k, r_k the class mean of e_given − softmax(W x + b).

    With W = A Z (`Readout`) the class means move within the rows of Z, and logits change by A times
    the coordinates ζ of that move. A shift ζ of every sample changes the mean residual by −C̄ A ζ, where
    C̄ is the average over classes of the class averages of diag(s) − s sᵀ, s = softmax. Taking C̄ for the
    curvature of each class makes contrasts relax as c' = −(γ/K) C̄ A Aᵀ c; the coordinates move by
    Aᵀ ∫c, and since Aᵀ φ₁(C̄ A Aᵀ) = φ₁(Aᵀ C̄ A) Aᵀ, no inverse or root of A Aᵀ is needed:

        Δζ_k = τ φ₁(−τ M) Aᵀ (r_k − r̄),    M = Aᵀ C̄ A = P diag(λ) Pᵀ,    τ = (γ/K) Δ.

    This is exponential Euler (Hochbruck and Ostermann 2010, Acta Numerica 19, equation 2.4) with an
    approximate Jacobian: first order in the length of a sub-step. After each such move, with each part of the
    deviations stretched by its κ, the shift of all classes together follows by `_common_shift`.
    With sampling frequencies π_l residuals r_k are weighted by K π_k, and averages over classes are by π: the drift is
    Σ_l π_l E_kl h_l.
    """
    mixing = readout.mixing
    step = length / substeps
    stretch = jnp.clip(kappa * length, -MAXIMAL_EXPONENT, MAXIMAL_EXPONENT) / substeps
    weight = mixing @ readout.basis
    logit_means = means @ weight.T + readout.bias
    logit_deviations = weight @ deviations
    contrast_time = gamma * step / means.shape[0]
    shares, weights = classes.frequencies, classes.weights
    sample_weights = classes.averages.mean(axis=1) if shares is None else classes.averages @ shares
    mean_target = classes.targets.mean(axis=0) if shares is None else shares @ classes.targets

    def logits_at(moved: Float[Array, "class_ direction"], substep: Int[Array, ""]) -> Float[Array, "label sample"]:
        return (logit_means + moved @ mixing.T).T[:, classes.groups] + jnp.tensordot(
            jnp.exp(stretch * substep), logit_deviations, axes=1
        )

    def advance(substep: Int[Array, ""], moved: Float[Array, "class_ direction"]) -> Float[Array, "class_ direction"]:
        probabilities = jax.nn.softmax(logits_at(moved, substep), axis=0)
        residuals = classes.targets - (probabilities @ classes.averages).T
        residuals = residuals if weights is None else weights[:, None] * residuals
        rates, modes = jnp.linalg.eigh(mixing.T @ _curvature(probabilities, sample_weights) @ mixing)
        rates = jnp.maximum(rates, 0.0)  # rounding leaves the zero eigenvalues slightly negative
        if pattern is None:
            pushed = contrast_time * (residuals - residuals.mean(axis=0))
        else:
            pushed = step / means.shape[0] * (pattern @ residuals)
        moved = moved + ((pushed @ mixing @ modes) * phi_1(-contrast_time * rates)) @ modes.T
        return moved + _common_shift(
            logits_at(moved, substep + 1), rates, modes, global_rate * step, mixing, sample_weights, mean_target
        )

    start = jnp.zeros((means.shape[0], mixing.shape[1]))
    return means + jax.lax.fori_loop(0, substeps, advance, start) @ readout.basis


def _curvature(
    probabilities: Float[Array, "label sample"], sample_weights: Float[Array, "sample"]
) -> Float[Array, "label label"]:
    """Return the weighted mean of diag(s) − s sᵀ over the samples' softmax probabilities s."""
    weighted = probabilities * sample_weights
    return jnp.diag(weighted.sum(axis=1)) - probabilities @ weighted.T


def _common_shift(
    logits: Float[Array, "label sample"],
    rates: Float[Array, "direction"],
    modes: Float[Array, "direction direction"],
    time: Scalar,
    mixing: Float[Array, "label direction"],
    sample_weights: Float[Array, "sample"],
    mean_target: Float[Array, "label"],
) -> Float[Array, "direction"]:
    """Return how far, in coordinates of the readout, the shift of all classes moves in `time` = gΔ.

    The shift ζ follows ζ' = g Aᵀ r̄(ζ) = −g ∇F(ζ), F the mean cross-entropy: convex. In real trainings gΔ
    is so large that it arrives at the minimum within one interval, where an explicit step overshoots.
    So for g > 0 the shift is that of a proximal step,

        ζ = argmin F(ζ) + ½ ζᵀ N ζ,   N = P diag(ν) Pᵀ,   ν = λ/(e^{λτ} − 1) = 1/(τ φ₁(λτ)),   τ = gΔ.

    On a quadratic F with Hessian P diag(λ) Pᵀ it is exact (both give (1 − e^{−λτ})/λ along each mode),
    it is first order otherwise, and for τ → ∞ it is the minimum, where r̄ vanishes along the directions
    that the readout can move. Newton steps d are damped by log(1 + ρ)/ρ, ρ the spread of A d over labels:
    cross-entropy is generalised self-concordant of order 2 with constant ρ along d, for which this
    damping converges from anywhere (Sun and Tran-Dinh 2019, Mathematical Programming 178, theorem 2).
    For g ≤ 0 the minimum repels, and the exponential Euler step τ φ₁(−τλ) Aᵀ r̄ is taken.
    """
    size = jnp.maximum(jnp.mean(jnp.sum(mixing**2, axis=1)), 1e-300)
    forward_time = jnp.maximum(time, 1e-12)
    stiffness = jnp.maximum(1.0 / (forward_time * phi_1(forward_time * rates)), SMALLEST_PULL * size)
    pull = (modes * stiffness) @ modes.T

    def mean_residual(probabilities: Float[Array, "label sample"]) -> Float[Array, "label"]:
        residual = mean_target - probabilities @ sample_weights
        return residual - residual.mean()  # residuals sum to zero but for rounding, which a large τ would magnify

    def unfinished(state: tuple[Array, Scalar, Int[Array, ""]]) -> Array:
        _, spread, iteration = state
        return (spread > NEWTON_TOLERANCE) & (iteration < NEWTON_STEPS)

    def newton(state: tuple[Array, Scalar, Int[Array, ""]]) -> tuple[Array, Scalar, Int[Array, ""]]:
        shift, _, iteration = state
        probabilities = jax.nn.softmax(logits + (mixing @ shift)[:, None], axis=0)
        hessian = mixing.T @ _curvature(probabilities, sample_weights) @ mixing + pull
        downhill = mixing.T @ mean_residual(probabilities) - pull @ shift
        direction = jax.scipy.linalg.solve(hessian, downhill, assume_a="pos")
        spread = jnp.ptp(mixing @ direction)
        damping = jnp.where(spread > 0, jnp.log1p(spread) / jnp.where(spread > 0, spread, 1.0), 1.0)
        return shift + damping * direction, spread, iteration + 1

    proximal, _, _ = jax.lax.while_loop(
        unfinished, newton, (jnp.zeros(mixing.shape[1]), jnp.asarray(jnp.inf), jnp.asarray(0))
    )
    start = mixing.T @ mean_residual(jax.nn.softmax(logits, axis=0))
    explicit = modes @ (time * phi_1(-time * rates) * (modes.T @ start))
    return jnp.where(time > 0, proximal, explicit)
