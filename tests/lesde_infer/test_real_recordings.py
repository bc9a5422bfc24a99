"""Verdicts on real trainings: LeNet on GeoMNIST with none, half, two thirds and four fifths of the labels corrupted."""

import numpy as np
import pytest

from lesde_infer.inference import fit

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("real")]


def late_gamma(result):
    """Posterior quantiles of γ, averaged over the last third of the record."""
    time = result.posterior["time"]
    late = result.posterior["gamma"].isel(time=np.flatnonzero(time > 2 / 3 * time[-1])).mean("time")
    return np.quantile(late, [0.05, 0.5, 0.95])


def flag_names(result):
    return {flag.name for flag in result.flags}


def test_clean_labels_are_elastic_and_separate(real_recording_file):
    result = fit(real_recording_file("geomnist_p0.0"))
    verdict = result.verdict()
    assert verdict.probability_gamma_positive > 0.99
    assert verdict.probability_separable >= 0.95
    assert 1.0 <= late_gamma(result)[1] <= 2.2


def test_labels_that_say_nothing_leave_nothing_to_infer(real_recording_file):
    result = fit(real_recording_file("geomnist_p0.67"))
    assert result.verdict().probability_separable <= 0.2
    assert "gamma_not_identified" in flag_names(result)


def test_by_given_labels_two_thirds_of_corruption_is_no_elasticity(real_recording_file):
    result = fit(real_recording_file("geomnist_p0.67"), group="given_labels")
    low, _, high = late_gamma(result)
    assert -1e-6 < low < 5e-7
    assert -5e-7 < high < 1e-6
    assert "gamma_not_identified" not in flag_names(result)


@pytest.mark.parametrize("name", ["geomnist_p0.5", "geomnist_p0.8"])
@pytest.mark.parametrize("group", ["labels", "given_labels"])
def test_intermediate_corruption_converges(real_recording_file, name, group):
    assert fit(real_recording_file(name), group=group).diagnostics().converged
