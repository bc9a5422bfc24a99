"""Reduced recordings of training that is broken off and resumed."""

import copy
import json
import re
import warnings
from dataclasses import fields

import h5py
import numpy as np
import pytest
import torch
from test_reduced_recorder import network, probe, recorder
from torch import nn

from data_tools.errors import InputError
from data_tools.recording import Recording
from data_tools.recording_schema import encode_name
from lesde_infer.cli.application import main
from lesde_infer.inference import fit
from lesde_infer.reduction import Reduction
from lesde_infer.statistics import compute_statistics

N_STEPS = 30
PLAIN = {"optimizer": "SGD", "momentum": 0.9}


class Training:
    """A training that can be broken off after any step, and goes on from the last checkpoint."""

    def __init__(self, path, reduction=None, **options):
        self.path, self.options = path, {"provenance": PLAIN, **options}
        self.reduction = {"layers": ["2", "3"], "keep_per_class": 4, **(reduction or {})}
        self.model = network()
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1, momentum=0.9)
        self.n_steps = 0

    def run(self, until, checkpoint_at=None, **options):
        """Train on, and go back to the checkpoint if there is one."""
        inputs, _, given = probe()
        state = None
        options = {"reduce": Reduction(**self.reduction), **self.options, **options}
        with recorder(self.path, self.model, **options) as running:
            while self.n_steps < until:
                chosen = torch.arange(8 * self.n_steps, 8 * self.n_steps + 8) % len(inputs)
                self.optimizer.zero_grad()
                nn.functional.cross_entropy(self.model(inputs[chosen]), given[chosen]).backward()
                self.optimizer.step()
                self.n_steps += 1
                running.step()
                if self.n_steps == checkpoint_at:
                    running.flush()
                    state = copy.deepcopy((self.model.state_dict(), self.optimizer.state_dict()))
        if state is not None:
            self.model.load_state_dict(state[0])
            self.optimizer.load_state_dict(state[1])
            self.n_steps = checkpoint_at

    def resume(self, until, **options):
        self.run(until, resume=True, resume_at=self.n_steps, **options)


def unbroken(path, reduction=None, **options):
    Training(path, reduction, **options).run(N_STEPS)
    return path


def contents(path):
    found = {}
    with h5py.File(path) as file:
        file.visititems(lambda name, node: found.update({name: node[()]} if isinstance(node, h5py.Dataset) else {}))
        file.visititems(lambda name, node: found.update({f"{name} attributes": dict(node.attrs)}))
    return found


@pytest.mark.parametrize(("at", "until"), [(0, 5), (1, 2), (15, 20), (16, 29)])
def test_at_a_record_nothing_is_lost(tmp_path, at, until):
    """Broken off at ``until``, and resumed at a record, at either end of a burst: the file of a run that was not."""
    whole = unbroken(tmp_path / "whole.h5")
    training = Training(tmp_path / "run.h5")
    if at == 0:
        training.run(until)
        training = Training(tmp_path / "run.h5")
    else:
        training.run(until, checkpoint_at=at)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        training.resume(N_STEPS)
    one, other = contents(whole), contents(tmp_path / "run.h5")
    assert "reduced/3/R-labels/filtered/memory" in one
    assert one.keys() == other.keys()
    for name, value in one.items():
        np.testing.assert_array_equal(other[name], value, err_msg=name)


def test_a_run_is_broken_off_more_than_once(tmp_path):
    whole = unbroken(tmp_path / "whole.h5")
    training = Training(tmp_path / "run.h5")
    training.run(7, checkpoint_at=6)
    training.resume(8, checkpoint_at=7)
    training.resume(N_STEPS)
    one, other = contents(whole), contents(tmp_path / "run.h5")
    for name, value in one.items():
        np.testing.assert_array_equal(other[name], value, err_msg=name)


AROUND_RESTARTS = {"impact_persistence", "interval_loss"}
"""Taken over neighbouring intervals, of which there is one less."""


@pytest.mark.parametrize("drive", ["filtered", "instantaneous"])
@pytest.mark.parametrize("layer", ["2", "3"])
def test_between_records_one_interval_is_left_out_and_named(tmp_path, drive, layer):
    """Records are at 0, 1, 3, 4, 6, …; what was recorded beyond the checkpoint at 14 was at 15 and 16."""
    whole = unbroken(tmp_path / "whole.h5")
    training = Training(tmp_path / "run.h5")
    training.run(17, checkpoint_at=14)
    message = r"resumed at step 14, where there is no record: fits leave out the interval from step 13 on; save checkp"
    with pytest.warns(UserWarning, match=message):
        training.resume(N_STEPS)
    with Recording(whole) as one, Recording(tmp_path / "run.h5") as other:
        np.testing.assert_array_equal(other.steps, one.steps)
        lost = one.steps.tolist().index(13)
        expected, found = (compute_statistics(run, layer, "R", drive=drive) for run in (one, other))
        np.testing.assert_array_equal(found.starts, np.delete(expected.starts, lost))
        missing = found.missing
        assert (missing.n_restarted_intervals, missing.start_step, missing.stop_step) == (1, 13, 15)
        assert (missing.n_left_out, missing.n_dropped_intervals) == (1, 0)
        assert "1 interval was dropped, in which training was resumed" in missing.sentence
        for part in ("contrast", "shared", "pattern"):
            for field in fields(getattr(expected, part)):
                value = np.asarray(getattr(getattr(expected, part), field.name))
                if value.ndim:
                    own = getattr(getattr(found, part), field.name)
                    np.testing.assert_array_equal(own, np.delete(value, lost, axis=0), err_msg=f"{part}.{field.name}")
        np.testing.assert_array_equal(found.impact_f, np.delete(expected.impact_f, lost))
        np.testing.assert_array_equal(found.mean_square, expected.mean_square)
        assert found.gamma_sampling_error == expected.gamma_sampling_error
        before = {"until": 13, "drive": drive}
        assert compute_statistics(other, layer, "R", **before).missing.is_complete
        for name in AROUND_RESTARTS:
            own = getattr(compute_statistics(other, layer, "R", **before), name)
            np.testing.assert_allclose(own, getattr(compute_statistics(one, layer, "R", **before), name), rtol=1e-12)
            assert np.isfinite(getattr(found, name)).all()


def test_inspection_names_what_is_held_and_what_is_lost(tmp_path, capsys):
    training = Training(tmp_path / "run.h5")
    training.run(17, checkpoint_at=14)
    with pytest.warns(UserWarning, match="no record"):
        training.resume(N_STEPS)
    assert main(["inspect", str(tmp_path / "run.h5"), "--json", "-"]) == 0
    reduced = json.loads(capsys.readouterr().out)["reduced"]
    assert reduced["restarted_intervals"] == [{"first_step": 13, "last_step": 15}]
    with Recording(tmp_path / "run.h5") as recording:
        for case in reduced["cases"]:
            choice = (case["layer"], case["impact"], case["group"])
            assert recording.reduced(*choice, filtered=case["momentum"] is not None).momentum == case["momentum"]
        assert {case["momentum"] for case in reduced["cases"]} == {None, 0.9}  # impact L has no filtered drive
    assert main(["inspect", str(tmp_path / "run.h5")]) == 0
    assert re.search(
        r"resumed +between records 1 times, which fits leave out: from step 13 to 15\n", capsys.readouterr().out
    )
    with h5py.File(tmp_path / "run.h5", "r+") as file:
        case = next(case for case in reduced["cases"] if case["momentum"] is not None)
        name = f"reduced/{encode_name(case['layer'])}/{case['impact']}-{case['group']}/filtered"
        file[name].attrs["momentum"] = "much"
    assert main(["inspect", str(tmp_path / "run.h5")]) == 0
    assert "NOT USABLE: attribute momentum of" in capsys.readouterr().out


def test_where_a_restart_is_the_whole_record_it_is_named(tmp_path):
    training = Training(tmp_path / "run.h5", every=5, burst=1)
    training.run(4, checkpoint_at=3)
    with pytest.warns(UserWarning, match="no record"):
        training.resume(6)
    with Recording(tmp_path / "run.h5") as recording:  # noqa: SIM117
        with pytest.raises(InputError, match=r"no interval is left .* resumed"):
            compute_statistics(recording, "3", "R")


@pytest.mark.slow
@pytest.mark.xdist_group("reduction")
def test_a_fit_goes_on_without_it_and_flags_it(tmp_path):
    training = Training(tmp_path / "run.h5")
    training.run(17, checkpoint_at=14)
    with pytest.warns(UserWarning, match="no record"):
        training.resume(N_STEPS)
    found = fit(tmp_path / "run.h5", curve="constant", n_draws=50, n_chains=2, seed=0, allow_unconverged=True)
    flag = next(flag for flag in found.flags if flag.name == "missing_data")
    assert (flag.start_step, flag.stop_step) == (13, 15)
    assert found.to_json()["missing"]["n_restarted_intervals"] == 1


def test_another_network_than_was_recorded_is_told(tmp_path):
    training = Training(tmp_path / "run.h5")
    training.run(17, checkpoint_at=15)
    with torch.no_grad():
        training.model[3].bias += 1e-3
    with pytest.warns(UserWarning, match=r"features of layer 3 differ by up to 0.001 .* restore the checkpoint"):
        training.resume(N_STEPS)
    with Recording(tmp_path / "run.h5") as recording:
        missing = compute_statistics(recording, "3", "R").missing
    assert (missing.n_restarted_intervals, missing.start_step, missing.stop_step) == (1, 15, 16)


def test_rounding_of_another_machine_is_no_other_network(tmp_path):
    training = Training(tmp_path / "run.h5")
    training.run(17, checkpoint_at=15)
    with torch.no_grad():
        training.model[3].bias *= 1 + 3e-7
    training.resume(N_STEPS)
    with Recording(tmp_path / "run.h5") as recording:
        assert compute_statistics(recording, "3", "R").missing.is_complete


@pytest.mark.parametrize(
    ("reduction", "options", "message"),
    [
        ({"seed": 1}, {}, "differs in the samples kept"),
        ({"keep_per_class": 5}, {}, "differs in the samples kept"),
        ({"impacts": ["R"]}, {}, "differs in the statistics kept"),
        ({}, {"provenance": {**PLAIN, "momentum": 0.8}}, "differs in the momentum"),
        ({}, {"provenance": {}}, "differs in the statistics kept"),
        ({}, {"reduce": None}, "differs in the kind of recording: reduced then, whole now"),
    ],
)
def test_what_was_reduced_otherwise_is_not_resumed(tmp_path, reduction, options, message):
    Training(tmp_path / "run.h5").run(10)
    before = (tmp_path / "run.h5").read_bytes()
    with pytest.raises(InputError, match=message):
        Training(tmp_path / "run.h5", reduction, **options).resume(12)
    assert (tmp_path / "run.h5").read_bytes() == before


def test_a_whole_recording_is_not_resumed_reduced(tmp_path):
    Training(tmp_path / "run.h5").run(10, reduce=None)
    with pytest.raises(InputError, match="differs in the kind of recording: whole then, reduced now"):
        Training(tmp_path / "run.h5").resume(12)


def test_files_that_do_not_say_which_samples_they_keep_are_not_resumed(tmp_path):
    Training(tmp_path / "run.h5").run(10)
    with h5py.File(tmp_path / "run.h5", "r+") as file:
        del file["reduced/samples"]
    with pytest.raises(InputError, match="did not keep what resuming takes; record to another file"):
        Training(tmp_path / "run.h5").resume(12)
