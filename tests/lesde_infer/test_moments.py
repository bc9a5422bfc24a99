"""The paper's estimators against closed forms, invariances, resampled runs, bad input, and real recordings."""

import json
import subprocess
import sys
from types import SimpleNamespace
from typing import get_args

import numpy as np
import pytest

from data_tools.errors import InputError
from data_tools.recording import Recording
from data_tools.recording_writer import write_recording
from lesde_infer.class_means import ClassMeans, read_class_means
from lesde_infer.cli import main
from lesde_infer.moment_ratios import tail_index
from lesde_infer.moments import estimate_moments
from lesde_infer.simulation import simulate
from lesde_infer.smoothing import even_grid, window_length

QUIET = {"kappa": 0.01, "global_scale": 0.0, "class_scale": 0.0, "individual_scale": 0.0, "noise": False}
EVEN = np.arange(0, 401, 2)
BURSTS = np.sort(np.concatenate([np.arange(0, 401, 10), np.arange(1, 401, 10)]))


def class_means(steps, paths, *, times=None, **options):
    """ClassMeans of runs given as (run, time, class, feature), or one run without the first axis."""
    runs = np.asarray(paths, dtype=float)
    times = np.asarray(steps, dtype=float) if times is None else times
    options = {"resolution": 1e-15, "layer": "fc3", "group": "labels", **options}
    return ClassMeans(np.asarray(steps), times, runs.reshape(-1, *runs.shape[-3:]), **options)


def isotropic_path(steps, A, B, n_classes=3, n_features=4, seed=0):
    """Class means of the I model for given integrals of α and β."""
    first = np.random.default_rng(seed).normal(size=(n_classes, n_features))
    centre = first.mean(axis=0)
    A, B = np.broadcast_to(A, len(steps))[:, None, None], np.broadcast_to(B, len(steps))[:, None, None]
    return np.exp((A + (n_classes - 1) * B) / n_classes) * centre + np.exp((A - B) / n_classes) * (first - centre)


def test_grouping_is_that_of_the_posterior():
    from lesde_infer import class_means, snapshots

    assert get_args(class_means.Grouping) == get_args(snapshots.Grouping)


def plain_integrals(means, impact):
    """Â and B̂ as the equations say, one class, coordinate and record at a time; L for K = 3 as in the paper's code."""
    T, K, p = means.shape
    A, B = np.zeros(T), np.zeros(T)
    for t in range(T):
        if impact == "I":
            for k in range(K):
                for j in range(p):
                    common = means[t, :, j].mean() / means[0, :, j].mean()
                    contrast = (means[t, k, j] - means[t, :, j].mean()) / (means[0, k, j] - means[0, :, j].mean())
                    A[t] += (np.log(abs(common)) + (K - 1) * np.log(abs(contrast))) / (K * p)
                    B[t] += (np.log(abs(common)) - np.log(abs(contrast))) / (K * p)
        else:
            amplitude = [[(np.eye(K)[k] - 1 / K) @ means[s, k] for k in range(K)] for s in (t, 0)]
            along = [np.mean(a) for a in amplitude]
            spread = [a[-1] - m for a, m in zip(amplitude, along, strict=True)]
            A1, A2 = (K * np.log(abs(pair[0] / pair[1])) for pair in (along, spread))
            A[t], B[t] = (A1 + (K - 1) * A2) / K, (A2 - A1) * (K - 1) / K
    return A, B


CURVES = {
    "constant": (0.03, -0.01),
    "in time": (lambda t: 0.02 + 0.0001 * t, lambda t: 0.01 * np.cos(t / 60)),
}


class TestClosedForms:
    @pytest.mark.parametrize("curves", CURVES)
    @pytest.mark.parametrize("impact", ["I", "L"])
    @pytest.mark.parametrize("n_classes", [2, 3, 5])
    def test_integrals_and_rates_come_back(self, tmp_path, impact, n_classes, curves):
        """The simulator holds rates at their values in the middle of an interval; integrals are then sums."""
        alpha, beta = CURVES[curves]
        sizes = np.arange(2, 2 + n_classes)
        first = np.random.default_rng(n_classes).normal(size=(sizes.sum(), n_classes))
        with simulate(
            tmp_path / "run.h5", n_classes=n_classes, samples_per_class=sizes, steps=EVEN, alpha=alpha, beta=beta,
            impact=impact, first_features=first, **QUIET,
        ) as recording:  # fmt: skip
            found = estimate_moments(recording, impact=impact, window=21)
        middles = (EVEN[1:] + EVEN[:-1]) / 2
        for rate, integral, slope in ((alpha, found.A, found.alpha), (beta, found.B, found.beta)):
            values = np.array([rate(t) if callable(rate) else rate for t in middles])
            expected = np.concatenate([[0], np.cumsum(2 * values)])
            np.testing.assert_allclose(integral, expected, atol=1e-8 * np.abs(expected).max())
            at_records = np.array([rate(t) if callable(rate) else rate for t in EVEN])
            # A parabola over ±10 steps misses a slope by 10²/6 of its second derivative at the most, and at the ends by
            # ten times that; here that is 0.01/60².
            np.testing.assert_allclose(slope[5:-5], at_records[5:-5], atol=1e-4 if callable(rate) else 1e-9)
            np.testing.assert_allclose(slope, at_records, atol=1e-3 if callable(rate) else 1e-9)
        assert (found.reversed_share == 0).all()
        assert found.notes[-1].startswith("one run")

    def test_bursts_are_smoothed_on_their_even_subset(self):
        A, B = 0.02 * BURSTS + 0.0001 * BURSTS**2, -0.01 * BURSTS
        found = estimate_moments(class_means(BURSTS, isotropic_path(BURSTS, A, B)), window=51)
        np.testing.assert_array_equal(found.grid_steps, np.arange(0, 401, 10))
        np.testing.assert_allclose(found.A, A, rtol=1e-10)
        np.testing.assert_allclose(found.alpha, 0.02 + 0.0002 * found.grid_steps, rtol=1e-8)  # exact for a parabola
        np.testing.assert_allclose(found.beta, -0.01, rtol=1e-8)

    def test_irregular_records_are_interpolated(self):
        steps = np.unique(np.random.default_rng(1).integers(0, 2000, size=300))
        A = 5 * np.sin(steps / 400)
        found = estimate_moments(class_means(steps, isotropic_path(steps, A - A[0], 0.0)), window=151)
        assert len(found.grid_steps) == len(steps)
        np.testing.assert_allclose(found.alpha[12:-12], np.cos(found.grid_steps / 400)[12:-12] / 80, atol=6e-4)
        np.testing.assert_allclose(found.beta, 0, atol=1e-9)

    def test_runs_are_averaged_before_ratios_are_taken(self, tmp_path):
        """Runs of one model with one A, B and other starts: their average obeys the same model."""
        labels, A, B = np.repeat([0, 1, 2], [2, 3, 4]), 0.01 * EVEN, 0.002 * EVEN
        paths = []
        for seed in range(3):
            features = isotropic_path(EVEN, A, B, seed=seed)[:, labels]
            paths.append(write_recording(tmp_path / f"{seed}.h5", EVEN, labels, {"fc3": features}))
        found = estimate_moments(paths, n_resamples=20)
        assert (found.n_runs, found.n_classes, found.layer) == (3, 3, "fc3")
        np.testing.assert_allclose(found.A, A, rtol=1e-8, atol=1e-12)
        np.testing.assert_allclose(found.intervals.B.q95, B, rtol=1e-8, atol=1e-12)

    def test_time_other_than_steps_scales_rates_only(self):
        path = isotropic_path(EVEN, 0.01 * EVEN, 0.0)
        by_step, by_lr = (estimate_moments(class_means(EVEN, path, times=EVEN * unit)) for unit in (1.0, 0.005))
        np.testing.assert_allclose(by_lr.alpha, by_step.alpha / 0.005)
        assert by_lr.tail_index_alpha == by_step.tail_index_alpha


class TestTailIndex:
    @pytest.mark.parametrize("index", [0.7, 1.0, 1.2])
    @pytest.mark.parametrize("last", [400, 20_000])
    def test_of_a_power_law_it_is_the_exponent(self, index, last):
        steps = np.linspace(0, last, 201).round().astype(int)
        integral = np.concatenate([[0], steps[1:] ** (1.0 - index)])
        found = estimate_moments(class_means(steps, isotropic_path(steps, integral, -integral / 2)), window=last // 20)
        assert found.tail_index_alpha.value == pytest.approx(index, abs=1e-9)
        assert not found.tail_index_alpha.flipped
        # of half the size, in the other sign
        late = steps[steps >= last - min(1000, last / 10)]
        assert found.tail_index_beta.value == pytest.approx(index + np.mean(np.log(2) / np.log(late)), abs=1e-9)
        assert found.tail_index_beta.flipped
        assert any("index is of −B̂" in note for note in found.notes)

    def test_first_record_need_not_be_at_step_0(self):
        steps = np.arange(500, 2501, 10)
        found = tail_index((steps - 500.0) ** 0.4, steps)
        assert found.value == pytest.approx(0.6)
        assert found.n_records == 21

    def test_the_sign_is_that_of_most_late_records_and_the_others_are_counted(self):
        steps = np.arange(0, 10_001, 100)
        integral = -(steps**0.5)
        integral[-4:] *= -1
        found = tail_index(integral, steps)
        assert (found.flipped, found.n_records, found.n_undefined) == (True, 11, 4)
        assert found.value == pytest.approx(0.5)
        integral[-6:] = np.abs(integral[-6:])
        found = tail_index(integral, steps)
        assert (found.flipped, found.n_undefined) == (False, 5)

    def test_where_nothing_is_positive_it_is_not_a_number_and_says_so(self):
        found = tail_index(np.zeros(len(EVEN)), EVEN)
        assert np.isnan(found.value)
        assert found.n_undefined == found.n_records == 21
        returning = 0.01 * np.minimum(EVEN, 2) * (EVEN < 360)  # a path that goes back to where it started
        path = isotropic_path(EVEN, returning, 0.0)
        path[EVEN >= 360] = path[0]
        found = estimate_moments(class_means(EVEN, path))
        assert np.isnan(found.tail_index_alpha.value)
        assert any("21 of 21 late values of Â are not positive" in note for note in found.notes)
        assert any("none is left, so it is not defined" in note for note in found.notes)


class TestInvariances:
    """On paths that no model fits, so that nothing holds by accident."""

    @pytest.fixture
    def walk(self):
        rng = np.random.default_rng(5)
        return rng.normal(size=(3, 3)) + 0.1 * rng.normal(size=(201, 3, 3)).cumsum(axis=0)

    @pytest.mark.parametrize("impact", ["I", "L"])
    def test_relabelling_and_scaling(self, walk, impact):
        order = [2, 0, 1]
        plain = estimate_moments(class_means(EVEN, walk), impact=impact)
        relabelled = estimate_moments(class_means(EVEN, 7.0 * walk[:, order][:, :, order]), impact=impact)
        for name in ("A", "B", "alpha", "beta", "reversed_share"):
            np.testing.assert_allclose(getattr(relabelled, name), getattr(plain, name), atol=1e-9)

    def test_isotropic_estimates_do_not_depend_on_axes_where_the_model_holds(self):
        path = isotropic_path(EVEN, 0.01 * EVEN, np.sin(EVEN / 50))
        rotation = np.linalg.qr(np.random.default_rng(2).normal(size=(4, 4)))[0]
        for paths in (path, path @ rotation):
            np.testing.assert_allclose(estimate_moments(class_means(EVEN, paths)).B, np.sin(EVEN / 50), atol=1e-10)

    @pytest.mark.parametrize("impact", ["I", "L"])
    def test_slower_time_leaves_integrals_and_scales_rates(self, walk, impact):
        plain = estimate_moments(class_means(EVEN, walk), impact=impact, window=31)
        slow = estimate_moments(class_means(3 * EVEN, walk), impact=impact, window=93)
        np.testing.assert_allclose(slow.A, plain.A)
        np.testing.assert_allclose(3 * slow.alpha, plain.alpha, atol=1e-12)

    @pytest.mark.parametrize("impact", ["I", "L"])
    def test_the_equations_written_out(self, walk, impact):
        """For K = 2 the paper's spread, of the last class, is that of all classes."""
        means = walk if impact == "I" else walk[:, :2, :2]
        found = estimate_moments(class_means(EVEN, means), impact=impact)
        A, B = plain_integrals(means, impact)
        np.testing.assert_allclose(found.A, A, atol=1e-10)
        np.testing.assert_allclose(found.B, B, atol=1e-10)


class TestSigns:
    def test_means_that_change_sign_are_counted_and_said(self):
        path = isotropic_path(EVEN, 0.001 * EVEN, 0.0)
        path[100:] *= -1
        found = estimate_moments(class_means(EVEN, path))
        np.testing.assert_array_equal(found.reversed_share, np.arange(201) >= 100)
        np.testing.assert_allclose(found.A, 0.001 * EVEN, atol=1e-10)  # sizes
        assert (
            "at 101 of 201 records class means have another sign than at the first (50% of all ratios)"
            in found.notes[0]
        )

    def test_under_l_projection_and_spread_turn_separately(self):
        directions = np.eye(3) - 1 / 3
        amplitude = 2.0 + np.outer(np.where(EVEN < 200, 1.0, -1.0), [1.0, -0.5, -0.5])
        found = estimate_moments(class_means(EVEN, amplitude[:, :, None] * directions), impact="L")
        np.testing.assert_array_equal(found.reversed_share, np.where(EVEN < 200, 0.0, 0.5))

    def test_dead_features_are_left_out(self):
        path = isotropic_path(EVEN, 0.01 * EVEN, 0.0)
        path[:, :, 1] = 0.0
        path[120:, :, 2] = 0.0
        found = estimate_moments(class_means(EVEN, path))
        assert (found.n_ratios, found.n_left_out) == (16, 8)
        np.testing.assert_allclose(found.A, 0.01 * EVEN, atol=1e-10)
        assert any("8 of 16 ratios are undefined" in note for note in found.notes)


class TestBootstrap:
    @staticmethod
    def runs(seed, n_runs=8, noise=0.02):
        """Noisy I-model paths of one start and common rates, exact between records."""
        rng, K, A, B = np.random.default_rng(seed), 3, 1.5, -0.3
        steps = np.arange(0, 101, 5)
        global_growth, growth = np.exp((A + 2 * B) / K / 20), np.exp((A - B) / K / 20)
        means = np.tile(np.array([[1.0, 2.0], [2.0, -1.0], [0.0, 1.0]]) + 1.0, (n_runs, 1, 1))
        paths = [means]
        for _ in range(20):
            centre = means.mean(axis=1, keepdims=True)
            means = global_growth * centre + growth * (means - centre) + noise * rng.normal(size=means.shape)
            paths.append(means)
        return class_means(steps, np.stack(paths, axis=1)), A, B

    @pytest.mark.slow
    def test_intervals_cover(self):
        """Eight runs resample to intervals of nominal 90 % that hold the truth in 82 % of repetitions.

        (Of 200 repetitions: 0.82 to 0.84 for the five quantities.) The limits are three standard errors away.
        """
        covered = []
        for seed in range(40):
            means, A, B = self.runs(seed)
            bands = estimate_moments(means, window=41, n_resamples=120, seed=seed).intervals
            late = means.steps[means.steps >= 90]
            for band, place, truth in (
                (bands.A, -1, A),
                (bands.B, -1, B),
                (bands.alpha, 10, A / 100),
                (bands.beta, 10, B / 100),
                (bands.tail_index_alpha, (), 1 - np.mean(np.log(A * late / 100) / np.log(late))),
            ):
                covered.append(band.q05[place] <= truth <= band.q95[place])
        by_quantity = np.reshape(covered, (40, -1)).mean(axis=0)
        assert ((by_quantity > 0.64) & (by_quantity < 1.0)).all(), by_quantity

    def test_a_seed_fixes_them(self):
        means, _, _ = self.runs(1)
        one, same, other = (estimate_moments(means, seed=seed, n_resamples=50).intervals for seed in (3, 3, 4))
        np.testing.assert_array_equal(one.alpha.q05, same.alpha.q05)
        assert not np.array_equal(one.alpha.q05, other.alpha.q05)
        assert one.A.q95[0] == one.A.q05[0] == 0

    def test_more_runs_narrow_them(self):
        few, many = (estimate_moments(self.runs(0, n)[0], n_resamples=200).intervals.A for n in (5, 50))
        assert np.ptp([many.q05[-1], many.q95[-1]]) < 0.6 * np.ptp([few.q05[-1], few.q95[-1]])

    def test_a_single_run_has_none_and_says_so(self):
        found = estimate_moments(self.runs(0, 1)[0])
        assert found.intervals is None
        assert "one run: no interval over runs" in found.notes[-1]
        assert "too narrow" in estimate_moments(self.runs(0, 2)[0], n_resamples=10).notes[-1]

    def test_what_too_few_resamples_define_has_no_interval(self):
        """Of four runs one is the opposite of the others: one resample in five averages to nothing."""
        path = isotropic_path(EVEN, 0.01 * EVEN, 0.0)
        found = estimate_moments(class_means(EVEN, [path, path, path, -path]), n_resamples=100)
        np.testing.assert_allclose(found.A, 0.01 * EVEN, atol=1e-10)
        for band in (found.intervals.A, found.intervals.alpha, found.intervals.tail_index_beta):
            assert np.isnan(band.q05).all()
            assert np.isnan(band.q95).all()


class TestSmoothing:
    def test_even_records_are_the_grid(self):
        np.testing.assert_array_equal(even_grid(EVEN * 1.0).times, EVEN)
        np.testing.assert_allclose(even_grid(EVEN * 0.005).times, EVEN * 0.005)

    def test_a_sparse_even_subset_is_not_the_grid(self):
        times = np.array([0.0, 3, 4, 9, 10, 17, 18, 20])  # 0, 10, 20 are even; too few of them
        assert len(even_grid(np.concatenate([times, 20 + np.cumsum(np.arange(1, 30) ** 1.3)])).times) == 37

    @pytest.mark.parametrize(
        ("window", "last", "points", "order", "expected"),
        [
            (151, 10_000, 10_001, 2, 151),
            (150, 10_000, 10_001, 2, 149),
            (151, 10_000, 201, 2, 5),
            (551, 30_000, 601, 2, 11),
            (151, 100, 101, 2, 101),
            (151, 100, 100, 2, 99),
            (1, 100, 101, 3, 5),
            (1, 100, 101, 4, 7),
        ],
    )
    def test_window(self, window, last, points, order, expected):
        assert window_length(window, np.array([0, last]), points, order) == expected


class TestBadInput:
    def test_impact_group_and_numbers(self, tmp_path):
        means = class_means(EVEN, isotropic_path(EVEN, 0.01 * EVEN, 0.0))
        with pytest.raises(InputError, match=r"4 features but labels has 3 classes.*use impact I"):
            estimate_moments(means, impact="L")
        with pytest.raises(InputError, match=r"impact 'R' is unknown here; choose one of I, L"):
            estimate_moments(means, impact="R")
        with pytest.raises(InputError, match=r"group 'x' is unknown"):
            read_class_means(tmp_path / "none.h5", group="x")
        with pytest.raises(InputError, match="at least 1"):
            estimate_moments(means, window=0)
        with pytest.raises(InputError, match="no recording was given"):
            estimate_moments([])

    def test_nothing_to_divide_by(self):
        path = isotropic_path(EVEN, 0.01 * EVEN, 0.0)
        centred = path - path.mean(axis=1, keepdims=True)
        with pytest.raises(InputError, match="they vanish or coincide"):
            estimate_moments(class_means(EVEN, centred))
        with pytest.raises(InputError, match="they vanish or coincide"):
            estimate_moments(class_means(EVEN, np.repeat(path.mean(axis=1, keepdims=True), 3, axis=1)))
        with pytest.raises(InputError, match="the same at every record"):
            estimate_moments(class_means(EVEN, np.repeat(path[:1], 201, axis=0)))

    def test_too_few_records(self):
        with pytest.raises(InputError, match="4 evenly spaced records are too few"):
            estimate_moments(class_means(EVEN[:4], isotropic_path(EVEN[:4], 0.01 * EVEN[:4], 0.0)))

    @pytest.mark.parametrize(
        ("change", "complaint"),
        [
            ({"steps": EVEN[:-1]}, "200 records, but"),
            ({"steps": EVEN + 1}, "record 0 is at step 1, but at 0 in"),
            ({"labels": [0, 0, 1, 1, 1, 1]}, "2 classes, but"),
            ({"width": 5}, "5 features, but"),
            ({"time": 0.1 * EVEN}, r"record 1 is at time 0\.2"),
        ],
    )
    def test_runs_that_differ(self, tmp_path, change, complaint):
        rng, paths = np.random.default_rng(0), []
        for number, own in enumerate(({}, change)):
            given = {"steps": EVEN, "labels": [0, 0, 1, 1, 2, 2], "width": 4, "time": None, **own}
            features = rng.normal(size=(len(given["steps"]), 6, given["width"]))
            time = {} if given["time"] is None else {"time": given["time"]}
            paths.append(tmp_path / f"{number}.h5")
            write_recording(paths[-1], given["steps"], given["labels"], {"hidden": features}, **time)
        with pytest.raises(InputError, match=complaint) as error:
            estimate_moments(paths)
        assert str(paths[0]) in str(error.value)
        assert str(paths[1]) in str(error.value)

    @pytest.mark.parametrize("group", ["labels", "given_labels"])
    def test_grouping(self, tmp_path, group):
        labels, given = np.array([0, 0, 1, 1]), np.array([0, 1, 0, 1])
        features = np.random.default_rng(0).normal(size=(10, 4, 2))
        path = write_recording(tmp_path / "run.h5", np.arange(10), labels, {"fc3": features}, given_labels=given)
        with Recording(path) as recording:
            means = read_class_means(recording, group=group, until=6)
            own = getattr(recording, group)
            assert recording.features("fc3")[:].shape[0] == 10  # still open
        expected = np.stack([features[:7, own == k].mean(axis=1) for k in (0, 1)], axis=1)
        np.testing.assert_allclose(means.runs[0], expected)


class TestCommand:
    @pytest.fixture
    def files(self, tmp_path):
        paths = []
        for seed in range(3):
            paths.append(str(tmp_path / f"{seed}.h5"))
            features = 1.0 + np.diag([1.0, 1.5, 0.5])[np.repeat([0, 1, 2], 4)]
            simulate(
                paths[-1], n_classes=3, samples_per_class=4, steps=EVEN, alpha=0.01, beta=-0.002, kappa=0.0,
                global_scale=0.002, class_scale=0.002, individual_scale=0.01, impact="I", first_features=features,
                seed=seed,
            ).close()  # fmt: skip
        return paths

    def test_several_runs_have_intervals(self, files, tmp_path, capsys):
        target = tmp_path / "found.json"
        assert main(["moments", *files, "--json", str(target)]) == 0
        shown = capsys.readouterr().out
        found = json.loads(target.read_text(), parse_constant=pytest.fail)
        assert (found["n_runs"], list(found["moments"])) == (3, ["I", "L"])
        isotropic = found["moments"]["I"]
        assert isotropic["A_end"] == pytest.approx(4.0, abs=0.3)
        assert isotropic["intervals"]["A_end"]["q05"] <= isotropic["A_end"] <= isotropic["intervals"]["A_end"]["q95"]
        for expected in ("The paper's estimators, I model (90 % interval over runs)", "tail index of ∫β", "3 runs"):
            assert expected in shown

    def test_one_run_has_none(self, files, capsys):
        assert main(["moments", files[0], "--impact", "L", "--until", "300", "--json", "-"]) == 0
        found = json.loads(capsys.readouterr().out)
        assert found["n_records"] == 151
        assert list(found["moments"]) == ["L"]
        assert found["moments"]["L"]["intervals"] is None

    def test_a_model_that_does_not_apply_is_named_and_the_other_shown(self, tmp_path, capsys):
        """Classes that start as a perfect simplex have no spread to divide by under L."""
        labels = np.repeat([0, 1, 2], 2)
        path = (np.exp(0.01 * EVEN / 3)[:, None, None] * (1.0 + np.eye(3)))[:, labels]
        file = str(write_recording(tmp_path / "simplex.h5", EVEN, labels, {"fc3": path}, logits="fc3"))
        assert main(["moments", file]) == 0
        captured = capsys.readouterr()
        assert "I model" in captured.out
        assert captured.err.count("\n") == 1
        assert "impact L divides by class means" in captured.err
        assert main(["moments", file, "--impact", "L"]) == 2

    def test_beside_the_posterior(self, files, tmp_path):
        from lesde_infer.cli.moments_command import moments_beside_posterior

        found = moments_beside_posterior(tmp_path / "0.h5", "logits", "labels", None)
        assert set(found) == {"I", "L"}
        assert set(found["I"]) == {
            "A_end", "B_end", "tail_index_alpha", "tail_index_beta", "reversed_share", "notes",
        }  # fmt: skip
        labels = np.repeat([0, 1], 3)
        centred = np.random.default_rng(0).normal(size=(20, 1, 5)) * np.where(labels, 1.0, -1.0)[:, None]
        path = write_recording(tmp_path / "centred.h5", np.arange(20), labels, {"hidden": centred})
        found = moments_beside_posterior(path, "hidden", "labels", None)
        assert list(found) == ["I"]
        assert np.isnan(found["I"]["A_end"])
        assert "they vanish or coincide" in found["I"]["notes"][0]

    def test_a_fit_prints_and_writes_them(self, files, tmp_path, monkeypatch, capsys):
        """The fit itself is replaced, as it takes long."""
        interval = {"mean": 0.8, "q05": 0.7, "q95": 0.9}
        curve = {"q05": [0.1], "q50": [0.2], "q95": [0.3]}
        numbers = dict.fromkeys(
            ["probability_gamma_positive", "probability_separable", "r_hat_max", "ess_bulk_min", "ess_tail_min"], 1.0
        )
        summary = {
            **numbers, "converged": True, "impact": "R", "parts": "all", "divergences": 0, "flags": [],
            "wall_seconds": 1.0, "tail_index": interval, "paper_tail_index": interval,
            "curves": {"step": [1.0], "gamma": curve},
            "elpd": {"total": {"elpd": 1.0, "se": 1.0, "p_loo": 1.0, "pareto_k_bad_share": 0.0}},
            "elpd_warnings": [], "prior_sensitivity": {},
            "time_unit": "steps", "drive": "instantaneous", "class_frequencies": [1 / 3] * 3,
        }  # fmt: skip
        fitted = SimpleNamespace(
            settings=SimpleNamespace(layer="logits"),
            to_json=lambda: summary,
            verdict=lambda: SimpleNamespace(sentence="Elastic."),
        )
        monkeypatch.setattr("lesde_infer.inference.fit", lambda *_, **__: fitted)
        target = tmp_path / "fit.json"
        assert main(["fit", files[0], "--until", "200", "--json", str(target)]) == 0
        found = json.loads(target.read_text(), parse_constant=pytest.fail)["moments"]
        means = read_class_means(files[0], until=200)
        for impact in ("I", "L"):
            for name, value in estimate_moments(means, impact=impact).ends().items():
                assert found[impact][name] == pytest.approx(value)
        shown = capsys.readouterr().out
        assert "The paper's estimators: points, without noise" in shown
        assert "posterior (R)" in shown
        assert "note (I): tail index of β: B̂ is negative on most late records" in shown
        assert "one run" not in shown
        assert "0.8 (0.7 to 0.9)" in shown

    def test_it_starts_no_jax(self, files):
        code = "import sys; from lesde_infer.cli import main; main(sys.argv[1:]); sys.exit('jax' in sys.modules)"
        command = [sys.executable, "-c", code, "moments", files[0]]
        assert subprocess.run(command, check=False, capture_output=True).returncode == 0


# By given labels: Â(10,000) and B̂(10,000) of the I model, the tail index of α of the L model, over several seeds.
REAL = {
    "geomnist_p0.0": ((20, 24), (-6, -4), (0.73, 0.76)),
    "geomnist_p0.5": ((7.5, 10), (-5, -3), (0.88, 1.04)),
    "geomnist_p0.67": ((0.7, 2.1), (-2, 0), (0.88, 1.03)),
    "geomnist_p0.8": ((3.7, 6.8), (-3, -2), (0.92, 1.04)),
}


@pytest.mark.parametrize("name", REAL)
def test_real_recordings_give_the_figures_found_before(real_recording_file, name):
    """Figures are given to one or two digits, and their L model took the spread of the last class alone."""
    means = read_class_means(real_recording_file(name), group="given_labels")
    (low_A, high_A), (low_B, high_B), (low, high) = REAL[name]
    isotropic, logits = (estimate_moments(means, impact=impact) for impact in ("I", "L"))
    assert low_A - 0.05 <= isotropic.A[-1] <= high_A + 0.05
    assert low_B - 0.5 <= isotropic.B[-1] <= high_B + 0.5
    A, _ = plain_integrals(means.runs[0], "L")
    assert low - 0.006 <= tail_index(A, means.steps).value <= high + 0.006
    assert low - 0.02 <= logits.tail_index_alpha.value <= high + 0.02
    assert isotropic.reversed_share.mean() > 0.1


def test_real_recordings_show_the_transition(real_recording_file):
    """Elasticity falls with label corruption until labels say nothing, and rises beyond."""
    paths = {name: real_recording_file(name) for name in REAL}
    A = [estimate_moments(path, group="given_labels").A[-1] for path in paths.values()]
    assert A[0] > A[1] > A[3] > A[2]
