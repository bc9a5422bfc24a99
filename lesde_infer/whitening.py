"""Conditional whitening: coordinates in which a hierarchical linear model is almost a standard normal.

The weights w of a curve have prior N(μ, S(θ)²), S diagonal in the hyperparameters θ, and a likelihood that near a
point w° is about Gaussian with information Λ and gradient s. Neither the centred nor the non-centred parametrisation
suits both the weights that the data pin down and those that they leave to the prior. Instead sample θ and
e ~ N(0, I), with

    w = μ + Q⁻¹(η − Λμ) + C⁻ᵀ e,       η = Λw° + s,       Q = Λ + S(θ)⁻² = C Cᵀ,

that is, w as the posterior would have it were the likelihood Gaussian. This is a change of variables, hence exact
whatever Λ and η are: the density of e is p(w | θ) |dw/de| with log |dw/de| = −Σ log Cᵢᵢ. Λ = 0, η = 0 gives back the
non-centred parametrisation, w = μ + S e. If w° is the posterior mode at θ°, then e = 0 is that mode at θ°, and the
density over θ at e = 0 is Laplace's approximation of the marginal posterior of θ: its mode is where chains start.

Where θ also sets the scale of what w multiplies, as the time scale τ of a power law that of log(t + τ), the likelihood
is about the same Gaussian in c(θ)w, not in w. A `RescaledNormal` tells c, and all of the above then holds for c(θ)w,
with log |dw/de| less by Σ log c. Without it log variances that hardly change left the exponent to τ along a bent ridge:
188 effective draws of 12,000, with chains that stayed at its end for hundreds of draws.

Where the most probable weights move with θ along a bent ridge, as when θ scales what a rate moves, it tells by how much
e moves, `shift` (`lesde_infer.size_lean`): what is sampled is e less that, and the volume is the same.

tests/lesde_infer/test_whitening.py checks that the density is unchanged, and the two limits.
"""

from typing import NamedTuple

import numpyro
import numpyro.distributions as dist
from jax.scipy.linalg import solve_triangular
from jaxtyping import Array, Float
from numpyro.infer.reparam import Reparam

from lesde_infer._jax import jax, jnp


class WhiteningPoint(NamedTuple):
    """Gaussian approximation of the likelihood of several curves' weights w, or of c·w, curve by curve.

    Attributes
    ----------
    information : array, shape (curve, weight, weight)
        Λ, symmetric and positive semi-definite.
    natural : array, shape (curve, weight)
        η = Λw° + s.
    """

    information: Float[Array, "curve weight weight"]
    natural: Float[Array, "curve weight"]


class RescaledNormal(dist.Normal):  # type: ignore[misc]  # NumPyro is not typed
    """Normal of weights w whose likelihood keeps its shape in c·w when other sites, and with them c, change.

    The density is that of w. Only `ConditionalWhitening` asks for c and the shift.

    Parameters
    ----------
    loc, scale : array, shape (curve, weight)
        Mean and standard deviation of w.
    factor : array, shape (curve, weight)
        c, positive.
    shift : array, shape (curve, weight), optional
        Where e lies given other sites; 0 by default.
    """

    pytree_data_fields = ("factor", "shift")

    def __init__(
        self,
        loc: Float[Array, "curve weight"],
        scale: Float[Array, "curve weight"],
        factor: Float[Array, "curve weight"],
        shift: Float[Array, "curve weight"] | None = None,
    ) -> None:
        self.factor, self.shift = factor, jnp.zeros_like(loc) if shift is None else shift
        super().__init__(loc, scale)


def factor_of(normal: dist.Normal) -> Float[Array, "curve weight"]:
    """Return c of weights: ones where it is not told."""
    return normal.factor if isinstance(normal, RescaledNormal) else jnp.ones_like(normal.loc)


def shift_of(normal: dist.Normal) -> Float[Array, "curve weight"]:
    """Return where e lies given other sites: zeros where it is not told."""
    return normal.shift if isinstance(normal, RescaledNormal) else jnp.zeros_like(normal.loc)


class ConditionalWhitening(Reparam):  # type: ignore[misc]  # NumPyro is not typed
    """NumPyro reparametrisation of a diagonal normal site, shape (curve, weight), by conditional whitening.

    Adds a site ``{name}_whitened``, standard normal a priori, and a factor that restores the site's own density.
    """

    def __init__(self, point: WhiteningPoint) -> None:
        self.point = point

    def __call__(
        self, name: str, fn: dist.Distribution, obs: Float[Array, "curve weight"] | None
    ) -> tuple[None, Float[Array, "curve weight"]]:
        """Replace the site ``name`` by its whitened coordinates."""
        if obs is not None:
            raise ValueError(f"site {name} is observed and cannot be whitened")
        normal, _, _ = self._unwrap(fn)
        standard = dist.Normal(jnp.zeros_like(normal.loc), 1.0).to_event(2)
        whitened = numpyro.sample(f"{name}_whitened", standard)
        factor, moved = factor_of(normal), whitened + shift_of(normal)
        scaled, log_determinant = unwhiten(moved, factor * normal.loc, factor * normal.scale, self.point)
        value, log_determinant = scaled / factor, log_determinant - jnp.log(factor).sum()
        log_prior = normal.log_prob(value).sum()
        numpyro.factor(f"{name}_jacobian", log_prior + log_determinant - standard.log_prob(whitened))
        return None, value


@jax.custom_vjp
def unwhiten(
    whitened: Float[Array, "curve weight"],
    mean: Float[Array, "curve weight"],
    sd: Float[Array, "curve weight"],
    point: WhiteningPoint,
) -> tuple[Float[Array, "curve weight"], Float[Array, ""]]:
    """Return w and log |dw/de| for whitened coordinates e.

    Computed in units of the prior's standard deviation, w = μ + S v, so that the matrix to factor, A = I + SΛS = F Fᵀ,
    has eigenvalues of at least one whatever the scale of S. With G = F⁻¹ and p = S(η − Λμ),

        z = G p + e,      v = Gᵀz,      log |dw/de| = Σ log S − Σ log F.

    Its derivatives are written out, since they take no further factorisation, and up to half the time of a gradient
    went into what automatic differentiation makes of this. Let v̄ be the derivative by v, l̄ that by log |dw/de|, and
    z̄ = G v̄. From v = Gᵀz and z = Gp + e, that by G is z v̄ᵀ + z̄ pᵀ, and through G = F⁻¹ and A = F Fᵀ (Murray 2016,
    arXiv 1602.07527) that by A is the symmetric part of

        Gᵀ (Φ(−z z̄ᵀ − z̄ (z − e)ᵀ) − ½ l̄ I) G,

    Φ keeping the lower triangle, and half of the diagonal. tests/lesde_infer/test_whitening.py compares with what
    automatic differentiation finds.
    """
    return _unwhiten(whitened, mean, sd, point)[0]


class _Kept(NamedTuple):
    """What the derivatives need."""

    whitened: Float[Array, "curve weight"]
    mean: Float[Array, "curve weight"]
    sd: Float[Array, "curve weight"]
    point: WhiteningPoint
    inverse: Float[Array, "curve weight weight"]
    pulled: Float[Array, "curve weight"]
    value: Float[Array, "curve weight"]


def _unwhiten(
    whitened: Float[Array, "curve weight"],
    mean: Float[Array, "curve weight"],
    sd: Float[Array, "curve weight"],
    point: WhiteningPoint,
) -> tuple[tuple[Float[Array, "curve weight"], Float[Array, ""]], _Kept]:
    identity = jnp.eye(sd.shape[1])
    factor = jnp.linalg.cholesky(identity + sd[:, :, None] * point.information * sd[:, None, :], symmetrize_input=False)
    inverse = solve_triangular(factor, jnp.broadcast_to(identity, factor.shape), lower=True)
    pull = sd * (point.natural - _times(point.information, mean))
    pulled = _times(inverse, pull) + whitened
    value = _times(inverse.mT, pulled)
    log_determinant = jnp.log(sd).sum() - jnp.log(jnp.diagonal(factor, axis1=1, axis2=2)).sum()
    return (mean + sd * value, log_determinant), _Kept(whitened, mean, sd, point, inverse, pulled, value)


def _derivatives(
    kept: _Kept, by: tuple[Float[Array, "curve weight"], Float[Array, ""]]
) -> tuple[Float[Array, "curve weight"], Float[Array, "curve weight"], Float[Array, "curve weight"], WhiteningPoint]:
    """Return derivatives by whitened coordinates, mean, sd and point, from those by w and by log |dw/de|."""
    by_weights, by_log_determinant = by
    mean, sd, information = kept.mean, kept.sd, kept.point.information
    by_pulled = _times(kept.inverse, sd * by_weights)
    by_pull = _times(kept.inverse.mT, by_pulled)
    by_natural = sd * by_pull
    lower = -_outer(kept.pulled, by_pulled) - _outer(by_pulled, kept.pulled - kept.whitened)
    identity = jnp.eye(sd.shape[1])
    middle = jnp.tril(lower) - 0.5 * identity * (lower + by_log_determinant)
    by_matrix = kept.inverse.mT @ middle @ kept.inverse
    by_matrix = 0.5 * (by_matrix + by_matrix.mT)
    by_mean = by_weights - _times(information.mT, by_natural)
    by_sd = (
        kept.value * by_weights
        + by_log_determinant / sd
        + (kept.point.natural - _times(information, mean)) * by_pull
        + 2.0 * _times(by_matrix * information, sd)
    )
    by_information = sd[:, :, None] * by_matrix * sd[:, None, :] - _outer(by_natural, mean)
    return by_pulled, by_mean, by_sd, WhiteningPoint(by_information, by_natural)


unwhiten.defvjp(_unwhiten, _derivatives)


def _times(
    matrix: Float[Array, "curve weight weight"], vector: Float[Array, "curve weight"]
) -> Float[Array, "curve weight"]:
    return jnp.einsum("cij,cj->ci", matrix, vector)


def _outer(a: Float[Array, "curve weight"], b: Float[Array, "curve weight"]) -> Float[Array, "curve weight weight"]:
    return a[:, :, None] * b[:, None, :]
