"""Averages over the samples of each class, and how samples scatter around them."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from lesde_infer.sample_blocks import blocks, dot, inner_product, over_parts, own_block

KEPT = 2e-5
"""Share of a sum of squares that is left when that of means is taken out, above which ten digits of it are left too."""


class Spread(NamedTuple):
    """Class means of features, the sum of all their squares, and that of their deviations from these means."""

    means: Float[np.ndarray, "class_ feature"]
    square: float
    deviation_square: float


class ClassAverage:
    """Averages over the samples of each class, as matrix products."""

    def __init__(self, groups: Int[np.ndarray, " sample"], n_classes: int) -> None:
        self.groups = groups
        self.sizes = np.bincount(groups, minlength=n_classes)
        self._indicator = np.zeros((n_classes, len(groups)))
        self._indicator[groups, np.arange(len(groups))] = 1.0
        self._indicator /= self.sizes[:, None]

    def __call__(self, values: Float[np.ndarray, "sample value"]) -> Float[np.ndarray, "class_ value"]:
        """Return the class means of ``values``."""
        return self._indicator @ values

    def share_of(self, samples: slice, values: Float[np.ndarray, "some value"]) -> Float[np.ndarray, "class_ value"]:
        """Return what some of the samples contribute to the class means."""
        return inner_product(self._indicator[:, samples], values)

    def spread(self, features: Float[np.ndarray, "sample feature"]) -> Spread:
        """Return class means, squares, and squares of deviations; not finite where features are not."""
        width = features.shape[1]

        def add(part: slice) -> tuple[np.ndarray, float]:
            means, square, buffer = np.zeros((len(self.sizes), width)), 0.0, own_block("values")
            with np.errstate(invalid="ignore", over="ignore"):  # samples may be missing
                for block in blocks(part, width):
                    values = buffer.of(features[block])
                    means += self.share_of(block, values)
                    square += dot(values, values)
            return means, square

        found = over_parts(features.shape, add)
        with np.errstate(invalid="ignore", over="ignore"):
            means = np.sum([part for part, _ in found], axis=0)
            square = float(sum(own for _, own in found))
            left = square - float(self.sizes @ (means**2).sum(axis=1))
        if not left >= KEPT * square:
            left = self.deviation_square(features, means) if np.isfinite(square) else np.nan
        return Spread(means, square, left)

    def deviation_square(
        self, features: Float[np.ndarray, "sample feature"], means: Float[np.ndarray, "class_ feature"]
    ) -> float:
        """Return the sum of the squares of deviations, one by one."""

        def add(part: slice) -> float:
            square, buffer = 0.0, own_block("values")
            for block in blocks(part, features.shape[1]):
                deviations = buffer.less(means[self.groups[block]], features[block])
                square += dot(deviations, deviations)
            return square

        return float(sum(over_parts(features.shape, add)))

    def f_statistic(self, values: Float[np.ndarray, "sample value"]) -> float:
        """Between-class mean square over within-class mean square, summed over components; 0 if both vanish."""
        means = self(values)
        return self.f_of(means, float(((values - means[self.groups]) ** 2).sum()))

    def f_of(self, means: Float[np.ndarray, "class_ value"], deviation_square: float) -> float:
        """Return the same from class means and the sum of the squares of deviations from them."""
        grand = self.sizes @ means / self.sizes.sum()
        between = (self.sizes[:, None] * (means - grand) ** 2).sum() / (len(self.sizes) - 1)
        within = deviation_square / (len(self.groups) - len(self.sizes))
        return float(between / within) if within > 0 else (np.inf if between > 0 else 0.0)
