"""Plots: what is drawn is what was given, axes and labels are right, nothing leaks into pyplot."""

import sys
from dataclasses import replace

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.figure import Figure
from report_fakes import METRICS, make_check, make_fit

from data_tools.errors import InputError
from lesde_infer.observed import METRICS as ALL_METRICS
from lesde_infer.plots import (
    METRIC_LABELS,
    figure_of,
    inside_band,
    plot_class_means,
    plot_elasticity,
    plot_energy,
    plot_noise_scales,
    plot_predicted_against_observed,
    plot_trace_rank,
)


@pytest.fixture(scope="module")
def fit():
    return make_fit()


@pytest.fixture(scope="module")
def check():
    return make_check()


def png_bytes(axes, tmp_path):
    path = tmp_path / "plot.png"
    figure_of(axes).savefig(path, dpi=50)
    return path.stat().st_size


def line(axes, label):
    return next(drawn for drawn in axes.lines if drawn.get_label() == label)


def test_every_plot_renders_without_pyplot_and_without_global_settings(fit, check, tmp_path):
    before = dict(mpl.rcParams)
    drawn = [
        plot_elasticity(fit),
        plot_noise_scales(fit),
        *(plot_predicted_against_observed(check, metric) for metric in METRICS),
        plot_class_means(check),
        plot_trace_rank(fit),
        plot_energy(fit),
    ]
    assert all(png_bytes(axes, tmp_path) > 1000 for axes in drawn)
    assert dict(mpl.rcParams) == before
    if "matplotlib.pyplot" in sys.modules:
        assert sys.modules["matplotlib.pyplot"].get_fignums() == []


def test_plots_draw_on_the_axes_they_are_given(fit, check):
    axes = Figure().subplots(2, 3).ravel()
    assert plot_elasticity(fit, axes[0]) is axes[0]
    assert plot_noise_scales(fit, axes[1]) is axes[1]
    assert plot_predicted_against_observed(check, "nc1", axes[2]) is axes[2]
    assert plot_class_means(check, axes[3:5]) == list(axes[3:5])
    assert plot_energy(fit, axes[5]) is axes[5]


def test_elasticity_shows_the_posterior_median_and_its_bands(fit):
    axes = plot_elasticity(fit)
    drawn = line(axes, "γ: separation, α − β")
    draws = fit.posterior["gamma"].to_numpy().reshape(400, -1)
    assert drawn.get_xdata() == pytest.approx(fit.posterior["time"].to_numpy())
    assert drawn.get_ydata() == pytest.approx(np.median(draws, axis=0))
    outer = axes.collections[0].get_paths()[0].vertices
    assert outer[:, 1].max() == pytest.approx(np.quantile(draws, 0.95, axis=0).max())
    assert outer[:, 1].min() == pytest.approx(np.quantile(draws, 0.05, axis=0).min())
    assert "optimizer step" in axes.get_xlabel()
    assert "per optimizer step" in axes.get_ylabel()


def test_rates_over_many_decades_get_a_symmetric_logarithmic_axis_and_others_a_linear_one(fit):
    assert plot_elasticity(fit).get_yscale() == "symlog"
    narrow = make_fit()
    for name in ("gamma", "alpha", "beta"):
        narrow.posterior[name] = 1.0 + 0.01 * narrow.posterior[name]
    assert plot_elasticity(narrow).get_yscale() == "linear"
    for name in ("gamma", "alpha", "beta"):
        narrow.posterior[name] = 0.0 * narrow.posterior[name]
    assert plot_elasticity(narrow).get_yscale() == "linear"


@pytest.mark.parametrize("split", [True, False])
def test_noise_of_classes_is_drawn_along_the_impact_and_across_it_where_these_are_told_apart(split):
    fit = make_fit()
    posterior = fit.posterior if split else fit.posterior.drop_vars("impact_scale")
    axes = plot_noise_scales(replace(fit, posterior=posterior))
    across, along = "shared by a class, across the impact", "shared by a class, along the impact"
    drawn = {"global_scale": "shared by all classes", "individual_scale": "of individual samples"}
    drawn |= {"class_scale": across, "impact_scale": along} if split else {"class_scale": "shared by a class"}
    assert {text.get_text() for text in axes.get_legend().get_texts()} == set(drawn.values())
    for name, label in drawn.items():
        median = np.median(posterior[name].to_numpy(), axis=(0, 1))
        assert line(axes, label).get_ydata() == pytest.approx(median), name
    assert len({drawn.get_color() for drawn in axes.lines}) == len(drawn)
    assert axes.get_yscale() == "log"


def test_observed_points_outside_the_band_are_marked(check):
    axes = plot_predicted_against_observed(check, "nc1")
    inside = set(line(axes, "observed").get_xdata())
    outside = set(line(axes, "observed, outside").get_xdata())
    draws, observed = check.predicted["nc1"], check.observed["nc1"]
    low, high = np.quantile(draws, [0.05, 0.95], axis=0)
    expected = (observed < low) | (observed > high)
    assert expected.any()
    assert outside == set(check.steps[expected])
    assert inside == set(check.steps[~expected])
    assert axes.get_yscale() == "log"
    share = plot_predicted_against_observed(check, "linear_separability")
    assert share.get_ylim() == (-0.04, 1.04)


def test_undefined_values_are_left_out_and_count_as_outside():
    predicted = np.array([[1.0, np.nan, np.nan], [3.0, np.nan, 5.0], [2.0, np.nan, 6.0]])
    assert inside_band(predicted, np.array([2.0, 2.0, 5.5])).tolist() == [True, False, True]
    assert inside_band(predicted, np.array([np.nan, 0.0, 9.0])).tolist() == [False, False, False]
    check = make_check()
    check.predicted["nc1"][:, 2] = np.nan
    check.observed["nc1"][3] = np.nan
    axes = plot_predicted_against_observed(check, "nc1")
    assert 2 not in np.flatnonzero(np.isin(check.steps, line(axes, "predicted").get_xdata()))
    check.predicted["nc1"][:] = np.nan
    plot_predicted_against_observed(check, "nc1")


def test_a_single_step_is_drawn_as_a_bar(tmp_path):
    axes = plot_predicted_against_observed(make_check(n_steps=1), "between_norm")
    assert line(axes, "predicted").get_marker() == "o"
    assert png_bytes(axes, tmp_path) > 1000


@pytest.mark.parametrize(("n_classes", "n_features"), [(2, 1), (2, 5), (3, 3), (12, 40)])
def test_class_means_keep_their_distances_in_the_main_plane(n_classes, n_features, tmp_path):
    check = make_check(1, n_classes, n_features)
    left, right = plot_class_means(check)
    ends = np.array([mark.get_xydata()[0] for mark in left.lines if mark.get_markeredgecolor() == "black"])
    final = check.class_means_observed[-1]
    centred = final - final.mean(axis=0)
    singular = np.linalg.svd(centred, compute_uv=False)
    # The plane holds the two largest singular values of the centred final means: nothing is lost for K ≤ 3.
    assert (ends**2).sum() == pytest.approx((singular[:2] ** 2).sum(), rel=1e-9)
    assert [text.get_text() for text in left.texts] == [str(k) for k in range(n_classes)]
    assert left.get_xlim() == right.get_xlim()
    assert left.get_ylim() == right.get_ylim()
    assert png_bytes(left, tmp_path) > 1000


def test_ranks_of_a_chain_that_disagrees_leave_the_band(fit):
    def histogram(values):
        bad = make_fit()
        bad.posterior["tail_index"] = (("chain", "draw"), values)
        ranks = plot_trace_rank(bad, ["tail_index"])[1]
        low, high = ranks.patches[0].get_y(), ranks.patches[0].get_y() + ranks.patches[0].get_height()
        counts = np.array([stairs.get_data().values for stairs in ranks.patches[1:]])
        return counts, np.mean((counts < low) | (counts > high))

    values = np.random.default_rng(0).normal(size=(4, 100))
    counts, outside = histogram(values)
    assert counts.sum() == 400
    assert outside < 0.1
    values[0] += 3.0
    counts, outside = histogram(values)
    assert counts.sum() == 400
    assert outside > 0.3


def test_trace_and_rank_name_the_end_of_a_curve_and_the_scalars(fit):
    labels = [axes.get_ylabel() for axes in plot_trace_rank(fit)[::2]]
    assert labels == ["gamma, end", "tail_index", "paper_tail_index"]


def test_energy_names_the_fraction_of_missing_information(fit):
    energy = fit.data["sample_stats"]["energy"].to_numpy()
    fraction = min((np.diff(chain) ** 2).mean() / chain.var() for chain in energy)
    assert f"{fraction:.2f}" in plot_energy(fit).get_legend().get_title().get_text()


def test_every_metric_of_the_contract_has_a_label():
    assert set(METRIC_LABELS) == set(ALL_METRICS)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda fit, check: plot_elasticity(fit, quantities=["delta"]), "no variable 'delta'.*gamma"),
        (lambda fit, check: plot_predicted_against_observed(check, "nc9"), "no metric 'nc9'.*nc1"),
        (lambda fit, check: plot_class_means(check, [Figure().add_subplot()]), "two axes.*1 were given"),
        (lambda fit, check: plot_trace_rank(fit, ["missing"]), "no variable 'missing'"),
    ],
)
def test_bad_input_is_named(call, message, fit, check):
    with pytest.raises(InputError, match=message):
        call(fit, check)
