"""Contrasts that grow along themselves, with deviations: measured from records, and in simulated paths."""

import numpy as np
import pytest
import xarray as xr
from core_helpers import make_run
from dynamics_helpers import case, class_means, constant_rates

from data_tools.recording import Recording
from data_tools.recording_writer import write_recording
from lesde_infer.common_growth import FEWEST, WINDOW, CommonGrowth, GrowthCoupling
from lesde_infer.dynamics import simulate_records
from lesde_infer.noise_directions import ClassMeanNoise, NoiseDirections
from lesde_infer.noise_memory import Memory
from lesde_infer.statistics import compute_statistics


def growth_of(rho, h, told=None, share=0.5):
    return CommonGrowth(rho, h, np.ones(len(h), dtype=bool) if told is None else told, share)


def test_slope_and_scale_are_found_and_follow_the_time_that_they_change_in():
    """b goes from 0.5 to 1.5, the scale of e from 0.02 to 0.1; 33 intervals know b to 0.09 and the scale to 12 %."""
    rng = np.random.default_rng(0)
    slope, sd = np.repeat([0.5, 1.5], 200), np.repeat([0.02, 0.1], 200)
    h = 0.2 * rng.normal(size=400)
    found = growth_of(slope * h + sd * rng.normal(size=400), h).replicated(np.full(400, 50), np.full(400, 50.0))
    inside = np.abs(np.arange(400) - 199.5) > WINDOW
    error = np.abs(found.slope - slope) / (sd / (0.2 * np.sqrt(WINDOW)))
    assert error[inside].max() < 4.5  # standard errors, of 11 independent windows
    assert np.abs(np.log(found.sd / sd))[inside].max() < 4.5 / np.sqrt(2 * WINDOW)
    assert found.active.all()


def test_what_does_not_stay_is_known_by_its_memory():
    rng = np.random.default_rng(1)
    level = 0.1 * rng.normal(size=401)
    found = growth_of(np.diff(level), 0.2 * rng.normal(size=400)).replicated(np.full(400, 50), np.full(400, 50.0))
    assert found.memory.share < 0.1
    assert found.memory.time == 0.0
    assert np.abs(found.slope).max() < 0.5


def test_short_and_long_intervals_have_their_own():
    rng = np.random.default_rng(2)
    n_steps = np.tile([1, 49], 100)
    is_long = n_steps > 1
    h = 0.2 * rng.normal(size=200)
    found = growth_of(np.where(is_long, h, -h), h).replicated(n_steps, n_steps.astype(float))
    np.testing.assert_allclose(found.slope, np.where(is_long, 1.0, -1.0), rtol=1e-12)
    np.testing.assert_allclose(found.sd, 0.0, atol=1e-12)


def test_few_intervals_tell_no_slope_and_none_tell_nothing():
    h = np.full(FEWEST - 1, 0.1)
    few = growth_of(2.0 * h, h).replicated(np.full(len(h), 50), np.full(len(h), 50.0))
    np.testing.assert_array_equal(few.slope, 0.0)
    np.testing.assert_allclose(few.sd, 0.2)
    untold = growth_of(2.0 * h, h, told=np.zeros(len(h), dtype=bool))
    assert untold.replicated(np.full(len(h), 50), np.full(len(h), 50.0)) is None
    assert untold.ahead(np.full(len(h), 50), np.full(len(h), 50.0), np.ones(3)) is None


def test_intervals_that_tell_nothing_are_left_out():
    """One jump would give windows of 33 intervals a scale of 17 instead of 0.1."""
    rng = np.random.default_rng(3)
    h, told = 0.1 * rng.normal(size=60), np.arange(60) != 30
    rho = np.where(told, h, 100.0)
    found = growth_of(rho, h, told).replicated(np.full(60, 50), np.full(60, 50.0))
    np.testing.assert_allclose(found.slope[told], 1.0, rtol=1e-12)
    np.testing.assert_array_equal(found.active, told.astype(float))


def test_beyond_the_record_it_is_as_it_was_at_the_end_in_any_unit_of_time():
    """Of contrasts that shrink by more than nine tenths so much is counted."""
    rng = np.random.default_rng(4)
    rho = np.where(np.arange(200) < 150, 1.0, 0.1) * rng.normal(size=200)
    rho[-1] = -2.0
    expected = np.sqrt(np.mean(np.log1p(np.maximum(rho[-WINDOW:], -0.9)) ** 2))
    for unit in (1.0, 1e-3):
        found = growth_of(rho, rho).ahead(np.full(200, 50), np.full(200, 50.0 * unit), np.array([50.0, 200.0]) * unit)
        np.testing.assert_array_equal(found.slope, 0.0)
        assert found.sd[0] == pytest.approx(expected)
        assert found.sd[1] == pytest.approx(2.0 * found.sd[0])


def test_across_a_gap_the_nearest_interval_counts():
    coupling = GrowthCoupling(np.array([1.0, 2.0]), np.array([0.1, 0.2]), np.ones(2), 0.5, Memory())
    found = coupling.along(np.array([0, 2]), np.array([1.0, 4.0, 1.0]))
    np.testing.assert_array_equal(found.slope[[0, 2]], coupling.slope)
    assert found.sd[1] in (0.2, 0.4)
    assert coupling.along(np.arange(2), np.ones(2)) is coupling


def simulated(coupling, *, individual=0.0, kappa=0.0, n_draws=4000, n_intervals=1, sd=(0.0, 0.5, 0.0), **options):
    features, groups, given = case(3, 3)
    rates = constant_rates(
        0.0, 0.0, kappa, 3, n_draws=n_draws, n_intervals=n_intervals, sd=(*sd[:2], individual), impact_sd=0.5
    )
    path = simulate_records(
        features, groups, given, np.ones(n_intervals), rates, "R", seed=5, keep=np.arange(n_intervals + 1), n_classes=3,
        common_growth=coupling, **options,
    )  # fmt: skip
    means = np.stack([path[:, :, groups == k].mean(axis=2) for k in range(3)], axis=2)
    return path - means[:, :, groups], means - means.mean(axis=2, keepdims=True)


def along_and_across(contrasts):
    start = contrasts[:, :-1]
    moved = np.diff(contrasts, axis=1)
    rho = (moved * start).sum(axis=(2, 3)) / (start**2).sum(axis=(2, 3))
    return rho, moved - rho[:, :, None, None] * start


def alike(n, slope, sd, share, memory=Memory()):  # noqa: B008
    return GrowthCoupling(np.full(n, slope), np.full(n, sd), np.ones(n), share, memory)


@pytest.mark.parametrize("directions", [None, "uneven"])
def test_noise_along_contrasts_has_its_own_size_and_noise_across_them_the_rest(directions):
    """Of 6 dimensions of noise 1 lies along the contrasts (nothing drifts); 40 % of the noise was said to."""
    if directions is not None:
        axis = np.zeros((3, 3))
        axis[:, 0] = [1.0, -1.0, 0.0]
        directions = ClassMeanNoise(NoiseDirections(axis[None], 4 / 6), NoiseDirections.alike((3,)))
    _, contrasts = simulated(alike(1, 0.0, 0.3, 0.4), directions=directions)
    rho, across = along_and_across(contrasts)
    assert rho.mean() == pytest.approx(0.0, abs=5 * 0.3 / np.sqrt(4000))
    assert rho.std() == pytest.approx(0.3, rel=0.05)
    expected = 6 * 0.5**2 * (1 - 0.4)
    assert (across**2).sum(axis=(2, 3)).mean() == pytest.approx(expected, rel=0.08)


def test_contrasts_follow_deviations():
    """κ = 0.1 stretches deviations by e^0.1 in each interval: h = 0.1 and ρ = 2h, without any noise of class means."""
    _, contrasts = simulated(alike(3, 2.0, 0.0, 1.0), kappa=0.1, n_draws=1, n_intervals=3, sd=(0.0, 0.0, 0.0))
    rho, across = along_and_across(contrasts)
    np.testing.assert_allclose(rho, 0.2, rtol=1e-9)
    np.testing.assert_allclose(across, 0.0, atol=1e-12)


def test_deviations_are_what_they_are_without():
    with_it, _ = simulated(alike(4, 1.0, 0.2, 0.5), individual=0.1, n_draws=3, n_intervals=4)
    without, _ = simulated(None, individual=0.1, n_draws=3, n_intervals=4)
    np.testing.assert_allclose(with_it, without, atol=1e-12)


def test_what_goes_again_leaves_contrasts_nearly_as_large_as_they_were():
    """Over 64 intervals log sizes walk by 8 × 0.03 where all stays; what goes at once leaves the last 0.03/√2."""
    for memory, sd in ((Memory(), 0.24), (Memory(0.0, 0.0), 0.03 / np.sqrt(2.0))):
        coupling = alike(64, 0.0, 0.03, 1.0, memory)
        _, contrasts = simulated(coupling, n_draws=400, n_intervals=64, sd=(0.0, 0.0, 0.0))
        size = np.log(np.linalg.norm(contrasts, axis=(2, 3)))
        change = size[:, -1] - size[:, 0]
        assert change.std() == pytest.approx(sd, rel=0.15)
        assert change.mean() == pytest.approx(-64 * 0.03**2 / 2, abs=4 * sd / 20)


def test_beyond_the_record_noise_has_mean_0_and_no_size_that_grows():
    """e^ρ has mean 1 where all stays: so has the size of contrasts along themselves after 16 intervals."""
    features, groups, given = case(3, 3)
    rates = constant_rates(0.0, 0.0, 0.0, 3, n_draws=4000, n_intervals=16)
    path = simulate_records(
        features, groups, given, np.ones(16), rates, "R", seed=5, keep=np.array([0, 16]), n_classes=3,
        common_growth=alike(16, 0.0, 0.1, 1.0), stretched=True,
    )  # fmt: skip
    means = np.stack([path[:, :, groups == k].mean(axis=2) for k in range(3)], axis=2)
    contrasts = means - means.mean(axis=2, keepdims=True)
    size = np.linalg.norm(contrasts, axis=(2, 3))
    assert (size[:, 1] / size[:, 0]).mean() == pytest.approx(1.0, abs=5 * 0.42 / np.sqrt(4000))
    assert np.log(size[:, 1] / size[:, 0]).std() == pytest.approx(0.4, rel=0.05)
    deviations = path - means[:, :, groups]
    grown = np.linalg.norm(deviations, axis=(2, 3))
    np.testing.assert_allclose(grown[:, 1] / grown[:, 0], size[:, 1] / size[:, 0], rtol=1e-9)  # these follow


def test_no_interval_turns_contrasts_around():
    _, contrasts = simulated(alike(1, 0.0, 3.0, 1.0), sd=(0.0, 0.0, 0.0))
    rho, _ = along_and_across(contrasts)
    assert rho.min() == pytest.approx(-0.9)


def test_intervals_that_are_not_active_are_as_without():
    coupling = GrowthCoupling(np.ones(2), np.ones(2), np.zeros(2), 0.9, Memory())
    _, contrasts = simulated(coupling, n_draws=3, n_intervals=2)
    _, without = simulated(None, n_draws=3, n_intervals=2)
    np.testing.assert_allclose(contrasts, without, atol=1e-12)


def grown_together(path, scale, *, n=120, rotation=None, unit=1.0):
    """A recording in which contrasts and deviations are scaled by one factor, which goes as ``scale`` says."""
    rng = np.random.default_rng(6)
    features, groups, _ = case(3, 3)
    centres = class_means(features, groups)
    deviations = features - centres[groups]
    noise = 1e-3 * rng.normal(size=(n, len(features), 3)).cumsum(axis=0)
    found = unit * scale[:, None, None] * (features[None] + 0.0 * deviations) + unit * noise
    if rotation is not None:
        found = found @ rotation
    layer = {"hidden": found}
    return write_recording(path, 50 * np.arange(n), groups, layer)


def measured(path):
    with Recording(path) as recording:
        return compute_statistics(recording, "hidden", "I").growth


def test_a_record_tells_growth_whatever_its_axes_and_units(tmp_path):
    rng = np.random.default_rng(7)
    scale = np.exp(np.concatenate([[0.0], (0.1 * rng.normal(size=119)).cumsum()]))
    found = measured(grown_together(tmp_path / "a.h5", scale))
    np.testing.assert_allclose(found.deviations, np.diff(np.log(scale)), atol=0.02)
    np.testing.assert_allclose(found.contrasts, scale[1:] / scale[:-1] - 1.0, atol=0.02)
    assert found.share_all > 0.9
    assert found.told.all()
    rotation, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    turned = measured(grown_together(tmp_path / "b.h5", scale, rotation=rotation, unit=100.0))
    for name in ("contrasts", "deviations", "impact", "share_all", "share_across"):
        np.testing.assert_allclose(getattr(turned, name), getattr(found, name), atol=2e-4)


def test_samples_that_are_all_alike_tell_nothing(tmp_path):
    groups = np.repeat([0, 1, 2], 4)
    centres = np.random.default_rng(8).normal(size=(20, 3, 3)).cumsum(axis=0)
    found = measured(write_recording(tmp_path / "run.h5", 50 * np.arange(20), groups, {"hidden": centres[:, groups]}))
    assert not found.told.any()
    alike_means = np.random.default_rng(9).normal(size=(20, 4, 3))[:, np.tile(np.arange(4), 3)]
    found = measured(write_recording(tmp_path / "two.h5", 50 * np.arange(20), groups, {"hidden": alike_means}))
    assert not found.told.any()


def test_fits_keep_it(tmp_path):
    with make_run(3, 3, n_records=30, seed=4).write(tmp_path / "run.h5") as recording:
        found = compute_statistics(recording, "hidden", "I").growth
    growth = CommonGrowth.at(found, np.zeros_like(found.impact), found.told, all_around=False)
    kept = CommonGrowth.from_variables(xr.Dataset(growth.to_variables()))
    for name in ("contrasts", "deviations", "told"):
        np.testing.assert_array_equal(getattr(kept, name), getattr(growth, name))
    assert kept.share == found.share_across
    assert CommonGrowth.from_variables(xr.Dataset()) is None
