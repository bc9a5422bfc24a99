"""The NumPyro model of the LE-SDE: regressions of increments on impacts, stratum by stratum.

Homogeneous elasticity leaves these strata an interval, each with one location curve and one noise curve in time:

| stratum       | increment                                                   | location      | noise per interval |
|---------------|-------------------------------------------------------------|---------------|--------------------|
| `contrast`    | contrasts between class means along their impact, 1         | Σⱼ cⱼ(γ) uⱼ   | s × that of        |
| `class_noise` | the same contrasts across it, (K−1)p − 1                    | none          | σ_c √Δ             |
| `shared`      | mean over classes of the class means, p                     | Σⱼ c'ⱼ(g) u'ⱼ | σ_g √Δ             |
| `growth`      | measured log growth of deviations, 1                        | κΔ            | σ_κ √Δ, and error  |
| `individual`  | measured log variance of individual noise, 1                | log σᵢ²       | s, and error       |

or, in the place of the last two, `growth_along`, `growth_across`, `individual_along` and `individual_across`, the same
of deviations along and across the span of the class means (`lesde_infer.deviations`), and under R

| `pull`        | measured pull of samples by their own residuals, 1          | ηΔ            | σ_η √Δ, and error  |

with directions uⱼ and coefficients cⱼ from `lesde_infer.impacts` and a Student-t factor an interval from
`lesde_infer.noise`. Noise along the impact has a scale and factors of its own: steps of gradient descent scatter
most along the directions that training pushes, and the noise across them, which has a hundred times as many
dimensions, must not say how well γ is known. Under I and R no stratum depends on another's parameters, so each is a
model of its own; under L contrasts (with all their dimensions) and mean are coupled through s = α + β/(K−1) and are
one model of two strata. Noise of class means moves in fewer dimensions than there are: densities are taken in as many
as it does, with as much more variance in each (`lesde_infer.noise_dimension`). `strata_model` is the model, for any
number of strata; `lesde_infer.assembly` builds its data.

Steps of gradient descent differ in size, and a large one is often along a large gradient: with q the size of an
interval's noise across the impact over its mean nearby, less 1, the drift of the contrasts is multiplied by 1 + b q. b
is learned: 0 where the drift does not care, 1 where it is proportional. γ remains the mean rate, since q vanishes on
average. On networks trained on digits and shapes at batch size 1, half of all single steps move next to nothing, and a
tenth of them carries most of the drift; noise with heavy tails around one drift took those for outliers, and γ came out
at 0.03 to 0.2 of what was measured.

Where short and long intervals alternate (recording in bursts), more is learned for each stratum. With n the number of
steps of an interval and x = log(n/n_min)/log(n_max/n_min):

- noise grows as σ√Δ (n/n_max)^ω: ω = 0 is a random walk, ω = −1/2 noise that relaxes at once;
- short and long intervals have ν and b of their own, log ν and b being linear in x;
- the drift of class means seen over the interval is e^{xψ(t)} times that seen over the shortest one. Residuals
  fluctuate from step to step and relax within a few steps, through the directions in which elasticity is largest, so an
  increment over a long interval sees them only while they last. How much they fluctuate, and how fast they relax,
  changes as training proceeds, hence a curve ψ(t); momentum, whose velocity takes steps to build up, may make it
  positive. The location curve is the rate as the longest intervals see it, e^ψ times the rate: they tell most of it,
  and short ones then tell ψ, so that the two curves are nearly independent.
"""

from typing import NamedTuple

import numpyro
import numpyro.distributions as dist
from jaxtyping import Array, Float

from lesde_infer._jax import jnp
from lesde_infer.curves import Curve, CurveDesign, CurvePrior, predictor, rate, sample_time_scale, sample_weights
from lesde_infer.impacts import feedback_coefficients, feedback_sums, logits_coefficients
from lesde_infer.length_kinds import LengthKinds
from lesde_infer.noise import TINY, CollapsedStudentT, explained_square
from lesde_infer.quick_functions import softplus
from lesde_infer.size_lean import SizeLean, shift_of_weights
from lesde_infer.stretched_normal import StretchedNormal

MINIMAL_DEGREES = 0.5  # of a Student-t; below it the noise of an interval has no finite typical size to speak of


class StrataData(NamedTuple):
    """What one model is conditioned on; arrays only, so that a compiled fit serves every run of one shape.

    Attributes
    ----------
    direction_square, direction_increment : array, shape (stratum, time, component)
        |uⱼ|² and ⟨uⱼ, increment⟩; where the increment is one number, uⱼ (not squared), and nothing.
    increment : array, shape (stratum, time)
        The increment where it is one number, else 0.
    increment_square : array, shape (stratum, time)
        |increment|².
    is_number : array, shape (stratum,)
        1 where the increment is one number, 0 where it is a vector.
    feedback : array, shape (stratum, time, component)
        λⱼ (`lesde_infer.impacts`).
    dimension : array, shape (stratum,)
        Effective dimensions of the noise, d* of `lesde_infer.noise_dimension`; 1 where the increment is one number.
    exposure : array, shape (stratum, time)
        What turns a location curve into a push: Δ/K, Δ, 1, or 0 where there is no location.
    log_length : array, shape (stratum, time)
        What turns a noise scale into the noise of an interval in each effective dimension: log √(Δ d/d*), or 0, or the
        log of the noise across the impact.
    error : array, shape (stratum, time)
        Standard error of an increment, by rounding or because it is an estimate; added to the noise in quadrature.
    observed : array, shape (stratum, time)
        1 where the interval tells something of the stratum, 0 where not: nothing moved, or nothing drives it.
    reference : array, shape (stratum,)
        Scale of the location curve: a rate is reference · sinh(u), see `lesde_infer.curves`.
    is_rate : array, shape (stratum,)
        1 where the location curve is a rate, 0 where it is u itself (log variance).
    relaxes : array, shape (stratum,)
        1 where the drift is attenuated over long intervals, 0 elsewhere.
    relative_size : array, shape (stratum, time)
        q: by how much the noise across the impact exceeds its mean nearby, as a share of it.
    prior : CurvePrior, over (2 · stratum,) or (3 · stratum,)
        Priors of the location curves, then of the log noise scales, then of ψ where intervals are mixed.
    design : CurveDesign
        Intervals' midpoints.
    lengths, n_steps : array, shape (time,)
        Length of each interval, in units of time and in steps.
    relative_length : array, shape (time,)
        x, from 0 for the shortest interval to 1 for the longest; 1 where all are alike.
    n_classes : array, shape ()
        K.
    kinds : LengthKinds, or None
        Lengths of intervals, which share degrees of freedom; None where there are too many.
    lean : SizeLean, or None
        How the curves of a single stratum lean on b, where its drift depends on sizes.
    """

    direction_square: Float[Array, "stratum time component"]
    direction_increment: Float[Array, "stratum time component"]
    increment: Float[Array, "stratum time"]
    increment_square: Float[Array, "stratum time"]
    is_number: Float[Array, " stratum"]
    feedback: Float[Array, "stratum time component"]
    dimension: Float[Array, " stratum"]
    exposure: Float[Array, "stratum time"]
    log_length: Float[Array, "stratum time"]
    error: Float[Array, "stratum time"]
    observed: Float[Array, "stratum time"]
    reference: Float[Array, " stratum"]
    is_rate: Float[Array, " stratum"]
    relaxes: Float[Array, " stratum"]
    prior: CurvePrior
    design: CurveDesign
    lengths: Float[Array, " time"]
    n_steps: Float[Array, " time"]
    relative_length: Float[Array, " time"]
    n_classes: Float[Array, ""]
    relative_size: Float[Array, "stratum time"]
    kinds: LengthKinds | None = None
    lean: SizeLean | None = None


class Parameters(NamedTuple):
    """Parameters of the strata at the intervals.

    Attributes
    ----------
    location : array, shape (stratum, time)
        Rate per unit time, or log variance.
    log_scale : array, shape (stratum, time)
        log of the noise scale.
    attenuation : array, shape (stratum, time)
        ψ: log of the share of a one-step drift that the longest interval would see; 0 where intervals are alike.
    degrees : array, shape (stratum, 2)
        Degrees of freedom ν of the shortest and of the longest intervals.
    interval_exponent : array, shape (stratum,)
        ω.
    size_slope : array, shape (stratum, 2)
        b of the shortest and of the longest intervals.
    """

    location: Float[Array, "stratum time"]
    log_scale: Float[Array, "stratum time"]
    attenuation: Float[Array, "stratum time"]
    degrees: Float[Array, "stratum 2"]
    interval_exponent: Float[Array, " stratum"]
    size_slope: Float[Array, "stratum_or_1 2"] = jnp.zeros((1, 2))


def evaluate_curves(
    curve: Curve, weights: Float[Array, "curve weight"], time_scale: Float[Array, ""], data: StrataData
) -> tuple[Float[Array, "stratum time"], Float[Array, "stratum time"], Float[Array, "stratum time"]]:
    """Return the location curves, as the longest intervals see them, the log noise scales and ψ at the intervals."""
    n_strata = len(data.reference)
    shifts = jnp.full(len(weights), time_scale)
    direct = predictor(curve, weights, data.design, shifts)
    rates = rate(curve, weights[:n_strata], data.design, shifts[:n_strata], data.reference)
    location = jnp.where(data.is_rate[:, None] > 0, rates, direct[:n_strata])
    attenuation = direct[2 * n_strata :] if len(weights) > 2 * n_strata else jnp.zeros_like(location)
    return location, direct[n_strata : 2 * n_strata], attenuation


def one_step_location(
    seen: Float[Array, "stratum time"], attenuation: Float[Array, "stratum time"], data: StrataData
) -> Float[Array, "stratum time"]:
    """Return locations from those that the longest intervals see."""
    return seen * jnp.exp(-attenuation * data.relaxes[:, None])


def sample_parameters(data: StrataData, *, curve: Curve, mixed: bool, sized: bool = False) -> Parameters:
    """Sample everything that the likelihood depends on from its prior."""
    n_strata = len(data.reference)
    time_scale = sample_time_scale() if curve == "power" else jnp.zeros(())
    slope = sample_size_slope(n_strata, mixed=mixed, lean=data.lean) if sized else None
    shift = None if slope is None or data.lean is None else shift_of_weights(data.lean, slope[0, -1 - mixed :])
    weights = sample_weights(curve, data.prior, time_scale, shift)
    seen, log_scale, attenuation = evaluate_curves(curve, weights, time_scale, data)
    degrees, exponent = sample_noise_shape(n_strata, mixed=mixed)
    location = one_step_location(seen, attenuation, data)
    if slope is None:
        return Parameters(location, log_scale, attenuation, degrees, exponent)
    return Parameters(location, log_scale, attenuation, degrees, exponent, slope)


def sample_size_slope(n_strata: int, *, mixed: bool, lean: SizeLean | None = None) -> Float[Array, "stratum 2"]:
    """Sample b of the shortest and of the longest intervals, which is one where intervals are alike."""
    # From a drift that does not care how large an interval's noise is (0) to one proportional to it (1), within one sd.
    half = jnp.full((n_strata, 1 + mixed), 0.5)
    prior = dist.Normal(half, half) if lean is None else StretchedNormal(half, half, 0.0 * half + lean.stretch)
    slope = numpyro.sample("size_slope", prior.to_event(2))
    return jnp.broadcast_to(slope, (n_strata, 2))


def size_factor(
    slope: Float[Array, "stratum_or_1 2"],
    relative_length: Float[Array, " time"],
    relative_size: Float[Array, "*batch time"],
) -> Float[Array, "stratum time"]:
    """Return 1 + b q of each interval, b being linear in x between the shortest and the longest."""
    short, long = slope[:, :1], slope[:, 1:]
    return 1.0 + (short + (long - short) * relative_length) * relative_size


def sample_noise_shape(n_strata: int, *, mixed: bool) -> tuple[Float[Array, "stratum 2"], Float[Array, " stratum"]]:
    """Sample ν of the shortest and of the longest intervals, which is one where intervals are alike, and ω."""
    # Real runs have ν of about 2; the prior's 95 % reach from 1 to 12, hence from heavy tails to nearly Gaussian.
    excess = numpyro.sample("degrees_excess", dist.Gamma(2.0, 0.5).expand([n_strata, 1 + mixed]).to_event(2))
    exponent = jnp.zeros(n_strata)
    if mixed:
        # From noise that relaxes at once (−1/2) over a random walk (0) to a steady push (+1/2), within one sd.
        exponent = numpyro.sample("interval_exponent", dist.Normal(0.0, 0.5).expand([n_strata]).to_event(1))
    return jnp.broadcast_to(MINIMAL_DEGREES + excess, (n_strata, 2)), exponent


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
    if coupled:
        coefficients = logits_coefficients(parameters.location[0], parameters.location[1], data.lengths, data.n_classes)
    else:
        coefficients = feedback_coefficients(_push(parameters, data), data.feedback)
    return Prediction(_surviving(parameters, data)[:, :, None] * coefficients, _log_noise(parameters, data))


def _exponent_shift(parameters: Parameters, data: StrataData) -> Float[Array, "stratum time"]:
    """Return ω log(n/n_max)."""
    return parameters.interval_exponent[:, None] * jnp.log(data.n_steps / data.n_steps.max())


def _push(parameters: Parameters, data: StrataData) -> Float[Array, "stratum time"]:
    """Return what locations push over an interval; under L it has a form of its own."""
    # The log variance of individual noise moves with the interval as the noise itself does in other strata.
    of_level = (1.0 - data.is_rate[:, None]) * 2.0 * _exponent_shift(parameters, data)
    return parameters.location * data.exposure + of_level


def _surviving(parameters: Parameters, data: StrataData) -> Float[Array, "stratum time"]:
    """Return what an interval sees of its drift, by its length and by the size of its noise."""
    seen = jnp.exp(parameters.attenuation * data.relaxes[:, None] * data.relative_length)
    return seen * size_factor(parameters.size_slope, data.relative_length, data.relative_size)


def _log_noise(parameters: Parameters, data: StrataData) -> Float[Array, "stratum time"]:
    own = parameters.log_scale + data.log_length + data.is_rate[:, None] * _exponent_shift(parameters, data)
    return own + 0.5 * softplus(2.0 * (jnp.log(jnp.maximum(data.error, TINY)) - own))


def interval_degrees(
    degrees: Float[Array, "*batch 2"], relative_length: Float[Array, " time"]
) -> Float[Array, "*batch time"]:
    """Return ν of each interval, log ν being linear in x between the shortest and the longest."""
    short, long = jnp.log(degrees[..., :1]), jnp.log(degrees[..., 1:])
    return jnp.exp(short + (long - short) * relative_length)


def degrees_of_kinds(
    degrees: Float[Array, "stratum 2"], relative_length: Float[Array, " time"], kinds: LengthKinds | None
) -> tuple[Float[Array, "stratum time_or_kind"], Float[Array, "time kind"] | None]:
    """Return ν of each kind of interval, and which intervals are of it; ν of each interval where there are no kinds."""
    if kinds is None:
        return interval_degrees(degrees, relative_length), None
    own = interval_degrees(degrees, kinds.relative_length)
    return own, None if own.shape[-1] == 1 else kinds.members


def increment_density(parameters: Parameters, data: StrataData, *, coupled: bool) -> CollapsedStudentT:
    """Return the density of all increments, as a function of their squared norms."""
    if coupled:
        coefficients, log_noise = predict_intervals(parameters, data, coupled=True)
        mean = (coefficients * data.direction_square).sum(axis=-1)  # of an increment that is one number
        explained = explained_square(coefficients, data.direction_square, data.direction_increment)
    else:  # the same, faster
        push, log_noise = _push(parameters, data), _log_noise(parameters, data)
        moved = _surviving(parameters, data) * push
        mean, explained = feedback_sums(push, moved, data.feedback, data.direction_square, data.direction_increment)
    explained = jnp.where(data.is_number[:, None] > 0, mean * (2.0 * data.increment - mean), explained)
    degrees, members = degrees_of_kinds(parameters.degrees, data.relative_length, data.kinds)
    return CollapsedStudentT(explained, log_noise, degrees, data.dimension[:, None], data.observed, members)


def strata_model(data: StrataData, *, curve: Curve, coupled: bool, mixed: bool, sized: bool = False) -> None:
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
    sized : bool
        Whether the drift may depend on the size of the interval's noise across the impact.
    """
    parameters = sample_parameters(data, curve=curve, mixed=mixed, sized=sized)
    numpyro.sample("increment", increment_density(parameters, data, coupled=coupled), obs=data.increment_square)
