"""Fit the LE-SDE to a recording: statistics, posterior by NUTS, diagnostics that are enforced, verdict."""

import dataclasses
import json
import os
import time
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import get_args

import numpy as np
import xarray as xr

from data_tools.errors import InputError
from data_tools.recording import Recording
from lesde_infer._jax import jax
from lesde_infer.assembly import Batch, Stratum, assemble, has_mixed_intervals, locate
from lesde_infer.curves import MINIMAL_INTERVALS, Curve
from lesde_infer.fit_result import FORMAT, VERSION, Elasticity, Fit, Settings
from lesde_infer.impacts import Impact
from lesde_infer.posterior import LOCATIONS, build_posterior
from lesde_infer.predictive import PredictionError, probability_separable
from lesde_infer.sampling import Chains, SampleRun, Variant, find_mode
from lesde_infer.statistics import Grouping, Statistics, compute_statistics

FitProgress = Callable[[str, int, int], None]
"""Called with a stage's name, the units done and their total."""

WARMUP, DRAWS, CHAINS = 300, 500, 4
ACCEPTANCE = 0.9
LONGER = 3  # times the draws are added where a limit is missed
CAREFUL_WARMUP, CAREFUL_ACCEPTANCE = 600, 0.99  # of new chains with smaller steps, where transitions diverged
SEPARATION_DRAWS = 200


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
    until: int | None = None,
    seed: int = 0,
    n_chains: int = CHAINS,
    n_draws: int = DRAWS,
    allow_unconverged: bool = False,
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
    elasticity : {"homogeneous"}
        α on the diagonal of the impact matrix and β off it.
    curve : {"gp", "power", "constant"}
        How rates and noise change in time (`lesde_infer.curves`).
    group : {"labels", "given_labels"}
        Classes by what samples are, or by what they are trained as.

    Other Parameters
    ----------------
    until : int, optional
        Use records up to this optimizer step.
    seed : int
        Seed of the sampler; equal seeds give equal draws on one machine.
    n_chains, n_draws : int
        Chains, and draws of each after warm-up; 4 chains of 500.
    allow_unconverged : bool
        Return a fit that misses its limits, instead of refusing it. Its diagnostics say so.
    progress : callable, optional
        Called with stage, done and total.

    Raises
    ------
    InputError
        If the recording does not support what is asked.
    ConvergenceError
        If the posterior misses its limits twice (`lesde_infer.diagnostics`).
    """
    _check_choices(impact=(impact, Impact), curve=(curve, Curve), group=(group, Grouping))
    if elasticity != "homogeneous":
        raise InputError(f"elasticity '{elasticity}' is not available in this version; use --elasticity homogeneous")
    started = time.perf_counter()
    with _compile_clock() as compile_seconds, Recording(path) as recording:
        settings = Settings(_chosen_layer(recording, layer), impact, elasticity, curve, group, seed, until)
        statistics = compute_statistics(recording, settings.layer, impact, group=group, until=until)
        check_supports(statistics, curve, Path(path))
        result = _sample_until_converged(statistics, settings, n_chains, n_draws, progress)
        diagnostics = result.diagnostics()
        if not diagnostics.converged and not allow_unconverged:
            raise ConvergenceError(
                f"{path}: the posterior did not converge ({'; '.join(diagnostics.problems)}); try a simpler curve "
                "(--curve power), fewer records (--until), another seed, or look at it with --allow-unconverged"
            )
        try:
            separable, _ = probability_separable(result, recording, n_draws=SEPARATION_DRAWS, seed=seed)
        except PredictionError:
            separable = float("nan")
        provenance = _provenance(recording, Path(path))
    result.data.attrs.update(
        probability_separable=separable,
        provenance=json.dumps(provenance),
        wall_seconds=time.perf_counter() - started,
        compile_seconds=compile_seconds[0],
    )
    return result


def _check_choices(**choices: tuple[str, object]) -> None:
    for name, (value, allowed) in choices.items():
        if value not in get_args(allowed):
            raise InputError(f"{name} '{value}' is unknown; choose one of {', '.join(get_args(allowed))}")


def _chosen_layer(recording: Recording, layer: str | None) -> str:
    if layer is None:
        if recording.logits is not None:
            return recording.logits
        if len(recording.layers) == 1:
            return recording.layers[0]
        raise InputError(
            f"{recording.path}: no layer is marked as logits; choose one with --layer: {', '.join(recording.layers)}"
        )
    if layer not in recording.layers:
        raise InputError(f"{recording.path}: no layer '{layer}'; it holds {', '.join(recording.layers)}")
    return layer


def check_supports(statistics: Statistics, curve: Curve, path: Path) -> None:
    """Raise InputError where a recording holds too little for what is asked of it."""
    n_intervals, needed = len(statistics.lengths), MINIMAL_INTERVALS[curve]
    if n_intervals < needed:
        raise InputError(
            f"{path}: {n_intervals + 1} records are too few for curve '{curve}', which needs {needed + 1}; "
            "record more often, or use a simpler curve (--curve constant)"
        )
    if not np.any(statistics.contrast.increment_square > 0):
        raise InputError(
            f"{path}: layer '{statistics.layer}': class means never move relative to each other; "
            "there is nothing to infer from constant features"
        )


def _sample_until_converged(
    statistics: Statistics, settings: Settings, n_chains: int, n_draws: int, progress: FitProgress | None
) -> Fit:
    """Sample; where a limit is missed run once longer, with new chains of smaller steps if transitions diverged."""
    mixed = has_mixed_intervals(statistics)
    samplers = [_Sampler(batch, settings, n_chains, mixed=mixed) for batch in assemble(statistics)]
    for sampler in samplers:
        sampler.run(n_draws, progress)
    result = _result(statistics, settings, samplers, mixed=mixed)
    diagnostics = result.diagnostics()
    if diagnostics.converged:
        return result
    for sampler in samplers:
        if diagnostics.divergences:
            sampler.restart_carefully()
        sampler.run(LONGER * n_draws, progress)
    return _result(statistics, settings, samplers, mixed=mixed)


class _Sampler:
    """Chains of one batch, their start found once."""

    def __init__(self, batch: Batch, settings: Settings, n_chains: int, *, mixed: bool) -> None:
        self.batch = batch
        self._variant = Variant(settings.curve, batch.coupled, mixed)
        self._mode, self._point = find_mode(self._variant, batch.data)
        self._seed, self._n_chains = settings.seed, n_chains
        self._stage = f"sampling {', '.join(name for model in batch.models for name in model)}"
        self._chains = self._new_chains(WARMUP, ACCEPTANCE)

    def _new_chains(self, n_warmup: int, target_acceptance: float) -> Chains:
        return Chains(
            self._variant,
            self.batch,
            self._mode,
            self._point,
            seed=self._seed,
            n_chains=self._n_chains,
            n_warmup=n_warmup,
            target_acceptance=target_acceptance,
        )

    def restart_carefully(self) -> None:
        """Start new chains with smaller steps."""
        self._chains = self._new_chains(CAREFUL_WARMUP, CAREFUL_ACCEPTANCE)

    def run(self, n_draws: int, progress: FitProgress | None) -> None:
        """Draw more from each chain."""
        report = None if progress is None else lambda done, total: progress(self._stage, done, total)
        self._chains.run(n_draws, report)

    def draws(self) -> SampleRun:
        """Return all draws so far."""
        return self._chains.draws()


def _result(statistics: Statistics, settings: Settings, samplers: list[_Sampler], *, mixed: bool) -> Fit:
    batches, runs = [sampler.batch for sampler in samplers], [sampler.draws() for sampler in samplers]
    tree = build_posterior(statistics, batches, runs, mixed=mixed)
    tree["prior_widths"] = xr.DataTree(_prior_widths(batches))
    tree.attrs.update(format=FORMAT, version=VERSION, settings=json.dumps(dataclasses.asdict(settings)))
    return Fit(tree)


def _prior_widths(batches: list[Batch]) -> xr.Dataset:
    """Prior standard deviation of u along time, amplitude at its prior median, for the rates that flags judge."""
    widths, references = {}, {}
    rates: tuple[Stratum, ...] = ("contrast", "shared")
    for name in rates:
        data, place = locate(batches, name)
        prior = jax.tree.map(lambda leaf, place=place: float(leaf[place]), data.prior)
        x = np.asarray(data.design.trend[:, 1])
        median_amplitude = 0.6745 * prior.amplitude_sd
        widths[LOCATIONS[name]] = ("time", np.sqrt(prior.level_sd**2 + (prior.slope_sd * x) ** 2 + median_amplitude**2))
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
