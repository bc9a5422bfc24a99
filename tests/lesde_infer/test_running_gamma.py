"""The quick estimate of γ: against the truth of simulated runs, step by step against at once, and what it refuses."""

import numpy as np
import pytest

from data_tools.errors import InputError
from data_tools.recording import Recording
from data_tools.recording_writer import write_recording
from lesde_infer.running_gamma import FEWEST_INTERVALS, RunningGamma
from lesde_infer.simulation import simulate

GAMMA = 1.2e-2


def simulated(path, seed, *, every=20, n_intervals=100, alpha=GAMMA, scale=3e-3):
    simulate(
        path,
        n_classes=3,
        samples_per_class=20,
        steps=np.arange(n_intervals + 1) * every,
        alpha=alpha,
        beta=0.0,
        kappa=0.0,
        global_scale=2e-3,
        class_scale=scale,
        individual_scale=2e-3,
        impact="R",
        dof=6.0,
        seed=seed,
    ).close()
    return path


def estimated(path):
    with Recording(path) as recording:
        running = RunningGamma(recording.choose_layer(None))
        running.update(recording)
    return running.estimate()


def test_intervals_hold_the_truth_as_often_as_they_say(tmp_path):
    """90 % intervals of 60 runs hold it in 47 to 60, beyond which chance goes once in a thousand."""
    found = [estimated(simulated(tmp_path / f"{seed}.h5", seed)) for seed in range(60)]
    assert all(own.n_intervals >= FEWEST_INTERVALS for own in found)
    assert sum(own.q05 <= GAMMA <= own.q95 for own in found) >= 47
    means, widths = (np.array(column) for column in zip(*((own.mean, own.q95 - own.q05) for own in found), strict=True))
    assert np.mean(means) == pytest.approx(GAMMA, abs=4.0 * np.std(means) / np.sqrt(60))
    assert np.median(widths) < 6.0 * np.std(means)  # nor are they wide beyond use


def test_residuals_that_relax_within_an_interval_do_not_bias_it(tmp_path):
    """With little noise and long intervals the plain ratio of sums is too small; the estimate is not."""
    path = simulated(tmp_path / "run.h5", 0, every=400, n_intervals=60, alpha=4e-3, scale=1e-4)
    found = estimated(path)
    assert found.mean == pytest.approx(4e-3, rel=0.1)


def test_what_was_added_is_added(tmp_path, monkeypatch):
    """Looked at every few records it is what one look at all of them gives, and each record is read once."""
    path = simulated(tmp_path / "run.h5", 1)
    at_once = estimated(path)
    with Recording(path) as whole:
        running = RunningGamma(whole.choose_layer(None))
        for n_records in (1, 2, 30, 31, 101):
            part = write_recording(
                tmp_path / f"{n_records}.h5",
                whole.steps[:n_records],
                whole.labels,
                {name: whole.features(name)[:n_records] for name in whole.layers},
                logits=whole.logits,
            )
            with Recording(part) as recording:
                running.update(recording)
            assert running.n_records == n_records
    assert running.estimate() == at_once
    with Recording(path) as recording:
        monkeypatch.setattr("lesde_infer.snapshots.SnapshotReader.read", None)
        running.update(recording)


def test_too_little_gives_no_number(tmp_path):
    path = simulated(tmp_path / "run.h5", 2, n_intervals=FEWEST_INTERVALS - 1)
    assert estimated(path) is None
    still = write_recording(
        tmp_path / "still.h5", range(20), np.repeat([0, 1], 4), {"out": np.zeros((20, 8, 2))}, logits="out"
    )
    found = estimated(still)  # residuals push, and nothing moves
    assert found is None or found.mean == pytest.approx(0.0, abs=1e-12)


def test_without_logits_it_is_refused(tmp_path):
    path = write_recording(tmp_path / "run.h5", range(20), np.repeat([0, 1], 4), {"out": np.zeros((20, 8, 5))})
    with Recording(path) as recording, pytest.raises(InputError):
        RunningGamma("out").update(recording)
