"""The error of sampling the probe, against the scatter over random labels, and what the verdict makes of it."""

import numpy as np
import pytest
from scipy import stats

from data_tools import Recording, write_recording
from lesde_infer.probe_sampling import EndSampling, end_intervals, moved_along
from lesde_infer.statistics import compute_statistics

K, PER_CLASS, INTERVALS = 3, 40, 6
LABELS = np.arange(K * PER_CLASS) % K
IMPACT = np.array([[2.0, -1.0, -1.0], [-1.0, 2.5, -1.5], [-1.0, -1.5, 2.5]]) / 3.0


def added(changes, groups, lengths):
    sampling = EndSampling(groups, K)
    for change, length in zip(changes, lengths, strict=True):
        sampling.add(moved_along(np.zeros_like(change), change, IMPACT, groups), float((IMPACT**2).sum()), length)
    return sampling


def steady_drifts(seed):
    """Every sample drifts by itself, the same in all intervals: labels know nothing of it."""
    own = np.random.default_rng(seed).normal(size=(K * PER_CLASS, K)) @ np.diag([1.0, 0.3, 2.0])
    return np.stack([own] * INTERVALS)


def test_the_error_is_the_scatter_of_the_rate_over_random_labels():
    changes, lengths = steady_drifts(0), np.full(INTERVALS, 5.0)
    rng = np.random.default_rng(1)
    runs = [added(changes, rng.permutation(LABELS), lengths) for _ in range(2000)]
    rates, errors = np.array([run.rate for run in runs]), np.array([run.error for run in runs])
    assert errors.mean() == pytest.approx(rates.std(), rel=0.06)  # four standard errors of a standard deviation
    assert stats.kstest(rates / errors, "norm").pvalue > 1e-3


def test_a_rate_that_all_samples_follow_has_no_error():
    gamma, length = 0.3, 5.0
    changes = np.stack([gamma * length / K * IMPACT[LABELS]] * INTERVALS)
    sampling = added(changes, LABELS, np.full(INTERVALS, length))
    assert sampling.rate == pytest.approx(gamma, rel=1e-12)
    assert sampling.error == pytest.approx(0.0, abs=1e-12)


def test_steady_drifts_do_not_average_out_over_intervals_but_noise_does():
    steady = steady_drifts(2)
    noise = np.random.default_rng(3).normal(size=(100, *steady[0].shape))
    error_of_one = added(steady[:1], LABELS, np.ones(1)).error
    assert added(steady, LABELS, np.ones(INTERVALS)).error == pytest.approx(error_of_one, rel=1e-12)
    shrunk = added(noise, LABELS, np.ones(100)).error / added(noise[:1], LABELS, np.ones(1)).error
    assert 0.06 < shrunk < 0.16  # 1/√100


def test_without_an_impact_there_is_neither_rate_nor_error():
    sampling = EndSampling(LABELS, K)
    change = steady_drifts(4)[0]
    sampling.add(moved_along(np.zeros_like(change), change, np.zeros((K, K)), LABELS), 0.0, 1.0)
    assert (sampling.rate, sampling.error) == (0.0, 0.0)


def test_the_end_is_the_last_tenth_of_the_record():
    midpoints = np.array([0.0, 50.0, 89.0, 91.0, 100.0])
    np.testing.assert_array_equal(end_intervals(midpoints), [False, False, False, True, True])


@pytest.mark.parametrize("impact", ["R", "I", "L"])
def test_statistics_hold_the_error_of_the_last_tenth(tmp_path, impact):
    rng = np.random.default_rng(5)
    features = np.cumsum(rng.normal(size=(41, K * PER_CLASS, K)), axis=0) + 3.0 * np.eye(K)[LABELS]
    paths = [tmp_path / "run.h5", tmp_path / "other_unit.h5"]
    steps = np.arange(0, 41 * 5, 5)
    for path, unit in zip(paths, (1.0, 0.01), strict=True):
        write_recording(path, steps, LABELS, {"logits": features}, logits="logits", time=unit * steps)
    found = []
    for path in paths:
        with Recording(path) as recording:
            found.append(compute_statistics(recording, "logits", impact))
    own, last = found[0], np.flatnonzero(end_intervals(found[0].midpoints))
    assert 3 <= len(last) <= 5
    if impact != "R":  # by the definitions: h is the class mean, or its part along the vertex of its class
        means = np.stack([features[:, k == LABELS].mean(axis=1) for k in range(K)], axis=1)[last]
        vertices = np.eye(K) - 1.0 / K
        vertices /= np.linalg.norm(vertices, axis=1, keepdims=True)
        h = means if impact == "I" else (means * vertices).sum(axis=2, keepdims=True) * vertices
        h = h - h.mean(axis=1, keepdims=True)
        moved = np.einsum("tif,tif->i", np.diff(features, axis=0)[last], h[:, LABELS])
        variance = sum(moved[k == LABELS].var(ddof=1) / PER_CLASS for k in range(K))
        expected = np.sqrt(variance) / (own.lengths[last] @ (h**2).sum(axis=(1, 2)) / K)
        assert own.gamma_sampling_error == pytest.approx(expected, rel=1e-6)
    assert own.gamma_sampling_error > 0
    assert found[1].gamma_sampling_error == pytest.approx(100.0 * own.gamma_sampling_error, rel=1e-9)
