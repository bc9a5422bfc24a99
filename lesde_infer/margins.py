"""How widely classes are separated, and whether as much would be expected by chance.

*Of two classes.* The widest margin is half the distance between the convex hulls of the two clouds. With z₊ and z₋
their points in units in which the pair fits into the unit ball, and weights x ≥ 0, consider

    minimise |Σ₊ xᵢzᵢ − Σ₋ xⱼzⱼ|² + M²(Σ₊xᵢ − 1)² + M²(Σ₋xⱼ − 1)²,

non-negative least squares. Were both sums held to one, it would be that distance; with M = 10³ they miss it by a part
of 10⁻⁶. The difference of the two points found is normal to a hyperplane, and the gap that the hyperplane leaves is
measured: what is reported is therefore a margin that exists, and the widest one up to that part.

*Of all classes at once.* A linear classifier argmax_k(w_k·x + b_k) that is right on every sample exists if and only if
the linear program

    maximise t subject to (w_y − w_k)·x + b_y − b_k ≥ t for each sample x of class y and each k ≠ y, |w| ≤ 1

has t > 0. That is more than separability of all pairs, whose hyperplanes need not fit together. The margin of the
classifier found, the least distance of a sample to a boundary between its class and another, is one that exists; the
widest may be wider, since the program bounds entries of w and not their length.

*By chance.* Few points in many dimensions are separable whatever their labels. Cover's count says how likely that is
for points in general position (`lesde_infer.separability.chance_separability_cover`); real features are not, so beside
it labels are permuted: the share of permutations after which a pair of classes, drawn at random, is separable.

tests/lesde_infer/test_margins.py checks closed forms, scikit-learn's support vector machine, and Cover's count.
"""

from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from scipy.optimize import linprog, nnls
from scipy.sparse import coo_array

from data_tools.errors import InputError
from lesde_infer.separability import (
    GAP_TOLERANCE,
    chance_separability_cover,
    checked_samples,
    pairwise_separable,
    whitened,
)

SUM_WEIGHT = 1e3  # M
PERMUTATIONS = 100


@dataclass(frozen=True)
class Separation:
    """How the classes of one record are separated; margins in units of the features.

    Attributes
    ----------
    n_pairs, n_separable_pairs : int
        Pairs of classes, and those that a hyperplane separates.
    narrowest_margin : float
        The smallest of the pairs' widest margins; 0 if a pair is not separable.
    narrowest_pair : tuple of int
        Labels of that pair.
    one_classifier : bool
        Whether a single linear classifier of all classes is right on every sample.
    classifier_margin : float
        Margin of the one found, hence a bound from below; 0 if there is none.
    chance_cover, chance_permuted : float
        Probability that a pair is separable whatever its labels: by Cover's count, and by permuted labels.
    n_permutations : int
        Permutations.
    """

    n_pairs: int
    n_separable_pairs: int
    narrowest_margin: float
    narrowest_pair: tuple[int, int]
    one_classifier: bool
    classifier_margin: float
    chance_cover: float
    chance_permuted: float
    n_permutations: int

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {**asdict(self), "narrowest_pair": list(self.narrowest_pair)}


def separation(
    features: Float[np.ndarray, "sample feature"],
    labels: Int[np.ndarray, " sample"],
    *,
    n_permutations: int = PERMUTATIONS,
    seed: int = 0,
) -> Separation:
    """Measure how widely classes are separated, and how likely that is by chance.

    Parameters
    ----------
    features : float array (sample, feature)
    labels : int array (sample,)
    n_permutations : int
        Permutations of the labels, at least 1.
    seed : int
        Fixes the permutations.

    Raises
    ------
    InputError
        On shapes that do not fit, non-finite features, fewer than two classes, or no permutation.
    """
    if n_permutations < 1:
        raise InputError(f"n_permutations is {n_permutations}; give at least 1")
    points, positions, classes = checked_samples(features, labels)
    pairs = list(combinations(range(len(classes)), 2))
    margins = [widest_margin(points[positions == a], points[positions == b]) for a, b in pairs]
    narrowest = int(np.argmin(margins))
    separable = pairwise_separable(points, positions).separable
    one, margin = one_linear_classifier(points, positions)
    return Separation(
        n_pairs=len(pairs),
        n_separable_pairs=int(separable.sum()),
        narrowest_margin=margins[narrowest] if separable.all() else 0.0,
        narrowest_pair=tuple(classes[list(pairs[narrowest])].tolist()),
        one_classifier=one,
        classifier_margin=margin,
        chance_cover=_cover(points, positions, pairs),
        chance_permuted=permuted_share(points, positions, n_permutations, seed),
        n_permutations=n_permutations,
    )


def widest_margin(first: Float[np.ndarray, "a feature"], second: Float[np.ndarray, "b feature"]) -> float:
    """Return the widest margin between two clouds, half the distance of their convex hulls; 0 if these meet."""
    points = np.concatenate([first, second])
    centre = points.mean(axis=0)
    scale = float(np.linalg.norm(points - centre, axis=1).max())
    if scale == 0.0:
        return 0.0
    side = np.repeat([1.0, -1.0], [len(first), len(second)])
    scaled = (points - centre) / scale
    system = np.vstack([(side[:, None] * scaled).T, SUM_WEIGHT * (side > 0), SUM_WEIGHT * (side < 0)])
    target = np.append(np.zeros(scaled.shape[1]), [SUM_WEIGHT, SUM_WEIGHT])
    weights, _ = nnls(system, target, maxiter=30 * len(points))
    normal = (side * weights) @ scaled
    length = float(np.linalg.norm(normal))
    if length < GAP_TOLERANCE:
        return 0.0
    heights = scaled @ (normal / length)
    gap = float(heights[side > 0].min() - heights[side < 0].max())
    return 0.5 * scale * gap if gap > GAP_TOLERANCE else 0.0


def one_linear_classifier(
    points: Float[np.ndarray, "sample feature"], positions: Int[np.ndarray, " sample"]
) -> tuple[bool, float]:
    """Return whether one linear classifier is right on every sample, and the margin of the one found.

    Parameters
    ----------
    points : float array (sample, feature)
    positions : int array (sample,)
        Classes 0..K−1, all present.
    """
    white = whitened(points)
    n_classes, rank = int(positions.max()) + 1, white.shape[1]
    if rank == 0:
        return False, 0.0
    others = np.array([[k for k in range(n_classes) if k != own] for own in range(n_classes)])
    sample = np.repeat(np.arange(len(white)), n_classes - 1)
    own, other = positions[sample], others[positions].ravel()
    extended = np.column_stack([white, np.ones(len(white))])[sample]  # weights and offset of a class side by side
    rows = np.repeat(np.arange(len(sample)), rank + 1)
    block = np.arange(rank + 1)
    wide = rank + 1
    matrix = coo_array(
        (
            np.concatenate([-extended.ravel(), extended.ravel(), np.ones(len(sample))]),
            (
                np.concatenate([rows, rows, np.arange(len(sample))]),
                np.concatenate(
                    [
                        (own[:, None] * wide + block).ravel(),
                        (other[:, None] * wide + block).ravel(),
                        np.full(len(sample), n_classes * wide),
                    ]
                ),
            ),
        ),
        shape=(len(sample), n_classes * wide + 1),
    )
    bounds = ([(-1.0, 1.0)] * rank + [(None, None)]) * n_classes + [(0.0, None)]
    found = linprog(  # type: ignore[call-overload]  # the stubs know no sparse matrices
        np.append(np.zeros(n_classes * wide), -1.0),
        A_ub=matrix.tocsr(),
        b_ub=np.zeros(len(sample)),
        bounds=bounds,
        method="highs-ds",
        options={"primal_feasibility_tolerance": 1e-10, "dual_feasibility_tolerance": 1e-10},
    )
    if found.x is None:  # w = 0 is feasible and t is bounded, so only a failed solver can end here
        raise ArithmeticError(f"the linear program for one classifier of all classes failed: {found.message}")
    weights = found.x[:-1].reshape(n_classes, wide)
    lead = np.einsum("ij,ij->i", extended, weights[own] - weights[other])
    if lead.min() <= GAP_TOLERANCE * max(np.abs(lead).max(), np.finfo(float).tiny):
        return False, 0.0
    # In the coordinates of the features: white = (points − mean) · map, up to what lies outside their span.
    mapping = np.linalg.lstsq(points - points.mean(axis=0), white, rcond=None)[0]
    lengths = np.linalg.norm((weights[own] - weights[other])[:, :rank] @ mapping.T, axis=1)
    return True, float((lead / lengths).min())


def permuted_share(
    points: Float[np.ndarray, "sample feature"], positions: Int[np.ndarray, " sample"], n_permutations: int, seed: int
) -> float:
    """Return the share of permutations of the labels after which a pair of classes drawn at random is separable."""
    rng = np.random.default_rng(seed)
    n_classes = int(positions.max()) + 1
    separable = 0
    for _ in range(n_permutations):
        permuted = rng.permutation(positions)
        pair = np.isin(permuted, rng.choice(n_classes, size=2, replace=False))
        separable += pairwise_separable(points[pair], permuted[pair]).all_pairs
    return separable / n_permutations


def _cover(
    points: Float[np.ndarray, "sample feature"], positions: Int[np.ndarray, " sample"], pairs: list[tuple[int, int]]
) -> float:
    """Return the mean over pairs of Cover's probability, in as many dimensions as a pair's points span."""
    found = []
    for pair in pairs:
        chosen = points[np.isin(positions, pair)]
        found.append(chance_separability_cover(len(chosen), max(whitened(chosen).shape[1], 1)))
    return float(np.mean(found))
