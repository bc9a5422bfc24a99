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

from collections.abc import Callable
from typing import Literal

from jaxtyping import Array, Float

from lesde_infer._jax import jax, jnp
from lesde_infer.curves import Curve
from lesde_infer.model import (
    Parameters,
    StrataData,
    evaluate_curves,
    interval_degrees,
    one_step_location,
    predict_intervals,
)


def curve_information(
    parameters: Parameters,
    weights: Float[Array, "curve weight"],
    time_scale: Float[Array, ""],
    data: StrataData,
    *,
    curve: Curve,
    coupled: bool,
) -> Float[Array, "curve weight weight"]:
    """Return Λ of each curve's weights: location curves, log noise scales, and ψ where intervals are mixed."""

    def curves(w: Float[Array, "curve weight"]) -> Float[Array, "curve time"]:
        return jnp.concatenate(evaluate_curves(curve, w, time_scale, data))[: len(weights)]

    information = jnp.concatenate(
        [
            _mean_information("seen", parameters, data, coupled),
            _scale_information(parameters, data, coupled),
            _mean_information("attenuation", parameters, data, coupled),
        ]
    )[: len(weights)]
    return weight_information(curves, weights, information)


def weight_information(
    curves: Callable[[Float[Array, "curve weight"]], Float[Array, "curve time"]],
    weights: Float[Array, "curve weight"],
    information: Float[Array, "curve time"],
) -> Float[Array, "curve weight weight"]:
    """Return Λ of each curve's weights from the information of each interval in each curve there."""
    # A curve depends on its own weights only: one direction moves the same weight of all curves at once.
    tangents = jnp.eye(weights.shape[1])[:, None, :] * jnp.ones_like(weights)
    jacobian = jax.vmap(lambda tangent: jax.jvp(curves, (weights,), (tangent,))[1])(tangents)
    return jnp.einsum("ict,ct,jct->cij", jacobian, information, jacobian)


def _mean_information(
    name: Literal["seen", "attenuation"], parameters: Parameters, data: StrataData, coupled: bool
) -> Float[Array, "stratum time"]:
    """Information of each interval in a curve that moves the mean: each location curve as sampled, or each ψ."""
    prediction = predict_intervals(parameters, data, coupled=coupled)
    nu, d = interval_degrees(parameters.degrees, data.relative_length), data.dimension[:, None]
    weight = data.observed * (nu + d) / (nu + d + 2.0) * jnp.exp(-2.0 * prediction.log_noise)
    attenuation = parameters.attenuation
    seen = one_step_location(parameters.location, -attenuation, data)
    at = {"seen": seen, "attenuation": attenuation}

    def coefficients(values: Float[Array, "stratum time"]) -> Float[Array, "stratum time component"]:
        moved = {**at, name: values}
        location = one_step_location(moved["seen"], moved["attenuation"], data)
        changed = parameters._replace(location=location, attenuation=moved["attenuation"])
        return predict_intervals(changed, data, coupled=coupled).coefficients

    def one(index: Array) -> Float[Array, " time"]:
        direction = jnp.zeros_like(seen).at[index].set(1.0)
        sensitivity = jax.jvp(coefficients, (at[name],), (direction,))[1]
        of_number = (sensitivity * data.direction_square).sum(axis=-1) ** 2
        of_vector = (sensitivity**2 * data.direction_square).sum(axis=-1)
        return (weight * jnp.where(data.is_number[:, None] > 0, of_number, of_vector)).sum(axis=0)

    return jax.vmap(one)(jnp.arange(len(data.reference)))


def _scale_information(parameters: Parameters, data: StrataData, coupled: bool) -> Float[Array, "stratum time"]:
    """Information of each interval in the log noise scales there; measurement error dilutes it."""

    def log_noise(log_scale: Float[Array, "stratum time"]) -> Float[Array, "stratum time"]:
        return predict_intervals(parameters._replace(log_scale=log_scale), data, coupled=coupled).log_noise

    nu, d = interval_degrees(parameters.degrees, data.relative_length), data.dimension[:, None]
    dilution = jax.jvp(log_noise, (parameters.log_scale,), (jnp.ones_like(parameters.log_scale),))[1]
    return data.observed * 2.0 * d * nu / (nu + d + 2.0) * dilution**2
