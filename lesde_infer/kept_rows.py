"""Rows of a recording's intervals, kept in the user's cache folder from one fit to the next.

What a fit takes in of a large file is a thousandth of it, and takes as long to gather as several readings of the file.
It is kept in ``$XDG_CACHE_HOME/lesde/statistics``, one file for each recording, layer, impact, grouping and choice of
frequencies; it serves all units of time and all `until`. Of a recording that has grown only new records are read, and
the last of those that are known. What identifies a recording is said in `lesde_infer.recording_identity`; a file of
another recording, of another version or with a wrong checksum is not taken, and is replaced.

How far single samples move along the impact is as long as there are samples, and asked for at the end of a record only
(`lesde_infer.probe_sampling`): it is kept of those intervals of which it was asked for last.

Nothing is kept of recordings whose layer takes less than `WORTHWHILE` bytes: they are gathered in a second or two. The
environment variable ``LESDE_NO_CACHE`` turns all of it off. Where the folder cannot be written, or is full, statistics
are taken all the same. Files are written aside and put in place whole, so that processes may fill one cache at a time.

tests/lesde_infer/test_kept_rows.py holds kept statistics against those taken anew.
"""

import json
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from hashlib import blake2b
from importlib.metadata import version
from itertools import islice
from typing import Any

import numpy as np
from jaxtyping import Float

from data_tools.record_series import entry_bytes
from data_tools.recording import Recording
from lesde_infer.cache_folder import cache_folder, drop_oldest
from lesde_infer.interval_products import ClassMeanMovement
from lesde_infer.interval_rows import IntervalRow, MeasureRows, measured_rows, nothing
from lesde_infer.probe_sampling import moved_along
from lesde_infer.recording_identity import file_state, identity, is_same
from lesde_infer.reduced_intervals import Shape, pack, unpack
from lesde_infer.row_file import RowFile, RowWriter
from lesde_infer.snapshots import SnapshotReader

VERSION = 2  # of what rows hold and how it is computed: to be raised with any change of either
WORTHWHILE = 64 * 2**20
MOST_BYTES = 2**30  # of all files together
SWITCH = "LESDE_NO_CACHE"
NUMBERS = 3  # at the start of a row: mean square, whether there are products, whether there is an impact
_logger = logging.getLogger(__name__)


def is_large(recording: Recording, layer: str) -> bool:
    """Tell whether a layer takes so much that its rows are worth keeping, or taking on a cluster."""
    array = recording.features(layer)
    return len(array) * entry_bytes(array) >= WORTHWHILE


def keeping_is_on() -> bool:
    """Tell whether nobody turned it off."""
    return not os.environ.get(SWITCH)


def kept_rows(
    recording: Recording, reader: SnapshotReader, n_records: int, measure: MeasureRows = measured_rows
) -> Iterator[IntervalRow]:
    """Yield rows in order: first those that were kept, then those of other records, which are kept for the next time.

    ``reader`` reads the recording, and has no memory of records before; ``measure`` makes rows of what it reads.
    """
    state = file_state(recording.path)
    case = _Case(recording, reader)
    found = case.open()
    writer, last = _Writer(case, found), None
    try:
        for last in case.rows(found, n_records, writer.ask):
            yield last
        if last is None or last.record < n_records - 1:
            writer.start(0 if last is None else last.record + 1)
            known, earlier = (None, None) if last is None else (last.record, last.impact)
            for row in measure(reader, n_records, known, earlier):
                yield row._replace(moved_along=partial(writer.hold, row.record, row.moved_along))
                writer.add(row)
            writer.finish(n_records, state)
    finally:
        writer.close()
        if found is not None:
            found.close()


class _Case:
    """What rows are of: a recording, and the choices that they depend on."""

    def __init__(self, recording: Recording, reader: SnapshotReader) -> None:
        self.recording, self.reader = recording, reader
        groups = blake2b(np.ascontiguousarray(reader.groups).tobytes(), digest_size=16).hexdigest()
        weights = None if reader.weights is None else np.asarray(reader.weights).tolist()
        self.choices: dict[str, Any] = {
            "version": [VERSION, version("lesde-infer")],
            "layer": reader.layer,
            "impact": reader.impact,
            "groups": groups,
            "weights": weights,
        }
        name = blake2b(json.dumps([str(recording.path.resolve()), self.choices]).encode(), digest_size=16)
        self.path = cache_folder("statistics") / f"{name.hexdigest()}.rows"

    def open(self) -> RowFile | None:
        """Return what was kept; None where nothing was, or it is of something else."""
        try:
            found = RowFile(self.path)
        except (OSError, ValueError, KeyError, TypeError):
            return None
        with suppress(ValueError, KeyError, TypeError):
            header = found.header
            if header["choices"] == self.choices and is_same(self.recording, self.reader.layers, header["identity"]):
                with suppress(OSError):
                    os.utime(self.path)  # it was used
                return found
        found.close()
        return None

    def rows(self, found: RowFile | None, n_records: int, ask: Callable[[int], None]) -> Iterator[IntervalRow]:
        """Yield kept rows up to a record; ``ask`` is called with those whose movement of samples is asked for."""
        if found is None:
            return
        shape = Shape(*found.header["shape"])
        for record, numbers in enumerate(islice(found.rows(), n_records)):
            row = self._decode(record, numbers, shape)
            yield row._replace(moved_along=partial(self._moved_along, found, row, ask))

    def _moved_along(
        self, found: RowFile, row: IntervalRow, ask: Callable[[int], None]
    ) -> Float[np.ndarray, " sample"]:
        ask(row.record)
        kept = found.vector(row.record)
        return self.moved_along(row) if kept is None else kept

    def moved_along(self, row: IntervalRow) -> Float[np.ndarray, " sample"]:
        """Return how far samples move along the impact, from the features."""
        features, impact = self.recording.features(self.reader.layer), row.impact
        assert impact is not None  # noqa: S101  (there is where there are products)
        return moved_along(features[row.record - 1], features[row.record], impact, self.reader.groups)

    def encode(self, row: IntervalRow, shape: Shape) -> Float[np.ndarray, " number"]:
        """Return a row as numbers."""
        numbers = np.zeros(sum(self._lengths(shape)))
        parts = np.split(numbers, np.cumsum(self._lengths(shape))[:-1])
        parts[0][:] = row.mean_square, row.products is not None, row.impact is not None
        parts[1][:], parts[2][:] = row.held, row.common
        if row.impact is not None:
            parts[3][:] = row.impact.ravel()
        if row.products is not None and row.movement is not None:
            moved = row.movement
            for place, values in enumerate(
                (
                    pack(row.products, row.two_apart),
                    moved.contrasts,
                    moved.increment,
                    moved.mean_increment,
                    moved.mean_impact,
                ),
                start=4,
            ):
                parts[place][:] = values.ravel()
        return numbers

    def _decode(self, record: int, numbers: Float[np.ndarray, " number"], shape: Shape) -> IntervalRow:
        first, held, common, impact, packed, *moved = np.split(numbers, np.cumsum(self._lengths(shape))[:-1])
        contrasts, increment, mean_increment, mean_impact = moved
        found = IntervalRow(record, float(first[0]), held.astype(int), common.astype(int))
        size = self._size
        if first[2]:
            found = found._replace(impact=impact.reshape(size))
        if not first[1]:
            return found
        products, two_apart = unpack(packed, shape)
        movement = ClassMeanMovement(
            contrasts.reshape(size), increment.reshape(size), impact.reshape(size), mean_increment, mean_impact
        )
        return found._replace(products=products, movement=movement, two_apart=two_apart)

    @property
    def _size(self) -> tuple[int, int]:
        return self.reader.n_classes, self.recording.features(self.reader.layer).shape[2]

    def _lengths(self, shape: Shape) -> list[int]:
        n_classes, width = self._size
        matrix = n_classes * width
        return [NUMBERS, n_classes, n_classes, matrix, sum(shape.lengths), matrix, matrix, width, width]


class _Writer:
    """Keeps rows for the next time; where the disk does not take them it says so once, and does nothing more."""

    def __init__(self, case: _Case, found: RowFile | None) -> None:
        self._case, self._found = case, found
        self._file: RowWriter | None = None
        self._shape: Shape | None = None if found is None else Shape(*found.header["shape"])
        self._waiting: list[IntervalRow] = []  # rows before the first that says of what shape they are
        self._asked: list[int] = []

    def ask(self, record: int) -> None:
        """Note that the movement of samples of a row that was kept is wanted."""
        self._asked.append(record)

    def hold(self, record: int, moved_along: Callable[[], Any]) -> Float[np.ndarray, " sample"]:
        """Return the movement of samples of a new row, and keep it."""
        found: Float[np.ndarray, " sample"] = moved_along()
        with self._contained():
            if self._file is not None:
                self._file.add_vector(record, found)
        return found

    def start(self, n_kept: int) -> None:
        """Start a file, with so many rows that were kept, and what was asked of them."""
        with self._contained():
            self._case.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = RowWriter(self._case.path)
            if self._found is not None:
                for row in islice(self._found.rows(), n_kept):
                    self._file.add_row(row)
                for record in self._asked:
                    vector = self._found.vector(record)
                    if vector is not None:
                        self._file.add_vector(record, vector)

    def add(self, row: IntervalRow) -> None:
        """Add a new row."""
        if self._shape is None:
            self._waiting.append(row._replace(moved_along=nothing))
            if row.products is None:
                return
            self._shape, waiting = Shape.of(row.products), self._waiting
        else:
            waiting = [row]
        with self._contained():
            for own in waiting:
                if self._file is not None:
                    self._file.add_row(self._case.encode(own, self._shape))

    def finish(self, n_records: int, state: list[int] | None) -> None:
        """Put the file in place."""
        with self._contained():
            if self._file is None or self._shape is None:
                return
            of = identity(self._case.recording, self._case.reader.layers, n_records, state)
            self._file.finish({"choices": self._case.choices, "identity": of, "shape": list(self._shape)})
            drop_oldest(self._case.path.parent, MOST_BYTES)

    def close(self) -> None:
        """Let go of what was not put in place."""
        if self._file is not None:
            self._file.close()

    @contextmanager
    def _contained(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self.close()
            self._file = None
            _logger.warning(
                "%s: statistics are not kept there for the next time (%s)", self._case.path.parent, error.strerror
            )
