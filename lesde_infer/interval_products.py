"""One interval between two records, collapsed to the inner products that `lesde_infer.statistics` gathers."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from lesde_infer.class_average import ClassAverage
from lesde_infer.common_growth import GrowthProducts
from lesde_infer.deviation_sums import DeviationSums
from lesde_infer.impacts import IntervalDirections
from lesde_infer.observed_noise import ObservedNoise
from lesde_infer.snapshots import Snapshot
from lesde_infer.within_statistics import DeviationProducts


@dataclass(frozen=True)
class StratumProducts:
    """Inner products of one interval and stratum; see `lesde_infer.statistics.StratumStatistics`."""

    direction_square: Float[np.ndarray, " component"]
    direction_increment: Float[np.ndarray, " component"]
    increment_square: float
    feedback: Float[np.ndarray, " component"]


@dataclass(frozen=True)
class ClassMeanMovement:
    """How class means move over an interval, and what drives them: what their noise is told from.

    Attributes
    ----------
    contrasts, increment, impact : array, shape (class, feature)
        Contrasts between class means at its start, their increment, and the contrasts of the impact.
    mean_increment, mean_impact : array, shape (feature,)
        Increment of the mean over classes, and the direction in which impacts drive it.
    """

    contrasts: Float[np.ndarray, "class_ feature"]
    increment: Float[np.ndarray, "class_ feature"]
    impact: Float[np.ndarray, "class_ feature"]
    mean_increment: Float[np.ndarray, " feature"]
    mean_impact: Float[np.ndarray, " feature"]

    @classmethod
    def between(
        cls,
        start: Float[np.ndarray, "class_ feature"],
        stop: Float[np.ndarray, "class_ feature"],
        impact: Float[np.ndarray, "class_ feature"],
        mean_impact: Float[np.ndarray, " feature"],
    ) -> "ClassMeanMovement":
        """Return the movement from class means to class means."""
        increment = stop - start
        mean = increment.mean(axis=0)
        return cls(start - start.mean(axis=0), increment - mean, impact, mean, mean_impact)

    def add_to(self, noise: tuple[ObservedNoise, ObservedNoise], n_steps: int) -> None:
        """Add an interval of so many steps to what is known of the noise of contrasts and of the mean."""
        noise[0].add(self.increment, self.impact, n_steps, self.contrasts)
        noise[1].add(self.mean_increment, self.mean_impact, n_steps)


@dataclass(frozen=True)
class IntervalProducts:
    """Inner products of one interval."""

    contrast: StratumProducts
    shared: StratumProducts
    coordinates: Float[np.ndarray, "axis class_"]
    increments: Float[np.ndarray, "axis class_"]
    axis_feedback: Float[np.ndarray, " axis"]
    deviations: DeviationProducts
    growth: GrowthProducts
    impact_f: float
    impact_products: tuple[float, float, float]
    """Product of the contrasts of the impact at start and end, and their squares."""
    n_samples: int
    moved: bool

    @classmethod
    def between(
        cls,
        before: Snapshot,
        after: Snapshot,
        average: ClassAverage,
        samples: Bool[np.ndarray, " sample"],
    ) -> tuple["IntervalProducts", ClassMeanMovement]:
        """Collapse the interval between two records over the samples that both hold, whose class average is given."""
        first, last = before.over(average, samples), after.over(average, samples)
        directions = before.directions
        moved = ClassMeanMovement.between(first.means, last.means, directions.impact, directions.mean_impact)
        sums = DeviationSums(first, last, average, before.push_over(average, samples))
        n_samples = int(np.count_nonzero(samples))
        found = cls._of(directions, moved, after.contrast, sums.products(), before.impact_f, n_samples, sums.moved())
        return found, moved

    def along(
        self, directions: IntervalDirections, movement: ClassMeanMovement, end: Float[np.ndarray, "class_ feature"]
    ) -> "IntervalProducts":
        """Return the products of the interval with other directions; ``end`` are contrasts of the impact at its end."""
        return self._of(directions, movement, end, self.deviations, self.impact_f, self.n_samples, self.moved)

    @classmethod
    def _of(
        cls,
        directions: IntervalDirections,
        movement: ClassMeanMovement,
        end: Float[np.ndarray, "class_ feature"],
        deviations: DeviationProducts,
        impact_f: float,
        n_samples: int,
        moved: bool,
    ) -> "IntervalProducts":
        contrast, mean, start = movement.increment, movement.mean_increment, directions.impact
        return cls(
            contrast=StratumProducts(
                (directions.contrast**2).sum(axis=(1, 2)),
                (directions.contrast * contrast).sum(axis=(1, 2)),
                float((contrast**2).sum()),
                directions.contrast_feedback,
            ),
            shared=StratumProducts(
                (directions.shared**2).sum(axis=1),
                directions.shared @ mean,
                float((mean**2).sum()),
                directions.shared_feedback,
            ),
            coordinates=directions.coordinates.T,
            increments=directions.axes @ contrast.T,
            axis_feedback=directions.axis_feedback,
            deviations=deviations,
            growth=GrowthProducts(
                float((movement.contrasts**2).sum()),
                float((movement.contrasts * contrast).sum()),
                (directions.contrast * movement.contrasts).sum(axis=(1, 2)),
                deviations.whole.log_size_growth,
            ),
            impact_f=impact_f,
            impact_products=(float(np.vdot(start, end)), float(np.vdot(start, start)), float(np.vdot(end, end))),
            n_samples=n_samples,
            moved=moved,
        )
