"""Samples of a class that are shaken together: patterns in recorded movements, and paths that are shaken alike."""

from types import SimpleNamespace

import numpy as np
import pytest
from dynamics_helpers import constant_rates
from scipy import stats

from lesde_infer import sample_noise
from lesde_infer.dynamics import simulate_records
from lesde_infer.sample_noise import WINDOW, recorded_sample_noise

K, PER_CLASS, WIDTH, RECORDS = 3, 20, 4, 61
GROUPS = np.repeat(np.arange(K), PER_CLASS)
SAMPLES = np.arange(len(GROUPS))


def centred(values):
    return values - np.array([values[k == GROUPS].mean(axis=0) for k in range(K)])[GROUPS]


def walk(shake, *, growth=1.0, seed=0):
    """Class means that stand still, and deviations that grow by a factor and are shaken."""
    rng = np.random.default_rng(seed)
    means = 5.0 * rng.normal(size=(K, WIDTH))[GROUPS]
    deviations, features = centred(rng.normal(size=(len(GROUPS), WIDTH))), []
    for _ in range(RECORDS):
        features.append(means + deviations)
        deviations = growth * deviations + centred(shake(rng))
    return np.array(features)


def noise_of(features, *, wanted=None, by_parts=False):
    recording = SimpleNamespace(path="run.h5", features=lambda layer: features)
    wanted = np.arange(len(features) - 1) if wanted is None else wanted
    return recorded_sample_noise(
        recording, "hidden", SAMPLES, GROUPS, np.arange(len(features)), wanted, by_parts=by_parts
    )


def paths(noise, *, sd=0.3, n_draws=200, n_intervals=1):
    """How far samples moved, in paths with noise of deviations alone."""
    first = np.random.default_rng(9).normal(size=(len(GROUPS), WIDTH)) + 4.0 * np.eye(K, WIDTH)[GROUPS]
    rates = constant_rates(0.0, 0.0, 0.0, K, n_draws=n_draws, n_intervals=n_intervals, sd=(0.0, 0.0, sd))
    found = simulate_records(
        first, GROUPS, GROUPS, np.ones(n_intervals), rates, "I", seed=1, keep=np.array([n_intervals]), n_classes=K,
        sample_noise=noise,
    )  # fmt: skip
    return found[:, 0] - first


def test_samples_that_were_moved_more_are_moved_more():
    spread = np.exp(np.random.default_rng(1).normal(size=len(GROUPS)))
    features = walk(lambda rng: spread[:, None] * rng.normal(size=(len(GROUPS), WIDTH)))
    moved = np.log((paths(noise_of(features)) ** 2).mean(axis=(0, 2)))
    assert stats.spearmanr(moved, spread).statistic > 0.9
    alike = np.log((paths(None) ** 2).mean(axis=(0, 2)))
    assert abs(stats.spearmanr(alike, spread).statistic) < 0.4


def test_one_pattern_is_found_and_nothing_else_moves():
    pattern = centred(np.random.default_rng(2).normal(size=(len(GROUPS), WIDTH)))
    pattern /= np.linalg.norm(pattern)
    noise = noise_of(walk(lambda rng: rng.normal() * pattern))
    assert noise is not None
    moved = paths(noise)
    along = np.tensordot(moved, pattern, axes=2)
    # Of the rest a part is ρ, 0.06, and a part that deviations, which walk along the pattern, take some for growth.
    assert (along**2).sum() / (moved**2).sum() > 0.8
    alike = paths(None)
    assert (np.tensordot(alike, pattern, axes=2) ** 2).sum() / (alike**2).sum() < 0.02
    assert abs(along.mean()) < 4 * along.std() / np.sqrt(len(along))


def test_noise_without_a_pattern_is_left_alike():
    noise = noise_of(walk(lambda rng: rng.normal(size=(len(GROUPS), WIDTH)), seed=3))
    assert noise is not None
    assert noise.even.min() > 0.7
    moved = (paths(noise) ** 2).mean(axis=(0, 2))
    assert moved.std() / moved.mean() < 0.25


@pytest.mark.parametrize("by_parts", [False, True])
def test_size_is_that_of_the_rates_and_class_means_stay(by_parts):
    noise = noise_of(walk(lambda rng: rng.normal() * np.eye(len(GROUPS))[:, :WIDTH], seed=4), by_parts=by_parts)
    moved = paths(noise, sd=0.3)
    degrees = (len(GROUPS) - K) * WIDTH
    np.testing.assert_allclose((moved**2).sum(axis=(1, 2)), degrees * 0.09, rtol=1e-6)
    means = np.array([moved[:, k == GROUPS].mean(axis=1) for k in range(K)])
    np.testing.assert_allclose(means, 0.0, atol=1e-6)


def test_growth_is_no_movement():
    still = np.zeros((len(GROUPS), WIDTH))
    assert np.abs(noise_of(walk(lambda rng: still, growth=1.02)).movements).max() == 0.0


def test_windows_lie_around_their_interval():
    features = walk(lambda rng: rng.normal(size=(len(GROUPS), WIDTH)))
    noise = noise_of(features, wanted=np.array([0, 30, 59]))
    last = RECORDS - 1 - WINDOW
    np.testing.assert_array_equal(noise.first, [0, 30 - WINDOW // 2, last])


def test_missing_samples_do_not_move_and_a_class_without_two_has_no_movement():
    features = walk(lambda rng: rng.normal(size=(len(GROUPS), WIDTH)))
    features[10:, 5] = np.nan
    features[20, GROUPS == 2] = np.nan
    noise = noise_of(features)
    assert len(noise.movements) == RECORDS - 1 - 2
    assert np.abs(noise.movements[9:, :, 5]).max() == 0.0
    assert np.isfinite(noise.movements).all()
    assert noise_of(features[:2]) is None


def test_of_large_movements_some_are_left_out(monkeypatch):
    features = walk(lambda rng: rng.normal(size=(len(GROUPS), WIDTH)))
    whole = noise_of(features)
    monkeypatch.setattr(sample_noise, "LARGEST_BYTES", whole.movements.nbytes // 3)
    found = noise_of(features)
    assert found.movements.nbytes <= whole.movements.nbytes // 3
    assert len(found.first) == len(whole.first)
