"""Architectures compared: made-up fits with known γ, guards, JSON, and the command."""

import json

import numpy as np
import pytest
from compared_fits import made_up_fit, separating_recording

import lesde_infer as li
from data_tools.errors import InputError
from lesde_infer.cli import main
from lesde_infer.cli.compare_command import parse_architectures
from lesde_infer.comparison import Quantity, compare, compare_fits
from lesde_infer.inference import ConvergenceError
from lesde_infer.plots_comparison import plot_comparison


def study(ratio=1.0, *, n_runs=5, chance=0.2, seed=0, **options):
    """Two architectures, of which b has ``ratio`` times the γ of a."""
    rng = np.random.default_rng(seed)
    return {
        name: [made_up_fit(0.05 * factor * np.exp(chance * rng.normal()), seed=i, **options) for i in range(n_runs)]
        for name, factor in (("a", 1.0), ("b", ratio))
    }


def of(result, quantity):
    return next(contrast for contrast in result.contrasts if contrast.quantity == quantity)


def test_a_difference_is_found_and_measured():
    result = compare(study(ratio=3.0))
    found = of(result, "gamma_end")
    assert found.verdict == "b greater"
    assert found.q05 < -np.log(3.0) < found.q95
    assert found.probability_greater < 0.01
    assert found.further_runs == 0
    assert of(result, "tail_index").verdict != "a greater"


def test_equal_architectures_are_not_told_apart():
    found = of(compare(study()), "gamma_end")
    assert found.verdict in ("open", "equivalent")
    assert 0.02 < found.probability_greater < 0.98


def test_names_in_another_order_turn_contrasts_round():
    groups = study(ratio=2.0)
    there = of(compare(groups), "gamma_integral")
    back = of(compare(dict(reversed(groups.items()))), "gamma_integral")
    assert (there.a, there.b) == (back.b, back.a)
    assert there.mean == pytest.approx(-back.mean, abs=0.03)


def test_the_unit_of_time_changes_no_contrast():
    """γ a thousand times as large, as per unit of learning rate instead of per step."""
    rng = np.random.default_rng(1)
    sizes = {"a": 0.05 * np.exp(0.2 * rng.normal(size=4)), "b": 0.1 * np.exp(0.2 * rng.normal(size=4))}
    quantity = Quantity("gamma_end", "asinh", 0.005)
    scaled = Quantity("gamma_end", "asinh", 5.0)
    for values in sizes.values():
        np.testing.assert_allclose(quantity.forward(values), scaled.forward(1000.0 * values), rtol=1e-12)
    np.testing.assert_allclose(quantity.back(quantity.forward(sizes["a"])), sizes["a"], rtol=1e-12)


@pytest.mark.slow
def test_both_routes_agree():
    groups = study(ratio=2.0)
    fast, full = of(compare(groups), "gamma_end"), of(compare(groups, route="joint"), "gamma_end")
    assert full.mean == pytest.approx(fast.mean, abs=0.06)
    assert full.q95 - full.q05 == pytest.approx(fast.q95 - fast.q05, rel=0.15)


def test_one_run_each_says_that_seeds_are_unknown():
    result = compare(study(ratio=1.3, n_runs=1))
    assert not result.contrasts
    assert set(result.posteriors["a"]) >= {"gamma_end", "gamma_integral"}  # what each is like is told all the same
    assert sum("one run says nothing" in remark for remark in result.remarks) == 2


def test_runs_that_did_not_converge_are_left_out_and_named():
    groups = study(ratio=3.0)
    n_runs = len(groups["a"])
    stuck = made_up_fit(0.05, recording="stuck.h5")
    stuck.data["sample_stats"]["diverging"][:] = True
    result = compare({**groups, "a": [*groups["a"], stuck]})
    assert result.posteriors["a"]["gamma_end"].n_runs == n_runs
    assert any("a: a run is left out: stuck.h5: its fit did not converge" in remark for remark in result.remarks)
    assert of(result, "gamma_end").mean == of(compare(groups), "gamma_end").mean
    with pytest.raises(ConvergenceError, match=r"stuck.h5"):
        compare({"a": [stuck], "b": groups["b"]})
    with_third = compare({**groups, "c": [stuck]})
    assert any("c: has no run left" in remark for remark in with_third.remarks)


def test_json_follows_the_contract():
    result = compare(study(ratio=3.0)).to_json()
    assert set(result["architectures"]) == {"a", "b"}
    for own in result["architectures"].values():
        assert own["n_runs"] == 5
        assert own["probability_elastic"] > 0.95
        for name in ("gamma_end", "tail_index"):
            assert own[name]["q05"] < own[name]["mean"] < own[name]["q95"]
    assert {"a", "b", "quantity", "mean", "q05", "q95", "probability_greater"} <= set(result["contrasts"][0])
    json.dumps(result)


def test_what_is_observed_is_compared_where_recordings_are_at_hand(tmp_path):
    fits = [
        (name, path := tmp_path / f"{name}{seed}.h5", made_up_fit(0.05, seed=seed), separating_recording(path, step))
        for name, first in (("early", 100), ("late", 600))
        for seed, step in enumerate((first, first + 20, first + 40))
    ]
    result = compare_fits(fits, loss=None, route="two-stage", allow_different_data=False, seed=0)
    found = of(result, "separation_step")
    assert found.verdict == "b greater"
    assert result.interval("early", "separation_step")["mean"] == pytest.approx(120, rel=0.1)
    assert any("not compared at equal loss" in remark for remark in result.remarks)


def test_gamma_is_compared_where_losses_are_equal(tmp_path):
    """Two architectures with one and the same γ(loss), of which one learns twice as fast: equal at equal loss only."""
    fits = []
    for name, speed in (("fast", 2.0), ("slow", 1.0)):
        for seed in range(3):
            loss = np.exp(-speed * np.linspace(0.0, 1.5, 51))
            path = separating_recording(tmp_path / f"{name}{seed}.h5", 100, loss=loss)
            fits.append((name, path, made_up_fit(0.1 * loss[:-1], sd=0.05, seed=seed), path))
    result = compare_fits(fits, loss=None, route="two-stage", allow_different_data=False, seed=0)
    assert abs(of(result, "gamma_at_loss").mean) < 0.12
    assert of(result, "gamma_end").mean < -1.0


def test_one_that_never_learns_does_not_keep_the_others_from_equal_loss(tmp_path):
    fits = []
    for name, reached in (("fast", 0.1), ("slow", 0.3), ("stuck", 0.99)):
        for seed in range(2):
            loss = np.geomspace(1.0, reached, 51)
            path = separating_recording(tmp_path / f"{name}{seed}.h5", 100, loss=loss)
            fits.append((name, path, made_up_fit(0.05, seed=seed), path))
    result = compare_fits(fits, loss=None, route="two-stage", allow_different_data=False, seed=0)
    assert [(own.a, own.b) for own in result.contrasts if own.quantity == "gamma_at_loss"] == [("fast", "slow")]
    assert {(own.a, own.b) for own in result.contrasts if own.quantity == "gamma_end"} >= {("fast", "stuck")}
    assert any("stuck is not compared at equal loss" in remark for remark in result.remarks)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"impact": "I"}, "impact is I, but R in"),
        ({"curve": "power"}, "curve is power, but gp in"),
        ({"group": "given_labels"}, "group is given_labels, but labels in"),
        ({"probe": "other"}, "probe sets differ between architectures"),
    ],
)
def test_runs_that_do_not_compare_are_refused(options, message):
    groups = {"a": [made_up_fit(0.05)], "b": [made_up_fit(0.05, **options)]}
    with pytest.raises(InputError, match=message):
        compare(groups)


def test_other_probe_sets_may_be_allowed_or_be_part_of_chance():
    apart = {"a": [made_up_fit(0.05)], "b": [made_up_fit(0.05, probe="other")]}
    assert any("probe sets differ" in remark for remark in compare(apart, allow_different_data=True).remarks)
    own = {name: [made_up_fit(0.05, probe=f"{i}") for i in range(3)] for name in ("a", "b")}
    assert any("from run to run" in remark for remark in compare(own).remarks)
    unknown = {name: [made_up_fit(0.05, probe=None)] for name in ("a", "b")}
    assert any("not known" in remark for remark in compare(unknown).remarks)


def test_label_noise_is_no_difference_of_architectures(tmp_path):
    fits = [
        (name, path := tmp_path / f"{name}.h5", made_up_fit(0.05), separating_recording(path, 100, wrong=wrong))
        for name, wrong in (("clean", 0.0), ("noisy", 0.5))
    ]
    arguments = {"loss": None, "route": "two-stage", "seed": 0}
    with pytest.raises(InputError, match=r"noisy.h5: 50% of its labels are wrong, but 0% in .*clean.h5"):
        compare_fits(fits, allow_different_data=False, **arguments)
    assert compare_fits(fits, allow_different_data=True, **arguments).remarks


def test_runs_that_tell_nothing_are_left_out_and_named():
    groups = {"a": [made_up_fit(0.05), made_up_fit(0.05, sd=2.9)], "b": [made_up_fit(0.05)]}
    result = compare(groups)
    assert result.posteriors["a"]["gamma_end"].n_runs == 1
    assert any("gamma_end is left out" in remark for remark in result.remarks)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a=x.h5"], "one architecture is nothing to compare"),
        (["a=x.h5", "x.h5"], "'x.h5' names no architecture"),
        (["a=x.h5", "a=y.h5"], "'a' is given twice"),
        (["a=x.h5", "b=x.h5"], "is given for a and for b"),
        (["a=x.h5", "b="], "'b=' names no architecture"),
    ],
)
def test_arguments_that_make_no_sense(arguments, message):
    with pytest.raises(InputError, match=message):
        parse_architectures(arguments)


def test_fewer_than_two_architectures_are_refused():
    with pytest.raises(InputError, match="two architectures"):
        compare({"a": [made_up_fit(0.05)]})
    with pytest.raises(InputError, match="b: no runs"):
        compare({"a": [made_up_fit(0.05)], "b": []})
    with pytest.raises(InputError, match=r"loss is -1.0; give a positive"):
        compare(study(), loss=-1.0)


@pytest.fixture
def kept_fits(tmp_path):
    """Files of fits, two runs of each of two architectures."""
    paths = {}
    for name, gamma in (("flat", 0.02), ("steep", 0.2)):
        paths[name] = []
        for seed in range(2):
            fit = made_up_fit(gamma, seed=seed)
            fit.data.attrs.update(format="lesde-fit", version=1)
            paths[name].append(fit.save(tmp_path / f"{name}{seed}.nc"))
    return paths


def arguments_of(kept):
    return [f"{name}={','.join(map(str, paths))}" for name, paths in kept.items()]


def test_the_command_prints_and_writes_what_was_found(kept_fits, tmp_path, capsys):
    target = tmp_path / "result.json"
    assert main(["compare", *arguments_of(kept_fits), "--json", str(target)]) == 0
    printed = capsys.readouterr()
    assert "steep greater" in printed.out
    assert "γ at the end" in printed.out
    result = json.loads(target.read_text())
    assert {contrast["quantity"] for contrast in result["contrasts"]} >= {"gamma_end", "tail_index"}
    assert main(["compare", *arguments_of(kept_fits), "--json", str(target)]) == 2
    assert "exists" in capsys.readouterr().err


def test_the_picture_shows_runs_and_means(kept_fits, tmp_path):
    target = tmp_path / "forest.png"
    assert main(["compare", *arguments_of(kept_fits), "--plot", str(target)]) == 0
    assert target.read_bytes().startswith(b"\x89PNG")
    figure = plot_comparison(compare(study(ratio=3.0)))
    panels = {axes.get_title(): axes for axes in figure.axes if axes.get_title()}
    assert set(panels) >= {"γ at the end", "tail index of γ"}
    ends = panels["γ at the end"]
    assert [label.get_text() for label in ends.get_yticklabels()] == ["a", "b"]
    assert len(ends.containers) == 10  # a point with its error for each run


def test_the_command_writes_it_up_as_a_page(kept_fits, tmp_path, capsys):
    target = tmp_path / "page.html"
    assert main(["compare", *arguments_of(kept_fits), "--report", str(target), "--rivals", "I"]) == 0
    assert "impact I is not tried, which takes the recording" in capsys.readouterr().err
    text = target.read_text(encoding="utf-8")
    assert "steep greater" in text
    assert "impact I is not tried" in text
    assert main(["compare", *arguments_of(kept_fits), "--report", str(target)]) == 2
    assert "exists" in capsys.readouterr().err
    assert main(["compare", *arguments_of(kept_fits), "--rivals", "I,Q"]) == 2
    assert "--rivals: 'Q' is unknown" in capsys.readouterr().err


def test_the_command_names_files_that_are_not_there(kept_fits, capsys):
    assert main(["compare", *arguments_of(kept_fits)[:1], "other=nowhere.h5"]) == 2
    assert "nowhere.h5: no such file" in capsys.readouterr().err


def test_it_is_where_users_look_for_it():
    assert li.compare is compare
