"""Writers lose nothing they committed and never touch what is not theirs."""

import os
import shutil
import subprocess
import sys
from collections import namedtuple

import numpy as np
import pytest

from data_tools import InputError, Recording, RecordingWriter, write_recording
from data_tools.recording_layout import LayerLayout, RecordingLayout

LABELS = np.array([0, 0, 1, 1])
LAYOUT = RecordingLayout(LABELS, LABELS, {"h": LayerLayout(5), "fc": LayerLayout(2)}, logits="fc", scalars=("loss",))

WRITE_FOR_EVER = """
import sys
import numpy as np
from data_tools import RecordingWriter
from data_tools.recording_layout import LayerLayout, RecordingLayout

labels = np.repeat([0, 1], 50)
layout = RecordingLayout(labels, labels, {"h": LayerLayout(64), "fc": LayerLayout(2)}, logits="fc", scalars=("loss",))
writer = RecordingWriter(sys.argv[1], layout)
step = 0
while True:
    features = {"h": np.full((100, 64), step), "fc": np.full((100, 2), step)}
    writer.append(step, features, scalars={"loss": step})
    step += 1
    print(step, flush=True)
"""


def features_at(step):
    return {"h": np.full((4, 5), step, np.float32), "fc": np.full((4, 2), step, np.float32)}


def append(writer, step, **changes):
    writer.append(step, **{"features": features_at(step), "scalars": {"loss": step / 2}, **changes})


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run.h5"


@pytest.mark.parametrize("n_records", [3, 40, 150])
def test_a_killed_writer_loses_no_committed_record(path, n_records):
    writer = subprocess.Popen([sys.executable, "-c", WRITE_FOR_EVER, path], stdout=subprocess.PIPE, text=True)
    for _ in range(n_records):
        writer.stdout.readline()
    writer.kill()
    rest = writer.stdout.read().split()
    writer.wait()
    writer.stdout.close()
    committed = int(rest[-1]) if rest else n_records
    with Recording(path) as recording:
        # The kill may fall between a commit and its report.
        assert recording.n_records in (committed, committed + 1)
        count = np.arange(recording.n_records)
        np.testing.assert_array_equal(recording.steps, count)
        np.testing.assert_array_equal(recording.scalars["loss"], count)
        for layer in recording.layers:
            values = recording.features(layer)[:]
            np.testing.assert_array_equal(values, np.broadcast_to(count[:, None, None], values.shape))
        assert "closed" not in recording.provenance


def test_a_recording_is_readable_while_it_is_made(path):
    with RecordingWriter(path, LAYOUT) as writer:
        for step in range(5):
            append(writer, step)
            with Recording(path) as recording:
                assert recording.n_records == step + 1
                np.testing.assert_array_equal(recording.features("h")[-1], features_at(step)["h"])


def test_a_second_writer_is_refused_and_the_first_unharmed(path):
    with RecordingWriter(path, LAYOUT) as first:
        append(first, 0)
        with pytest.raises(InputError, match=r"exists already.*force"):
            RecordingWriter(path, LAYOUT)
        with pytest.raises(InputError, match=r"exists already.*force"):
            write_recording(path, [0], LABELS, {"fc": np.zeros((1, 4, 2))})
        append(first, 1)
    with Recording(path) as recording:
        np.testing.assert_array_equal(recording.steps, [0, 1])


def test_replacing_by_force_leaves_the_first_writer_alive(path):
    with RecordingWriter(path, LAYOUT) as first:
        append(first, 0)
        with RecordingWriter(path, LAYOUT, force=True) as second:
            append(second, 7)
        append(first, 1)
    with Recording(path) as recording:
        np.testing.assert_array_equal(recording.steps, [7])
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_a_failed_write_leaves_nothing(path):
    class Failing:
        shape, dtype = (2, 4, 2), np.dtype(np.float32)

        def __getitem__(self, record):
            if record == 1:
                raise KeyboardInterrupt
            return np.zeros((4, 2), np.float32)

    with pytest.raises(KeyboardInterrupt):
        write_recording(path, [0, 1], LABELS, {"fc": Failing()})
    assert list(path.parent.iterdir()) == []


def test_a_failed_replacement_keeps_the_old_file(path):
    write_recording(path, [3], LABELS, {"fc": np.zeros((1, 4, 2))})
    with pytest.raises(InputError, match="have shape"):
        write_recording(path, [0, 1], LABELS, {"fc": np.zeros((1, 4, 2))}, force=True)
    with Recording(path) as recording:
        np.testing.assert_array_equal(recording.steps, [3])


def test_an_interrupted_append_is_overwritten_by_the_next(path, monkeypatch):
    with RecordingWriter(path, LAYOUT) as writer:
        append(writer, 0)

        class Interrupting:
            shape = ()

            def __array__(self, dtype=None, copy=None):
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            append(writer, 1, scalars={"loss": Interrupting()})  # written last
        with Recording(path) as recording:
            assert recording.n_records == 1
        append(writer, 2)
    with Recording(path) as recording:
        np.testing.assert_array_equal(recording.steps, [0, 2])
        np.testing.assert_array_equal(recording.features("h")[:, 0, 0], [0, 2])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"step": 0}, "record 1 is at step 0 after step 0"),
        ({"features": {"fc": np.zeros((4, 2))}}, "must hold the same things, but at step 1 differ: features/h"),
        ({"features": {**features_at(1), "x": np.zeros((4, 2))}}, "differ: features/x"),
        (
            {"features": {**features_at(1), "h": np.zeros((4, 6))}},
            r"/features/h has shape \(4, 6\) .* expected \(4, 5\)",
        ),
        ({"scalars": {}}, "differ: scalars/loss"),
        ({"classifier": (np.zeros((2, 5)), np.zeros(2))}, "differ: classifier/bias, classifier/weight"),
    ],
)
def test_records_that_differ_are_refused_and_do_no_harm(path, changes, message):
    with RecordingWriter(path, LAYOUT) as writer:
        append(writer, 0)
        with pytest.raises(InputError, match=message):
            append(writer, **{"step": 1, **changes})
        append(writer, 1)
    with Recording(path) as recording:
        assert recording.n_records == 2


def test_a_full_disk_stops_before_the_file_is_harmed(path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    with RecordingWriter(path, LAYOUT) as writer:
        append(writer, 0)
        with monkeypatch.context() as patch:
            patch.setattr(shutil, "disk_usage", lambda folder: usage(1, 1, 1000))
            with pytest.raises(InputError, match="the disk is full; what was recorded is safe"):
                append(writer, 1)
        append(writer, 2)
    with Recording(path) as recording:
        np.testing.assert_array_equal(recording.steps, [0, 2])


def test_a_forked_process_may_not_write(path, monkeypatch):
    with RecordingWriter(path, LAYOUT) as writer:
        append(writer, 0)
        with monkeypatch.context() as patch:
            patch.setattr(os, "getpid", lambda: -1)
            with pytest.raises(InputError, match="opened by another process"):
                append(writer, 1)
            writer.close()
        append(writer, 1)  # the file is still open where it was opened
    with Recording(path) as recording:
        assert recording.n_records == 2


def test_missing_folder(tmp_path):
    with pytest.raises(InputError, match=r"the folder .*nowhere does not exist"):
        RecordingWriter(tmp_path / "nowhere" / "run.h5", LAYOUT)


def test_large_records_are_stored_in_chunks_that_fit_the_cache(path):
    import h5py

    labels = np.repeat([0, 1], 300)
    wide = np.zeros((1, 600, 1000), np.float32)
    write_recording(path, [0], labels, {"wide": wide, "narrow": wide[:, :, :3]})
    with h5py.File(path) as file:
        assert file["features/narrow"].chunks == (1, 600, 3)
        chunks = file["features/wide"].chunks
        assert chunks[0] == 1
        assert chunks[2] == 1000
        assert 2**19 < np.prod(chunks) * 4 <= 2**20


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"steps": [0, 0]}, "record 1 is at step 0 after step 0"),
        ({"steps": [0.0, 1.5]}, "more than whole numbers"),
        ({"labels": [0, 0, 1, np.nan]}, "more than whole numbers"),
        ({"labels": [0, 0, 0, 0]}, "one class only"),
        ({"labels": [[0, 0, 1, 1]]}, "expected one dimension"),
        ({"features": {}}, "no layer to record"),
        ({"features": {"": np.zeros((2, 4, 2))}}, "empty name"),
        ({"features": {"fc": np.zeros((2, 4))}}, r"shape \(2, 4\), expected \(2, 4, any\)"),
        ({"features": {"fc": np.zeros((2, 4, 2), complex)}}, "type complex128, expected numbers"),
        ({"logits": "fc9"}, "layer 'fc9' is not among those recorded: fc"),
        ({"given_labels": [0, 1]}, r"shape \(2,\), expected \(4,\)"),
        ({"scalars": {"loss": [1.0]}}, r"scalars loss has shape \(1,\), expected \(2,\)"),
        ({"time": [1.0]}, r"time has shape \(1,\)"),
        ({"classifier": (np.zeros((2, 2)), np.zeros((2, 2)))}, r"classifier has weight \(2, 2\)"),
        ({"classifier": (np.zeros((2, 2, 9)), np.zeros((2, 2)), "fc")}, "takes 9 inputs but layer fc has 2"),
        ({"provenance": {"version": 3}}, "may not be called 'version'"),
    ],
)
def test_input_that_contradicts_itself(path, arguments, message):
    complete = {"steps": [0, 1], "labels": LABELS, "features": {"fc": np.zeros((2, 4, 2))}, **arguments}
    with pytest.raises(InputError, match=message):
        write_recording(path, **complete)
    assert list(path.parent.iterdir()) == []


def test_integer_features_are_stored_exactly(path):
    features = np.arange(16).reshape(2, 4, 2) + 2**40
    write_recording(path, [0, 1], LABELS, {"fc": features})
    with Recording(path) as recording:
        np.testing.assert_array_equal(recording.features("fc")[:], features)
