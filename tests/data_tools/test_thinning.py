"""A thinned recording holds the records that were kept, and all else that goes with them."""

import numpy as np
import pytest

from data_tools import Recording, thin_recording, write_recording
from data_tools.errors import InputError

RNG = np.random.default_rng(0)
STEPS = np.arange(0, 40, 4)
LABELS = np.array([0, 1, 2, 0, 1, 2])
HIDDEN = RNG.normal(size=(10, 6, 5)).astype(np.float32)
LOGITS = RNG.normal(size=(10, 6, 3)).astype(np.float16)
WEIGHT, BIAS = RNG.normal(size=(10, 3, 5)).astype(np.float32), RNG.normal(size=(10, 3)).astype(np.float32)
LOSS = RNG.normal(size=10)


@pytest.fixture(params=[("hidden",), ()], ids=["fed", "not fed"])
def recording(request, tmp_path):
    write_recording(
        tmp_path / "run.h5",
        STEPS,
        LABELS,
        {"hidden": HIDDEN, "out": LOGITS},
        logits="out",
        given_labels=LABELS[::-1],
        classifier=(WEIGHT, BIAS, *request.param),
        scalars={"loss": LOSS},
        time=0.1 * STEPS,
        provenance={"lr": 0.1},
        class_frequencies=[0.5, 0.3, 0.2],
    )
    with Recording(tmp_path / "run.h5") as opened:
        yield opened


@pytest.mark.parametrize("kept", [[0, 1, 4, 5, 9], [3], list(range(10))])
def test_keeps_the_records_asked_for_and_nothing_else(recording, tmp_path, kept):
    with Recording(thin_recording(recording, tmp_path / "thin.h5", kept)) as thin:
        np.testing.assert_array_equal(thin.steps, STEPS[kept])
        np.testing.assert_array_equal(thin.class_frequencies, [0.5, 0.3, 0.2])
        np.testing.assert_array_equal(thin.time, 0.1 * STEPS[kept])
        np.testing.assert_array_equal(thin.features("hidden")[:], HIDDEN[kept])
        np.testing.assert_array_equal(thin.features("out")[:], LOGITS[kept])
        assert thin.features("out").dtype == np.float16
        np.testing.assert_array_equal(thin.classifier.weight[:], WEIGHT[kept])
        np.testing.assert_array_equal(thin.classifier.bias[:], BIAS[kept])
        assert thin.classifier.layer == recording.classifier.layer
        np.testing.assert_array_equal(thin.scalars["loss"], LOSS[kept])
        np.testing.assert_array_equal(thin.labels, LABELS)
        np.testing.assert_array_equal(thin.given_labels, LABELS[::-1])
        assert (thin.logits, thin.layers) == ("out", ["hidden", "out"])
        assert thin.provenance["lr"] == 0.1
        assert thin.provenance["records_kept"] == f"{len(kept)} of 10"


@pytest.mark.parametrize("kept", [[], [-1, 2], [3, 10], [4, 4], [5, 3], [0.5, 1.5], [[0, 1]]])
def test_refuses_records_that_are_not_there_or_out_of_order(recording, tmp_path, kept):
    with pytest.raises(InputError, match="records: ") as caught:
        thin_recording(recording, tmp_path / "thin.h5", kept)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "thin.h5").exists()


def test_never_replaces_a_file_unasked(recording, tmp_path):
    thin_recording(recording, tmp_path / "thin.h5", [0, 1])
    with pytest.raises(InputError, match="exists"):
        thin_recording(recording, tmp_path / "thin.h5", [0, 1])
    thin_recording(recording, tmp_path / "thin.h5", [0, 2], force=True)
    with Recording(tmp_path / "thin.h5") as thin:
        assert list(thin.steps) == [0, 8]
