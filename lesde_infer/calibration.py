"""Simulation-based calibration: whether posteriors are what they say they are.

Parameters are drawn from the prior, data given them, and the data are fitted as users' are. Over many simulations the
truth must then rank uniformly among the posterior's draws, and central intervals hold it as often as they say (Talts,
Betancourt, Simpson, Vehtari & Gelman 2018, arXiv 1804.06788; Modrák et al. 2023, doi:10.1214/23-BA1404). This tests
model, sampler, and all that lies between draws and printed numbers at once: a wrong sign, a scale mistaken, chains that
miss a mode. It does not test whether the model is that of real training, which `lesde check` asks.

Fits that miss a limit of the sampler are refused, and users never see their intervals; so ranks are those of the fits
that meet all limits, and the others are counted, with the coverage of all beside. That does not bend the check: whether
a fit meets its limits depends on the data and on the chains, and given the data the truth is a draw of the posterior
like any other, whatever is decided by the data.

The steps: `calibration_template` (design and priors), `simulated_increments` (truth and data), `calibrated_fit` (fit
and ranks), `calibration_journal` (what is done is kept), `rank_statistics` (bands and verdicts).
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property, partial
from importlib.metadata import version
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from data_tools.errors import InputError
from lesde_infer.calibrated_fit import Simulation, fit_simulation
from lesde_infer.calibrated_quantities import quantities
from lesde_infer.calibration_journal import CalibrationJournal
from lesde_infer.calibration_template import Template
from lesde_infer.cores import n_cores
from lesde_infer.posterior import build_posterior
from lesde_infer.rank_statistics import COVERAGE_LEVELS, RANKED_DRAWS, RankCheck, check_ranks, covered_share
from lesde_infer.simulated_increments import simulate_run

CHAINS, DRAWS, SIMULATIONS = 2, 400, 300

CalibrationProgress = Callable[[str, int, int], None]
"""Called with a stage's name, the simulations done and their total."""


@dataclass(frozen=True)
class QuantityCheck:
    """What the simulations say of one quantity.

    Attributes
    ----------
    ranks : RankCheck
        Verdict, p-value and coverage.
    z_mean, z_sd : float
        Mean and standard deviation over simulations of (posterior mean − truth)/(posterior sd).
    contraction : float
        Median over simulations of 1 − (posterior sd/prior sd)²: what share of the prior's variance the data removed.
    """

    ranks: RankCheck
    z_mean: float
    z_sd: float
    contraction: float


@dataclass(frozen=True)
class Calibration:
    """Result of a calibration.

    Attributes
    ----------
    settings : dict
        All that its simulations depend on.
    quantities : tuple of str
        What was calibrated.
    simulations : tuple of Simulation
        In order of their numbers.
    """

    settings: dict[str, Any]
    quantities: tuple[str, ...]
    simulations: tuple[Simulation, ...]

    @property
    def unconverged(self) -> list[int]:
        """Numbers of the simulations whose fit missed a limit."""
        return [simulation.number for simulation in self.simulations if not simulation.converged]

    @cached_property
    def reported(self) -> tuple[Simulation, ...]:
        """Simulations whose fit would be reported, since it met all limits; all, where fewer than two did."""
        converged = tuple(simulation for simulation in self.simulations if simulation.converged)
        return converged if len(converged) > 1 else self.simulations

    @cached_property
    def ranks(self) -> Int[np.ndarray, "simulation quantity"]:
        """Rank of each truth among `RANKED_DRAWS` draws, in the fits that are reported."""
        return np.stack([simulation.rank for simulation in self.reported])

    def coverage_of_all(self, level: float) -> Float[np.ndarray, " quantity"]:
        """Return coverage of central intervals in all fits, refused ones included."""
        every = np.stack([simulation.rank for simulation in self.simulations])
        return np.array([covered_share(ranks, level) for ranks in every.T])

    @cached_property
    def z_scores(self) -> Float[np.ndarray, "simulation quantity"]:
        """(posterior mean − truth)/(posterior sd)."""
        mean, truth, sd = (self._stack(name) for name in ("mean", "truth", "sd"))
        return np.divide(mean - truth, sd, out=np.full_like(sd, np.nan), where=sd > 0)

    @cached_property
    def contractions(self) -> Float[np.ndarray, "simulation quantity"]:
        """1 − (posterior sd/prior sd)², the prior's taken over the simulations."""
        return 1.0 - (self._stack("sd") / self._stack("truth").std(axis=0, ddof=1)) ** 2

    def _stack(self, name: str) -> Float[np.ndarray, "simulation quantity"]:
        return np.stack([getattr(simulation, name) for simulation in self.reported])

    @cached_property
    def checks(self) -> dict[str, QuantityCheck]:
        """What the simulations say of each quantity."""
        return {
            name: QuantityCheck(
                check_ranks(self.ranks[:, index], n_quantities=len(self.quantities)),
                float(np.nanmean(self.z_scores[:, index])),
                float(np.nanstd(self.z_scores[:, index], ddof=1)),
                float(np.nanmedian(self.contractions[:, index])),
            )
            for index, name in enumerate(self.quantities)
        }

    @property
    def miscalibrated(self) -> list[str]:
        """Quantities outside their bands."""
        return [name for name, check in self.checks.items() if check.ranks.verdict != "calibrated"]

    def coverage_error(self, level: float) -> float:
        """Monte-Carlo standard error of the coverage of calibrated intervals."""
        return float(np.sqrt(level * (1.0 - level) / len(self.reported)))

    def to_json(self) -> dict[str, Any]:
        """Return the machine-readable result: plain numbers, strings and lists."""
        return {
            **self.settings,
            "n_simulations": len(self.simulations),
            "n_converged": len(self.simulations) - len(self.unconverged),
            "unconverged": self.unconverged,
            "calibrated": not self.miscalibrated,
            "n_ranked_draws": RANKED_DRAWS,
            "coverage90_of_all": dict(zip(self.quantities, self.coverage_of_all(0.9).tolist(), strict=True)),
            "coverage_error": {f"{level:g}": self.coverage_error(level) for level in COVERAGE_LEVELS},
            "quantities": {
                name: {
                    "verdict": check.ranks.verdict,
                    "p_value": check.ranks.p_value,
                    "coverage": {f"{level:g}": share for level, share in check.ranks.coverage.items()},
                    "z_mean": check.z_mean,
                    "z_sd": check.z_sd,
                    "contraction": check.contraction,
                    "ranks": self.ranks[:, index].tolist(),
                }
                for index, (name, check) in enumerate(self.checks.items())
            },
        }


def calibrate(
    template: Template,
    *,
    n_simulations: int = SIMULATIONS,
    seed: int = 0,
    n_chains: int = CHAINS,
    n_draws: int = DRAWS,
    journal: Path | None = None,
    force: bool = False,
    progress: CalibrationProgress | None = None,
) -> Calibration:
    """Calibrate the fits of runs like the template.

    Parameters
    ----------
    template : Template
        Design and priors (`lesde_infer.calibration_template`).
    n_simulations : int
        Simulations; at least 2.
    seed : int
        Seed of all parameters, data and chains. A simulation depends on the seed and on its number alone.

    Other Parameters
    ----------------
    n_chains, n_draws : int
        Chains of each fit, at least 2, and draws of each after warm-up; together no fewer than `RANKED_DRAWS`.
    journal : path, optional
        File of simulations: those that it holds are not done again, and new ones are added as they end.
    force : bool
        Begin anew where the journal holds simulations of another calibration.
    progress : callable, optional
        Called with stage, done and total.

    Raises
    ------
    InputError
        If a number is too small, or the journal is that of another calibration.
    """
    for name, value, least in (("n_simulations", n_simulations, 2), ("n_chains", n_chains, 2), ("seed", seed, 0)):
        if value < least:
            raise InputError(f"{name} is {value}; give at least {least}")
    if n_chains * n_draws < RANKED_DRAWS:
        raise InputError(
            f"{n_chains} chains of {n_draws} draws are fewer than the {RANKED_DRAWS} among which truths are ranked"
        )
    settings = _settings(template, seed, n_chains, n_draws)
    example = simulate_run(template.submodels, seed, 0)
    tree = build_posterior(template.statistics, example.submodels, example.truth, mixed=template.mixed)
    names = tuple(quantities(tree, template))
    opened = nullcontext() if journal is None else CalibrationJournal(journal, settings, names, force=force)
    with opened as kept:
        done = {} if kept is None else {number: found for number, found in kept.done.items() if number < n_simulations}
        missing = [number for number in range(n_simulations) if number not in done]
        _report(progress, len(done), n_simulations)
        for simulation in _simulations(template, missing, seed=seed, n_chains=n_chains, n_draws=n_draws):
            done[simulation.number] = simulation
            if kept is not None:
                kept.append(simulation)
            _report(progress, len(done), n_simulations)
    return Calibration(settings, names, tuple(done[number] for number in range(n_simulations)))


def _settings(template: Template, seed: int, n_chains: int, n_draws: int) -> dict[str, Any]:
    statistics = template.statistics
    return {
        "layer": statistics.layer,
        "group": statistics.group,
        "impact": statistics.impact,
        "elasticity": template.elasticity,
        "curve": template.curve,
        "within": template.within,
        "strata": [name for submodel in template.submodels for name in submodel.strata],
        "n_classes": statistics.n_classes,
        "n_records": len(statistics.steps),
        "mixed_intervals": template.mixed,
        "template": template.digest(),
        "seed": seed,
        "n_chains": n_chains,
        "n_draws": n_draws,
        "versions": {name: version(name) for name in ("lesde-infer", "jax", "numpyro")},
    }


def _simulations(
    template: Template, numbers: list[int], *, seed: int, n_chains: int, n_draws: int
) -> Iterator[Simulation]:
    """Fit simulations in threads, one for each core, and yield each as it ends."""
    stop = Event()
    fit = partial(fit_simulation, template, seed=seed, n_chains=n_chains, n_draws=n_draws, stop=stop)
    # Models run as Python code while they are traced, by one thread at a time; so parameters and data are drawn here,
    # and the first simulation, which compiles all programs, is fitted by itself.
    runs = {number: simulate_run(template.submodels, seed, number) for number in numbers}
    for number in numbers[:1]:
        yield fit(runs[number], number=number)
    pool = ThreadPoolExecutor(n_cores())
    try:
        for future in as_completed([pool.submit(fit, runs[number], number=number) for number in numbers[1:]]):
            yield future.result()
    finally:
        stop.set()
        pool.shutdown(cancel_futures=True)


def _report(progress: CalibrationProgress | None, done: int, total: int) -> None:
    if progress is not None:
        progress("simulations", done, total)
