"""Properties of the likelihood: what a run is called, and in what units, does not change what is inferred of it.

Draws of the prior with one key correspond between two runs that differ in names or units alone: priors are scaled to
the run. So all log densities of an interval, and of the parameters, must agree.
"""

import tempfile
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpyro
import pytest
from core_helpers import CASES, make_run
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from numpyro.infer.util import log_density
from scipy import stats

from lesde_infer._jax import jax
from lesde_infer.assembly import assemble
from lesde_infer.pattern_model import PatternVariant
from lesde_infer.statistics import compute_statistics

K, P, T = 3, 4, 6


class Density(NamedTuple):
    """Of one stratum: log densities of its model's parameters and data together, and of each interval."""

    joint: float
    intervals: np.ndarray
    parameters: Any
    dimension: float
    n_rates: int
    """Parameters with a prior per unit of rate, rather than in units of a rate that data suggest."""


MODELS = (("homogeneous", "spanned"), ("matrix", "isotropic"))
RTOL, ATOL = 1e-6, 1e-6
# Examples are small already, and shrinking them would take minutes.
property_test = settings(max_examples=8, deadline=None, phases=[Phase.explicit, Phase.generate], derandomize=True)
seeds = st.integers(0, 2**31 - 1)
cases = st.sampled_from(CASES)


@partial(jax.jit, static_argnums=0)
def draw_prior(variant, key, data):
    trace = numpyro.handlers.trace(numpyro.handlers.seed(variant.model, key)).get_trace(data)
    return {name: s["value"] for name, s in trace.items() if s["type"] == "sample" and not s["is_observed"]}


@partial(jax.jit, static_argnums=0)
def evaluate(variant, values, data):
    """Log density of values and data together, of each interval, and the curves at the intervals."""
    joint, trace = log_density(variant.model, (data,), {}, values)
    intervals = trace["increment"]["fn"].log_prob(trace["increment"]["value"])
    return joint, intervals, variant.parameters(values, data)


def made_up(case, seed):
    """A run of unequal classes, some samples trained with a wrong label, at regular steps but irregular times."""
    run = make_run(K, K if case == "L" else P, T, seed=seed)
    time = np.cumsum(np.random.default_rng(seed).uniform(0.5, 2.0, size=T))
    return replace(run, steps=10 * np.arange(T), time=time), "out" if case == "R" else "hidden", case[0]


def densities(run, layer, impact, *, order=None, key=0):
    """Return joint log density, log densities of intervals, parameters and dimensions, by model and stratum.

    With ``order``, patterns of elasticity are those of classes that are called order[k] instead of k.
    """
    found = {}
    with tempfile.TemporaryDirectory() as folder, run.write(Path(folder) / "run.h5") as recording:
        statistics = compute_statistics(recording, layer, impact)
    for elasticity, within in MODELS:
        for submodel in assemble(statistics, "constant", elasticity, within):
            values = draw_prior(submodel.variant, jax.random.key(key), submodel.data)
            if order is not None and isinstance(submodel.variant, PatternVariant):
                values = {**values, "pattern": renamed_pattern(np.asarray(values["pattern"]), submodel.data, order)}
            joint, intervals, parameters = evaluate(submodel.variant, values, submodel.data)
            for place, name in enumerate(submodel.strata):
                is_pattern = isinstance(submodel.variant, PatternVariant)
                n_rates = values["pattern"].size + values["pattern_spread"].size if is_pattern else 0
                found[elasticity, within, name] = Density(
                    float(joint),
                    np.asarray(intervals)[place],
                    parameters,
                    float(submodel.data.dimension[place]),
                    n_rates,
                )
    return found


def renamed_pattern(pattern, data, order):
    basis, back = np.asarray(data.basis), np.argsort(order)
    blocks = [basis @ z for z in np.split(pattern, pattern.shape[1] // K, axis=1)]
    return np.concatenate([basis.T @ block[np.ix_(back, back)] for block in blocks], axis=1)


def assert_alike(one, other, *, but=(), feature_unit=1.0, time_unit=1.0):
    """Compare densities of all strata but some; those of what has a unit change with it."""
    assert one.keys() == other.keys()
    for name in one:
        if name[2] in but or (name[0], name[2]) in but:
            continue
        before, after = one[name], other[name]
        assert np.isfinite(before.intervals).all(), name
        moves = name[2] in ("contrast", "class_noise", "shared")
        shift = np.full(T - 1, np.log(feature_unit) * before.dimension if moves else 0.0)
        np.testing.assert_allclose(after.intervals, before.intervals - shift, rtol=RTOL, atol=ATOL, err_msg=str(name))
        if shares_its_model(name, one) and feature_unit != 1.0:
            continue
        joint = before.joint - shift.sum() + before.n_rates * np.log(time_unit)
        assert after.joint == pytest.approx(joint, rel=RTOL, abs=ATOL), name


def shares_its_model(name, found):
    """Whether the stratum's model holds another one too, whose densities change as well (L)."""
    return sum(other.joint == found[name].joint for other in found.values()) > 1


def with_samples(run, chosen):
    """The same run with samples in another order."""
    return replace(
        run,
        labels=run.labels[chosen],
        given=run.given[chosen],
        features=run.features[:, chosen],
        logits=run.logits[:, chosen],
    )


@property_test
@given(case=cases, seed=seeds, order=st.permutations(range(K)))
def test_names_of_classes(case, seed, order):
    """Classes, labels, logits and rows of the classifier are renamed together; patterns with them."""
    run, layer, impact = made_up(case, seed)
    order = np.array(order)
    back = np.argsort(order)
    renamed = replace(
        run,
        labels=order[run.labels],
        given=order[run.given],
        features=run.features[:, :, back] if impact == "L" else run.features,
        logits=run.logits[:, :, back],
        weight=run.weight[:, back],
        bias=run.bias[:, back],
    )
    assert_alike(densities(run, layer, impact), densities(renamed, layer, impact, order=order))


@property_test
@given(case=st.sampled_from(["I", "R hidden"]), seed=seeds, rotation=seeds)
def test_axes_of_feature_space(case, seed, rotation):
    """Features, and the classifier that reads them, are rotated or reflected."""
    run, layer, impact = made_up(case, seed)
    turn = stats.ortho_group.rvs(P, random_state=rotation)
    turned = replace(run, features=run.features @ turn, weight=run.weight @ turn)
    assert_alike(densities(run, layer, impact), densities(turned, layer, impact))


@property_test
@given(case=cases, seed=seeds, shuffle=seeds)
def test_order_of_samples(case, seed, shuffle):
    run, layer, impact = made_up(case, seed)
    shuffled = with_samples(run, np.random.default_rng(shuffle).permutation(len(run.labels)))
    assert_alike(densities(run, layer, impact), densities(shuffled, layer, impact))


@property_test
@given(case=cases, seed=seeds, log_unit=st.floats(-12.0, 12.0))
def test_unit_of_time(case, seed, log_unit):
    """Time in units 10^−u as long: rates are 10^−u as large, and noise per unit of time 10^(−u/2)."""
    run, layer, impact = made_up(case, seed)
    unit = 10.0**log_unit
    one, other = densities(run, layer, impact), densities(replace(run, time=unit * run.time), layer, impact)
    assert_alike(one, other, time_unit=unit)
    for name in one:
        if name[2] not in ("shared", "growth", "pull") and not (name[2] == "contrast" and name[0] == "homogeneous"):
            continue
        before, after = one[name].parameters, other[name].parameters
        np.testing.assert_allclose(unit * np.asarray(after.location), before.location, rtol=RTOL, err_msg=str(name))
        if name[2] != "contrast" or impact == "L":  # there noise is in units of the interval's own
            scale = np.asarray(after.log_scale) + 0.5 * np.log(unit)
            np.testing.assert_allclose(scale, before.log_scale, rtol=RTOL, atol=ATOL, err_msg=str(name))


@property_test
@given(case=st.sampled_from(["R", "R hidden", "L", "I"]), seed=seeds, shift=st.floats(-100.0, 100.0), along=seeds)
def test_a_constant_added_to_all_features(case, seed, shift, along):
    """The softmax knows logits up to a constant, and the contrasts of L leave it out; a bias takes up any vector.

    Under I it drives the mean over classes, and with a matrix whose rows differ in their sums contrasts too.
    """
    run, layer, impact = made_up(case, seed)
    width = run.features.shape[2]
    if case in ("R hidden", "I"):
        vector = shift * stats.uniform_direction.rvs(width, random_state=along)
    else:
        vector = np.full(width, shift)
    bias = run.bias - run.weight @ vector if case == "R hidden" else run.bias
    logits = run.logits + shift if case == "R" else run.logits
    moved = replace(run, features=run.features + vector, bias=bias, logits=logits)
    one, other = densities(run, layer, impact), densities(moved, layer, impact)
    assert_alike(one, other, but=("shared", ("matrix", "contrast")) if case == "I" else ())


@property_test
@given(case=st.sampled_from(["I", "L"]), seed=seeds, log_unit=st.floats(-8.0, 8.0))
def test_unit_of_features(case, seed, log_unit):
    """Impacts are as large as features, so that rates stay; densities of increments are per unit of features."""
    run, layer, impact = made_up(case, seed)
    unit = 10.0**log_unit
    one = densities(run, layer, impact)
    other = densities(replace(run, features=unit * run.features), layer, impact)
    assert_alike(one, other, feature_unit=unit)
    rates = [np.asarray(found["homogeneous", "spanned", "shared"].parameters.location) for found in (one, other)]
    np.testing.assert_allclose(*rates, rtol=RTOL)


@property_test
@given(case=cases, seed=seeds)
def test_what_is_another_run_is_told_apart(case, seed):
    """None of this holds because densities say nothing: a sample moved at one record changes intervals beside it."""
    run, layer, impact = made_up(case, seed)
    features, logits = run.features.copy(), run.logits.copy()
    features[3, 0] += 30.0
    logits[3, 0, 0] += 30.0
    one, other = densities(run, layer, impact), densities(replace(run, features=features, logits=logits), layer, impact)
    for name in (("homogeneous", "spanned", "shared"), ("matrix", "isotropic", "individual")):
        before, after = one[name].intervals, other[name].intervals
        assert not np.allclose(before[2:4], after[2:4], rtol=10 * RTOL, atol=10 * ATOL), name
