"""Draws of the strata arranged as a posterior: every quantity from the draws of its own stratum, in its own unit."""

from dataclasses import replace

import numpy as np
import pytest
from core_helpers import make_run

from lesde_infer.assembly import STRATA, assemble, locate
from lesde_infer.curves import n_weights
from lesde_infer.interval_lengths import has_mixed_intervals
from lesde_infer.model import Parameters
from lesde_infer.posterior import NOISE_SCALES, build_posterior
from lesde_infer.sampling import SampleRun
from lesde_infer.statistics import compute_statistics

DRAWS = (2, 5)  # chains and draws


def made_up_run(rng, n_strata, n_intervals, mixed, sized):
    """Draws of a model of some strata that no sampler drew."""
    curve = (*DRAWS, n_strata, n_intervals)
    parameters = Parameters(
        location=rng.normal(size=curve),
        log_scale=rng.normal(size=curve),
        attenuation=rng.normal(size=curve),
        degrees=rng.uniform(1.0, 9.0, size=(*DRAWS, n_strata, 2)),
        interval_exponent=rng.normal(size=(*DRAWS, n_strata)),
    )
    n_curves = (3 if mixed else 2) * n_strata
    values = {
        "curve_weights": rng.normal(size=(*DRAWS, n_curves, n_weights("gp"))),
        "curve_amplitude": rng.normal(size=(*DRAWS, n_curves)),
        "degrees_excess": rng.normal(size=(*DRAWS, n_strata, 1 + mixed)),
    }
    names = ("n_steps", "energy", "lp", "acceptance_rate", "step_size")
    statistics = {name: rng.normal(size=DRAWS) for name in names} | {"diverging": np.zeros(DRAWS, bool)}
    if sized:
        values["size_slope"] = rng.normal(size=(*DRAWS, n_strata, 1 + mixed))
    return SampleRun(values, parameters, rng.normal(size=curve), statistics)


CLASS_MEANS = {"contrast", "class_noise", "shared"}
CASES = [
    ("R", True, "isotropic"),
    ("R", False, "spanned"),
    ("I", False, "isotropic"),
    ("L", True, "spanned"),
    ("L", False, "isotropic"),
]


@pytest.fixture(scope="module", params=CASES, ids=str)
def arranged(request, tmp_path_factory):
    """Statistics, draws by stratum (run, place, number of strata) and the data of the strata, and their posterior."""
    impact, mixed, within = request.param
    steps = np.arange(12) // 2 * 40 + np.arange(12) % 2 if mixed else np.arange(12) * 20
    run = make_run(3, 3, n_records=12, seed=2)
    path = tmp_path_factory.mktemp("posterior") / "run.h5"
    with run.write(path, steps=steps, time=steps.astype(float)) as recording:
        statistics = compute_statistics(recording, "hidden", impact)
    assert has_mixed_intervals(statistics) is mixed
    submodels = assemble(statistics, "gp", within=within)
    rng = np.random.default_rng(0)
    runs = [made_up_run(rng, len(submodel.strata), 11, mixed, submodel.variant.sized) for submodel in submodels]
    places = {
        name: (run, place, len(submodel.strata))
        for submodel, run in zip(submodels, runs, strict=True)
        for place, name in enumerate(submodel.strata)
    }
    tree = build_posterior(statistics, submodels, runs, mixed=mixed)
    return impact, mixed, statistics, places, submodels, tree


def test_rates_and_densities_are_those_of_their_strata(arranged):
    _, _, _, places, _, tree = arranged
    posterior = tree["posterior"].to_dataset()
    assert list(posterior["stratum"].to_numpy()) == [name for name in STRATA if name in places]
    rates = {"contrast": "gamma", "shared": "global_rate", "growth": "kappa", "growth_along": "kappa"}
    rates |= {"growth_across": "kappa_across", "pull": "pull"}
    for name in places.keys() & rates.keys():
        variable, (run, place, _) = rates[name], places[name]
        np.testing.assert_array_equal(posterior[variable], run.parameters.location[:, :, place])
    scales = {"individual": "individual_scale", "individual_along": "individual_scale"}
    scales |= {"individual_across": "individual_scale_across"}
    for name in places.keys() & scales.keys():
        variable, (run, place, _) = scales[name], places[name]
        np.testing.assert_allclose(posterior[variable], np.exp(run.parameters.location[:, :, place] / 2), rtol=1e-12)
    np.testing.assert_allclose(posterior["gamma"], posterior["alpha"] - posterior["beta"], rtol=1e-12)
    for name, (run, place, _) in places.items():
        np.testing.assert_array_equal(tree["log_likelihood"][name], run.log_likelihood[:, :, place])


def test_noise_scales_are_per_root_of_time(arranged):
    """Along the impact the model's scale is relative to what was seen across it, and is given per √time as all are."""
    impact, _, statistics, places, submodels, tree = arranged
    posterior = tree["posterior"].to_dataset()
    assert ("impact_scale" in posterior) == (impact != "L")
    for name, (run, place, _) in places.items():
        variable, expected = NOISE_SCALES[name], np.exp(run.parameters.log_scale[:, :, place])
        if name == "contrast" and impact == "L":
            variable = "class_scale"
        elif name == "contrast":
            data, _ = locate(submodels, "contrast")
            expected = expected * np.exp(np.asarray(data.log_length)[0]) / np.sqrt(statistics.lengths)
        np.testing.assert_allclose(posterior[variable], expected, rtol=1e-12, err_msg=name)


def test_how_the_drift_follows_sizes_is_told_where_there_are_sizes(arranged):
    impact, mixed, _, places, _, tree = arranged
    posterior = tree["posterior"].to_dataset()
    assert ("size_slope" in posterior) == (impact != "L")
    if impact != "L":
        own = places["contrast"][0].values["size_slope"][:, :, 0]
        np.testing.assert_array_equal(posterior["size_slope"], own if mixed else own[:, :, 0])


def test_what_tells_short_intervals_from_long_ones_is_there_where_both_are(arranged):
    _, mixed, _, places, _, tree = arranged
    posterior, constant = tree["posterior"].to_dataset(), tree["constant_data"].to_dataset()
    assert ("interval_exponent" in posterior) is ("log_attenuation" in posterior) is mixed
    for name, (run, place, _) in places.items():
        degrees = run.parameters.degrees[:, :, place]
        own = posterior["degrees"].sel(stratum=name)
        np.testing.assert_array_equal(own, degrees if mixed else degrees[:, :, 0])
        if mixed:
            exponent = posterior["interval_exponent"].sel(stratum=name)
            np.testing.assert_array_equal(exponent, run.parameters.interval_exponent[:, :, place])
    if mixed:
        assert list(posterior["interval_kind"].to_numpy()) == ["shortest", "longest"]
        for name in ("contrast", "shared"):
            run, place, _ = places[name]
            psi = posterior["log_attenuation"].sel(class_mean_stratum=name)
            np.testing.assert_array_equal(psi, run.parameters.attenuation[:, :, place])
    assert set(constant["relative_length"].to_numpy()) == ({0.0, 1.0} if mixed else {1.0})


def test_curves_keep_their_names(arranged):
    """Weights and hyperparameters of what the likelihood depends on: no location of noise, no ψ of what stays."""
    impact, mixed, _, places, _, tree = arranged
    posterior = tree["posterior"].to_dataset()
    along = "class_scale" if impact == "L" else "impact_scale"
    expected = {
        "gamma": ("contrast", 0),
        along: ("contrast", 1),
        "global_rate": ("shared", 0),
        "global_scale": ("shared", 1),
    }
    parts = {"": ""} if "growth" in places else {"_along": "", "_across": "_across"}
    for part, suffix in parts.items():
        expected |= {f"kappa{suffix}": (f"growth{part}", 0), f"growth_scatter{suffix}": (f"growth{part}", 1)}
        expected |= {
            f"individual_log_variance{suffix}": (f"individual{part}", 0),
            f"individual_scatter{suffix}": (f"individual{part}", 1),
        }
    if "pull" in places:
        expected |= {"pull": ("pull", 0), "pull_scatter": ("pull", 1)}
    if impact != "L":
        expected["class_scale"] = ("class_noise", 1)
    if mixed:
        expected |= {f"log_attenuation_{name}": (name, 2) for name in ("contrast", "shared")}
    assert set(posterior["curve"].to_numpy()) == set(expected)
    for curve, (name, kind) in expected.items():
        run, place, n_strata = places[name]
        for site in ("curve_weights", "curve_amplitude"):
            own = run.values[site][:, :, kind * n_strata + place]
            np.testing.assert_array_equal(posterior[site].sel(curve=curve), own, err_msg=curve)


def test_log_priors_are_kept_by_submodel_where_all_are_known(arranged):
    impact, mixed, statistics, places, submodels, tree = arranged
    assert "log_prior" not in tree.children
    runs = [places[submodel.strata[0]][0] for submodel in submodels]
    known = [replace(run, log_prior=np.full(DRAWS, float(index))) for index, run in enumerate(runs)]
    priors = build_posterior(statistics, submodels, known, mixed=mixed)["log_prior"].to_dataset()
    joint = ["contrast+shared"] if impact == "L" else ["contrast", "class_noise", "shared"]
    assert list(priors) == [*joint, *(name for name in STRATA if name in places.keys() - CLASS_MEANS)]
    assert [float(values[0, 0]) for values in priors.values()] == list(range(len(runs)))
    assert "log_prior" not in build_posterior(statistics, submodels, [*known[:-1], runs[-1]], mixed=mixed).children
