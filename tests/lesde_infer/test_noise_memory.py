"""Noise that goes again: closed forms, recovery from simulation, and what paths with it do."""

import numpy as np
import pytest
from core_helpers import make_run
from dynamics_helpers import constant_rates

from lesde_infer._jax import jnp
from lesde_infer.dynamics import simulate_records
from lesde_infer.noise_memory import (
    SPANS,
    Autocovariance,
    Memory,
    NoiseMemory,
    nearest_memory,
    remember,
    variance_ratio,
)
from lesde_infer.observed_noise import ObservedNoise
from lesde_infer.statistics import compute_statistics


def increments(share, decay, n, rng, shape=(1, 4)):
    """Increments of the model, step by step, from the coefficients of `NoiseMemory`."""
    if share == 1.0:
        return rng.normal(size=(n, *shape))
    time = 0.0 if decay == 0.0 else -1.0 / np.log(decay)
    phi, passing, stays = NoiseMemory(contrast=Memory(share, time)).coefficients(np.ones(1))[0][:, 0]
    fluctuation, found = np.zeros(shape), []
    for _ in range(n + 200):
        new = rng.normal(size=shape)
        at_end = phi * fluctuation + passing * new
        found.append(stays * new + at_end - fluctuation)
        fluctuation = at_end
    return np.array(found[200:])


@pytest.mark.parametrize("share", [0.0, 0.3, 0.8])
@pytest.mark.parametrize("decay", [0.0, 0.5, 0.9])
def test_increments_have_their_own_variance_and_the_variance_ratio(share, decay):
    noise = increments(share, decay, 40_000, np.random.default_rng(1))
    assert noise.var() == pytest.approx(1.0, rel=0.05)
    for span in (2, 8, 32):
        sums = np.add.reduceat(noise, np.arange(0, len(noise), span), axis=0)[:-1]
        expected = variance_ratio(np.array(share), np.array(decay), np.array(float(span)))
        assert sums.var() / span == pytest.approx(float(expected), rel=0.12, abs=0.01)


@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 1.0])
@pytest.mark.parametrize("decay", [0.0, 0.4, 0.8])
def test_exact_ratios_are_recognised(share, decay):
    ratios = variance_ratio(np.array(share), np.array(decay), SPANS.astype(float))
    found = nearest_memory(ratios)
    assert found[0] == pytest.approx(share)
    if share < 1.0:
        assert found[1] == pytest.approx(decay)


@pytest.mark.parametrize(("share", "decay"), [(0.1, 0.4), (0.4, 0.7), (1.0, 0.0)])
def test_memory_is_recovered_from_one_run(share, decay):
    observed = ObservedNoise()
    for noise in increments(share, decay, 2000, np.random.default_rng(2), shape=(3, 3)):
        observed.add(noise, np.zeros((3, 3)), 50)
    found = observed.memory(1.0)
    assert found.share == pytest.approx(share, abs=0.15)
    if share < 1.0:
        assert np.exp(-50.0 / found.time) == pytest.approx(decay, abs=0.15)


def test_drift_along_the_impact_does_not_count():
    """A steady push, the same way each time, would look like noise that stays; the impact points along it."""
    rng, push = np.random.default_rng(3), np.zeros((3, 3))
    push[0, 0] = 1.0
    observed = ObservedNoise()
    for noise in increments(0.0, 0.0, 400, rng, shape=(3, 3)):
        observed.add(noise + 5.0 * push, push, 50)
    assert observed.memory(1.0).share < 0.2


def test_bursts_are_told_from_the_intervals_between_them():
    """Single steps are not followed by one another; memory is that of the intervals with most noise."""
    rng, observed = np.random.default_rng(4), ObservedNoise()
    for noise in increments(0.0, 0.0, 400, rng, shape=(3, 3)):
        observed.add(1e-3 * rng.normal(size=(3, 3)), np.zeros((3, 3)), 1)
        observed.add(noise, np.zeros((3, 3)), 49)
    assert observed.memory(1.0).share < 0.2


def test_little_data_make_no_memory():
    observed = ObservedNoise()
    assert observed.memory(1.0) == Memory()
    for noise in increments(0.0, 0.0, 20, np.random.default_rng(5)):
        observed.add(noise, np.zeros((1, 4)), 50)
    assert observed.memory(1.0) == Memory()
    assert NoiseMemory().coefficients(np.ones(3)) is None


def test_contrasts_and_mean_have_their_own():
    """Contrasts that stay, a mean that goes at once: the mean of the noise is undone one interval later."""
    coefficients = NoiseMemory(shared=Memory(0.0, 0.0)).coefficients(np.ones(1))[:, :, 0]
    rng = np.random.default_rng(6)
    new, none = jnp.asarray(rng.normal(size=(3, 4))), jnp.zeros((3, 4))
    first, fluctuation = remember(new, none, jnp.asarray(coefficients))
    second, _ = remember(none, fluctuation, jnp.asarray(coefficients))
    contrast = np.asarray(new - new.mean(axis=0))
    np.testing.assert_allclose(first - first.mean(axis=0), contrast, atol=1e-12)
    np.testing.assert_allclose(second - second.mean(axis=0), 0.0, atol=1e-12)
    np.testing.assert_allclose((first + second).mean(axis=0), 0.0, atol=1e-12)


def simulate(memory, n_intervals=64, n_draws=60):
    rng = np.random.default_rng(7)
    features, groups = rng.normal(size=(12, 3)), np.repeat([0, 1, 2], 4)
    rates = constant_rates(0.0, 0.0, 0.0, 3, n_draws=n_draws, n_intervals=n_intervals, sd=(0.0, 1.0, 0.0))
    found = simulate_records(
        features, groups, groups, np.ones(n_intervals), rates, "I", seed=3, keep=np.array([0, 1, n_intervals]),
        n_classes=3, memory=memory,
    )  # fmt: skip
    means = np.stack([found[:, :, groups == k].mean(axis=2) for k in range(3)], axis=2)
    return means - means.mean(axis=2, keepdims=True)


def test_paths_whose_noise_goes_stay_near_where_they_drift():
    """In squares a random walk of 64 intervals goes 64 times as far as one; noise that goes at once, no farther."""
    for memory, expected in ((None, 64.0), (NoiseMemory(), 64.0), (NoiseMemory(contrast=Memory(0.0, 0.0)), 1.0)):
        means = simulate(memory)
        one, all_of_them = (((means[:, k] - means[:, 0]) ** 2).sum(axis=(1, 2)).mean() for k in (1, 2))
        assert all_of_them / one == pytest.approx(expected, rel=0.25)


def test_noise_that_stays_changes_no_path():
    np.testing.assert_array_equal(simulate(None), simulate(NoiseMemory()))


def test_statistics_and_fits_keep_it(tmp_path):
    with make_run(3, 3, n_records=60, seed=4).write(tmp_path / "run.h5") as recording:
        found = compute_statistics(recording, "hidden", "I").noise_memory
    assert NoiseMemory.from_attributes(found.to_attributes()) == found
    assert NoiseMemory.from_attributes({}) == NoiseMemory()


def test_memory_that_may_be_chance_is_none_where_that_is_asked_for():
    """Of independent numbers 5 % are as far from independence as 12, and all of those that go at once."""
    rng, found = np.random.default_rng(8), {0.0: 0, 1.0: 0}
    for stays in found:
        for _ in range(60):
            covariance = Autocovariance()
            for noise in increments(stays, 0.0, 200, rng, shape=(1, 1)):
                covariance.add(noise.ravel(), 50)
            found[stays] += covariance.memory(1.0, least=12.0) != Memory()
    assert found[0.0] == 60
    assert found[1.0] <= 8
