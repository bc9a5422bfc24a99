"""Growth, pull and noise of deviations by parts, against plain regressions of all samples."""

from itertools import pairwise

import numpy as np
import pytest
from core_helpers import class_means, make_run
from scipy import linalg, special, stats

from lesde_infer.deviations import contrast_axes
from lesde_infer.simulation import simulate
from lesde_infer.statistics import compute_statistics
from lesde_infer.within_statistics import UNMEASURED, measured_strata


def collapse(run, path, layer="hidden", impact="I", **options):
    with run.write(path, **options) as recording:
        return compute_statistics(recording, layer, impact)


def only_features(features):
    return {"features": {"hidden": features}, "logits": None, "classifier": None}


def projection(means):
    """Projection on the span of all differences between class means, by an eigen-decomposition of their scatter."""
    differences = (means[:, None] - means[None]).reshape(-1, means.shape[1])
    values, vectors = linalg.eigh(differences.T @ differences)
    kept = vectors[:, values > 1e-9 * values.max()]
    return kept @ kept.T


@pytest.mark.parametrize(("n_classes", "width"), [(2, 4), (3, 4), (3, 7), (5, 6)])
@pytest.mark.parametrize("case", ["I", "R", "R hidden"])
def test_parts_are_plain_least_squares_of_all_samples(case, n_classes, width, tmp_path):
    """Coefficients and residuals of one regression with explicit columns, sample by sample."""
    run = make_run(n_classes, width, n_records=5, seed=n_classes + width)
    layer = "out" if case == "R" else "hidden"
    parts = collapse(run, tmp_path / "run.h5", layer, case[0]).parts
    features = run.logits if case == "R" else run.features
    n_samples = len(run.labels)
    assert (parts.pull is None) == (case == "I")
    for t, (before, after) in enumerate(pairwise(features)):
        means = class_means(before, run.labels)
        project = projection(means)
        deviations = before - means[run.labels]
        change = after - class_means(after, run.labels)[run.labels] - deviations
        columns = [deviations @ project, deviations - deviations @ project]
        if case != "I":
            residuals = np.eye(n_classes)[run.given] - special.softmax(run.logits[t], axis=1)
            push = residuals - class_means(residuals, run.labels)[run.labels]
            columns.append(push @ run.weight[t] if case == "R hidden" else push)
        # Growth is what it is without the push, the pull that of everything together.
        growth = [np.vdot(part, change) / np.vdot(part, part) for part in columns[:2]]
        design = np.stack([column.ravel() for column in columns], axis=1)
        pull = np.linalg.lstsq(design, change.ravel())[0][2] if case != "I" else 0.0
        left = change - (design @ np.linalg.lstsq(design, change.ravel())[0]).reshape(change.shape)
        dimensions = np.array([n_classes - 1, features.shape[2] - n_classes + 1]) * (n_samples - n_classes)
        variances, squares = [], []
        for part, factor, d, deviation, own in zip(
            (parts.along, parts.across),
            growth,
            dimensions,
            columns[:2],
            (project, np.eye(len(project)) - project),
            strict=True,
        ):
            rest = (left @ own) if case != "I" else change @ own - factor * deviation
            if case != "I":  # the rest of the push within the part, since one pull serves both
                pushed = columns[2] @ own
                pushed = pushed - deviation * np.vdot(deviation, pushed) / np.vdot(deviation, deviation)
                rest = change @ own - factor * deviation - pull * pushed
                squares.append(np.vdot(pushed, pushed))
            variances.append(np.vdot(rest, rest) / d)
            assert part.dimension[t] == d
            assert part.log_growth[t] == pytest.approx(np.log1p(factor), rel=1e-8)
            assert part.log_variance[t] == pytest.approx(np.log(variances[-1]), rel=1e-8)
            error = np.sqrt(variances[-1] / np.vdot(deviation, deviation)) / (1 + factor)
            assert part.log_growth_error[t] == pytest.approx(error, rel=1e-8)
            assert part.log_variance_error[t] == pytest.approx(np.sqrt(2 / d), rel=1e-12)
        if case != "I":
            assert parts.pull.strength[t] == pytest.approx(pull, rel=1e-7)
            error = np.sqrt(np.dot(variances, squares)) / sum(squares)
            assert parts.pull.error[t] == pytest.approx(error, rel=1e-7)


def test_stretching_along_the_span_of_class_means_leaves_no_growth_across(tmp_path):
    """Features times e^{0.3} along the span, and as they were across: κ̂_∥Δ = 0.3, κ̂_⊥ = 0, and as one in between."""
    run = make_run(3, 5, n_records=2, seed=4)
    first = run.features[0]
    project = projection(class_means(first, run.labels))
    features = np.array([first, first + np.expm1(0.3) * first @ project])
    statistics = collapse(run, tmp_path / "run.h5", **only_features(features))
    assert statistics.parts.along.log_growth[0] == pytest.approx(0.3, rel=1e-6)
    assert statistics.parts.across.log_growth[0] == pytest.approx(0.0, abs=1e-7)
    assert 0.01 < statistics.within.log_growth[0] < 0.29
    # Nothing is left but rounding, where all deviations as one leave noise.
    assert max(part.log_variance[0] for part in (statistics.parts.along, statistics.parts.across)) < -20
    assert statistics.within.log_variance[0] > -10


def test_parts_do_not_depend_on_axes_or_names_of_classes(tmp_path):
    """Rotated features, with the classifier rotated too, and classes in another order give the same numbers."""
    run = make_run(3, 5, n_records=5, seed=9)
    rotation = stats.special_ortho_group(5, seed=1).rvs()
    order = np.array([2, 0, 1])
    turned = {
        "features": {"hidden": run.features @ rotation, "out": run.logits[:, :, np.argsort(order)]},
        "labels": order[run.labels],
        "given_labels": order[run.given],
        "classifier": ((run.weight @ rotation)[:, np.argsort(order)], run.bias[:, np.argsort(order)], "hidden"),
    }
    one = collapse(run, tmp_path / "one.h5", impact="R")
    other = collapse(run, tmp_path / "other.h5", impact="R", **turned)
    own, its = (measured_strata(found.within, found.parts, "spanned") for found in (one, other))
    assert list(own) == ["growth_along", "growth_across", "pull", "individual_along", "individual_across"]
    for name, (_, values, error, _) in own.items():
        np.testing.assert_allclose(its[name].values, values, rtol=1e-4, atol=1e-5, err_msg=name)
        np.testing.assert_allclose(its[name].error, error, rtol=1e-4, err_msg=name)


def test_a_span_that_is_everything_leaves_one_part(tmp_path):
    """Two features and three classes: along the span is everything, and across it nothing to measure."""
    run = make_run(3, 2, n_records=4, seed=3)
    statistics = collapse(run, tmp_path / "run.h5")
    assert statistics.parts.across is None
    for name in ("log_growth", "log_variance", "log_growth_error", "log_variance_error", "dimension"):
        np.testing.assert_allclose(getattr(statistics.parts.along, name), getattr(statistics.within, name), rtol=1e-9)
    assert set(measured_strata(statistics.within, statistics.parts, "spanned")) == {"growth_along", "individual_along"}
    assert set(measured_strata(statistics.within, statistics.parts, "isotropic")) == {"growth", "individual"}


def test_an_interval_whose_class_means_coincide_says_nothing_of_the_part_along(tmp_path):
    run = make_run(2, 3, n_records=4, seed=5)
    features = run.features.copy()
    features[1] -= class_means(features[1], run.labels)[run.labels]
    statistics = collapse(run, tmp_path / "run.h5", **only_features(features))
    along, across = statistics.parts.along, statistics.parts.across
    degrees = len(run.labels) - 2
    assert along.dimension.tolist() == [degrees, 0, degrees]
    assert across.dimension.tolist() == [2 * degrees, 3 * degrees, 2 * degrees]
    assert along.log_growth_error[1] == along.log_variance_error[1] == UNMEASURED
    assert along.log_growth_error[[0, 2]].max() < 10
    assert along.log_growth[1] == along.log_growth[0]
    # There the part across is all there is.
    np.testing.assert_allclose(across.log_variance[1], statistics.within.log_variance[1], rtol=1e-10)


def test_rates_of_a_simulated_run_are_recovered_part_by_part(tmp_path):
    """400 samples a class: each interval within a few of its own standard errors, and all together as χ² has it."""
    truth = {"kappa": 4e-3, "kappa_across": -6e-3, "individual_scale": 0.05, "individual_scale_across": 0.01}
    steps = np.arange(0, 401, 10)
    with simulate(
        tmp_path / "run.h5",
        n_classes=3,
        samples_per_class=400,
        steps=steps,
        alpha=2e-2,
        beta=0.0,
        pull=0.05,
        global_scale=1e-3,
        class_scale=1e-3,
        impact="R",
        first_features=np.random.default_rng(1).normal(size=(1200, 3)) + 2 * np.repeat(np.eye(3), 400, axis=0),
        seed=3,
        **truth,
    ) as recording:
        parts = compute_statistics(recording, recording.choose_layer(None), "R").parts
    expected = {
        "growth_along": (parts.along.log_growth, parts.along.log_growth_error, truth["kappa"] * 10),
        "growth_across": (parts.across.log_growth, parts.across.log_growth_error, truth["kappa_across"] * 10),
        "pull": (parts.pull.strength, parts.pull.error, 0.05 * 10),
        "individual_along": (parts.along.log_variance, parts.along.log_variance_error, np.log(0.05**2 * 10)),
        "individual_across": (parts.across.log_variance, parts.across.log_variance_error, np.log(0.01**2 * 10)),
    }
    for name, (values, error, true) in expected.items():
        standardised = (values - true) / error
        chi_square = stats.chi2(len(values))
        assert chi_square.ppf(1e-4) < (standardised**2).sum() < chi_square.isf(1e-4), name
        assert abs(standardised.mean()) * np.sqrt(len(values)) < 4, name


def test_rounding_spans_nothing():
    """Contrasts far below single precision of the features, which deviations may dominate, are no direction."""
    means = np.ones((3, 4)) * 50.0
    contrasts = np.array([[1.0, 0, 0, 0], [-1.0, 0, 0, 0], [0, 0, 0, 0]])
    weak = np.array([[0, 1.0, 0, 0], [0, 1.0, 0, 0], [0, -2.0, 0, 0]])
    still, far = np.zeros((5, 4)), np.full((5, 4), 1e6)
    for size, deviations, rank in ((1e-7, still, 1), (1e-3, still, 2), (1e-3, far, 1)):
        axes = contrast_axes(means + contrasts + size * weak, deviations)
        assert np.count_nonzero(axes.any(axis=1)) == rank
        np.testing.assert_allclose(axes.T @ axes, np.diag([1.0, rank - 1.0, 0, 0]), atol=1e-6)
    assert not contrast_axes(means, still).any()
    assert not contrast_axes(1e-17 * contrasts, np.ones((5, 4))).any()
