"""What is written comes back, and what cannot be used is refused with a message that says why."""

import tempfile
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_tools import InputError, Recording, write_recording
from data_tools.recording_schema import decode_name, encode_name

STEPS = np.array([0, 1, 10, 11])
LABELS = np.array([0, 0, 1, 1, 2, 2])


def example_features(p=3, dtype=np.float32):
    return np.random.default_rng(0).normal(size=(STEPS.size, LABELS.size, p)).astype(dtype)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run.h5"


@pytest.fixture
def written(path):
    return write_recording(path, STEPS, LABELS, {"fc3": example_features()}, logits="fc3")


def change(path, edit):
    with h5py.File(path, "r+") as file:
        edit(file)


def replace(name, data):
    def edit(file):
        del file[name]
        file[name] = data

    return edit


@settings(max_examples=25, deadline=None)
@given(
    n_records=st.integers(1, 5),
    per_class=st.integers(2, 4),
    n_classes=st.integers(2, 4),
    width=st.integers(1, 6),
    dtype=st.sampled_from([np.float16, np.float32, np.float64]),
    name=st.text(min_size=1, max_size=8).filter(lambda text: "\0" not in text and text.isprintable()),
    seed=st.integers(0, 2**32 - 1),
)
def test_everything_written_is_read_back(n_records, per_class, n_classes, width, dtype, name, seed):
    rng = np.random.default_rng(seed)
    steps = np.cumsum(rng.integers(1, 10, n_records))
    labels = rng.permutation(np.repeat(np.arange(n_classes), per_class))
    given_labels = rng.integers(0, n_classes, labels.size)
    hidden = rng.normal(size=(n_records, labels.size, width)).astype(dtype)
    logits = rng.normal(size=(n_records, labels.size, n_classes)).astype(dtype)
    weight = rng.normal(size=(n_records, n_classes, width)).astype(dtype)
    bias = rng.normal(size=(n_records, n_classes)).astype(dtype)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run.h5"
        write_recording(
            path,
            steps,
            labels,
            {"h/" + name: hidden, "logits.of.it": logits},
            logits="logits.of.it",
            given_labels=given_labels,
            classifier=(weight, bias, "h/" + name),
            scalars={"a/b": bias[:, 0]},
            time=steps / 2,
            provenance={"seed": seed, "lr": 0.5, "note": name.strip() or "none"},
        )
        assert [entry.name for entry in Path(folder).iterdir()] == ["run.h5"]
        with Recording(path) as recording:
            assert recording.layers == ["h/" + name, "logits.of.it"]
            assert recording.logits == "logits.of.it"
            assert (recording.n_records, recording.n_samples) == (n_records, labels.size)
            assert recording.n_classes == n_classes
            assert recording.features("h/" + name).dtype == dtype
            np.testing.assert_array_equal(recording.features("h/" + name)[:], hidden)
            np.testing.assert_array_equal(recording.features("logits.of.it"), logits)
            np.testing.assert_array_equal(recording.steps, steps)
            np.testing.assert_array_equal(recording.time, steps / 2)
            np.testing.assert_array_equal(recording.labels, labels)
            np.testing.assert_array_equal(recording.given_labels, given_labels)
            np.testing.assert_array_equal(recording.scalars["a/b"], bias[:, 0])
            assert recording.classifier.layer == "h/" + name
            np.testing.assert_array_equal(recording.classifier.weight[:], weight)
            np.testing.assert_array_equal(recording.classifier.bias[:], bias)
            assert recording.provenance["seed"] == seed
            assert recording.provenance["lr"] == 0.5
            assert recording.provenance["note"] == (name.strip() or "none")


@given(st.text(min_size=1))
def test_encoded_names_are_one_path_component_and_come_back(name):
    assert "/" not in encode_name(name)
    assert encode_name(name) != "."
    assert decode_name(encode_name(name)) == name


@pytest.mark.parametrize(
    "key",
    [
        2,
        -1,
        slice(1, 3),
        slice(None, None, 2),
        slice(None, None, -1),
        [3, 0, 0],
        np.array([True, False, True, False]),
        (slice(1, None), 2),
        (0, slice(None), 1),
        (Ellipsis, 1),
        ([2, 1], slice(0, 2)),
    ],
)
def test_lazy_features_index_like_numpy(written, key):
    with Recording(written) as recording:
        np.testing.assert_array_equal(recording.features("fc3")[key], example_features()[key])


def test_index_beyond_the_last_record_is_refused(written):
    with Recording(written) as recording, pytest.raises(IndexError):
        recording.features("fc3")[STEPS.size]


def test_half_written_records_are_cut_off(written):
    def tear(file):
        file["committed"][()] = 2

    change(written, tear)
    with Recording(written) as recording:
        assert recording.n_records == 2
        assert recording.features("fc3").shape == (2, 6, 3)
        np.testing.assert_array_equal(recording.features("fc3")[-1], example_features()[1])
        np.testing.assert_array_equal(recording.steps, STEPS[:2])


def test_without_counter_the_shortest_dataset_decides(written):
    def tear(file):
        del file["committed"]
        file["features/fc3"].resize(3, axis=0)

    change(written, tear)
    with Recording(written) as recording:
        assert recording.n_records == 3
        assert recording.time.shape == (3,)


def test_missing_file(path):
    with pytest.raises(InputError, match="no such file"):
        Recording(path)


def test_folder(tmp_path):
    with pytest.raises(InputError, match="is a folder"):
        Recording(tmp_path)


@pytest.mark.parametrize("content", [b"", b"step,loss\n1,2\n"])
def test_not_hdf5(path, content):
    path.write_bytes(content)
    with pytest.raises(InputError, match="not an HDF5 file"):
        Recording(path)


def test_other_hdf5(path):
    with h5py.File(path, "w") as file:
        file["data"] = np.zeros(3)
    with pytest.raises(InputError, match="not a recording"):
        Recording(path)


def test_truncated(written):
    content = written.read_bytes()
    written.write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match="truncated"):
        Recording(written)


def test_unknown_version(written):
    change(written, lambda file: file.attrs.modify("version", 2))
    with pytest.raises(InputError, match="version 2, but this program reads version 1"):
        Recording(written)


def test_no_records(written):
    change(written, replace("committed", np.int64(0)))
    with pytest.raises(InputError, match="holds no records"):
        Recording(written)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (replace("labels", np.zeros(6, int)), "one class only"),
        (replace("labels", np.array([0, 0, 1, 1, 1, 2])), "class 2 has only one sample"),
        (replace("labels", np.array([0, 0, 1, 1, 1, 1])), "class 2 has no sample"),
        (replace("labels", np.array([0, 0, 1, 1, 2, 3])), "labels holds 3 at sample 5, outside 0 … 2"),
        (replace("given_labels", np.array([0, -1, 1, 1, 2, 2])), "given_labels holds -1 at sample 1"),
        (replace("given_labels", np.zeros(5, int)), r"/given_labels has shape \(5,\), expected \(6\)"),
        (replace("labels", np.zeros(6)), "/labels has type float64, expected whole numbers"),
        (replace("step", np.array([0, 5, 5, 6])), "record 2 is at step 5 after step 5"),
        (replace("step", np.array([-1, 5, 6, 7])), "starts at -1"),
        (replace("step", np.zeros((4, 1), int)), r"/step has shape \(4, 1\), expected \(any\)"),
        (
            replace("features/fc3", np.zeros((4, 5, 3))),
            r"/features/fc3 has shape \(4, 5, 3\), expected \(any, 6, any\)",
        ),
        (replace("features/fc3", np.zeros((4, 6, 3), int)), "/features/fc3 has type int64, expected floating-point"),
        (replace("committed", np.int64(9)), "/committed counts 9 records but"),
        (replace("features/fc3", np.zeros((4, 6, 0))), "/features/fc3 has no features; record another layer"),
        (lambda file: file.pop("time"), "/time is missing"),
        (lambda file: file.pop("features"), "/features holds no layer"),
        (replace("features", np.zeros(3)), "/features is a dataset, expected a group"),
        (lambda file: file.attrs.modify("logits_layer", "fc9"), "names 'fc9', but recorded are fc3"),
    ],
)
def test_contents_that_cannot_be_right(written, edit, message):
    change(written, edit)
    with pytest.raises(InputError, match=message) as caught:
        Recording(written)
    assert str(written) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_unknown_layer_lists_the_known_ones(written):
    with Recording(written) as recording, pytest.raises(InputError, match="'fc4' was not recorded; choose one of fc3"):
        recording.features("fc4")


def test_classifier_of_another_width_is_refused(path):
    write_recording(
        path,
        STEPS,
        LABELS,
        {"h": example_features(5), "fc3": example_features()},
        logits="fc3",
        classifier=(np.zeros((4, 3, 5)), np.zeros((4, 3)), "h"),
    )
    change(path, replace("classifier/weight", np.zeros((4, 3, 4))))
    with pytest.raises(InputError, match=r"/classifier/weight has shape \(4, 3, 4\)"):
        Recording(path)


def test_values_that_are_not_finite_are_located(path):
    features = example_features()
    features[2, 0, 0], features[2, 1, 2] = np.nan, np.inf
    write_recording(path, STEPS, LABELS, {"fc3": features})
    with Recording(path) as recording:
        with pytest.raises(InputError, match=r"layer fc3 holds 2 values .* at step 10; .* --until 1$"):
            recording.check_finite("fc3")
        recording.check_finite("fc3", until=1)
        recording.check_finite("fc3", until=9)
        with pytest.raises(InputError, match="at step 10"):
            recording.check_finite("fc3", until=10)


def test_missing_samples_are_counted_and_not_refused(path):
    features = example_features()
    features[1, 0], features[2, :3] = np.nan, np.nan
    write_recording(path, STEPS, LABELS, {"fc3": features})
    with Recording(path) as recording:
        np.testing.assert_array_equal(recording.check_finite("fc3"), [0, 1, 3, 0])
        np.testing.assert_array_equal(recording.check_finite("fc3", until=1), [0, 1])


def test_nothing_but_missing_samples_to_the_end_is_taken_for_divergence(path):
    features = example_features()
    features[2:] = np.nan
    write_recording(path, STEPS, LABELS, {"fc3": features})
    with Recording(path) as recording:
        with pytest.raises(InputError, match=r"nothing but NaN from step 10 on: training diverged .* --until 1$"):
            recording.check_finite("fc3")
        np.testing.assert_array_equal(recording.check_finite("fc3", until=1), [0, 0])


def test_a_sample_that_comes_late_and_never_changes_is_no_change(path):
    features = np.repeat(example_features()[:1], STEPS.size, axis=0)
    features[0, 1] = np.nan
    write_recording(path, STEPS, LABELS, {"fc3": features})
    with Recording(path) as recording, pytest.raises(InputError, match="the same at every record"):
        recording.check_finite("fc3")


def test_no_record_before_until(path):
    write_recording(path, STEPS + 5, LABELS, {"fc3": example_features()})
    with (
        Recording(path) as recording,
        pytest.raises(InputError, match="no record up to step 4; the first is at step 5"),
    ):
        recording.check_finite("fc3", until=4)


def test_features_that_never_change_are_refused(path):
    write_recording(path, STEPS, LABELS, {"fc3": np.repeat(example_features()[:1], STEPS.size, axis=0)})
    with Recording(path) as recording, pytest.raises(InputError, match="the same at every record"):
        recording.check_finite("fc3")


def test_groups_of_the_format_that_this_reader_does_not_use_are_tolerated(written):
    def add(file):
        file["elasticity/fc3/step"] = np.arange(2)
        file["later/fc3/means"] = np.zeros((4, 3, 3))

    change(written, add)
    with Recording(written) as recording:
        assert recording.layers == ["fc3"]


def test_a_posterior_is_named_for_what_it_is(tmp_path):
    """NetCDF keeps numbers as arrays of one entry, which no recording has: what the file is comes first."""
    path = tmp_path / "fit.nc"
    with h5py.File(path, "w") as file:
        file.attrs["format"] = "lesde-fit"
        file.attrs["version"] = np.array([1])
    with pytest.raises(InputError, match=r"fit\.nc: a posterior, made by `lesde fit`, where a recording is wanted"):
        Recording(path)
