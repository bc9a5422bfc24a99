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

tests/lesde_infer/test_whitening.py checks that the density is unchanged, and the two limits.
"""

from typing import NamedTuple

import numpyro
import numpyro.distributions as dist
from jax.scipy.linalg import solve_triangular
from jaxtyping import Array, Float
from numpyro.infer.reparam import Reparam

from lesde_infer._jax import jnp


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

    The density is that of w. Only `ConditionalWhitening` asks for c.

    Parameters
    ----------
    loc, scale : array, shape (curve, weight)
        Mean and standard deviation of w.
    factor : array, shape (curve, weight)
        c, positive.
    """

    pytree_data_fields = ("factor",)

    def __init__(
        self,
        loc: Float[Array, "curve weight"],
        scale: Float[Array, "curve weight"],
        factor: Float[Array, "curve weight"],
    ) -> None:
        self.factor = factor
        super().__init__(loc, scale)


def factor_of(normal: dist.Normal) -> Float[Array, "curve weight"]:
    """Return c of weights: ones where it is not told."""
    return normal.factor if isinstance(normal, RescaledNormal) else jnp.ones_like(normal.loc)


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
        factor = factor_of(normal)
        scaled, log_determinant = unwhiten(whitened, factor * normal.loc, factor * normal.scale, self.point)
        value, log_determinant = scaled / factor, log_determinant - jnp.log(factor).sum()
        log_prior = normal.log_prob(value).sum()
        numpyro.factor(f"{name}_jacobian", log_prior + log_determinant - standard.log_prob(whitened))
        return None, value


def unwhiten(
    whitened: Float[Array, "curve weight"],
    mean: Float[Array, "curve weight"],
    sd: Float[Array, "curve weight"],
    point: WhiteningPoint,
) -> tuple[Float[Array, "curve weight"], Float[Array, ""]]:
    """Return w and log |dw/de| for whitened coordinates e.

    Computed in units of the prior's standard deviation, w = μ + S v, so that the matrix to factor, I + SΛS, has
    eigenvalues of at least one whatever the scale of S.
    """
    scaled = sd[:, :, None] * point.information * sd[:, None, :]
    factor = jnp.linalg.cholesky(jnp.eye(sd.shape[1]) + scaled)
    pull = sd * (point.natural - jnp.einsum("cij,cj->ci", point.information, mean))
    inner = solve_triangular(factor, pull[..., None], lower=True) + whitened[..., None]
    value = solve_triangular(factor, inner, lower=True, trans="T")[..., 0]
    return mean + sd * value, jnp.log(sd).sum() - jnp.log(jnp.diagonal(factor, axis1=1, axis2=2)).sum()
