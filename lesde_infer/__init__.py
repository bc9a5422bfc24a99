"""Infer local elasticity from recordings of neural network training.

Names are imported when first used, so that ``import lesde_infer`` is quick and starts no JAX.
"""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from data_tools.errors import InputError
    from lesde_infer.fit_result import Fit, load
    from lesde_infer.inference import ConvergenceError, fit
    from lesde_infer.moments import Moments, estimate_moments
    from lesde_infer.predictive import Check, PredictionError, check
    from lesde_infer.report import ReportEntry, write_report
    from lesde_infer.simulation import simulate
    from lesde_infer.statistics import Statistics, compute_statistics

__all__ = [
    "Check",
    "ConvergenceError",
    "Fit",
    "InputError",
    "Moments",
    "PredictionError",
    "ReportEntry",
    "Statistics",
    "__version__",
    "check",
    "compute_statistics",
    "estimate_moments",
    "fit",
    "load",
    "simulate",
    "write_report",
]

__version__ = version("lesde-infer")

_HOMES = {
    "Check": "lesde_infer.predictive",
    "ConvergenceError": "lesde_infer.inference",
    "Fit": "lesde_infer.fit_result",
    "InputError": "data_tools.errors",
    "Moments": "lesde_infer.moments",
    "PredictionError": "lesde_infer.predictive",
    "ReportEntry": "lesde_infer.report",
    "Statistics": "lesde_infer.statistics",
    "check": "lesde_infer.predictive",
    "compute_statistics": "lesde_infer.statistics",
    "estimate_moments": "lesde_infer.moments",
    "fit": "lesde_infer.inference",
    "load": "lesde_infer.fit_result",
    "simulate": "lesde_infer.simulation",
    "write_report": "lesde_infer.report",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'lesde_infer' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
