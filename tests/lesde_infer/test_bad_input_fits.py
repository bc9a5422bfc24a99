"""Runs that went wrong, from the command line to the result: fitted with a flag that names it, or refused in one line.

Fits share one shape of data, so that programs are compiled once.
"""

import json

import numpy as np
import pytest

from data_tools import InputError, write_recording
from lesde_infer.cli import main

pytestmark = pytest.mark.xdist_group("bad input fits")

T, K, N = 32, 3, 6
STEPS, LABELS = 10 * np.arange(T), np.repeat(np.arange(K), N)
ELASTICITIES = ("homogeneous", "matrix")
BOTH = ("homogeneous", pytest.param("matrix", marks=pytest.mark.slow))


def usual(n_records=T):
    """Classes that move apart, spread and shake."""
    rng = np.random.default_rng(0)
    growth = np.linspace(1.0, 3.0, n_records)[:, None, None]
    features = growth * rng.normal(size=(K, K))[LABELS] + 0.4 * np.sqrt(growth) * rng.normal(size=(K * N, K))
    shaken = 0.02 * rng.normal(size=(n_records, K, K)).cumsum(axis=0)[:, LABELS]
    return features + shaken + 0.02 * rng.normal(size=features.shape).cumsum(axis=0)


def changed(where, values):
    """Usual features, but for some records, samples or features."""
    features = usual()
    features[where] = values(features[where])
    return features


def still(start, stop):
    features = usual()
    features[start:stop] = features[start]
    return features


def kicked(start, stop):
    """Class means a million times the usual noise away."""
    features = usual()
    features[start:stop] += 1e6 * 0.03 * np.random.default_rng(1).normal(size=(K, K))[LABELS]
    return features


def write(path, features, *, steps=STEPS, labels=LABELS, **options):
    return write_recording(path, steps, labels, {"out": features}, logits="out", force=True, **options)


@pytest.fixture
def fitted(tmp_path, capsys):
    """Return a function that fits by the command line, and gives what was printed and the machine-readable result."""

    def run(features, *arguments, **options):
        path = write(tmp_path / "run.h5", features, **options)
        out = tmp_path / "fit.json"
        code = main(["fit", str(path), "--curve", "constant", "--json", str(out), "--force", *arguments])
        captured = capsys.readouterr()
        assert code == 0, captured.err
        return captured.out, json.loads(out.read_text())

    return run


@pytest.fixture
def refused(tmp_path, capsys):
    """Return a function that fits what must be refused, and gives the line of complaint."""

    def run(path, *arguments):
        assert main(["fit", str(path), "--out", str(tmp_path / "fit.nc"), *arguments]) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        assert captured.err.startswith("lesde: ")
        assert captured.err.count("\n") == 1, captured.err
        assert not (tmp_path / "fit.nc").exists()
        return captured.err

    return run


def flags(summary):
    return {flag["name"]: (flag["start_step"], flag["stop_step"]) for flag in summary["flags"]}


def end(summary):
    return [summary["gamma_end"][name] for name in ("q05", "mean", "q95")]


class TestWhatIsFittedWithAFlag:
    @pytest.mark.slow
    def test_equal_samples_of_a_class_leave_kappa_to_its_prior(self, fitted):
        shown, summary = fitted(usual()[:, N * LABELS])
        whole = (0, 310)
        found = flags(summary)
        assert found["kappa_not_identified"] == found["kappa_across_not_identified"] == whole
        kappa = summary["curves"]["kappa"]
        assert kappa["q05"][0] < -0.1 < 0.1 < kappa["q95"][0]  # per step: nothing was learned
        rows = [line for line in shown.splitlines() if line.rstrip().endswith("?")]
        assert len(rows) == 7  # every κ of the table is marked
        assert "flag kappa_not_identified, steps 0 to 310" in shown
        assert "prior" in shown
        # What class means say stays, and simulated samples stay equal.
        assert summary["gamma_end"]["q95"] < 0
        assert summary["probability_separable"] == 1.0

    @pytest.mark.parametrize("elasticity", BOTH)
    @pytest.mark.parametrize(
        ("start", "stop", "flagged"), [(16, 17, (150, 170)), pytest.param(16, T, (150, 160), marks=pytest.mark.slow)]
    )
    def test_spikes_are_named_and_move_nothing(self, fitted, elasticity, start, stop, flagged):
        _, summary = fitted(kicked(start, stop), "--elasticity", elasticity)
        assert flags(summary)["spike"] == flagged
        assert summary["converged"]
        if stop < T:
            _, reference = fitted(usual(), "--elasticity", elasticity)
            low, _, high = end(reference)
            assert low < summary["gamma_end"]["mean"] < high
            # All but two of 31 intervals tell as much as they did.
            assert end(summary)[2] - end(summary)[0] < 1.5 * (high - low)

    @pytest.mark.slow
    @pytest.mark.parametrize("elasticity", ELASTICITIES)
    def test_a_class_that_appears_late_and_a_learning_rate_of_zero(self, fitted, elasticity):
        late = changed((slice(0, 8), LABELS == 2), lambda x: np.nan * x)
        shown, summary = fitted(late, "--elasticity", elasticity)
        assert flags(summary)["missing_data"] == (0, 80)
        assert "class 2" in shown
        assert summary["missing"]["n_dropped_intervals"] == 8
        shown, summary = fitted(still(10, 15), "--elasticity", elasticity)
        assert flags(summary)["standstill"] == (100, 140)
        time = np.cumsum(np.r_[0.0, [1.0] * 10, [0.0] * 4, [1.0] * 17])
        shown, summary = fitted(still(10, 15), "--elasticity", elasticity, time=time)
        assert flags(summary)["missing_data"] == (100, 140)
        assert "no time passes" in shown

    def test_a_feature_that_never_moves(self, fitted):
        _, summary = fitted(changed((..., 1), lambda x: 0.7 + 0.0 * x))
        assert flags(summary)["kappa_across_not_identified"] == (0, 310)
        assert "kappa_not_identified" not in flags(summary)
        assert summary["probability_separable"] > 0.98  # of 200 paths, some of which noise may bring astray

    @pytest.mark.slow
    def test_a_feature_that_is_there_twice(self, fitted):
        features = usual()
        features[..., 1] = features[..., 0]
        _, summary = fitted(features)
        assert flags(summary)["kappa_across_not_identified"] == (0, 310)

    @pytest.mark.slow
    def test_rows_of_elasticity_that_are_all_equal(self, fitted):
        """All classes are moved alike: a matrix has nothing to say of contrasts, and γ is not told from zero."""
        rng = np.random.default_rng(3)
        common = np.linspace(0.0, 1.0, T)[:, None, None] * np.array([1.0, -0.5, 0.2])
        features = rng.normal(size=(K, K))[LABELS] + 0.4 * rng.normal(size=(K * N, K)) + common
        features = features + 0.02 * rng.normal(size=(T, K, K)).cumsum(axis=0)[:, LABELS]
        features += 0.02 * rng.normal(size=(T, K * N, K)).cumsum(axis=0)
        _, summary = fitted(features, "--elasticity", "matrix")
        low, _, high = end(summary)
        assert low < 0 < high
        assert 0.05 < summary["probability_gamma_positive"] < 0.95


@pytest.mark.slow
class TestUnits:
    """Far from the scale of anything: results change as units do."""

    @pytest.mark.parametrize("elasticity", ELASTICITIES)
    def test_features_and_time(self, fitted, elasticity):
        options = ("--impact", "I", "--elasticity", elasticity)
        _, reference = fitted(usual(), *options)
        for features, time in ((1e-8, 1.0), (1e8, 1.0), (1.0, 1e12), (1.0, 1e-9)):
            _, summary = fitted(features * usual(), *options, time=time * STEPS)
            np.testing.assert_allclose(np.array(end(summary)) * time, end(reference), rtol=0.05)
            assert flags(summary) == flags(reference)

    def test_residuals_do_not_depend_on_the_size_of_logits_below_one(self, fitted):
        """Logits of 1e-8 leave residuals at 1/K, so that γ is in units of the logits."""
        _, one = fitted(1e-8 * usual())
        _, other = fitted(1e-6 * usual())
        np.testing.assert_allclose(np.array(end(other)) / 100.0, end(one), rtol=0.05)


@pytest.mark.parametrize("elasticity", ELASTICITIES)
class TestWhatIsRefused:
    @pytest.mark.parametrize(
        ("value", "expected"),
        [
            (lambda x: np.inf * x, "infinite or not a number at step 290"),
            (lambda x: np.nan * x, "nothing but NaN from step 290 on: training diverged"),
            (lambda x: 1e30 * x, "training diverged"),
            (lambda x: 1e200 * x, "training diverged"),
        ],
    )
    def test_training_that_ends_diverged(self, refused, tmp_path, elasticity, value, expected):
        path = write(tmp_path / "run.h5", changed(slice(29, None), value))
        message = refused(path, "--elasticity", elasticity)
        assert expected in message
        assert "--until 280" in message

    @pytest.mark.parametrize("curve", ["gp", "constant"])
    def test_three_records(self, refused, tmp_path, elasticity, curve):
        path = write(tmp_path / "run.h5", usual(3), steps=np.arange(3))
        message = refused(path, "--elasticity", elasticity, "--curve", curve)
        assert "3 records are too few" in message
        assert "record more often" in message

    def test_records_that_are_all_equal(self, refused, tmp_path, elasticity):
        path = write(tmp_path / "run.h5", np.repeat(usual()[:1], T, axis=0))
        assert "class means never move relative to each other" in refused(path, "--elasticity", elasticity)

    def test_an_empty_file(self, refused, tmp_path, elasticity):
        path = tmp_path / "run.h5"
        path.touch()
        assert "run.h5" in refused(path, "--elasticity", elasticity)


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (np.zeros(K * N, int), "holds one class only"),
        (np.r_[LABELS[:-N], K - 1, np.zeros(N - 1, int)], "class 2 has only one sample"),
    ],
)
def test_labels_that_tell_no_classes_apart_are_refused_when_written(tmp_path, labels, expected):
    with pytest.raises(InputError, match=expected):
        write(tmp_path / "run.h5", usual(), labels=labels)
