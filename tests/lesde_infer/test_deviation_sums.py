"""Products of deviations, quick and one by one, against sums written out in double precision."""

import subprocess
import sys

import numpy as np
import pytest

from data_tools.recording_layout import LayerLayout, RecordingLayout
from data_tools.recording_writer import RecordingWriter
from lesde_infer import sample_blocks
from lesde_infer.class_average import ClassAverage
from lesde_infer.deviation_sums import DeviationSums, Moment, Push
from lesde_infer.deviations import contrast_axes
from lesde_infer.probe_sampling import moved_along
from lesde_infer.residuals import Residuals, softmax


def made_up(n_samples, width, n_classes, dtype, *, offset=0.0, contrast=1.0, spread=1.0, seed=0):
    """Return features before and after an interval, and groups in random order."""
    rng = np.random.default_rng(seed)
    groups = rng.permutation(np.arange(n_samples) % n_classes)
    centres = offset + contrast * rng.normal(size=(n_classes, width))
    before = centres[groups] + spread * rng.normal(size=(n_samples, width))
    after = 1.01 * before + 0.02 * spread * rng.normal(size=before.shape)
    return before.astype(dtype), after.astype(dtype), groups


def expected_products(before, after, groups, push):
    """Return what the sums are of, by parts: whole, along and across."""
    before, after = before.astype(np.longdouble), after.astype(np.longdouble)

    def centred(values):
        means = np.array([values[groups == k].mean(axis=0) for k in range(groups.max() + 1)])
        return means, values - means[groups]

    (means, start), (_, stop) = centred(before), centred(after)
    change = stop - start
    axes = contrast_axes(means.astype(float), start.astype(float)).astype(np.longdouble)
    pushes = np.zeros_like(start) if push is None else centred(push.residuals.T.astype(np.longdouble) @ push.weight)[1]
    along = [values @ axes.T @ axes for values in (start, change, pushes)]
    across = [values - own for values, own in zip((start, change, pushes), along, strict=True)]
    found = []
    for one, two, three in ((start, change, 0 * pushes), along, across):
        square = (one**2).sum()
        left = three - one * (one * three).sum() / square if square > 0 else three
        found.append([square, (one * two).sum(), (two**2).sum(), (left**2).sum(), (left * two).sum()])
    return np.array(found, dtype=float)


def sums_of(before, after, groups, push):
    average = ClassAverage(groups, int(groups.max()) + 1)
    ends = []
    for features in (before, after):
        spread = average.spread(features)
        ends.append(Moment(features, spread.means, spread.deviation_square))
    return DeviationSums(*ends, average, push)


def made_up_push(groups, width, seed=1):
    rng = np.random.default_rng(seed)
    n_classes = int(groups.max()) + 1
    residuals = rng.normal(size=(n_classes, len(groups)))
    residuals -= ClassAverage(groups, n_classes)(residuals.T).T[:, groups]
    return Push(residuals, rng.normal(size=(n_classes, width)))


def assert_products(found, expected):
    """Ten digits; products with a sign, of the sizes they are products of."""
    for own, wanted in zip(found, expected, strict=True):
        for column, size in (
            (0, wanted[0]),
            (1, np.sqrt(wanted[0] * wanted[2])),
            (2, wanted[2]),
            (3, wanted[3]),
            (4, np.sqrt(wanted[3] * wanted[2])),
        ):
            assert own[column] == pytest.approx(wanted[column], rel=0, abs=1e-10 * size + 1e-280)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("pushed", [False, True])
@pytest.mark.parametrize(("n_samples", "width", "n_classes"), [(40, 3, 3), (300, 84, 10), (7_000, 100, 3), (60, 1, 2)])
def test_products_are_those_written_out(n_samples, width, n_classes, dtype, pushed):
    before, after, groups = made_up(n_samples, width, n_classes, dtype)
    push = made_up_push(groups, width) if pushed else None
    sums = sums_of(before, after, groups, push)
    expected = expected_products(before, after, groups, push)
    quick = sums._quickly()
    assert quick is not None
    assert_products(quick, expected)
    assert_products(sums._one_by_one(), expected)
    assert sums.moved()


@pytest.mark.parametrize(("offset", "contrast"), [(0.0, 1e4), (1e5, 1.0)])
def test_products_keep_their_digits_where_means_outweigh_deviations(offset, contrast):
    """Sums less those of means would keep six digits and fewer."""
    before, after, groups = made_up(300, 84, 4, "float64", offset=offset, contrast=contrast)
    sums = sums_of(before, after, groups, None)
    assert sums._quickly() is None
    assert_products(sums.products(), expected_products(before, after, groups, None))


def test_products_keep_their_digits_where_deviations_explain_the_push():
    before, after, groups = made_up(300, 84, 3, "float64")
    average, weight = ClassAverage(groups, 3), np.random.default_rng(2).normal(size=(3, 84))
    residuals = (before @ np.linalg.pinv(weight)).T
    residuals -= average(residuals.T).T[:, groups]
    kept = before @ np.linalg.pinv(weight) @ weight  # deviations are pushes, but for a millionth
    before = kept + 1e-6 * np.random.default_rng(3).normal(size=before.shape)
    after = before + 0.01 * after
    sums = sums_of(before, after, groups, Push(residuals, weight))
    assert sums._quickly() is None
    assert np.isfinite(np.array(sums.products())).all()


def test_sums_do_not_depend_on_the_number_of_cores(monkeypatch):
    before, after, groups = made_up(20_000, 84, 3, "float32")
    found = []
    for cores in (1, 2, 3):
        monkeypatch.setattr(sample_blocks, "n_threads", lambda cores=cores: cores)
        sample_blocks._threads.cache_clear()
        found.append(sums_of(before, after, groups, made_up_push(groups, 84)).products())
    sample_blocks._threads.cache_clear()
    assert found[0] == found[1] == found[2]


@pytest.mark.parametrize("shape", [(0, 3), (1, 1), (5, 7), (400, 3), (3, 400), (1_000, 84)])
def test_products_of_matrices_by_stacks(shape):
    rng = np.random.default_rng(0)
    values = rng.normal(size=shape)
    for columns in (0, 1, 19, 700):
        matrix, weights = rng.normal(size=(shape[1], columns)), rng.normal(size=(columns, shape[0]))
        np.testing.assert_allclose(sample_blocks.times(values, matrix), values @ matrix, rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(
            sample_blocks.inner_product(weights, values), weights @ values, rtol=1e-12, atol=1e-10
        )


def test_residuals_are_those_written_out():
    rng = np.random.default_rng(0)
    groups, given = rng.permutation(np.arange(9_000) % 10), rng.integers(0, 10, 9_000)
    logits, weights = rng.normal(0, 3, size=(9_000, 10)).astype(np.float32), rng.uniform(0.5, 2.0, 10)
    average = ClassAverage(groups, 10)
    found = Residuals.of(logits, given, average, weights)
    probabilities = softmax(logits.astype(float))
    residuals = np.eye(10)[given] - probabilities
    means = average(residuals)
    np.testing.assert_allclose(found.means, means, atol=1e-13)
    np.testing.assert_allclose(found.deviations, (residuals - means[groups]).T, atol=1e-13)
    curvature = np.zeros((10, 10))
    for k in range(10):
        own = probabilities[groups == k]
        curvature += weights[k] / 10 * (np.diag(own.mean(axis=0)) - own.T @ own / len(own))
    np.testing.assert_allclose(found.curvature, curvature, atol=1e-13)
    assert found.f_statistic == pytest.approx(average.f_statistic(residuals), rel=1e-10)


def test_movement_along_the_impact_without_copies():
    before, after, groups = made_up(9_000, 84, 10, "float32")
    before[5], after[7_000] = np.nan, np.nan
    impact = np.random.default_rng(1).normal(size=(10, 84))
    change = after.astype(float) - before
    expected = np.nan_to_num(np.einsum("if,if->i", change, impact[groups]), nan=0.0)
    found = moved_along(before, after, impact, groups)
    np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-12)
    assert found[5] == found[7_000] == 0.0


PEAK = """
import sys
from pathlib import Path
from data_tools.recording import Recording
from lesde_infer.statistics import compute_statistics
def peak():  # of this program; that of getrusage may be of what started it
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
with Recording(sys.argv[1]) as recording:
    compute_statistics(recording, "hidden", "I", until=2)
    first = peak()
    compute_statistics(recording, "hidden", "I")
    print((peak() - first) * 1024)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from /proc")
def test_memory_does_not_grow_with_the_file(tmp_path):
    """Sixty records of 4 MB take no more memory than three, but for what is kept of each."""
    rng = np.random.default_rng(0)
    labels = np.arange(12_500) % 5
    path, features = tmp_path / "run.h5", rng.normal(size=(12_500, 84)).astype(np.float32)
    with RecordingWriter(path, RecordingLayout(labels, labels, {"hidden": LayerLayout(84)})) as writer:
        for record in range(60):
            features[record::60] *= 1.5
            writer.append(record, {"hidden": features}, commit=False)
    found = subprocess.run([sys.executable, "-c", PEAK, path], check=True, capture_output=True, text=True)
    assert int(found.stdout) < 6 * features.nbytes
