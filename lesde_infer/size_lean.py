"""How a rate leans on b, the slope of step sizes (`lesde_infer.model`): what moves with b while the fit to data stays.

The drift of interval k is the rate times s_k = 1 + b q_k, and where quiet intervals (q near −1, little noise) tell
most, they tell the rate times 1 − b to a hundredth, say, and b to a tenth. Given b, the weights of the rate's curve are
then known far better than they are at all, and lie along a bent ridge: LeNet on digits, recorded in bursts, had a level
that moved by 50 of its conditional standard deviations, as log(1 − b) to within two, and chains of 600 draws were worth
33.

So the whitening of the weights is told how they lean (`lesde_infer.whitening.RescaledNormal`). Let y_k be the rate that
interval k tells by itself were q_k = 0, V_k the information in it, and β = (1, b_short, b_long), so that s_k = f_k·β.
The least-squares rate of intervals nearby is

    r = Σ V_k s_k y_k / Σ V_k s_k² = h·β / βᵀ G β,      h = Σ V_k y_k f_k,      G = Σ V_k f_k f_kᵀ,

where a Student-t regression of y on f has taken off the weight of outliers, as the model's noise does. That of long
intervals moves the curve, as these see it, by log r_long where the rate is far above its resolution; ψ, which is what
short ones see less of it, moves by log r_long − log r_short. h and G are taken in windows of log time, and what is
found there is laid on the curves' basis. Any function of b leaves the posterior as it is, since only coordinates lean:
a bad one costs time. Told, γ of LeNet (another seed) where it mixed worst was worth 417 draws in place of 43, at four
fifths of the gradients.

tests/lesde_infer/test_size_lean.py checks closed forms, and that weights hardly move with b.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Array, Float

from lesde_infer._jax import jnp

WINDOWS = 12  # of log time, in which the lean is told
TYPICAL = np.array([1.0, 0.5, 0.5])  # β at the prior mean of b, where r is 1
DEGREES, REWEIGHTINGS = 2.0, 20  # of the Student-t whose outliers do not count, and how often they are looked for
FLOOR = 0.005  # of r, in proportion to that at the typical slope: its logarithm is finite
BACKGROUND = 1e-6  # share of all other intervals in a window's G, so that there is always something in it
TINY = 1e-300  # in place of nothing, where there is nothing to divide by
RIDGE = 1e-3  # of the regression on the basis, whose functions overlap


class SizeLean(NamedTuple):
    """What tells how the curves of one stratum lean on b.

    Attributes
    ----------
    pulls : array, shape (length, window, 3)
        h of long intervals and of short ones.
    products : array, shape (length, window, 3, 3)
        G of long intervals and of short ones, scaled so that r is 1 at the typical slope.
    spread : array, shape (weight, window)
        Weights of the curve that passes through given values in the windows, where the rate is resolved.
    """

    pulls: Float[Array, "length window 3"]
    products: Float[Array, "length window 3 3"]
    spread: Float[Array, "weight window"]


def size_lean(
    log_time: Float[np.ndarray, " time"],
    columns: Float[np.ndarray, "time weight"],
    relative_size: Float[np.ndarray, " time"],
    relative_length: Float[np.ndarray, " time"],
    push: Float[np.ndarray, " time"],
    noise: Float[np.ndarray, " time"],
    increment: Float[np.ndarray, " time"],
    reference: float,
) -> SizeLean:
    """Prepare the lean of a stratum whose increment is one number.

    Parameters
    ----------
    log_time
        Of intervals, scaled to [−1, 1].
    columns
        The curve's basis at the intervals.
    relative_size, relative_length
        q and x of `lesde_infer.model`.
    push
        What a rate of one moves; 0 where an interval tells nothing.
    noise
        Standard deviation of the increment, up to a factor that changes slowly.
    increment
        The increment.
    reference
        Resolution of the rate.
    """
    factors = np.stack([np.ones_like(push), (1 - relative_length) * relative_size, relative_length * relative_size], 1)
    centres = np.linspace(-1.0, 1.0, WINDOWS)
    near = np.exp(-0.5 * ((log_time[None, :] - centres[:, None]) / (centres[1] - centres[0])) ** 2)
    near /= near.sum(axis=0)
    told = push != 0
    information = (push / noise) ** 2
    if told.any():  # in units of what intervals nearby tell, which falls by orders of magnitude as training proceeds
        usual = (near * told) @ np.log(np.where(told, information, 1.0)) / np.maximum((near * told).sum(axis=1), TINY)
        information = information / np.exp(usual @ near)
    own = np.where(told, increment, 0.0) / np.where(told, push, 1.0)
    lengths = np.stack([relative_length**2, (1 - relative_length) ** 2 + BACKGROUND])
    pulls, products, rates = [], [], []
    for shares in near + BACKGROUND:
        weight = shares * information * _without_outliers(factors, own, shares * information)
        rates.append(weight @ own / max(weight.sum(), TINY))
        pulls.append((lengths * weight * own) @ factors)
        products.append(np.einsum("lt,t,ti,tj->lij", lengths, weight, factors, factors))
    resolved = np.abs(rates) / np.hypot(rates, reference)
    pull, product = np.stack(pulls, 1), np.stack(products, 1)
    pull = pull / np.maximum(np.abs(pull @ TYPICAL), TINY)[..., None]
    product = product / np.maximum(np.einsum("i,lwij,j->lw", TYPICAL, product, TYPICAL), TINY)[..., None, None]
    regression = np.linalg.solve(columns.T @ columns + RIDGE * np.eye(columns.shape[1]), columns.T @ near.T)
    return SizeLean(jnp.asarray(pull), jnp.asarray(product), jnp.asarray(regression * resolved))


def _without_outliers(
    factors: Float[np.ndarray, "time 3"], own: Float[np.ndarray, " time"], weight: Float[np.ndarray, " time"]
) -> Float[np.ndarray, " time"]:
    """Return the weights by which a Student-t regression of intervals' own rates on f_k takes off those of outliers."""
    kept = np.ones_like(own)
    for _ in range(REWEIGHTINGS):
        weighted = factors.T * (weight * kept)
        normal = weighted @ factors
        ridge = RIDGE * max(np.trace(normal), TINY) * np.eye(3)
        residual = weight * (own - factors @ np.linalg.solve(normal + ridge, weighted @ own)) ** 2
        scale = max((kept * residual).sum() / max((weight > 0).sum(), 1), TINY)
        kept = (DEGREES + 1.0) / (DEGREES + residual / scale)
    return kept


def lean_of_weights(lean: SizeLean, slope: Float[Array, " 2"]) -> Float[Array, "2 weight"]:
    """Return how far the weights of the rate's curve and of ψ move with b of the shortest and the longest intervals."""
    beta = jnp.concatenate([jnp.ones(1), slope])
    pulled, own = lean.pulls @ beta, jnp.einsum("i,lwij,j->lw", beta, lean.products, beta)
    long, short = 0.5 * jnp.log(pulled**2 + FLOOR**2) - jnp.log(own + FLOOR**2)
    return jnp.stack([lean.spread @ long, lean.spread @ (long - short)])
