"""Save what is whole in a recording whose writer died, as a recording like any other."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import h5py

from data_tools.errors import InputError
from data_tools.new_file import free_space, refuse_existing, written_whole
from data_tools.record_series import RecordSeries, blocks, entry_bytes
from data_tools.recording import Recording, checked_format
from data_tools.reduced_records import ROOT
from data_tools.untrusted_hdf5 import check_contents, damage_reported, open_untrusted, read_attributes
from data_tools.writer_guard import WriterGuard
from data_tools.writer_state import WriterState, writer_state

_GROWING = ("step", "time", "features", "scalars", "classifier")
_MEASURED = "elasticity"
_SPACE_KEPT_FREE = 16 * 2**20  # bytes
_COUNTERS = ("committed", "elasticity_committed")


@dataclass(frozen=True)
class Recovery:
    """What became of a recording.

    Attributes
    ----------
    source
        The file that was looked at.
    out
        The recording that was made of it; None if it lost nothing, so that it was not copied.
    writer
        Whether its writer had ``finished`` or ``died``; ``unknown`` where the file system knows no locks.
    n_kept, n_lost
        Records that are whole, and those that are not.
    n_measurements_kept, n_measurements_lost
        The same of measurements of elasticity.
    reasons
        Why anything was lost, a phrase for each cause.
    """

    source: Path
    out: Path | None
    writer: WriterState
    n_kept: int
    n_lost: int
    n_measurements_kept: int
    n_measurements_lost: int
    reasons: tuple[str, ...]


def recover(
    path: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    force: bool = False,
    copy_healthy: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Recovery:
    """Copy all whole records of a recording to a new file.

    A record is whole if its writer completed it and every part of it can be read. What a writer that died, or found no
    more room on the disk, left half done is cut off; a record that was damaged later is left out, as if it had never
    been taken. The source is only read.

    Parameters
    ----------
    path
        The recording.
    out
        File to make; it appears complete or not at all.
    force
        Replace an existing file.
    copy_healthy
        Also copy a recording that was finished and lost nothing.
    progress
        Called now and then with the bytes done and the bytes in all.

    Returns
    -------
    Recovery
        What was kept and lost.

    Raises
    ------
    InputError
        If the file is no recording, is still being written, is so damaged that its structure cannot be read, or holds
        no whole record; or `out` exists.
    """
    source, target = Path(path), Path(out)
    refuse_existing(target, force)
    writer = writer_state(source) if source.is_file() else "finished"
    if writer == "writing":
        raise InputError(
            f"{source}: is still being written, and can be read as it is; to copy it, end its writer first"
        )
    with open_untrusted(source) as file, damage_reported(source):
        attributes = checked_format(file, source)
        check_contents(file, source)
        contents = _Contents(file, source, progress)
        records, measurements = contents.series
        if not records.kept.size:
            raise InputError(f"{source}: nothing can be saved, as it holds no whole record; record again")
        is_healthy = writer == "finished" and not records.n_lost and not measurements.n_lost
        if ROOT in file and not is_healthy:
            raise InputError(f"{source}: a reduced recording that is damaged; reduce the whole recording again")
        if not is_healthy:
            attributes |= {"recovered_from": source.name, "records_lost": records.n_lost}
        if not is_healthy or copy_healthy:
            _refuse_without_room(target, source.stat().st_size)
            with written_whole(target, force) as temporary:
                with _new_file(temporary, target) as new:
                    new.attrs.update(attributes)
                    new.attrs["closed"] = attributes.get("closed", datetime.now(UTC).isoformat(timespec="seconds"))
                    contents.copy_to(new)
                with Recording(temporary):
                    pass  # a copy that cannot be read is not handed on
    return Recovery(
        source,
        None if is_healthy and not copy_healthy else target,
        writer,
        records.kept.size,
        records.n_lost,
        measurements.kept.size,
        measurements.n_lost,
        (*records.reasons, *measurements.reasons),
    )


class _Contents:
    """All objects of a recording, and which of its records and measurements are whole.

    Attributes
    ----------
    series
        The datasets that grow by records, and those that grow by measurements.
    """

    def __init__(self, file: Any, path: Path, progress: Callable[[int, int], None] | None) -> None:
        self._file, self._path = file, path
        records, measurements, self._fixed = _sorted_datasets(file)
        n_bytes = sum(a.shape[0] * entry_bytes(a) for a in (*records.values(), *measurements.values()))
        self._advance = advance = _advancing(progress, 2 * n_bytes)
        moments = [name for name in measurements if name.endswith("/step")]
        self.series = (
            RecordSeries(file, path, records, ["step"], _COUNTERS[0], "records", advance),
            RecordSeries(file, path, measurements, moments, _COUNTERS[1], "measurements of elasticity", advance),
        )

    def copy_to(self, new: Any) -> None:
        """Copy all that is whole to a new file."""
        for name, node in _walk(self._file):
            if isinstance(node, h5py.Group):  # made in the order that layers have
                new.create_group(name, track_order=True).attrs.update(read_attributes(node, self._path))
        for name in self._fixed:
            new[name] = self._file[name][()]
        for counter, series in zip(_COUNTERS, self.series, strict=True):
            if counter in self._file:
                new[counter] = series.kept.size
            for name, array in series.arrays.items():
                _copy_entries(array, new, name, series, self._advance)


def _refuse_without_room(target: Path, n_bytes: int) -> None:
    if free_space(target) < n_bytes + _SPACE_KEPT_FREE:
        raise InputError(f"{target}: the disk has no room for {n_bytes} bytes more; make room, or save to another disk")


@contextmanager
def _new_file(temporary: Path, target: Path) -> Iterator[Any]:
    """Make an HDF5 file, and see to it that the process survives when it cannot be written."""
    try:
        new = h5py.File(temporary, "x", libver="latest")
        guard = WriterGuard(new)
    except (OSError, RuntimeError) as error:
        raise InputError(f"{target}: cannot be written ({' '.join(str(error).split())})") from error
    try:
        yield new
        new.close()
    except BaseException as error:
        guard.cut_off()
        if isinstance(error, OSError | RuntimeError):
            raise InputError(f"{target}: cannot be written ({' '.join(str(error).split())})") from error
        raise
    finally:
        guard.release()


def _sorted_datasets(file: Any) -> tuple[dict[str, Any], dict[str, Any], list[str]]:
    """Return the datasets that grow by records, those that grow by measurements, and the names of the others."""
    records: dict[str, Any] = {}
    measurements: dict[str, Any] = {}
    fixed: list[str] = []
    for name, node in _walk(file):
        if not isinstance(node, h5py.Dataset) or name in _COUNTERS:
            continue
        top = name.split("/")[0]
        if node.ndim and top == _MEASURED and not name.endswith("/shares"):
            measurements[name] = node
        elif node.ndim and (node.maxshape[0] is None or top in _GROWING):
            records[name] = node
        else:
            fixed.append(name)
    return records, measurements, fixed


def _walk(group: Any, above: str = "") -> Iterator[tuple[str, Any]]:
    """Yield all objects in a group with their names, in the order in which they were made where that is known."""
    for name in group:
        node = group[name]
        yield above + name, node
        if isinstance(node, h5py.Group):
            yield from _walk(node, f"{above}{name}/")


def _copy_entries(array: Any, new: Any, name: str, series: RecordSeries, advance: Callable[[int], None]) -> None:
    shape = (series.kept.size, *array.shape[1:])
    kept = new.create_dataset(
        name,
        shape,
        dtype=array.dtype,
        maxshape=(None, *array.shape[1:]),
        chunks=array.chunks or True,
        compression=array.compression,
        compression_opts=array.compression_opts,
        shuffle=array.shuffle,
        fletcher32=array.fletcher32,
    )
    for start, stop in blocks(array, series.kept.size):
        entries = series.kept[start:stop]
        first, last = int(entries[0]), int(entries[-1])
        if last - first + 1 == entries.size:
            kept[start:stop] = array[first : last + 1]
        else:  # what lies between may not be readable
            for place, entry in enumerate(entries, start=start):
                kept[place] = array[int(entry)]
        advance((stop - start) * entry_bytes(array))


def _advancing(progress: Callable[[int, int], None] | None, total: int) -> Callable[[int], None]:
    done = 0

    def advance(n_bytes: int) -> None:
        nonlocal done
        done += n_bytes
        if progress is not None:
            progress(min(done, total), total)

    return advance
