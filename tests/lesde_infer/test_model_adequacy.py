"""Rivals of the impact that was compared: differences of densities that are known."""

import json
from pathlib import Path

import numpy as np
import pytest
from compared_fits import INTERVALS, made_up_fit

from data_tools.errors import InputError
from lesde_infer.comparison import compare
from lesde_infer.inference import ConvergenceError
from lesde_infer.model_adequacy import judge_rivals, over_runs, run_adequacy


def densities(seed, shift=0.0):
    return shift + np.random.default_rng(seed).normal(size=INTERVALS)


def test_the_difference_is_that_of_the_densities_and_its_error_that_of_a_mean():
    own, other = densities(1, 0.3), densities(2)
    found = run_adequacy("run", made_up_fit(0.05, density=own), made_up_fit(0.05, density=other, impact="I"))
    assert (found.impact, found.rival, found.n_intervals) == ("R", "I", INTERVALS)
    assert found.difference == pytest.approx((own - other).mean(), abs=1e-6)
    assert found.error == pytest.approx((own - other).std() / np.sqrt(INTERVALS), rel=1e-6)


def test_a_fit_against_itself_differs_by_nothing_and_the_other_way_round_by_as_much():
    one, two = (made_up_fit(0.05, density=densities(seed)) for seed in (1, 2))
    assert run_adequacy("run", one, one).difference == 0.0
    assert run_adequacy("run", one, two).difference == pytest.approx(-run_adequacy("run", two, one).difference)


def test_fits_of_other_runs_are_refused():
    fit = made_up_fit(0.05, density=densities(1))
    other = made_up_fit(0.05, density=densities(1))
    other.data["observed_data"]["contrast_increment_square"][:] = 7.0
    with pytest.raises(InputError, match="of another run: features that move otherwise"):
        run_adequacy("run", fit, other)


def test_over_runs_the_error_is_that_from_run_to_run():
    runs = [
        run_adequacy(
            f"{seed}", made_up_fit(0.05, density=densities(seed, 0.2)), made_up_fit(0.05, density=densities(9))
        )
        for seed in range(5)
    ]
    found = over_runs(runs)
    values = np.array([run.difference for run in runs])
    assert (found.n_runs, found.difference) == (5, pytest.approx(values.mean()))
    assert found.error == pytest.approx(values.std(ddof=1) / np.sqrt(5))
    assert over_runs(runs[:1]).error == runs[0].error
    json.dumps(found.to_json())


def test_what_cannot_be_fitted_is_named_and_the_rest_is_kept():
    def make(path, impact):
        if path.stem == "b0":
            raise ConvergenceError("chains disagree")
        if impact == "L":
            raise InputError("no logits")
        return made_up_fit(0.05, density=densities(3), impact=impact)

    fitted = [
        (name, Path(f"{name}{seed}.h5"), made_up_fit(0.05, density=densities(seed)), Path(f"{name}{seed}.h5"))
        for name in ("a", "b")
        for seed in range(2)
    ]
    fitted.append(("b", Path("kept.nc"), made_up_fit(0.05, density=densities(5)), None))
    found, remarks = judge_rivals(fitted, ["I", "L"], make)
    assert {name: [own.rival for own in adequacies] for name, adequacies in found.items()} == {"a": ["I"], "b": ["I"]}
    assert (found["a"][0].n_runs, found["b"][0].n_runs) == (2, 1)
    assert any("b0: impact I is left out: chains disagree" in remark for remark in remarks)
    assert sum("impact L is left out: no logits" in remark for remark in remarks) == 3
    assert any("kept: impact I is not tried" in remark for remark in remarks)


def test_a_comparison_says_it_beside(tmp_path):
    groups = {"a": [made_up_fit(0.05)], "b": [made_up_fit(0.05)]}
    result = compare(groups, rivals=["I", "R"])
    assert result.adequacy == {}
    assert any("impact I is not tried" in remark for remark in result.remarks)
    assert not any("impact R" in remark for remark in result.remarks)  # it is the one compared
    assert result.to_json()["architectures"]["a"]["adequacy"] == []
