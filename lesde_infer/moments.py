r"""The paper's point estimators of elasticity, from class means alone, for any number of classes.

With A(t) = ∫α and B(t) = ∫β from the first record on, both models have closed forms (`lesde_infer.impacts`, where rates
are constant over an interval; intervals multiply, so that integrals take the place of rates times lengths).

**I model.** Class means drift by (1/K)(α X̄ᵏ + β Σ_{l≠k} X̄ˡ). Their mean c̄ over classes therefore grows at
(α + (K−1)β)/K and each contrast cₖ = X̄ᵏ − c̄ at (α − β)/K, in every coordinate:

    c̄(t)/c̄(0) = exp((A + (K−1)B)/K),     cₖ(t)/cₖ(0) = exp((A − B)/K)
    ⇒  Â = log c̄(t)/c̄(0) + (K−1) log cₖ(t)/cₖ(0),     B̂ = log c̄(t)/c̄(0) − log cₖ(t)/cₖ(0),

logs averaged over coordinates and classes.

**L model.** Only the amplitudes aₖ = dₖ·X̄ᵏ, dₖ = eₖ − 1/K, feed back: daₖ/dt = (1/K)(α aₖ − β/(K−1) Σ_{l≠k} aₗ), since
dₖ·dₗ/|dₗ|² = −1/(K−1). Their mean ā, the projection of the stacked class means on the stacked dₖ, grows at (α − β)/K,
and deviations δₖ = aₖ − ā, the orthogonal spread, at (α + β/(K−1))/K. With A₁ = K log ā(t)/ā(0) = A − B and
A₂ = K log |δ(t)|/|δ(0)| = A + B/(K−1), |δ| the Euclidean norm over classes,

    Â = (A₁ + (K−1)A₂)/K,     B̂ = (A₂ − A₁)(K−1)/K.

The published code is written out for K = 3 and takes the spread from δ₁ + δ₂ = −δ₃ alone, so it depends on the order of
the classes; the norm does not.

**Rates.** α̂ = dÂ/dt and β̂ = dB̂/dt by a Savitzky–Golay filter, per unit of the recording's time.

**Tail index.** r̂ = 1 − mean of log Â(t)/log t over the last 1,000 steps, or over the last tenth of a record shorter
than 10,000 steps; t counts optimizer steps since the first record. Â = t^(1−r) has index r; Â = C t^(1−r) has index
r − log C/log t. Where Â is negative on most of these steps the index is that of −Â.

**Signs.** No path of the LE-ODE changes the sign of a ratio above; class means of real networks do, many times, since
those of a network at its start are small accidents. As in the paper's code, logs are then of sizes.
`Moments.reversed_share` says at which records, and how many ratios, were negative, `Moments.notes` says it in words,
and ``numpy.where(moments.reversed_share > 0, numpy.nan, moments.A)`` drops those records. A ratio that is undefined
(its mean vanishes at the first record within rounding, or exactly later) is left out of the average at all records and
counted; where all are, the layer is refused.

**Invariances.** Both estimates ignore a scaling of the features, the order of the samples and the order of the classes
(under L with that of the logits). Where the I model holds exactly, Â and B̂ ignore rotations of the features too; where
it does not, averaging logs over coordinates depends on the axes. Stretching time leaves Â and B̂ and scales α̂ and β̂.

**Against the posterior.** Why the two differ is on the page docs/moments.md: the impact (R by default there), the
noise, which is in Â here and not in α there, the first class means, by which all is divided here, and the tail index,
which is one of ∫α here and of γ(t) there (`lesde_infer.posterior.tail_index`).

tests/lesde_infer/test_moments.py checks closed forms (``TestClosedForms``, ``TestTailIndex``), invariances
(``TestInvariances``), intervals (``TestBootstrap``) and real recordings (``test_real_recordings_*``).

References
----------
Zhang, Wang and Su, "Imitating Deep Learning Dynamics via Locally Elastic Stochastic Differential Equations",
NeurIPS 2021, arXiv 2110.05960, sections 2 to 4. Code: https://github.com/zjiayao/le_sde (data_analyzer.py).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, get_args

import numpy as np
from jaxtyping import Float, Int

from data_tools.errors import InputError
from lesde_infer.class_means import ClassMeans, Grouping, Source, read_class_means
from lesde_infer.moment_ratios import MomentImpact, TailIndex, integrals, tail_index
from lesde_infer.smoothing import EvenGrid, even_grid, slopes, window_length

WINDOW = 151  # steps: the paper's on GeoMNIST (10,000 steps); on CIFAR-10 (30,000 steps) it takes 551
ORDER = 2
N_RESAMPLES = 500
MINIMAL_DEFINED = 0.95  # share of resamples that must define a number for it to have an interval


class Band(NamedTuple):
    """Central 90 % interval over resampled runs, by percentiles; NaN where too few resamples define the number.

    Attributes
    ----------
    q05, q95 : arrays, with the shape of what they are about
        5 % and 95 % percentile.
    """

    q05: Float[np.ndarray, "*shape"]
    q95: Float[np.ndarray, "*shape"]


@dataclass(frozen=True)
class MomentIntervals:
    """Bootstrap intervals over runs.

    Attributes
    ----------
    A, B : Band, shape (record,)
        Of Â and B̂ at the records.
    alpha, beta : Band, shape (grid,)
        Of α̂ and β̂ on the grid.
    tail_index_alpha, tail_index_beta : Band, shape ()
        Of the tail indices.
    n_resamples : int
        Number of resamples.
    """

    A: Band
    B: Band
    alpha: Band
    beta: Band
    tail_index_alpha: Band
    tail_index_beta: Band
    n_resamples: int

    def to_json(self) -> dict[str, Any]:
        """Return the intervals of the numbers at the end, and of the curves, as plain numbers and lists."""
        bands = {
            "A_end": Band(self.A.q05[-1], self.A.q95[-1]),
            "B_end": Band(self.B.q05[-1], self.B.q95[-1]),
            "tail_index_alpha": self.tail_index_alpha,
            "tail_index_beta": self.tail_index_beta,
            **{name: getattr(self, name) for name in ("A", "B", "alpha", "beta")},
        }
        plain = {name: {"q05": band.q05.tolist(), "q95": band.q95.tolist()} for name, band in bands.items()}
        return {"n_resamples": self.n_resamples, **plain}


@dataclass(frozen=True)
class Moments:
    """The paper's estimates for one or several runs.

    Attributes
    ----------
    impact, layer, group : str
        Model, layer, and grouping into classes.
    n_runs, n_classes : int
        Runs that were averaged, and K.
    steps : array, shape (record,)
        Optimizer steps of the records.
    A, B : array, shape (record,)
        Â and B̂, the integrals of α and β since the first record, dimensionless; NaN where no ratio is defined.
    grid_steps : array, shape (grid,)
        Optimizer steps at which rates are given.
    alpha, beta : array, shape (grid,)
        α̂ and β̂, per unit of the recordings' time.
    window : int
        Points of the grid in the smoothing window.
    tail_index_alpha, tail_index_beta : TailIndex
        Tail indices.
    reversed_share : array, shape (record,)
        Share of ratios to the first record that are negative, whose size alone was used.
    n_ratios, n_left_out : int
        Ratios that the estimate averages or compares, and those of them that are undefined and were left out.
    intervals : MomentIntervals or None
        Bootstrap intervals over runs; None for a single run.
    notes : tuple of str
        What to doubt, in words.
    """

    impact: MomentImpact
    layer: str
    group: Grouping
    n_runs: int
    n_classes: int
    steps: Int[np.ndarray, " record"]
    A: Float[np.ndarray, " record"]
    B: Float[np.ndarray, " record"]
    grid_steps: Float[np.ndarray, " grid"]
    alpha: Float[np.ndarray, " grid"]
    beta: Float[np.ndarray, " grid"]
    window: int
    tail_index_alpha: TailIndex
    tail_index_beta: TailIndex
    reversed_share: Float[np.ndarray, " record"]
    n_ratios: int
    n_left_out: int
    intervals: MomentIntervals | None
    notes: tuple[str, ...]

    def ends(self) -> dict[str, float]:
        """Return ``A_end``, ``B_end`` (at the last record), ``tail_index_alpha`` and ``tail_index_beta``."""
        return {
            "A_end": float(self.A[-1]),
            "B_end": float(self.B[-1]),
            "tail_index_alpha": self.tail_index_alpha.value,
            "tail_index_beta": self.tail_index_beta.value,
        }

    def to_json(self) -> dict[str, Any]:
        """Return estimates, intervals, curves and notes as plain numbers, strings and lists; NaN is undefined."""
        return {
            **self.ends(),
            "reversed_share": float(self.reversed_share.mean()),
            "notes": list(self.notes),
            "intervals": None if self.intervals is None else self.intervals.to_json(),
            "window_points": self.window,
            "curves": {
                name: getattr(self, name).tolist() for name in ("steps", "A", "B", "grid_steps", "alpha", "beta")
            },
        }


def estimate_moments(
    recordings: Source | Sequence[Source] | ClassMeans,
    layer: str | None = None,
    impact: MomentImpact = "I",
    group: Grouping = "labels",
    window: int = WINDOW,
    order: int = ORDER,
    *,
    until: int | None = None,
    n_resamples: int = N_RESAMPLES,
    seed: int = 0,
) -> Moments:
    """Estimate ∫α, ∫β, α, β and tail indices as the paper does, with intervals over runs.

    Class means are averaged over the samples of a run, and over runs (each run counting alike), before any ratio is
    taken. See the module's docstring for the equations, and for what becomes of ratios that are negative or undefined.

    Parameters
    ----------
    recordings : recording, path, a sequence of them, or ClassMeans
        One run, or several of the same steps. With ``ClassMeans``, `layer`, `group` and `until` are theirs already.
    layer : str, optional
        Layer; the logits by default.
    impact : {"I", "L"}
        Model; ``L`` takes as many features as classes.
    group : {"labels", "given_labels"}
        Classes by what samples are, or by what they are trained as (the paper's).
    window : int
        Length of the smoothing window in optimizer steps. In points of the grid (`lesde_infer.smoothing`) it is rounded
        to an odd number, raised to `order` + 3 at least, and cut to the length of the grid.
    order : int
        Degree of the smoothing polynomial.

    Other Parameters
    ----------------
    until : int, optional
        Use records up to this optimizer step.
    n_resamples : int
        Bootstrap resamples of runs, with replacement.
    seed : int
        Seed of the resampling.

    Raises
    ------
    InputError
        If recordings cannot be read or averaged, `impact` is not for the layer, there are too few records to smooth, or
        class means coincide at the first record, or never move.
    """
    if impact not in get_args(MomentImpact):
        raise InputError(f"impact '{impact}' is unknown here; choose one of {', '.join(get_args(MomentImpact))}")
    if window < 1 or order < 1 or n_resamples < 1 or seed < 0:
        raise InputError(
            f"window {window}, order {order}, n_resamples {n_resamples} and seed {seed}: the first three must be "
            "at least 1, and the seed 0"
        )
    means = (
        recordings if isinstance(recordings, ClassMeans) else read_class_means(recordings, layer, group, until=until)
    )
    where = f"{means.source}: layer '{means.layer}'"
    if impact == "L" and means.n_features != means.n_classes:
        raise InputError(
            f"{where} has {means.n_features} features but {means.group} has {means.n_classes} classes: impact L needs "
            "logits; use impact I"
        )
    grid = even_grid(means.times)
    try:
        n_points = window_length(window, means.steps, len(grid.times), order)
    except InputError as error:
        raise InputError(f"{means.source}: {error}") from None
    average = means.runs.mean(axis=0)
    if np.all(average == average[0]):
        raise InputError(f"{where}: class means are the same at every record; there is nothing to estimate")
    found = integrals(average, impact, means.resolution)
    if not np.isfinite(found.A[-1]):
        raise InputError(
            f"{where}: impact {impact} divides by class means at the first record, and there they vanish or coincide; "
            "start at a later record, or use the other impact"
        )
    moments = Moments(
        impact=impact,
        layer=means.layer,
        group=means.group,
        n_runs=means.n_runs,
        n_classes=means.n_classes,
        steps=means.steps,
        A=found.A,
        B=found.B,
        grid_steps=np.interp(grid.times, means.times, means.steps),
        alpha=slopes(found.A, means.times, grid, n_points, order),
        beta=slopes(found.B, means.times, grid, n_points, order),
        window=n_points,
        tail_index_alpha=tail_index(found.A, means.steps),
        tail_index_beta=tail_index(found.B, means.steps),
        reversed_share=found.reversed_share,
        n_ratios=found.n_ratios,
        n_left_out=found.n_left_out,
        intervals=_bootstrap(means, impact, grid, n_points, order, n_resamples, seed) if means.n_runs > 1 else None,
        notes=(),
    )
    return replace(moments, notes=_notes(moments))


def _bootstrap(
    means: ClassMeans, impact: MomentImpact, grid: EvenGrid, window: int, order: int, n_resamples: int, seed: int
) -> MomentIntervals:
    """Estimate again from runs drawn with replacement."""
    generator = np.random.default_rng(seed)
    found: list[tuple[np.ndarray, ...]] = []
    for _ in range(n_resamples):
        counts = np.bincount(generator.integers(means.n_runs, size=means.n_runs), minlength=means.n_runs)
        drawn = integrals(np.tensordot(counts / means.n_runs, means.runs, axes=1), impact, means.resolution)
        both = (drawn.A, drawn.B)
        rates = [slopes(values, means.times, grid, window, order) for values in both]
        tails = [np.asarray(tail_index(values, means.steps).value) for values in both]
        found.append((*both, *rates, *tails))
    A, B, alpha, beta, tail_alpha, tail_beta = (_band(np.stack(draws)) for draws in zip(*found, strict=True))
    return MomentIntervals(A, B, alpha, beta, tail_alpha, tail_beta, n_resamples)


def _band(draws: Float[np.ndarray, "resample *shape"]) -> Band:
    """Return percentiles, NaN where fewer than `MINIMAL_DEFINED` of the resamples define the number."""
    defined = np.isfinite(draws)
    enough = defined.mean(axis=0) >= MINIMAL_DEFINED
    low, high = np.nanquantile(np.where(enough, draws, 0.0), [0.05, 0.95], axis=0)
    return Band(np.where(enough, low, np.nan), np.where(enough, high, np.nan))


def _notes(moments: Moments) -> tuple[str, ...]:
    """Say what to doubt."""
    notes = []
    turned = moments.reversed_share > 0
    if turned.any():
        notes.append(
            f"at {np.count_nonzero(turned)} of {len(turned)} records class means have another sign than at the first "
            f"({moments.reversed_share.mean():.0%} of all ratios), which no path of this model does; logs are of sizes"
        )
    if moments.n_left_out:
        notes.append(
            f"{moments.n_left_out} of {moments.n_ratios} ratios are undefined (a class mean vanishes) and were left out"
        )
    for name, integral, tail in (("α", "Â", moments.tail_index_alpha), ("β", "B̂", moments.tail_index_beta)):
        if tail.n_undefined:
            notes.append(
                f"tail index of {name}: {tail.n_undefined} of {tail.n_records} late values of "
                f"{'−' * tail.flipped}{integral} are not positive and were left out"
                + ("; none is left, so it is not defined" if tail.n_undefined == tail.n_records else "")
            )
        elif tail.flipped:
            notes.append(
                f"tail index of {name}: {integral} is negative on most late records; the index is of −{integral}"
            )
    if moments.n_runs == 1:
        notes.append("one run: no interval over runs (give several recordings)")
    elif moments.n_runs < 5:
        notes.append(f"{moments.n_runs} runs: intervals by resampling so few are too narrow")
    return tuple(notes)
