"""Recordings that are degenerate: each is fitted with finite numbers, or refused in one line with a way out."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from data_tools.errors import InputError
from data_tools.recording import Recording
from data_tools.recording_writer import write_recording
from lesde_infer._jax import jax
from lesde_infer.assembly import assemble
from lesde_infer.inference import check_supports
from lesde_infer.interval_lengths import spikes
from lesde_infer.mode import find_mode, objective
from lesde_infer.statistics import compute_statistics

T, K, N = 32, 3, 6
STEPS, LABELS = 10 * np.arange(T), np.repeat(np.arange(K), N)
IMPACTS = ("I", "L", "R")


def usual():
    """Classes that move apart, spread and shake."""
    rng = np.random.default_rng(0)
    growth = np.linspace(1.0, 3.0, T)[:, None, None]
    features = growth * rng.normal(size=(K, K))[LABELS] + 0.4 * np.sqrt(growth) * rng.normal(size=(K * N, K))
    shaken = 0.02 * rng.normal(size=(T, K, K)).cumsum(axis=0)[:, LABELS]
    return features + shaken + 0.02 * rng.normal(size=features.shape).cumsum(axis=0)


def still(features, start, stop):
    features[start:stop] = features[start]
    return features


def spiked(features, size=1e6):
    features[16] += size * np.random.default_rng(1).normal(size=features[16].shape)
    return features


def blown_up(features, factor):
    features[-3:] *= factor
    return features


def without_contrasts(features):
    means = np.stack([features[:, k == LABELS].mean(axis=1) for k in range(K)], axis=1)
    return features - means[:, LABELS]


def without_spread(features):
    return features[:, N * LABELS]


def doubled(features):
    features[1::2] = features[::2]
    return features


def saturated(features, start):
    features[start:] = 0.1 * features[start:] + 1e3 * np.eye(K)[LABELS]
    return features


FITTED = {
    "usual": lambda x: x,
    "tiny": lambda x: 1e-8 * x,
    "huge": lambda x: 1e8 * x,
    "tiniest": lambda x: 1e-30 * x,
    "no step for a while": lambda x: still(x, 10, 20),
    "spike": spiked,
    "samples of a class identical": without_spread,
    "half precision": lambda x: x.astype(np.float16),
    "zero at first": lambda x: np.concatenate([0.0 * x[:1], x[1:]]),
    "a dead class": lambda x: x * (LABELS != 1)[:, None],
}
REFUSED = {
    "features end at 1e30": (lambda x: blown_up(x, 1e30), IMPACTS, "training diverged; .* --until 280"),
    "features end at 1e100": (lambda x: blown_up(x, 1e100), IMPACTS, "training diverged.* --until 280"),
    "features end infinite": (lambda x: blown_up(x, np.inf), IMPACTS, "--until 280"),
    "class means equal": (without_contrasts, IMPACTS, "class means never move relative to each other"),
    "every record twice": (doubled, IMPACTS, "15 intervals in which any feature moves.*record only while training"),
    "still for most of it": (lambda x: still(x, 4, T), IMPACTS, "4 intervals in which any.*--curve constant"),
    "saturated": (lambda x: saturated(x, 0), ("R",), "has 0 intervals in which impact R drives.*--impact"),
    "saturated from record 12": (lambda x: saturated(x, 12), ("R",), "has 12 intervals in which impact R.*--until"),
}  # fmt: skip


def statistics_of(features, impact, folder, **options):
    path = write_recording(folder / "run.h5", STEPS, LABELS, {"out": features}, logits="out", force=True, **options)
    with Recording(path) as recording:
        found = compute_statistics(recording, "out", impact)
    check_supports(found, "gp", Path("run.h5"))
    return found


def finite(tree):
    return all(np.isfinite(np.asarray(leaf)).all() for leaf in jax.tree.leaves(tree))


@pytest.mark.parametrize("impact", ["R", *(pytest.param(other, marks=pytest.mark.slow) for other in ("I", "L"))])
def test_data_modes_densities_and_gradients_are_finite(impact, tmp_path):
    """One test an impact, so that programs are compiled once."""
    for name, change in FITTED.items():
        for submodel in assemble(statistics_of(change(usual()), impact, tmp_path), "gp"):
            where = f"{name}: {submodel.strata}"
            assert finite(submodel.data), where
            mode, points = find_mode(submodel.variant, submodel.data)
            assert finite((mode, points)), where
            assert finite(objective(submodel.variant)(mode, submodel.data, points)), where


@pytest.mark.parametrize("name", REFUSED)
def test_what_tells_nothing_is_refused_with_a_way_out(name, tmp_path):
    change, impacts, message = REFUSED[name]
    for impact in impacts:
        with np.errstate(over="ignore"), pytest.raises(InputError, match=message) as caught:
            statistics_of(change(usual()), impact, tmp_path)
        assert "\n" not in str(caught.value)


def test_intervals_without_a_step_are_left_out_of_every_stratum_and_of_the_priors(tmp_path):
    found = statistics_of(still(usual(), 10, 20), "R", tmp_path)
    np.testing.assert_array_equal(np.flatnonzero(~found.moved), np.arange(10, 19))
    for submodel in assemble(found, "gp"):
        np.testing.assert_array_equal(submodel.data.observed, found.moved[None].astype(float))
    quiet = replace(found.contrast, increment_square=np.where(found.moved, found.contrast.increment_square, 1e9))
    changed = replace(found, contrast=quiet)  # what stands in their place has no say
    for one, other in zip(assemble(found, "gp"), assemble(changed, "gp"), strict=True):
        assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), one.data.prior, other.data.prior))


def test_spikes_are_left_out_of_every_stratum_and_of_the_priors(tmp_path):
    """A thousand times the usual noise, or a million: priors and what is observed are the same."""
    one, other = (statistics_of(spiked(usual(), size), "R", tmp_path) for size in (1e3, 1e9))
    for a, b in zip(assemble(one, "gp"), assemble(other, "gp"), strict=True):
        np.testing.assert_array_equal(np.flatnonzero(np.asarray(a.data.observed[0]) == 0), [15, 16])
        for first, second in zip(jax.tree.leaves(a.data.prior), jax.tree.leaves(b.data.prior), strict=True):
            np.testing.assert_allclose(second, first, rtol=1e-2, atol=1e-12)


def test_rounding_of_computations_is_no_spread(tmp_path):
    """Two features that are one leave nothing across the class means but rounding, in double precision too."""
    features = usual()
    features[:, :, 1] = features[:, :, 0]
    found = statistics_of(features, "R", tmp_path)
    assert found.parts.along.spread.all()
    assert not found.parts.across.spread.any()
    assert statistics_of(usual(), "R", tmp_path).parts.across.spread.all()


def test_a_spike_is_found_where_it_is_and_nowhere_else(tmp_path):
    np.testing.assert_array_equal(np.flatnonzero(spikes(statistics_of(spiked(usual()), "R", tmp_path))), [15, 16])
    assert not spikes(statistics_of(usual(), "R", tmp_path)).any()


@pytest.mark.parametrize("impact", IMPACTS)
def test_the_unit_of_time_only_rescales_rates_and_noise(impact, tmp_path):
    factor = 1e6
    one = assemble(statistics_of(usual(), impact, tmp_path, time=STEPS), "gp")
    other = assemble(statistics_of(usual(), impact, tmp_path, time=factor * STEPS), "gp")
    for a, b in zip(one, other, strict=True):
        is_rate = np.asarray(a.data.is_rate) > 0
        for rate, reference, scaled in zip(is_rate, a.data.reference, b.data.reference, strict=True):
            expected = 1.0 if a.strata == ("class_noise",) or not rate else factor
            assert reference / scaled == pytest.approx(expected, rel=1e-9)
        for name in ("level_sd", "slope_sd", "amplitude_sd"):
            np.testing.assert_allclose(getattr(a.data.prior, name), getattr(b.data.prior, name), rtol=1e-9)
        np.testing.assert_allclose(a.data.design.basis, b.data.design.basis, rtol=1e-9, atol=1e-12)
