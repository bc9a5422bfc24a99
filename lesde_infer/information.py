"""Fisher information of the likelihood in the curves' weights: what whitens the posterior.

For a d-dimensional Student-t with ν degrees of freedom, location m(u) and scale σ = e^v, the expected
information is (Lange, Little & Taylor 1989, Journal of the American Statistical Association 84, section 3)

    in u:  (ν + d)/(ν + d + 2) |∂m/∂u|²/σ²,        in v:  2 d ν/(ν + d + 2),        between u and v: none.

Unlike the Hessian it is positive wherever it is evaluated, and rate and noise do not mix. The chain rule through a
curve gives Λ = Jᵀ diag(information per interval) J, J the derivative of the curve in its weights. Under L a rate
also informs the other's stratum (through s): its information is summed over strata, and what the two share is left
out, which costs efficiency, not correctness: whitening is exact for any Λ.
tests/lesde_infer/test_information.py compares with averages over simulated data.
"""

from jaxtyping import Array, Float

from lesde_infer._jax import jax, jnp
from lesde_infer.curves import Curve
from lesde_infer.model import Parameters, StrataData, evaluate_curves, predict_intervals


def curve_information(
    parameters: Parameters,
    weights: Float[Array, "2*stratum weight"],
    time_scale: Float[Array, ""],
    data: StrataData,
    *,
    curve: Curve,
    coupled: bool,
) -> Float[Array, "2*stratum weight weight"]:
    """Return Λ of each curve's weights: those of the location curves, then of the log noise scales."""

    def curves(w: Float[Array, "2*stratum weight"]) -> Float[Array, "2*stratum time"]:
        return jnp.concatenate(evaluate_curves(curve, w, time_scale, data))

    # A curve depends on its own weights only: one direction moves the same weight of all curves at once.
    tangents = jnp.eye(weights.shape[1])[:, None, :] * jnp.ones_like(weights)
    jacobian = jax.vmap(lambda tangent: jax.jvp(curves, (weights,), (tangent,))[1])(tangents)
    information = jnp.concatenate(
        [_location_information(parameters, data, coupled), _scale_information(parameters, data, coupled)]
    )
    return jnp.einsum("ict,ct,jct->cij", jacobian, information, jacobian)


def _location_information(parameters: Parameters, data: StrataData, coupled: bool) -> Float[Array, "stratum time"]:
    """Information of each interval in each location curve there."""
    prediction = predict_intervals(parameters, data, coupled=coupled)
    nu, d = parameters.degrees, data.dimension
    weight = ((nu + d) / (nu + d + 2.0))[:, None] * jnp.exp(-2.0 * prediction.log_noise)

    def one(location_index: Array) -> Float[Array, " time"]:
        tangent = jnp.zeros_like(parameters.location).at[location_index].set(1.0)
        sensitivity = jax.jvp(
            lambda location: (
                predict_intervals(parameters._replace(location=location), data, coupled=coupled).coefficients
            ),
            (parameters.location,),
            (tangent,),
        )[1]
        return (weight * (sensitivity**2 * data.direction_square).sum(axis=-1)).sum(axis=0)

    return jax.vmap(one)(jnp.arange(len(data.reference)))


def _scale_information(parameters: Parameters, data: StrataData, coupled: bool) -> Float[Array, "stratum time"]:
    """Information of each interval in the log noise scales there; measurement error dilutes it."""

    def log_noise(log_scale: Float[Array, "stratum time"]) -> Float[Array, "stratum time"]:
        return predict_intervals(parameters._replace(log_scale=log_scale), data, coupled=coupled).log_noise

    nu, d = parameters.degrees, data.dimension
    dilution = jax.jvp(log_noise, (parameters.log_scale,), (jnp.ones_like(parameters.log_scale),))[1]
    return (2.0 * d * nu / (nu + d + 2.0))[:, None] * dilution**2
