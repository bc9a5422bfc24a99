"""The NumPyro model of the LE-SDE: regressions of increments on impacts, stratum by stratum.

Homogeneous elasticity leaves four strata an interval, each with one location curve and one noise curve in time:

| stratum      | increment                                       | location                    | noise per interval |
|--------------|-------------------------------------------------|-----------------------------|--------------------|
| `contrast`   | contrasts between class means, (K−1)p dimensions | Σⱼ cⱼ(γ) uⱼ                | σ_c √Δ             |
| `shared`     | mean over classes of the class means, p         | Σⱼ c'ⱼ(g) u'ⱼ               | σ_g √Δ             |
| `growth`     | measured log growth of deviations, 1            | κΔ                          | σ_κ √Δ, and error  |
| `individual` | measured log variance of individual noise, 1    | log σᵢ²                     | s, and error       |

with directions uⱼ and coefficients cⱼ from `lesde_infer.impacts` and a Student-t factor an interval from
`lesde_infer.noise`. Under I and R no stratum depends on another's parameters, so each is a model of its own; under L
contrasts and mean are coupled through s = α + β/(K−1) and are one model of two strata. `strata_model` is
that model, for any number of strata; `lesde_infer.assembly` builds its data.

Where short and long intervals alternate (recording in bursts), two things more are learned for each stratum: how
noise grows with the interval's number of steps n, σ√Δ (n/n_max)^ω (ω = 0 is a random walk, ω = −1/2 noise that
relaxes at once), and for class means how fast residuals relax from step to step (`lesde_infer.noise.attenuation`).
"""

from typing import NamedTuple

import numpyro
import numpyro.distributions as dist
from jaxtyping import Array, Float

from lesde_infer._jax import jnp
from lesde_infer.curves import Curve, CurveDesign, CurvePrior, predictor, rate, sample_time_scale, sample_weights
from lesde_infer.impacts import feedback_coefficients, logits_coefficients
from lesde_infer.noise import TINY, CollapsedStudentT, attenuation

MINIMAL_DEGREES = 0.5  # of a Student-t; below it the noise of an interval has no finite typical size to speak of


class StrataData(NamedTuple):
    """What one model is conditioned on; arrays only, so that a compiled fit serves every run of one shape.

    Attributes
    ----------
    direction_square, direction_increment : array, shape (stratum, time, component)
        |uⱼ|² and ⟨uⱼ, increment⟩.
    increment_square : array, shape (stratum, time)
        |increment|².
    feedback : array, shape (stratum, time, component)
        λⱼ (`lesde_infer.impacts`).
    dimension : array, shape (stratum,)
        Dimensions an increment can move in.
    exposure : array, shape (stratum, time)
        What turns a location curve into a push: Δ/K, Δ, or 1.
    log_length : array, shape (stratum, time)
        What turns a noise scale into the noise of an interval: log √Δ, or 0.
    error : array, shape (stratum, time)
        Standard error of an increment that is itself an estimate; added to the noise in quadrature.
    reference : array, shape (stratum,)
        Scale of the location curve: a rate is reference · sinh(u), see `lesde_infer.curves`.
    is_rate : array, shape (stratum,)
        1 where the location curve is a rate, 0 where it is u itself (log variance).
    relaxes : array, shape (stratum,)
        1 where the drift is attenuated over long intervals, 0 elsewhere.
    prior : CurvePrior, over (2 · stratum,)
        Priors of the location curves, then of the log noise scales.
    design : CurveDesign
        Intervals' midpoints.
    lengths, n_steps : array, shape (time,)
        Length of each interval, in units of time and in steps.
    n_classes : array, shape ()
        K.
    """

    direction_square: Float[Array, "stratum time component"]
    direction_increment: Float[Array, "stratum time component"]
    increment_square: Float[Array, "stratum time"]
    feedback: Float[Array, "stratum time component"]
    dimension: Float[Array, " stratum"]
    exposure: Float[Array, "stratum time"]
    log_length: Float[Array, "stratum time"]
    error: Float[Array, "stratum time"]
    reference: Float[Array, " stratum"]
    is_rate: Float[Array, " stratum"]
    relaxes: Float[Array, " stratum"]
    prior: CurvePrior
    design: CurveDesign
    lengths: Float[Array, " time"]
    n_steps: Float[Array, " time"]
    n_classes: Float[Array, ""]


class Parameters(NamedTuple):
    """Parameters of the strata at the intervals.

    Attributes
    ----------
    location : array, shape (stratum, time)
        Rate per unit time, or log variance.
    log_scale : array, shape (stratum, time)
        log of the noise scale.
    degrees : array, shape (stratum,)
        Degrees of freedom ν.
    interval_exponent : array, shape (stratum,)
        ω.
    relaxation : array, shape (stratum,)
        θ, per step (`lesde_infer.noise.attenuation`).
    """

    location: Float[Array, "stratum time"]
    log_scale: Float[Array, "stratum time"]
    degrees: Float[Array, " stratum"]
    interval_exponent: Float[Array, " stratum"]
    relaxation: Float[Array, " stratum"]


def evaluate_curves(
    curve: Curve, weights: Float[Array, "2*stratum weight"], time_scale: Float[Array, ""], data: StrataData
) -> tuple[Float[Array, "stratum time"], Float[Array, "stratum time"]]:
    """Return the location curves and the log noise scales at the intervals."""
    n_strata = len(data.reference)
    shifts = jnp.full(n_strata, time_scale)
    rates = rate(curve, weights[:n_strata], data.design, shifts, data.reference)
    direct = predictor(curve, weights[:n_strata], data.design, shifts)
    location = jnp.where(data.is_rate[:, None] > 0, rates, direct)
    return location, predictor(curve, weights[n_strata:], data.design, shifts)


def sample_parameters(data: StrataData, *, curve: Curve, mixed: bool) -> Parameters:
    """Sample everything that the likelihood depends on from its prior."""
    n_strata = len(data.reference)
    time_scale = sample_time_scale() if curve == "power" else jnp.zeros(())
    weights = sample_weights(curve, data.prior)
    location, log_scale = evaluate_curves(curve, weights, time_scale, data)
    # Real runs have ν of about 2; the prior's 95 % reach from 1 to 12, hence from heavy tails to nearly Gaussian.
    excess = numpyro.sample("degrees_excess", dist.Gamma(2.0, 0.5).expand([n_strata]).to_event(1))
    exponent, relaxation = jnp.zeros(n_strata), jnp.zeros(n_strata)
    if mixed:
        # From noise that relaxes at once (−1/2) over a random walk (0) to a steady push (+1/2), within one sd.
        exponent = numpyro.sample("interval_exponent", dist.Normal(0.0, 0.5).expand([n_strata]).to_event(1))
        # Relaxation within the longest interval is as likely as not, and may be a hundred times faster or slower.
        longest = jnp.log(data.n_steps.max())
        relaxation = numpyro.sample("relaxation", dist.LogNormal(-longest, 2.0).expand([n_strata]).to_event(1))
    return Parameters(location, log_scale, MINIMAL_DEGREES + excess, exponent, relaxation)


class Prediction(NamedTuple):
    """What the model predicts for each interval.

    Attributes
    ----------
    coefficients : array, shape (stratum, time, component)
        cⱼ of each direction.
    log_noise : array, shape (stratum, time)
        log standard deviation of the increment, per dimension.
    """

    coefficients: Float[Array, "stratum time component"]
    log_noise: Float[Array, "stratum time"]


def predict_intervals(parameters: Parameters, data: StrataData, *, coupled: bool) -> Prediction:
    """Return location and noise of each interval; ``coupled`` for the two strata of L, else each by itself."""
    relative_steps = jnp.log(data.n_steps / data.n_steps.max())
    shift = parameters.interval_exponent[:, None] * relative_steps
    is_rate = data.is_rate[:, None]
    if coupled:
        coefficients = logits_coefficients(parameters.location[0], parameters.location[1], data.lengths, data.n_classes)
    else:
        # The log variance of individual noise moves with the interval as the noise itself does in other strata.
        push = parameters.location * data.exposure + (1.0 - is_rate) * 2.0 * shift
        coefficients = feedback_coefficients(push, data.feedback)
    surviving = attenuation(parameters.relaxation * data.relaxes, data.n_steps)
    log_noise = parameters.log_scale + data.log_length + is_rate * shift
    log_error = jnp.log(jnp.maximum(data.error, TINY))
    return Prediction(surviving[:, :, None] * coefficients, 0.5 * jnp.logaddexp(2.0 * log_noise, 2.0 * log_error))


def increment_density(parameters: Parameters, data: StrataData, *, coupled: bool) -> CollapsedStudentT:
    """Return the density of all increments, as a function of their squared norms."""
    prediction = predict_intervals(parameters, data, coupled=coupled)
    return CollapsedStudentT(
        prediction.coefficients,
        data.direction_square,
        data.direction_increment,
        prediction.log_noise,
        parameters.degrees[:, None],
        data.dimension[:, None],
    )


def strata_model(data: StrataData, *, curve: Curve, coupled: bool, mixed: bool) -> None:
    """NumPyro model of one or more strata; see the module's docstring.

    Parameters
    ----------
    data : StrataData
        Statistics of the strata, and priors scaled to them.
    curve : {"constant", "power", "gp"}
        Family of curves.
    coupled : bool
        Whether the strata are contrasts and mean under L.
    mixed : bool
        Whether short and long intervals alternate.
    """
    parameters = sample_parameters(data, curve=curve, mixed=mixed)
    numpyro.sample("increment", increment_density(parameters, data, coupled=coupled), obs=data.increment_square)
