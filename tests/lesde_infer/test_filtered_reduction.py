"""Reduced recordings of training with momentum hold impacts filtered by its memory, as whole recordings give them."""

import h5py
import numpy as np
import pytest
from test_momentum import LR, OWN, least_squares
from test_momentum import train as train_linear
from test_reduced_recorder import network, recorder
from test_reduced_recorder import train as train_network
from test_reduction import assert_same, run_of

from data_tools.errors import InputError
from data_tools.recording import Recording
from data_tools.recording_writer import write_recording
from lesde_infer.momentum import momentum_filter
from lesde_infer.reduction import Reduction, reduce_recording
from lesde_infer.statistics import compute_statistics

PLAIN = {"optimizer": "SGD", "momentum": 0.9}
DENSE = np.array([0, 1, 2, 3, 4, 6, 7, 10, 11, 12, 14, 15, 20, 21, 22, 23, 24, 25, 40, 41])


def written(path, steps=DENSE, **options):
    """A run of `test_reduction` at given steps."""
    labels, given, hidden, weight, bias = run_of(len(steps))
    return write_recording(
        path, steps, labels, {"fc1": hidden, "fc2": hidden @ weight[0].T}, logits="fc2", given_labels=given,
        classifier=(weight * np.linspace(1, 2, len(steps))[:, None, None], bias, "fc1"),
        **{"provenance": PLAIN, **options},
    )  # fmt: skip


def both(tmp_path, **options):
    whole = written(tmp_path / "run.h5", **options)
    return whole, reduce_recording(whole, tmp_path / "reduced.h5", Reduction(keep_per_class=3))


@pytest.mark.parametrize("layer", ["fc1", "fc2"])
@pytest.mark.parametrize("impact", ["I", "R"])
@pytest.mark.parametrize("group", ["labels", "given_labels"])
def test_statistics_are_those_of_the_whole_recording(tmp_path, layer, impact, group):
    """Bursts at uneven intervals, cut anywhere: behind the last record that is used nothing is known of its drive."""
    whole, reduced = both(tmp_path, class_frequencies=[0.5, 0.3, 0.2])
    with Recording(whole) as one, Recording(reduced) as other:
        for until in (None, 1, 2, 6, 20, 21, 40):
            for drive in ("filtered", "instantaneous", "auto"):
                options = {"group": group, "until": until, "drive": drive}
                expected = compute_statistics(one, layer, impact, **options)
                assert_same(compute_statistics(other, layer, impact, **options), expected)
        apart = [compute_statistics(other, layer, impact, drive=drive) for drive in ("filtered", "instantaneous")]
        assert np.abs(apart[0].contrast.direction_increment / apart[1].contrast.direction_increment - 1).max() > 0.01
        assert np.abs(apart[0].impact_persistence - apart[1].impact_persistence).max() > 1e-4


@pytest.mark.parametrize("steps", [np.arange(20), np.arange(20) + 3, 200 * np.arange(20)])
def test_how_dense_records_are_decides_when_a_fit_is_made(tmp_path, steps):
    whole, reduced = both(tmp_path, steps=steps)
    with Recording(whole) as one, Recording(reduced) as other:
        expected = compute_statistics(one, "fc2", "R")
        assert expected.drive == ("filtered" if steps[1] - steps[0] == 1 else "instantaneous")
        assert_same(compute_statistics(other, "fc2", "R"), expected)
        assert_same(compute_statistics(other, "fc2", "L"), compute_statistics(one, "fc2", "L"))  # never filtered


def test_standing_intervals_are_left_out_and_remembered(tmp_path):
    """Where the learning rate is zero no time passes, but the velocity goes on."""
    rates = np.where(np.isin(DENSE, [4, 6, 21]), 0.0, 0.1)
    whole, reduced = both(tmp_path, scalars={"lr": rates})
    with Recording(whole) as one, Recording(reduced) as other:
        expected = compute_statistics(one, "fc2", "R", time="learning_rate", drive="filtered")
        assert expected.missing.n_standing_intervals > 0
        assert_same(compute_statistics(other, "fc2", "R", time="learning_rate", drive="filtered"), expected)


def test_a_linear_network_gives_its_elasticity(tmp_path):
    """Increments at every step are along the filtered drive exactly, so least squares gives γ."""
    truth = LR * OWN / (1 - 0.9)
    with (
        train_linear(tmp_path / "run.h5", 0.9, np.arange(101)) as whole,
        Recording(reduce_recording(whole.path, tmp_path / "a.h5", Reduction(keep_per_class=2))) as reduced,
    ):
        assert least_squares(compute_statistics(reduced, "out", "R")) == pytest.approx(truth, rel=1e-5)
        plain = least_squares(compute_statistics(reduced, "out", "R", drive="instantaneous"))
    assert abs(plain / truth - 1) > 0.05


def test_a_live_recording_is_that_which_is_reduced_afterwards(tmp_path):
    model, provenance = network(), {"optimizer": "SGD", "momentum": 0.9}
    reduction = Reduction(layers=["2", "3"], keep_per_class=4)
    with (
        recorder(tmp_path / "whole.h5", model, provenance=provenance) as whole,
        recorder(tmp_path / "live.h5", model, provenance=provenance, reduce=reduction) as live,
    ):
        train_network([whole, live], model, momentum=0.9)
    afterwards = reduce_recording(tmp_path / "whole.h5", tmp_path / "afterwards.h5", Reduction(keep_per_class=4))
    with h5py.File(tmp_path / "live.h5") as one, h5py.File(afterwards) as other:
        names = []
        one["reduced"].visit(names.append)
        assert "3/R-given_labels/filtered/memory" in names
        assert not [name for name in names if "L-" in name and "filtered" in name]
        for name in names:
            if isinstance(one["reduced"][name], h5py.Dataset):
                np.testing.assert_array_equal(one["reduced"][name], other["reduced"][name], err_msg=name)
            else:
                assert dict(one["reduced"][name].attrs) == dict(other["reduced"][name].attrs)
    with Recording(tmp_path / "whole.h5") as one, Recording(tmp_path / "live.h5") as other:
        for layer, until in (("2", None), ("3", None), ("3", 16)):
            expected = compute_statistics(one, layer, "R", until=until)
            assert expected.drive == "filtered"
            assert_same(compute_statistics(other, layer, "R", until=until), expected)


@pytest.mark.parametrize(
    "provenance", [{}, {"momentum": 0.0}, {**PLAIN, "nesterov": True}, {**PLAIN, "dampening": 0.5}, {"momentum": "0.9"}]
)
def test_without_plain_momentum_nothing_is_filtered(tmp_path, provenance):
    whole, reduced = both(tmp_path, provenance=provenance)
    with h5py.File(reduced) as file:
        names = []
        file.visit(names.append)
        assert not [name for name in names if "filtered" in name]
    with Recording(whole) as one, Recording(reduced) as other:
        assert_same(compute_statistics(other, "fc2", "R"), compute_statistics(one, "fc2", "R"))


def test_files_that_hold_nothing_filtered_are_read_as_before(tmp_path):
    whole, reduced = both(tmp_path)
    with h5py.File(reduced, "r+") as file:
        for case in file["reduced/fc2"].values():
            case.pop("filtered", None)
        del file["reduced/samples"]
    with Recording(whole) as one, Recording(reduced) as other:
        expected = compute_statistics(one, "fc2", "R", drive="instantaneous")
        assert_same(compute_statistics(other, "fc2", "R", drive="instantaneous"), expected)
        for drive in ("auto", "filtered"):
            with pytest.raises(InputError, match=r"holds no impacts filtered .* use --drive instantaneous"):
                compute_statistics(other, "fc2", "R", drive=drive)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("another", "filtered by a momentum of 0.9, but 0.8 is recorded"),
        ("momentum", "attribute momentum of /reduced/fc2/R-labels/filtered is 'much'"),
        ("products", "filtered/products is missing"),
        ("not finite", "not finite"),
        ("other samples", "statistics are of nan of 30 samples at step 3"),
    ],
)
def test_damage_is_named(tmp_path, damage, message):
    _, reduced = both(tmp_path)
    with h5py.File(reduced, "r+") as file:
        node = file["reduced/fc2/R-labels/filtered"]
        if damage == "another":
            file.attrs["momentum"] = 0.8
        elif damage == "momentum":
            node.attrs["momentum"] = "much"
        elif damage == "products":
            del node["products"]
        elif damage == "not finite":
            node["impact"][2] = np.nan
        else:
            node["products"][3] = np.nan
    with Recording(reduced) as recording:
        assert momentum_filter(recording, "auto", "R", recording.steps) is not None
        with pytest.raises(InputError, match=message):
            compute_statistics(recording, "fc2", "R")
