"""The paper's forecast: exact on paths of its model, and none where its estimators are not defined."""

import numpy as np
import pytest

from data_tools import Recording, write_recording
from lesde_infer.moment_forecast import continued, move_class_means, paper_forecast
from lesde_infer.moment_ratios import TailIndex
from lesde_infer.simulation import simulate

K, PER_CLASS = 3, 6
GROUPS = np.repeat(np.arange(K), PER_CLASS)
STEPS = np.arange(0, 2001, 10)
INDEX_A, INDEX_B = 0.6, 0.8


def integral(scale, index):
    """Return the rate, constant over intervals of ten steps, whose integral from step 0 is scale · t^(1 − index)."""
    return lambda t: scale * ((t + 5) ** (1 - index) - (t - 5) ** (1 - index)) / 10


@pytest.mark.parametrize("impact", ["I", "L"])
def test_a_path_of_the_model_is_continued_exactly(tmp_path, impact):
    """∫α = t^0.4 and ∫β = −t^0.2/2 without noise.

    The index of C t^(1−r) is r − log C/log t, hence that of β comes out too large here, and growth by a factor of 1.25
    is right to a few percent of what is added.
    """
    first = 1.0 + np.random.default_rng(0).uniform(0.5, 1.5, size=(len(GROUPS), K)) + 2 * np.eye(K)[GROUPS]
    with simulate(
        tmp_path / "run.h5",
        n_classes=K,
        samples_per_class=PER_CLASS,
        steps=STEPS,
        alpha=integral(1.0, INDEX_A),
        beta=integral(-0.5, INDEX_B),
        kappa=0.0,
        global_scale=0.0,
        class_scale=0.0,
        individual_scale=0.0,
        impact=impact,
        first_features=first,
        noise=False,
    ) as recording:
        at = 160
        features = np.asarray(recording.features("logits"), dtype=float)
        # With as many features as classes the paper takes L; a path of I is continued by the closed form alone.
        found = paper_forecast(recording, "logits", "labels", features[at], GROUPS, 1600, 2000)
    times = np.array([1600.0, 2000.0])
    delta_a, delta_b = np.diff(times ** (1 - INDEX_A))[0], -0.5 * np.diff(times ** (1 - INDEX_B))[0]
    exact = move_class_means(features[at], GROUPS, delta_a, delta_b, impact)
    moved = np.abs(features[-1] - features[at]).max()
    np.testing.assert_allclose(exact, features[-1], atol=5e-3 * moved)
    if impact == "L":
        np.testing.assert_allclose(found, features[-1], atol=0.1 * moved)


def test_integrals_grow_like_their_power():
    assert continued(3.0, TailIndex(0.5, False, 1, 0), 4.0) == pytest.approx(3.0)
    assert continued(3.0, TailIndex(1.0, False, 1, 0), 4.0) == 0.0


def test_deviations_stay_and_nothing_moves_without_growth():
    features = np.random.default_rng(1).normal(size=(len(GROUPS), 5))
    np.testing.assert_array_equal(move_class_means(features, GROUPS, 0.0, 0.0, "I"), features)
    moved = move_class_means(features, GROUPS, 1.0, -0.5, "I")
    change = moved - features
    for k in range(K):
        np.testing.assert_allclose(change[k == GROUPS], np.broadcast_to(change[k == GROUPS][0], (PER_CLASS, 5)))


def test_where_the_estimators_are_not_defined_there_is_no_forecast(tmp_path):
    """Class means that vanish at the first record have no ratio."""
    features = np.zeros((4, len(GROUPS), 2))
    features[1:] = np.random.default_rng(0).normal(size=(3, len(GROUPS), 2))
    path = write_recording(tmp_path / "zero.h5", [0, 1, 2, 3], GROUPS, {"out": features})
    with Recording(path) as recording:
        assert paper_forecast(recording, "out", "labels", features[2], GROUPS, 2, 3) is None
