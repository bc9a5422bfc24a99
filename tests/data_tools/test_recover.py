"""What is whole comes back, what is not is counted, and the source is never touched."""

import json
import shutil
import struct

import h5py
import numpy as np
import pytest

from data_tools import InputError, Recording, RecordingWriter, recover, write_recording
from data_tools.elasticity_records import DriftMeasurement, ElasticityLayout, ElasticitySettings, ElasticitySnapshot
from data_tools.recording_layout import LayerLayout, RecordingLayout
from data_tools.unfinished_hdf5 import _lookup3, read_superblock
from lesde_infer.cli import main

LABELS = np.array([0, 0, 1, 1])
SETTINGS = ElasticitySettings(np.ones(1), 2, batch_size=4)


def snapshot(step):
    values = np.random.default_rng(step).normal(size=(1, 2, 2, 2))
    return ElasticitySnapshot(step, 0.1, {"fc": {"labels": DriftMeasurement(values)}})


LAYOUT = RecordingLayout(
    LABELS,
    LABELS[::-1].copy(),
    {"z": LayerLayout(5, np.float16), "a/b": LayerLayout(3), "fc": LayerLayout(2, np.float64)},
    logits="fc",
    classifier_width=3,
    classifier_layer="a/b",
    scalars=("loss",),
    elasticity=ElasticityLayout.of(SETTINGS, snapshot(0)),
    class_frequencies=[0.25, 0.75],
)


def record_at(step):
    rng = np.random.default_rng(step)
    features = {"z": rng.normal(size=(4, 5)), "a/b": rng.normal(size=(4, 3)), "fc": rng.normal(size=(4, 2))}
    classifier = (rng.normal(size=(2, 3)), rng.normal(size=2))
    return {"step": step, "features": features, "classifier": classifier, "scalars": {"loss": step / 2}}


def write_some(path, n_records=4, uncommitted=0):
    """Write records without finishing, and return the file as it is on disk."""
    with RecordingWriter(path.with_name("live.h5"), LAYOUT, provenance={"model": "net"}) as writer:
        for step in range(n_records + uncommitted):
            writer.append(**record_at(10 * step), commit=step < n_records)
            if step < 2:
                writer.append_elasticity(snapshot(10 * step), commit=step < n_records)
        if uncommitted:
            writer._file.flush()
        shutil.copyfile(writer.path, path)
    return path


def mark_as_open(path):
    """Make a finished file look as if its writer had died."""
    with path.open("r+b") as stream:
        head = bytearray(stream.read(48))
        head[11] = 5
        head[44:] = struct.pack("<I", _lookup3(bytes(head[:44])))
        stream.seek(0)
        stream.write(head)
    return path


def contents(path):
    with Recording(path) as recording:
        found = {
            "steps": recording.steps,
            "time": recording.time,
            "labels": recording.labels,
            "given_labels": recording.given_labels,
            "frequencies": recording.class_frequencies,
            "weight": recording.classifier.weight[:],
            "bias": recording.classifier.bias[:],
            "loss": recording.scalars["loss"],
            "onestep": recording.elasticity("fc", "labels").onestep[:],
        }
        found |= {layer: recording.features(layer)[:] for layer in recording.layers}
        described = (recording.layers, recording.logits, recording.classifier.layer, recording.provenance["model"])
    return found, described


def complaint(action):
    try:
        action()
    except InputError as error:
        return str(error)
    return ""


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run.h5"


@pytest.fixture
def out(tmp_path):
    return tmp_path / "saved.h5"


def test_a_recording_whose_writer_died_is_copied_as_it_was_read(path, out):
    write_some(path)
    before = path.read_bytes()
    found = recover(path, out)
    assert (found.writer, found.n_kept, found.n_lost, found.reasons) == ("died", 4, 0, ())
    assert (found.n_measurements_kept, found.n_measurements_lost) == (2, 0)
    assert path.read_bytes() == before
    (arrays, described), (saved, saved_description) = contents(path), contents(out)
    assert described == saved_description == (["z", "a/b", "fc"], "fc", "a/b", "net")
    assert arrays.keys() == saved.keys()
    for name, array in arrays.items():
        assert saved[name].dtype == array.dtype
        np.testing.assert_array_equal(saved[name], array)
    with Recording(out) as recording:
        assert recording.writer == "finished"
        assert recording.provenance["recovered_from"] == "run.h5"
        assert "closed" in recording.provenance
    with h5py.File(out) as file, h5py.File(path.with_name("live.h5")) as source:
        assert file["features/z"].chunks == source["features/z"].chunks
    assert recover(out, path.with_name("again.h5")).out is None


def test_records_that_were_not_committed_are_cut_off(path, out):
    found = recover(write_some(path, n_records=3, uncommitted=2), out)
    assert (found.n_kept, found.n_lost) == (3, 2)
    assert found.reasons == ("2 records were not complete when writing ended",)
    with Recording(out) as recording:
        np.testing.assert_array_equal(recording.steps, [0, 10, 20])


def test_datasets_of_unequal_length_are_cut_to_the_shortest(path, out):
    write_some(path)
    live = path.with_name("live.h5")
    with h5py.File(live, "r+") as file:
        file["features/fc"].resize(2, axis=0)
    with pytest.raises(InputError, match=r"counts 4 records but /features/fc holds 2; .*`lesde recover`"):
        Recording(live)
    found = recover(live, out)
    assert (found.writer, found.n_kept, found.n_lost) == ("finished", 2, 2)
    assert found.reasons == ("2 records were counted, but are not in all datasets",)
    with Recording(out) as recording:
        np.testing.assert_array_equal(recording.features("fc")[1], record_at(10)["features"]["fc"])


def test_a_record_that_never_reached_the_disk_is_lost_though_hdf5_reads_zeros(path, out):
    write_some(path)
    live = path.with_name("live.h5")
    with h5py.File(live, "r+") as file:
        file["features/fc"].resize(3, axis=0)
        file["features/fc"].resize(4, axis=0)  # the last record has no chunk now
    found = recover(live, out)
    assert (found.n_kept, found.n_lost, found.reasons) == (3, 1, ("1 records cannot be read",))


def test_a_damaged_record_in_the_middle_is_left_out(path, out):
    features = np.random.default_rng(0).normal(size=(4, 4, 2))
    with h5py.File(write_recording(path, range(4), LABELS, {"fc": features}), "r+") as file:
        del file["features/fc"]
        array = file.create_dataset("features/fc", data=features, chunks=(1, 4, 2), compression="gzip", fletcher32=True)
        place = array.id.get_chunk_info(1)
    with path.open("r+b") as stream:
        stream.seek(place.byte_offset + place.size // 2)
        stream.write(b"\xff\xff\xff\xff")
    with Recording(path) as recording, pytest.raises(InputError, match=r"/features/fc is damaged.*lesde recover"):
        recording.check_finite("fc")
    found = recover(path, out)
    assert (found.n_kept, found.n_lost, found.reasons) == (3, 1, ("1 records cannot be read",))
    with Recording(out) as recording:
        np.testing.assert_array_equal(recording.steps, [0, 2, 3])
        np.testing.assert_array_equal(recording.features("fc")[:], features[[0, 2, 3]])
    with h5py.File(out) as file:
        assert file["features/fc"].compression == "gzip"


def test_a_file_cut_short_while_its_writer_was_at_work(path, out):
    """What a full disk, or a copy that broke off, leaves: the last chunks are beyond the end."""
    write_some(path, n_records=40)
    content = path.read_bytes()
    with h5py.File(path.with_name("live.h5")) as file:
        places = [file["features/a%2Fb"].id.get_chunk_info(record).byte_offset for record in range(40)]
    path.write_bytes(content[: places[-1] + 8])
    found = recover(path, out)
    assert found.n_kept + found.n_lost == 40
    assert 1 <= found.n_lost < 10
    with Recording(out) as recording:
        for record, step in enumerate(recording.steps):
            np.testing.assert_array_equal(recording.features("fc")[record], record_at(int(step))["features"]["fc"])


def test_steps_that_do_not_increase_are_left_out(path, out):
    write_some(path)
    live = path.with_name("live.h5")
    with h5py.File(live, "r+") as file:
        file["step"][2] = 0
    found = recover(live, out)
    assert (found.n_kept, found.reasons) == (3, ("1 records have steps that do not increase",))
    with Recording(out) as recording:
        np.testing.assert_array_equal(recording.steps, [0, 10, 30])


def test_a_healthy_recording_is_copied_only_if_asked(path, out):
    write_recording(path, [0, 1], LABELS, {"fc": np.random.default_rng(0).normal(size=(2, 4, 2))})
    found = recover(path, out)
    assert (found.writer, found.out, found.n_kept, found.n_lost) == ("finished", None, 2, 0)
    assert not out.exists()
    assert recover(path, out, copy_healthy=True).out == out
    with Recording(path) as source, Recording(out) as copied:
        np.testing.assert_array_equal(source.features("fc")[:], copied.features("fc")[:])
        assert source.provenance == copied.provenance


def test_a_writer_at_work_is_left_alone(path, out):
    with RecordingWriter(path, LAYOUT) as writer:
        writer.append(**record_at(0))
        with pytest.raises(InputError, match="is still being written, and can be read as it is"):
            recover(path, out)
        with Recording(path) as recording:
            assert recording.writer == "writing"
    with Recording(path) as recording:
        assert recording.writer == "finished"
    assert not out.exists()


def test_what_cannot_be_recovered(path, out, tmp_path):
    with pytest.raises(InputError, match="no such file"):
        recover(path, out)
    path.write_text("step,loss\n")
    with pytest.raises(InputError, match="not an HDF5 file"):
        recover(path, out)
    path.unlink()
    write_some(path, n_records=0, uncommitted=2)
    with pytest.raises(InputError, match="holds no whole record"):
        recover(path, out)
    out.write_text("mine")
    with pytest.raises(InputError, match="exists already"):
        recover(path, out)
    assert out.read_text() == "mine"
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["live.h5", "run.h5", "saved.h5"]


@pytest.mark.parametrize("place", [12, 30, 46, 60, 300, 1500])
def test_damage_to_an_unfinished_file_is_reported_at_once(path, out, place):
    """In HDF5's own mode for such files, reading would be tried again for ever."""
    content = bytearray(write_some(path).read_bytes())
    content[place] ^= 0x10
    path.write_bytes(content)
    for message in (complaint(lambda: Recording(path).close()), complaint(lambda: recover(path, out))):
        assert "\n" not in message
        assert message or place >= 48  # further behind it may hit what is not used


def test_the_superblock_is_recognised_and_its_damage_too(path):
    write_recording(path, [0], LABELS, {"fc": np.zeros((1, 4, 2))})
    assert not read_superblock(path).is_open
    assert read_superblock(mark_as_open(path)).is_open
    content = bytearray(path.read_bytes())
    content[20] ^= 1
    path.write_bytes(content)
    assert read_superblock(path) is None
    assert _lookup3(b"Four score and seven years ago") == 0x17770551  # the example of its author


def test_the_command_says_what_was_kept_and_lost(path, out, capsys):
    write_some(path, n_records=3, uncommitted=1)
    assert main(["recover", str(path), "--out", str(out), "--json", "-"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out) == {
        "file": str(path),
        "out": str(out),
        "writer": "died",
        "n_records_kept": 3,
        "n_records_lost": 1,
        "n_measurements_kept": 2,
        "n_measurements_lost": 0,
        "reasons": ["1 records were not complete when writing ended"],
    }
    for expected in ("its writer died; 3 records are whole, 1 are lost", "not complete", f"saved as {out}"):
        assert expected in captured.err
    assert main(["recover", str(path), "--out", str(out)]) == 2
    assert "exists already" in capsys.readouterr().err
    assert main(["recover", str(out), "--out", str(path.with_name("x.h5"))]) == 0
    assert "nothing to recover, so nothing was copied" in capsys.readouterr().out
    assert main(["recover", str(out), "--out", str(path.with_name("x.h5")), "--copy"]) == 0
    assert main(["recover", str(path), "--out", str(path), "--force"]) == 2
