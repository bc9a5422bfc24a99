"""Forecasts of a prefix: that the truth is covered, that nothing of the future is known, and what is refused."""

import json
from dataclasses import replace

import h5py
import numpy as np
import pytest
from core_helpers import make_run
from forecast_helpers import KNOWN, N_RECORDS, random_fit, steps_of

import lesde_infer
from data_tools.errors import InputError
from data_tools.recording import Recording
from lesde_infer import forecasting
from lesde_infer.cli import main
from lesde_infer.fit_result import load
from lesde_infer.forecast_samples import ForecastSamples
from lesde_infer.forecasting import continue_fit, forecast
from lesde_infer.observed import METRICS, observe
from lesde_infer.plots_forecast import plot_forecast
from lesde_infer.predictive import PredictionError
from lesde_infer.simulation import simulate

pytestmark = pytest.mark.xdist_group("fit")  # one compilation serves all

STEPS = np.arange(0, 1230, 30)
RATES = {"alpha": 0.9e-2, "beta": -0.3e-2, "kappa": 0.0}
SCALES = {"global_scale": 2e-3, "class_scale": 1e-3, "individual_scale": 2e-3}
QUICK = {"at": 0.6, "curve": "constant", "n_draws": 50, "n_times": 3, "seed": 3}
QUANTILES = {"q05", "q25", "q50", "q75", "q95"}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    path = tmp_path_factory.mktemp("forecast") / "run.h5"
    sizes = [20, 30, 25]
    simulate(path, n_classes=3, samples_per_class=sizes, steps=STEPS, impact="R", seed=5, **RATES, **SCALES).close()
    return path


@pytest.fixture(scope="module")
def result(run):
    return forecast(run, **QUICK)


def altered(path, target, *, after, change):
    """Copy a recording and change the features of every layer, and the classifier, after a record."""
    target.write_bytes(path.read_bytes())
    with h5py.File(target, "r+") as file:
        for name in [f"features/{layer}" for layer in file["features"]] + ["classifier/weight", "classifier/bias"]:
            if name in file:
                values = file[name][:]
                values[after:] = change(values[after:])
                file[name][:] = values
    return target


def test_the_truth_is_covered(result):
    assert result.at_step == 720
    assert result.horizon_step == 1200
    assert result.n_failed_draws == 0
    for name in ("linear_accuracy", "between_norm", "nc1", "within_between_ratio"):
        assert 0.01 < result.scores[name]["pit"] < 0.99, (name, result.scores[name])
    # Contrasts grow by half: persistence is far off, and bands are narrow enough to say so.
    grown = result.observed["between_norm"][-1] / result.past["between_norm"][-1]
    assert grown > 1.3
    low, high = np.quantile(result.predicted["between_norm"][:, -1], [0.05, 0.95])
    assert high / low < 3.0
    assert result.scores["between_norm"]["skill_persistence"] > 0.3


def test_nothing_of_the_future_is_known(run, result, tmp_path):
    """Another future changes no draw; it changes what is observed, and so the scores."""
    known = int(np.searchsorted(STEPS, 720)) + 1
    other = forecast(altered(run, tmp_path / "other.h5", after=known, change=lambda x: 30.0 * x[::-1]), **QUICK)
    for name, draws in result.predicted.items():
        np.testing.assert_array_equal(other.predicted[name], draws, err_msg=name)
        np.testing.assert_array_equal(other.past[name], result.past[name])
    assert other.probability_separable == result.probability_separable
    assert other.scores["between_norm"]["inside90"] is False
    assert other.scores["between_norm"]["crps"] > result.scores["between_norm"]["crps"]


def test_json_follows_the_contract(result):
    found = json.loads(json.dumps(result.to_json(), allow_nan=False))
    assert set(found["predicted"]) == set(found["observed"]) == set(METRICS) - {"nc3"}
    assert all(set(values) == QUANTILES for values in found["predicted"].values())
    assert found["metrics_left_out"] == {"nc3": "the logits feed no classifier"}
    assert found["at_step"] == 720
    assert found["horizon_step"] == 1200 == found["steps"][-1]
    assert 0 <= found["probability_separable"] <= 1
    assert found["probability_separable_error"] > 0
    assert found["series"]["nc1"]["q50"][-1] == found["predicted"]["nc1"]["q50"]
    assert found["scores"]["nc1"]["crps_persistence"] == pytest.approx(
        abs(np.log(found["observed"]["nc1"] / found["start"]["nc1"]))
    )
    assert set(found["separation"]["first_step"]) == QUANTILES
    assert found["converged"] is True
    with_features = {"linear_separability", "linear_accuracy", "nc1", "between_norm"}
    assert with_features <= set(found["past"])


def test_first_separable_step_of_each_path(result):
    shares = np.array([[0.3, 1.0, 1.0], [0.6, 0.6, 0.3], [1.0, 0.6, 1.0]])
    own = replace(result, predicted={**result.predicted, "linear_separability": shares})
    assert own.separation_steps.tolist() == [own.steps[1], np.inf, own.steps[0]]
    found = own.to_json()["separation"]
    assert found["share_never"] == pytest.approx(1 / 3)
    assert found["first_step"]["q50"] == own.steps[1]
    assert found["first_step"]["q95"] is None


def test_a_horizon_where_nothing_is_recorded(run, result, tmp_path):
    kept = load(result.fit.save(tmp_path / "fit.nc"))  # nothing is lost
    found = continue_fit(kept, run, horizon=1195, n_draws=50, n_times=3)
    assert found.horizon_step == 1195
    assert found.scores == {}
    summary = found.to_json()
    assert set(summary["observed"].values()) == {None}
    assert summary["separable_observed"] is None
    assert summary["series"]["nc1"]["observed"][0] is not None
    with pytest.raises(InputError, match="fit with a later horizon"):
        continue_fit(kept, run, horizon=1500)


def test_fan_chart(result, tmp_path):
    figure = plot_forecast(result)
    assert len(figure.axes) == 5
    figure.savefig(tmp_path / "fan.png")
    lines = figure.axes[-1].get_lines()
    median = next(line for line in lines if line.get_label() == "median predicted")
    assert median.get_ydata()[0] == result.past["between_norm"][-1]  # fans out from where the forecast starts
    assert median.get_ydata()[-1] == pytest.approx(np.median(result.predicted["between_norm"][:, -1]))


def test_diverging_paths_are_counted_and_too_many_refused(run, result, monkeypatch):
    size = np.abs(result.predicted["between_norm"][:, -1])
    start = ForecastSamples
    with Recording(run) as recording:
        features = start.of(result.fit, recording, 24, 200, 3).features
    limit = np.quantile(size, 0.5) / np.abs(features).max()
    monkeypatch.setattr(forecasting, "LARGEST_GROWTH", float(limit))
    with pytest.raises(PredictionError, match="forecast paths diverge between steps 720 and 1200"):
        continue_fit(result.fit, run, n_draws=50, n_times=3)
    monkeypatch.setattr(forecasting, "LARGEST_FAILED_SHARE", 1.0)
    some = continue_fit(result.fit, run, n_draws=50, n_times=3)
    assert some.n_failed_draws > 0
    assert some.n_draws + some.n_failed_draws == 50


def test_the_command(run, tmp_path, capsys):
    written, picture = tmp_path / "forecast.json", tmp_path / "fan.png"
    arguments = ["--at", "0.6", "--curve", "constant", "--draws", "50", "--seed", "3"]
    assert main(["forecast", str(run), *arguments, "--json", str(written), "--plot", str(picture)]) == 0
    out = capsys.readouterr().out
    assert "At step 1200, forecast from step 720" in out
    assert "P(all classes separable)" in out
    found = json.loads(written.read_text())
    assert found["seed"] == 3
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert main(["forecast", str(run), *arguments, "--json", str(written)]) == 2  # not overwritten
    assert "exists" in capsys.readouterr().err


@pytest.fixture(scope="module")
def hidden(tmp_path_factory):
    """A fit of hidden features under R, and its recording."""
    path = tmp_path_factory.mktemp("hidden") / "run.h5"
    return random_fit(path, curve="constant"), path


def test_the_classifier_is_held(hidden, tmp_path):
    """Neither features nor classifier after the prefix change a draw."""
    fit, path = hidden
    own = continue_fit(fit, path, n_draws=6, n_times=2)
    assert f"the classifier on layer 'hidden' is held as it was at step {own.at_step}" in own.notes
    assert {"network_accuracy", "nc3", "nc4"} <= own.predicted.keys()
    changed = altered(path, tmp_path / "other.h5", after=KNOWN, change=lambda x: 1.0 - 3.0 * x)
    other = continue_fit(fit, changed, n_draws=6, n_times=2)
    for name, draws in own.predicted.items():
        np.testing.assert_array_equal(other.predicted[name], draws, err_msg=name)
    assert other.observed["nc3"][-1] != own.observed["nc3"][-1]
    run = make_run(3, 5, n_records=N_RECORDS, seed=4, corrupted=False)
    expected = observe(run.features[-1].astype(np.float32), run.labels, metrics=("nc1", "between_norm"))
    assert {name: own.observed[name][-1] for name in expected} == pytest.approx(expected, rel=1e-5)


def test_metrics_that_a_layer_does_not_have(hidden):
    fit, path = hidden
    with Recording(path) as recording:
        samples = ForecastSamples.of(fit, recording, KNOWN - 1, 200, 0)
        assert samples.left_out == {}
        thinned = ForecastSamples.of(fit, recording, KNOWN - 1, 2, 0)
    assert np.bincount(thinned.groups).tolist() == [2, 2, 2]
    assert set(replace(samples, held=None).left_out) == {"network_accuracy", "nc3", "nc4"}
    assert "only impact R says how it acts" in replace(samples, held=None).left_out["nc3"]
    assert "not recorded" in replace(samples, held=None, has_classifier=False).left_out["nc4"]
    assert "nc2_equiangular" in replace(samples, n_classes=2).left_out


def test_another_recording_is_refused(hidden, tmp_path):
    fit, path = hidden
    other = altered(path, tmp_path / "other.h5", after=0, change=lambda x: 2.0 * x)
    with pytest.raises(InputError, match="give the recording that was fitted"):
        continue_fit(fit, other)


def test_exported():
    assert lesde_infer.forecast is forecast
    assert len(steps_of(mixed=False)) == N_RECORDS


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--at", "1.0"], "give a share of the recorded steps between 0 and 1, or a step within 0 … 1200"),
        (["--at", "-0.2"], "give a share of the recorded steps between 0 and 1"),
        (["--at", "5000"], "run.h5: at step 5000 lies outside the record, steps 0 to 1200"),
        (["--at", "1200"], "the record ends at step 1200; say how far to forecast (--horizon STEP)"),
        (["--at", "600", "--horizon", "600"], "horizon: step 600 is not after step 600"),
        (["--at", "0.5", "--layer", "fc9"], "fc9"),
        (["--at", "0.1"], "5 records are too few for curve 'gp', which needs 17"),
        (["--at", "0.5", "--class-frequencies", "0.5,x"], "--class-frequencies"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_input_is_one_line(run, capsys, arguments, message):
    assert main(["forecast", str(run), *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert message in captured.err


@pytest.mark.parametrize("counts", [{"n_draws": 1}, {"n_times": 0}, {"seed": -1}, {"max_samples_per_class": 1}])
def test_counts_that_are_too_small(run, counts):
    with pytest.raises(InputError, match=next(iter(counts))):
        forecast(run, at=0.5, **counts)
