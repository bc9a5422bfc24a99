"""Experiments are reproducible, learn what can be learned, and leave readable files when cut short."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from data_tools import InputError, Recording
from data_tools.experiments import ExperimentConfig, run_experiment
from data_tools.schedules import LogarithmicSchedule

TINY = ExperimentConfig(
    dataset="digits",
    architecture="mlp",
    steps=60,
    every=20,
    batch_size=8,
    lr=0.1,
    train_per_class=20,
    probe_per_class=5,
    validation_per_class=5,
    n_classes=3,
)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run.h5"


def test_a_run_records_what_it_says(path):
    seen = []
    assert run_experiment(TINY, path, progress=lambda done, total: seen.append((done, total))) == path
    assert seen == [(20, 60), (40, 60), (60, 60)]
    with Recording(path) as recording:
        np.testing.assert_array_equal(recording.steps, [0, 1, 20, 21, 40, 41, 60])
        assert recording.layers == ["fc2", "fc3"]
        assert recording.features("fc2").shape == (7, 15, 64)
        assert (recording.logits, recording.classifier.layer) == ("fc3", "fc2")
        np.testing.assert_array_equal(np.bincount(recording.labels), [5, 5, 5])
        np.testing.assert_array_equal(recording.labels, recording.given_labels)
        assert set(recording.scalars) == {"loss", "accuracy", "validation_loss", "validation_accuracy"}
        assert recording.scalars["loss"][-1] < 0.5 * recording.scalars["loss"][0]
        assert recording.scalars["validation_accuracy"][-1] > 0.8
        # Validated once per burst.
        assert recording.scalars["validation_loss"][2] == recording.scalars["validation_loss"][3]
        assert recording.scalars["validation_loss"][2] != recording.scalars["validation_loss"][4]
        for name in ("lr", "momentum", "batch_size", "label_noise", "seed", "dataset", "architecture"):
            assert recording.provenance[name] == getattr(TINY, name)
        assert recording.provenance["optimizer"] == "SGD"


def test_equal_configurations_give_equal_recordings_whatever_the_global_state(tmp_path):
    features = []
    for number, config in enumerate((TINY, TINY, replace(TINY, seed=1))):
        torch.manual_seed(number)
        with Recording(run_experiment(config, tmp_path / f"{number}.h5")) as recording:
            features.append(recording.features("fc3")[:])
    np.testing.assert_array_equal(features[0], features[1])
    assert not np.array_equal(features[0], features[2])


def test_label_noise_reaches_the_probe(path):
    run_experiment(replace(TINY, label_noise=0.5, probe_per_class=20, steps=2), path)
    with Recording(path) as recording:
        differs = recording.labels != recording.given_labels
        assert [differs[recording.labels == class_].sum() for class_ in range(3)] == [10, 10, 10]


def test_double_precision(path):
    run_experiment(replace(TINY, dtype="float64", architecture="linear", steps=2), path)
    with Recording(path) as recording:
        assert recording.layers == ["fc3"]
        assert recording.features("fc3").dtype == np.float64


def test_geomnist_lenet_runs(path):
    config = ExperimentConfig(steps=12, every=5, train_per_class=10, probe_per_class=4, validation_per_class=4)
    run_experiment(config, path)
    with Recording(path) as recording:
        assert recording.features("fc2").shape == (6, 12, 84)


def test_an_interrupted_run_stays_readable_and_threads_are_restored(path):
    threads = torch.get_num_threads()

    def interrupt(done, _total):
        if done == 40:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_experiment(TINY, path, progress=interrupt)
    assert torch.get_num_threads() == threads
    with Recording(path) as recording:
        np.testing.assert_array_equal(recording.steps, [0, 1, 20, 21, 40])


def test_other_schedules(path):
    log = replace(TINY, steps=120, schedule="logarithmic", per_decade=5.0, stored_dtype="float16")
    with Recording(run_experiment(log, path)) as recording:
        assert recording.steps.tolist() == [step for step in range(121) if LogarithmicSchedule(5.0, 2)(step)]
        assert recording.features("fc3").dtype == np.float16
        loss = recording.scalars["validation_loss"]
        starts = np.diff(recording.steps, prepend=-2) > 1
        changed = np.diff(loss, prepend=np.nan) != 0
        # Evaluated where a burst begins; while they run into one another, every `every` steps.
        assert changed[starts].all()
        assert np.count_nonzero(changed & ~starts) <= recording.steps[~starts].max() // log.every
        assert (recording.provenance["schedule"], recording.provenance["per_decade"]) == ("logarithmic", 5.0)
    adaptive = replace(TINY, steps=200, schedule="adaptive", every=5, most=50, max_bytes=300_000)
    with Recording(run_experiment(adaptive, path, force=True)) as recording:
        gaps = np.diff(recording.steps[::2])
        assert gaps.min() >= 5
        assert gaps.max() <= 50
        assert len(set(gaps.tolist())) > 2  # the interval changed as training went on
    assert path.stat().st_size <= 300_000


def test_divergence_is_reported(path):
    with pytest.raises(InputError, match=r"training diverged at step \d+; lower lr, now 1e\+30"):
        run_experiment(replace(TINY, lr=1e30), path)


def test_existing_files_are_kept_unless_forced(path):
    path.write_text("precious")
    with pytest.raises(InputError, match="exists already"):
        run_experiment(TINY, path)
    assert path.read_text() == "precious"
    run_experiment(replace(TINY, steps=1), path, force=True)
    with Recording(path) as recording:
        assert recording.n_records == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 0}, "steps is 0"),
        ({"probe_per_class": 30}, "choose from 2 to train_per_class = 20"),
        ({"lr": -1.0}, "lr is -1.0"),
        ({"lr": float("nan")}, "lr is nan"),
        ({"momentum": 1.0}, "momentum is 1.0"),
        ({"label_noise": 2.0}, "label_noise is 2.0"),
        ({"dtype": "float16"}, "choose float32 or float64"),
        ({"schedule": "sometimes"}, "schedule is 'sometimes'; choose one of every, logarithmic, adaptive"),
        ({"every": 1, "burst": 2}, "a burst has at least one step and fits into `every`"),
        ({"schedule": "logarithmic", "per_decade": 0.5}, "per_decade=0.5"),
        ({"schedule": "adaptive", "target": 0.0}, "target=0.0"),
        ({"schedule": "adaptive", "most": 10}, "every=20 and most=10: bursts of an adaptive schedule"),
    ],
)
def test_configurations_that_cannot_be(change, message):
    with pytest.raises(InputError, match=message):
        replace(TINY, **change)
