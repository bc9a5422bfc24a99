"""Margins against closed forms and a support vector machine, one classifier of all classes, and chance."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.svm import SVC

from data_tools import InputError
from lesde_infer.margins import one_linear_classifier, permuted_share, separation, widest_margin
from lesde_infer.separability import chance_separability_cover, pairwise_separable


def rotation(dimension, seed):
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(dimension, dimension)))[0]


class TestWidestMargin:
    def test_two_points_are_half_their_distance_apart(self):
        assert widest_margin(np.array([[0.0, 3.0]]), np.array([[4.0, 0.0]])) == pytest.approx(2.5)

    def test_a_point_beside_a_segment_is_separated_along_the_normal(self):
        """The segment from (1, −1) to (1, 5) is 1 away from the origin, nearer than both its ends."""
        assert widest_margin(np.zeros((1, 2)), np.array([[1.0, -1.0], [1.0, 5.0]])) == pytest.approx(0.5)

    def test_hulls_that_meet_have_none(self):
        square = np.array([[0.0, 0.0], [2.0, 0.0], [0.0, 2.0], [2.0, 2.0]])
        assert widest_margin(square, np.array([[1.0, 1.0]])) == 0.0
        assert widest_margin(square, square[:1]) == 0.0  # they touch
        assert widest_margin(np.ones((3, 2)), np.ones((2, 2))) == 0.0

    @settings(max_examples=12, deadline=None, derandomize=True)
    @given(seed=st.integers(0, 10**6), dimension=st.integers(1, 6), distance=st.floats(2.5, 8.0))
    def test_it_is_that_of_a_support_vector_machine(self, seed, dimension, distance):
        rng = np.random.default_rng(seed)
        first = rng.normal(size=(15, dimension))
        second = rng.normal(size=(12, dimension))
        second[:, 0] += distance
        found, which = widest_margin(first, second), np.repeat([0, 1], [15, 12])
        points = np.concatenate([first, second])
        if pairwise_separable(points, which).all_pairs:  # with a penalty this large SVC may not end where they overlap
            machine = SVC(kernel="linear", C=1e8, tol=1e-8).fit(points, which)
            assert found == pytest.approx(1 / np.linalg.norm(machine.coef_), rel=1e-3)
        else:
            assert found == 0.0

    @settings(max_examples=20, deadline=None, derandomize=True)
    @given(seed=st.integers(0, 10**6), scale=st.sampled_from([1e-12, 1e-3, 1.0, 1e6]), shift=st.floats(-10, 10))
    def test_it_scales_and_does_not_turn(self, seed, scale, shift):
        rng = np.random.default_rng(seed)
        first, second = rng.normal(size=(8, 3)), rng.normal(size=(9, 3)) + 4.0 * np.eye(3)[0]
        moved = [scale * (cloud @ rotation(3, seed) + shift) for cloud in (first, second)]
        assert widest_margin(*moved) == pytest.approx(scale * widest_margin(first, second), rel=1e-5)


class TestOneClassifier:
    def test_two_points_are_divided_halfway(self):
        found, margin = one_linear_classifier(np.array([[0.0, 3.0], [4.0, 0.0]]), np.arange(2))
        assert found
        assert margin == pytest.approx(2.5)

    def test_it_is_more_than_separability_of_all_pairs(self):
        """Blades of a pinwheel: each pair can be divided, but the boundaries of one classifier meet in one point.

        Blades that are less than half as long leave room for it.
        """
        blade = np.array([[-1.5, 1.0], [3.0, 1.0]])
        angles = 2 * np.pi * np.arange(3) / 3
        turns = [np.array([[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]]) for a in angles]
        points, labels = np.concatenate([blade @ turn.T for turn in turns]), np.repeat(np.arange(3), 2)
        assert pairwise_separable(points, labels).all_pairs
        assert one_linear_classifier(points, labels) == (False, 0.0)
        stubs = np.concatenate([(blade * [0.4, 1.0]) @ turn.T for turn in turns])
        assert one_linear_classifier(stubs, labels)[0]

    def test_the_margin_is_kept_by_every_sample(self):
        """A scaled, rotated and shifted triangle with scatter: boundaries found are no nearer to any sample."""
        rng = np.random.default_rng(3)
        means = 10.0 * np.eye(3) @ rotation(3, 1) + 5.0
        labels = np.repeat(np.arange(3), 20)
        points = means[labels] + rng.normal(size=(60, 3))
        found, margin = one_linear_classifier(points, labels)
        assert found
        widest = min(widest_margin(points[labels == a], points[labels == b]) for a, b in ((0, 1), (0, 2), (1, 2)))
        assert 0.5 * widest < margin < widest * (1 + 1e-9)
        shifted, scaled = one_linear_classifier(1e4 * points - 3.0, labels)
        assert shifted
        assert scaled == pytest.approx(1e4 * margin, rel=1e-6)

    def test_points_that_coincide_have_none(self):
        assert one_linear_classifier(np.ones((4, 2)), np.array([0, 0, 1, 1])) == (False, 0.0)

    def test_two_classes_are_a_pair(self):
        rng = np.random.default_rng(1)
        for shift in (0.5, 4.0):
            points = rng.normal(size=(20, 2))
            points[10:, 0] += shift
            labels = np.repeat([0, 1], 10)
            assert one_linear_classifier(points, labels)[0] == pairwise_separable(points, labels).all_pairs


class TestChance:
    def test_permuted_labels_agree_with_covers_count(self):
        """20 points of two classes in 9 dimensions: 1/2, but that halves are of equal size, which is less likely."""
        points = np.random.default_rng(0).normal(size=(20, 9))
        share = permuted_share(points, np.repeat([0, 1], 10), 400, 0)
        assert share == pytest.approx(chance_separability_cover(20, 9), abs=0.12)

    def test_few_points_in_many_dimensions_are_always_separable(self):
        found = separation(np.random.default_rng(0).normal(size=(12, 30)), np.repeat([0, 1, 2], 4), n_permutations=20)
        assert (found.chance_cover, found.chance_permuted) == (1.0, 1.0)
        assert found.n_separable_pairs == found.n_pairs == 3

    def test_what_is_separated_widely_is_not_by_chance(self):
        rng = np.random.default_rng(0)
        labels = np.repeat([3, 5, 9], 30)
        points = 20.0 * np.eye(3)[np.repeat(np.arange(3), 30)] + rng.normal(size=(90, 3))
        found = separation(points, labels, n_permutations=50)
        assert found.chance_cover < 1e-10
        assert found.chance_permuted == 0.0
        assert found.one_classifier
        assert set(found.narrowest_pair) <= {3, 5, 9}
        pair = np.isin(labels, found.narrowest_pair)
        first, second = (points[labels == label] for label in found.narrowest_pair)
        assert found.narrowest_margin == widest_margin(first, second)
        assert pair.sum() == 60

    def test_a_pair_that_is_not_separable_has_no_margin(self):
        points = np.array([[0.0], [2.0], [1.0], [3.0], [10.0], [11.0]])
        found = separation(points, np.array([0, 0, 1, 1, 2, 2]), n_permutations=5)
        assert found.n_separable_pairs == 2
        assert (found.narrowest_margin, found.narrowest_pair) == (0.0, (0, 1))
        assert not found.one_classifier

    def test_no_permutation_is_refused(self):
        with pytest.raises(InputError, match="n_permutations is 0"):
            separation(np.eye(2), np.arange(2), n_permutations=0)
