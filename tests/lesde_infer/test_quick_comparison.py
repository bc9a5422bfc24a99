"""The quick route: architectures whose γ is known, runs of known noise, against fits, and what it refuses."""

import numpy as np
import pytest

from data_tools.errors import InputError
from data_tools.recording_writer import write_recording
from lesde_infer.cli import main
from lesde_infer.comparison import compare
from lesde_infer.simulation import simulate

GAMMA, N_RUNS = 1.0e-2, 4


def simulated(path, alpha, seed):
    simulate(
        path,
        n_classes=3,
        samples_per_class=15,
        steps=np.arange(101) * 20,
        alpha=alpha,
        beta=0.0,
        kappa=0.0,
        global_scale=1e-3,
        class_scale=1e-3,
        individual_scale=1e-3,
        impact="R",
        dof=6.0,
        seed=seed,
    ).close()
    return path


def runs(folder, name, gamma, first_seed, *, chance=0.1):
    """Return runs of an architecture whose γ varies by so much from seed to seed."""
    rng = np.random.default_rng(first_seed)
    factors = np.exp(chance * rng.normal(size=N_RUNS))
    return [
        simulated(folder / f"{name}-{seed}.h5", gamma * factor, first_seed + seed)
        for seed, factor in enumerate(factors)
    ]


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    return {
        "slow": runs(folder, "slow", GAMMA, 100),
        "same": runs(folder, "same", GAMMA, 200),
        "fast": runs(folder, "fast", 3.0 * GAMMA, 300),
    }


@pytest.fixture(scope="module")
def compared(study):
    return compare(study, route="quick", allow_different_data=True)


def found(result, a, b, quantity):
    return next(own for own in result.contrasts if (own.a, own.b, own.quantity) == (a, b, quantity))


def test_what_is_three_times_as_elastic_is_found_to_be(compared):
    for quantity in ("gamma_at_half", "gamma_integral"):
        assert found(compared, "slow", "fast", quantity).verdict == "b greater"
        assert found(compared, "same", "fast", quantity).verdict == "b greater"
        own = found(compared, "slow", "same", quantity)
        assert own.verdict in ("open", "equivalent")
        assert own.q05 < 0.0 < own.q95
    length = 2000.0
    for name, gamma in (("slow", GAMMA), ("same", GAMMA), ("fast", 3.0 * GAMMA)):
        told = compared.interval(name, "gamma_integral")
        assert told["q05"] < gamma * length * np.exp(0.15)
        assert told["q95"] > gamma * length * np.exp(-0.15)


def test_it_says_what_it_does_not_tell(compared):
    assert compared.route == "quick"
    assert "tail_index" not in compared.quantities
    assert all("fit the runs" in run.untold["tail_index"] for own in compared.runs.values() for run in own)
    assert compared.to_json()["route"] == "quick"


@pytest.mark.slow
def test_fits_of_the_same_runs_say_the_same(study, compared):
    """Means on the scale of differences within the errors of both; fits, which smooth over time, know γ better."""
    chosen = {name: study[name] for name in ("slow", "fast")}
    fitted = compare(chosen, curve="constant", allow_different_data=True)
    for name in chosen:
        quick, full = (result.posteriors[name]["gamma_integral"] for result in (compared, fitted))
        quick, full = (
            result.quantities["gamma_integral"].back(own.mean) for result, own in ((compared, quick), (fitted, full))
        )
        assert abs(np.median(quick) - np.median(full)) < 2.0 * np.hypot(quick.std(), full.std())


def test_the_command_takes_recordings_alone(study, tmp_path, capsys):
    arguments = [f"{name}={','.join(map(str, paths))}" for name, paths in study.items()]
    options = ["--route", "quick", "--allow-different-data"]
    assert main(["compare", *arguments, *options, "--report", str(tmp_path / "page.html")]) == 0
    assert "fast greater" in capsys.readouterr().out
    assert "Every pair at a glance" not in (tmp_path / "page.html").read_text()  # for few pairs words will do
    assert main(["compare", *arguments, *options, "--curve", "constant"]) == 2
    assert "fits nothing" in capsys.readouterr().err


def test_what_gives_no_estimate_is_left_out_and_named(study, tmp_path):
    short = write_recording(
        tmp_path / "short.h5", range(4), np.repeat([0, 1, 2], 4), {"features": np.ones((4, 12, 3))}, logits="features"
    )
    result = compare({**study, "slow": [*study["slow"], short]}, route="quick", allow_different_data=True)
    assert len(result.runs["slow"]) == N_RUNS
    assert any("slow: a run is left out" in remark and "short.h5" in remark for remark in result.remarks)
    with pytest.raises(InputError, match=r"short.h5: too few intervals"):
        compare({"a": study["slow"], "b": [short]}, route="quick")
    with pytest.raises(InputError, match="takes no option of fits"):
        compare(study, route="quick", curve="gp")
    with pytest.raises(InputError, match="b: no runs; give one recording or more"):
        compare({"a": study["slow"], "b": []}, route="quick")
