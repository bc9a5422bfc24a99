"""Are the classes separable? Exact answers for pairs of classes, and the accuracy of simple classifiers.

Two clouds of points are linearly separable if and only if their convex hulls do not meet. The question is put to three
methods, cheapest first, and each answer is a proof:

1. two directions that cost next to nothing (difference of means, linear discriminant): a verified gap proves
   separability;
2. non-negative least squares for "one point that is a convex combination of both clouds". A vanishing residual proves
   that the hulls meet; otherwise the residual is itself a separating direction (Farkas' lemma), and its gap is
   verified;
3. a linear program for the widest gap, for what rounding left open in 2.

Everything is computed in whitened coordinates of the pair, so the answer does not change if features are moved,
rotated, rescaled or mixed by an invertible linear map (up to rounding).
"""

import warnings
from dataclasses import dataclass
from itertools import combinations
from typing import cast

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.linalg import LinAlgWarning
from scipy.optimize import linprog, nnls
from scipy.special import gammaln, logsumexp
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold

from data_tools.errors import InputError

GAP_TOLERANCE = 1e-9
"""Classes count as separable if a hyperplane leaves a gap wider than this share of the range of all projections."""

WEAK_REGULARISATION = 1e3
"""scikit-learn's C: weight of the summed log loss against half the squared norm of the standardised weights."""

_NEWTON_LIMIT = 128
"""Number of logistic parameters up to which full Newton steps are cheaper than a quasi-Newton method."""


@dataclass(frozen=True)
class PairwiseSeparability:
    """Which pairs of classes a hyperplane separates.

    Attributes
    ----------
    pairs : int array (pair, 2)
        The two class labels of each pair, ascending.
    separable : bool array (pair,)
        Whether some hyperplane has all samples of one class strictly on one side and all of the other on the other.
    """

    pairs: Int[np.ndarray, "pair 2"]
    separable: Bool[np.ndarray, " pair"]

    @property
    def share(self) -> float:
        """Share of the pairs that are separable: the metric `linear_separability`."""
        return float(self.separable.mean())

    @property
    def all_pairs(self) -> bool:
        """Whether every pair is separable."""
        return bool(self.separable.all())


def checked_samples(
    features: np.ndarray, labels: np.ndarray
) -> tuple[Float[np.ndarray, "sample feature"], Int[np.ndarray, " sample"], Int[np.ndarray, " class_"]]:
    """Return features as float64, labels as integers 0..K−1 by position, and the sorted label of each position.

    Raises
    ------
    InputError
        If shapes do not fit together, a feature is not finite, or fewer than two classes are present.
    """
    points = np.asarray(features, dtype=np.float64)
    names = np.asarray(labels)
    if points.ndim != 2 or names.shape != points.shape[:1]:
        raise InputError(
            f"features must be (sample, feature) and labels (sample,), but have shapes {points.shape} and {names.shape}"
        )
    if not np.isfinite(points).all():
        row, column = np.argwhere(~np.isfinite(points))[0]
        raise InputError(
            f"features hold {points[row, column]} at sample {row}, feature {column}; leave that record out"
        )
    classes, positions = np.unique(names, return_inverse=True)
    if len(classes) < 2:
        raise InputError(f"labels name {len(classes)} class(es); separability and collapse need at least two")
    return points, positions, classes


def class_means(
    features: Float[np.ndarray, "sample feature"], positions: Int[np.ndarray, " sample"], n_classes: int
) -> Float[np.ndarray, "class_ feature"]:
    """Return the mean feature vector of each class, for class positions 0..K−1 that all occur."""
    return np.stack([features[positions == position].mean(axis=0) for position in range(n_classes)])


def pairwise_separable(
    features: Float[np.ndarray, "sample feature"], labels: Int[np.ndarray, " sample"]
) -> PairwiseSeparability:
    """Decide for each pair of classes whether a hyperplane separates it strictly.

    A pair counts as separable if some direction leaves a gap between the two classes wider than `GAP_TOLERANCE` of
    the range of all its projections; the direction is found and checked. Gaps narrower than about 1e-7 of the spread
    are decided by a linear program with a feasibility tolerance of 1e-10, and may be reported as closed.

    Parameters
    ----------
    features : float array (sample, feature)
    labels : int array (sample,)

    Returns
    -------
    PairwiseSeparability
        One entry for each of the K(K−1)/2 pairs.

    Raises
    ------
    InputError
        On shapes that do not fit, non-finite features, or fewer than two classes.
    """
    points, positions, classes = checked_samples(features, labels)
    clouds = [points[positions == position] for position in range(len(classes))]
    pairs = list(combinations(range(len(classes)), 2))
    separable = np.array([_separable(clouds[first], clouds[second]) for first, second in pairs])
    return PairwiseSeparability(pairs=classes[np.array(pairs)], separable=separable)


def linear_accuracy(features: Float[np.ndarray, "sample feature"], labels: Int[np.ndarray, " sample"]) -> float:
    """Return the accuracy, on the samples it was fitted to, of a multinomial logistic classifier.

    Features are standardised; the weights are regularised weakly (`WEAK_REGULARISATION`). Where a linear classifier
    without errors is known (two separable classes, or every sample nearest to its own class mean), the result is
    exactly 1, the limit of vanishing regularisation. With three classes or more, all pairs may be separable and yet
    no single linear classifier right about every sample.

    Raises
    ------
    InputError
        As `pairwise_separable`.
    """
    points, positions, classes = checked_samples(features, labels)
    if len(classes) == 2 and _separable(points[positions == 0], points[positions == 1]):
        return 1.0
    standardised = _standardise(points, points)
    if nearest_class_mean_accuracy(standardised, positions) == 1.0:
        return 1.0
    return float((_fit_logistic(standardised, positions).predict(standardised) == positions).mean())


def held_out_linear_accuracy(
    features: Float[np.ndarray, "sample feature"],
    labels: Int[np.ndarray, " sample"],
    *,
    n_folds: int = 5,
    seed: int = 0,
) -> float:
    """Return the cross-validated accuracy of the classifier of `linear_accuracy`.

    In many dimensions any labels are separable (see `chance_separability_cover`); this figure is not fooled by that.

    Raises
    ------
    InputError
        As `pairwise_separable`, or if a class has fewer samples than there are folds.
    """
    points, positions, _ = checked_samples(features, labels)
    smallest = int(np.bincount(positions).min())
    if not 2 <= n_folds <= smallest:
        raise InputError(f"n_folds is {n_folds}, but must lie between 2 and {smallest}, the size of the smallest class")
    n_right = 0
    for train, test in StratifiedKFold(n_folds, shuffle=True, random_state=seed).split(points, positions):
        model = _fit_logistic(_standardise(points[train], points[train]), positions[train])
        n_right += int((model.predict(_standardise(points[test], points[train])) == positions[test]).sum())
    return n_right / len(positions)


def nearest_class_mean(
    features: Float[np.ndarray, "sample feature"], means: Float[np.ndarray, "class_ feature"]
) -> Int[np.ndarray, " sample"]:
    """Return the position of the class mean nearest to each sample (the first of several equally near)."""
    centre = means.mean(axis=0)  # |x − m|² = |x|² − 2 x·m + |m|² loses digits unless the common offset is taken out
    centred = means - centre
    return np.argmax((features - centre) @ centred.T - 0.5 * (centred**2).sum(axis=1), axis=1)


def nearest_class_mean_accuracy(
    features: Float[np.ndarray, "sample feature"], labels: Int[np.ndarray, " sample"]
) -> float:
    """Return the share of samples nearer (Euclidean) to the mean of their own class than to any other class mean.

    Raises
    ------
    InputError
        As `pairwise_separable`.
    """
    points, positions, classes = checked_samples(features, labels)
    nearest = nearest_class_mean(points, class_means(points, positions, len(classes)))
    return float((nearest == positions).mean())


def network_predictions(logits: Float[np.ndarray, "sample class_"]) -> Int[np.ndarray, " sample"]:
    """Return the class each row of logits predicts (the first of several equally large).

    Raises
    ------
    InputError
        If logits are not a finite matrix of at least two columns.
    """
    scores = np.asarray(logits, dtype=np.float64)
    if scores.ndim != 2 or scores.shape[1] < 2:
        raise InputError(f"logits must be (sample, class) with at least two classes, but have shape {scores.shape}")
    if not np.isfinite(scores).all():
        row, column = np.argwhere(~np.isfinite(scores))[0]
        raise InputError(f"logits hold {scores[row, column]} at sample {row}, class {column}; leave that record out")
    return np.argmax(scores, axis=1)


def network_accuracy(logits: Float[np.ndarray, "sample class_"], labels: Int[np.ndarray, " sample"]) -> float:
    """Return the share of samples whose largest logit is that of their label (true or given, as passed).

    Raises
    ------
    InputError
        If shapes do not fit, a logit is not finite, or a label is not a column of the logits.
    """
    predicted = network_predictions(logits)
    targets = np.asarray(labels)
    if targets.shape != predicted.shape:
        raise InputError(f"{len(predicted)} rows of logits do not fit labels of shape {targets.shape}")
    n_columns = np.shape(logits)[1]
    if targets.size == 0 or targets.min() < 0 or targets.max() >= n_columns:
        raise InputError(f"labels must lie in 0..{n_columns - 1}, the columns of the logits")
    return float((predicted == targets).mean())


def chance_separability_cover(n_samples: int, n_features: int, *, log: bool = False) -> float:
    """Return the probability that random labels of n points in general position are linearly separable.

    Cover's function-counting theorem: of the 2^n ways to split n points in general position in p dimensions,
    hyperplanes (with offset) realise 2 Σ_{k=0}^{p} C(n−1, k). The probability is 1 for n ≤ p + 1 and 1/2 at
    n = 2(p + 1). Summed in logarithms, so that it neither over- nor underflows for 10⁵ samples.

    Parameters
    ----------
    n_samples, n_features : int
        Number of points (both classes together) and their dimension, both at least 1.
    log : bool
        Return the natural logarithm, which stays finite where the probability itself underflows.

    Raises
    ------
    InputError
        If a number is below 1.

    References
    ----------
    Cover (1965), IEEE Transactions on Electronic Computers EC-14(3), 326–334, equation 3 and theorem 1.
    """
    if n_samples < 1 or n_features < 1:
        raise InputError(f"Cover's theorem needs positive numbers, got {n_samples} samples and {n_features} features")
    chosen = np.arange(min(n_features, n_samples - 1) + 1)
    log_binomials = gammaln(n_samples) - gammaln(chosen + 1) - gammaln(n_samples - chosen)
    log_probability = min(0.0, float(logsumexp(log_binomials)) - (n_samples - 1) * np.log(2.0))
    if n_features >= n_samples - 1:
        log_probability = 0.0  # every split is possible; the sum above says so only up to rounding
    return log_probability if log else float(np.exp(log_probability))


def _separable(first: Float[np.ndarray, "a feature"], second: Float[np.ndarray, "b feature"]) -> bool:
    """Whether a hyperplane strictly separates two clouds of points."""
    points = np.concatenate([first, second])
    side = np.repeat([1.0, -1.0], [len(first), len(second)])
    if _leaves_gap((points - points.mean(axis=0)) @ (first.mean(axis=0) - second.mean(axis=0)), side):
        return True
    white = whitened(points)
    if white.shape[1] == 0:
        return False  # all points coincide
    if _leaves_gap(white @ (side @ white), side):  # linear discriminant: the covariance of white is the identity
        return True
    meet = _hulls_meet(white, side)
    if meet is not None:
        return not meet
    return _leaves_gap(white @ _widest_gap(white, side), side)


def _leaves_gap(scores: Float[np.ndarray, " sample"], side: Float[np.ndarray, " sample"]) -> bool:
    """Whether all scores on the positive side exceed all on the negative side by more than the tolerance."""
    gap = scores[side > 0].min() - scores[side < 0].max()
    return bool(gap > GAP_TOLERANCE * (scores.max() - scores.min()))


def whitened(points: Float[np.ndarray, "sample feature"]) -> Float[np.ndarray, "sample rank"]:
    """Return coordinates of the points within their affine span, with mean zero and unit covariance."""
    left, singular, _ = np.linalg.svd(points - points.mean(axis=0), full_matrices=False)
    # Centring leaves rounding errors of the size of the raw entries: directions as small as that are not data.
    floor = max(points.shape) * np.finfo(np.float64).eps * max(singular[0], np.abs(points).max())
    return left[:, singular > floor] * np.sqrt(len(points))


def _hulls_meet(white: Float[np.ndarray, "sample rank"], side: Float[np.ndarray, " sample"]) -> bool | None:
    """Prove that the convex hulls meet (True) or do not (False) by non-negative least squares; None if open.

    Minimise |A x − b| over x ≥ 0, where A x = (Σ₊ x_i z_i − Σ₋ x_i z_i, Σ₊ x_i, Σ₋ x_i) and b = (0, 1, 1).
    A residual of zero is a common point of both hulls. At the minimum Aᵀ(b − A x) ≤ 0, with equality where x > 0; so if
    the residual (g, u, v) is not zero, −g·z_i ≥ u on one side and −g·z_i ≤ −v on the other, and
    u + v = |residual|² > 0: −g separates.
    """
    system = np.vstack([(side[:, None] * white).T, side > 0, side < 0])
    target = np.append(np.zeros(white.shape[1]), [1.0, 1.0])
    try:
        weights, _ = nnls(system, target)
    except RuntimeError:  # too many iterations: leave it to the linear program
        return None
    residual = target - system @ weights
    if _leaves_gap(-white @ residual[:-2], side):
        return False
    # Rescaling both sums of weights to exactly 1 moves the common point by no more than this. Along a unit direction
    # the projections have variance 1, hence a range above 1, so the gap is below the tolerance in every direction.
    distance = np.linalg.norm(residual) * (1.0 + np.linalg.norm(white, axis=1).max())
    return True if 2.0 * distance < GAP_TOLERANCE else None


def _widest_gap(
    white: Float[np.ndarray, "sample rank"], side: Float[np.ndarray, " sample"]
) -> Float[np.ndarray, " rank"]:
    """Return the direction w that maximises t in side_i (w·z_i + c) ≥ t, |w_j| ≤ 1: zero if the hulls meet."""
    rank = white.shape[1]
    constraints = np.column_stack([-side[:, None] * white, -side, np.ones(len(white))])
    solution = linprog(
        np.append(np.zeros(rank + 1), -1.0),
        A_ub=constraints,
        b_ub=np.zeros(len(white)),
        bounds=[(-1.0, 1.0)] * rank + [(None, None), (0.0, None)],
        method="highs-ds",
        options={"primal_feasibility_tolerance": 1e-10, "dual_feasibility_tolerance": 1e-10},
    )
    if solution.x is None:  # w = 0 is feasible and t is bounded, so only a failed solver can end here
        raise ArithmeticError(f"the linear program for separability failed: {solution.message}")
    return solution.x[:rank]


def _standardise(
    points: Float[np.ndarray, "sample feature"], reference: Float[np.ndarray, "other feature"]
) -> Float[np.ndarray, "sample feature"]:
    """Return points with the reference's mean subtracted and divided by its standard deviation, where that is not 0."""
    spread = reference.std(axis=0)
    return (points - reference.mean(axis=0)) / np.where(spread > 0, spread, 1.0)


def _fit_logistic(
    standardised: Float[np.ndarray, "sample feature"], positions: Int[np.ndarray, " sample"]
) -> LogisticRegression:
    """Fit the multinomial logistic classifier; one that stopped early is a linear classifier all the same."""
    n_parameters = (standardised.shape[1] + 1) * (int(positions.max()) + 1)
    solver = "newton-cholesky" if n_parameters <= _NEWTON_LIMIT else "lbfgs"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        warnings.simplefilter("ignore", LinAlgWarning)  # separable classes: the Hessian fades as weights grow
        model = LogisticRegression(C=WEAK_REGULARISATION, solver=solver, max_iter=300)
        return cast(LogisticRegression, model.fit(standardised, positions))
