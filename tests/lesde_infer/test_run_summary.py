"""What is taken of a run: windows of γ, a prior taken out, and the step of separation."""

import numpy as np
import pytest
from compared_fits import EVERY, INTERVALS, REFERENCE, made_up_fit, separating_recording

from data_tools.recording import Recording
from lesde_infer.meta_analysis import moments
from lesde_infer.run_summary import likelihood_weights, separation_record, summarise_run


def mean_of(summary, name):
    return moments(summary.inferred[name])[0]


def test_gamma_is_averaged_where_it_is_said_to_be():
    """γ rises linearly: its value in the middle, at the end, and where the loss passes a level."""
    gamma = np.linspace(0.0, 1.0, INTERVALS)
    fit = made_up_fit(gamma, sd=1e-6)
    summary = summarise_run("run", fit, None, float(fit.times[INTERVALS // 4]))
    assert mean_of(summary, "gamma_at_half") == pytest.approx(0.5, abs=0.02)
    assert mean_of(summary, "gamma_end") == pytest.approx(0.95, abs=0.02)
    assert mean_of(summary, "gamma_at_loss") == pytest.approx(gamma[INTERVALS // 4], abs=0.06)
    assert mean_of(summary, "gamma_integral") == pytest.approx(0.5 * INTERVALS * EVERY, rel=0.01)
    assert summary.observed == {}


def test_weights_turn_a_conjugate_posterior_into_its_likelihood():
    """Prior N(0, w²), datum y ± s: posterior draws, weighted, have the mean y and the standard deviation s."""
    y, s, w = 1.5, 0.8, 1.6
    precision = 1.0 / s**2 + 1.0 / w**2
    draws = np.random.default_rng(0).normal(y / s**2 / precision, precision**-0.5, size=400_000)
    weights = likelihood_weights(draws, w)
    mean = float(weights @ draws)
    assert mean == pytest.approx(y, abs=0.03)
    assert np.sqrt(weights @ (draws - mean) ** 2) == pytest.approx(s, rel=0.03)


def test_a_posterior_that_is_mostly_prior_tells_nothing():
    rng = np.random.default_rng(0)
    assert likelihood_weights(rng.normal(0.0, 2.9, size=1000), 3.0) is None
    summary = summarise_run("run", made_up_fit(0.1, sd=2.8, prior_sd=3.0), None, None)
    assert "gamma_end" not in summary.inferred
    assert "no more" in summary.untold["gamma_end"]
    assert "tail_index" in summary.inferred


@pytest.mark.parametrize("at", [0, 1, 37, 199, 200, 333, 499])
def test_the_record_of_separation_is_found(at):
    assert separation_record(lambda record: record >= at, list(range(500))) == at


def test_what_separates_and_mixes_again_counts_from_the_last_time():
    found = separation_record(lambda record: 50 <= record < 200 or record >= 400, list(range(500)))
    assert found == 400
    assert separation_record(lambda record: record < 490, list(range(500))) is None


def test_few_records_are_all_looked_at():
    assert separation_record(lambda record: record >= 2, [0, 1, 2]) == 2
    assert separation_record(lambda record: True, [5]) == 5


def test_separation_and_collapse_are_observed(tmp_path):
    with Recording(separating_recording(tmp_path / "run.h5", separates_at=400)) as recording:
        summary = summarise_run("run", made_up_fit(0.1), recording, None)
    assert summary.observed["separation_step"] == 400
    assert summary.observed["nc1"] > 0
    with Recording(separating_recording(tmp_path / "never.h5", separates_at=10**9)) as recording:
        never = summarise_run("never", made_up_fit(0.1), recording, None)
    assert "separation_step" not in never.observed
    assert "not separable" in never.untold["separation_step"]


def test_draws_stand_on_the_scale_of_gamma():
    summary = summarise_run("run", made_up_fit(5.0 * REFERENCE, sd=0.2), None, None)
    mean, sd = moments(summary.inferred["gamma_end"])
    assert mean == pytest.approx(5.0 * REFERENCE, rel=0.05)
    assert sd == pytest.approx(0.2 * 5.0 * REFERENCE, rel=0.1)
