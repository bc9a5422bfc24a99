"""What assembly feeds the model: every stratum once, and contrasts split along and across the impact."""

from dataclasses import replace

import numpy as np
import pytest
from core_helpers import (
    class_means,
    elasticity,
    expected_increment,
    in_all_dimensions,
    linear_drift,
    make_run,
    neighbouring_median,
    relative_log_length,
)
from scipy import stats
from scipy.linalg import helmert

from lesde_infer._jax import jnp
from lesde_infer.assembly import LEAST_RELATIVE_SIZE, STRATA, assemble, locate
from lesde_infer.interval_lengths import NEARBY, has_mixed_intervals
from lesde_infer.model import Parameters, increment_density
from lesde_infer.priors import ATTENUATION, NOISE_RATIO_SPREAD, NOISE_SPREAD
from lesde_infer.statistics import compute_statistics
from lesde_infer.step_sizes import FEW_STEPS, LEAST_SIZE_DIMENSIONS

BURSTS = np.arange(24) // 2 * 50 + np.arange(24) % 2
CASES = ["I", "R", "R hidden"]


def collapse(run, path, case="I", **options):
    """Return the statistics of a run, for impact and layer of a case."""
    with run.write(path, force=True, **options) as recording:
        return compute_statistics(recording, "out" if case == "R" else "hidden", case[0])


def in_bursts(path, case="I"):
    return collapse(make_run(3, 4, n_records=24, seed=3), path, case, steps=BURSTS, time=BURSTS.astype(float))


def contrasts_and_impacts(run, case):
    """Contrasts of the increments of class means, and of the impacts, written out: arrays (time, class × feature)."""
    features = run.logits if case == "R" else run.features
    increments, impacts = [], []
    for t in range(len(run.steps) - 1):
        # With γ = K and g = 0 the drift of the class means is the contrasts of the impact.
        weight = run.weight[t] if case == "R hidden" else None
        matrix = elasticity(float(run.n_classes), 0.0, run.n_classes)
        operator, constant = linear_drift(case[0], matrix, features[t], run.labels, run.given, run.logits[t], weight)
        impacts.append(operator @ class_means(features[t], run.labels).ravel() + constant)
        change = class_means(features[t + 1] - features[t], run.labels)
        increments.append((change - change.mean(axis=0)).ravel())
    return np.array(increments), np.array(impacts)


@pytest.mark.parametrize("within", ["isotropic", "spanned"])
@pytest.mark.parametrize("impact", ["I", "L", "R"])
def test_assembly_arranges_every_stratum_once(impact, within, tmp_path):
    statistics = collapse(make_run(3, 3, n_records=6), tmp_path / "run.h5", impact)
    submodels = assemble(statistics, "gp", within=within)
    names = [name for submodel in submodels for name in submodel.strata]
    deviations = {
        "isotropic": {"growth", "individual"},
        "spanned": {"growth_along", "growth_across", "individual_along", "individual_across"},
    }[within] | ({"pull"} if within == "spanned" and impact == "R" else set())
    class_means = {"contrast", "shared"} | ({"class_noise"} if impact != "L" else set())
    assert sorted(names) == sorted(deviations | class_means)
    assert set(names) <= set(STRATA)
    assert [submodel.variant.coupled for submodel in submodels] == (
        [True] + [False] * len(deviations) if impact == "L" else [False] * len(names)
    )
    for submodel in submodels:
        assert submodel.data.increment_square.shape == (len(submodel.strata), 5)
        for s, name in enumerate(submodel.strata):
            check_stratum(statistics, submodel.data, s, name)
    with pytest.raises(KeyError, match="class_noise"):
        locate(submodels[:1], "class_noise")


def check_stratum(statistics, data, s, name):
    lengths, parts = statistics.lengths, statistics.parts
    within = {"_along": parts.along, "_across": parts.across}.get(f"_{name.partition('_')[2]}", statistics.within)
    root, is_split = 0.5 * np.log(lengths), statistics.impact != "L"
    numbers, error = {}, None
    if name.startswith("growth"):
        numbers, error = {name: within.log_growth}, within.log_growth_error
    elif name.startswith("individual"):
        numbers, error = {name: within.log_variance - np.log(lengths)}, within.log_variance_error
    elif name == "pull":
        numbers, error = {name: parts.pull.strength}, parts.pull.error
    if name == "shared" or (name == "contrast" and not is_split):
        stratum = getattr(statistics, name)
        divisor = 3 if name == "contrast" else 1
        effective = stratum.effective_dimension
        spread_over = root + 0.5 * np.log(stratum.dimension / effective)
        expected = (stratum.increment_square, effective, lengths / divisor, 0.0, spread_over)
    elif name == "contrast":
        # Its noise has a test of its own.
        along = np.asarray(data.increment)[s]
        expected = (along**2, 1, lengths / 3, 0.0, np.asarray(data.log_length)[s])
    elif name == "class_noise":
        along = statistics.contrast.direction_increment.sum(axis=1) ** 2 / statistics.contrast.direction_square.sum(1)
        dimension, effective = statistics.contrast.dimension - 1, statistics.contrast.effective_dimension - 1
        spread_over = root + 0.5 * np.log(dimension / effective)
        expected = (statistics.contrast.increment_square - along, effective, 0.0, 0.0, spread_over)
    elif not name.startswith("individual"):
        expected = (numbers[name] ** 2, 1, lengths, error, root)
    else:
        expected = (numbers[name] ** 2, 1, np.ones(5), error, np.zeros(5))
    for field, value in zip(
        ("increment_square", "dimension", "exposure", "error", "log_length"), expected, strict=True
    ):
        atol = 1e-13 if field == "error" else 0.0  # by rounding
        np.testing.assert_allclose(getattr(data, field)[s], value, rtol=1e-10, atol=atol, err_msg=f"{name} {field}")
    np.testing.assert_array_equal(data.observed, 1.0)
    if name in numbers:
        np.testing.assert_allclose(data.increment[s], numbers[name])
        np.testing.assert_array_equal(data.direction_square[s, :, 0], np.ones(5))
    is_number = name in numbers or (name == "contrast" and is_split)
    assert (data.increment[s] != 0).any() == is_number
    assert float(data.is_number[s]) == is_number
    assert float(data.is_rate[s]) == (not name.startswith("individual"))
    assert float(data.relaxes[s]) == (name in ("contrast", "shared"))


@pytest.mark.parametrize("n_classes", [2, 3, 5])
@pytest.mark.parametrize("case", CASES)
def test_contrasts_split_into_what_lies_along_the_impact_and_what_lies_across(case, n_classes, tmp_path):
    """Written out as vectors: the parts are orthogonal, exhaust the increment, and so do their dimensions."""
    width = n_classes if case == "R" else 4
    run = make_run(n_classes, width, n_records=6, seed=n_classes)
    statistics = collapse(run, tmp_path / "run.h5", case)
    submodels = assemble(statistics, "gp")
    (along, a), (across, b) = locate(submodels, "contrast"), locate(submodels, "class_noise")
    increments, impacts = contrasts_and_impacts(run, case)
    units = impacts / np.linalg.norm(impacts, axis=1, keepdims=True)
    expected = (increments * units).sum(axis=1)
    rest = increments - expected[:, None] * units
    np.testing.assert_allclose((rest * units).sum(axis=1), 0.0, atol=1e-12)
    np.testing.assert_allclose(along.increment[a], expected, rtol=1e-8, atol=1e-12)
    np.testing.assert_allclose(across.increment_square[b], (rest**2).sum(axis=1), rtol=1e-8)
    whole = (increments**2).sum(axis=1)
    np.testing.assert_allclose(along.increment_square[a] + across.increment_square[b], whole, rtol=1e-10)
    # A push of one moves the increment by the whole impact where nothing feeds back.
    np.testing.assert_allclose(along.direction_square[a].sum(axis=1), np.linalg.norm(impacts, axis=1), rtol=1e-8)
    assert float(along.dimension[a]) == 1
    assert float(across.dimension[b]) == pytest.approx(statistics.contrast.effective_dimension - 1)
    assert statistics.contrast.dimension == (n_classes - 1) * width
    np.testing.assert_array_equal(across.exposure[b], 0.0)
    np.testing.assert_array_equal(across.direction_square[b], 0.0)


def test_one_contrast_of_one_feature_has_its_own_size_as_noise(tmp_path):
    """Two classes, one feature: nothing lies across the impact, and its noise is told by the increments along it."""
    run = make_run(2, 1, n_records=6, seed=1)
    submodels = assemble(collapse(run, tmp_path / "run.h5"), "gp")
    (along, a), (across, b) = locate(submodels, "contrast"), locate(submodels, "class_noise")
    increments, impacts = contrasts_and_impacts(run, "I")
    size = np.linalg.norm(increments, axis=1)
    np.testing.assert_allclose(along.increment[a], size * np.sign((increments * impacts).sum(axis=1)), rtol=1e-10)
    np.testing.assert_allclose(across.increment_square[b], size**2, rtol=1e-10)
    assert float(along.dimension[a]) == float(across.dimension[b]) == 1
    expected = neighbouring_median(np.log(size), np.diff(run.steps))
    np.testing.assert_allclose(along.log_length[a], expected, rtol=1e-10)


@pytest.mark.parametrize("case", CASES)
def test_with_equal_gaussian_noise_both_parts_are_one_normal_of_the_whole_contrasts(case, tmp_path):
    """p(along) p(across) is the density of the (K − 1)p contrasts around the drift, as far as it lies along the impact.

    Under I all of it does. Under R feedback turns it a little; that part is left to the noise.
    """
    run = make_run(3, 3 if case == "R" else 4, n_records=6, seed=6)
    statistics = in_all_dimensions(collapse(run, tmp_path / "run.h5", case))
    submodels = assemble(statistics, "gp")
    n_classes, lengths, sigma = 3, statistics.lengths, 0.3
    rates = np.random.default_rng(0).uniform(-1.0, 2.0, size=5) / lengths
    densities = []
    for name in ("contrast", "class_noise"):
        data, _ = locate(submodels, name)
        log_scale = np.log(sigma) + 0.5 * np.log(lengths) - np.asarray(data.log_length)
        zeros = jnp.zeros((1, 5))
        parameters = Parameters(
            jnp.asarray(rates)[None], jnp.asarray(log_scale), zeros, jnp.full((1, 2), 1e8), jnp.zeros(1)
        )
        densities.append(np.asarray(increment_density(parameters, data, coupled=False).log_prob(data.increment_square)))
    increments, impacts = contrasts_and_impacts(run, case)
    features = run.logits if case == "R" else run.features
    basis = np.kron(helmert(n_classes), np.eye(features.shape[2]))  # orthonormal coordinates of the contrasts
    for t in range(5):
        weight = run.weight[t] if case == "R hidden" else None
        matrix = elasticity(rates[t], 0.0, n_classes)
        drift = linear_drift(case[0], matrix, features[t], run.labels, run.given, run.logits[t], weight)
        expected = expected_increment_of(class_means(features[t], run.labels), drift, lengths[t])
        unit = impacts[t] / np.linalg.norm(impacts[t])
        mean = (expected @ unit) * unit
        if case == "I":
            np.testing.assert_allclose(mean, expected, rtol=1e-10, atol=1e-14)
        covariance = sigma**2 * lengths[t] * np.eye(len(basis))
        whole = stats.multivariate_normal(basis @ mean, covariance).logpdf(basis @ increments[t])
        assert densities[0][0, t] + densities[1][0, t] == pytest.approx(whole, rel=1e-5)


def expected_increment_of(means, drift, length):
    """Contrasts of the noiseless increment, stacked class by class."""
    increment = expected_increment(means, *drift, length)
    return (increment - increment.mean(axis=0)).ravel()


def log_noise_across(statistics):
    contrast = statistics.contrast
    along = contrast.direction_increment.sum(axis=1) ** 2 / contrast.direction_square.sum(axis=1)
    return 0.5 * np.log((contrast.increment_square - along) / (contrast.dimension - 1))


def test_noise_along_the_impact_is_in_units_of_that_across_in_the_same_interval(tmp_path):
    statistics = in_bursts(tmp_path / "run.h5")
    data, _ = locate(assemble(statistics, "gp"), "contrast")
    np.testing.assert_allclose(data.log_length[0], log_noise_across(statistics), rtol=1e-10)
    levels = [float(getattr(data.prior, name)[1]) for name in ("level_mean", "level_sd", "slope_sd", "amplitude_sd")]
    assert levels == [0.0, *NOISE_RATIO_SPREAD]


def test_where_little_lies_across_noise_is_smoothed_over_intervals_of_like_length(tmp_path):
    run = make_run(2, 3, n_records=24, seed=3)
    statistics = collapse(run, tmp_path / "run.h5", steps=BURSTS, time=BURSTS.astype(float))
    data, _ = locate(assemble(statistics, "gp"), "contrast")
    expected = neighbouring_median(log_noise_across(statistics), statistics.n_steps)
    np.testing.assert_allclose(data.log_length[0], expected, rtol=1e-10)
    np.testing.assert_array_equal(data.relative_size, 0.0)


def test_relative_size_is_noise_over_its_mean_in_intervals_of_like_length_nearby(tmp_path):
    statistics = in_bursts(tmp_path / "run.h5")
    submodels = assemble(statistics, "gp")
    data, _ = locate(submodels, "contrast")
    size = np.exp(log_noise_across(statistics))
    for start in (0, 1):  # 12 short intervals, whose neighbours reach 10 to either side, and 11 long ones
        own = size[start::2]
        for place, value in enumerate(own):
            nearby = own[max(place - NEARBY, 0) : place + NEARBY + 1].mean()
            assert float(data.relative_size[0, start + 2 * place]) == pytest.approx(value / nearby - 1.0, rel=1e-9)
    assert [submodel.variant.sized for submodel in submodels] == [s.strata == ("contrast",) for s in submodels]
    np.testing.assert_array_equal(locate(submodels, "class_noise")[0].relative_size, 0.0)


def scaled(statistics, factors):
    """Return the statistics with the contrasts' increments of each interval times a factor."""
    contrast = replace(
        statistics.contrast,
        increment_square=factors**2 * statistics.contrast.increment_square,
        direction_increment=factors[:, None] * statistics.contrast.direction_increment,
    )
    return replace(statistics, contrast=contrast)


def unit_of_noise(statistics):
    return np.asarray(locate(assemble(statistics, "gp"), "contrast")[0].log_length)[0]


def test_noise_of_long_intervals_says_nothing_of_short_ones(tmp_path):
    statistics = in_bursts(tmp_path / "run.h5")
    is_long = statistics.n_steps == 49
    changed = unit_of_noise(scaled(statistics, np.where(is_long, 1e3, 1.0))) - unit_of_noise(statistics)
    np.testing.assert_allclose(changed, np.where(is_long, np.log(1e3), 0.0), atol=1e-10)


def test_an_interval_that_stands_still_is_not_sure_of_itself(tmp_path):
    """Its noise is at least a hundredth of that nearby, and that of others is their own."""
    statistics = in_bursts(tmp_path / "run.h5")
    still = np.ones(23)
    still[4] = 1e-6
    changed = unit_of_noise(scaled(statistics, still)) - unit_of_noise(statistics)
    size = np.exp(log_noise_across(statistics))
    size[4] *= 1e-6
    floor = np.log(LEAST_RELATIVE_SIZE * size[::2].mean())  # all 12 short intervals are near
    assert changed[4] == pytest.approx(floor - log_noise_across(statistics)[4], rel=1e-2)
    np.testing.assert_allclose(np.delete(changed, 4), 0.0, atol=1e-12)


def class_means_of(features, labels):
    """Class means of each record, at every sample."""
    return np.stack([class_means(record, labels)[labels] for record in features])


def test_class_means_that_stand_still_leave_everything_finite(tmp_path):
    """As on a layer whose units have died."""
    run = make_run(3, 4, n_records=24, seed=3)
    still = np.broadcast_to(run.features[:1], run.features.shape)
    # Deviations move, their means do not.
    shaken = np.random.default_rng(0).normal(size=still.shape)
    still = still + shaken - class_means_of(shaken, run.labels)
    options = {"features": {"hidden": still}, "logits": None, "classifier": None}
    data, _ = locate(assemble(collapse(run, tmp_path / "run.h5", **options), "gp"), "contrast")
    assert np.exp(data.log_length).max() < 1e-12  # rounding, of features of size one
    for field in ("increment", "increment_square", "log_length", "reference"):
        assert np.isfinite(getattr(data, field)).all(), field
    assert all(np.isfinite(leaf).all() for leaf in data.prior)


@pytest.mark.parametrize(
    ("steps", "mixed"), [(np.arange(0, 200, 10), False), (np.arange(20) // 2 * 50 + np.arange(20) % 2, True)]
)
def test_bursts_are_noticed(steps, mixed, tmp_path):
    statistics = collapse(make_run(2, 2, n_records=20), tmp_path / "run.h5", steps=steps, time=steps.astype(float))
    assert has_mixed_intervals(statistics) is mixed
    for submodel in assemble(statistics, "gp"):
        n_strata, data = len(submodel.strata), submodel.data
        assert len(data.prior.level_mean) == (3 if mixed else 2) * n_strata
        expected = relative_log_length(statistics.n_steps) if mixed else np.ones(19)
        np.testing.assert_allclose(data.relative_length, expected, atol=1e-15)
        if mixed:
            prior = [float(leaf[2 * n_strata]) for leaf in data.prior]
            assert prior == pytest.approx(ATTENUATION)
            assert {float(x) for x in data.relative_length} == {0.0, 1.0}


def test_the_noise_across_the_impact_is_a_stratum_of_noise_alone(tmp_path):
    statistics = in_bursts(tmp_path / "run.h5")
    data, _ = locate(assemble(statistics, "gp"), "class_noise")
    assert float(data.prior.level_sd[1]) == NOISE_SPREAD[0]
    dimension = statistics.contrast.dimension - 1
    noise = np.sqrt(np.asarray(data.increment_square)[0] / dimension / np.asarray(data.lengths))
    assert float(data.prior.level_mean[1]) == pytest.approx(np.log(np.median(noise)))
    for rate in (-1.0, 3.0):  # whatever a rate would be, it moves nothing
        parameters = Parameters(
            jnp.full((1, 23), rate), jnp.zeros((1, 23)), jnp.ones((1, 23)), jnp.full((1, 2), 3.0), jnp.zeros(1)
        )
        np.testing.assert_array_equal(increment_density(parameters, data, coupled=False).explained, 0.0)


def test_noise_in_few_dimensions_tells_sizes_of_few_steps_only(tmp_path):
    """Long intervals keep the noise of their neighbours; with many dimensions they have their own."""
    statistics = in_bursts(tmp_path / "run.h5")
    assert statistics.contrast.dimension > LEAST_SIZE_DIMENSIONS
    found = {}
    for effective in (3.0, 6.0):
        few = replace(statistics, contrast=replace(statistics.contrast, effective_dimension=effective))
        data, place = locate(assemble(few, "gp"), "contrast")
        found[effective] = np.asarray(data.relative_size)[place], np.asarray(data.log_length)[place]
    short = statistics.n_steps <= FEW_STEPS
    assert 0 < short.sum() < len(short)
    (size, noise), (all_sizes, own) = found[3.0], found[6.0]
    np.testing.assert_array_equal(size[short], all_sizes[short])
    np.testing.assert_array_equal(size[~short], 0.0)
    assert (all_sizes != 0.0).all()
    np.testing.assert_array_equal(noise[short], own[short])
    assert noise[~short].std() < own[~short].std()
    evenly = replace(statistics, steps=100 * np.arange(len(statistics.steps)))
    evenly = replace(evenly, contrast=replace(statistics.contrast, effective_dimension=3.0))
    assert not any(submodel.variant.sized for submodel in assemble(evenly, "gp"))  # nothing for a slope to be told by
