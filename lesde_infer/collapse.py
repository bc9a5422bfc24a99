"""Neural collapse: how tight the classes are, and how close their means are to a simplex equiangular tight frame.

Notation: m_k is the mean of class k, Σ_k its covariance (average over its samples), w_k its weight: 1/K by default
(`weights="class"`), or its share n_k/n of the samples (`weights="sample"`). Then

    centre c = Σ_k w_k m_k,    Σ_W = Σ_k w_k Σ_k,    Σ_B = Σ_k w_k (m_k − c)(m_k − c)ᵀ.

With unbalanced classes the two choices differ; with class weights the centre is the plain mean of class means, and
small classes count as much as large ones. No p × p matrix is ever formed: memory grows as n·p, time as n·p·K.

Quantities that a recording does not define are NaN, each function says when; wrong input raises `InputError`.

References
----------
Papyan, Han, Donoho (2020), Prevalence of neural collapse during the terminal phase of deep learning training, PNAS
117(40), 24652–24663. Public codes differ in factors and squares; what is computed here is written out per function.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
from jaxtyping import Float, Int

from data_tools.errors import InputError
from lesde_infer.separability import checked_samples, class_means, nearest_class_mean

Weights: TypeAlias = Literal["class", "sample"]
CollapseVariant: TypeAlias = Literal["per_class", "papyan", "quotient"]


@dataclass(frozen=True)
class BetweenClassSpectrum:
    """Eigenvalues and eigenvectors of Σ_B, of which at most K−1 are not zero.

    Attributes
    ----------
    values : float array (component,)
        The min(K−1, p) largest eigenvalues, in descending order, in squared units of the features.
    directions : float array (feature, component)
        Their orthonormal eigenvectors.
    effective_rank : int
        Number of eigenvalues above rounding error.
    condition : float
        Ratio of the largest eigenvalue to the (K−1)-th; infinite if the effective rank is below K−1.
    """

    values: Float[np.ndarray, " component"]
    directions: Float[np.ndarray, "feature component"]
    effective_rank: int
    condition: float


class Equiangularity(NamedTuple):
    """Mean and standard deviation, over pairs of classes, of |cosine + 1/(K−1)|."""

    mean: float
    sd: float


class _Classes(NamedTuple):
    """What every measure needs: residuals from class means, centred class means, class weights, class positions."""

    residuals: Float[np.ndarray, "sample feature"]
    centred: Float[np.ndarray, "class_ feature"]
    weights: Float[np.ndarray, " class_"]
    positions: Int[np.ndarray, " sample"]
    rounding: float
    """Size of rounding errors in the centred means, which comes from the size of the raw features."""


def between_class_spectrum(
    features: Float[np.ndarray, "sample feature"], labels: Int[np.ndarray, " sample"], *, weights: Weights = "class"
) -> BetweenClassSpectrum:
    """Return the eigen-decomposition of Σ_B, through the singular values of the K × p matrix of weighted class means.

    Squared singular values are the eigenvalues of the K × K Gram matrix too, but eigenvalues of the Gram matrix lose
    all digits below 10⁻¹⁶ of the largest, singular values only below 10⁻³²: classes about to merge stay measurable.

    Raises
    ------
    InputError
        On shapes that do not fit, non-finite features, or fewer than two classes.
    """
    return _spectrum(_classes(features, labels, weights))


def nc1(
    features: Float[np.ndarray, "sample feature"],
    labels: Int[np.ndarray, " sample"],
    variant: CollapseVariant = "per_class",
    *,
    weights: Weights = "class",
) -> float:
    """Return within-class variability relative to between-class variability; 0 is complete collapse.

    - ``"per_class"``: tr(Σ_W Σ_B⁺)/K, the metric `nc1`;
    - ``"papyan"``: tr(Σ_W Σ_B⁺), as in the code published with Papyan et al. (2020);
    - ``"quotient"``: tr Σ_W / tr Σ_B, which needs no inverse.

    With Σ_B = U diag(λ) Uᵀ the trace is Σ_j (u_jᵀ Σ_W u_j)/λ_j, so K−1 projections of each sample are enough. The
    rank is fixed at K−1 and never guessed from rounding: where class means do not span K−1 directions (p < K−1,
    coinciding or collinear class means), the first two variants are NaN; the quotient is NaN if all means coincide.

    Raises
    ------
    InputError
        As `between_class_spectrum`, or for an unknown variant.
    """
    if variant not in ("per_class", "papyan", "quotient"):
        raise InputError(f"unknown variant {variant!r} of NC1; choose per_class, papyan or quotient")
    classes = _classes(features, labels, weights)
    if variant == "quotient":
        return _variance_ratio(classes)
    spectrum = _spectrum(classes)
    n_classes = len(classes.centred)
    if spectrum.effective_rank < n_classes - 1:
        return float("nan")
    trace = _within(classes, classes.residuals @ (spectrum.directions / np.sqrt(spectrum.values)))
    return trace / n_classes if variant == "per_class" else trace


def between_norm(
    features: Float[np.ndarray, "sample feature"], labels: Int[np.ndarray, " sample"], *, weights: Weights = "class"
) -> float:
    """Return √tr Σ_B, the root mean square norm of the centred class means, in units of the features.

    Raises
    ------
    InputError
        As `between_class_spectrum`.
    """
    classes = _classes(features, labels, weights)
    return float(np.sqrt(classes.weights @ (classes.centred**2).sum(axis=1)))


def within_between_ratio(
    features: Float[np.ndarray, "sample feature"], labels: Int[np.ndarray, " sample"], *, weights: Weights = "class"
) -> float:
    """Return √(tr Σ_W / tr Σ_B): typical distance from the class mean over `between_norm`; NaN if all means coincide.

    Raises
    ------
    InputError
        As `between_class_spectrum`.
    """
    return float(np.sqrt(_variance_ratio(_classes(features, labels, weights))))


def nc2_equinorm(features: Float[np.ndarray, "sample feature"], labels: Int[np.ndarray, " sample"]) -> float:
    """Return the coefficient of variation (population sd / mean) of the norms of centred class means; 0 for a simplex.

    NaN if all class means coincide. The centre is the plain mean of class means.

    Raises
    ------
    InputError
        As `between_class_spectrum`.
    """
    classes = _classes(features, labels, "class")
    norms = np.linalg.norm(classes.centred, axis=1)
    return float(norms.std() / norms.mean()) if norms.max() > classes.rounding else float("nan")


def nc2_equiangular(
    features: Float[np.ndarray, "sample feature"], labels: Int[np.ndarray, " sample"]
) -> Equiangularity:
    """Return mean and sd over class pairs of |cos(m_k − c, m_l − c) + 1/(K−1)|; both 0 for a simplex.

    NaN if a class mean coincides with the centre, where an angle is not defined. For K = 2 it is always 0.

    Raises
    ------
    InputError
        As `between_class_spectrum`.
    """
    classes = _classes(features, labels, "class")
    norms = np.linalg.norm(classes.centred, axis=1)
    if norms.min() <= classes.rounding:
        return Equiangularity(float("nan"), float("nan"))
    n_classes = len(norms)
    directions = classes.centred / norms[:, None]
    cosines = (directions @ directions.T)[np.triu_indices(n_classes, k=1)]
    deviations = np.abs(cosines + 1.0 / (n_classes - 1))
    return Equiangularity(float(deviations.mean()), float(deviations.std()))


def nc3(
    features: Float[np.ndarray, "sample feature"],
    labels: Int[np.ndarray, " sample"],
    classifier_weight: Float[np.ndarray, "class_ feature"],
    *,
    squared: bool = False,
) -> float:
    """Return the distance |W/|W| − M/|M|| (Frobenius norms) of classifier and centred class means; 0 is self-duality.

    It lies between 0 and 2. NaN if all class means coincide or W is zero. The classifier is not centred.

    Parameters
    ----------
    features : float array (sample, feature)
        Features the classifier acts on.
    labels : int array (sample,)
        Values 0..K−1, all present: row k of the classifier belongs to label k.
    classifier_weight : float array (class, feature)
        W of logits = W x + b.
    squared : bool
        Return the squared distance, as the code of Papyan et al. (2020) does.

    Raises
    ------
    InputError
        As `between_class_spectrum`, or if the classifier does not fit the features or the labels.
    """
    classes = _classes(features, labels, "class")
    weight = np.asarray(classifier_weight, dtype=np.float64)
    if weight.shape != classes.centred.shape or not np.array_equal(np.unique(labels), np.arange(len(weight))):
        raise InputError(
            f"NC3 needs a classifier of shape (class, feature) = {classes.centred.shape} and labels 0..K−1 that all "
            f"occur; the classifier has shape {weight.shape} and labels run from {np.min(labels)} to {np.max(labels)}"
        )
    norm_weight, norm_means = np.linalg.norm(weight), np.linalg.norm(classes.centred)
    if norm_weight == 0.0 or norm_means <= classes.rounding:
        return float("nan")
    distance = float(np.linalg.norm(weight / norm_weight - classes.centred / norm_means))
    return distance**2 if squared else distance


def nc4(
    features: Float[np.ndarray, "sample feature"],
    labels: Int[np.ndarray, " sample"],
    network_predictions: Int[np.ndarray, " sample"],
) -> float:
    """Return the share of samples where the network's own prediction is not the label of the nearest class mean.

    Parameters
    ----------
    features : float array (sample, feature)
    labels : int array (sample,)
        They decide the class means; whether a prediction is right does not matter here.
    network_predictions : int array (sample,)
        Labels the network predicts (with its bias).

    Raises
    ------
    InputError
        As `between_class_spectrum`, or if there is not one prediction for each sample.
    """
    points, positions, names = checked_samples(features, labels)
    predicted = np.asarray(network_predictions)
    if predicted.shape != positions.shape:
        raise InputError(f"{len(positions)} samples do not fit network predictions of shape {predicted.shape}")
    nearest = nearest_class_mean(points, class_means(points, positions, len(names)))
    return float((names[nearest] != predicted).mean())


def _classes(features: np.ndarray, labels: np.ndarray, weights: Weights) -> _Classes:
    if weights not in ("class", "sample"):
        raise InputError(f"unknown weights {weights!r}; choose class (every class alike) or sample (by class size)")
    points, positions, names = checked_samples(features, labels)
    n_classes = len(names)
    means = class_means(points, positions, n_classes)
    shares = np.bincount(positions) / len(positions) if weights == "sample" else np.full(n_classes, 1.0 / n_classes)
    rounding = 8.0 * np.finfo(np.float64).eps * np.sqrt(points.shape[1]) * float(np.abs(points).max())
    return _Classes(points - means[positions], means - shares @ means, shares, positions, rounding)


def _spectrum(classes: _Classes) -> BetweenClassSpectrum:
    n_components = min(len(classes.centred) - 1, classes.centred.shape[1])
    weighted = np.sqrt(classes.weights)[:, None] * classes.centred
    _, singular, transposed = np.linalg.svd(weighted, full_matrices=False)
    singular = singular[:n_components]
    floor = max(classes.rounding, max(weighted.shape) * np.finfo(np.float64).eps * singular[0])
    rank = int((singular > floor).sum())
    full = rank == len(classes.centred) - 1
    condition = float((singular[0] / singular[-1]) ** 2) if full else float("inf")
    return BetweenClassSpectrum(singular**2, transposed[:n_components].T, rank, condition)


def _within(classes: _Classes, residuals: Float[np.ndarray, "sample component"]) -> float:
    """Trace of the within-class covariance of residuals (in any coordinates), averaged by the class weights."""
    sizes = np.bincount(classes.positions)
    return float((classes.weights / sizes)[classes.positions] @ np.einsum("ij,ij->i", residuals, residuals))


def _variance_ratio(classes: _Classes) -> float:
    """Return tr Σ_W / tr Σ_B, NaN if all class means coincide."""
    norms = np.linalg.norm(classes.centred, axis=1)
    if norms.max() <= classes.rounding:
        return float("nan")
    return _within(classes, classes.residuals) / float(classes.weights @ norms**2)
