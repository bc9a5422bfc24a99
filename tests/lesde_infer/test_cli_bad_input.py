"""Bad input to any command: exit code 2, one line on standard error that says what, where and how, and no file."""

import shutil

import h5py
import numpy as np
import pytest

from data_tools import write_recording
from lesde_infer.cli import main

STEPS = 40


def write(path, *, steps=None, labels=None, features=None, logits="fc3", n_classes=3, **options):
    """Write a small recording whose class means move apart."""
    rng = np.random.default_rng(0)
    steps = np.arange(STEPS) if steps is None else steps
    labels = np.repeat(np.arange(n_classes), 4) if labels is None else np.asarray(labels)
    if features is None:
        drift = np.eye(n_classes)[labels % n_classes] * np.arange(len(steps))[:, None, None] / 10
        features = drift + rng.normal(size=(len(steps), len(labels), n_classes))
    return write_recording(path, steps, labels, {"fc3": features}, logits=logits, **options)


@pytest.fixture
def recording(tmp_path):
    return write(tmp_path / "run.h5")


@pytest.fixture
def fails(capsys):
    """Return a function that runs a command, and gives its one line of complaint."""

    def run(*arguments, code=2):
        assert main([str(argument) for argument in arguments]) == code
        captured = capsys.readouterr()
        assert captured.out == ""
        assert captured.err.count("\n") == 1, captured.err
        assert captured.err.startswith("lesde: ")
        assert "Traceback" not in captured.err
        return captured.err

    return run


def edit(path, change):
    with h5py.File(path, "r+") as file:
        change(file)
    return path


def replace(file, name, values):
    del file[name]
    file[name] = values


COMMANDS = [("fit",), ("inspect",), ("moments",), ("select",), ("forecast", "--at", "0.5")]


@pytest.mark.parametrize("command", COMMANDS)
class TestFilesThatAreNoRecordings:
    def test_no_file(self, fails, tmp_path, command):
        message = fails(*command, tmp_path / "none.h5")
        assert "none.h5: no such file" in message
        assert "lesde record" in message

    def test_folder(self, fails, tmp_path, command):
        assert "is a folder" in fails(*command, tmp_path)

    def test_not_hdf5(self, fails, tmp_path, command):
        path = tmp_path / "notes.h5"
        path.write_text("step,loss\n0,1.1\n")
        assert "notes.h5: not an HDF5 file" in fails(*command, path)

    def test_another_hdf5(self, fails, tmp_path, command):
        path = tmp_path / "other.h5"
        with h5py.File(path, "w") as file:
            file["x"] = np.zeros(3)
        assert "other.h5: an HDF5 file, but not a recording" in fails(*command, path)

    def test_truncated(self, fails, recording, command):
        content = recording.read_bytes()
        recording.write_bytes(content[: len(content) // 2])
        assert "run.h5: truncated" in fails(*command, recording)

    def test_zero_records(self, fails, recording, command):
        edit(recording, lambda file: replace(file, "committed", np.int64(0)))
        assert "holds no records" in fails(*command, recording)

    def test_one_class(self, fails, recording, command):
        edit(recording, lambda file: [replace(file, name, np.zeros(12, int)) for name in ("labels", "given_labels")])
        assert "holds one class only" in fails(*command, recording)

    def test_a_class_with_one_sample(self, fails, recording, command):
        labels = np.array([0] * 6 + [1] * 5 + [2])
        edit(recording, lambda file: [replace(file, name, labels) for name in ("labels", "given_labels")])
        assert "class 2 has only one sample" in fails(*command, recording)

    def test_steps_that_do_not_increase(self, fails, recording, command):
        def repeat(file):
            file["step"][7] = file["step"][6]

        edit(recording, repeat)
        message = fails(*command, recording)
        assert "/step must strictly increase" in message
        assert "record 7 is at step 6" in message

    def test_fewer_logits_than_classes(self, fails, recording, command):
        edit(
            recording, lambda file: replace(file, "features/fc3", np.random.default_rng(0).normal(size=(STEPS, 12, 2)))
        )
        message = fails(*command, recording)
        assert "/labels holds 2 at sample 8, outside 0 … 1" in message

    def test_more_logits_than_classes(self, fails, recording, command):
        edit(
            recording, lambda file: replace(file, "features/fc3", np.random.default_rng(0).normal(size=(STEPS, 12, 4)))
        )
        assert "class 3 has no sample" in fails(*command, recording)

    def test_names_in_the_file_cannot_write_to_the_terminal(self, fails, recording, command):
        def rename(file):
            file.attrs["logits_layer"] = "fc\x1b[31m\n9"

        edit(recording, rename)
        message = fails(*command, recording)
        assert "\x1b" not in message
        assert "fc3" in message


class TestWhatCannotBeFitted:
    @pytest.mark.parametrize("bad", [np.nan, np.inf])
    def test_features_that_are_not_finite(self, fails, recording, bad):
        def spoil(file):
            file["features/fc3"][20:, :2, 1] = bad

        edit(recording, spoil)
        message = fails("fit", recording)
        assert "layer fc3 holds 2 values that are infinite or not a number at step 20" in message
        assert "--until 19" in message

    @pytest.mark.parametrize("curve", ["gp", "power", "constant"])
    def test_features_that_never_change(self, fails, recording, curve):
        edit(recording, lambda file: replace(file, "features/fc3", np.ones((STEPS, 12, 3))))
        assert "fc3" in fails("fit", recording, "--curve", curve)

    def test_a_layer_that_was_not_recorded(self, fails, recording):
        message = fails("fit", recording, "--layer", "fc7")
        assert "'fc7'" in message
        assert "fc3" in message

    def test_several_layers_and_no_logits(self, fails, tmp_path):
        labels, noise = np.repeat([0, 1], 3), np.random.default_rng(0).normal(size=(STEPS, 6, 5))
        path = write_recording(tmp_path / "two.h5", np.arange(STEPS), labels, {"first": noise, "second": noise})
        message = fails("fit", path, "--impact", "I")
        assert "--layer" in message
        assert "first, second" in message

    @pytest.mark.parametrize(("curve", "records"), [("gp", 12), ("power", 6), ("constant", 3)])
    def test_too_few_records_for_a_curve(self, fails, tmp_path, curve, records):
        message = fails("fit", write(tmp_path / "short.h5", steps=np.arange(records)), "--curve", curve)
        assert f"{records} records are too few for curve '{curve}'" in message

    def test_too_few_records_up_to_a_step(self, fails, recording):
        assert "too few" in fails("fit", recording, "--until", "5")
        assert "at least two" in fails("fit", recording, "--until", "0")

    def test_a_matrix_of_more_classes_than_a_record_tells(self, fails, tmp_path):
        message = fails("fit", write(tmp_path / "many.h5", n_classes=21), "--elasticity", "matrix")
        assert "21 classes make 441 elasticities" in message
        assert "--elasticity homogeneous" in message


class TestOutputs:
    def test_an_existing_file_is_not_replaced(self, fails, recording, tmp_path):
        kept = tmp_path / "kept"
        kept.write_text("mine")
        archive = tmp_path / "run.npz"
        np.savez(archive, step=np.arange(2), logits=np.zeros((2, 4, 2)), y_true=np.array([0, 0, 1, 1]))
        for command in (
            ("fit", recording, "--out", kept),
            ("fit", recording, "--json", kept),
            ("inspect", recording, "--json", kept),
            ("moments", recording, "--json", kept),
            ("select", recording, "--json", kept),
            ("convert", archive, "--out", kept),
            ("simulate", "--out", kept),
            ("record", "--out", kept),
            ("check", recording, recording, "--json", kept),
            ("report", recording, "--out", kept),
        ):
            message = fails(*command)
            assert "kept: exists already" in message
            assert "--force" in message
        assert kept.read_text() == "mine"

    def test_an_existing_demo_is_not_replaced(self, fails, tmp_path):
        (tmp_path / "report.html").write_text("mine")
        assert "report.html: exists already" in fails("demo", "--out-dir", tmp_path)
        assert [path.name for path in tmp_path.iterdir()] == ["report.html"]

    def test_an_input_is_never_replaced(self, fails, recording):
        before = recording.read_bytes()
        assert "is read by this command" in fails("fit", recording, "--out", recording, "--force")
        assert "is read by this command" in fails("inspect", recording, "--json", recording, "--force")
        assert recording.read_bytes() == before

    def test_two_outputs_need_two_names(self, fails, recording, tmp_path):
        both = tmp_path / "both"
        assert "is named for two outputs" in fails("fit", recording, "--out", both, "--json", both)

    def test_a_folder_that_does_not_exist(self, fails, recording, tmp_path):
        assert "does not exist" in fails("fit", recording, "--out", tmp_path / "nowhere" / "fit.nc")

    def test_nothing_is_left_behind_by_a_failed_fit(self, fails, recording, tmp_path):
        fails("fit", recording, "--layer", "fc7", "--out", tmp_path / "fit.nc", "--json", tmp_path / "fit.json")
        assert [path.name for path in tmp_path.iterdir()] == ["run.h5"]


class TestFitsThatAreNone:
    @pytest.mark.parametrize("command", ["check", "report"])
    def test_no_file(self, fails, recording, tmp_path, command):
        rest = (recording,) if command == "check" else ("--out", tmp_path / "page.html")
        assert "none.nc: no such file" in fails(command, tmp_path / "none.nc", *rest)

    @pytest.mark.parametrize("content", [b"", b"not a fit", b"\x89HDF\r\n\x1a\n"])
    def test_not_a_fit(self, fails, recording, tmp_path, content):
        path = tmp_path / "fit.nc"
        path.write_bytes(content)
        assert "fit.nc" in fails("check", path, recording)
        assert "fit.nc" in fails("report", path, "--out", tmp_path / "page.html")

    def test_a_recording_is_no_fit(self, fails, recording, tmp_path):
        path = shutil.copy(recording, tmp_path / "fit.nc")
        assert "no fit" in fails("check", path, recording)

    def test_as_many_recordings_as_fits(self, fails, recording, tmp_path):
        message = fails("report", recording, "--recording", recording, "--out", tmp_path / "page.html")
        assert "1 --recording for 0 fits" in message


class TestCommandLines:
    @pytest.mark.parametrize(
        ("arguments", "expected"),
        [
            (["nothing"], "No such command 'nothing'"),
            (["fit"], "Missing argument 'FILE'"),
            (["fit", "run.h5", "--impact", "Q"], "'Q' is not one of 'R', 'L', 'I'"),
            (["fit", "run.h5", "--colour", "red"], "No such option: --colour"),
            (["fit", "run.h5", "--seed", "-1"], "--seed"),
            (["record", "--out", "run.h5", "--steps", "many"], "--steps"),
            (["record", "--out", "run.h5", "--momentum", "1"], "momentum is 1.0"),
            (["record", "--out", "run.h5", "--probe-per-class", "600"], "probe_per_class is 600"),
            (["simulate", "--out", "run.h5", "--every", "2", "--burst", "3"], "--burst 3 does not fit"),
            (["simulate", "--out", "run.h5", "--n-features", "5"], "5 features are not 3 logits"),
        ],
    )
    def test_are_refused_in_one_line(self, fails, tmp_path, monkeypatch, arguments, expected):
        monkeypatch.chdir(tmp_path)
        assert expected in fails(*arguments)
        assert list(tmp_path.iterdir()) == []
