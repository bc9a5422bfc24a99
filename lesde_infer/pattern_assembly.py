"""From statistics to the data of the model of a matrix of elasticity (`lesde_infer.pattern_model`)."""

import numpy as np
from jaxtyping import Float

from lesde_infer._jax import jnp
from lesde_infer.interval_design import interval_design
from lesde_infer.interval_lengths import relative_length, smoothed
from lesde_infer.pattern_model import PatternData, contrast_basis
from lesde_infer.priors import TINY, class_mean_scale, curve_prior, least_squares
from lesde_infer.statistics import Statistics
from lesde_infer.step_sizes import step_sizes

REFERENCE_SHARE = 0.1  # of the typical rate: below it a mean rate counts as zero
SPREAD_SHARE = 0.5  # of the typical rate: prior median of the scatter of the pattern's entries


def pattern_data(
    statistics: Statistics, *, mixed: bool, drifting: bool = True, horizon: float | None = None
) -> PatternData:
    """Arrange the contrasts of a run for the model, and scale its priors to it.

    The scale s(t) is 1 on average over the intervals, weighted by what they tell (`interval_information`): then the
    pattern's overall size and the curve of the scale are orthogonal, and neither stands in for the other.
    """
    stratum, pattern, lengths = statistics.contrast, statistics.pattern, statistics.lengths
    observed, floor = statistics.moved, statistics.mean_rounding
    exposure = lengths / statistics.n_classes
    estimates, _ = least_squares(stratum, exposure, floor)
    information = np.where(observed & statistics.driven, interval_information(statistics) + TINY, 0.0)
    weight = information / information.sum()
    typical = float(np.exp(weight @ np.log(np.maximum(np.abs(estimates), TINY))))
    design = interval_design(statistics.times, statistics.midpoints, horizon)
    late = np.asarray(design.trend[:, 1]) - weight @ np.asarray(design.trend[:, 1])
    basis = contrast_basis(statistics.n_classes)
    ones = np.ones_like(lengths)
    return PatternData(
        coordinates=jnp.asarray(pattern.coordinates),
        increments=jnp.asarray(pattern.increments @ basis),
        increment_square=jnp.asarray(stratum.increment_square[None]),
        feedback=jnp.asarray(pattern.feedback),
        basis=jnp.asarray(basis),
        exposure=jnp.asarray(exposure),
        log_length=jnp.asarray(0.5 * np.log(lengths)[None]),
        dimension=jnp.asarray([stratum.dimension], float),
        error=jnp.asarray(np.sqrt(floor)[None]),
        observed=jnp.asarray(observed[None], float),
        reference=jnp.asarray([REFERENCE_SHARE * typical]),
        spread=jnp.asarray(SPREAD_SHARE * typical),
        weight=jnp.asarray(weight),
        drift=jnp.asarray(np.stack([ones, late] if drifting else [ones], axis=1)),
        prior=curve_prior([class_mean_scale(stratum, lengths, exposure, floor, observed)], mixed=mixed),
        design=design,
        n_steps=jnp.asarray(statistics.n_steps, float),
        relative_length=jnp.asarray(relative_length(statistics.n_steps) if mixed else ones),
        relative_size=jnp.asarray(step_sizes(statistics).relative),
    )


def interval_information(statistics: Statistics) -> Float[np.ndarray, " time"]:
    """Return the squared norm of each interval's drift in units of its noise, by least squares.

    A constant pattern is fitted to all intervals, then its scale to each, smoothed; the noise is the smoothed size of
    the increments.
    """
    pattern, exposure = statistics.pattern, statistics.lengths / statistics.n_classes
    floor = np.maximum(statistics.mean_rounding, TINY)
    log_variance = np.log(np.maximum(statistics.contrast.increment_square / statistics.contrast.dimension, floor))
    variance = np.exp(smoothed(log_variance, statistics.n_steps, statistics.moved))
    pushed = exposure[:, None, None] * pattern.coordinates
    precision = 1.0 / variance
    gram = np.einsum("t,tjk,tjl->kl", precision, pushed, pushed)
    product = np.einsum("t,tjk,tjl->kl", precision, pattern.increments, pushed)
    moved = pushed @ (product @ np.linalg.pinv(gram)).T
    square = np.maximum((moved**2).sum(axis=(1, 2)), TINY)
    scale = smoothed((moved * pattern.increments).sum(axis=(1, 2)) / square, statistics.n_steps, statistics.moved)
    return scale**2 * square / variance
