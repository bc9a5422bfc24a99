"""Collapsed sufficient statistics: one pass over a recording, a handful of numbers per interval.

The drift of a sample depends on the sample only through κ(X − X̄), so the increments between two records
split, as in an analysis of variance, into three orthogonal strata: the mean over classes of the class
means (``shared``), the contrasts between class means (``contrast``), and the deviations of samples from
their class mean (``within``). In the first two, an interval's log density depends on the data only
through the inner products of the increments with the directions of `lesde_infer.impacts` and the
squared norm of the increments; in the third, through the least-squares growth rate of the deviations and
the residual variance, of all of them or by parts (`lesde_infer.within_statistics`). Fitting therefore costs
the same for 300 and for 3,000,000 samples.

tests/lesde_infer/test_statistics.py holds the collapsed density against the density of all samples.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from data_tools.errors import InputError
from data_tools.recording import Recording
from lesde_infer.blas_threads import single_threaded_blas
from lesde_infer.common_growth import GrowthStatistics
from lesde_infer.frequencies import class_frequencies
from lesde_infer.impacts import Impact
from lesde_infer.interval_products import StratumProducts
from lesde_infer.missing import MissingData
from lesde_infer.momentum import Drive, DriveChoice, momentum_filter
from lesde_infer.noise_directions import ClassMeanNoise
from lesde_infer.noise_memory import ALL_STAYS, NoiseMemory
from lesde_infer.observed_noise import ObservedNoise
from lesde_infer.persistence import interval_loss, over_two, persistence
from lesde_infer.probe_sampling import EndSampling, end_intervals
from lesde_infer.recorded_intervals import RecordedIntervals
from lesde_infer.reduced_intervals import ReducedIntervals
from lesde_infer.rounding import AVERAGING, ROUNDING_MARGIN, rounding_variance
from lesde_infer.row_ranges import Elsewhere
from lesde_infer.snapshots import Grouping
from lesde_infer.time_axis import TimeChoice, time_axis
from lesde_infer.within_statistics import PartStatistics, WithinStatistics, measure_parts, measure_whole


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
    effective_dimension : float
        Number of them that its noise moves in (`lesde_infer.noise_dimension`).
    """

    direction_square: Float[np.ndarray, "time component"]
    direction_increment: Float[np.ndarray, "time component"]
    increment_square: Float[np.ndarray, " time"]
    feedback: Float[np.ndarray, "time component"]
    dimension: int
    effective_dimension: float


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
class Statistics:
    """All that a fit needs of a recording.

    Attributes
    ----------
    impact, layer, group : str
        What the statistics are of.
    steps : array, shape (record,)
        Optimizer steps done at each record.
    times : array, shape (record,)
        Time of each record.
    time_unit : str
        Unit of time (`lesde_infer.time_axis`).
    starts, stops : array, shape (time,)
        Records at which each interval starts and stops. Intervals are those between one record and the next, less those
        that were dropped (`lesde_infer.missing`); without gaps they tile the record.
    class_sizes : array, shape (class,)
        Recorded samples per class.
    start_samples : array, shape (time,)
        Samples that the record at each interval's start holds.
    frequencies : array, shape (class,), or None
        Sampling frequencies π_l, by which impacts are weighted; None if balanced.
    drive : {"instantaneous", "filtered"}
        Whether impacts are filtered by the memory of momentum (`lesde_infer.momentum`).
    n_features : int
        Width of the layer.
    contrast, shared : StratumStatistics
        The two strata of class means.
    pattern : PatternStatistics
        What a matrix of elasticity needs besides.
    within : WithinStatistics
        The stratum of deviations, as one.
    parts : PartStatistics
        The same by parts, along and across the span of the class means.
    impact_f : array, shape (time,)
        F statistic of the impacts between classes against their scatter within: near 1 where class means
        of the impact differ by no more than the sampling of n probes explains.
    impact_persistence : array, shape (time,)
        Cosine between the contrasts of the impact at an interval's start and at its end, products and squares summed
        over neighbouring intervals: below 1 where residuals fluctuate and relax between records.
    interval_loss : array, shape (time,)
        Share of the γ of one step that increments over whole intervals miss for it (`lesde_infer.persistence`).
    missing : MissingData
        What was left out.
    gamma_sampling_error : float
        Standard error of γ at the end of the record over draws of the probe (`lesde_infer.probe_sampling`).
    mean_square : array, shape (time + 1,)
        Mean of all squared features at each record.
    rounding : array, shape (time,)
        Variance that the rounding of the stored numbers alone gives an increment of a feature.
    moved : array, shape (time,)
        Whether any feature of any sample changed at all. Where none did no step was taken, or one record was stored
        twice, and the interval tells nothing of what steps do.
    growth : GrowthStatistics or None
        How contrasts grow with deviations (`lesde_infer.common_growth`), for simulations.
    noise_memory : NoiseMemory
        How much of the noise of class means stays, for simulations.
    noise_directions, noise_all_around : ClassMeanNoise or None
        Along which directions it points, for simulations: across the impact, and all of it; None, and along all alike.
    """

    impact: Impact
    layer: str
    group: Grouping
    steps: Int[np.ndarray, " record"]
    times: Float[np.ndarray, " record"]
    time_unit: TimeChoice
    starts: Int[np.ndarray, " time"]
    start_samples: Int[np.ndarray, " time"]
    class_sizes: Int[np.ndarray, " class_"]
    frequencies: Float[np.ndarray, " class_"] | None
    drive: Drive
    n_features: int
    contrast: StratumStatistics
    shared: StratumStatistics
    pattern: PatternStatistics
    within: WithinStatistics
    parts: PartStatistics
    impact_f: Float[np.ndarray, " time"]
    impact_persistence: Float[np.ndarray, " time"]
    interval_loss: Float[np.ndarray, " time"]
    missing: MissingData
    gamma_sampling_error: float
    mean_square: Float[np.ndarray, " record"]
    rounding: Float[np.ndarray, " time"]
    moved: Bool[np.ndarray, " time"]
    growth: GrowthStatistics | None = None
    noise_memory: NoiseMemory = ALL_STAYS
    noise_directions: ClassMeanNoise | None = None
    noise_all_around: ClassMeanNoise | None = None

    @property
    def stops(self) -> Int[np.ndarray, " time"]:
        """Record at which each interval stops."""
        return self.starts + 1

    @property
    def mean_rounding(self) -> Float[np.ndarray, " time"]:
        """Variance that rounding alone gives one coordinate of a class mean's increment, on average over classes.

        Rounding of stored numbers averages out over samples, that of the averaging itself does not.
        """
        averaging = AVERAGING**2 * (self.mean_square[self.stops] + self.mean_square[self.starts])
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
        return self.times[self.stops] - self.times[self.starts]

    @property
    def n_steps(self) -> Int[np.ndarray, " time"]:
        """Optimizer steps in each interval."""
        return self.steps[self.stops] - self.steps[self.starts]

    @property
    def midpoints(self) -> Float[np.ndarray, " time"]:
        """Midpoint of each interval, in units of time."""
        return (self.times[self.stops] + self.times[self.starts]) / 2


@single_threaded_blas()
def compute_statistics(
    recording: Recording,
    layer: str,
    impact: Impact,
    *,
    group: Grouping = "labels",
    until: int | None = None,
    frequencies: Sequence[float] | None = None,
    time: TimeChoice = "recorded",
    drive: DriveChoice = "auto",
    cache: bool = True,
    elsewhere: Elsewhere | None = None,
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
    frequencies : sequence of float, optional
        π_l with which training draws the classes of the grouping; by default as recorded
        (`lesde_infer.frequencies`).
    time : {"recorded", "steps", "learning_rate"}
        Unit of time, see `lesde_infer.time_axis`.
    drive : {"auto", "instantaneous", "filtered"}
        Whether impacts are filtered by the memory of momentum, see `lesde_infer.momentum`.
    cache : bool
        Whether what is taken of a large recording is kept for the next time, see `lesde_infer.kept_rows`.
    elsewhere : callable, optional
        Measures ranges of the records of a large recording, see `lesde_infer.row_ranges`.

    Raises
    ------
    InputError
        If the impact needs what the recording lacks, features are infinite or NaN in part (samples that are missing as
        a whole are left out, `lesde_infer.missing`), or fewer than two records or no interval remain.
    """
    steps = recording.steps if until is None else recording.steps[recording.steps <= until]
    if len(steps) < 2:
        limit = "" if until is None else f" up to step {until}"
        raise InputError(
            f"{recording.path}: {len(steps)} record(s){limit}: a fit needs at least two; record for longer"
        )
    axis = time_axis(recording, time)
    times = axis.times[: len(steps)]
    shares = class_frequencies(recording, group, frequencies)
    momentum = momentum_filter(recording, drive, impact, steps)
    is_end = end_intervals((times[1:] + times[:-1]) / 2)
    source: RecordedIntervals | ReducedIntervals
    if recording.is_reduced:
        source = ReducedIntervals(recording, layer, impact, group, steps, times, shares, momentum)
    else:
        how: dict[str, Any] = {"cache": cache, "elsewhere": elsewhere, "wanted": (1 + np.flatnonzero(is_end)).tolist()}
        source = RecordedIntervals(recording, layer, impact, group, steps, times, shares, momentum, **how)
    sampling = EndSampling(source.groups, len(source.classes))
    intervals, starts, start_samples, two_apart = [], [], [], {}
    noise = ObservedNoise(), ObservedNoise()  # of contrasts, and of the mean over classes
    for found in source:
        intervals.append(found.products)
        starts.append(found.start)
        start_samples.append(found.start_samples)
        two_apart[found.start + 1] = found.two_apart
        found.movement.add_to(noise, int(steps[found.start + 1] - steps[found.start]))
        if is_end[found.start]:
            length = float(times[found.start + 1] - times[found.start])
            sampling.add(found.moved_along(), float((found.movement.impact**2).sum()), length)
    if source.ends_empty:
        for name in source.layers:
            recording.check_finite(name, until)  # training that diverged is not a gap at the end
    missing = source.missing()
    _require_intervals(recording, len(intervals), missing, source.classes)
    n_features, sizes = recording.features(layer).shape[2], source.sizes
    deviations = [interval.deviations for interval in intervals]
    degrees = np.array([interval.n_samples - len(sizes) for interval in intervals])
    products = np.array([interval.impact_products for interval in intervals])
    time_per_step = float((times[-1] - times[0]) / (steps[-1] - steps[0]))
    squares, precision = np.array(source.mean_square), float(np.finfo(recording.features(layer).dtype).eps)
    of_contrasts = (len(sizes) - 1) * n_features, (len(sizes), n_features)
    mean_directions = noise[1].directions(n_features, (n_features,))
    rounding = rounding_variance(squares[starts], squares[np.array(starts) + 1], precision)
    whole = measure_whole(deviations, degrees, rounding)
    return Statistics(
        impact=impact,
        layer=layer,
        group=group,
        steps=steps,
        times=times,
        time_unit=axis.unit,
        starts=np.array(starts),
        start_samples=np.array(start_samples),
        class_sizes=sizes,
        frequencies=shares,
        drive="instantaneous" if momentum is None else "filtered",
        n_features=n_features,
        contrast=_stack([interval.contrast for interval in intervals], (len(sizes) - 1) * n_features, noise[0]),
        shared=_stack([interval.shared for interval in intervals], n_features, noise[1]),
        pattern=PatternStatistics(
            coordinates=np.stack([interval.coordinates for interval in intervals]),
            increments=np.stack([interval.increments for interval in intervals]),
            feedback=np.stack([interval.axis_feedback for interval in intervals]),
        ),
        within=whole,
        parts=measure_parts(deviations, degrees, rounding),
        impact_f=np.array([interval.impact_f for interval in intervals]),
        impact_persistence=persistence(products),
        interval_loss=interval_loss(products, over_two(products, two_apart, np.array(starts), times)),
        missing=missing,
        gamma_sampling_error=sampling.error,
        mean_square=squares,
        rounding=rounding,
        moved=np.array([interval.moved for interval in intervals]),
        growth=GrowthStatistics.of(
            [interval.growth for interval in intervals],
            squares[starts] * len(sizes) * n_features,
            whole.spread,
            noise[0].shares_along(),
        ),
        noise_memory=NoiseMemory(*(own.memory(time_per_step) for own in noise)),
        noise_directions=ClassMeanNoise(noise[0].directions(*of_contrasts), mean_directions),
        noise_all_around=ClassMeanNoise(noise[0].all_around(*of_contrasts), mean_directions),
    )


def _require_intervals(
    recording: Recording, n_intervals: int, missing: MissingData, classes: Int[np.ndarray, " class_"]
) -> None:
    """Raise InputError where gaps leave no interval."""
    if n_intervals:
        return
    if missing.n_restarted_intervals:
        raise InputError(f"{recording.path}: no interval is left ({missing.sentence}); record for longer")
    if not missing.n_dropped_intervals:
        raise InputError(
            f"{recording.path}: no time passes between any two records (learning rate 0?); use --time steps"
        )
    lacking = int(np.argmax(missing.dropped_by_class))
    raise InputError(
        f"{recording.path}: no two records in a row hold the same two samples of each class: class {classes[lacking]} "
        f"lacks them in {missing.dropped_by_class[lacking]} of {missing.n_dropped_intervals} intervals; record again, "
        "or leave out what is missing from the probe"
    )


def _stack(products: list[StratumProducts], dimension: int, noise: ObservedNoise) -> StratumStatistics:
    return StratumStatistics(
        direction_square=np.stack([p.direction_square for p in products]),
        direction_increment=np.stack([p.direction_increment for p in products]),
        increment_square=np.array([p.increment_square for p in products]),
        feedback=np.stack([p.feedback for p in products]),
        dimension=dimension,
        effective_dimension=noise.dimension(dimension),
    )
