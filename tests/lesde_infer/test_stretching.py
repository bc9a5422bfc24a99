"""Deviations that are stretched along with class means: what is measured, and how they move."""

from types import SimpleNamespace

import numpy as np
import pytest
from scipy import stats

from lesde_infer._jax import jnp
from lesde_infer.deviations import DeviationRates, contrast_axes, move_along_with, split
from lesde_infer.stretching import LAG, LAGS, PRIOR_LAGS, PRIOR_SCALE, Stretching, measure_stretching

K, PER_CLASS, WIDTH = 3, 40, 5
GROUPS = np.repeat(np.arange(K), PER_CLASS)
TIMES = np.linspace(100.0, 1100.0, 201)


def centred(rng):
    deviations = rng.normal(size=(len(GROUPS), WIDTH))
    return deviations - np.array([deviations[k == GROUPS].mean(axis=0) for k in range(K)])[GROUPS]


def recording(features):
    return SimpleNamespace(path="run.h5", steps=TIMES.astype(int), features=lambda layer: features)


def stretched_run(along_power, across_power, forget=0.0, seed=0):
    """Class means that grow linearly, in a fixed plane; both parts of deviations grow by powers of it."""
    rng = np.random.default_rng(seed)
    means = np.zeros((K, WIDTH))
    means[:, :2] = 3.0 * np.array([[1.0, 0.0], [-0.5, 0.8], [-0.5, -0.8]])
    plane = np.diag([1.0, 1.0, 0.0, 0.0, 0.0])
    elapsed = TIMES - TIMES[0]
    size, pattern, features = 1.0 + elapsed / 100.0, centred(rng), []
    for t, scale in enumerate(size):
        if t and forget:
            step = forget * np.log(max(elapsed[t], 1.0) / max(elapsed[t - 1], 1.0))
            pattern = np.exp(-step) * pattern + np.sqrt(-np.expm1(-2 * step)) * centred(rng)
        deviations = scale**along_power * pattern @ plane + scale**across_power * pattern @ (np.eye(WIDTH) - plane)
        features.append(scale * means[GROUPS] + deviations)
    return recording(np.array(features)), size


def test_changes_relative_to_contrasts_are_exact():
    run, size = stretched_run(0.7, 0.2)
    found = measure_stretching(run, "out", GROUPS, TIMES, by_parts=True)
    assert len(found.log_times) == LAGS
    assert found.log_times == pytest.approx(np.full(LAGS, np.log(LAG)), rel=0.1)
    elapsed = TIMES - TIMES[0]
    records = np.abs(elapsed[:, None] - 1000.0 * LAG ** -np.arange(LAGS, -1, -1.0)).argmin(axis=0)
    growth = np.diff(np.log(size[records]))
    assert found.changes == pytest.approx(np.outer(growth, [-0.3, -0.8]), rel=1e-9)
    assert found.cosines == pytest.approx(np.ones((LAGS, 2)))
    assert found.forgetting == pytest.approx([0.0, 0.0], abs=1e-9)


def test_forgetting_is_per_unit_of_log_time():
    found = [
        measure_stretching(stretched_run(1.0, 1.0, forget=0.8, seed=seed)[0], "out", GROUPS, TIMES, by_parts=True)
        for seed in range(8)
    ]
    assert np.mean([own.forgetting for own in found], axis=0) == pytest.approx([0.8, 0.8], rel=0.1)


def test_no_record_after_the_prefix_is_read():
    run, _ = stretched_run(0.7, 0.2)
    features = np.array(run.features("out"))
    before = measure_stretching(recording(features), "out", GROUPS, TIMES[:150], by_parts=False)
    features[150:] = np.nan
    after = measure_stretching(recording(features), "out", GROUPS, TIMES[:150], by_parts=False)
    assert np.array_equal(before.changes, after.changes)


def test_samples_that_are_missing_are_left_out():
    run, _ = stretched_run(0.7, 0.7)
    features = np.array(run.features("out"))
    whole = measure_stretching(recording(features), "out", GROUPS, TIMES, by_parts=False)
    features[-1, 3] = np.nan
    assert measure_stretching(recording(features), "out", GROUPS, TIMES, by_parts=False).changes[:-1] == pytest.approx(
        whole.changes[:-1]
    )
    features[:, GROUPS == 1] = np.nan
    nothing = measure_stretching(recording(features), "out", GROUPS, TIMES, by_parts=True)
    assert np.isnan(nothing.changes).all()
    assert nothing.forgetting == pytest.approx([0.0, 0.0])
    draws = nothing.draw_walk(4000, np.random.default_rng(0))[:, 0]
    prior = stats.chi2(PRIOR_LAGS)
    assert stats.kstest(PRIOR_LAGS * PRIOR_SCALE**2 / draws**2, prior.cdf).pvalue > 1e-3


def test_the_walk_follows_its_posterior():
    changes = np.array([[0.1], [-0.3], [0.2], [0.0]])
    found = Stretching(np.full(4, 0.25), changes, np.ones((4, 1)))
    draws = found.draw_walk(4000, np.random.default_rng(1))[:, 0]
    total = PRIOR_LAGS * PRIOR_SCALE**2 + (changes**2 / 0.25).sum()
    assert stats.kstest(total / draws**2, stats.chi2(PRIOR_LAGS + 4).cdf).pvalue > 1e-3


def move(kappa, sd, stretch, *, noise_seed=None, push=None, pull=None, length=2.0):
    rng = np.random.default_rng(5)
    means = rng.normal(size=(K, WIDTH))
    deviations = centred(rng).T * np.array([3.0, 1.0, 1.0, 0.5, 0.2])[:, None]
    axes = jnp.asarray(contrast_axes(means, deviations))
    parts = split(jnp.asarray(deviations), axes)
    noise = None if noise_seed is None else split(jnp.asarray(centred(np.random.default_rng(noise_seed)).T), axes)
    rates = DeviationRates(jnp.asarray(kappa), jnp.asarray(sd), None if pull is None else jnp.asarray(pull))
    pushed = None if push is None else split(jnp.asarray(push), axes)
    moved = move_along_with(
        parts, rates, jnp.asarray(length), stretch=jnp.asarray(stretch), axes=axes, push=pushed, noise=noise
    )
    return np.asarray(parts), np.asarray(split(moved, axes)), np.asarray(axes)


def sizes(parts):
    return np.sqrt((parts**2).mean(axis=(1, 2)))


def test_sizes_grow_with_the_contrasts_whatever_the_noise():
    for seed in (None, 1, 2):
        before, after, _ = move([0.1, -0.2], [0.5, 2.0], 1.5, noise_seed=seed)
        assert sizes(after) / sizes(before) == pytest.approx(1.5 * np.exp([0.2, -0.4]))
    before, after, _ = move([0.0, 0.0], [0.0, 0.0], 1.0, noise_seed=1)
    assert after == pytest.approx(before, abs=1e-12)


def test_noise_turns_patterns_by_its_relative_size_and_keeps_their_covariance():
    cosines, covariances = [], []
    for seed in range(30):
        before, after, axes = move([0.0, 0.0], [0.5, 2.0], 1.0, noise_seed=seed)
        cosines.append((before * after).sum(axis=(1, 2)) / np.sqrt((before**2).sum((1, 2)) * (after**2).sum((1, 2))))
        covariances.append((axes @ after[0]) @ (axes @ after[0]).T)
    assert np.mean(cosines, axis=0) == pytest.approx((1 + np.array([0.5, 2.0]) ** 2) ** -0.5, rel=0.05)
    expected = (axes @ before[0]) @ (axes @ before[0]).T
    spread = np.linalg.eigvalsh(expected)
    assert spread[1] > 3 * spread[0]  # deviations are not alike in all directions
    assert np.mean(covariances, axis=0) == pytest.approx(expected, rel=0.1, abs=0.1 * spread[0])


def test_a_pull_turns_patterns_too():
    push = np.random.default_rng(3).normal(size=(WIDTH, len(GROUPS)))
    before, after, axes = move([0.0, 0.0], [0.0, 0.0], 1.0, push=push, pull=0.25, length=2.0)
    pushed = before + 0.5 * np.asarray(split(jnp.asarray(push), jnp.asarray(axes)))
    assert after == pytest.approx(pushed * (sizes(before) / sizes(pushed))[:, None, None])


def test_parts_that_vanish_stay_zero():
    rates, nothing = DeviationRates(jnp.zeros(2), jnp.ones(2), None), jnp.zeros((2, WIDTH, 6))
    one, axes = jnp.ones(()), jnp.eye(2, WIDTH)
    moved = move_along_with(nothing, rates, one, stretch=one, axes=axes, push=None, noise=nothing + 1.0)
    assert np.array_equal(np.asarray(moved), np.zeros((WIDTH, 6)))
