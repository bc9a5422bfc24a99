"""What measured drifts say about elasticity, in plain NumPy.

The drift D (K, p) is the change of the class means of features per optimizer step, the impact h (K, p) the direction in
which training on each class pushes them; see `data_tools.elasticity` for how both are measured. The contrast of a
quantity with one row per class is the quantity minus its mean over classes.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import ArrayLike


def class_means(
    features: Float[np.ndarray, "sample feature"], classes: Int[np.ndarray, " sample"], n_classes: int
) -> Float[np.ndarray, "class_ feature"]:
    """Return the mean of the samples of each class in double precision; not a number for a class without samples."""
    features = np.asarray(features, dtype=np.float64)
    counts = np.bincount(classes, minlength=n_classes)[:, None]
    sums = np.eye(n_classes)[:, classes] @ features
    return np.divide(sums, counts, out=np.full_like(sums, np.nan), where=counts > 0)


def mean_residuals(
    logits: Float[np.ndarray, "sample class_"],
    given_labels: Int[np.ndarray, " sample"],
    classes: Int[np.ndarray, " sample"],
) -> Float[np.ndarray, "class_ class_"]:
    """Return r, for each class the mean of onehot(given label) − softmax(logits) over its samples, (K, K).

    It is the impact on logits; that on the layer which feeds a linear classifier of weight W (K, p) is r W.
    """
    logits = np.asarray(logits, dtype=np.float64)
    n_classes = logits.shape[1]
    from scipy.special import softmax  # here, since whoever opens a recording imports this module, and SciPy is slow

    return class_means(np.eye(n_classes)[given_labels] - softmax(logits, axis=1), classes, n_classes)


def contrasts(values: Float[np.ndarray, "*batch class_ feature"]) -> Float[np.ndarray, "*batch class_ feature"]:
    """Return the rows minus their mean over classes."""
    return values - values.mean(axis=-2, keepdims=True)


def separation_rate(
    drift: Float[np.ndarray, "*batch class_ feature"], impact: Float[np.ndarray, "*batch class_ feature"]
) -> Float[np.ndarray, "*batch"]:
    """Return γ_D = K ⟨contrast D, contrast h⟩ / |contrast h|², the effective separation rate of a drift, per step.

    With homogeneous elasticity, D_k = Σ_l E_kl h_l / K with α on the diagonal of E and β off it, it is α − β.

    Parameters
    ----------
    drift
        Change of the class means per step, (…, K, p).
    impact
        Class-mean impacts, (…, K, p).

    Returns
    -------
    numpy.ndarray
        (…); not a number where the impacts of all classes are equal.
    """
    direction = contrasts(np.asarray(impact, dtype=np.float64))
    inner = np.sum(np.asarray(drift, dtype=np.float64) * direction, axis=(-2, -1))
    return _divide(direction.shape[-2] * inner, np.sum(direction**2, axis=(-2, -1)))


@dataclass(frozen=True)
class SeparationRates:
    """Separation rates γ_D of single snapshots, and how to average them.

    Attributes
    ----------
    rate
        (S,) γ_D per step.
    standard_error
        (S,) from the repeats of the measurement; not a number with a single repeat.
    weight
        (S,) |contrast h|².
    """

    rate: Float[np.ndarray, " snapshot"]
    standard_error: Float[np.ndarray, " snapshot"]
    weight: Float[np.ndarray, " snapshot"]

    def pooled(self, chosen: ArrayLike | slice = slice(None)) -> tuple[float, float]:
        """Return the ratio of sums over chosen snapshots, and its standard error.

        That is Σ K⟨contrast D, contrast h⟩ / Σ |contrast h|², the mean of the rates by weight: what least squares on a
        log estimates. Snapshots count as independent; those without a rate are left out.
        """
        key = chosen if isinstance(chosen, slice) else np.asarray(chosen)
        rate, error, weight = self.rate[key], self.standard_error[key], self.weight[key]
        usable = np.isfinite(rate) & (weight > 0)
        total = weight[usable].sum()
        if total == 0:
            return float("nan"), float("nan")
        share = weight[usable] / total
        return float(share @ rate[usable]), float(np.sqrt(np.sum((share * error[usable]) ** 2)))


def mean_drift(
    onestep: Float[np.ndarray, "*batch class_from repeat class_to feature"],
    shares: Float[np.ndarray, " class_from"],
) -> tuple[Float[np.ndarray, "*batch class_to feature"], Float[np.ndarray, "*batch class_to feature"]]:
    """Return the mean one-step drift, and its standard error from the repeats.

    Parameters
    ----------
    onestep
        Change of the class means in each measured step, (…, F, R, K, p): F = K if the steps are stratified by the class
        of the sample stepped on, else 1.
    shares
        (F,) share π of each stratum in training.

    Returns
    -------
    drift, standard_error
        (…, K, p): D = Σ_l π_l m_l with m_l the mean over repeats, and √(Σ_l π_l² s_l² / R) with s_l their standard
        deviation; not a number if R = 1.
    """
    onestep = np.asarray(onestep, dtype=np.float64)
    n_repeats = onestep.shape[-3]
    drift = np.einsum("f,...fkp->...kp", shares, onestep.mean(axis=-3))
    if n_repeats < 2:
        return drift, np.full_like(drift, np.nan)
    variance = np.einsum("f,...fkp->...kp", np.square(shares), onestep.var(axis=-3, ddof=1)) / n_repeats
    return drift, np.sqrt(variance)


def onestep_separation_rates(
    onestep: Float[np.ndarray, "snapshot class_from repeat class_to feature"],
    impact: Float[np.ndarray, "snapshot class_to feature"],
    shares: Float[np.ndarray, " class_from"],
) -> SeparationRates:
    """Return γ_D of the one-step drift at each snapshot, with its standard error.

    γ_D is linear in D, so it is computed for every repeat, and mean and standard error are those of its repeats.

    Parameters
    ----------
    onestep, shares
        As for `mean_drift`.
    impact
        (S, K, p).
    """
    impact = np.asarray(impact, dtype=np.float64)
    per_repeat = separation_rate(onestep, impact[:, None, None])[..., None, None]
    rate, error = mean_drift(per_repeat, shares)
    weight = np.sum(contrasts(impact) ** 2, axis=(-2, -1))
    return SeparationRates(rate[..., 0, 0], error[..., 0, 0], weight)


def kernel_elasticity(
    change: Float[np.ndarray, "*batch class_from class_to feature"],
    impact: Float[np.ndarray, "*batch class_from feature"],
) -> Float[np.ndarray, "*batch class_to class_from"]:
    """Return E_kl = ⟨change of the mean of class k per step taken on class l, h_l⟩ / |h_l|².

    Parameters
    ----------
    change
        (…, K, K, p): first the class l that is stepped on, then the class k that moves.
    impact
        (…, K, p) impacts of the classes stepped on.

    Returns
    -------
    numpy.ndarray
        (…, K, K): E[…, k, l]; not a number for a class without impact.
    """
    impact = np.asarray(impact, dtype=np.float64)
    inner = np.einsum("...lkp,...lp->...kl", np.asarray(change, dtype=np.float64), impact)
    return _divide(inner, np.broadcast_to(np.sum(impact**2, axis=-1)[..., None, :], inner.shape))


def mean_diagonal(elasticity: Float[np.ndarray, "*batch class_ class_"]) -> Float[np.ndarray, "*batch"]:
    """Return α, the mean effect of a class on itself."""
    return np.einsum("...kk->...", elasticity) / elasticity.shape[-1]


def mean_off_diagonal(elasticity: Float[np.ndarray, "*batch class_ class_"]) -> Float[np.ndarray, "*batch"]:
    """Return β, the mean effect of a class on another."""
    n_classes = elasticity.shape[-1]
    return (elasticity.sum(axis=(-2, -1)) - np.einsum("...kk->...", elasticity)) / (n_classes * (n_classes - 1))


def small_step_ratio(
    onestep_drift: Float[np.ndarray, "*batch class_ feature"], tangent_drift: Float[np.ndarray, "*batch class_ feature"]
) -> Float[np.ndarray, "*batch"]:
    """Return how far a step is from the small-step limit, in which talk of tangent kernels is right.

    It is the coefficient ⟨contrast D, contrast D'⟩ / |contrast D'|² of the one-step drift D along the tangent drift D',
    (…): 1 in the limit, and below where real steps achieve less than linearisation promises.
    """
    direction = contrasts(np.asarray(tangent_drift, dtype=np.float64))
    inner = np.sum(np.asarray(onestep_drift, dtype=np.float64) * direction, axis=(-2, -1))
    return _divide(inner, np.sum(direction**2, axis=(-2, -1)))


def relative_similarity(
    moves: Float[np.ndarray, "stepped observed"],
    classes: Int[np.ndarray, " sample"],
    smallest_move: Float[np.ndarray, " sample"],
) -> Float[np.ndarray, " 2"]:
    """Return the mean relative similarity of pairs within a class and of pairs across classes.

    That of a pair is |f(x′, w⁺) − f(x′, w)| / |f(x, w⁺) − f(x, w)| after a step at x: an elastic network moves x′ less,
    the less it resembles x.

    Parameters
    ----------
    moves
        moves[i, j] = |f(x_j, w⁺) − f(x_j, w)| after a step at x_i.
    classes
        Class of each sample.
    smallest_move
        A step at x_i that moves x_i no further than this is lost in rounding, and left out.

    Returns
    -------
    numpy.ndarray
        (2,): within, across; not a number where no pair is left.

    References
    ----------
    H. He and W. J. Su, The local elasticity of neural networks, ICLR 2020. Code: github.com/HornHehhf/LocalElasticity
    """
    own = np.diag(moves)
    usable = own > smallest_move
    similarity = moves[usable] / own[usable, None]
    same = classes[usable, None] == classes
    pairs = ~np.eye(classes.size, dtype=bool)[usable]
    return np.array([_mean(similarity[pairs & same]), _mean(similarity[pairs & ~same])])


def _mean(values: Float[np.ndarray, " pair"]) -> float:
    return float(values.mean()) if values.size else float("nan")


def _divide(above: Float[np.ndarray, "*batch"], below: Float[np.ndarray, "*batch"]) -> Float[np.ndarray, "*batch"]:
    above, below = np.broadcast_arrays(above, below)
    return np.divide(above, below, out=np.full(above.shape, np.nan), where=below != 0)
