"""Many recordings: broken ones among them, a fleet broken off, a process killed."""

import json
import os
import signal
from concurrent.futures import ProcessPoolExecutor
from functools import wraps
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from core_helpers import make_run

import lesde_infer as li
from data_tools.errors import InputError
from lesde_infer import fleet, fleet_run
from lesde_infer.cli import main
from lesde_infer.fleet import find_recordings, fit_many
from lesde_infer.fleet_run import FleetRun
from lesde_infer.kept_fits import fit_files, kept_fit

pytestmark = pytest.mark.xdist_group("fleet")  # one worker, whose fits all tests share
QUICK = {"curve": "constant", "impact": "I", "layer": "hidden", "within": "isotropic", "n_draws": 100}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two recordings that can be fitted, one that is damaged, and one that is too short."""
    folder = tmp_path_factory.mktemp("runs")
    for seed in range(2):
        make_run(3, 3, n_records=30, seed=seed).write(folder / f"run{seed}.h5").close()
    (folder / "torn.h5").write_bytes((folder / "run0.h5").read_bytes()[:2_000])
    make_run(3, 3, n_records=3, seed=5).write(folder / "short.h5").close()
    return folder


@pytest.fixture(scope="module")
def fitted(runs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("fits")
    seen = []
    return folder, fit_many([runs], folder, each=seen.append, allow_unconverged=True, **QUICK), seen


@pytest.mark.slow
def test_what_fails_is_named_and_the_rest_is_fitted(fitted, runs):
    folder, found, seen = fitted
    status = {run.recording.name: run.status for run in found.runs}
    assert status == {
        "run0.h5": "fitted",
        "run1.h5": "fitted",
        "short.h5": "refused",
        "torn.h5": "refused",
    }
    assert [run.recording for run in seen] == [run.recording for run in found.runs]
    assert {path.name for path in folder.iterdir()} == {"run0.nc", "run1.nc"}
    messages = {run.recording.name: run.message for run in found.runs}
    assert "record" in messages["short.h5"]
    assert str(runs / "torn.h5") in messages["torn.h5"]
    assert li.load(folder / "run1.nc").n_classes == 3
    result = found.to_json()
    assert (result["n_runs"], result["n_fitted"], result["n_refused"]) == (4, 2, 2)
    assert result["runs"][0]["gamma_end"]["q05"] < result["runs"][0]["gamma_end"]["q95"]
    json.dumps(result)


@pytest.mark.slow
def test_what_was_fitted_is_not_fitted_again_and_gives_the_same_numbers(fitted, runs, monkeypatch):
    folder, first, _ = fitted

    @wraps(li.fit)  # with its defaults, by which kept fits are known
    def never(*_args, **_options):
        raise AssertionError("fitted again")

    monkeypatch.setattr("lesde_infer.inference.fit", never)
    chosen = [runs / f"run{seed}.h5" for seed in range(2)]
    again = fit_many(chosen, folder, allow_unconverged=True, **QUICK)
    assert [run.status for run in again.runs] == ["kept"] * 2
    assert [run.summary for run in again.runs] == [run.summary for run in first.runs[:2]]


@pytest.mark.slow
def test_a_fit_that_is_there_with_other_settings_is_not_taken_for_it(fitted, runs):
    folder, _, _ = fitted
    found = fit_many([runs / "run0.h5"], folder, **{**QUICK, "curve": "power"})
    assert found.runs[0].status == "refused"
    assert "was fitted with curve constant, not power" in found.runs[0].message
    others = {name: value for name, value in QUICK.items() if name != "curve"}
    assert "was fitted with curve constant, not gp" in fit_many([runs / "run0.h5"], folder, **others).runs[0].message
    with pytest.raises(InputError, match="of another recording"):
        kept_fit(folder / "run0.nc", runs / "torn.h5", {})


@pytest.mark.slow
def test_a_fit_is_the_one_that_would_be_made_alone(fitted, runs):
    folder, _, _ = fitted
    alone = li.fit(runs / "run1.h5", allow_unconverged=True, **QUICK)
    np.testing.assert_array_equal(alone.posterior["gamma"], li.load(folder / "run1.nc").posterior["gamma"])


def test_what_cannot_be_fitted_is_named(runs, tmp_path, capsys):
    only_bad = [runs / "torn.h5", runs / "short.h5"]
    found = fit_many(only_bad, tmp_path / "fits", **QUICK)
    assert [run.status for run in found.runs] == ["refused", "refused"]
    assert all(str(path) in run.message for path, run in zip(only_bad, found.runs, strict=True))
    assert not list((tmp_path / "fits").iterdir())
    arguments = ["--out-dir", str(tmp_path / "fits"), "--impact", "I", "--layer", "hidden"]
    assert main(["fit", *map(str, only_bad), *arguments]) == 2
    assert "0 of 2 recordings have a fit" in capsys.readouterr().out


def test_recordings_are_found_by_file_and_by_folder_each_once(runs, tmp_path):
    found = find_recordings([runs / "run1.h5", runs])
    assert [path.name for path in found] == ["run1.h5", "run0.h5", "short.h5", "torn.h5"]
    with pytest.raises(InputError, match="no such file"):
        find_recordings([tmp_path / "none.h5"])
    with pytest.raises(InputError, match="holds no recording"):
        find_recordings([tmp_path])
    with pytest.raises(InputError, match="no recording to fit"):
        find_recordings([])


@pytest.mark.parametrize("allowed", [False, True])
def test_a_kept_fit_that_did_not_converge_is_taken_where_that_is_allowed(runs, tmp_path, monkeypatch, allowed):
    summary = {**dict.fromkeys(fleet_run.SHOWN), "converged": False}
    monkeypatch.setattr(fleet_run, "kept_fit", lambda *_: SimpleNamespace(to_json=lambda: summary))
    (tmp_path / "run0.nc").touch()
    (found,) = fit_many([runs / "run0.h5"], tmp_path, allow_unconverged=allowed).runs
    assert found.status == ("kept" if allowed else "not converged")
    assert (found.fit is not None) == allowed
    assert "did not converge" in found.message


def test_names_that_repeat_get_that_of_their_folder():
    files = fit_files([Path("/a/run.h5"), Path("/b/run.h5"), Path("/a/other.h5")], Path("fits"))
    assert [file.name for file in files.values()] == ["a-run.nc", "b-run.nc", "other.nc"]
    with pytest.raises(InputError, match="would both be kept as"):
        fit_files([Path("/x/a/run.h5"), Path("/y/a/run.h5")], Path("fits"))


def test_a_folder_that_cannot_be_made_is_named(runs, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="file/fits: cannot be made"):
        fit_many([runs], tmp_path / "file" / "fits")


def test_fewer_workers_than_one_are_refused(runs, tmp_path):
    with pytest.raises(InputError, match="workers is 0"):
        fit_many([runs], tmp_path, workers=0)


def die_at_torn(path, target, settings, *, force, progress):
    """Fit nothing; the process of one recording is killed, as by a system that has no memory left."""
    if path.stem == "torn":
        os.kill(os.getpid(), signal.SIGKILL)
    return FleetRun(path, "fitted", target, 0.0, "", {})


def test_a_process_that_is_killed_takes_only_its_own_run_with_it(runs, tmp_path, monkeypatch):
    monkeypatch.setattr(fleet, "fit_one", die_at_torn)
    found = fit_many([runs], tmp_path, workers=2, **QUICK)
    status = {run.recording.stem: run.status for run in found.runs}
    assert status.pop("torn") == "failed"
    assert set(status.values()) == {"fitted"}
    assert len(status) == 3
    assert "died twice" in next(run.message for run in found.runs if run.recording.stem == "torn")


def interrupt_at_second(path, target, settings, *, force, progress):
    if path.stem == "run1":
        raise KeyboardInterrupt
    return FleetRun(path, "fitted", target, 0.0, "", {})


def test_an_interrupted_fleet_ends_at_once_and_leaves_no_process(runs, tmp_path, monkeypatch):
    monkeypatch.setattr(fleet, "fit_one", interrupt_at_second)
    started = []

    class Counted(ProcessPoolExecutor):
        def __init__(self, *args, **options):
            started.append(self)
            super().__init__(*args, **options)

    monkeypatch.setattr(fleet, "ProcessPoolExecutor", Counted)
    with pytest.raises(KeyboardInterrupt):
        fit_many([runs], tmp_path, workers=2, **QUICK)
    assert len(started) == 1


def arguments(runs, folder):
    return [
        *("fit", str(runs), "--out-dir", str(folder), "--curve", "constant", "--impact", "I", "--layer", "hidden"),
        *("--within", "isotropic", "--allow-unconverged"),
    ]


@pytest.mark.slow
def test_the_command_says_what_came_of_each(fitted, runs, tmp_path, capsys):
    folder, _, _ = fitted
    target = tmp_path / "fleet.json"
    assert main([*arguments(runs, folder), "--json", str(target)]) == 1
    printed = capsys.readouterr()
    assert "2 of 4 recordings have a fit" in printed.out
    assert "torn.h5" in printed.err
    assert json.loads(target.read_text())["n_fitted"] == 2
    only_bad = tmp_path / "bad"
    only_bad.mkdir()
    (only_bad / "torn.h5").write_bytes((runs / "torn.h5").read_bytes())
    assert main(arguments(only_bad, folder)) == 2


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["a.h5", "b.h5"], "say with --out-dir"),
        (["a.h5", "--out-dir", "fits", "--out", "fit.nc"], "--out and --csv are for one recording"),
        (["nowhere.h5", "--out-dir", "fits"], "nowhere.h5: no such file"),
    ],
)
def test_the_command_refuses_what_makes_no_sense(given, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["fit", *given]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "fits").exists()
