"""A loss at which architectures are compared: which ones pass it, who is left out and why, and smoothing."""

from itertools import permutations

import numpy as np
import pytest
from compared_fits import EVERY, INTERVALS, made_up_fit, separating_recording

from data_tools.recording import Recording
from lesde_infer.equal_loss import NO_LEVEL, LossCurve, equal_loss


def loss_curve(first, last):
    values = np.geomspace(first, last, INTERVALS + 1)
    return LossCurve(np.arange(len(values)) * float(EVERY), values)


def test_the_loss_is_one_that_all_runs_pass():
    """Ranges [0.001, 1.1) and [0.3, 1.0) have [0.3, 1.0) in common; time is that at which exp(−at) is √0.3."""
    found = equal_loss({"fast": [loss_curve(1.1, 0.001)], "slow": [loss_curve(1.0, 0.3), loss_curve(1.0, 0.2)]})
    assert found.level == pytest.approx(np.sqrt(0.3))
    assert found.left_out == {}
    assert found.remarks == []
    assert found.times["slow"][0] == pytest.approx(0.5 * INTERVALS * EVERY, abs=EVERY)
    assert found.times["fast"][0] < found.times["slow"][1] < found.times["slow"][0]


def test_an_architecture_that_never_gets_there_is_left_out_alone():
    losses = {
        "a": [loss_curve(2.3, 0.01), loss_curve(2.3, 0.02)],
        "b": [loss_curve(2.3, 0.1)],
        "stuck": [loss_curve(2.3, 0.1), loss_curve(2.3, 2.29)],
    }
    found = equal_loss(losses)
    assert found.level == pytest.approx(np.sqrt(0.1 * 2.3))
    assert found.times["stuck"] == [None, None]
    assert found.left_out == {"stuck": "the loss of 1 of 2 runs never falls to 0.48 nats"}
    assert found.remarks == ["stuck is not compared at equal loss: the loss of 1 of 2 runs never falls to 0.48 nats"]
    for order in permutations(losses):
        assert equal_loss({name: losses[name] for name in order}).level == found.level


def test_of_equally_many_the_widest_range_counts():
    """Two and two share a range: [0.01, 0.1) and [1, 2), ln 10 against ln 2."""
    spans = {"a": (0.1, 0.01), "b": (0.1, 0.01), "c": (2.0, 1.0), "d": (2.0, 1.0)}
    found = equal_loss({name: [loss_curve(*span)] for name, span in spans.items()})
    assert found.level == pytest.approx(np.sqrt(0.1 * 0.01))
    assert set(found.left_out) == {"c", "d"}
    assert found.left_out["c"] == "the loss of 1 of 1 runs never falls to 0.0316 nats"


def test_who_starts_below_a_level_or_has_no_loss_is_named():
    losses = {"known": [loss_curve(2.0, 0.1)], "late": [loss_curve(0.4, 0.1)], "blind": [loss_curve(2.0, 0.1), None]}
    found = equal_loss(losses, 0.5)
    assert found.level == 0.5
    assert found.times["known"][0] is not None
    assert found.times["blind"] == [None, None]
    assert "0.4 nats at the start, not above 0.5" in found.left_out["late"]
    assert found.left_out["blind"] == "the loss of a run is not known"


@pytest.mark.parametrize(
    "losses",
    [
        {"a": [loss_curve(2.0, 0.1)], "b": [None]},
        {"a": [loss_curve(2.0, 1.0)], "b": [loss_curve(0.9, 0.1)]},
        {"a": [loss_curve(2.0, 1.0)], "b": [loss_curve(2.0, 3.0)]},  # rises
        {"a": [loss_curve(2.0, 1.0)], "b": [LossCurve(np.arange(3.0), np.array([1.5, 0.0, 0.0]))]},  # no logarithm
    ],
)
def test_where_no_two_pass_a_loss_there_is_none(losses):
    found = equal_loss(losses)
    assert found.level is None
    assert found.times == {"a": [None], "b": [None]}
    assert found.remarks == [NO_LEVEL]


def test_one_quiet_record_does_not_make_the_loss_low(tmp_path):
    loss = np.geomspace(1.0, 0.1, INTERVALS + 1)
    spiked = loss.copy()
    spiked[3] = 0.001
    found = []
    for name, values in (("smooth", loss), ("spiked", spiked)):
        with Recording(separating_recording(tmp_path / f"{name}.h5", 400, loss=values)) as recording:
            found.append(LossCurve.of(made_up_fit(0.1), recording).time_of(0.3))
    assert found[0] == found[1]


def test_a_loss_that_is_not_there_is_not_made_up(tmp_path):
    assert LossCurve.of(made_up_fit(0.1), None) is None
    with Recording(separating_recording(tmp_path / "none.h5", 400)) as recording:
        assert LossCurve.of(made_up_fit(0.1), recording) is None
    loss = np.full(INTERVALS + 1, np.nan)
    with Recording(separating_recording(tmp_path / "nan.h5", 400, loss=loss)) as recording:
        assert LossCurve.of(made_up_fit(0.1), recording) is None
