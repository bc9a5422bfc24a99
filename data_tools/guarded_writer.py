"""Write what a recorder takes, and decide what becomes of the training when that fails."""

import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Literal, TypeAlias

import numpy as np
from jaxtyping import Float

from data_tools.background_writer import BackgroundWriter
from data_tools.elasticity_records import ElasticitySnapshot
from data_tools.errors import InputError
from data_tools.record_taking import Record
from data_tools.recording_layout import as_stored
from data_tools.recording_writer import RecordingWriter
from data_tools.reduced_records import Reducer

OnError: TypeAlias = Literal["warn", "raise"]


class GuardedWriter:
    """Hand records to a writer until that fails, and from then on to nobody.

    Parameters
    ----------
    writer
        The writer; nobody else may use it from now on.
    background
        Write in a thread.
    on_error
        ``"warn"``: tell once, close the file and go on without it. ``"raise"``: raise.
    reducer
        Makes of a record what a reduced recording holds of it.

    Attributes
    ----------
    layout : RecordingLayout
        What is written.
    is_stopped : bool
        Whether it failed.
    """

    def __init__(
        self, writer: RecordingWriter, *, background: bool, on_error: OnError, reducer: Reducer | None = None
    ) -> None:
        self._path, self.layout = writer.path, writer.layout
        self._reducer = reducer
        self._writer = BackgroundWriter(writer) if background else writer
        self._on_error = on_error
        self.is_stopped = False

    def append(
        self, step: int, record: Record, scalars: Mapping[str, float]
    ) -> dict[str, Float[np.ndarray, "sample _"]] | None:
        """Write a record, with further numbers; return its features as they are stored, or None if that failed.

        Raises
        ------
        InputError
            If it cannot be written and errors are to be raised.
        """
        stored: dict[str, Float[np.ndarray, "sample _"]] = {}

        def work() -> None:
            features, kept, reduced = record.features, self.layout.reduced, None
            if kept is not None and self._reducer is not None:
                reduced = self._reducer.reduce(step, features, record.classifier)
                features = kept.keep(features)
            stored.update(as_stored(features, self.layout.layers, f"{self._path}, step {step}"))
            numbers = record.scalars | {name: float(value) for name, value in scalars.items()}
            self._writer.append(
                step, stored, time=record.time, classifier=record.classifier, scalars=numbers, reduced=reduced
            )

        self._guard(work)
        return None if self.is_stopped else stored

    def append_elasticity(self, snapshot: ElasticitySnapshot) -> None:
        """Write a measurement of elasticity.

        Raises
        ------
        InputError
            As `append`.
        """
        self._guard(lambda: self._writer.append_elasticity(snapshot))

    def flush(self) -> None:
        """Wait until all so far is safe on disk.

        Raises
        ------
        InputError
            As `append`.
        """
        if isinstance(self._writer, BackgroundWriter):  # else it is already
            self._guard(self._writer.flush)

    def close(self, *, in_error: bool) -> None:
        """Write what waits, and close the file; an error on the way from the training is not replaced by another.

        Raises
        ------
        InputError
            As `append`.
        """
        self._guard(self._writer.close, warn=in_error)

    def _guard(self, work: Callable[[], None], *, warn: bool = False) -> None:
        if self.is_stopped:
            return
        try:
            work()
        except Exception as error:  # a broken disk may raise anything
            self.is_stopped = True
            self._close_after_error()
            told = error if isinstance(error, InputError) else InputError(f"{self._path}: {_one_line(error)}")
            if self._on_error == "raise" and not warn:
                raise told from error
            warnings.warn(f"recording stopped, training goes on: {told}", stacklevel=4)

    def _close_after_error(self) -> None:
        with suppress(Exception):  # it is the first error that is told
            self._writer.close()


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
