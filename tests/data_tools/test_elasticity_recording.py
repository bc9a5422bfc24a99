"""What is measured of elasticity reaches the recording whole, comes back checked, and training does not notice."""

from dataclasses import replace
from functools import partial

import h5py
import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from data_tools import ElasticityMeasurement, FeatureRecorder, InputError, Recording, RecordingWriter, write_recording
from data_tools.convert import recording_from_npz
from data_tools.drift_measures import separation_rate
from data_tools.elasticity_records import DriftMeasurement, ElasticityLayout, ElasticitySettings, ElasticitySnapshot
from data_tools.experiments import ExperimentConfig, run_experiment
from data_tools.probe import Probe
from data_tools.recording_layout import LayerLayout, RecordingLayout

LABELS = np.repeat([0, 1, 2], 4)
GIVEN = np.roll(LABELS, 1)


def images(n=LABELS.size, seed=0):
    return torch.randn(n, 6, generator=torch.Generator().manual_seed(seed))


def awkward_network():
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(inplace=True), nn.Dropout(0.4), nn.Linear(8, 3, bias=False)
    )


OPTIMIZERS = {
    "sgd": partial(torch.optim.SGD, lr=0.1),
    "momentum": partial(torch.optim.SGD, lr=0.1, momentum=0.9),
    "adam": partial(torch.optim.Adam, lr=0.01),
}


def train(path, optimizer_name="momentum", n_steps=7, given=LABELS, measured=True, batch_size=6, **options):
    """Train with all that can go wrong; return the state at the end, the network and its optimizer."""
    model = awkward_network()
    optimizer = OPTIMIZERS[optimizer_name](model.parameters())
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
    x, y = images(), torch.as_tensor(given)
    if measured:
        settings = {"repeats": 3, "labels": LABELS, "similarity_per_class": 2, **options}
        options = {
            "elasticity": ElasticityMeasurement(optimizer, (x, given), batch_size, **settings),
            "measure_elasticity_every": 3,
        }
    recorder = FeatureRecorder(
        path, model, probe=(x, LABELS), layers=["0", "2", "3", "4"], every=5, given_labels=given, **options
    )
    torch.manual_seed(0)
    with recorder:
        for _ in range(n_steps):
            chosen = torch.randperm(len(x))[:6]
            optimizer.zero_grad()
            functional.cross_entropy(model(x[chosen] + 0.1 * torch.randn(6, 6)), y[chosen]).backward()
            optimizer.step()
            scheduler.step()
            recorder.step()
    gradients = {f"gradient of {name}": value.grad for name, value in model.named_parameters()}
    state = {**model.state_dict(), **gradients, "random": torch.get_rng_state()}
    for number, values in optimizer.state_dict()["state"].items():
        state |= {f"{name} {number}": value for name, value in values.items() if value is not None}
    return state, model, optimizer


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run.h5"


@pytest.mark.parametrize("optimizer_name", OPTIMIZERS)
def test_training_is_bit_identical_with_and_without_measurements(tmp_path, optimizer_name):
    with_it, *_ = train(tmp_path / "with.h5", optimizer_name)
    without, *_ = train(tmp_path / "without.h5", optimizer_name, measured=False)
    assert with_it.keys() == without.keys()
    for name, value in without.items():
        assert torch.equal(value, with_it[name]), name
    with Recording(tmp_path / "with.h5") as first, Recording(tmp_path / "without.h5") as second:
        np.testing.assert_array_equal(first.steps, second.steps)
        np.testing.assert_array_equal(first.features("4")[:], second.features("4")[:])
        assert second.elasticity("4") is None
        np.testing.assert_array_equal(first.elasticity("4").steps, [0, 3, 6])


def test_the_file_holds_what_is_measured(path):
    _, model, optimizer = train(path, n_steps=6)
    with Recording(path) as recording:
        assert recording.provenance["measure_elasticity_every"] == 3
        logits, hidden, first = (recording.elasticity(layer) for layer in ("4", "2", "0"))
        dropped = recording.elasticity("3")
        assert recording.elasticity("4", "given_labels").group == "labels"  # the same
        feeding = recording.classifier.layer
        # In evaluation mode dropout does nothing, so the layer before it counts as feeding the classifier.
        assert feeding == "2"
        again = ElasticityMeasurement(
            optimizer, (images(), LABELS), 6, repeats=3, labels=LABELS, similarity_per_class=2
        ).measure(
            model,
            Probe(images(), LABELS, None, 256),
            ["0", "2", "3", "4"],
            logits="4",
            classifier_layer="2",
            step=6,
        )
        for layer, read in (("4", logits), ("2", hidden), ("0", first), ("3", dropped)):
            measured = again.layers[layer]["labels"]
            for name in ("onestep", "tangent", "impact", "kernel", "similarity"):
                expected, stored = getattr(measured, name), getattr(read, name)
                if expected is None:
                    assert stored is None
                else:
                    assert stored.shape == (3, *expected.shape)
                    assert stored.dtype == np.float32
                    np.testing.assert_array_equal(stored[-1], expected.astype(np.float32))
        assert (first.impact, dropped.kernel) == (None, None)
        assert hidden.kernel.shape == (3, 3, 3)
        np.testing.assert_array_equal(logits.steps, [0, 3, 6])
        np.testing.assert_allclose(logits.lr, 0.1 * 0.9 ** np.array([0, 3, 6]))
        assert (logits.n_repeats, logits.batch_size, logits.optimizer, logits.momentum) == (3, 6, "SGD", 0.9)
        np.testing.assert_array_equal(logits.shares, [1])
        assert logits.onestep_kernel() is None
        assert logits.tangent_rates().shape == logits.onestep_rates().rate.shape == (3,)
        drift, error = logits.mean_drift()
        np.testing.assert_allclose(logits.onestep_rates().rate, separation_rate(drift, logits.impact[:]))
        assert error.min() > 0
        with pytest.raises(InputError, match="elasticity of layer 0 was measured without impacts"):
            first.onestep_rates()


def test_both_groupings_are_kept_where_labels_differ(path):
    train(path, given=GIVEN, layers=["4"])
    with Recording(path) as recording:
        by_label, by_given = recording.elasticity("4"), recording.elasticity("4", "given_labels")
        assert recording.elasticity("2") is None
        assert by_given.group == "given_labels"
        assert not np.array_equal(by_label.onestep[:], by_given.onestep[:])
        residual = np.eye(3)[GIVEN] - torch.softmax(torch.as_tensor(recording.features("4")[0]), dim=1).numpy()
        for measured, classes in ((by_label, LABELS), (by_given, GIVEN)):
            impact = [residual[classes == class_].mean(axis=0) for class_ in range(3)]
            np.testing.assert_allclose(measured.impact[0], impact, atol=1e-6)
        with pytest.raises(InputError, match="group is 'true'; choose labels or given_labels"):
            recording.elasticity("4", "true")
        with pytest.raises(InputError, match="layer '9' was not recorded"):
            recording.elasticity("9")


def test_at_batch_size_one_steps_are_stratified(path):
    # Batch normalisation cannot train on single samples.
    model = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-5)
    given = np.array([0, 0, 0, 0, 0, 1, 1, 1, 2, 2, 2, 2])
    elasticity = ElasticityMeasurement(optimizer, (images().double(), given), 1, repeats=60, labels=given)
    recorder = FeatureRecorder(
        path,
        model,
        probe=(images().double(), given),
        layers=["1", "2"],
        measure_elasticity_every=9,
        elasticity=elasticity,
    )
    with recorder:
        recorder.step()
    with Recording(path) as recording:
        for layer, width in (("1", 5), ("2", 3)):
            read = recording.elasticity(layer)
            assert read.onestep.shape == (1, 3, 60, 3, width)
            assert read.onestep.dtype == np.float64
            np.testing.assert_allclose(read.shares, [5 / 12, 3 / 12, 4 / 12])
            # So small a step is a tangent, and every sample is stepped on equally often.
            np.testing.assert_allclose(read.onestep_kernel(), read.kernel[:], rtol=1e-3)
            np.testing.assert_allclose(read.onestep_rates().rate, read.tangent_rates(), rtol=1e-3)


def test_hooks_that_record_do_not_record_measured_steps(path):
    model = awkward_network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    elasticity = ElasticityMeasurement(optimizer, (images(), LABELS), 6, repeats=2)
    recorder = FeatureRecorder(
        path, model, probe=(images(), LABELS), layers=["4"], measure_elasticity_every=1, elasticity=elasticity
    )
    optimizer.register_step_post_hook(lambda *_: recorder.step())
    with recorder:
        for _ in range(2):
            functional.cross_entropy(model(images()), torch.as_tensor(LABELS)).backward()
            optimizer.step()
    with Recording(path) as recording:
        np.testing.assert_array_equal(recording.elasticity("4").steps, [0, 1, 2])
        assert recording.n_records == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"measure_elasticity_every": None}, "give both measure_elasticity_every and elasticity, or neither"),
        ({"elasticity": None}, "give both measure_elasticity_every and elasticity, or neither"),
        ({"measure_elasticity_every": 0}, "measure_elasticity_every is 0; it must be at least 1"),
        ({"layers": ["2"]}, "layer '4' is to be measured but not recorded; choose from 2"),
        ({"given_labels": GIVEN}, "the kernel elasticity needs both"),
        ({"model": awkward_network()}, "no parameter of the model to train"),
    ],
)
def test_settings_that_cannot_be(path, changes, message):
    model = awkward_network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    elasticity = ElasticityMeasurement(optimizer, (images(), LABELS), 6, layers=["4"])
    options = {
        "model": model,
        "probe": (images(), LABELS),
        "layers": ["2", "4"],
        "measure_elasticity_every": 5,
        "elasticity": elasticity,
        **changes,
    }
    with pytest.raises(InputError, match=message):
        FeatureRecorder(path, **options)


SETTINGS = ElasticitySettings(np.ones(1), 2)


def snapshot(step, **changes):
    arrays = {"onestep": np.full((1, 2, 3, 4), step), "kernel": np.full((3, 3), step), **changes}
    return ElasticitySnapshot(step, 0.1, {"h": {"labels": DriftMeasurement(**arrays)}})


LAYOUT = RecordingLayout(LABELS, LABELS, {"h": LayerLayout(4)}, elasticity=ElasticityLayout.of(SETTINGS, snapshot(0)))


def test_only_committed_measurements_are_seen(path):
    with RecordingWriter(path, LAYOUT) as writer:
        writer.append(0, {"h": np.zeros((12, 4))})
        with Recording(path) as recording:
            assert recording.elasticity("h") is None
        writer.append_elasticity(snapshot(0))
        writer.append_elasticity(snapshot(8), commit=False)
        writer._file.flush()
        with Recording(path) as recording:
            np.testing.assert_array_equal(recording.elasticity("h").steps, [0])
            assert recording.n_records == 1

        class Interrupting:
            shape = (3, 3)

            def __array__(self, dtype=None, copy=None):
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            writer.append_elasticity(snapshot(9, kernel=Interrupting()))
        with Recording(path) as recording:
            assert len(recording.elasticity("h").onestep) == 1
        writer.append_elasticity(snapshot(10))
    with Recording(path) as recording:
        read = recording.elasticity("h")
        np.testing.assert_array_equal(read.steps, [0, 8, 10])
        np.testing.assert_array_equal(read.onestep[:, 0, 1, 2, 3], [0, 8, 10])
        np.testing.assert_array_equal(read.kernel[:, 1, 1], [0, 8, 10])


@pytest.mark.parametrize(
    ("second", "message"),
    [
        (snapshot(0), "record 1 is at step 0 after step 0"),
        (snapshot(1, kernel=None), "must hold the same things, but at step 1 differ: elasticity/h/kernel"),
        (snapshot(1, kernel=np.zeros((2, 3))), r"/elasticity/h/kernel has shape \(2, 3\) .* expected \(3, 3\)"),
    ],
)
def test_measurements_that_differ_are_refused(path, second, message):
    with RecordingWriter(path, LAYOUT) as writer:
        writer.append(0, {"h": np.zeros((12, 4))})
        writer.append_elasticity(snapshot(0))
        with pytest.raises(InputError, match=message):
            writer.append_elasticity(second)
        writer.append_elasticity(snapshot(2))
    with Recording(path) as recording:
        np.testing.assert_array_equal(recording.elasticity("h").steps, [0, 2])


@pytest.mark.parametrize(
    ("elasticity", "message"),
    [
        ((SETTINGS, []), "elasticity holds no measurement"),
        ((replace(SETTINGS, n_repeats=3), [snapshot(0)]), r"onestep has shape \(1, 2, 3, 4\), expected \(1, 3, "),
        (
            (SETTINGS, [snapshot(0, kernel=np.zeros((4, 4)))]),
            r"kernel has shape \(4, 4\), expected it to end on \(3, 3",
        ),
        ((SETTINGS, [snapshot(0, onestep=np.zeros((1, 2, 3, 5)))]), r"expected it to end on \(3, 4\)"),
        ((replace(SETTINGS, shares=np.ones(2) / 2), [snapshot(0, onestep=np.zeros((2, 2, 3, 4)))]), "has 2 strata"),
        ((SETTINGS, [ElasticitySnapshot(0, 0.1, {"x": snapshot(0).layers["h"]})]), "layer 'x': recorded are only h"),
    ],
)
def test_measurements_that_contradict_the_recording(path, elasticity, message):
    with pytest.raises(InputError, match=message):
        write_recording(path, [0], LABELS, {"h": np.zeros((1, 12, 4))}, elasticity=elasticity)
    assert list(path.parent.iterdir()) == []


def test_a_writer_without_elasticity_refuses_it(path):
    with RecordingWriter(path, replace(LAYOUT, elasticity=None)) as writer:
        writer.append(0, {"h": np.zeros((12, 4))})
        with pytest.raises(InputError, match="was made without elasticity"):
            writer.append_elasticity(snapshot(0))


def put(name, data):
    def edit(file):
        del file[name]
        if data is not None:
            file[name] = data

    return edit


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (put("elasticity/h/step", None), "/elasticity/h/step is missing"),
        (put("elasticity/h/step", [0.5, 1]), "step has type float64, expected whole numbers"),
        (put("elasticity/h/step", [4, 4]), "record 1 is at step 4 after step 4"),
        (put("elasticity/h/shares", [0.7]), "must be positive and sum to 1"),
        (
            put("elasticity/h/shares", [0.5, 0.5]),
            r"onestep has shape \(2, 1, 2, 3, 4\), expected \(any, 2, any, 3, 4\)",
        ),
        (put("elasticity/h/onestep", np.zeros((2, 1, 2, 3, 5))), r"expected \(any, 1, any, 3, 4\)"),
        (put("elasticity/h/onestep", np.zeros((2, 1, 2, 3, 4), int)), "expected floating-point numbers"),
        (put("elasticity/h/kernel", np.zeros((1, 3, 3))), "counts 2 measurements but /elasticity/h/kernel holds 1"),
        (put("elasticity_committed", -1), "counts -1 measurements"),
        (put("elasticity/h", 1.0), "/elasticity/h is a dataset, expected a group"),
    ],
)
def test_damaged_measurements_are_refused_but_the_recording_is_readable(path, edit, message):
    elasticity = (SETTINGS, [snapshot(0), snapshot(1)])
    write_recording(path, [0], LABELS, {"h": np.zeros((1, 12, 4))}, elasticity=elasticity)
    with h5py.File(path, "r+") as file:
        edit(file)
    with Recording(path) as recording:
        assert recording.features("h").shape == (1, 12, 4)
        with pytest.raises(InputError, match=message):
            recording.elasticity("h")


def test_links_in_measurements_are_refused(path):
    elasticity = (SETTINGS, [snapshot(0)])
    write_recording(path, [0], LABELS, {"h": np.zeros((1, 12, 4))}, elasticity=elasticity)
    with h5py.File(path, "r+") as file:
        del file["elasticity/h/kernel"]
        file["elasticity/h/kernel"] = h5py.ExternalLink("other.h5", "/x")
    with pytest.raises(InputError, match="/elasticity/h/kernel is a ExternalLink"):
        Recording(path)


def test_experiments_measure_when_told(path):
    config = ExperimentConfig(
        dataset="digits",
        architecture="linear",
        label_noise=0.4,
        steps=20,
        every=10,
        batch_size=8,
        momentum=0.5,
        measure_elasticity_every=10,
        elasticity_repeats=4,
        train_per_class=20,
        probe_per_class=5,
        validation_per_class=5,
        n_classes=3,
    )
    run_experiment(config, path)
    with Recording(path) as recording:
        read = recording.elasticity("fc3", "given_labels")
        np.testing.assert_array_equal(read.steps, [0, 10, 20])
        assert (read.n_repeats, read.batch_size, read.optimizer, read.momentum) == (4, 8, "SGD", 0.5)
    for name in ("measure_elasticity_every", "elasticity_repeats"):
        with pytest.raises(InputError, match=f"{name} is 0; it must be at least 1"):
            replace(config, **{name: 0})


def archive(folder, **changes):
    rng = np.random.default_rng(0)
    arrays = {
        "step": np.array([0, 50]),
        "logits": rng.normal(size=(2, 12, 3)),
        "y_true": LABELS,
        "y_given": GIVEN,
        "drift_step": np.array([0, 20, 40]),
        "onestep_labels": rng.normal(size=(3, 3, 5, 3, 3)),
        "onestep_given": rng.normal(size=(3, 3, 5, 3, 3)),
        "tangent_labels": rng.normal(size=(3, 3, 3)),
        "residual_labels": rng.normal(size=(3, 3, 3)),
        "lr": np.array(0.005),
        **changes,
    }
    path = folder / "run.npz"
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})
    return path, arrays


@pytest.mark.parametrize("stratified", [True, False])
def test_archives_bring_their_measurements(tmp_path, path, stratified):
    changes = {} if stratified else {"onestep_labels": np.ones((3, 5, 3, 3)), "onestep_given": None}
    source, arrays = archive(tmp_path, **changes)
    with Recording(recording_from_npz(source, path)) as recording:
        read = recording.elasticity("fc3")
        np.testing.assert_array_equal(read.steps, [0, 20, 40])
        onestep = arrays["onestep_labels"] if stratified else arrays["onestep_labels"][:, None]
        np.testing.assert_array_equal(read.onestep[:], onestep)
        np.testing.assert_array_equal(read.tangent[:], arrays["tangent_labels"])
        np.testing.assert_array_equal(read.impact[:], arrays["residual_labels"])
        np.testing.assert_allclose(read.shares, np.full(3, 1 / 3) if stratified else [1])
        assert (read.n_repeats, read.batch_size) == (5, 1 if stratified else None)
        assert read.lr.tolist() == [0.005] * 3
        by_given = recording.elasticity("fc3", "given_labels")
        if stratified:
            np.testing.assert_array_equal(by_given.onestep[:], arrays["onestep_given"])
            assert by_given.impact is None
        else:
            assert by_given is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"drift_step": None}, "has onestep_labels without drift_step"),
        (
            {"tangent_labels": np.zeros((2, 3, 3))},
            r"tangent_labels has shape \(2, 3, 3\), which does not fit the 3 steps",
        ),
        ({"onestep_labels": np.zeros((3, 3, 3))}, r"onestep_labels has shape \(3, 3, 3\)"),
        ({"drift_step": np.array([0, 40, 20])}, "record 1 is at step 20 after step 40"),
    ],
)
def test_archives_with_measurements_that_do_not_fit(tmp_path, path, changes, message):
    source, _ = archive(tmp_path, **changes)
    with pytest.raises(InputError, match=message):
        recording_from_npz(source, path)


def test_real_drifts_agree_with_the_log_where_steps_are_small(real_recording_file):
    """LeNet on shapes, batch size 1: known rates by one-step drift, linearisation, and increments over 50 steps."""
    with Recording(real_recording_file("geomnist_p0.0")) as recording:
        read = recording.elasticity("fc3")
        assert read.onestep.shape == (101, 3, 10, 3, 3)
        rates, tangent = read.onestep_rates(), read.tangent_rates()
        # Known from the archive by the definition: K ⟨contrast D, contrast r⟩ / |contrast r|².
        known = {0: (4.80e-5, 0.35e-5, 6.66e-5), 4000: (0.361, 0.172, 3.02), 9000: (4.18, 1.39, 3.07)}
        for start, (rate, error, linear) in known.items():
            window = (read.steps >= start) & (read.steps < start + 1000)
            np.testing.assert_allclose(rates.pooled(window), [rate, error], rtol=0.02)
            np.testing.assert_allclose(np.average(tangent[window], weights=rates.weight[window]), linear, rtol=0.01)
        logits = recording.features("fc3")[:]
        means = np.stack([logits[:, recording.labels == class_].mean(axis=1) for class_ in range(3)], axis=1)
        impact = read.impact[:]
        for start, stop in ((0, 1000), (9000, 10_000)):
            steps = np.arange(start, stop, 100)
            records, snapshots = np.searchsorted(recording.steps, steps), np.searchsorted(read.steps, steps)
            increments = (means[records + 1] - means[records]) / 50
            log = np.average(separation_rate(increments, impact[snapshots]), weights=rates.weight[snapshots])
            rate, error = rates.pooled(snapshots)
            assert abs(log - rate) < 3 * error


def test_real_drifts_of_digits(real_recording_file):
    with Recording(real_recording_file("digits_mlp_bursts")) as recording:
        read = recording.elasticity("fc3")
        assert read.onestep.shape == (201, 1, 20, 10, 10)
        rates = read.onestep_rates()
        for start, expected in ((800, 2.24), (1200, 2.30)):  # windows of 400 steps, ratio of sums
            window = (read.steps >= start) & (read.steps < start + 400)
            assert rates.pooled(window)[0] == pytest.approx(expected, rel=0.05)
