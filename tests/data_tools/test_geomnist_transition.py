"""The reference's finding at its two ends: LeNet separates clean GeoMNIST, and nothing at chance-level labels."""

import pytest

from data_tools import Recording
from data_tools.experiments import ExperimentConfig, run_experiment


@pytest.mark.slow
@pytest.mark.parametrize(("label_noise", "separates"), [(0.0, True), (2 / 3, False)])
def test_lenet_on_geomnist(tmp_path, label_noise, separates):
    config = ExperimentConfig(label_noise=label_noise, steps=8000, every=100)
    with Recording(run_experiment(config, tmp_path / "run.h5")) as recording:
        accuracy = recording.scalars["validation_accuracy"][-20:].mean()
    assert accuracy > 0.97 if separates else accuracy < 0.6
