"""Say before training how large its recording gets, and whether the disk has room for it."""

import logging
import shutil
import warnings
from pathlib import Path

from data_tools.errors import InputError
from data_tools.recording_layout import RecordingLayout, projected_bytes
from data_tools.reserved_space import KEPT_FREE
from data_tools.schedules import AdaptiveSchedule, Schedule, count_records

_logger = logging.getLogger(__name__)
_HANDFUL = 10  # records


def check_projected_size(
    path: Path, layout: RecordingLayout, schedule: Schedule, planned_steps: int | None, n_measurements: int
) -> None:
    """Log how large a recording gets, and warn if the disk has no room for it.

    Parameters
    ----------
    path
        Where it will be.
    layout, schedule
        What is recorded, and when.
    planned_steps
        Updates of the optimizer still to come. None: only the size of a record can be told.
    n_measurements
        How often elasticity will be measured.

    Raises
    ------
    InputError
        If the disk has no room for even ten records.
    """
    free = shutil.disk_usage(path.parent).free - KEPT_FREE
    few = projected_bytes(layout, _HANDFUL, min(n_measurements, 1))
    if few > free:
        raise InputError(
            f"{path}: {_HANDFUL} records take {_readable(few)}, but the disk has room for {_readable(max(free, 0))}; "
            "make room, or record fewer layers or samples"
        )
    one = (few - projected_bytes(layout, 0, min(n_measurements, 1))) / _HANDFUL
    if planned_steps is None:
        _logger.info("%s: a record takes %s; the disk has room for %s", path, _readable(one), _readable(free))
        return
    n_records = count_records(schedule, planned_steps)
    total = projected_bytes(layout, n_records, n_measurements)
    at_most = ""
    if isinstance(schedule, AdaptiveSchedule):
        at_most = "at most "
        total = min(total, schedule.max_bytes or total)
    _logger.info("%s: %s%d records of %s each, %s in all", path, at_most, n_records, _readable(one), _readable(total))
    if total > free:
        warnings.warn(
            f"{path}: the recording takes {at_most}{_readable(total)}, but the disk has room for {_readable(free)}; "
            "make room, or record less often, fewer layers or fewer samples, or with dtype='float16'",
            stacklevel=2,
        )


def _readable(n_bytes: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if n_bytes < 1024:
            return f"{n_bytes:.3g} {unit}"
        n_bytes /= 1024
    return f"{n_bytes:.3g} TiB"
