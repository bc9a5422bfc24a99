"""The paper's own forecast: its point estimators continued as power laws, and its LE-ODE without noise.

Zhang, Wang and Su (2021, section 4) describe elasticity by the tail index r̂ of Â(t) = ∫α, which says that Â grows like
t^(1−r̂), and simulate features by the LE-ODE: the drift of the model under the estimated curves. Taken at its word for
what follows a prefix that ends at t₀ this is

    Â(T) − Â(t₀) = Â(t₀) ((T/t₀)^(1−r̂) − 1),      B̂ likewise with its own index,

and the class means that solve the LE-ODE under integrals ΔÂ and ΔB̂ (closed forms of `lesde_infer.impacts`; the L model
where features are as many as classes, as in the paper, else the I model). Samples keep their deviations from the class
means, which the paper says nothing of. It is the rival that forecasts are scored against.

tests/lesde_infer/test_moment_forecast.py checks that paths of the model are continued exactly.
"""

import numpy as np
from jaxtyping import Float, Int

from data_tools.errors import InputError
from data_tools.recording import Recording
from lesde_infer._jax import jnp
from lesde_infer.class_means import read_class_means
from lesde_infer.impacts import (
    feedback_coefficients,
    isotropic_directions,
    logits_coefficients,
    logits_directions,
)
from lesde_infer.moment_ratios import MomentImpact, TailIndex
from lesde_infer.moments import estimate_moments
from lesde_infer.separability import class_means
from lesde_infer.snapshots import Grouping


def paper_forecast(
    recording: Recording,
    layer: str,
    group: Grouping,
    features: Float[np.ndarray, "sample feature"],
    groups: Int[np.ndarray, " sample"],
    at_step: int,
    horizon_step: int,
) -> Float[np.ndarray, "sample feature"] | None:
    """Return the features of samples at the horizon; None where the estimators are not defined for the prefix.

    Parameters
    ----------
    recording : Recording
    layer, group : str
        Layer, and grouping into classes.
    features, groups : arrays
        Features of the samples at the end of the prefix, and their classes 0..K−1.
    at_step, horizon_step : int
        Optimizer steps at the end of the prefix, and of the forecast.
    """
    try:
        means = read_class_means(recording, layer, group, until=at_step)
        impact: MomentImpact = "L" if means.n_features == means.n_classes else "I"
        moments = estimate_moments(means, impact=impact)
    except InputError:
        return None
    first = int(moments.steps[0])
    growth = (horizon_step - first) / (at_step - first)
    delta_a = continued(float(moments.A[-1]), moments.tail_index_alpha, growth)
    delta_b = continued(float(moments.B[-1]), moments.tail_index_beta, growth)
    if not np.isfinite([delta_a, delta_b]).all():
        return None
    return move_class_means(features, groups, delta_a, delta_b, impact)


def continued(integral: float, tail: TailIndex, growth: float) -> float:
    """Return by how much an integral grows while time grows by a factor."""
    return integral * (growth ** (1.0 - tail.value) - 1.0)


def move_class_means(
    features: Float[np.ndarray, "sample feature"],
    groups: Int[np.ndarray, " sample"],
    delta_a: float,
    delta_b: float,
    impact: MomentImpact,
) -> Float[np.ndarray, "sample feature"]:
    """Return features whose class means have followed the LE-ODE under ΔÂ and ΔB̂, deviations being as they were."""
    n_classes = int(groups.max()) + 1
    means = class_means(features, groups, n_classes)
    gamma, mean_rate = delta_a - delta_b, (delta_a + (n_classes - 1) * delta_b) / n_classes
    if impact == "L":
        directions = logits_directions(means)
        both = logits_coefficients(
            jnp.array([gamma]), jnp.array([mean_rate]), jnp.ones(1), jnp.asarray(float(n_classes))
        )
        contrast, shared = both[0, 0], both[1, 0, :1]
    else:
        directions = isotropic_directions(means)
        contrast = feedback_coefficients(jnp.array([gamma / n_classes]), jnp.array([directions.contrast_feedback]))[0]
        shared = feedback_coefficients(jnp.array([mean_rate]), jnp.array([directions.shared_feedback]))[0]
    change = np.einsum("j,jkp->kp", contrast, directions.contrast) + np.asarray(shared) @ directions.shared
    return features + change[groups]
