"""The result of a fit: posterior, diagnostics, flags and verdict, saved and loaded without loss."""

import dataclasses
import json
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
import xarray as xr
from jaxtyping import Float, Int

from data_tools.errors import InputError
from data_tools.new_file import written_whole
from lesde_infer.assembly import Parts
from lesde_infer.common_growth import CommonGrowth
from lesde_infer.curves import Curve
from lesde_infer.deviations import Within
from lesde_infer.diagnostics import Diagnostics, diagnose, summarise
from lesde_infer.flags import Flag, find_flags, interval_starts
from lesde_infer.impacts import Elasticity, Impact
from lesde_infer.interval_rates import IntervalRates
from lesde_infer.missing import MissingData
from lesde_infer.momentum import Drive
from lesde_infer.noise_directions import ClassMeanNoise
from lesde_infer.noise_memory import NoiseMemory
from lesde_infer.predictive_density import PredictiveDensity, expected_log_predictive_density
from lesde_infer.prior_sensitivity import prior_sensitivity
from lesde_infer.replication import replicated_rates
from lesde_infer.snapshots import Grouping
from lesde_infer.time_axis import TimeChoice
from lesde_infer.verdict import Verdict, judge

if TYPE_CHECKING:
    import pandas as pd

FORMAT, VERSION = "lesde-fit", 1
SHOWN_SETTINGS = ("layer", "impact", "elasticity", "curve", "group", "within", "parts", "seed")
QUANTILES = {"q05": 0.05, "q50": 0.5, "q95": 0.95}


@dataclass(frozen=True)
class Settings:
    """What was asked for.

    Attributes
    ----------
    layer, impact, elasticity, curve, group, within : str
        See `lesde_infer.inference.fit`.
    seed : int
        Seed of the sampler.
    until : int or None
        Last optimizer step used.
    class_frequencies : tuple of float, or None
        Sampling frequencies of the classes of the grouping, given or recorded; None if balanced.
    time : str
        Which time was asked for (`lesde_infer.time_axis`).
    drive : str
        ``instantaneous`` impacts, or ``filtered`` by the memory of momentum (`lesde_infer.momentum`).
    parts : str
        ``all``, or ``rates``: γ, α and β alone.
    horizon : float or None
        Time up to which curves reach, so that they can be continued (`lesde_infer.extrapolation`); None: the last
        record.
    """

    layer: str
    impact: Impact
    elasticity: Elasticity
    curve: Curve
    group: Grouping
    seed: int
    until: int | None
    class_frequencies: tuple[float, ...] | None = None
    time: TimeChoice = "recorded"
    drive: Drive = "instantaneous"
    within: Within = "isotropic"  # as earlier versions fitted, which did not say
    horizon: float | None = None
    parts: Parts = "all"


class Fit:
    """Posterior of the LE-SDE of one run.

    Attributes
    ----------
    data : DataTree
        ArviZ groups ``posterior``, ``sample_stats``, ``log_likelihood`` (per interval and stratum),
        ``log_prior`` (per submodel), ``observed_data`` and ``constant_data``.
    """

    def __init__(self, data: xr.DataTree) -> None:
        self.data = data

    @property
    def posterior(self) -> xr.DataTree:
        """Posterior draws: ``alpha``, ``beta``, ``gamma``, ``kappa`` (chain, draw, time), ``tail_index`` and more."""
        node = self.data["posterior"]
        assert isinstance(node, xr.DataTree)  # noqa: S101  (a group, by construction)
        return node

    @cached_property
    def settings(self) -> Settings:
        """What was asked for."""
        return Settings(**json.loads(self.data.attrs["settings"]))

    @cached_property
    def provenance(self) -> dict[str, str]:
        """Versions, recording and time of the fit."""
        return dict(json.loads(self.data.attrs["provenance"]))

    @property
    def _constant(self) -> xr.Dataset:
        return self.data["constant_data"].to_dataset()

    @property
    def steps(self) -> Int[np.ndarray, " record"]:
        """Optimizer steps of the records that were fitted."""
        return self._constant["step"].to_numpy()

    @property
    def times(self) -> Float[np.ndarray, " record"]:
        """Times of the records that were fitted."""
        return self._constant["record_time"].to_numpy()

    @property
    def time_unit(self) -> str:
        """Unit of time, of which rates are per one: ``steps``, ``learning_rate`` or ``recorded``."""
        steps = "steps" if np.array_equal(self.times, self.steps) else "recorded"  # where earlier versions kept none
        return str(self.data.attrs.get("time_unit", steps))

    @property
    def interval_starts(self) -> Int[np.ndarray, " time"]:
        """Record, of those in `steps`, at which each fitted interval starts; it stops at the next record."""
        return interval_starts(self._constant)

    @property
    def interval_lengths(self) -> Float[np.ndarray, " time"]:
        """Length of each fitted interval, in units of time."""
        return self._constant["length"].to_numpy()

    @property
    def n_steps(self) -> Int[np.ndarray, " time"]:
        """Optimizer steps of each fitted interval."""
        return self._constant["n_steps"].to_numpy()

    @property
    def class_sizes(self) -> Int[np.ndarray, " class_"]:
        """Recorded samples of each class."""
        return self._constant["class_size"].to_numpy()

    @property
    def movement(self) -> Float[np.ndarray, " interval"]:
        """Squared change of the contrasts between class means over each interval: by it a recording is known again."""
        return self.data["observed_data"]["contrast_increment_square"].to_numpy()

    @property
    def n_classes(self) -> int:
        """Number of classes K."""
        return len(self.class_sizes)

    @property
    def noise_memory(self) -> NoiseMemory:
        """How much of the noise of class means stays (`lesde_infer.noise_memory`)."""
        return NoiseMemory.from_attributes(self._constant.attrs)

    @property
    def noise_directions(self) -> ClassMeanNoise | None:
        """Along which directions class means are shaken (`lesde_infer.noise_directions`); None: along all alike."""
        return ClassMeanNoise.from_variables(self._constant)

    @property
    def common_growth(self) -> CommonGrowth | None:
        """How contrasts grow with deviations (`lesde_infer.common_growth`); None in fits of earlier versions."""
        return CommonGrowth.from_variables(self._constant)

    @property
    def n_samples(self) -> int:
        """Number of recorded samples."""
        return int(self.class_sizes.sum())

    def require_all_parts(self, purpose: str) -> None:
        """Refuse, where deviations and noise are needed and only rates were fitted.

        Raises
        ------
        InputError
            If the fit has ``parts="rates"``.
        """
        if self.settings.parts != "all":
            raise InputError(f"this fit is of rates alone, but {purpose} takes the whole model; fit with --parts all")

    @cached_property
    def flags(self) -> list[Flag]:
        """What the data do not identify, and where."""
        return find_flags(
            self.posterior.to_dataset(),
            self._constant,
            self.data["prior_widths"].to_dataset(),
            impact=self.settings.impact,
            missing=self.missing,
        )

    @property
    def missing(self) -> MissingData | None:
        """What was missing from the recording and left out; None for fits of earlier versions, which refused gaps."""
        found = self.data.attrs.get("missing")
        return None if found is None else MissingData.from_json(json.loads(found))

    @cached_property
    def _diagnostics(self) -> Diagnostics:
        return diagnose(self.posterior.to_dataset(), self.data["sample_stats"]["diverging"].to_numpy())

    def diagnostics(self) -> Diagnostics:
        """Convergence: worst r̂ and effective sample sizes, divergences, and what misses its limit."""
        return self._diagnostics

    def verdict(self) -> Verdict:
        """Probabilities of elasticity and separation, and the verdict in words."""
        probability = float(self.data.attrs["probability_separable"])
        error = float(self._constant.attrs.get("gamma_sampling_error", 0.0))  # earlier versions did not keep it
        return judge(self.posterior.to_dataset(), self.flags, int(self.steps[-1]), probability, error)

    def summary(self) -> xr.Dataset:
        """Tabulate the posterior: one row a parameter, curves at up to 20 of their intervals.

        Columns are ``mean``, ``sd``, ``q05``, ``q95``, ``r_hat``, ``ess_bulk`` and ``ess_tail``; ``.to_dataframe()``
        makes a table of pandas.
        """
        return summarise(self.posterior.to_dataset())

    @cached_property
    def _predictive_density(self) -> PredictiveDensity:
        self.require_all_parts("its predictive density")
        return expected_log_predictive_density(self)

    @cached_property
    def _prior_sensitivity(self) -> xr.Dataset:
        return prior_sensitivity(self)

    def prior_sensitivity(self) -> xr.Dataset:
        """Tell how much γ, α, β, κ and tail indices owe to their priors, by power-scaling.

        One row a quantity, with sensitivities ``prior`` and ``likelihood`` and a ``diagnosis``; see
        `lesde_infer.prior_sensitivity`.

        Raises
        ------
        InputError
            If an earlier version made this fit, which kept no log prior of draws.
        """
        return self._prior_sensitivity.copy()

    def interval_rates(self, n_draws: int, seed: int) -> IntervalRates:
        """Return what drives each interval, for posterior draws spread evenly over the chains.

        The size of each interval's noise is as it was recorded: see `lesde_infer.replication`.
        """
        self.require_all_parts("replicating the run")
        return replicated_rates(self.data, n_draws, seed)

    def to_json(self) -> dict[str, Any]:
        """Return the machine-readable result (DESIGN section 6): plain numbers, strings and lists."""
        diagnostics, verdict, settings = self.diagnostics(), self.verdict(), self.settings
        density = self._predictive_density if settings.parts == "all" else None
        return {
            "n_samples": self.n_samples,
            "n_features": int(self._constant.attrs["n_features"]),
            "n_classes": self.n_classes,
            "n_records": len(self.steps),
            **{name: getattr(settings, name) for name in SHOWN_SETTINGS},
            "time_unit": self.time_unit,
            "drive": settings.drive,
            "class_frequencies": settings.class_frequencies or [1 / self.n_classes] * self.n_classes,
            "converged": diagnostics.converged,
            "r_hat_max": diagnostics.r_hat_max,
            "ess_bulk_min": diagnostics.ess_bulk_min,
            "ess_tail_min": diagnostics.ess_tail_min,
            "divergences": diagnostics.divergences,
            "wall_seconds": float(self.data.attrs["wall_seconds"]),
            "compile_seconds": float(self.data.attrs["compile_seconds"]),
            "probability_gamma_positive": verdict.probability_gamma_positive,
            "gamma_end": dataclasses.asdict(verdict.gamma_end),
            "tail_index": dataclasses.asdict(verdict.tail_index),
            "paper_tail_index": dataclasses.asdict(verdict.paper_tail_index),
            "probability_separable": verdict.probability_separable,
            "phase_probabilities": verdict.phase_probabilities,
            "flags": [dataclasses.asdict(flag) for flag in self.flags],
            "missing": None if self.missing is None else self.missing.to_json(),
            "elpd": None if density is None else density.to_json(),
            "elpd_warnings": [] if density is None else list(density.warnings),
            "prior_sensitivity": self._sensitivity_to_json(),
            "curves": self._curves(),
        }

    def _curves(self) -> dict[str, Any]:
        step = np.interp(self.posterior["time"].to_numpy(), self.times, self.steps)
        curves: dict[str, Any] = {"step": step.tolist()}
        for name in ("gamma", "gamma_kernel", "alpha", "beta", "kappa", "kappa_across", "pull"):
            if name in self.posterior:
                curves[name] = {
                    label: self.posterior[name].quantile(q, ["chain", "draw"]).to_numpy().tolist()
                    for label, q in QUANTILES.items()
                }
        return curves

    def _sensitivity_to_json(self) -> dict[str, dict[str, Any]]:
        if "log_prior" not in self.data.children:  # kept by an earlier version
            return {}
        table = self._prior_sensitivity
        return {
            str(quantity): {str(name): table[name].sel(quantity=quantity).item() for name in table.data_vars}
            for quantity in table["quantity"].to_numpy()
        }

    def to_dataframe(self) -> "pd.DataFrame":
        """Return 5 %, 50 % and 95 % quantiles of the rates at each interval, one a row, with their optimizer step."""
        from lesde_infer.result_tables import curve_table

        return curve_table(self._curves())

    def save(self, path: str | os.PathLike[str], *, force: bool = False) -> Path:
        """Write the fit to a NetCDF file, whole or not at all.

        Raises
        ------
        InputError
            If the file exists and ``force`` is not set, or its folder is missing.
        """
        target = Path(path)
        with written_whole(target, force) as temporary:
            self.data.to_netcdf(temporary, engine="h5netcdf")
        return target


def load(path: str | os.PathLike[str]) -> Fit:
    """Read a fit that `Fit.save` wrote.

    Raises
    ------
    InputError
        If the file is missing or no fit of this version.
    """
    source = Path(path)
    if not source.is_file():
        raise InputError(f"{source}: no such file; give a fit written by `lesde fit --out`")
    try:
        with h5py.File(source, "r") as file:
            is_fit = file.attrs.get("format") == FORMAT
        data = xr.load_datatree(source, engine="h5netcdf") if is_fit else xr.DataTree()
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{source} is no readable fit; give a file written by `lesde fit --out`") from error
    if not is_fit:
        raise InputError(f"{source} is no fit (a recording?); give a file written by `lesde fit --out`")
    if int(data.attrs["version"]) != VERSION:
        raise InputError(
            f"{source} is a fit of format version {data.attrs['version']}; this program reads {VERSION}: fit again"
        )
    return Fit(data)
