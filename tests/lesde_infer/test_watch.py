"""Watching a run: what is seen of a file that grows, fits in the background, and the end of it."""

import json
import math
import threading
import time

import numpy as np
import pytest
from compared_fits import separating_recording

from data_tools.recording import Recording
from data_tools.recording_layout import LayerLayout, RecordingLayout
from data_tools.recording_writer import RecordingWriter, write_recording
from lesde_infer import watch_fit
from lesde_infer.cli import main, watch_command
from lesde_infer.cli.watch_command import FEWEST_RECORDS, Refitter, inferred_rows
from lesde_infer.watching import look

LABELS = np.repeat([0, 1, 2], 4)


def features_at(step, rng):
    return (0.02 * step * np.eye(3)[LABELS] + 0.3 * rng.normal(size=(12, 3))).astype(np.float32)


def growing_writer(path):
    layout = RecordingLayout(LABELS, LABELS, {"out": LayerLayout(3, np.float32)}, logits="out", scalars=("loss",))
    return RecordingWriter(path, layout)


def test_a_recording_is_looked_at_while_it_grows(tmp_path):
    rng = np.random.default_rng(0)
    with growing_writer(tmp_path / "run.h5") as writer:
        writer.append(0, {"out": features_at(0, rng)}, scalars={"loss": 1.1})
        first = look(tmp_path / "run.h5")
        assert (first.writer, first.n_records, first.last_step, first.layer) == ("writing", 1, 0, "out")
        for step in range(1, 200):
            writer.append(step, {"out": features_at(step, rng)}, scalars={"loss": 1.1 / (1 + step)})
        later = look(tmp_path / "run.h5", known=first)
        assert (later.n_records, later.last_step) == (200, 199)
        assert later.metrics["linear_separability"] == 1.0
        assert later.loss[0] == 1.1
        assert later.loss[-1] == pytest.approx(1.1 / 200)
    assert look(tmp_path / "run.h5", known=later).writer == "finished"


def test_nothing_is_measured_again_where_nothing_was_added(tmp_path, monkeypatch):
    path = separating_recording(tmp_path / "run.h5", separates_at=100)
    first = look(path)

    def measure(*_):
        raise AssertionError("measured again")

    monkeypatch.setattr("lesde_infer.watching._measure", measure)
    assert look(path, known=first).metrics == first.metrics


def test_features_that_are_not_finite_leave_gaps_not_tracebacks(tmp_path):
    features = np.zeros((2, 12, 3))
    features[1] = np.inf
    path = write_recording(tmp_path / "run.h5", [0, 1], LABELS, {"out": features}, logits="out")
    assert all(math.isnan(value) for value in look(path).metrics.values())


def test_one_look_without_a_fit(tmp_path, capsys):
    path = separating_recording(tmp_path / "run.h5", separates_at=100, loss=np.geomspace(1.0, 0.01, 51))
    target = tmp_path / "now.json"
    assert main(["watch", str(path), "--once", "--no-fit", "--json", str(target)]) == 0
    shown = capsys.readouterr().out
    assert "1000" in shown
    assert "100% of the pairs" in shown
    found = json.loads(target.read_text())
    assert found["writer"] == "finished"
    assert found["n_records"] == 51
    assert found["inferred"] is None
    assert main(["watch", str(path), "--once", "--no-fit", "--json", str(target)]) == 2


@pytest.mark.slow
def test_a_fit_in_a_process_of_its_own_is_shown(tmp_path, capsys):
    path = separating_recording(tmp_path / "run.h5", separates_at=100)
    assert main(["watch", str(path), "--once", "--curve", "constant"]) == 0
    shown = capsys.readouterr().out
    assert "up to step 1000" in shown
    assert "P(γ > 0)" in shown


def test_it_follows_until_the_writer_is_done(tmp_path, capsys, monkeypatch):
    """A thread adds records; each look sees more of them, and the end comes with the writer's."""
    seen = []
    monkeypatch.setattr(watch_command._Screen, "show", lambda _, moment, refitter: seen.append(moment.n_records))
    writer = growing_writer(tmp_path / "run.h5")
    rng = np.random.default_rng(0)
    writer.append(0, {"out": features_at(0, rng)}, scalars={"loss": 1.1})

    def train():
        for step in range(1, 30):
            writer.append(step, {"out": features_at(step, rng)}, scalars={"loss": 1.1})
            time.sleep(0.03)
        writer.close()

    trainer = threading.Thread(target=train)
    trainer.start()
    try:
        assert main(["watch", str(tmp_path / "run.h5"), "--no-fit", "--every", "0.2"]) == 0
    finally:
        trainer.join()
    assert seen == sorted(seen)
    assert len(set(seen)) > 2
    assert "29; 30 records" in capsys.readouterr().out


def test_a_fit_is_begun_when_there_is_something_new(tmp_path, monkeypatch):
    """Too few records, the same records, and a fit that still runs begin none."""
    begun = []

    class Process:
        returncode = 0
        ended = False

        def poll(self):
            return 0 if self.ended else None

        def wait(self):
            self.ended = True

        def terminate(self):
            self.ended = True

    def start(command, **_):
        begun.append(int(command[4]))
        return process

    process = Process()
    monkeypatch.setattr(watch_command.subprocess, "Popen", start)
    long, short = (look(separating_recording(tmp_path / f"{n}.h5", 100)) for n in ("a", "b"))
    short = type(short)(**{**vars(short), "n_records": FEWEST_RECORDS - 1})
    refitter = Refitter(tmp_path / "a.h5", None, "gp", None, tmp_path)
    assert not refitter.begin(short)
    assert refitter.is_up_to_date(short)
    assert refitter.begin(long)
    assert not refitter.begin(long)
    (tmp_path / "fit.json").write_text(json.dumps({"until_step": 1000}))
    process.ended = True
    refitter.poll()
    assert refitter.found == {"until_step": 1000}
    assert refitter.is_up_to_date(long)
    assert not refitter.begin(long)
    assert refitter.begin(type(long)(**{**vars(long), "last_step": 2000}))
    assert begun == [1000, 2000]
    refitter.stop()
    assert not refitter.is_running


def test_what_a_fit_says_is_put_in_words(tmp_path):
    moment = look(separating_recording(tmp_path / "run.h5", 100))
    gamma = {"mean": 1.0, "q05": 0.5, "q95": 2.0}
    fit = {"until_step": 500, "converged": False, "gamma_end": gamma, "probability_gamma_positive": 0.99}
    rows = inferred_rows({**fit, "horizon_step": 9000, "probability_separable": 0.7}, moment, is_fitting=True)
    assert rows["γ"] == "1 (0.5 to 2) up to step 500 (did NOT converge); fitting again"
    assert rows["P(separable at step 9000)"] == "0.700"
    assert "too few" in inferred_rows({"until_step": 5, "refused": "too few"}, moment, is_fitting=False)["γ"]
    few = type(moment)(**{**vars(moment), "n_records": 3})
    assert "takes 12 records" in inferred_rows(None, few, is_fitting=False)["γ"]


def test_what_cannot_be_fitted_is_said(tmp_path):
    path = write_recording(tmp_path / "run.h5", range(20), LABELS, {"out": np.ones((20, 12, 3))}, logits="out")
    found = watch_fit.infer(path, 19, None, layer=None, curve="constant")
    assert "class means never move" in found["refused"]


@pytest.mark.parametrize(("file", "message"), [("nowhere.h5", "no such file"), ("text.h5", "text.h5")])
def test_files_that_are_no_recordings(tmp_path, capsys, file, message):
    (tmp_path / "text.h5").write_text("no recording")
    assert main(["watch", str(tmp_path / file), "--once"]) == 2
    assert message in capsys.readouterr().err


def test_the_fit_of_a_long_run_takes_pairs_of_records_from_all_of_it(tmp_path, monkeypatch):
    monkeypatch.setattr(watch_fit, "MOST_RECORDS", 20)
    steps = np.sort(np.concatenate([np.arange(0, 1000, 20), np.arange(1, 1000, 20)]))
    features = np.random.default_rng(0).normal(size=(len(steps), len(LABELS), 3))
    path = write_recording(tmp_path / "run.h5", steps, LABELS, {"out": features}, logits="out")
    (tmp_path / "there").mkdir()
    with Recording(watch_fit.thinned(path, 900, tmp_path / "there")) as found:
        kept = found.steps
        np.testing.assert_array_equal(found.features("out")[3], features[np.searchsorted(steps, kept[3])])
    assert 20 <= len(kept) <= 22
    assert kept[0] == 0
    assert kept[-1] == 900
    assert np.count_nonzero(np.diff(kept) == 1) == 10
    assert np.diff(kept).max() < 150
    assert watch_fit.thinned(path, 900, None) == path
    assert watch_fit.thinned(path, 100, tmp_path / "there") == path
