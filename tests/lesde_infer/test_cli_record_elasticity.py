"""``lesde record`` measures elasticity when told, and only then."""

import pytest

from data_tools import Recording
from lesde_infer.cli import main

pytest.importorskip("torch", reason="recording needs PyTorch")
SMALL = ["--dataset", "digits", "--architecture", "linear", "--steps", "4", "--n-classes", "3"]


def test_record_measures_when_told(tmp_path, capsys):
    plain, measured = tmp_path / "plain.h5", tmp_path / "measured.h5"
    few = [*SMALL, "--train-per-class", "20", "--probe-per-class", "5", "--validation-per-class", "5"]
    assert main(["record", "--out", str(plain), *few]) == 0
    assert main(["record", "--out", str(measured), *few, "--measure-elasticity-every", "2"]) == 0
    with Recording(plain) as without, Recording(measured) as recording:
        assert without.elasticity("fc3") is None
        assert "elasticity_repeats" not in without.provenance
        assert recording.provenance["elasticity_repeats"] == 10
        assert recording.elasticity("fc3").steps.tolist() == [0, 2, 4]
        assert recording.elasticity("fc3").onestep.shape == (3, 3, 10, 3, 3)
    capsys.readouterr()


def test_impossible_intervals_are_refused(tmp_path, capsys):
    assert main(["record", "--out", str(tmp_path / "run.h5"), *SMALL, "--measure-elasticity-every", "0"]) == 2
    error = capsys.readouterr().err
    assert "measure-elasticity-every" in error
    assert error.count("\n") == 1
