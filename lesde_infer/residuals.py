"""Residuals of the cross-entropy, sample by sample, and the means over classes that impact R takes of them."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from lesde_infer.class_average import ClassAverage
from lesde_infer.impacts import Weights
from lesde_infer.sample_blocks import BLOCK, dot, inner_product, over_parts


def softmax(logits: Float[np.ndarray, "sample class_"]) -> Float[np.ndarray, "sample class_"]:
    """Softmax over the last axis, safe against overflow."""
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


@dataclass(frozen=True)
class Residuals:
    """Residuals e_given − softmax(logits) of a record.

    Attributes
    ----------
    deviations : array, shape (given class, sample)
        Residuals less the mean of their class.
    means : array, shape (class, given class)
        Class means.
    curvature : array, shape (given class, given class)
        C̄ of `lesde_infer.impacts.residual_directions`, classes weighted.
    f_statistic : float
        Between classes against within.
    """

    deviations: Float[np.ndarray, "given_class sample"]
    means: Float[np.ndarray, "class_ given_class"]
    curvature: Float[np.ndarray, "given_class given_class"]
    f_statistic: float

    @classmethod
    def of(
        cls,
        logits: Float[np.ndarray, "sample given_class"],
        given: Int[np.ndarray, " sample"],
        average: ClassAverage,
        weights: Weights,
    ) -> "Residuals":
        """Take the residuals of samples, given their logits, the classes they are trained as, and their averages."""
        n_samples, n_given = logits.shape
        share = (np.ones(len(average.sizes)) if weights is None else weights) / average.sizes / len(average.sizes)
        residuals = np.empty((n_given, n_samples))

        def take(part: slice) -> _Sums:
            # One row a class: NumPy sums fast along samples, not along a few classes.
            probabilities = np.array(logits[part].T, dtype=np.float64, order="C")
            probabilities -= probabilities.max(axis=0)
            np.exp(probabilities, out=probabilities)
            probabilities /= probabilities.sum(axis=0)
            own = residuals[:, part]
            np.negative(probabilities, out=own)
            # At the given class it is the sum of all other probabilities: 1 − s would round to 0 where s is near 1.
            target = given[part], np.arange(probabilities.shape[1])
            own[target] = 0.0
            own[target] = -own.sum(axis=0)
            scatter = inner_product(probabilities * share[average.groups[part]], probabilities.T)
            return _Sums(average.share_of(part, own.T), average.share_of(part, probabilities.T), scatter)

        found = over_parts(logits.shape, take, BLOCK)
        means, probability, scatter = (np.sum(sums, axis=0) for sums in zip(*found, strict=True))

        def centre(part: slice) -> float:
            own = residuals[:, part]
            own -= means.T[:, average.groups[part]]
            return sum(dot(row, row) for row in own)

        square = float(sum(over_parts(logits.shape, centre, BLOCK)))
        mean_probability = (share * average.sizes) @ probability
        return cls(residuals, means, np.diag(mean_probability) - scatter, average.f_of(means, square))


class _Sums(NamedTuple):
    residuals: Float[np.ndarray, "class_ given_class"]
    probabilities: Float[np.ndarray, "class_ given_class"]
    scatter: Float[np.ndarray, "given_class given_class"]
