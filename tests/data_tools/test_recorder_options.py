"""When is recorded, in which type, how much room that takes, and what happens when there is none."""

import logging
import shutil
from collections import namedtuple

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from data_tools import ElasticityMeasurement, FeatureRecorder, InputError, Recording
from data_tools.record_taking import class_states
from data_tools.recording_layout import LayerLayout, RecordingLayout, projected_bytes, records_within
from data_tools.schedules import AdaptiveSchedule, EverySteps, LogarithmicSchedule

LABELS = np.repeat([0, 1, 2], 4)
Usage = namedtuple("Usage", "total used free")


def images():
    return torch.randn(LABELS.size, 6, generator=torch.Generator().manual_seed(0))


def network():
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))


def train(recorder, model, n_steps, lr=0.5, scale=None):
    """Train on the whole probe; from a step on multiply what goes into the last layer."""
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    x, y = images(), torch.as_tensor(LABELS)
    for step in range(1, n_steps + 1):
        optimizer.zero_grad()
        functional.cross_entropy(model(x), y).backward()
        optimizer.step()
        if scale is not None and step == scale[0]:
            with torch.no_grad():
                model[0].weight.mul_(scale[1])
                model[0].bias.mul_(scale[1])
        recorder.step()


def make(path, model, layers=("1", "2"), **options):
    return FeatureRecorder(path, model, probe=(images(), LABELS), layers=list(layers), **options)


def record(path, n_steps, **options):
    model = network()
    with make(path, model, **options) as recorder:
        train(recorder, model, n_steps)
    return Recording(path)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run.h5"


@pytest.mark.parametrize("background", [True, False])
def test_background_writing_changes_nothing_in_the_file(tmp_path, background):
    with record(tmp_path / "a.h5", 30, every=3, background=background) as recording:
        np.testing.assert_array_equal(recording.steps, [s for s in range(31) if s % 3 < 2])
        torch_logits = recording.features("2")[:]
    with record(tmp_path / "b.h5", 30, every=3, background=not background) as recording:
        np.testing.assert_array_equal(recording.features("2")[:], torch_logits)


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")  # of Python 3.12 on; the subject of the test
def test_loaders_may_fork_while_it_writes(path):
    model = network()
    data = torch.utils.data.TensorDataset(images(), torch.as_tensor(LABELS))
    with make(path, model, every=1, burst=1) as recorder:
        for _ in range(4):
            for _ in torch.utils.data.DataLoader(data, batch_size=4, num_workers=1, multiprocessing_context="fork"):
                recorder.step()
    with Recording(path) as recording:
        np.testing.assert_array_equal(recording.steps, np.arange(13))


@pytest.mark.parametrize(
    ("schedule", "steps", "described"),
    [
        (EverySteps(10, 2, start=5), [0, 5, 6, 15, 16], "EverySteps(every=10, burst=2, start=5)"),
        (LogarithmicSchedule(1, 2), [0, 1, 2, 10, 11], "LogarithmicSchedule(per_decade=1, burst=2, largest_gap=None)"),
        (lambda step: step in (3, 17), [0, 3, 17], "<lambda>"),
        (np.arange(40).__contains__, list(range(21)), "__contains__"),
    ],
)
def test_schedules(path, schedule, steps, described):
    with record(path, 20, schedule=schedule, planned_steps=20) as recording:
        np.testing.assert_array_equal(recording.steps, steps)
        assert described in recording.provenance["schedule"]
        assert "every" not in recording.provenance


@pytest.mark.parametrize("layers", [("1", "2"), ("1",)])
def test_the_adaptive_schedule_follows_from_the_records(path, layers):
    schedule = AdaptiveSchedule(target=0.1, least=2, most=40, burst=2)
    with record(path, 300, schedule=schedule, layers=layers) as recording:
        course = schedule.begin(None, None)
        for number, step in enumerate(recording.steps):
            assert course.is_due(int(step))
            features = {layer: recording.features(layer)[number] for layer in layers}
            course.observe(int(step), class_states(features, recording.logits, LABELS))
            later = recording.steps[number + 1] if number + 1 < recording.n_records else 301
            assert not any(course.is_due(between) for between in range(int(step) + 1, int(later)))
        starts = recording.steps[::2]
        assert recording.n_records > 20
        assert np.diff(starts)[-1] > 2 * np.diff(starts).min()


def test_class_states_of_known_features():
    logits = np.array([[0.0, 0.0], [np.log(3), 0.0], [0.0, 0.0]])
    found = class_states({"x": np.zeros((3, 4)), "y": logits}, "y", np.array([0, 0, 1]))
    np.testing.assert_allclose(found, [[(0.5 + 0.25) / 2, -(0.5 + 0.25) / 2], [-0.5, 0.5]])
    # Three logits, two classes with samples.
    assert class_states({"y": np.zeros((3, 3))}, "y", np.array([0, 0, 2])).shape == (2, 3)
    features = np.array([[1.0, 0], [3, 0], [6, 6]])
    found = class_states({"x": np.ones((3, 1)), "y": features}, None, np.array([0, 0, 2]))
    np.testing.assert_allclose(found, [[-2, -3], [2, 3]])


def test_a_bound_on_the_file_holds(path):
    schedule = AdaptiveSchedule(target=0.01, least=2, most=500, burst=2, max_bytes=60_000)
    with record(path, 400, schedule=schedule, planned_steps=400) as recording:
        assert recording.steps[-1] > 390 - 500
        n_records = recording.n_records
    assert path.stat().st_size <= 60_000
    layout = RecordingLayout(
        LABELS,
        LABELS,
        {"1": LayerLayout(8), "2": LayerLayout(3)},
        logits="2",
        classifier_width=8,
        classifier_layer="1",
        scalars=("loss", "accuracy"),
    )
    most = records_within(layout, 60_000)
    assert most - 2 < n_records <= most
    with pytest.raises(InputError, match="max_bytes=9000 leave room for"):
        record(path, 5, schedule=AdaptiveSchedule(max_bytes=9_000), force=True)


def test_a_time_budget_leaves_records_out(path):
    with record(path, 60, every=2, time_budget=1e-9) as recording:
        np.testing.assert_array_equal(recording.steps, [0, 1])  # the first burst has started
        assert recording.provenance["time_budget"] == 1e-9


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_features_are_rounded_as_told(tmp_path, dtype):
    with (
        record(tmp_path / "a.h5", 20, every=5, dtype=dtype) as rounded,
        record(tmp_path / "b.h5", 20, every=5) as exact,
    ):
        for layer in ("1", "2"):
            assert rounded.features(layer).dtype == dtype
            np.testing.assert_array_equal(rounded.features(layer)[:], exact.features(layer)[:].astype(dtype))
            if dtype == "float16":
                large = np.abs(exact.features(layer)[:]) > 2.0**-14
                error = np.abs(rounded.features(layer)[:][large] / exact.features(layer)[:][large] - 1)
                assert 0 < error.max() <= 2.0**-11
        # Numbers and weights are of the network, not of what is stored.
        np.testing.assert_array_equal(rounded.scalars["loss"], exact.scalars["loss"])
        assert rounded.classifier.weight.dtype == np.float32


def test_double_precision_can_be_narrowed(path):
    model = network().double()
    with FeatureRecorder(path, model, probe=(images().double(), LABELS), layers=["2"], dtype="float32"):
        pass
    with Recording(path) as recording:
        assert recording.features("2").dtype == np.float32


def test_large_features_stay_in_single_precision(path, caplog):
    model = network()
    with torch.no_grad():
        model[0].weight.mul_(10_000)
        model[2].weight.mul_(1e-5)
    with make(path, model, dtype="float16"):
        pass
    with Recording(path) as recording:
        assert recording.features("1").dtype == np.float32
        assert recording.features("2").dtype == np.float16
    assert "layer 1 reaches" in caplog.text


@pytest.mark.parametrize("background", [True, False])
def test_overflow_stops_recording_but_not_training(path, background):
    model = network()
    message = r"training goes on: .*step 6: layer 1 reaches \d.*, but float16 ends at 65,504; record it in a wider type"
    with make(path, model, every=2, dtype="float16", background=background) as recorder:
        with pytest.warns(UserWarning, match=message) as warned:
            train(recorder, model, 12, scale=(6, 1e8))
        assert len(warned) == 1
        assert recorder.n_steps == 12
    with Recording(path) as recording:
        np.testing.assert_array_equal(recording.steps, np.arange(6))
        assert np.isfinite(recording.features("1")[:]).all()


def test_overflow_can_be_raised(path):
    model = network()
    with (
        pytest.raises(InputError, match="layer 1 reaches"),
        make(path, model, every=2, dtype="float16", on_error="raise") as recorder,
    ):
        train(recorder, model, 12, scale=(6, 1e8))
    with Recording(path) as recording:
        np.testing.assert_array_equal(recording.steps, np.arange(6))


def test_features_that_are_infinite_already_are_no_overflow(path):
    model = network()
    with make(path, model, every=2, dtype="float16") as recorder:
        train(recorder, model, 4)
        with torch.no_grad():
            model[0].bias.fill_(float("inf"))
        recorder.step()
    with Recording(path) as recording:
        assert np.isinf(recording.features("1")[-1]).all()


@pytest.fixture
def full_disk(monkeypatch):
    """Return a function that leaves so much room on the disk."""

    def leave(free):
        monkeypatch.setattr(shutil, "disk_usage", lambda folder: Usage(2**40, 2**40 - free, free))

    return leave


@pytest.mark.parametrize("background", [True, False])
def test_a_full_disk_stops_recording_but_not_training(path, full_disk, background):
    model = network()
    with make(path, model, every=2, background=background) as recorder:
        train(recorder, model, 5)
        recorder.flush()
        full_disk(0)

        def go_on():
            train(recorder, model, 7)
            recorder.flush()

        with pytest.warns(UserWarning, match="training goes on: .*the disk is full; what was recorded") as warned:
            go_on()
        assert len(warned) == 1
        full_disk(2**40)
        train(recorder, model, 3)  # nothing comes behind a gap
    with Recording(path) as recording:
        np.testing.assert_array_equal(recording.steps, np.arange(6))
        assert "closed" in recording.provenance


def train_until_full(recorder, full_disk, model):
    """Take six records, and one more when the disk is full, which a thread may notice later."""
    train(recorder, model, 5)
    recorder.flush()
    full_disk(0)
    train(recorder, model, 1)


@pytest.mark.parametrize("background", [True, False])
def test_a_full_disk_can_be_an_error(path, full_disk, background):
    model = network()
    recorder = make(path, model, every=2, background=background, on_error="raise")

    def run():
        with recorder:
            train_until_full(recorder, full_disk, model)

    with pytest.raises(InputError, match="the disk is full"):
        run()
    with Recording(path) as recording:
        np.testing.assert_array_equal(recording.steps, np.arange(6))


def test_an_error_of_the_training_is_not_replaced(path, full_disk):
    model = network()
    recorder = make(path, model, every=2, on_error="raise")

    def run():
        with recorder:
            train_until_full(recorder, full_disk, model)
            raise KeyboardInterrupt

    with pytest.warns(UserWarning, match="the disk is full"), pytest.raises(KeyboardInterrupt):
        run()
    with Recording(path) as recording:
        np.testing.assert_array_equal(recording.steps, np.arange(6))


def test_the_size_is_projected_and_logged(path, caplog):
    with caplog.at_level(logging.INFO), record(path, 200, every=4, planned_steps=200):
        pass
    assert "101 records of" in caplog.text


def test_too_little_room_is_told_before_training(path, full_disk):
    model = network()
    full_disk(16 * 2**20 + 200_000)
    with pytest.warns(UserWarning, match=r"the recording takes .* MiB, but the disk has room for 195 KiB"):
        make(path, model, every=2, planned_steps=10_000).__enter__()
    full_disk(16 * 2**20)
    with pytest.raises(InputError, match=r"10 records take .* KiB, but the disk has room for 0 B"):
        make(path, model).__enter__()
    assert not path.exists()


@pytest.mark.parametrize("measured", [False, True])
@pytest.mark.parametrize("n_samples", [4, 100, 301])
def test_projections_are_right(path, n_samples, measured):
    labels = np.arange(2 * n_samples) % 2
    x = torch.randn(2 * n_samples, 6, generator=torch.Generator().manual_seed(0))
    model = nn.Sequential(nn.Linear(6, 1100), nn.ReLU(), nn.Linear(1100, 2))
    options, n_measurements = {}, 0
    if measured:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        options = {
            "elasticity": ElasticityMeasurement(optimizer, (x, labels), 6, repeats=2, tangent=False),
            "measure_elasticity_every": 10,
        }
        n_measurements = 3
    with FeatureRecorder(path, model, probe=(x, labels), layers=["1", "2"], every=4, **options) as recorder:
        for _ in range(20):
            recorder.step(lr=0.1)
        layout = recorder._writer.layout
    with Recording(path) as recording:
        n_records = recording.n_records
    projected, actual = projected_bytes(layout, n_records, n_measurements), path.stat().st_size
    assert abs(projected - actual) < 0.01 * actual + 20_000
    assert projected_bytes(layout, records_within(layout, actual)) <= actual
    assert projected_bytes(layout, records_within(layout, actual) + 1) > actual


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"schedule": EverySteps(), "every": 3}, "schedule is given as well as every or burst"),
        ({"schedule": EverySteps(), "burst": 1}, "schedule is given as well as every or burst"),
        ({"every": 0}, "every=0 and burst=2"),
        ({"schedule": EverySteps(5, 1, start=50), "planned_steps": 40}, "none of the planned 40 steps but step 0"),
        ({"schedule": "every"}, "is neither a function of the step"),
        ({"time_budget": 2}, "time_budget=2"),
        ({"dtype": "bfloat16"}, "dtype='bfloat16': choose one of float16, float32, float64"),
        ({"on_error": "ignore"}, "on_error='ignore': choose one of warn, raise"),
        ({"resume": True, "force": True}, "give one of them"),
        ({"resume_at": 3}, "together with resume=True"),
        ({"resume": True, "resume_at": -1}, "from 0 on"),
    ],
)
def test_options_that_cannot_be(path, options, message):
    with pytest.raises(InputError, match=message):
        make(path, network(), **options)
