"""Collapsed sufficient statistics: one pass over a recording, a handful of numbers per interval.

The drift of a sample depends on the sample only through κ(X − X̄), so the increments between two records
split, as in an analysis of variance, into three orthogonal strata: the mean over classes of the class
means (``shared``), the contrasts between class means (``contrast``), and the deviations of samples from
their class mean (``within``). In the first two, an interval's log density depends on the data only
through the inner products of the increments with the directions of `lesde_infer.impacts` and the
squared norm of the increments; in the third, through the least-squares growth rate of the deviations and
the residual variance. Fitting therefore costs the same for 300 and for 3,000,000 samples.

tests/lesde_infer/test_statistics.py holds the collapsed density against the density of all samples.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from data_tools.errors import InputError
from data_tools.recording import Recording
from lesde_infer.impacts import Impact
from lesde_infer.snapshots import Grouping, Snapshot, SnapshotReader

ROUNDING_MARGIN = 9.0  # squared sizes up to so many times that of rounding are rounding
PERSISTENCE_SHARE = 0.02  # of the record, before and after, over which persistence is averaged


@dataclass(frozen=True)
class StratumStatistics:
    """Inner products of increments and directions, one row an interval.

    Attributes
    ----------
    direction_square : array, shape (time, component)
        |uⱼ|², squared norm of each direction.
    direction_increment : array, shape (time, component)
        ⟨uⱼ, increment⟩.
    increment_square : array, shape (time,)
        Squared norm of the increment.
    feedback : array, shape (time, component)
        λⱼ of each direction (`lesde_infer.impacts`).
    dimension : int
        Number of dimensions the increment of the stratum can move in: p for the shared stratum, (K−1)p for contrasts.
    """

    direction_square: Float[np.ndarray, "time component"]
    direction_increment: Float[np.ndarray, "time component"]
    increment_square: Float[np.ndarray, " time"]
    feedback: Float[np.ndarray, "time component"]
    dimension: int


@dataclass(frozen=True)
class PatternStatistics:
    """What a matrix of elasticity needs of the contrasts, besides the squared norm of their increments.

    Attributes
    ----------
    coordinates : array, shape (time, axis, class)
        Coordinates of each class' impact along orthonormal axes of the impacts.
    increments : array, shape (time, axis, class)
        Increments of the contrasts between class means along the same axes; their sum over classes vanishes.
    feedback : array, shape (time, axis)
        λ along each axis (`lesde_infer.impacts`).
    """

    coordinates: Float[np.ndarray, "time axis class_"]
    increments: Float[np.ndarray, "time axis class_"]
    feedback: Float[np.ndarray, "time axis"]


@dataclass(frozen=True)
class WithinStatistics:
    """Growth and noise of the deviations from the class means, measured interval by interval.

    The stratum has (n − K)p dimensions, 10³ to 10⁹, so both are measured almost without error in each
    interval; what the model describes is how they scatter around smooth curves.

    Attributes
    ----------
    log_growth : array, shape (time,)
        log of the least-squares factor by which deviations grew over the interval (κ̂Δ).
    log_variance : array, shape (time,)
        log of the residual variance per dimension over the interval (of σ̂ᵢ²Δ), in squared feature units.
    log_growth_error : array, shape (time,)
        Standard error of the log growth.
    spread : array, shape (time,)
        Whether samples of a class differ by more than rounding; where not, nothing is measured.
    dimension : int
        (n − K)p.
    """

    log_growth: Float[np.ndarray, " time"]
    log_variance: Float[np.ndarray, " time"]
    log_growth_error: Float[np.ndarray, " time"]
    spread: Bool[np.ndarray, " time"]
    dimension: int

    @property
    def log_variance_error(self) -> float:
        """Standard error of the log variance: that of the log of a χ² variable, √(2/d)."""
        return float(np.sqrt(2.0 / self.dimension))


@dataclass(frozen=True)
class Statistics:
    """All that a fit needs of a recording.

    Attributes
    ----------
    impact, layer, group : str
        What the statistics are of.
    steps : array, shape (time + 1,)
        Optimizer steps done at each record.
    times : array, shape (time + 1,)
        Time of each record, in the recording's unit.
    class_sizes : array, shape (class,)
        Recorded samples per class.
    n_features : int
        Width of the layer.
    contrast, shared : StratumStatistics
        The two strata of class means.
    pattern : PatternStatistics
        What a matrix of elasticity needs besides.
    within : WithinStatistics
        The stratum of deviations.
    impact_f : array, shape (time,)
        F statistic of the impacts between classes against their scatter within: near 1 where class means
        of the impact differ by no more than the sampling of n probes explains.
    impact_persistence : array, shape (time,)
        Cosine between the contrasts of the impact at an interval's start and at its end, products and squares summed
        over neighbouring intervals: below 1 where residuals fluctuate and relax between records.
    mean_square : array, shape (time + 1,)
        Mean of all squared features at each record.
    rounding : array, shape (time,)
        Variance that the rounding of the stored numbers alone gives an increment of a feature.
    moved : array, shape (time,)
        Whether any feature of any sample changed at all. Where none did no step was taken, or one record was stored
        twice, and the interval tells nothing of what steps do.
    """

    impact: Impact
    layer: str
    group: Grouping
    steps: Int[np.ndarray, " record"]
    times: Float[np.ndarray, " record"]
    class_sizes: Int[np.ndarray, " class_"]
    n_features: int
    contrast: StratumStatistics
    shared: StratumStatistics
    pattern: PatternStatistics
    within: WithinStatistics
    impact_f: Float[np.ndarray, " time"]
    impact_persistence: Float[np.ndarray, " time"]
    mean_square: Float[np.ndarray, " record"]
    rounding: Float[np.ndarray, " time"]
    moved: Bool[np.ndarray, " time"]

    @property
    def mean_rounding(self) -> Float[np.ndarray, " time"]:
        """Variance that rounding alone gives one coordinate of a class mean's increment, on average over classes.

        Rounding of stored numbers averages out over samples, that of the averaging itself does not.
        """
        averaging = (4.0 * float(np.finfo(np.float64).eps)) ** 2 * (self.mean_square[1:] + self.mean_square[:-1])
        return self.rounding * float(np.mean(1.0 / self.class_sizes)) + averaging

    @property
    def driven(self) -> Bool[np.ndarray, " time"]:
        """Whether impacts of the classes differ at all: beyond rounding under I and L, beyond zero under R."""
        square = self.contrast.direction_square.sum(axis=1)
        least = 0.0 if self.impact == "R" else ROUNDING_MARGIN * self.contrast.dimension * self.mean_rounding
        return square > least

    @property
    def n_classes(self) -> int:
        """Number of classes K."""
        return len(self.class_sizes)

    @property
    def lengths(self) -> Float[np.ndarray, " time"]:
        """Length Δ of each interval, in units of time."""
        return np.diff(self.times)

    @property
    def n_steps(self) -> Int[np.ndarray, " time"]:
        """Optimizer steps in each interval."""
        return np.diff(self.steps)

    @property
    def midpoints(self) -> Float[np.ndarray, " time"]:
        """Midpoint of each interval, in units of time."""
        return (self.times[1:] + self.times[:-1]) / 2


def compute_statistics(
    recording: Recording, layer: str, impact: Impact, *, group: Grouping = "labels", until: int | None = None
) -> Statistics:
    """Collapse a recording to the sufficient statistics of the LE-SDE, in one pass over the file.

    Parameters
    ----------
    recording : Recording
        An open recording.
    layer : str
        The layer whose features are modelled.
    impact : {"I", "L", "R"}
        Impact, see `lesde_infer.impacts`.
    group : {"labels", "given_labels"}
        Which labels define the classes. Residuals always use the given labels, since the optimizer sees nothing else.
    until : int, optional
        Use records up to this optimizer step only.

    Raises
    ------
    InputError
        If the impact needs what the recording lacks, features are not finite, or fewer than two records remain.
    """
    steps = recording.steps if until is None else recording.steps[recording.steps <= until]
    if len(steps) < 2:
        limit = "" if until is None else f" up to step {until}"
        raise InputError(
            f"{recording.path}: {len(steps)} record(s){limit}: a fit needs at least two; record for longer"
        )
    reader = SnapshotReader(recording, layer, impact, group)
    intervals = []
    before = reader.read(0)
    mean_square = [before.mean_square]
    for record in range(1, len(steps)):
        after = reader.read(record)
        intervals.append(_Interval.between(before, after))
        mean_square.append(after.mean_square)
        before = after
    n_features, sizes = before.class_means.shape[1], reader.average.sizes
    n_dimensions = (int(sizes.sum()) - len(sizes)) * n_features
    squares = np.array(mean_square)
    rounding = _rounding_variance(squares, float(np.finfo(recording.features(layer).dtype).eps))
    return Statistics(
        impact=impact,
        layer=layer,
        group=group,
        steps=steps,
        times=recording.time[: len(steps)],
        class_sizes=sizes,
        n_features=n_features,
        contrast=_stack([interval.contrast for interval in intervals], (len(sizes) - 1) * n_features),
        shared=_stack([interval.shared for interval in intervals], n_features),
        pattern=PatternStatistics(
            coordinates=np.stack([interval.coordinates for interval in intervals]),
            increments=np.stack([interval.increments for interval in intervals]),
            feedback=np.stack([interval.axis_feedback for interval in intervals]),
        ),
        within=_within_statistics(np.array([interval.within for interval in intervals]), n_dimensions, rounding),
        impact_f=np.array([interval.impact_f for interval in intervals]),
        impact_persistence=_persistence(np.array([interval.impact_products for interval in intervals])),
        mean_square=squares,
        rounding=rounding,
        moved=np.array([interval.moved for interval in intervals]),
    )


def _rounding_variance(mean_square: Float[np.ndarray, " record"], relative: float) -> Float[np.ndarray, " time"]:
    """Variance of the difference of two numbers that were rounded: of each, uniform within half its last place."""
    return relative**2 / 12.0 * (mean_square[1:] + mean_square[:-1])


@dataclass(frozen=True)
class _Products:
    """Inner products of one interval and stratum; see `StratumStatistics`."""

    direction_square: Float[np.ndarray, " component"]
    direction_increment: Float[np.ndarray, " component"]
    increment_square: float
    feedback: Float[np.ndarray, " component"]


@dataclass(frozen=True)
class _Interval:
    """Inner products of one interval."""

    contrast: _Products
    shared: _Products
    coordinates: Float[np.ndarray, "axis class_"]
    increments: Float[np.ndarray, "axis class_"]
    axis_feedback: Float[np.ndarray, " axis"]
    within: tuple[float, float, float]
    """|deviations|², ⟨deviations, change⟩ and |change|²."""
    impact_f: float
    impact_products: tuple[float, float, float]
    """Product of the contrasts of the impact at start and end, and their squares."""
    moved: bool

    @classmethod
    def between(cls, before: Snapshot, after: Snapshot) -> "_Interval":
        increment = after.class_means - before.class_means
        mean = increment.mean(axis=0)
        contrast = increment - mean
        directions = before.directions
        change = after.deviations - before.deviations
        start, end = directions.contrast.sum(axis=0), after.directions.contrast.sum(axis=0)
        return cls(
            contrast=_Products(
                (directions.contrast**2).sum(axis=(1, 2)),
                (directions.contrast * contrast).sum(axis=(1, 2)),
                float((contrast**2).sum()),
                directions.contrast_feedback,
            ),
            shared=_Products(
                (directions.shared**2).sum(axis=1),
                directions.shared @ mean,
                float((mean**2).sum()),
                directions.shared_feedback,
            ),
            coordinates=directions.coordinates.T,
            increments=directions.axes @ contrast.T,
            axis_feedback=directions.axis_feedback,
            within=(
                float(np.vdot(before.deviations, before.deviations)),
                float(np.vdot(before.deviations, change)),
                float(np.vdot(change, change)),
            ),
            impact_f=before.impact_f,
            impact_products=(float(np.vdot(start, end)), float(np.vdot(start, start)), float(np.vdot(end, end))),
            moved=not before.equals(after),
        )


def _stack(products: list[_Products], dimension: int) -> StratumStatistics:
    return StratumStatistics(
        direction_square=np.stack([p.direction_square for p in products]),
        direction_increment=np.stack([p.direction_increment for p in products]),
        increment_square=np.array([p.increment_square for p in products]),
        feedback=np.stack([p.feedback for p in products]),
        dimension=dimension,
    )


def _persistence(products: Float[np.ndarray, "time 3"]) -> Float[np.ndarray, " time"]:
    """Cosine from sums over intervals nearby; 1 where impacts vanish."""
    reach = max(2, round(PERSISTENCE_SHARE * len(products)))
    nearby = np.ones(2 * reach + 1)  # sums of their own: differences of running totals would lose impacts that decay
    sums = np.stack([np.convolve(column, nearby)[reach : reach + len(products)] for column in products.T], axis=1)
    scale = np.sqrt(sums[:, 1]) * np.sqrt(sums[:, 2])
    return np.divide(sums[:, 0], scale, out=np.ones(len(products)), where=scale > 0)


def _within_statistics(
    products: Float[np.ndarray, "time 3"], dimension: int, rounding: Float[np.ndarray, " time"]
) -> WithinStatistics:
    """Least-squares growth of the deviations, and what it leaves, which is no less than rounding leaves.

    A change of sign of the deviations (a factor below zero) cannot be a growth; the factor is floored at 10⁻³ there.
    """
    square, product, change_square = products.T
    factor = np.divide(product, square, out=np.zeros_like(product), where=square > 0)
    residual = change_square - factor * product
    variance = np.maximum(residual / dimension, np.maximum(rounding, np.finfo(np.float64).tiny))
    growth = 1.0 + np.maximum(factor, -0.999)
    return WithinStatistics(
        log_growth=np.log(growth),
        log_variance=np.log(variance),
        log_growth_error=np.sqrt(variance / np.maximum(square, np.finfo(np.float64).tiny)) / growth,
        spread=square > ROUNDING_MARGIN * dimension * rounding,
        dimension=dimension,
    )
