"""`lesde calibrate`: its table, files and exit codes, with simulations made up; and bad input."""

import json

import pytest
from test_calibration import made_up

from lesde_infer import calibration
from lesde_infer.calibration_plots import PICTURES
from lesde_infer.cli import main


@pytest.fixture
def calibrates(monkeypatch):
    """Return a function that makes every calibration give a result of our own, and the arguments it was called with."""
    called = []

    def give(result):
        def run(template, **options):
            called.append((template, options))
            return result

        monkeypatch.setattr(calibration, "calibrate", run)
        return called

    return give


RIGHT = ("right", "right as well")


def all_right(n_simulations=40):
    result = made_up(n_simulations, RIGHT)
    for simulation in result.simulations:
        simulation.rank[1] = simulation.rank[0]
    return result


def test_calibrated_is_success(calibrates, tmp_path, capsys):
    called = calibrates(all_right())
    target = tmp_path / "c.json"
    arguments = ["--curve", "constant", "--simulations", "40", "--seed", "3", "--burst", "2", "--json", str(target)]
    assert main(["calibrate", *arguments]) == 0
    captured = capsys.readouterr()
    assert "in 90 %" in captured.out
    assert "calibrated" in captured.out
    assert "1 of 40 fits missed a limit" in captured.out
    assert captured.err == ""
    found = json.loads(target.read_text())
    assert found["calibrated"]
    assert found["quantities"]["right"]["coverage"].keys() == {"0.5", "0.8", "0.9", "0.95"}
    template, options = called[0]
    assert (template.curve, template.mixed, template.statistics.impact) == ("constant", True, "R")
    assert (options["n_simulations"], options["seed"], options["journal"]) == (40, 3, None)


def test_miscalibrated_is_failure_that_is_named(calibrates, tmp_path, capsys):
    calibrates(made_up(200))
    target = tmp_path / "c.json"
    assert main(["calibrate", "--curve", "constant", "--json", str(target)]) == 1
    captured = capsys.readouterr()
    assert captured.err == "lesde: 1 of 2 quantities are miscalibrated: narrow (too narrow)\n"
    assert json.loads(target.read_text())["quantities"]["narrow"]["verdict"] == "too narrow"


def test_folder_is_made_and_pictures_are_drawn(calibrates, tmp_path):
    called = calibrates(all_right())
    folder = tmp_path / "new"
    assert main(["calibrate", "--curve", "constant", "--out-dir", str(folder)]) == 0
    assert sorted(path.name for path in folder.iterdir()) == sorted(PICTURES)
    assert called[0][1]["journal"] == folder / "simulations.jsonl"
    assert main(["calibrate", "--curve", "constant", "--out-dir", str(folder)]) == 0  # goes on where it was


def test_a_recording_is_the_template(calibrates, tmp_path):
    called = calibrates(all_right())
    path = tmp_path / "run.h5"
    options = ["--steps", "200", "--every", "10", "--samples-per-class", "5", "--n-classes", "4"]
    assert main(["simulate", "--out", str(path), *options]) == 0
    assert main(["calibrate", str(path), "--curve", "constant", "--impact", "L", "--until", "100"]) == 0
    statistics = called[0][0].statistics
    assert (statistics.n_classes, statistics.impact, statistics.steps[-1]) == (
        4,
        "L",
        101 if 101 in statistics.steps else 100,
    )


class TestBadInput:
    @pytest.fixture(autouse=True)
    def nothing_is_simulated(self, monkeypatch):
        def never(*args, **options):
            raise AssertionError("nothing should be simulated")

        monkeypatch.setattr(calibration, "calibrate", never)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--simulations", "1"], "Invalid value for '--simulations'"),
            (["--chains", "1"], "Invalid value for '--chains'"),
            (["--seed", "-1"], "Invalid value for '--seed'"),
            (["--curve", "spline"], "Invalid value for '--curve'"),
            (["--layer", "fc3"], "--layer, --group and --until are about a recording; give its FILE too"),
            (["--until", "100"], "--layer, --group and --until are about a recording"),
            (["none.h5"], "none.h5: no such file"),
            (["none.h5", "--burst", "2"], "--burst is about the simulated template"),
        ],
    )
    def test_is_refused_in_one_line(self, arguments, message, capsys):
        assert main(["calibrate", *arguments]) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        assert captured.err.count("\n") == 1
        assert message in captured.err

    def test_folder_that_is_a_file(self, tmp_path, capsys):
        path = tmp_path / "notes"
        path.write_text("")
        assert main(["calibrate", "--out-dir", str(path)]) == 2
        assert "notes: is a file; name a folder with --out-dir" in capsys.readouterr().err

    def test_json_that_exists(self, tmp_path, capsys):
        path = tmp_path / "c.json"
        path.write_text("{}")
        assert main(["calibrate", "--json", str(path)]) == 2
        assert "c.json: exists already" in capsys.readouterr().err

    def test_recording_too_short_for_the_curve(self, tmp_path, capsys):
        path = tmp_path / "run.h5"
        options = ["--steps", "40", "--every", "10", "--samples-per-class", "5"]
        assert main(["simulate", "--out", str(path), *options]) == 0
        capsys.readouterr()
        assert main(["calibrate", str(path)]) == 2
        assert "records are too few for curve 'gp'" in capsys.readouterr().err


def test_too_few_draws(capsys):
    assert main(["calibrate", "--curve", "constant", "--draws", "50"]) == 2
    assert "2 chains of 50 draws are fewer than the 119" in capsys.readouterr().err


def test_journal_of_another_calibration(tmp_path, capsys):
    (tmp_path / "simulations.jsonl").write_text('{"format": "lesde-calibration", "version": 1, "settings": {}}\n')
    assert main(["calibrate", "--curve", "constant", "--out-dir", str(tmp_path)]) == 2
    captured = capsys.readouterr()
    assert "holds simulations of another calibration" in captured.err
    assert "--force" in captured.err
