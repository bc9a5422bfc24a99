"""Draws the noise of simulated paths: of the mean over classes, of contrasts between them, and of deviations.

Contrasts have a scale of their own along the drift, and point across it where noise was seen to point
(`lesde_infer.noise_directions`). tests/lesde_infer/test_dynamics_noise.py checks variances of all strata, and
tests/lesde_infer/test_noise_directions.py directions.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from lesde_infer._jax import jax, jnp
from lesde_infer.integrators import Classes, Scalar
from lesde_infer.noise_directions import ClassMeanNoise, NoiseDirections
from lesde_infer.observed_noise import ALIGNED

# Of the size of class means and their drift: a contrast of drifts below it has no direction but that of rounding.
NO_DRIFT = 1e-10
# Of the variance of noise, what is left of it across the drift at least: less is rounding.
LEAST_LEFT = 1e-9


class NoiseAxes(NamedTuple):
    """Covariance of the noise of contrasts and of the mean over classes, per unit of variance in each dimension."""

    contrast: Float[Array, "axis class_ feature"]
    even_contrast: Float[Array, ""]
    shared: Float[Array, "axis feature"]
    even_shared: Float[Array, ""]


def noise_axes(directions: ClassMeanNoise | None, n_classes: int, n_features: int) -> NoiseAxes:
    """Return the directions of noise; alike in all where they are not given."""
    if directions is None:
        directions = ClassMeanNoise(
            NoiseDirections.alike((n_classes, n_features)), NoiseDirections.alike((n_features,))
        )
    own, shared = directions.contrast, directions.shared
    return NoiseAxes(*(jnp.asarray(part) for part in (own.axes, own.even, shared.axes, shared.even)))


def student_factors(
    seed: int, draws: Int[np.ndarray, "draw"], dof: Float[np.ndarray, "draw stratum"], n_intervals: int
) -> Float[np.ndarray, "draw stratum interval"]:
    """Draw √(ν/χ²_ν) for each stratum and interval; 1 where ν is infinite. χ²_ν is twice a gamma variable of shape ν/2.

    NumPy draws these few numbers, since the rejection sampler of JAX would take longest of all to compile.
    """
    gaussian = np.isinf(dof)
    shapes = np.where(gaussian, 2.0, dof) / 2
    gammas = np.stack(
        [
            np.random.default_rng([seed, draw]).standard_gamma(shape, (n_intervals, shape.size)).T
            for draw, shape in zip(draws, shapes, strict=True)
        ]
    )
    factors = np.sqrt(shapes[..., None] / np.maximum(gammas, np.finfo(np.float64).tiny))
    return np.where(gaussian[..., None], 1.0, factors)


def stratified_noise(
    key: PRNGKeyArray,
    scales: Float[Array, "stratum"],
    means: Float[Array, "class_ feature"],
    drift: Float[Array, "class_ feature"],
    classes: Classes,
    directions: NoiseAxes,
    along_contrasts: Scalar | float = 0.0,
) -> tuple[Float[Array, "class_ feature"], Float[Array, "feature sample"]]:
    """Draw one interval's noise of the class means (global and class strata), and that of deviations at unit scale.

    Contrasts have a scale of their own along the contrast of the interval's drift, if there is any but rounding. Across
    it noise points where `directions` say, and has the variance of the d − 1 dimensions that are left. The share
    ``along_contrasts`` of that lies along the contrasts themselves; it is a matter of `lesde_infer.common_growth` and
    left out, and so is what noise along the drift has along them. A share of 0 leaves noise as it is without.
    """
    n_samples, n_classes = classes.averages.shape
    normal = jax.random.normal(key, (means.shape[1], 1 + n_classes + n_samples))  # one call, for its time to compile
    common, by_class, individual = normal[:, 0], normal[:, 1 : 1 + n_classes].T, normal[:, 1 + n_classes :]
    n_axes, n_shared = len(directions.contrast), len(directions.shared)
    along_axes = jax.random.normal(jax.random.fold_in(key, 1), (n_axes + n_shared,))
    contrasts = by_class - by_class.mean(axis=0)
    pointed = jnp.tensordot(along_axes[:n_axes], directions.contrast, axes=1)
    pointed = pointed + jnp.sqrt(directions.even_contrast) * contrasts
    unit = _direction(drift - drift.mean(axis=0), NO_DRIFT * (jnp.linalg.norm(means) + jnp.linalg.norm(drift)))
    has_direction = jnp.sum(unit**2) > 0
    dimension = (n_classes - 1) * means.shape[1]
    lost = jnp.sum(jnp.tensordot(directions.contrast, unit, axes=2) ** 2) + directions.even_contrast * has_direction
    variance = dimension - has_direction
    across = pointed - unit * jnp.sum(pointed * unit)
    own = _direction(means - means.mean(axis=0), 0.0)
    own = jnp.where(along_contrasts > 0, own, 0.0)
    beside = _direction(own - unit * jnp.sum(own * unit), ALIGNED)
    lost += jnp.sum(jnp.tensordot(directions.contrast, beside, axes=2) ** 2)
    lost += directions.even_contrast * jnp.sum(beside**2)
    left = jnp.maximum(dimension - lost, LEAST_LEFT * dimension)
    across = across - beside * jnp.sum(across * beside)
    along = unit * jnp.sum(contrasts * unit)
    along = along - own * jnp.sum(along * own)
    class_noise = scales[1] * jnp.sqrt((1.0 - along_contrasts) * variance / left) * across + scales[2] * along
    shared = along_axes[n_axes:] @ directions.shared + jnp.sqrt(directions.even_shared) * common
    deviations = individual - (individual @ classes.averages)[:, classes.groups]
    return scales[0] * shared + class_noise - class_noise.mean(axis=0), deviations


def _direction(contrasts: Float[Array, "class_ feature"], least: Scalar | float) -> Float[Array, "class_ feature"]:
    """Return contrasts of unit length, or 0 where they are no longer than the least."""
    size = jnp.linalg.norm(contrasts)
    return jnp.where(size > least, contrasts / jnp.where(size > least, size, 1.0), 0.0)
