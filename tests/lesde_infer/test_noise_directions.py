"""Directions of noise: what is measured of increments, and what paths do with it."""

import numpy as np
import pytest
import xarray as xr
from core_helpers import make_run
from dynamics_helpers import constant_rates
from sklearn.covariance import OAS

from lesde_infer._jax import jax, jnp
from lesde_infer.dynamics import simulate_records
from lesde_infer.noise_directions import (
    RANK,
    ClassMeanNoise,
    NoiseDirections,
    ObservedDirections,
    shrinkage_share,
    variances_of_shares,
)
from lesde_infer.path_noise import noise_axes, stratified_noise
from lesde_infer.simulation_input import arrange_classes
from lesde_infer.statistics import compute_statistics


def collect(increments, n_steps=50):
    observed = ObservedDirections()
    for increment in increments:
        observed.add(increment.ravel(), float(np.linalg.norm(increment)), n_steps, increment.shape)
    return observed


def covariance(directions):
    """Covariance over all entries: that of the axes, and what is even."""
    axes = directions.axes.reshape(len(directions.axes), -1)
    return axes.T @ axes + directions.even * np.eye(axes.shape[1])


@pytest.mark.parametrize("sizes", ["alike", "of many sizes"])
def test_the_shape_of_a_covariance_is_recovered_whatever_the_sizes(sizes):
    rng = np.random.default_rng(1)
    roots = np.array([3.0, 2.0, 1.0, 0.5])
    scale = 1.0 if sizes == "alike" else np.exp(3.0 * rng.normal(size=(20_000, 1)))
    found = collect(scale * roots * rng.normal(size=(20_000, 4))).of(4, (4,))
    np.testing.assert_allclose(covariance(found), 4 * np.diag(roots**2) / (roots**2).sum(), atol=0.06)
    assert np.trace(covariance(found)) == pytest.approx(4.0)


@pytest.mark.parametrize("count", [[1.0, 1.0, 1.0], [1.0, 1.0, 40.0], [2.0, 0.0, 1.0]])
def test_variances_have_the_shares_that_directions_have(count):
    variances = np.array([1.0, 0.1, 0.01])
    variances /= variances @ count
    rng = np.random.default_rng(6)
    repeated = np.repeat(variances, np.array(count, dtype=int))
    squares = repeated * rng.normal(size=(400_000, len(repeated))) ** 2
    each = (squares / squares.sum(axis=1, keepdims=True)).mean(axis=0)
    starts = np.cumsum([0, *count[:-1]]).astype(int)
    shares = np.where(np.array(count) > 0, each[np.minimum(starts, len(each) - 1)], 0.0)
    np.testing.assert_allclose(
        variances_of_shares(shares, np.array(count))[shares > 0], variances[shares > 0], rtol=0.03
    )


def test_shrinkage_is_that_of_scikit_learn():
    rng = np.random.default_rng(2)
    samples = np.array([2.0, 1.0, 1.0, 0.3, 0.1]) * rng.normal(size=(30, 5))
    sample_covariance = samples.T @ samples / 30
    shape = sample_covariance / np.trace(sample_covariance)
    reference = OAS(assume_centered=True).fit(samples).shrinkage_
    # scikit-learn leaves out the terms in 2/d, as it says itself.
    square = (shape**2).sum()
    plain = min(1.0, (square + 1.0) / ((30 + 1.0) * (square - 1.0 / 5)))
    assert plain == pytest.approx(reference, rel=0.15)
    assert shrinkage_share(square, 30, 5) == pytest.approx(
        min(1.0, (0.6 * square + 1.0) / (30.6 * (square - 0.2))), rel=1e-12
    )


def test_few_increments_that_are_alike_in_all_directions_are_nearly_found_so():
    rng = np.random.default_rng(3)
    found = collect(rng.normal(size=(12, 20))).of(20, (20,))
    assert found.even > 0.8  # S by itself has twelve directions, and nothing in the other eight


def test_memory_is_bounded_and_the_trace_kept_where_there_are_more_directions_than_are_kept():
    rng = np.random.default_rng(4)
    roots = np.r_[np.full(3, 5.0), np.full(297, 0.5)]
    observed = collect(roots * rng.normal(size=(2_000, 300)))
    assert len(observed._rows) < 200
    found = observed.of(300, (300,))
    assert len(found.axes) == RANK
    trace = float((found.axes**2).sum() + 300 * found.even)
    assert trace == pytest.approx(300.0)
    square = float((found.axes[:3] ** 2).sum())
    assert square / 300 == pytest.approx(75.0 / (75.0 + 297 / 4), abs=0.06)


def test_runs_of_a_shape_have_as_many_axes_however_many_they_move_along():
    rng = np.random.default_rng(8)
    one, many = np.array([[1.0, -1.0], [-1.0, 1.0]]), rng.normal(size=(400, 2, 2))
    flat = collect(rng.normal(size=(400, 1, 1)) * one).of(2, (2, 2))
    full = collect(many - many.mean(axis=1, keepdims=True)).of(2, (2, 2))
    assert flat.axes.shape == full.axes.shape == (2, 2, 2)
    assert not flat.axes[1:].any()


def test_nothing_that_moves_makes_noise_alike_in_all_directions():
    observed = ObservedDirections()
    observed.add(np.zeros(6), 1.0, 50, (2, 3))
    observed.add(np.full(6, 1e-17), 1.0, 50, (2, 3))  # rounding
    found = observed.of(3, (2, 3))
    assert found.even == 1.0
    assert not found.axes.any()


def drawn(directions, drift, scales=(1.0, 2.0, 3.0), n=20_000):
    classes = arrange_classes(np.repeat([0, 1, 2], 4), np.repeat([0, 1, 2], 4), 3, None)
    axes = noise_axes(directions, 3, 3)
    keys = jax.random.split(jax.random.key(0), n)
    means = jnp.asarray(np.random.default_rng(0).normal(size=(3, 3)))
    noise = jax.vmap(lambda key: stratified_noise(key, jnp.asarray(scales), means, drift, classes, axes)[0])(keys)
    return np.asarray(noise)


def uneven():
    rng = np.random.default_rng(5)
    axis = np.array([[1.0, -1.0, 0.0], [-1.0, 1.0, 0.0], [0.0, 0.0, 0.0]])
    other = np.array([[1.0, 1.0, 1.0], [1.0, 1.0, 1.0], [-2.0, -2.0, -2.0]])
    noise = 3.0 * rng.normal(size=(500, 1, 1)) * axis + 0.3 * rng.normal(size=(500, 1, 1)) * other
    shared = rng.normal(size=(500, 3)) * [2.0, 1.0, 0.1]
    return ClassMeanNoise(collect(noise).of(6, (3, 3)), collect(shared).of(3, (3,))), axis / 2.0


def test_noise_points_where_it_pointed_and_is_as_large_as_it_was_said_to_be():
    directions, axis = uneven()
    drift = jnp.zeros((3, 3))
    noise = drawn(directions, drift)
    contrasts = noise - noise.mean(axis=1, keepdims=True)
    assert (contrasts**2).sum(axis=(1, 2)).mean() == pytest.approx(4.0 * 6, rel=0.03)
    along = np.tensordot(contrasts, axis, axes=2)
    assert (along**2).mean() / (4.0 * 6) == pytest.approx(36.0 / 37.62, abs=0.02)
    mean = noise.mean(axis=1)
    assert (mean**2).sum(axis=1).mean() == pytest.approx(3.0, rel=0.03)
    assert mean[:, 0].var() > 10 * mean[:, 2].var()


def test_along_the_drift_noise_keeps_its_own_scale_whatever_the_directions():
    """The drift points half along the main direction of the noise: variances along it and across it are as given."""
    directions, axis = uneven()
    other = np.array([[0.0, 0.0, 1.0], [0.0, 0.0, -1.0], [0.0, 0.0, 0.0]]) / np.sqrt(2.0)
    unit = (axis + other) / np.sqrt(2.0)
    for given in (directions, None):
        noise = drawn(given, jnp.asarray(0.1 * unit))
        contrasts = noise - noise.mean(axis=1, keepdims=True)
        along = np.tensordot(contrasts, unit, axes=2)
        assert (along**2).mean() == pytest.approx(9.0, rel=0.03)
        rest = contrasts - along[:, None, None] * unit
        assert (rest**2).sum(axis=(1, 2)).mean() == pytest.approx(4.0 * 5, rel=0.04)


def test_noise_that_is_all_along_the_drift_leaves_none_across_it_but_what_is_even():
    axis = np.array([[1.0, 0.0, 0.0], [-1.0, 0.0, 0.0], [0.0, 0.0, 0.0]]) / np.sqrt(2.0)
    only = ClassMeanNoise(NoiseDirections(np.sqrt(6.0) * axis[None], 0.0), NoiseDirections.alike((3,)))
    noise = drawn(only, jnp.asarray(axis), scales=(0.0, 2.0, 3.0))
    assert np.isfinite(noise).all()
    assert (np.tensordot(noise, axis, axes=2) ** 2).mean() == pytest.approx(9.0, rel=0.03)


def test_paths_walk_along_the_directions(tmp_path):
    directions, axis = uneven()
    rng = np.random.default_rng(7)
    features, groups = rng.normal(size=(12, 3)), np.repeat([0, 1, 2], 4)
    rates = constant_rates(0.0, 0.0, 0.0, 3, n_draws=50, n_intervals=20, sd=(0.0, 1.0, 0.0))
    found = simulate_records(
        features, groups, groups, np.ones(20), rates, "I", seed=3, keep=np.array([0, 20]), n_classes=3,
        directions=directions,
    )  # fmt: skip
    means = np.stack([found[:, :, groups == k].mean(axis=2) for k in range(3)], axis=2)
    moved = means[:, 1] - means[:, 0]
    moved -= moved.mean(axis=1, keepdims=True)
    assert (np.tensordot(moved, axis, axes=2) ** 2).sum() / (moved**2).sum() > 0.9


def test_statistics_and_fits_keep_them(tmp_path):
    with make_run(3, 3, n_records=60, seed=4).write(tmp_path / "run.h5") as recording:
        found = compute_statistics(recording, "hidden", "I").noise_directions
    assert found is not None
    kept = ClassMeanNoise.from_variables(xr.Dataset(found.to_variables()))
    assert kept is not None
    np.testing.assert_array_equal(kept.contrast.axes, found.contrast.axes)
    assert (kept.shared.even, kept.contrast.even) == (found.shared.even, found.contrast.even)
    assert np.trace(covariance(found.shared)) == pytest.approx(3.0)
    np.testing.assert_allclose(found.contrast.axes.sum(axis=1), 0.0, atol=1e-12)
    assert ClassMeanNoise.from_variables(xr.Dataset()) is None
