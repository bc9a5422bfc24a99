"""Fit the LE-SDE to a recording: statistics, posterior by NUTS, diagnostics that are enforced, verdict."""

import dataclasses
import json
import os
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from time import perf_counter
from typing import Any, get_args

import numpy as np
import xarray as xr

from data_tools.errors import InputError
from data_tools.recording import Recording
from lesde_infer._jax import jax
from lesde_infer.assembly import Parts, Stratum, Submodel, assemble, locate, of_parts
from lesde_infer.concurrent_sampling import ConcurrentSampler, FitProgress
from lesde_infer.curves import MINIMAL_INTERVALS, Curve, prior_width
from lesde_infer.deviations import Within
from lesde_infer.extrapolation import curve_table
from lesde_infer.fit_result import FORMAT, VERSION, Fit, Settings
from lesde_infer.fitted_run import require_all_outputs
from lesde_infer.impacts import Elasticity, Impact
from lesde_infer.interval_lengths import has_mixed_intervals
from lesde_infer.longer_chains import COMMON, lagging, mixing, out_of_reach, wanted_draws
from lesde_infer.momentum import DriveChoice
from lesde_infer.pattern_model import MEAN_SPREAD, PatternData
from lesde_infer.posterior import LOCATIONS, build_posterior
from lesde_infer.predictive import PredictionError, probability_separable
from lesde_infer.rounding import ROUNDING_MARGIN
from lesde_infer.row_ranges import Elsewhere
from lesde_infer.sampling import SampleRun
from lesde_infer.snapshots import Grouping
from lesde_infer.statistics import Statistics, compute_statistics
from lesde_infer.time_axis import TimeChoice

DRAWS, CHAINS = 300, 4
LONGER = (2, 4, 10, 25)  # times as many draws where a limit is missed, and again: see `lesde_infer.longer_chains`
SEPARATION_DRAWS = 200
MOST_MATRIX_CLASSES = 20
DIVERGED = 1e6  # times the usual size of features, to the end of the record


class ConvergenceError(RuntimeError):
    """The posterior was not sampled well enough to be reported; the message says what failed and what to do."""


def fit(
    path: str | os.PathLike[str],
    *,
    layer: str | None = None,
    impact: Impact = "R",
    elasticity: Elasticity = "homogeneous",
    curve: Curve = "gp",
    group: Grouping = "labels",
    within: Within = "spanned",
    until: int | None = None,
    class_frequencies: Sequence[float] | None = None,
    time: TimeChoice = "recorded",
    drive: DriveChoice = "auto",
    horizon: float | None = None,
    parts: Parts = "all",
    seed: int = 0,
    n_chains: int = CHAINS,
    n_draws: int = DRAWS,
    allow_unconverged: bool = False,
    cache: bool = True,
    elsewhere: Elsewhere | None = None,
    progress: FitProgress | None = None,
) -> Fit:
    """Infer the elasticity of a recorded training run.

    Parameters
    ----------
    path : path
        A recording (`data_tools.Recording`).
    layer : str, optional
        Layer whose features are modelled; the logits by default.
    impact : {"R", "L", "I"}
        What drives the features (`lesde_infer.impacts`).
    elasticity : {"homogeneous", "matrix"}
        α on the diagonal of the impact matrix and β off it, or a full matrix (`lesde_infer.pattern_model`), for up to
        20 classes.
    curve : {"gp", "power", "constant"}
        How rates and noise change in time (`lesde_infer.curves`).
    group : {"labels", "given_labels"}
        Classes by what samples are, or by what they are trained as.
    within : {"isotropic", "spanned"}
        Deviations from class means: alike in all directions, or apart along the span of the class means and across it
        (`lesde_infer.deviations`), and, under R, pulled by the residuals of single samples. If they are apart,
        ``kappa`` and ``individual_scale`` of the posterior are those along the span, which is the κ that theory
        compares with γ/K, ``kappa_across`` and ``individual_scale_across`` those across it, and ``pull`` is η.

    Other Parameters
    ----------------
    until : int, optional
        Use records up to this optimizer step.
    class_frequencies : sequence of float, optional
        How often training draws each class of the grouping, with sum 1: π_l of the drift Σ_l π_l E_kl h_l. By default
        as recorded, else equal (`lesde_infer.frequencies`).
    time : {"recorded", "steps", "learning_rate"}
        Unit of time: as recorded, optimizer steps, or the sum of lr/(1 − momentum) (`lesde_infer.time_axis`).
    drive : {"auto", "instantaneous", "filtered"}
        Whether impacts are filtered by the memory of momentum; by default where momentum is recorded and records are
        dense against its memory (`lesde_infer.momentum`).
    horizon : float, optional
        Time, in the unit of ``time``, up to which curves reach: they can then be continued beyond the last record
        fitted (`lesde_infer.forecasting`). The priors of Gaussian processes are stretched with them.
    parts : {"all", "rates"}
        The whole model, or γ, α and β with their tail indices alone, whose posterior is the same and takes less
        time: enough to compare runs, but not to check, replicate or forecast one.
    seed : int
        Seed of the sampler; equal seeds give equal draws on one machine.
    n_chains, n_draws : int
        Chains, and draws of each after warm-up; 4 chains of 300, enough for most runs. Where a limit is missed chains
        run on, to 2, 4, 10 and 25 times as many.
    allow_unconverged : bool
        Return a fit that misses its limits, instead of refusing it. Its diagnostics say so.
    cache : bool
        Keep what is taken of a large recording for the next time (`lesde_infer.kept_rows`).
    elsewhere : callable, optional
        Takes statistics of a large recording by ranges of its records (`lesde_infer.row_ranges`), such as
        `lesde_infer.distributed.on_cluster`.
    progress : callable, optional
        Called with stage, done and total.

    Raises
    ------
    InputError
        If the recording does not support what is asked.
    ConvergenceError
        If the posterior misses its limits even with 25 times the draws (`lesde_infer.diagnostics`), or with four or ten
        times as many is so far from them that 25 will not do.
    """
    _check_choices(
        impact=(impact, Impact),
        curve=(curve, Curve),
        group=(group, Grouping),
        elasticity=(elasticity, Elasticity),
        within=(within, Within),
    )
    _check_choices(time=(time, TimeChoice), drive=(drive, DriveChoice), parts=(parts, Parts))
    started = perf_counter()
    with _compile_clock() as compile_seconds, Recording(path) as recording:
        layer = recording.choose_layer(layer)
        choices: dict[str, Any] = {"group": group, "until": until, "time": time, "drive": drive}
        choices |= {"cache": cache, "elsewhere": elsewhere}
        statistics = compute_statistics(recording, layer, impact, frequencies=class_frequencies, **choices)
        shares = None if statistics.frequencies is None else tuple(statistics.frequencies.tolist())
        settings = Settings(
            layer, impact, elasticity, curve, group, seed, until, shares, time, statistics.drive, within, horizon, parts
        )
        check_supports(statistics, curve, Path(path), elasticity)
        if impact == "R":
            require_all_outputs(recording, statistics.n_classes, group)
        result = _sample_until_converged(statistics, settings, n_chains, n_draws, progress)
        diagnostics = result.diagnostics()
        if not diagnostics.converged and not allow_unconverged:
            fewer = "fewer records (--until), " if horizon is None else ""
            flagged = ", ".join(dict.fromkeys(flag.name for flag in result.flags))
            raise ConvergenceError(
                f"{path}: the posterior did not converge ({'; '.join(diagnostics.problems)}"
                f"{f'; flagged: {flagged}' if flagged else ''}); try a simpler curve (--curve power), {fewer}"
                "another seed, or look at it with --allow-unconverged"
            )
        separable = float("nan")
        if parts == "all":
            with suppress(PredictionError):
                separable, _ = probability_separable(result, recording, n_draws=SEPARATION_DRAWS, seed=seed)
        provenance = _provenance(recording, Path(path))
    result.data.attrs.update(
        missing=json.dumps(statistics.missing.to_json()),
        time_unit=statistics.time_unit,
        probability_separable=separable,
        provenance=json.dumps(provenance),
        wall_seconds=perf_counter() - started,
        compile_seconds=compile_seconds[0],
    )
    return result


def _check_choices(**choices: tuple[str, object]) -> None:
    for name, (value, allowed) in choices.items():
        if value not in get_args(allowed):
            raise InputError(f"{name} '{value}' is unknown; choose one of {', '.join(get_args(allowed))}")


def check_supports(statistics: Statistics, curve: Curve, path: Path, elasticity: Elasticity = "homogeneous") -> None:
    """Raise InputError where a recording holds too little for what is asked of it."""
    if elasticity == "matrix" and statistics.n_classes > MOST_MATRIX_CLASSES:
        raise InputError(
            f"{path}: {statistics.n_classes} classes make {statistics.n_classes**2} elasticities, more than a record "
            f"tells; use --elasticity homogeneous (a matrix is for up to {MOST_MATRIX_CLASSES} classes)"
        )
    n_intervals, needed = len(statistics.lengths), MINIMAL_INTERVALS[curve]
    if n_intervals < needed:
        have = f"{n_intervals + 1} records are too few for curve '{curve}', which needs {needed + 1}"
        if statistics.missing.n_left_out:
            have = (
                f"{n_intervals} intervals are too few for curve '{curve}', which needs {needed}: "
                f"{statistics.missing.sentence}"
            )
        raise InputError(f"{path}: {have}; record more often, or use a simpler curve (--curve constant)")
    _check_divergence(statistics, path)
    beyond_rounding = ROUNDING_MARGIN * statistics.contrast.dimension * statistics.mean_rounding
    if not np.any(statistics.contrast.increment_square > beyond_rounding):
        raise InputError(
            f"{path}: layer '{statistics.layer}': class means never move relative to each other; "
            "there is nothing to infer from constant features"
        )
    for mask, what, mend in (
        (statistics.moved, "in which any feature moves", "record only while training"),
        (
            statistics.moved & statistics.driven,
            f"in which impact {statistics.impact} drives the classes apart",
            "fit what comes before residuals vanish (--until), or another --impact",
        ),
    ):
        if mask.sum() < needed:
            raise InputError(
                f"{path}: layer '{statistics.layer}' has {mask.sum()} intervals {what}, and curve '{curve}' needs "
                f"{needed}; {mend}, or use a simpler curve (--curve constant)"
            )


def _check_divergence(statistics: Statistics, path: Path) -> None:
    """Raise InputError where features blow up at the end of the record."""
    size = np.sqrt(statistics.mean_square)  # NaN of records that hold too little
    median = float(np.nanmedian(size))
    usual, known = np.flatnonzero(size <= DIVERGED * median), np.flatnonzero(np.isfinite(size))
    if usual[-1] < known[-1]:
        raise InputError(
            f"{path}: layer '{statistics.layer}': features reach {size[known[-1]]:.0e} at the end, usually "
            f"{median:.0e}: training diverged; fit what comes before with --until "
            f"{statistics.steps[usual[-1]]}"
        )


def _sample_until_converged(
    statistics: Statistics, settings: Settings, n_chains: int, n_draws: int, progress: FitProgress | None
) -> Fit:
    """Sample; where a limit is missed run those submodels longer that lag behind."""
    everything = assemble(statistics, settings.curve, settings.elasticity, settings.within, settings.horizon)
    submodels = of_parts(everything, settings.parts)
    mixed = has_mixed_intervals(statistics)
    sampler = ConcurrentSampler(submodels, seed=settings.seed, n_chains=n_chains)
    behind, done = [True] * len(submodels), None
    for times in (1, *LONGER, *LONGER[-1:]):  # at last those too that did not lag, where a limit is still missed
        wanted = wanted_draws(n_draws, times, behind)
        if wanted == done:
            break
        sampler.run_until(wanted, progress)
        done = wanted
        runs = sampler.draws()
        result = _result(statistics, settings, submodels, runs, mixed=mixed)
        diagnostics = result.diagnostics()
        if diagnostics.converged or diagnostics.divergences:  # more draws do not mend what diverges with small steps
            break
        if times < COMMON:  # all of them run on
            continue
        found = mixing(runs)
        if times > COMMON and out_of_reach(found, max(LONGER) / times):
            break
        behind = lagging(found)
    return result


def _result(
    statistics: Statistics, settings: Settings, submodels: list[Submodel], runs: list[SampleRun], *, mixed: bool
) -> Fit:
    tree = build_posterior(statistics, submodels, runs, mixed=mixed)
    tree["prior_widths"] = xr.DataTree(_prior_widths(submodels, settings.curve))
    if settings.horizon is not None:
        tree["curves"] = xr.DataTree(curve_table(submodels, runs))
    tree.attrs.update(format=FORMAT, version=VERSION, settings=json.dumps(dataclasses.asdict(settings)))
    return Fit(tree)


def _prior_widths(submodels: list[Submodel], curve: Curve) -> xr.Dataset:
    """Prior standard deviation of u along time, amplitude at its prior median, for the rates that flags judge."""
    widths, references = {}, {}
    rates: tuple[Stratum, ...] = ("contrast", "shared")
    for name in rates:
        data, place = locate(submodels, name)
        width = np.asarray(prior_width(curve, data.prior, data.design)[place])
        if isinstance(data, PatternData):
            width = np.hypot(width, MEAN_SPREAD)
        widths[LOCATIONS[name]] = ("time", width)
        references[f"{LOCATIONS[name]}_reference"] = float(data.reference[place])
    return xr.Dataset(widths, attrs=references)


class _compile_clock:  # noqa: N801  (used as a function, like contextlib's own)
    """Context that adds up the seconds JAX spends tracing and compiling, in a list of one number."""

    def __enter__(self) -> list[float]:
        self.seconds = [0.0]
        jax.monitoring.register_event_duration_secs_listener(self._add)
        return self.seconds

    def _add(self, event: str, duration_secs: float, **_: str | int) -> None:
        if event.startswith("/jax/core/compile/"):
            self.seconds[0] += duration_secs

    def __exit__(self, *_: object) -> None:
        jax.monitoring.unregister_event_duration_listener(self._add)


def _provenance(recording: Recording, path: Path) -> dict[str, str]:
    packages = ("lesde-infer", "jax", "numpyro", "arviz-stats", "numpy", "h5py")
    own = {
        "recording": path.name,
        "recording_bytes": str(path.stat().st_size),
        "fitted": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    return {
        **own,
        **{f"{name}_version": version(name) for name in packages},
        **{f"recording.{name}": str(value) for name, value in recording.provenance.items()},
    }
