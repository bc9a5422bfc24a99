"""One interval between two records, collapsed to the inner products that `lesde_infer.statistics` gathers."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from lesde_infer.common_growth import GrowthProducts
from lesde_infer.observed_noise import ObservedNoise
from lesde_infer.snapshots import ClassAverage, Snapshot
from lesde_infer.within_statistics import DeviationProducts


@dataclass(frozen=True)
class StratumProducts:
    """Inner products of one interval and stratum; see `lesde_infer.statistics.StratumStatistics`."""

    direction_square: Float[np.ndarray, " component"]
    direction_increment: Float[np.ndarray, " component"]
    increment_square: float
    feedback: Float[np.ndarray, " component"]


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
        n_steps: int,
        noise: tuple[ObservedNoise, ObservedNoise],
    ) -> "IntervalProducts":
        """Collapse the interval between two records over the samples that both hold, whose class average is given.

        The increments of contrasts and of the mean over classes are added to what is known of their ``noise``.
        """
        start_means, start_deviations = before.over(average, samples)
        stop_means, stop_deviations = after.over(average, samples)
        increment = stop_means - start_means
        mean = increment.mean(axis=0)
        contrast = increment - mean
        directions = before.directions
        contrasts = start_means - start_means.mean(axis=0)
        deviations = DeviationProducts.between(
            start_means, start_deviations, stop_deviations, before.pushes_over(average, samples)
        )
        noise[0].add(contrast, before.contrast, n_steps, contrasts)
        noise[1].add(mean, directions.shared.sum(axis=0), n_steps)
        start, end = before.contrast, after.contrast
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
                float((contrasts**2).sum()),
                float((contrasts * contrast).sum()),
                (directions.contrast * contrasts).sum(axis=(1, 2)),
                deviations.whole.log_size_growth,
            ),
            impact_f=before.impact_f,
            impact_products=(float(np.vdot(start, end)), float(np.vdot(start, start)), float(np.vdot(end, end))),
            n_samples=int(np.count_nonzero(samples)),
            moved=not before.equals(after, samples),
        )
