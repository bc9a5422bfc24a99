"""Archives become recordings without loss, and bad ones are refused."""

import numpy as np
import pytest

from data_tools import InputError, Recording
from data_tools.convert import recording_from_npz

LABELS = np.repeat([0, 1, 2], 2)


def archive(**changes):
    rng = np.random.default_rng(0)
    arrays = {
        "step": np.array([0, 50, 100]),
        "logits": rng.normal(size=(3, 6, 3)).astype(np.float32),
        "y_true": LABELS,
        "y_given": LABELS[::-1],
        "W": rng.normal(size=(3, 3, 4)).astype(np.float32),
        "b": rng.normal(size=(3, 3)).astype(np.float32),
        "penultimate": rng.normal(size=(3, 6, 4)).astype(np.float16),
        "train_loss": np.array([3.0, 2.0, 1.0]),
        "lr": np.array(0.005),
        "p_err": np.array(0.5),
        **changes,
    }
    return {name: array for name, array in arrays.items() if array is not None}


def save(folder, arrays):
    path = folder / "run.npz"
    np.savez(path, **arrays)
    return path


def test_every_known_key_arrives(tmp_path):
    arrays = archive()
    with Recording(recording_from_npz(save(tmp_path, arrays), tmp_path / "run.h5")) as recording:
        assert recording.layers == ["fc2", "fc3"]
        assert (recording.logits, recording.classifier.layer) == ("fc3", "fc2")
        np.testing.assert_array_equal(recording.steps, arrays["step"])
        np.testing.assert_array_equal(recording.features("fc3")[:], arrays["logits"])
        np.testing.assert_array_equal(recording.features("fc2")[:], arrays["penultimate"])
        np.testing.assert_array_equal(recording.classifier.weight[:], arrays["W"])
        np.testing.assert_array_equal(recording.classifier.bias[:], arrays["b"])
        np.testing.assert_array_equal(recording.given_labels, arrays["y_given"])
        np.testing.assert_array_equal(recording.scalars["loss"], arrays["train_loss"])
        assert recording.provenance["lr"] == 0.005
        assert recording.provenance["label_noise"] == 0.5
        assert recording.provenance["converted_from"] == "run.npz"


def test_only_three_keys_are_needed(tmp_path):
    arrays = archive(y_given=None, W=None, b=None, penultimate=None, train_loss=None, lr=None, p_err=None)
    with Recording(recording_from_npz(save(tmp_path, arrays), tmp_path / "run.h5", layer="head")) as recording:
        assert recording.layers == ["head"]
        assert recording.classifier is None
        np.testing.assert_array_equal(recording.given_labels, LABELS)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"step": None, "y_true": None}, "run.npz: lacks step, y_true; an archive needs step, logits, y_true"),
        ({"b": None}, "only one of W and b"),
        ({"step": np.array([0, 50, 50])}, "run.npz: steps must strictly increase"),
        ({"y_true": LABELS[:-1]}, r"run.npz: features of layer fc2 have shape \(3, 6, 4\), expected \(3, 5, any\)"),
        ({"logits": np.array([{}], dtype=object)}, "not a readable archive of plain arrays"),
    ],
)
def test_archives_that_cannot_be_used(tmp_path, changes, message):
    with pytest.raises(InputError, match=message):
        recording_from_npz(save(tmp_path, archive(**changes)), tmp_path / "run.h5")
    assert not (tmp_path / "run.h5").exists()


@pytest.mark.parametrize("content", [b"", b"not an archive", b"PK\x03\x04 cut short"])
def test_files_that_are_no_archives(tmp_path, content):
    path = tmp_path / "run.npz"
    path.write_bytes(content)
    with pytest.raises(InputError, match="not a readable archive"):
        recording_from_npz(path, tmp_path / "run.h5")


def test_a_single_array_and_a_missing_file(tmp_path):
    np.save(tmp_path / "one.npy", np.zeros(3))
    with pytest.raises(InputError, match="a single array"):
        recording_from_npz(tmp_path / "one.npy", tmp_path / "run.h5")
    with pytest.raises(InputError, match="no such file"):
        recording_from_npz(tmp_path / "none.npz", tmp_path / "run.h5")


def test_existing_recordings_are_kept_unless_forced(tmp_path):
    source, out = save(tmp_path, archive()), tmp_path / "run.h5"
    recording_from_npz(source, out)
    with pytest.raises(InputError, match="exists already"):
        recording_from_npz(source, out)
    recording_from_npz(source, out, force=True)


@pytest.mark.parametrize("name", ["geomnist_p0.5", "digits_mlp_bursts"])
def test_real_recordings(tmp_path, real_recording, name):
    arrays = real_recording(name)
    with Recording(recording_from_npz(save(tmp_path, arrays), tmp_path / "run.h5")) as recording:
        np.testing.assert_array_equal(recording.steps, arrays["step"])
        np.testing.assert_array_equal(recording.features("fc3")[-1], arrays["logits"][-1])
        assert recording.n_classes == arrays["logits"].shape[2]
        recording.check_finite("fc3")
