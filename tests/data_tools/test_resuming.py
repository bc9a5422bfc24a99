"""A training that is broken off and resumed leaves the recording of one that was not."""

import copy
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from data_tools import ElasticityMeasurement, FeatureRecorder, InputError, Recording
from data_tools.schedules import AdaptiveSchedule, LogarithmicSchedule

LABELS = np.repeat([0, 1, 2], 4)
GIVEN = np.roll(LABELS, 1)


def images(seed=0):
    return torch.randn(LABELS.size, 6, generator=torch.Generator().manual_seed(seed))


class Training:
    """A training with everything that a checkpoint has to hold."""

    def __init__(self, width=8):
        torch.manual_seed(3)
        self.model = nn.Sequential(
            nn.Linear(6, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Dropout(0.4), nn.Linear(width, 3)
        )
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1, momentum=0.9)
        self.n_steps = 0

    def recorder(self, path, **options):
        return FeatureRecorder(
            path, self.model, **{"probe": (images(), LABELS), "layers": ["0", "2", "4"], "every": 5, **options}
        )

    def run(self, until, recorder, checkpoint_every=7):
        """Train; return the last checkpoint on the way, before which everything is on disk."""
        checkpoint, x, y = None, images(), torch.as_tensor(LABELS)
        while self.n_steps < until:
            chosen = torch.randperm(len(x))[:6]
            self.optimizer.zero_grad()
            loss = functional.cross_entropy(self.model(x[chosen]), y[chosen])
            loss.backward()
            self.optimizer.step()
            self.n_steps += 1
            recorder.step(batch_loss=loss.item())
            if self.n_steps % checkpoint_every == 0:
                recorder.flush()
                state = {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}
                checkpoint = copy.deepcopy({**state, "random": torch.get_rng_state(), "n_steps": self.n_steps})
        return checkpoint

    def restore(self, checkpoint):
        self.model.load_state_dict(checkpoint["model"])
        self.optimizer.load_state_dict(checkpoint["optimizer"])
        torch.set_rng_state(checkpoint["random"])
        self.n_steps = checkpoint["n_steps"]


def datasets(path):
    """Return every dataset of a file by name."""
    found = {}
    with h5py.File(path) as file:
        file.visititems(lambda name, node: found.update({name: node[()]} if isinstance(node, h5py.Dataset) else {}))
    return found


def assert_equal_files(one, other):
    first, second = datasets(one), datasets(other)
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert value.dtype == second[name].dtype, name
        np.testing.assert_array_equal(value, second[name], err_msg=name)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run.h5"


def broken_off(path, until, options):
    """Train until it is broken off; return the last checkpoint."""
    training = Training()
    torch.manual_seed(0)
    checkpoint = None

    def train():
        nonlocal checkpoint
        with training.recorder(path, resume=True, **options(training)) as recorder:
            checkpoint = training.run(until, recorder)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train()
    return checkpoint


def plain(_training):
    return {}


def adaptive(_training):
    return {"every": None, "schedule": AdaptiveSchedule(target=0.2, least=3, most=12), "dtype": "float16"}


def bounded(_training):
    schedule = AdaptiveSchedule(target=0.05, least=2, most=20, max_records=14)
    return {"every": None, "schedule": schedule, "planned_steps": 50, "layers": ["0", "2"]}


def logarithmic(_training):
    return {"every": None, "schedule": LogarithmicSchedule(10, 2, 20), "background": False}


def measured(training):
    settings = {"repeats": 2, "labels": LABELS, "similarity_per_class": 2}
    elasticity = ElasticityMeasurement(training.optimizer, (images(), GIVEN), 6, **settings)
    return {"elasticity": elasticity, "measure_elasticity_every": 4, "given_labels": GIVEN}


@pytest.mark.parametrize("options", [plain, adaptive, bounded, logarithmic, measured])
def test_a_resumed_recording_equals_an_uninterrupted_one(tmp_path, path, options):
    whole = Training()
    torch.manual_seed(0)
    with whole.recorder(tmp_path / "whole.h5", **options(whole)) as recorder:
        whole.run(50, recorder)

    checkpoint = broken_off(path, 26, options)
    for until in (40, 50):  # broken off once more
        again = Training()
        again.restore(checkpoint)
        resume = {"resume": True, "resume_at": again.n_steps}
        with again.recorder(path, **resume, **options(again)) as recorder:
            checkpoint = again.run(until, recorder)
            assert recorder.n_steps == until
    assert_equal_files(tmp_path / "whole.h5", path)
    with Recording(path) as recording, Recording(tmp_path / "whole.h5") as uninterrupted:
        assert recording.provenance["resumed_at"] == "21, 35"
        assert recording.layers == uninterrupted.layers
        assert recording.n_records > 8
    assert [entry.name for entry in sorted(tmp_path.iterdir())] == ["run.h5", "whole.h5"]


KILLED = """
import sys
sys.path.insert(0, sys.argv[2])
import os, torch
from test_resuming import Training

training = Training()
torch.manual_seed(0)
with training.recorder(sys.argv[1], resume=True) as recorder:
    checkpoint = training.run(23, recorder)
    torch.save(checkpoint, sys.argv[1] + ".checkpoint")
    training.run(33, recorder, checkpoint_every=100)
    os.kill(os.getpid(), 9)
"""


def test_a_killed_training_can_be_resumed(tmp_path, path):
    whole = Training()
    torch.manual_seed(0)
    with whole.recorder(tmp_path / "whole.h5") as recorder:
        whole.run(50, recorder)
    killed = subprocess.run([sys.executable, "-c", KILLED, path, Path(__file__).parent], check=False)
    assert killed.returncode == -9
    again = Training()
    again.restore(torch.load(f"{path}.checkpoint"))
    with again.recorder(path, resume=True, resume_at=again.n_steps) as recorder:
        again.run(50, recorder)
    assert again.n_steps == 50
    assert_equal_files(tmp_path / "whole.h5", path)


def test_a_training_that_starts_anew_starts_its_recording_anew(tmp_path, path):
    for until in (12, 50):
        training = Training()
        torch.manual_seed(0)
        with training.recorder(path, resume=True, resume_at=0) as recorder:
            training.run(until, recorder)
    whole = Training()
    torch.manual_seed(0)
    with whole.recorder(tmp_path / "whole.h5") as recorder:
        whole.run(50, recorder)
    assert_equal_files(tmp_path / "whole.h5", path)


def test_without_a_recording_one_starts_at_the_checkpoint(path):
    training = Training()
    with training.recorder(path, resume=True, resume_at=12) as recorder:
        training.run(9, recorder)
    with Recording(path) as recording:
        np.testing.assert_array_equal(recording.steps, [12, 15, 16, 20, 21])
        assert "resumed_at" not in recording.provenance


def test_a_file_without_records_is_replaced(path):
    first = Training()
    with first.recorder(path, background=False) as recorder:
        recorder.step()
    with h5py.File(path, "r+") as file:
        file["committed"][()] = 0
    with Training().recorder(path, resume=True, resume_at=0) as recorder:
        recorder.step()
    with Recording(path) as recording:
        assert recording.n_records == 2


@pytest.fixture
def recorded(path):
    training = Training()
    with training.recorder(path) as recorder:
        training.run(12, recorder)
    return path


def test_a_training_that_is_complete_leaves_the_file_alone(recorded):
    before = recorded.read_bytes()
    with Training().recorder(recorded, resume=True, resume_at=12):
        pass
    assert recorded.read_bytes() == before


def test_records_that_are_missing_are_told(recorded):
    training = Training()
    with training.recorder(recorded, resume=True, resume_at=20) as recorder:
        message = r"resumed at step 20, but what was due at step 15 is missing; call recorder.flush\(\)"
        with pytest.warns(UserWarning, match=message):
            recorder.step(batch_loss=1.0)
    with Recording(recorded) as recording:
        np.testing.assert_array_equal(recording.steps, [0, 1, 5, 6, 10, 11, 21])


def other_class():
    class Other(nn.Sequential):
        pass

    training = Training()
    training.model = Other(*training.model)
    return training


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (Training, {"resume_at": None}, "give resume_at"),
        (Training, {"probe": (images(1), LABELS)}, "it differs in the probe_sha256"),
        (Training, {"probe": (images()[1:], LABELS[1:])}, "it differs in the labels"),
        (Training, {"given_labels": GIVEN}, "it differs in the given labels"),
        (Training, {"layers": ["2", "4"]}, "it differs in the layers: 0, 2, 4 then, 2, 4 now"),
        (Training, {"classifier": None}, "it differs in the classifier"),
        (Training, {"dtype": "float64"}, "it differs in the type of layer 0: float32 then, float64 now"),
        (Training, {"dtype": "float16"}, None),
        (Training, {"probe_batch_size": 5}, "it differs in the probe_batch_size: 256 then, 5 now"),
        (Training, {"class_frequencies": [0.5, 0.25, 0.25]}, "it differs in the class frequencies: None then"),
        (lambda: Training(width=9), {}, "it differs in the width of layer 0: 8 then, 9 now"),
        (other_class, {}, "it differs in the model_class: Sequential then, .*Other now"),
    ],
)
def test_recordings_of_something_else_are_not_resumed(recorded, make, options, message):
    before = recorded.read_bytes()
    if message is None:  # half precision was asked for, and single was recorded: as where features are large
        with make().recorder(recorded, **{"resume": True, "resume_at": 12, **options}):
            return
    with (
        pytest.raises(InputError, match=message),
        make().recorder(recorded, **{"resume": True, "resume_at": 12, **options}),
    ):
        pass
    assert recorded.read_bytes() == before


def test_other_scalars_are_noticed_before_anything_is_replaced(recorded):
    before = recorded.read_bytes()
    with Training().recorder(recorded, resume=True, resume_at=5) as recorder:
        with pytest.raises(InputError, match="it differs in the scalars: batch_loss"):
            recorder.step()
        assert recorded.read_bytes() == before


def test_a_measured_recording_is_resumed_with_measurements_only(path):
    training = Training()
    with training.recorder(path, **measured(training)) as recorder:
        training.run(5, recorder)
    with (
        pytest.raises(
            InputError, match=r"it differs in the measurement of elasticity: \{.*'n_repeats': 2.*\} then, None now"
        ),
        Training().recorder(path, resume=True, resume_at=5, given_labels=GIVEN),
    ):
        pass
    training = Training()
    elasticity = ElasticityMeasurement(training.optimizer, (images(), GIVEN), 6, labels=LABELS, repeats=3)
    options = {**measured(training), "elasticity": elasticity}
    with (
        pytest.raises(InputError, match="it differs in the measurement of elasticity"),
        training.recorder(path, resume=True, resume_at=5, **options),
    ):
        pass


def test_a_recording_that_starts_later_is_not_resumed_before(path):
    with Training().recorder(path, resume=True, resume_at=12) as recorder:
        recorder.step()
    with (
        pytest.raises(InputError, match="starts at step 12, so it cannot be resumed at step 5"),
        Training().recorder(path, resume=True, resume_at=5),
    ):
        pass


def test_a_recording_whose_writer_is_at_work_is_not_resumed(path):
    training = Training()
    with training.recorder(path) as recorder:
        training.run(5, recorder)
        recorder.flush()
        with (
            pytest.raises(InputError, match="is still being written; end the training that writes it"),
            Training().recorder(path, resume=True, resume_at=5),
        ):
            pass
        training.run(12, recorder)
    with Recording(path) as recording:
        assert recording.writer == "finished"
        assert recording.steps[-1] == 11  # of every fifth and the next


def test_a_copy_that_fails_leaves_the_recording(recorded, monkeypatch):
    before = recorded.read_bytes()
    with Training().recorder(recorded, resume=True, resume_at=5) as recorder:
        monkeypatch.setattr("data_tools.resuming._copy", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            recorder.step(batch_loss=0.0)
    assert recorded.read_bytes() == before
    assert list(recorded.parent.iterdir()) == [recorded]


def test_what_is_no_recording_is_not_replaced(path):
    path.write_text("precious")
    with pytest.raises(InputError, match="not an HDF5 file"):
        Training().recorder(path, resume=True, resume_at=0)
    assert path.read_text() == "precious"
