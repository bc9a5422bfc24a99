"""The NumPyro model of contrasts between class means when elasticity is a matrix.

With E_kl the impact of training on class l on class k, and π_l = 1/K, the contrasts between class means drift by

    (1/K) Σ_l C_kl h_l,      C_kl = E_kl − (1/K) Σ_m E_ml,

and depend on E only through C, whose columns sum to zero (the column means of E move all classes alike: the stratum
`shared`). Patterns of elasticity are rather stable after early training (DESIGN section 4.13), so

    C(t) = s(t) (M₀ + x̃(t) M₁),      s(t) = e^{u(t) − ū − ψ(t)},

with one scale curve u (`lesde_infer.curves`) as the longest intervals see it, hence less ψ (`lesde_infer.model`; 0
where intervals are alike), ū its average over the intervals, weighted by what they tell, so that scale and pattern do
not stand in for each other, and x̃ log time, centred by the same weights. M₁ may be left out, a pattern that stays.
With B an orthonormal basis of the contrasts, shape (class, K − 1), M = B Z, and the entries of Z are pooled towards
homogeneous elasticity, for which M = a (1 − 1/K):

    Z₀ ~ Normal(a Bᵀ, ω₀²),      Z₁ ~ Normal(0, ω₁²),

with a, ω₀, ω₁ learned. Since BᵀB = 1, entries of M then scatter by ω₀ around a(δ_kl − 1/K), whatever the basis.

In coordinates along the orthonormal axes j of the impacts (`lesde_infer.impacts`), c_lj of class l, an interval moves
contrast r along axis j by

    e^{xψ} Δ/K φ₁(−λ_j γΔ/K) s Σ_l Z_rl c_lj,      γ = tr C/(K − 1),

which is exact for homogeneous E (feedback relaxes at the rates of an effective γ, the mean eigenvalue of C); noise is a
Student-t as in `lesde_infer.noise`. The likelihood costs O(K³) an interval, whatever the number of samples.

Where noise tells the sizes of steps (`lesde_infer.step_sizes`), that drift is multiplied by 1 + b q, as γ is in
`lesde_infer.model`: a Student-t in (K−1)p dimensions knows the scale of each interval's noise nearly exactly and weighs
it by one over its square, so that quiet intervals decide, although few large steps carry the drift. With b = 1 all
intervals weigh alike in units of their own size. Sizes are taken as given, as covariates. They are measured across the
impact, but a pattern moves contrasts there too; the Jacobian of Δ → Δ − (1 + b q(Δ)) m, 1 − b⟨m, Δ⟩/(|Δ| n̄) with n̄
the mean size nearby, is left out: its logarithm is less than the share of |Δ|² that drift explains, hence some
2/((K−1)p) of what that share adds to the log likelihood.

With M = a (1 − 1/K) at all times elasticity is homogeneous. That special case has the same noise, scale and sizes, and
so tells by its density what the pattern is worth (`lesde_infer.pattern_choice`).
tests/lesde_infer/test_pattern_model.py holds it against the density of all samples.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpyro
import numpyro.distributions as dist
from jaxtyping import Array, Float

from lesde_infer._jax import jnp
from lesde_infer.curves import Curve, CurveDesign, CurvePrior, n_weights, predictor, sample_time_scale, sample_weights
from lesde_infer.impacts import feedback_factor
from lesde_infer.information import weight_information
from lesde_infer.model import interval_degrees, sample_noise_shape, sample_size_slope, size_factor
from lesde_infer.noise import TINY, CollapsedStudentT

MEAN_SPREAD = 3.0  # sd of asinh(a/reference): either sign, and a factor of e^±6 beyond the reference
LOG_SPREAD_SD = 1.5  # of log ω₀ and log ω₁: scatter of a pattern's entries, in units of its typical size
DRIFT_SHARE = 0.3  # prior median of ω₁ over that of ω₀
MAXIMAL_LOG_SCALE = 40.0


class PatternData(NamedTuple):
    """What the model is conditioned on; arrays only, so that a compiled fit serves every run of one shape.

    Attributes
    ----------
    coordinates : array, shape (time, axis, class_from)
        c_lj, impact of each class along each axis.
    increments : array, shape (time, axis, contrast)
        Increments of the contrasts, in the basis B, along each axis.
    increment_square : array, shape (1, time)
        Squared norm of the whole increment of the contrasts, across the axes too.
    feedback : array, shape (time, axis)
        λ_j (`lesde_infer.impacts`).
    basis : array, shape (class, contrast)
        B.
    exposure : array, shape (time,)
        Δ/K.
    log_length : array, shape (1, time)
        log √Δ.
    dimension : array, shape (1,)
        (K−1)p. Effective dimensions (`lesde_infer.noise_dimension`) will not do here: they count the few directions
        that are noisiest, and a pattern's entries lie among all others too. With them the pattern was pooled so
        strongly that it explained less of the drift that was measured (digits: squared cosine 0.18 instead of 0.20).
    error, observed : array, shape (1, time)
        Standard error by rounding, and 1 where intervals tell something, as in `lesde_infer.model.StrataData`.
    reference : array, shape (1,)
        Size of a below which it counts as zero, per unit time.
    spread : array, shape ()
        Prior median of ω₀, per unit time.
    weight : array, shape (time,)
        What intervals tell of the drift, relatively; sums to one.
    drift : array, shape (time, pattern)
        1 and, if the pattern may drift, x̃.
    prior : CurvePrior, over (2,) or (3,)
        Priors of u, of the log noise scale, and of ψ where intervals are mixed.
    design : CurveDesign
        Intervals' midpoints.
    n_steps, relative_length : array, shape (time,)
        As in `lesde_infer.model.StrataData`.
    relative_size : array, shape (time,)
        q (`lesde_infer.step_sizes`).
    """

    coordinates: Float[Array, "time axis class_from"]
    increments: Float[Array, "time axis contrast"]
    increment_square: Float[Array, "1 time"]
    feedback: Float[Array, "time axis"]
    basis: Float[Array, "class_ contrast"]
    exposure: Float[Array, " time"]
    log_length: Float[Array, "1 time"]
    dimension: Float[Array, "1"]
    error: Float[Array, "1 time"]
    observed: Float[Array, "1 time"]
    reference: Float[Array, "1"]
    spread: Float[Array, ""]
    weight: Float[Array, " time"]
    drift: Float[Array, "time pattern"]
    prior: CurvePrior
    design: CurveDesign
    n_steps: Float[Array, " time"]
    relative_length: Float[Array, " time"]
    relative_size: Float[Array, " time"]

    @property
    def homogeneous(self) -> Float[Array, "contrast pattern*class_from"]:
        """Z of C = 1 − 1/K: Bᵀ, and no drift."""
        return jnp.concatenate([self.basis.T] + [0.0 * self.basis.T] * (self.drift.shape[1] - 1), axis=1)


class PatternParameters(NamedTuple):
    """Parameters of the contrasts at the intervals.

    Attributes
    ----------
    pattern : array, shape (contrast, pattern · class_from)
        Z₀, and Z₁ after it.
    log_scale_curve : array, shape (time,)
        log s.
    log_scale, attenuation : array, shape (1, time)
        log of the noise scale, and ψ.
    degrees : array, shape (1, 2)
        ν of the shortest and of the longest intervals.
    interval_exponent : array, shape (1,)
        ω, see `lesde_infer.model`.
    size_slope : array, shape (1, 2)
        b of the shortest and of the longest intervals; 0 where sizes are not told.
    """

    pattern: Float[Array, "contrast pattern*class_from"]
    log_scale_curve: Float[Array, " time"]
    log_scale: Float[Array, "1 time"]
    attenuation: Float[Array, "1 time"]
    degrees: Float[Array, "1 2"]
    interval_exponent: Float[Array, "1"]
    size_slope: Float[Array, "1 2"]


def contrast_basis(n_classes: int) -> Float[np.ndarray, "class_ contrast"]:
    """Return an orthonormal basis of the contrasts between K classes, those of Helmert."""
    basis = np.zeros((n_classes, n_classes - 1))
    for k in range(1, n_classes):
        basis[:k, k - 1], basis[k, k - 1] = 1.0, -k
        basis[:, k - 1] /= np.sqrt(k * (k + 1.0))
    return basis


def evaluate_pattern_curves(
    curve: Curve, weights: Float[Array, "curve weight"], time_scale: Float[Array, ""], data: PatternData
) -> tuple[Float[Array, " time"], Float[Array, "1 time"], Float[Array, "1 time"]]:
    """Return u − ū − ψ, the log noise scale and ψ at the intervals; u is what the longest intervals see."""
    direct = predictor(curve, weights, data.design, jnp.full(len(weights), time_scale))
    centred = jnp.clip(direct[0] - data.weight @ direct[0], -MAXIMAL_LOG_SCALE, MAXIMAL_LOG_SCALE)
    attenuation = direct[2:3] if len(weights) > 2 else jnp.zeros_like(direct[1:2])
    return centred - attenuation[0], direct[1:2], attenuation


def sample_pattern_parameters(
    data: PatternData, *, curve: Curve, mixed: bool, sized: bool = False, homogeneous: bool = False
) -> PatternParameters:
    """Sample everything that the likelihood depends on from its prior; for arguments see `PatternVariant`."""
    time_scale = sample_time_scale() if curve == "power" else jnp.zeros(())
    weights = sample_weights(curve, data.prior, time_scale)
    mean = data.reference[0] * jnp.sinh(numpyro.sample("pattern_mean", dist.Normal(0.0, MEAN_SPREAD)))
    pattern = mean * data.homogeneous
    if not homogeneous:
        medians = jnp.log(data.spread) + jnp.log(DRIFT_SHARE) * (jnp.arange(data.drift.shape[1]) > 0)
        spread = numpyro.sample("pattern_spread", dist.LogNormal(medians, LOG_SPREAD_SD).to_event(1))
        sd = jnp.repeat(spread, data.coordinates.shape[2]) * jnp.ones_like(pattern)
        pattern = numpyro.sample("pattern", dist.Normal(pattern, sd).to_event(2))
    degrees, exponent = sample_noise_shape(1, mixed=mixed)
    slope = sample_size_slope(1, mixed=mixed) if sized else jnp.zeros((1, 2))
    curves = evaluate_pattern_curves(curve, weights, time_scale, data)
    return PatternParameters(pattern, *curves, degrees, exponent, slope)


def kernel_gamma(parameters: PatternParameters, data: PatternData) -> Float[Array, " time"]:
    """Return tr C/(K − 1) at the intervals: mean diagonal minus mean off-diagonal of E."""
    n_classes, n_contrasts = data.basis.shape
    patterns = parameters.pattern.reshape(n_contrasts, -1, n_classes)
    traces = jnp.einsum("kr,rbk->b", data.basis, patterns)
    return jnp.exp(parameters.log_scale_curve) * (data.drift @ traces) / n_contrasts


class PatternPrediction(NamedTuple):
    """What the model predicts for each interval.

    Attributes
    ----------
    directions : array, shape (time, axis, pattern · class_from)
        What a unit entry of Z moves.
    log_noise : array, shape (1, time)
        log standard deviation of the increment, per dimension.
    """

    directions: Float[Array, "time axis pattern*class_from"]
    log_noise: Float[Array, "1 time"]


def predict_pattern(parameters: PatternParameters, data: PatternData) -> PatternPrediction:
    """Return directions and noise of each interval."""
    seen = jnp.exp(parameters.log_scale_curve + parameters.attenuation[0] * data.relative_length) * data.exposure
    seen = seen * size_factor(parameters.size_slope, data.relative_length, data.relative_size)[0]
    factor = seen[:, None] * feedback_factor(kernel_gamma(parameters, data) * data.exposure, data.feedback)
    directions = (data.drift[:, None, :, None] * data.coordinates[:, :, None, :]).reshape(*data.feedback.shape, -1)
    shift = parameters.interval_exponent[:, None] * jnp.log(data.n_steps / data.n_steps.max())
    log_noise, log_error = parameters.log_scale + data.log_length + shift, jnp.log(jnp.maximum(data.error, TINY))
    return PatternPrediction(factor[:, :, None] * directions, 0.5 * jnp.logaddexp(2.0 * log_noise, 2.0 * log_error))


def pattern_density(parameters: PatternParameters, data: PatternData) -> CollapsedStudentT:
    """Return the density of all increments, as a function of their squared norms."""
    prediction = predict_pattern(parameters, data)
    mean = prediction.directions @ parameters.pattern.T
    explained = (mean * (2.0 * data.increments - mean)).sum(axis=(1, 2))[None]
    degrees = interval_degrees(parameters.degrees, data.relative_length)
    return CollapsedStudentT(explained, prediction.log_noise, degrees, data.dimension[:, None], data.observed)


@dataclass(frozen=True)
class PatternVariant:
    """The model as what is sampled (`lesde_infer.variant.Variant`).

    Attributes
    ----------
    curve : {"constant", "power", "gp"}
        Family of curves.
    mixed : bool
        Whether short and long intervals alternate.
    sized : bool
        Whether the drift may depend on the size of the interval's noise.
    homogeneous : bool
        Whether the pattern is a (1 − 1/K).
    """

    curve: Curve
    mixed: bool
    sized: bool = False
    homogeneous: bool = False

    @property
    def _options(self) -> dict[str, Any]:
        return {"curve": self.curve, "mixed": self.mixed, "sized": self.sized, "homogeneous": self.homogeneous}

    @property
    def dense_mass(self) -> bool:
        """The time scale of a power law leans on its level and exponent."""
        return self.curve == "power"

    def model(self, data: PatternData) -> None:
        """Run the model."""
        parameters = sample_pattern_parameters(data, **self._options)
        numpyro.sample("increment", pattern_density(parameters, data), obs=data.increment_square)

    def parameters(self, values: dict[str, Array], data: PatternData) -> PatternParameters:
        """Return the parameters at values of the model's sites."""
        return numpyro.handlers.substitute(sample_pattern_parameters, data=values)(data, **self._options)

    def whitened_shapes(self, data: PatternData) -> dict[str, tuple[int, int]]:
        """Return the shapes of the curves' weights and of the pattern."""
        n_contrasts, n_entries = data.homogeneous.shape
        curves = {"curve_weights": (len(data.prior.level_mean), n_weights(self.curve))}
        return curves if self.homogeneous else {**curves, "pattern": (n_contrasts, n_entries)}

    def information(self, values: dict[str, Array], data: PatternData) -> dict[str, Array]:
        """Return the Fisher information in each curve's weights and in each row of the pattern.

        As in `lesde_infer.information`. All rows of Z share one matrix, since noise is alike in all contrasts; what
        scale and pattern share is left out, as is the feedback's dependence on γ.
        """
        weights, time_scale = values["curve_weights"], values.get("power_time_scale", jnp.zeros(()))
        parameters = self.parameters(values, data)
        prediction = predict_pattern(parameters, data)
        nu, d = interval_degrees(parameters.degrees, data.relative_length)[0], data.dimension
        precision = data.observed[0] * (nu + d) / (nu + d + 2.0) * jnp.exp(-2.0 * prediction.log_noise[0])
        rows = jnp.einsum("t,tji,tjl->il", precision, prediction.directions, prediction.directions)
        moved = ((prediction.directions @ parameters.pattern.T) ** 2).sum(axis=(1, 2))
        unseen = 1.0 - data.relative_length  # the drift over an interval is s e^{xψ} = e^{u − ū − (1 − x)ψ}
        by_curve = [precision * moved, data.observed[0] * 2.0 * d * nu / (nu + d + 2.0), precision * moved * unseen**2]

        def curves(w: Float[Array, "curve weight"]) -> Float[Array, "curve time"]:
            scale, noise, attenuation = evaluate_pattern_curves(self.curve, w, time_scale, data)
            return jnp.concatenate([(scale + attenuation[0])[None], noise, attenuation])[: len(weights)]

        found = {"curve_weights": weight_information(curves, weights, jnp.stack(by_curve[: len(weights)]))}
        if not self.homogeneous:
            found["pattern"] = jnp.broadcast_to(rows, (data.homogeneous.shape[0], *rows.shape))
        return found
