"""One run of many: fitted, or read where it was, with what goes wrong as its status."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from inspect import signature
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from data_tools.errors import InputError
from lesde_infer.concurrent_sampling import FitProgress
from lesde_infer.kept_fits import kept_fit
from lesde_infer.plain_values import plain

if TYPE_CHECKING:
    from lesde_infer.fit_result import Fit

Status: TypeAlias = Literal["fitted", "kept", "refused", "not converged", "failed"]
SHOWN = (
    "layer",
    "n_classes",
    "n_records",
    "probability_gamma_positive",
    "gamma_end",
    "tail_index",
    "probability_separable",
)
"""Of a fit's JSON, what the summary of a fleet has of each run."""

COMPARED = ("layer", "impact", "elasticity", "curve", "group", "within", "until", "seed", "time", "parts")
"""Settings by which a fit that is kept is known to be the one that would be made."""


@dataclass(frozen=True)
class FleetRun:
    """What came of one recording.

    Attributes
    ----------
    recording : Path
        Its file.
    status : str
        ``fitted``; ``kept``, where it had been before; ``refused``, where the recording does not support what is asked;
        ``not converged``; ``failed`` otherwise.
    fit : Path or None
        File of the fit; None where there is none.
    seconds : float
        Time it took.
    message : str
        Why there is no fit, in a line.
    summary : dict
        A few numbers of the fit, by their names in the JSON of a fit.
    """

    recording: Path
    status: Status
    fit: Path | None
    seconds: float
    message: str
    summary: dict[str, Any]

    def moved(self, recording: Path, fit: Path | None) -> "FleetRun":
        """Return the same with files as they are called here, where it was fitted elsewhere."""
        return replace(self, recording=recording, fit=fit)

    def load(self) -> "Fit":
        """Read the fit.

        Raises
        ------
        InputError, ConvergenceError
            If there is none, saying why.
        """
        from lesde_infer.fit_result import load
        from lesde_infer.inference import ConvergenceError

        if self.fit is not None:
            return load(self.fit)
        raise (ConvergenceError if self.status == "not converged" else InputError)(self.message)

    def to_json(self) -> dict[str, Any]:
        """Return plain numbers, strings and dicts."""
        kept = None if self.fit is None else str(self.fit)
        own = {"recording": str(self.recording), "status": self.status, "fit": kept, "seconds": self.seconds}
        return {**own, "message": self.message, **plain(self.summary)}


def fit_one(
    path: Path, target: Path, settings: Mapping[str, Any], *, force: bool, progress: FitProgress | None
) -> FleetRun:
    """Fit a recording, or read its fit; what goes wrong becomes its status."""
    from lesde_infer.inference import ConvergenceError, fit
    from lesde_infer.predictive import PredictionError

    started = perf_counter()

    def ended(status: Status, message: str = "", kept: Path | None = None, **summary: Any) -> FleetRun:
        return FleetRun(path, status, kept, perf_counter() - started, message, summary)

    try:
        status: Status = "kept" if target.exists() and not force else "fitted"
        if status == "kept":
            defaults = signature(fit).parameters
            found = kept_fit(target, path, {name: settings.get(name, defaults[name].default) for name in COMPARED})
        else:
            found = fit(path, progress=progress, **settings)
            found.save(target, force=True)
        summary = found.to_json()
        message = "" if summary["converged"] else f"{path}: did not converge; its numbers cannot be trusted"
        if message and not settings.get("allow_unconverged"):
            return ended("not converged", f"{target}: is kept, but did not converge; fit again with --force")
        return ended(status, message, target, **{name: summary[name] for name in SHOWN})
    except InputError as error:
        return ended("refused", str(error))
    except ConvergenceError as error:
        return ended("not converged", str(error))
    except (PredictionError, OSError, MemoryError, ArithmeticError, ValueError, RuntimeError) as error:
        return ended("failed", f"{path}: {type(error).__name__}: {error}")
