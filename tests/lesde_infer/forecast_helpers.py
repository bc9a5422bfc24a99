"""Fits of prefixes that no sampler made: random draws of all weights, arranged by the code that arranges a fit's."""

import dataclasses
import json

import numpy as np
import xarray as xr
from core_helpers import make_run

from lesde_infer._jax import jax, jnp
from lesde_infer.assembly import assemble
from lesde_infer.curves import n_weights
from lesde_infer.extrapolation import curve_table
from lesde_infer.fit_result import Fit, Settings
from lesde_infer.interval_lengths import has_mixed_intervals
from lesde_infer.pattern_model import PatternData
from lesde_infer.posterior import build_posterior
from lesde_infer.sampling import SampleRun
from lesde_infer.statistics import compute_statistics

CHAINS, DRAWS = 2, 6
N_RECORDS, KNOWN = 26, 18


def steps_of(mixed):
    """Steps of a run, evenly spread or in bursts of two."""
    return np.arange(N_RECORDS) // 2 * 40 + np.arange(N_RECORDS) % 2 if mixed else np.arange(N_RECORDS) * 20


def random_sites(rng, submodel, curve, mixed):
    """Values of every site of a model, of the size that posteriors have."""
    n_strata, lead = len(submodel.strata), (CHAINS, DRAWS)
    n_curves = (3 if mixed else 2) * n_strata
    values = {
        "curve_weights": 0.3 * rng.normal(size=(*lead, n_curves, n_weights(curve))),
        "degrees_excess": rng.uniform(1.0, 9.0, size=(*lead, n_strata, 1 + mixed)),
    }
    if curve == "gp":
        values["curve_amplitude"] = rng.uniform(0.5, 1.0, size=(*lead, n_curves))
        values["curve_length"] = rng.uniform(0.3, 0.6, size=(*lead, n_curves))
    if curve == "power":
        values["power_time_scale"] = rng.uniform(0.005, 0.02, size=lead)
    if mixed:
        values["interval_exponent"] = rng.normal(size=(*lead, n_strata))
    if isinstance(submodel.data, PatternData):
        n_contrasts, n_entries = submodel.data.homogeneous.shape
        values["pattern_mean"] = rng.normal(size=lead)
        values["pattern_spread"] = rng.uniform(0.5, 1.0, size=(*lead, submodel.data.drift.shape[1]))
        values["pattern"] = 1e-3 * rng.normal(size=(*lead, n_contrasts, n_entries))
    if submodel.variant.sized:
        values["size_slope"] = rng.normal(size=(*lead, n_strata, 1 + mixed))
    return values


def random_run(rng, submodel, curve, mixed):
    """Draws of a model, with the parameters that its own code makes of the sites."""
    values = random_sites(rng, submodel, curve, mixed)
    flat = {name: jnp.asarray(value.reshape(-1, *value.shape[2:])) for name, value in values.items()}
    found = jax.vmap(lambda own: submodel.variant.parameters(own, submodel.data))(flat)
    parameters = jax.tree.map(lambda value: np.asarray(value).reshape(CHAINS, DRAWS, *value.shape[1:]), found)
    names = ("n_steps", "energy", "lp", "acceptance_rate", "step_size")
    statistics = {name: np.zeros((CHAINS, DRAWS)) for name in names} | {"diverging": np.zeros((CHAINS, DRAWS), bool)}
    shape = (CHAINS, DRAWS, len(submodel.strata), len(submodel.data.n_steps))
    return SampleRun(values, parameters, np.zeros(shape), statistics)


def random_fit(
    path, *, impact="R", curve="gp", elasticity="homogeneous", within="spanned", mixed=False, horizon=1.0, n_features=5
):
    """Return a fit of the first records of a run in memory; the horizon is a share of the time that it lasts."""
    steps = steps_of(mixed)
    layer = "hidden" if impact != "L" else "out"
    run = make_run(3, n_features, n_records=N_RECORDS, seed=4, corrupted=False)
    with run.write(path, steps=steps, time=0.5 * steps + 7.0) as recording:
        statistics = compute_statistics(recording, layer, impact, until=int(steps[KNOWN - 1]))
    assert has_mixed_intervals(statistics) is mixed
    end = float(0.5 * steps[-1] * horizon + 7.0)
    submodels = assemble(statistics, curve, elasticity, within, end)
    rng = np.random.default_rng(3)
    runs = [random_run(rng, submodel, curve, mixed) for submodel in submodels]
    settings = Settings(
        layer, impact, elasticity, curve, "labels", 0, int(steps[KNOWN - 1]), within=within, horizon=end
    )
    tree = build_posterior(statistics, submodels, runs, mixed=mixed)
    tree["curves"] = xr.DataTree(curve_table(submodels, runs))
    tree.attrs.update(settings=json.dumps(dataclasses.asdict(settings)))
    return Fit(tree)
