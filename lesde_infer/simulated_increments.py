"""Increments drawn from the model itself, at the level of the statistics that it is conditioned on.

The likelihood of an interval depends on its increment Δ in R^d only through ⟨uⱼ, Δ⟩ and |Δ|² (`lesde_infer.noise`), so
these can be drawn without drawing Δ. With s the interval's noise scale times its Student-t factor √λ,
λ ~ InverseGamma(ν/2, ν/2), one for the whole increment, and ε standard normal:

    a number:          Δ = Σⱼ cⱼuⱼ + s ε,                             |Δ|² = Δ²
    a vector:          ⟨uⱼ, Δ⟩ = cⱼ|uⱼ|² + s|uⱼ|εⱼ,                  |Δ|² = Σⱼ⟨uⱼ, Δ⟩²/|uⱼ|² + s²χ²
    a pattern's axes:  along axis j and contrast r  mean + s ε,       |Δ|² = their squares' sum + s²χ²

where χ² has as many degrees of freedom as Δ has dimensions besides those listed; directions of length zero are none.
What is known of an interval besides its increment stays as recorded: directions, their feedback, lengths, errors of
measurement, and the noise across the impact in whose units that along it is given. Priors stay as well.

tests/lesde_infer/test_simulated_increments.py compares with whole vectors that are drawn and then collapsed.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Any, Literal

import numpy as np
import numpyro
from jaxtyping import Array, Float

from lesde_infer._jax import jax, jnp
from lesde_infer.assembly import Submodel
from lesde_infer.kept_traces import kept_trace
from lesde_infer.model import Prediction, StrataData, interval_degrees, predict_intervals
from lesde_infer.noise import TINY
from lesde_infer.pattern_model import PatternData, PatternParameters, predict_pattern
from lesde_infer.sampling import SampleRun
from lesde_infer.strata_variant import StrataVariant
from lesde_infer.variant import Position, Variant, interval_log_likelihood


@dataclass(frozen=True)
class SimulatedRun:
    """Parameters drawn from the prior, and what the model makes of them.

    Attributes
    ----------
    submodels : tuple of Submodel
        Those of the template, with simulated increments in their data.
    truth : tuple of SampleRun
        The parameters as if they were the only draw of the only chain, submodel by submodel.
    """

    submodels: tuple[Submodel, ...]
    truth: tuple[SampleRun, ...]


def simulate_run(submodels: Sequence[Submodel], seed: int, simulation: int) -> SimulatedRun:
    """Draw the parameters of all submodels from their priors, and increments given them.

    Parameters
    ----------
    submodels : sequence of Submodel
        The template: everything but its increments is kept.
    seed, simulation : int
        What fixes all that is random; a simulation does not depend on how many others there are.
    """
    keys = jax.random.split(simulation_key(seed, simulation, "prior"), len(submodels))
    simulated, truth = [], []
    for index, (submodel, key) in enumerate(zip(submodels, keys, strict=True)):
        values, parameters = _prior_draw(submodel.variant)(submodel.data, key)
        generator = np.random.default_rng([seed, simulation, index])
        data = draw_increments(submodel.variant, parameters, submodel.data, generator)
        log_likelihood = _log_likelihood(submodel.variant)(values, data)
        simulated.append(replace(submodel, data=data))
        truth.append(_only_draw(values, parameters, np.asarray(log_likelihood)))
    return SimulatedRun(tuple(simulated), tuple(truth))


def simulation_key(seed: int, simulation: int, purpose: Literal["prior", "sampler"]) -> Array:
    """Return the key of the parameters of a simulation, or of the sampler that looks for them."""
    own = jax.random.fold_in(jax.random.key(seed), simulation)
    return jax.random.fold_in(own, ("prior", "sampler").index(purpose))


def draw_increments(
    variant: Variant, parameters: Any, data: StrataData | PatternData, generator: np.random.Generator
) -> StrataData | PatternData:
    """Return the data of a submodel with increments drawn given its parameters."""
    degrees = np.asarray(interval_degrees(parameters.degrees, data.relative_length))
    if isinstance(data, PatternData):
        return _pattern_increments(parameters, degrees, data, generator)
    coupled = isinstance(variant, StrataVariant) and variant.coupled
    return _strata_increments(predict_intervals(parameters, data, coupled=coupled), degrees, data, generator)


def _strata_increments(
    prediction: Prediction, degrees: Float[np.ndarray, "stratum time"], data: StrataData, generator: np.random.Generator
) -> StrataData:
    scale = _interval_scale(np.asarray(prediction.log_noise), degrees, generator)
    coefficients, square = np.asarray(prediction.coefficients), np.asarray(data.direction_square)
    is_number = np.asarray(data.is_number)[:, None] > 0
    number = (coefficients * square).sum(axis=-1) + scale * generator.standard_normal(scale.shape)

    length = np.sqrt(np.where(is_number[..., None], 0.0, square))
    moves = length > 0.0
    # Along the unit vector of each direction; nothing where there is no direction.
    along = np.where(moves, coefficients * length + scale[..., None] * generator.standard_normal(square.shape), 0.0)
    others = np.maximum(np.asarray(data.dimension)[:, None] - moves.sum(axis=-1), 0.0)
    vector_square = (along**2).sum(axis=-1) + scale**2 * _chi_square(others, generator)
    return data._replace(
        direction_increment=jnp.asarray(length * along),
        increment=jnp.asarray(np.where(is_number, number, 0.0)),
        increment_square=jnp.asarray(np.where(is_number, number**2, vector_square)),
    )


def _pattern_increments(
    parameters: PatternParameters,
    degrees: Float[np.ndarray, "1 time"],
    data: PatternData,
    generator: np.random.Generator,
) -> PatternData:
    prediction = predict_pattern(parameters, data)
    scale = _interval_scale(np.asarray(prediction.log_noise), degrees, generator)
    mean = np.asarray(prediction.directions @ parameters.pattern.T)
    increments = mean + scale[0, :, None, None] * generator.standard_normal(mean.shape)
    others = np.full(scale.shape, float(data.dimension[0]) - mean[0].size)
    square = (increments**2).sum(axis=(1, 2)) + scale**2 * _chi_square(others, generator)
    return data._replace(increments=jnp.asarray(increments), increment_square=jnp.asarray(square))


def _interval_scale(
    log_noise: Float[np.ndarray, "stratum time"],
    degrees: Float[np.ndarray, "stratum time"],
    generator: np.random.Generator,
) -> Float[np.ndarray, "stratum time"]:
    """Return the noise scale of each interval times its own Student-t factor."""
    return np.exp(log_noise) * np.sqrt(degrees / np.maximum(_chi_square(degrees, generator), TINY))


def _chi_square(degrees: Float[np.ndarray, "*shape"], generator: np.random.Generator) -> Float[np.ndarray, "*shape"]:
    """Draw χ² with the given degrees of freedom, which is zero where there are none."""
    return 2.0 * generator.standard_gamma(degrees / 2.0)


@lru_cache(maxsize=32)
def _prior_draw(variant: Variant) -> Callable[[Any, Array], tuple[Position, Any]]:
    """Return the function that draws the sites of a model, and its parameters, from the prior."""

    def draw(data: Any, key: Array) -> tuple[Position, Any]:
        trace = numpyro.handlers.trace(numpyro.handlers.seed(variant.model, key)).get_trace(data)
        values = {name: s["value"] for name, s in trace.items() if s["type"] == "sample" and not s["is_observed"]}
        return values, variant.parameters(values, data)

    return jax.jit(kept_trace(draw, "prior draw", variant))


@lru_cache(maxsize=32)
def _log_likelihood(variant: Variant) -> Callable[[Position, Any], Array]:
    return jax.jit(kept_trace(partial(interval_log_likelihood, variant), "log likelihood", variant))


def _only_draw(values: Position, parameters: Any, log_likelihood: Float[np.ndarray, "stratum time"]) -> SampleRun:
    """Arrange parameters as if they were one draw of one chain."""
    values, parameters = jax.tree.map(lambda value: np.asarray(value)[None, None], (values, parameters))
    names = ("diverging", "n_steps", "energy", "lp", "acceptance_rate", "step_size")
    return SampleRun(values, parameters, log_likelihood[None, None], {name: np.zeros((1, 1)) for name in names})
