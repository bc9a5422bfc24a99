"""Infer local elasticity from recordings of neural network training.

Names are imported when first used, so that ``import lesde_infer`` is quick and starts no JAX.
"""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from data_tools.errors import InputError
    from lesde_infer.comparison import Comparison, compare
    from lesde_infer.comparison_report import write_comparison_report
    from lesde_infer.feature_geometry import Geometry, geometry
    from lesde_infer.fit_result import Fit, load
    from lesde_infer.fleet import Fleet, fit_many
    from lesde_infer.fleet_run import FleetRun
    from lesde_infer.forecast_result import Forecast
    from lesde_infer.forecasting import forecast
    from lesde_infer.inference import ConvergenceError, fit
    from lesde_infer.model_choice import DriftComparison, compare_drifts
    from lesde_infer.moments import Moments, estimate_moments
    from lesde_infer.predictive import Check, PredictionError, check
    from lesde_infer.predictive_density import PredictiveDensity, expected_log_predictive_density
    from lesde_infer.reduction import Reduction, reduce_recording
    from lesde_infer.report import ReportEntry, write_report
    from lesde_infer.simulation import simulate
    from lesde_infer.statistics import Statistics, compute_statistics
    from lesde_infer.truth import TruthCheck, check_truth

__all__ = [
    "Check",
    "Comparison",
    "ConvergenceError",
    "DriftComparison",
    "Fit",
    "Fleet",
    "FleetRun",
    "Forecast",
    "Geometry",
    "InputError",
    "Moments",
    "PredictionError",
    "PredictiveDensity",
    "Reduction",
    "ReportEntry",
    "Statistics",
    "TruthCheck",
    "__version__",
    "check",
    "check_truth",
    "compare",
    "compare_drifts",
    "compute_statistics",
    "estimate_moments",
    "expected_log_predictive_density",
    "fit",
    "fit_many",
    "forecast",
    "geometry",
    "load",
    "reduce_recording",
    "simulate",
    "write_comparison_report",
    "write_report",
]

__version__ = version("lesde-infer")

_HOMES = {
    "Check": "lesde_infer.predictive",
    "Comparison": "lesde_infer.comparison",
    "ConvergenceError": "lesde_infer.inference",
    "DriftComparison": "lesde_infer.model_choice",
    "Fit": "lesde_infer.fit_result",
    "Fleet": "lesde_infer.fleet",
    "FleetRun": "lesde_infer.fleet_run",
    "Forecast": "lesde_infer.forecast_result",
    "Geometry": "lesde_infer.feature_geometry",
    "InputError": "data_tools.errors",
    "Moments": "lesde_infer.moments",
    "PredictionError": "lesde_infer.predictive",
    "PredictiveDensity": "lesde_infer.predictive_density",
    "ReportEntry": "lesde_infer.report",
    "Reduction": "lesde_infer.reduction",
    "Statistics": "lesde_infer.statistics",
    "TruthCheck": "lesde_infer.truth",
    "check": "lesde_infer.predictive",
    "check_truth": "lesde_infer.truth",
    "compare": "lesde_infer.comparison",
    "compare_drifts": "lesde_infer.model_choice",
    "compute_statistics": "lesde_infer.statistics",
    "estimate_moments": "lesde_infer.moments",
    "expected_log_predictive_density": "lesde_infer.predictive_density",
    "fit": "lesde_infer.inference",
    "fit_many": "lesde_infer.fleet",
    "forecast": "lesde_infer.forecasting",
    "geometry": "lesde_infer.feature_geometry",
    "load": "lesde_infer.fit_result",
    "reduce_recording": "lesde_infer.reduction",
    "simulate": "lesde_infer.simulation",
    "write_comparison_report": "lesde_infer.comparison_report",
    "write_report": "lesde_infer.report",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'lesde_infer' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
