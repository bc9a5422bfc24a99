"""Separability: proofs in both directions against a plain linear program, closed forms, invariances, faults."""

from itertools import product
from math import comb

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog
from scipy.stats import ortho_group

from data_tools.errors import InputError
from lesde_infer import separability
from lesde_infer.separability import (
    chance_separability_cover,
    held_out_linear_accuracy,
    linear_accuracy,
    nearest_class_mean_accuracy,
    network_accuracy,
    pairwise_separable,
)


def separable_by_textbook(first, second):
    """Feasibility of y_i (w·x_i + b) ≥ 1 for standardised points, straight from the definition."""
    points = np.concatenate([first, second])
    side = np.repeat([1.0, -1.0], [len(first), len(second)])
    scaled = (points - points.mean(axis=0)) / points.std()
    rows = -side[:, None] * np.column_stack([scaled, np.ones(len(points))])
    n_variables = points.shape[1] + 1
    result = linprog(np.zeros(n_variables), rows, -np.ones(len(points)), bounds=[(None, None)] * n_variables)
    return result.status == 0


def is_separable(first, second):
    labels = np.repeat([0, 1], [len(first), len(second)])
    return pairwise_separable(np.concatenate([first, second]), labels).all_pairs


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    n_features=st.integers(1, 6),
    sizes=st.tuples(st.integers(1, 25), st.integers(1, 25)),
    shift=st.floats(0.0, 5.0),
)
def test_agrees_with_the_textbook_linear_program(seed, n_features, sizes, shift):
    rng = np.random.default_rng(seed)
    first = rng.normal(size=(sizes[0], n_features)) * rng.uniform(0.1, 10.0, n_features)
    second = rng.normal(size=(sizes[1], n_features)) + shift
    assert is_separable(first, second) == separable_by_textbook(first, second)


def test_agrees_with_the_textbook_on_real_logits(real_recording):
    recording = real_recording("geomnist_p0.5")
    outcomes = set()
    for record in (0, 60, 120, 200):
        logits, labels = recording["logits"][record].astype(float), recording["y_true"]
        result = pairwise_separable(logits, labels)
        expected = [separable_by_textbook(logits[labels == a], logits[labels == b]) for a, b in result.pairs]
        assert result.separable.tolist() == expected
        outcomes.update(expected)
    assert outcomes == {True, False}


@pytest.mark.parametrize("gap", [1e-2, 1e-4, 1e-6, -1e-2, -1e-4, -1e-6])
def test_narrow_gaps_and_narrow_overlaps_are_told_apart(gap):
    # Two interleaved fans: neither the means nor the covariance point along the only direction that separates.
    rng = np.random.default_rng(3)
    points = rng.normal(size=(400, 4)) * [30.0, 1.0, 1.0, 1.0]
    height = np.abs(points[:, 1]) + 0.5 * gap
    height[:5] = height[200:205] = 0.5 * gap
    points[:, 1] = np.where(np.arange(400) < 200, height, -height)
    points[:5, [0, 2, 3]] = points[200:205, [0, 2, 3]] = rng.normal(size=(5, 3))
    rotated = points @ ortho_group.rvs(4, random_state=1)
    assert is_separable(rotated[:200], rotated[200:]) == (gap > 0)


def test_touching_classes_are_not_separable():
    first = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    assert not is_separable(first, np.array([[1.0, 0.0], [2.0, 3.0]]))  # a point in common
    assert not is_separable(first, np.array([[0.5, 0.5], [2.0, 3.0]]))  # a vertex on an edge
    assert is_separable(first, np.array([[0.5, 0.5 + 1e-6], [2.0, 3.0]]))
    assert not is_separable(np.ones((3, 2)), np.ones((4, 2)))  # everything in one point


def test_exclusive_or_is_not_separable_but_its_halves_are():
    corners = np.array(list(product([0.0, 1.0], repeat=2)))
    assert not is_separable(corners[[0, 3]], corners[[1, 2]])
    assert is_separable(corners[:2], corners[2:])


def test_the_linear_program_answers_where_least_squares_gives_up(monkeypatch):
    def give_up(*_):
        raise RuntimeError("Maximum number of iterations reached.")

    monkeypatch.setattr(separability, "nnls", give_up)
    rng = np.random.default_rng(8)
    outcomes = []
    for _ in range(30):
        first, second = rng.normal(size=(8, 3)), rng.normal(size=(8, 3)) + 0.8
        outcomes.append(is_separable(first, second))
        assert outcomes[-1] == separable_by_textbook(first, second)
    assert 0 < sum(outcomes) < 30


def test_more_features_than_samples_always_separate():
    points = np.random.default_rng(0).normal(size=(30, 40))
    result = pairwise_separable(points, np.repeat([0, 1, 2], 10))
    assert result.all_pairs
    assert result.share == 1.0


@pytest.mark.parametrize("scale", [1e-200, 1e-8, 1e8, 1e150])
def test_invariant_to_scale_shift_and_mixing(scale):
    rng = np.random.default_rng(5)
    points = rng.normal(size=(60, 3))
    labels = np.repeat([4, 7, 9], 20)
    points[labels == 9] += 3.0
    expected = pairwise_separable(points, labels).separable
    mixed = scale * (points @ rng.normal(size=(3, 3)) + 5.0)
    assert set(expected) == {True, False}
    assert np.array_equal(pairwise_separable(mixed, labels).separable, expected)


def test_pairs_are_named_by_label_and_share_counts_them():
    points = np.array([[0.0], [1.0], [0.5], [0.6], [9.0]])
    result = pairwise_separable(points, np.array([30, 30, 20, 20, 10]))
    assert result.pairs.tolist() == [[10, 20], [10, 30], [20, 30]]
    assert result.separable.tolist() == [True, True, False]
    assert result.share == pytest.approx(2 / 3)
    assert not result.all_pairs


def test_two_separable_classes_give_a_linear_accuracy_of_exactly_one():
    # A gap of a thousandth, along a direction of little variance: a regularised classifier alone misses it.
    rng = np.random.default_rng(2)
    points = rng.normal(size=(200, 2)) * [1.0, 1e-3]
    points[:, 1] = np.where(np.arange(200) < 100, 1e-6 + np.abs(points[:, 1]), -np.abs(points[:, 1]))
    points = points @ np.array([[1.0, 1.0], [1.0, -1.0]])
    assert linear_accuracy(points, np.repeat([0, 1], 100)) == 1.0


def test_linear_accuracy_of_the_best_threshold_in_one_dimension():
    points = np.array([[-3.0], [-2.5], [-2.0], [1.5], [1.0], [2.0], [2.5], [3.0]])
    assert linear_accuracy(points, np.repeat([0, 1], 4)) == 7 / 8


def test_linear_accuracy_is_invariant_to_scale_and_to_names_of_labels():
    rng = np.random.default_rng(7)
    points, labels = rng.normal(size=(90, 3)), np.repeat([0, 1, 2], 30)
    points[labels == 1] += 1.0
    value = linear_accuracy(points, labels)
    assert 1 / 3 < value < 1
    assert linear_accuracy(1e6 * points - 3.0, np.array([5, -2, 9])[labels]) == pytest.approx(value, abs=0.012)


def test_pairwise_separable_classes_need_not_be_linearly_classifiable():
    # A pinwheel: three long arms, each tangent to a circle. Any two arms can be parted, but the three borders of a
    # linear classifier meet in one point and those of the arms do not.
    angles = np.array([0.0, 2.0, 4.0]) * np.pi / 3
    start = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    along = np.stack([-np.sin(angles), np.cos(angles)], axis=1)
    points = (start[:, None, :] + np.linspace(-1.5, 20.0, 40)[:, None] * along[:, None, :]).reshape(-1, 2)
    labels = np.repeat([0, 1, 2], 40)
    assert pairwise_separable(points, labels).all_pairs
    assert 0.8 < linear_accuracy(points, labels) < 1.0


def test_held_out_accuracy_is_not_fooled_by_many_dimensions():
    rng = np.random.default_rng(11)
    points, labels = rng.normal(size=(60, 80)), np.repeat([0, 1], 30)
    assert linear_accuracy(points, labels) == 1.0
    assert 0.2 < held_out_linear_accuracy(points, labels) < 0.8
    points[labels == 1] += 2.0
    assert held_out_linear_accuracy(points, labels) > 0.9


def test_constant_features_and_separated_classes_raise_no_warning():
    points = np.column_stack([np.repeat([0.0, 5.0, 10.0], 20), np.ones(60)])
    assert linear_accuracy(points, np.repeat([0, 2, 1], 20)) == 1.0
    assert held_out_linear_accuracy(points, np.repeat([0, 2, 1], 20)) == 1.0


def test_nearest_class_mean_by_hand():
    points = np.array([[0.0, 0.0], [0.0, 2.0], [4.0, 0.0], [1.0, 1.0]]) + 1e7
    # Means are (0, 1) and (2.5, 0.5): the last point belongs to the second class but lies nearer to the first.
    assert nearest_class_mean_accuracy(points, np.array([0, 0, 1, 1])) == 0.75


def test_network_accuracy_counts_largest_logits():
    logits = np.array([[1.0, 2.0, 0.0], [3.0, 2.0, 0.0], [0.0, 0.0, 1.0], [1.0, 0.0, 0.0]])
    assert network_accuracy(logits, np.array([1, 0, 2, 2])) == 0.75


def test_cover_counts_agree_with_exact_integers():
    for n_samples, n_features in [(1, 1), (2, 1), (5, 2), (10, 3), (40, 7), (200, 99), (30, 28), (30, 29), (30, 50)]:
        exact = 2 * sum(comb(n_samples - 1, k) for k in range(n_features + 1)) / 2**n_samples
        assert chance_separability_cover(n_samples, n_features) == pytest.approx(min(exact, 1.0), rel=1e-12)


def test_cover_agrees_with_enumerated_dichotomies():
    points = np.random.default_rng(1).normal(size=(7, 2))
    n_possible = 2  # everything on one side, twice
    for signs in product([0, 1], repeat=7):
        side = np.array(signs)
        if 0 < side.sum() < 7:
            n_possible += is_separable(points[side == 1], points[side == 0])
    assert n_possible / 2**7 == pytest.approx(chance_separability_cover(7, 2))


def test_cover_at_half_and_in_the_extremes():
    assert chance_separability_cover(2 * 85, 84) == pytest.approx(0.5, rel=1e-9)
    assert chance_separability_cover(85, 84) == 1.0
    assert chance_separability_cover(100_000, 3) == 0.0
    expected = np.log(comb(99_999, 3)) - 99_999 * np.log(2)  # the largest term decides
    assert chance_separability_cover(100_000, 3, log=True) == pytest.approx(expected, rel=1e-6)
    assert chance_separability_cover(100_000, 99_999) == 1.0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: pairwise_separable(np.zeros((4, 2)), np.zeros(3, int)), r"shapes \(4, 2\) and \(3,\)"),
        (lambda: pairwise_separable(np.zeros(4), np.zeros(4, int)), "features must be"),
        (lambda: pairwise_separable(np.zeros((4, 2)), np.zeros(4, int)), "at least two"),
        (lambda: linear_accuracy(np.array([[0.0, np.nan], [1, 1]]), np.arange(2)), "nan at sample 0, feature 1"),
        (lambda: held_out_linear_accuracy(np.eye(4), np.array([0, 0, 1, 1])), "between 2 and 2"),
        (lambda: network_accuracy(np.zeros((4, 1)), np.zeros(4, int)), "at least two classes"),
        (lambda: network_accuracy(np.full((2, 2), np.inf), np.zeros(2, int)), "inf at sample 0"),
        (lambda: network_accuracy(np.zeros((4, 3)), np.full(4, 3)), "0..2"),
        (lambda: network_accuracy(np.zeros((4, 3)), np.zeros(5, int)), "do not fit"),
        (lambda: chance_separability_cover(0, 3), "positive"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(InputError, match=message):
        call()
