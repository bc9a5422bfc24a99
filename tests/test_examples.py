"""The examples run as they stand, and say what they are meant to say."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"

pytestmark = pytest.mark.xdist_group("examples")


def run(name, *arguments):
    command = [sys.executable, str(EXAMPLES / name), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_own_loop_records_fits_and_reports(tmp_path):
    done = run("own_loop.py", "--steps", 300, "--curve", "constant", "--out-dir", tmp_path)
    assert done.returncode == 0, done.stderr
    assert "The network is locally elastic at the end" in done.stdout
    assert re.search(r"gamma\[\d+\] +\S+", done.stdout)
    assert (tmp_path / "report.html").stat().st_size > 100_000


@pytest.mark.parametrize(
    ("name", "short", "last_step", "least"),
    [("own_lightning.py", ["--epochs", 2], 121, 0.9), ("own_transformers.py", ["--steps", 100], 100, 0.4)],
)
def test_trainers_of_others_record(tmp_path, name, short, last_step, least):
    done = run(name, *short, "--out-dir", tmp_path)
    assert done.returncode == 0, done.stderr
    steps = re.findall(r"step +(\d+): class means +([\d.]+) from their centre, accuracy ([\d.]+)", done.stdout)
    assert steps[0][0] == "0"
    assert float(steps[-1][1]) > float(steps[0][1])  # the classes have moved apart
    assert float(steps[-1][2]) > least
    assert int(steps[-1][0]) == last_step, done.stdout


@pytest.mark.slow
def test_known_rates_are_given_back(tmp_path):
    done = run("known_rates.py", "--out", tmp_path / "run.h5")
    assert done.returncode == 0, done.stderr
    rows = [[float(x) for x in re.findall(r"[\d.]+", line)] for line in done.stdout.splitlines() if " to " in line]
    assert len(rows) == 5
    inside = [low < true < high for _, true, _, low, high in rows]
    assert sum(inside) >= 3, done.stdout  # intervals at five times of one run are one interval, as good as


def test_examples_refuse_what_they_cannot_do(tmp_path):
    assert "give 100 or more" in run("own_loop.py", "--steps", 5, "--out-dir", tmp_path).stderr


def test_the_separation_theorem_is_seen(tmp_path):
    done = run("separation_theorem.py", "--runs", 10, "--plot", tmp_path / "theorem.png")
    assert done.returncode == 0, done.stderr
    ends = {tuple(line.split()[:2]): line for line in done.stdout.splitlines()[2:]}
    assert len(ends) == 12
    assert float(ends["0.5", "0.0"].split()[8]) == 1.0
    assert float(ends["1.5", "0.0"].split()[8]) == 0.0
    assert (tmp_path / "theorem.png").stat().st_size > 10_000
    assert "rate is -1.0" in run("separation_theorem.py", "--rate", -1).stderr
    assert "give --force" in run("separation_theorem.py", "--plot", tmp_path / "theorem.png").stderr


@pytest.mark.slow
def test_the_phase_transition_is_carried_out_and_goes_on(tmp_path):
    folders = ["--work", tmp_path / "work", "--results", tmp_path / "results"]
    done = run("phase_transition.py", "--short", "--jobs", 1, *folders)
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "results" / "phase_transition.md").read_text()
    assert "these numbers mean nothing" in page
    assert page.count("| 0.50 |") == 2
    for name in ("fig1_class_means.png", "fig3_integrals.png", "fig4_loss_and_tail.png"):
        assert (tmp_path / "results" / name).stat().st_size > 10_000
    again = run("phase_transition.py", "--short", "--jobs", 1, *folders)
    assert again.stdout.count(", 0 min") == 6  # kept outcomes are not computed again


def test_the_phase_transition_refuses_what_is_no_share():
    assert "shares from 0 to 1" in run("phase_transition.py", "--noise", 1.5).stderr


@pytest.mark.slow
def test_architectures_are_compared_and_nothing_is_made_twice(tmp_path):
    folders = ["--work", tmp_path / "work", "--results", tmp_path / "results"]
    done = run("compare_architectures.py", "--short", "--fresh", "--jobs", 1, *folders)
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "results" / "architectures-digits.md").read_text()
    assert "these numbers mean nothing" in page
    assert page.count("\n| linear | ") == 2  # means, and how α/β changes
    assert page.count("\n| mlp | ") == 3  # and layers, of which the linear model has one
    assert page.count("\n| seed ") == 2  # of the control
    assert (tmp_path / "results" / "architectures-digits.png").stat().st_size > 10_000
    made = {path: path.stat().st_mtime_ns for path in (tmp_path / "work").iterdir()}
    assert run("compare_architectures.py", "--short", "--fresh", "--jobs", 1, *folders).returncode == 0
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "work").iterdir()} == made
    assert "two or more" in run("compare_architectures.py", "--architectures", "mlp").stderr


@pytest.mark.slow
def test_the_transition_on_digits_is_looked_for_and_nothing_is_made_twice(tmp_path):
    folders = ["--work", tmp_path / "work", "--results", tmp_path / "results"]
    done = run("digits_transition.py", "--short", "--jobs", 1, *folders)
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "results" / "digits_transition.md").read_text()
    assert "these numbers mean nothing" in page
    assert page.count("| 3 | 0.667 | ") == 1
    assert (tmp_path / "results" / "digits_transition.png").stat().st_size > 10_000
    made = {path: path.stat().st_mtime_ns for path in (tmp_path / "work").iterdir()}
    assert run("digits_transition.py", "--short", "--jobs", 1, *folders).returncode == 0
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "work").iterdir()} == made
    assert "from 2 to 10" in run("digits_transition.py", "--classes", 11).stderr
