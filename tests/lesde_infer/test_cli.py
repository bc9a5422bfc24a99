"""What the commands do when all is well, and how they end when it is not the input's fault."""

import json
import signal
import subprocess
import sys
import time
from contextlib import suppress
from types import SimpleNamespace
from typing import get_args

import numpy as np
import pytest
from rich.console import Console

import lesde_infer
from data_tools import InputError, Recording, RecordingWriter, write_recording
from data_tools.elasticity_records import DriftMeasurement, ElasticitySettings, ElasticitySnapshot
from data_tools.recording_layout import LayerLayout, RecordingLayout
from lesde_infer.cli import main, options, recording_commands
from lesde_infer.cli.inspection import describe, show_description, sparkline
from lesde_infer.cli.output_files import write_json
from lesde_infer.inference import ConvergenceError


@pytest.fixture
def simulated(tmp_path):
    path = tmp_path / "run.h5"
    assert main(["simulate", "--out", str(path), "--steps", "200", "--every", "20", "--samples-per-class", "5"]) == 0
    return path


def test_help_lists_every_command_and_no_more(capsys):
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    commands = {line.split()[0] for line in shown.split("Commands:\n")[1].splitlines() if line.startswith("  ")}
    recordings = {"record", "convert", "simulate", "recover", "reduce", "inspect", "watch"}
    analysis = {"geometry", "fit", "check", "forecast", "compare", "calibrate", "moments", "select", "report"}
    assert commands - {"Exit"} == {"demo"} | recordings | analysis
    assert main([]) == 0
    assert capsys.readouterr().out == shown


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"lesde-infer {lesde_infer.__version__}\n"


def test_choices_are_those_of_the_library():
    from data_tools.architectures import ArchitectureName
    from data_tools.convert import SourceFormat
    from data_tools.datasets import DatasetName
    from lesde_infer import curves, impacts, inference, momentum, statistics, time_axis

    for ours, theirs in (
        (options.Impact, impacts.Impact),
        (options.Curve, curves.Curve),
        (options.Group, statistics.Grouping),
        (options.Elasticity, inference.Elasticity),
        (options.Time, time_axis.TimeChoice),
        (options.Drive, momentum.DriveChoice),
        (options.Within, inference.Within),
        (recording_commands.Dataset, DatasetName),
        (recording_commands.SourceFormat, SourceFormat),
        (recording_commands.Architecture, ArchitectureName),
    ):
        assert set(get_args(ours)) == set(get_args(theirs))


class TestSimulate:
    def test_records_in_bursts_what_was_asked_for(self, simulated):
        with Recording(simulated) as recording:
            assert recording.steps.tolist() == [s for s in range(201) if s % 20 < 2]
            assert recording.features("logits").shape == (21, 15, 3)

    def test_a_seed_fixes_the_path(self, tmp_path):
        paths = []
        for number, seed in enumerate(("3", "3", "4")):
            path = tmp_path / f"{number}.h5"
            assert main(["simulate", "--out", str(path), "--steps", "20", "--every", "5", "--seed", seed]) == 0
            with Recording(path) as recording:
                paths.append(recording.features("logits")[:])
        np.testing.assert_array_equal(paths[0], paths[1])
        assert not np.array_equal(paths[0], paths[2])

    def test_power_law_separates_by_its_integral(self, tmp_path):
        """Under I without noise, contrasts grow by exp(∫γ/K)."""
        path = tmp_path / "power.h5"
        arguments = ["--impact", "I", "--no-noise", "--gamma", "0.002", "--tail-index", "0.5", "--steps", "1000"]
        assert main(["simulate", "--out", str(path), "--every", "2", *arguments]) == 0
        with Recording(path) as recording:
            first, last = recording.features("logits")[0], recording.features("logits")[-1]
            means = [np.array([x[recording.labels == k].mean(axis=0) for k in range(3)]) for x in (first, last)]
        contrasts = [m - m.mean(axis=0) for m in means]
        integral = 0.002 * 1010**0.5 * 2 * (1010**0.5 - 10**0.5)  # of γ ((t + 10)/1010)^−½ from 0 to 1000
        np.testing.assert_allclose(contrasts[1], contrasts[0] * np.exp(integral / 3), rtol=1e-4)


class TestInspect:
    def test_says_what_is_there(self, tmp_path, capsys):
        labels = np.array([0, 0, 0, 1, 1])
        steps = [0, 1, 50, 51, 100]
        features = np.random.default_rng(0).normal(size=(5, 5, 2))
        path = write_recording(
            tmp_path / "run.h5",
            steps,
            labels,
            {"hidden": np.ones((5, 5, 7), dtype=np.float32), "out": features},
            logits="out",
            given_labels=[0, 0, 1, 1, 1],
            scalars={"loss": [3.0, 2.0, 1.0, 0.5, np.nan]},
            provenance={"model": "net"},
        )
        assert main(["inspect", str(path), "--json", "-"]) == 0
        captured = capsys.readouterr()
        found = json.loads(captured.out)
        assert (found["n_records"], found["n_samples"], found["n_classes"]) == (5, 5, 2)
        assert (found["samples_per_class"], found["n_relabelled"]) == ([3, 2], 1)
        assert (found["first_step"], found["last_step"]) == (0, 100)
        assert found["intervals"] == [
            {"steps": 1, "count": 2},
            {"steps": 49, "count": 2},
        ]
        hidden, out = found["layers"]
        assert (hidden["name"], hidden["n_features"], hidden["dtype"], hidden["is_logits"]) == (
            "hidden",
            7,
            "float32",
            False,
        )
        assert "the same at every record" in hidden["problem"]
        assert (out["is_logits"], out["problem"]) == (True, None)
        assert found["scalars"] == {"loss": {"first": 3.0, "last": None}}
        assert found["provenance"]["model"] == "net"
        for expected in ("5 of 2 classes (3, 2), 1 trained under another label", "NOT USABLE", "3 → nan"):
            assert expected in captured.err

    def test_counts_samples_that_are_missing_without_calling_them_damaged(self, tmp_path, capsys):
        features = np.random.default_rng(0).normal(size=(5, 5, 2))
        features[1, 3], features[3, 2:4] = np.nan, np.nan
        path = write_recording(
            tmp_path / "run.h5", [0, 1, 50, 51, 100], [0, 0, 0, 1, 1], {"out": features}, class_frequencies=[0.6, 0.4]
        )
        assert main(["inspect", str(path), "--json", "-"]) == 0
        captured = capsys.readouterr()
        found = json.loads(captured.out)
        (layer,) = found["layers"]
        assert layer["problem"] is None
        assert layer["missing"] == {"n_samples": 3, "n_records": 2, "n_empty_records": 0, "first_step": 1}
        printed = " ".join(captured.err.split())
        assert "finite; samples are missing 3 times, at 2 records from step 1 on" in printed
        assert "NOT USABLE" not in printed
        assert found["class_frequencies"] == [0.6, 0.4]
        assert "classes have shares 0.6, 0.4" in printed

    def test_tells_where_features_stop_being_finite(self, tmp_path, capsys):
        features = np.random.default_rng(0).normal(size=(4, 4, 2))
        features[2:, :2, 0] = np.nan
        path = write_recording(tmp_path / "run.h5", [0, 5, 9, 12], [0, 0, 1, 1], {"fc3": features})
        assert main(["inspect", str(path)]) == 0
        assert "2 values that are infinite or not a number at step 9" in capsys.readouterr().out

    def test_counts_records_without_any_sample(self, tmp_path, capsys):
        features = np.random.default_rng(0).normal(size=(4, 4, 2))
        features[1] = np.nan
        path = write_recording(tmp_path / "run.h5", [0, 5, 9, 12], [0, 0, 1, 1], {"fc3": features})
        assert main(["inspect", str(path)]) == 0
        assert "1 records hold no sample at all" in " ".join(capsys.readouterr().out.split())

    def test_says_what_became_of_the_writer(self, tmp_path, capsys):
        path, copy = tmp_path / "run.h5", tmp_path / "copy.h5"
        labels = np.array([0, 0, 1, 1])
        layout = RecordingLayout(labels, labels, {"fc": LayerLayout(2)}, logits="fc")
        states = {}
        with RecordingWriter(path, layout) as writer:
            for step in (0, 1, 50, 51):
                writer.append(step, {"fc": np.full((4, 2), step)})
            states[path] = ("writing", "its writer is still at work")
            copy.write_bytes(path.read_bytes())
            states[copy] = ("died", "its writer died; what it completed is there (lesde recover makes")
            for file, (state, sentence) in states.items():
                assert main(["inspect", str(file), "--json", "-"]) == 0
                captured = capsys.readouterr()
                assert json.loads(captured.out)["writer"] == state
                assert sentence in " ".join(captured.err.split())
        assert main(["inspect", str(path)]) == 0
        assert "state       finished" in capsys.readouterr().out

    def test_sizes_timeline_and_elasticity(self, tmp_path, capsys):
        steps = [s for s in range(400) if s % 20 < 2 and not 100 <= s < 200]
        features = np.random.default_rng(0).normal(size=(len(steps), 4, 2))
        drift = DriftMeasurement(np.zeros((1, 3, 2, 2)))
        snapshots = [ElasticitySnapshot(step, 0.1, {"fc": {"labels": drift}}) for step in (0, 100, 250)]
        path = write_recording(
            tmp_path / "run.h5",
            steps,
            [0, 0, 1, 1],
            {"fc": features},
            elasticity=(ElasticitySettings(np.ones(1), 3), snapshots),
        )
        assert main(["inspect", str(path), "--json", "-"]) == 0
        captured = capsys.readouterr()
        found = json.loads(captured.out)
        assert found["size_bytes"] == path.stat().st_size
        assert found["layers"][0]["size_bytes"] == features.nbytes
        assert found["timeline"] == {
            "n_bursts": 15,
            "burst_length": 2,
            "burst_distance": 20,
            "gaps": [{"first_step": 81, "last_step": 200}],
        }
        assert found["elasticity"] == [
            {"layer": "fc", "groups": ["labels"], "n_measurements": 3, "first_step": 0, "last_step": 250}
        ]
        printed = " ".join(captured.err.split())
        for expected in (
            "bursts 15, mostly of 2 consecutive steps, mostly 20 steps from one to the next",
            "gaps 1, much longer than the intervals around: from step 81 to 200",
            "elasticity fc measured 3 times, from step 0 to 250, by labels",
            f"(float64, {features.nbytes / 1024:.3g} KiB)",
        ):
            assert expected in printed

    def test_the_loss_is_drawn_on_a_terminal_only(self, tmp_path, capsys):
        features = np.random.default_rng(0).normal(size=(3, 4, 2))
        scalars = {"loss": [3.0, 2.0, 0.5]}
        path = write_recording(tmp_path / "run.h5", [0, 1, 2], [0, 0, 1, 1], {"fc": features}, scalars=scalars)
        assert main(["inspect", str(path)]) == 0
        assert not set("▁▂▃▄▅▆▇█") & set(capsys.readouterr().out)
        show_description(describe(path), Console(file=sys.stdout, force_terminal=True, highlight=False, soft_wrap=True))
        assert "3 → 0.5  █▅▁" in capsys.readouterr().out

    def test_quick_does_not_read_features(self, tmp_path, capsys, monkeypatch):
        features = np.full((2, 4, 2), np.nan)
        path = write_recording(tmp_path / "run.h5", [0, 1], [0, 0, 1, 1], {"fc": features})
        monkeypatch.setattr(Recording, "check_finite", None)
        assert main(["inspect", str(path), "--quick"]) == 0
        assert "not read" in capsys.readouterr().out

    def test_needs_neither_torch_nor_jax(self, simulated):
        heavy = {"torch", "jax", "numpyro", "scipy", "matplotlib", "sklearn", "xarray"}
        code = (
            "import sys\nfrom lesde_infer.cli import main\nassert main(sys.argv[1:]) == 0\n"
            f"print(*sorted({heavy!r} & set(sys.modules)), file=sys.stderr)"
        )
        for arguments in (["inspect", simulated], ["recover", simulated, "--out", simulated.with_name("x.h5")]):
            result = subprocess.run([sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True)
            assert (result.returncode, result.stderr) == (0, "\n")

    def test_control_codes_of_the_file_do_not_reach_the_terminal(self, tmp_path, capsys):
        features = {"a\x1b[2Jb": np.random.default_rng(0).normal(size=(2, 4, 2))}
        path = write_recording(
            tmp_path / "run.h5", [0, 1], [0, 0, 1, 1], features, provenance={"note": "x\x1b]0;y\x07"}
        )
        assert main(["inspect", str(path)]) == 0
        out = capsys.readouterr().out
        assert "\x1b" not in out
        assert "\x07" not in out

    def test_json_is_not_written_over(self, simulated, tmp_path, capsys):
        target = tmp_path / "found.json"
        assert main(["inspect", str(simulated), "--json", str(target)]) == 0
        assert main(["inspect", str(simulated), "--json", str(target)]) == 2
        assert main(["inspect", str(simulated), "--json", str(target), "--force"]) == 0
        assert json.loads(target.read_text())["n_classes"] == 3
        assert sorted(path.name for path in tmp_path.iterdir()) == ["found.json", "run.h5"]
        assert "exists already" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("values", "drawn"),
    [
        ([0.0, 1.0, 2.0, 7.0], "▁▂▃█"),
        ([5.0, 5.0], "▁▁"),
        ([1.0, float("nan"), 0.0], "█ ▁"),
        ([float("inf")], ""),
        ([], ""),
    ],
)
def test_sparkline(values, drawn):
    assert sparkline(values) == drawn


def test_json_has_no_number_that_json_does_not_know(tmp_path):
    target = tmp_path / "x.json"
    write_json({"a": np.array([1.0, np.nan]), "b": (np.float32(2), float("inf")), "c": {"d": np.int64(3)}}, str(target))
    assert json.loads(target.read_text(), parse_constant=pytest.fail) == {
        "a": [1.0, None],
        "b": [2.0, None],
        "c": {"d": 3},
    }


def test_convert_makes_a_recording(tmp_path, capsys):
    archive = tmp_path / "run.npz"
    logits = np.random.default_rng(0).normal(size=(3, 4, 2))
    np.savez(archive, step=[0, 10, 20], logits=logits, y_true=[0, 0, 1, 1])
    assert main(["convert", str(archive), "--out", str(tmp_path / "run.h5"), "--layer", "head"]) == 0
    with Recording(tmp_path / "run.h5") as recording:
        np.testing.assert_array_equal(recording.features("head")[:], logits)
    assert "layer head" in capsys.readouterr().out


def test_convert_guesses_the_format_or_is_told(tmp_path, capsys):
    table = tmp_path / "log.csv"
    rows = [f"{step},{sample},{sample % 2},{step},{sample}" for step in (0, 9) for sample in range(4)]
    table.write_text("\n".join(["step,sample,label,logit_0,logit_1", *rows]) + "\n")
    assert main(["convert", str(table), "--out", str(tmp_path / "a.h5")]) == 0
    paper = tmp_path / "paper.csv"
    rows = [f"0,{step},{step},{step % 2},{step},1" for step in range(40)]
    paper.write_text("\n".join(["trial,itr,smp,y,y_logit0,y_logit1", *rows]) + "\n")
    arguments = ["--format", "paper", "--window", "10"]
    assert main(["convert", str(paper), "--out", str(tmp_path / "b.h5"), *arguments]) == 0
    with Recording(tmp_path / "a.h5") as first, Recording(tmp_path / "b.h5") as second:
        np.testing.assert_array_equal(first.steps, [0, 9])
        np.testing.assert_array_equal(second.steps, [5, 15, 25, 35])
    capsys.readouterr()
    assert main(["convert", str(table), "--out", str(tmp_path / "c.h5"), "--format", "paper"]) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert "log.csv: its columns of logits are none, expected y_logit0" in message
    assert not (tmp_path / "c.h5").exists()


def test_record_trains_and_records(tmp_path, capsys):
    path = tmp_path / "run.h5"
    sizes = ["--train-per-class", "10", "--probe-per-class", "4", "--validation-per-class", "4", "--n-classes", "2"]
    training = ["--steps", "20", "--every", "10", "--batch-size", "4", "--lr", "0.1", "--label-noise", "0.5"]
    chosen = ["--dataset", "digits", "--architecture", "linear", "--seed", "7"]
    assert main(["record", "--out", str(path), *chosen, *sizes, *training]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""  # no progress into a pipe
    assert "8 of 2 classes (4 each)" in captured.out
    with Recording(path) as recording:
        assert recording.steps.tolist() == [0, 1, 10, 11, 20]
        for name, value in (("dataset", "digits"), ("lr", 0.1), ("seed", 7), ("label_noise", 0.5), ("batch_size", 4)):
            assert recording.provenance[name] == value


def test_record_takes_other_schedules(tmp_path, capsys):
    path = tmp_path / "run.h5"
    small = ["--dataset", "digits", "--architecture", "linear", "--n-classes", "2"]
    training = ["--steps", "60", "--batch-size", "4", "--lr", "0.1"]
    sizes = ["--train-per-class", "10", "--probe-per-class", "4", "--validation-per-class", "4"]
    record = ["record", "--out", str(path), *small, *training, *sizes]
    assert main([*record, "--schedule", "logarithmic", "--per-decade", "4", "--float16"]) == 0
    with Recording(path) as recording:
        assert recording.features(recording.logits).dtype == np.float16
        assert recording.provenance["schedule"] == "logarithmic"
    adaptive = [*record, "--force", "--schedule", "adaptive", "--every", "5", "--most", "20"]
    assert main([*adaptive, "--max-size", "0.2"]) == 0
    assert path.stat().st_size <= 200_000
    before = path.read_bytes()
    capsys.readouterr()
    for wrong, message in (
        ([*record, "--force", "--max-size", "1"], "--max-size 1 needs --schedule adaptive"),
        ([*adaptive, "--max-size", "-1"], "--max-size -1 must be positive"),
        ([*record, "--force", "--time-budget", "2"], "time_budget=2.0: give the share of training time"),
    ):
        assert main(wrong) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1
        assert path.read_bytes() == before


class TestFailures:
    """How a fit ends; the fit itself is replaced, as it takes long."""

    @staticmethod
    def fit_that(monkeypatch, error):
        def fit(*_, **__):
            raise error

        monkeypatch.setattr("lesde_infer.inference.fit", fit)

    def test_a_fit_that_does_not_converge_exits_with_1(self, simulated, monkeypatch, capsys):
        self.fit_that(monkeypatch, ConvergenceError("run.h5: did not converge;\n try longer"))
        capsys.readouterr()
        assert main(["fit", str(simulated)]) == 1
        assert capsys.readouterr().err == "lesde: run.h5: did not converge; try longer\n"

    def test_the_unforeseen_is_one_line_unless_debugging(self, simulated, monkeypatch, capsys):
        self.fit_that(monkeypatch, ZeroDivisionError("oops"))
        capsys.readouterr()
        assert main(["fit", str(simulated)]) == 1
        message = capsys.readouterr().err
        assert message.count("\n") == 1
        assert "ZeroDivisionError: oops" in message
        monkeypatch.setenv("LESDE_DEBUG", "1")
        with pytest.raises(ZeroDivisionError):
            main(["fit", str(simulated)])

    @pytest.mark.parametrize(
        ("error", "expected"),
        [(OSError(28, "No space left on device", "fit.nc"), "fit.nc: No space left"), (MemoryError(), "--until")],
    )
    def test_the_machine_gives_up(self, simulated, monkeypatch, capsys, error, expected):
        self.fit_that(monkeypatch, error)
        capsys.readouterr()
        assert main(["fit", str(simulated)]) == 1
        assert expected in capsys.readouterr().err

    def test_an_interrupt_exits_with_130(self, simulated, monkeypatch, capsys):
        self.fit_that(monkeypatch, KeyboardInterrupt())
        capsys.readouterr()
        assert main(["fit", str(simulated)]) == 130
        assert capsys.readouterr().err == "lesde: interrupted\n"


def has_a_record(path):
    """Tell whether a recording that is being written holds a record yet."""
    try:
        with Recording(path):
            return True
    except InputError:
        return False


# Tests that were started in the background of a shell hand down that interrupts are ignored.
HEARS_INTERRUPTS = (
    "import runpy, signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    "runpy.run_module('lesde_infer.cli', run_name='__main__')"
)


def test_an_interrupted_recording_keeps_what_it_has(tmp_path):
    path = tmp_path / "run.h5"
    command = ["record", "--out", str(path), "--steps", "1000000", "--every", "5", "--train-per-class", "20"]
    small = ["--dataset", "digits", "--architecture", "linear", "--probe-per-class", "2", "--validation-per-class", "2"]
    process = subprocess.Popen(
        [sys.executable, "-c", HEARS_INTERRUPTS, *command, *small], stderr=subprocess.PIPE, text=True
    )
    while not has_a_record(path) and process.poll() is None:
        time.sleep(0.05)
    complaint = None
    while complaint is None:
        process.send_signal(signal.SIGINT)
        # Python drops an interrupt that arrives inside a callback from C; a user would press again.
        with suppress(subprocess.TimeoutExpired):
            _, complaint = process.communicate(timeout=20)
    assert process.returncode == 130
    *dropped, last = complaint.splitlines()
    assert last == "lesde: interrupted"
    # Before it Python may report an interrupt that it dropped, and nothing else may stand there.
    assert not dropped or (dropped[0].startswith("Exception ignored in") and "KeyboardInterrupt" in dropped[-1])
    with Recording(path) as recording:
        assert recording.n_records >= 1


def test_a_reader_that_leaves_early_is_no_error(simulated):
    command = f"{sys.executable} -m lesde_infer.cli inspect {simulated} | true"
    result = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert result.stderr == ""


def test_options_reach_the_fit(simulated, monkeypatch):
    seen = {}

    def fit(path, **given):
        seen.update(given, path=path)
        raise ConvergenceError("enough")

    monkeypatch.setattr("lesde_infer.inference.fit", fit)
    given = ["--layer", "logits", "--impact", "L", "--curve", "power", "--group", "given_labels", "--until", "150"]
    given += ["--class-frequencies", "0.5,0.3,0.2", "--time", "learning_rate", "--drive", "filtered"]
    given += ["--within", "isotropic"]
    assert main(["fit", str(simulated), *given, "--seed", "9", "--allow-unconverged", "--no-cache"]) == 1
    assert SimpleNamespace(**seen) == SimpleNamespace(
        path=simulated,
        layer="logits",
        impact="L",
        elasticity="homogeneous",
        curve="power",
        group="given_labels",
        within="isotropic",
        parts="all",
        until=150,
        class_frequencies=[0.5, 0.3, 0.2],
        time="learning_rate",
        drive="filtered",
        seed=9,
        allow_unconverged=True,
        cache=False,
        progress=None,
    )
