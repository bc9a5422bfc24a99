"""Record the features of a network while it trains, and read recordings.

Names are imported when first used, so that reading recordings needs neither PyTorch nor JAX.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from data_tools.elasticity import ElasticityMeasurement
    from data_tools.errors import InputError
    from data_tools.probe import Probe
    from data_tools.recorder import FeatureRecorder
    from data_tools.recording import Recording
    from data_tools.recording_writer import RecordingWriter, write_recording
    from data_tools.recovery import recover
    from data_tools.replaying import replay
    from data_tools.schedules import AdaptiveSchedule, EverySteps, LogarithmicSchedule
    from data_tools.thinning import thin_recording

__all__ = [
    "AdaptiveSchedule",
    "ElasticityMeasurement",
    "EverySteps",
    "FeatureRecorder",
    "InputError",
    "LogarithmicSchedule",
    "Probe",
    "Recording",
    "RecordingWriter",
    "recover",
    "replay",
    "thin_recording",
    "write_recording",
]

_HOMES = {
    "AdaptiveSchedule": "data_tools.schedules",
    "ElasticityMeasurement": "data_tools.elasticity",
    "EverySteps": "data_tools.schedules",
    "FeatureRecorder": "data_tools.recorder",
    "InputError": "data_tools.errors",
    "LogarithmicSchedule": "data_tools.schedules",
    "Probe": "data_tools.probe",
    "Recording": "data_tools.recording",
    "RecordingWriter": "data_tools.recording_writer",
    "recover": "data_tools.recovery",
    "replay": "data_tools.replaying",
    "thin_recording": "data_tools.thinning",
    "write_recording": "data_tools.recording_writer",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'data_tools' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
