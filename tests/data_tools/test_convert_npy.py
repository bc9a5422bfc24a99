"""Folders of arrays become recordings; what is not such a folder is refused."""

import numpy as np
import pytest

from data_tools import InputError, Recording
from data_tools.convert import convert_recording, guess_format

LABELS = np.array([0, 0, 1, 1])
RNG = np.random.default_rng(0)
LOGITS, HIDDEN = RNG.normal(size=(3, 4, 2)).astype(np.float32), RNG.normal(size=(3, 4, 5)).astype(np.float16)


def folder_of(folder, **arrays):
    folder.mkdir(exist_ok=True)
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    return folder


@pytest.fixture
def source(tmp_path):
    return tmp_path / "arrays"


@pytest.fixture
def out(tmp_path):
    return tmp_path / "run.h5"


def test_arrays_of_all_records(source, out):
    weight, bias = (RNG.normal(size=shape).astype(np.float32) for shape in ((3, 2, 5), (3, 2)))
    folder_of(
        source,
        labels=LABELS,
        given_labels=LABELS[::-1],
        step=[0, 5, 9],
        logits=LOGITS,
        hidden=HIDDEN,
        loss=[3.0, 2.0, 1.0],
        weight=weight,
        bias=bias,
    )
    assert guess_format(source) == "npy"
    with Recording(convert_recording(source, out, layer="head")) as recording:
        assert sorted(recording.layers) == ["head", "hidden"]
        assert recording.logits == "head"
        np.testing.assert_array_equal(recording.steps, [0, 5, 9])
        np.testing.assert_array_equal(recording.features("head")[:], LOGITS)
        assert recording.features("hidden").dtype == np.float16
        np.testing.assert_array_equal(recording.features("hidden")[:], HIDDEN)
        np.testing.assert_array_equal(recording.given_labels, LABELS[::-1])
        np.testing.assert_array_equal(recording.scalars["loss"], [3.0, 2.0, 1.0])
        np.testing.assert_array_equal(recording.classifier.weight[:], weight)


def test_arrays_of_single_steps(source, out):
    steps = [100, 0, 20]  # files sort otherwise than numbers
    arrays = {f"logits_{step}": LOGITS[place] for place, step in enumerate(steps)}
    arrays |= {f"hidden-step{step:05d}": HIDDEN[place] for place, step in enumerate(steps)}
    folder_of(source, labels=LABELS, **arrays)
    with Recording(convert_recording(source, out)) as recording:
        np.testing.assert_array_equal(recording.steps, [0, 20, 100])
        np.testing.assert_array_equal(recording.features("fc3")[:], LOGITS[[1, 2, 0]])
        np.testing.assert_array_equal(recording.features("hidden-step")[:], HIDDEN[[1, 2, 0]])


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({}, "lacks labels.npy, the class of each sample; it holds no .npy file"),
        ({"step": [0]}, "lacks labels.npy, the class of each sample; it holds step.npy"),
        ({"labels": LABELS}, "holds labels but no features"),
        ({"labels": LABELS, "logits": LOGITS}, "logits.npy names no step"),
        ({"labels": LABELS, "step": [0, 1], "logits": LOGITS}, r"have shape \(3, 4, 2\), expected \(2, 4, any\)"),
        ({"labels": LABELS, "step": [0, 1, 1], "logits": LOGITS}, "steps must strictly increase"),
        ({"labels": LABELS[:3], "step": [0, 1, 2], "logits": LOGITS}, "have shape"),
        ({"labels": LABELS, "step": [0, 1, 2], "logits": LOGITS, "bias": np.zeros((3, 2))}, "has only one of weight"),
        ({"labels": LABELS, "step": [0, 1, 2], "logits": LOGITS, "loss": [1.0]}, "scalars loss has shape"),
        ({"labels": LABELS, "step": [0, 1, 2], "logits": LOGITS, "fc3": LOGITS}, "has both fc3.npy and logits.npy"),
        ({"labels": LABELS, "logits_0": LOGITS[0], "logits_00": LOGITS[0]}, "has two arrays of step 0"),
        (
            {"labels": LABELS, "a_0": LOGITS[0], "a_1": LOGITS[0], "b_0": LOGITS[0]},
            "step 1 is not there for all layers",
        ),
        ({"labels": LABELS, "a_0": LOGITS[0], "a_1": LOGITS[0][:2]}, "arrays of layer a have shapes"),
        ({"labels": np.array([{}] * 4, dtype=object)}, "labels.npy: not a readable array of plain numbers"),
        ({"labels": LABELS, "a_0": np.array(["x"] * 4)}, "have shape|expected numbers"),
    ],
)
def test_folders_that_cannot_be_used(source, out, arrays, message):
    with pytest.raises(InputError, match=message) as caught:
        convert_recording(folder_of(source, **arrays), out)
    assert str(source) in str(caught.value)
    assert not out.exists()


def test_sources_of_no_known_format(tmp_path, out):
    with pytest.raises(InputError, match="no such file"):
        convert_recording(tmp_path / "none.csv", out)
    path = tmp_path / "log.parquet"
    path.write_bytes(b"PAR1")
    with pytest.raises(InputError, match=r"of no known format; .* say which it is with --format"):
        convert_recording(path, out)
    with pytest.raises(InputError, match="no such folder"):
        convert_recording(path, out, source_format="npy")
    with pytest.raises(InputError, match="choose one of npz, npy, csv, paper"):
        convert_recording(path, out, source_format="parquet")
    with pytest.raises(InputError, match="not a readable archive"):
        convert_recording(path, out, source_format="npz")
