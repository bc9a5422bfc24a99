"""Write recordings so that they stay readable whatever happens to the writer.

All datasets are created first, then HDF5's single-writer mode is switched on, every record is flushed, and the counter
``/committed`` is written last. A killed writer thus leaves every committed record readable. New files are created under
a name of their own and moved into place, since opening an existing HDF5 file for writing destroys it even where the
opening then fails. Room on disk is reserved before anything is written to it.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import h5py
import numpy as np
from jaxtyping import Float, Int
from numpy.typing import ArrayLike

from data_tools.elasticity_datasets import ElasticityDatasets
from data_tools.elasticity_records import ElasticityLayout, ElasticitySettings, ElasticitySnapshot
from data_tools.errors import InputError
from data_tools.new_file import move_into_place, refuse_existing, temporary_beside, written_whole
from data_tools.recording_layout import FEATURE_TYPES, LayerLayout, RecordingLayout, as_stored, chunk_shape, growth
from data_tools.recording_schema import (
    FORMAT,
    VERSION,
    AttributeValue,
    as_integer_labels,
    check_provenance,
    check_steps,
    encode_name,
)
from data_tools.reduced_records import ROOT
from data_tools.reserved_space import ReservedSpace, close_and_cut
from data_tools.writer_guard import WriterGuard


class RecordingWriter:
    """Append records to a new file; each is safe on disk when `append` returns.

    Parameters
    ----------
    path
        File to make.
    layout
        What is recorded.
    provenance
        Text and numbers to keep with the recording.
    force
        Replace an existing file. Without it, one is never touched.

    Raises
    ------
    InputError
        If the file exists or its folder does not.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        layout: RecordingLayout,
        *,
        provenance: Mapping[str, object] | None = None,
        force: bool = False,
    ) -> None:
        self.path = Path(path)
        self.layout = layout
        self.n_records = self._n_safe = 0
        self._last_step: int | None = None
        self._process = os.getpid()
        self._record_bytes, self._measurement_bytes = growth(layout)
        attributes = check_provenance(provenance or {})
        refuse_existing(self.path, force)
        temporary = temporary_beside(self.path)
        try:
            self._file = h5py.File(temporary, "x", libver="latest")
        except OSError as error:
            raise InputError(f"{self.path}: cannot be written ({' '.join(str(error).split())})") from error
        self._guard = WriterGuard(self._file)
        try:
            self._create(attributes)
            self._file.swmr_mode = True
            self._space = ReservedSpace(self._file)
            self._guard.lock(temporary)
            move_into_place(temporary, self.path, force)
        except BaseException as error:
            self._guard.cut_off()
            temporary.unlink(missing_ok=True)
            if isinstance(error, OSError | RuntimeError):
                raise InputError(f"{self.path}: cannot be written ({' '.join(str(error).split())})") from error
            raise

    def _create(self, attributes: Mapping[str, AttributeValue]) -> None:
        layout, file = self.layout, self._file
        now = datetime.now(UTC).isoformat(timespec="seconds")
        file.attrs.update({"created": now, **attributes, "format": FORMAT, "version": VERSION})
        # Single-writer mode allows no new attributes, only new values of the same size.
        file.attrs.create("closed", np.bytes_(" " * len(now)))
        if layout.logits is not None:
            file.attrs["logits_layer"] = layout.logits
        file["labels"] = layout.labels
        file["given_labels"] = layout.given_labels
        if layout.class_frequencies is not None:
            file["class_frequencies"] = layout.class_frequencies
        self._growing: dict[str, Any] = {}
        file.create_group("features", track_order=True)  # layers are read back in the order in which they were named
        for where, (shape, dtype) in layout.growing().items():
            self._growing[where] = file.create_dataset(
                where, (0, *shape), dtype=dtype, maxshape=(None, *shape), chunks=chunk_shape(shape, dtype.itemsize)
            )
        if layout.reduced is not None:
            for name in ("labels", "given_labels", "samples"):
                file[f"{ROOT}/{name}"] = getattr(layout.reduced, name)
            for case, attributes_of_case in layout.reduced.attributes.items():
                file[f"{ROOT}/{case}"].attrs.update(attributes_of_case)
        if layout.classifier_layer is not None:
            file["classifier"].attrs["classifier_layer"] = layout.classifier_layer
        self._committed = file.create_dataset("committed", data=np.int64(0))
        self._elasticity: ElasticityDatasets | None = None
        if layout.elasticity is not None:
            self._elasticity = ElasticityDatasets(file, layout.elasticity, layout.elasticity_growing())

    def append(
        self,
        step: int,
        features: Mapping[str, Float[np.ndarray, "sample _"]],
        *,
        time: float | None = None,
        classifier: tuple[Float[np.ndarray, "class_ feature"], Float[np.ndarray, " class_"]] | None = None,
        scalars: Mapping[str, float] | None = None,
        reduced: Mapping[str, Float[np.ndarray, "*shape"]] | None = None,
        commit: bool = True,
    ) -> None:
        """Add a record.

        Parameters
        ----------
        step
            Optimizer steps done so far, more than at the record before.
        features
            For each layer of the layout, its features of all samples, (n, p).
        time
            The step as a time; by default the step itself.
        classifier
            Weight (K, p) and bias (K,) of the last layer, if the layout has them.
        scalars
            A number for each name in the layout.
        reduced
            What is kept of all samples, if the layout says so: an array for each name.
        commit
            Flush at once. Otherwise the record is safe only after the next `commit`.

        Raises
        ------
        InputError
            If something is missing or has another shape than the layout says, the step does not increase, the disk is
            full, or the process was forked after the file was opened.
        """
        self._check_process()
        if self._last_step is not None:
            check_steps(np.asarray([self._last_step, step]), f"{self.path}:/step")
        values: dict[str, Any] = {"step": step, "time": float(step if time is None else time)}
        stored = as_stored(features, self.layout.layers, f"{self.path}, step {step}")
        values |= {f"features/{encode_name(name)}": array for name, array in stored.items()}
        values |= {f"scalars/{encode_name(name)}": value for name, value in (scalars or {}).items()}
        values |= {f"{ROOT}/{name}": array for name, array in (reduced or {}).items()}
        if classifier is not None:
            values["classifier/weight"], values["classifier/bias"] = classifier
        if values.keys() != self._growing.keys():
            odd = ", ".join(sorted(values.keys() ^ self._growing.keys()))
            raise InputError(f"{self.path}: every record must hold the same things, but at step {step} differ: {odd}")
        for where, value in values.items():
            expected = self._growing[where].shape[1:]
            if np.shape(value) != expected:
                raise InputError(
                    f"{self.path}: /{where} has shape {np.shape(value)} at step {step}, expected {expected} as before"
                )
        self._space.ask(self._record_bytes, self.path)
        with self._failures_contained():
            for where, value in values.items():
                dataset = self._growing[where]
                dataset.resize(self.n_records + 1, axis=0)
                dataset[self.n_records] = value
        self.n_records += 1
        self._last_step = step
        if commit:
            self.commit()

    def append_elasticity(self, snapshot: ElasticitySnapshot, *, commit: bool = True) -> None:
        """Add what was measured of elasticity, at a step of its own.

        Parameters
        ----------
        snapshot
            The measurement.
        commit
            Flush at once. Otherwise it is safe only after the next `commit`.

        Raises
        ------
        InputError
            As `append`; or the layout says that nothing is measured.
        """
        self._check_process()
        if self._elasticity is None:
            raise InputError(f"{self.path}: was made without elasticity; give RecordingLayout(…, elasticity=…)")
        self._space.ask(self._measurement_bytes, self.path)
        with self._failures_contained():
            self._elasticity.append(snapshot, str(self.path))
        if commit:
            self.commit()

    def commit(self) -> None:
        """Make all records so far safe: flush them, then the counters that say how many there are."""
        with self._failures_contained():
            self._file.flush()
            self._committed[()] = self.n_records
            if self._elasticity is not None:
                self._elasticity.commit()
            self._file.flush()
        self._n_safe = self.n_records

    @contextmanager
    def _failures_contained(self) -> Iterator[None]:
        """Give the file up when a write fails, as HDF5 would take the process down on leaving."""
        try:
            yield
        except (OSError, RuntimeError) as error:
            self._guard.cut_off()
            raise InputError(
                f"{self.path}: writing failed after {self._n_safe} records, which are safe "
                f"({' '.join(str(error).split())}); make room, and record to another file"
            ) from error

    def move(self, path: Path) -> None:
        """Give the file another name in the same folder, in place of any file that has it, and go on writing to it."""
        move_into_place(self.path, path, force=True)
        self.path = path

    def _check_process(self) -> None:
        if os.getpid() != self._process:
            raise InputError(f"{self.path}: was opened by another process; open it in the process that records")
        if not self._file.id.valid:
            raise InputError(f"{self.path}: is closed, and holds {self._n_safe} records; record to another file")

    def close(self) -> None:
        """Commit and close the file; closing again does nothing."""
        if self._file.id.valid and os.getpid() == self._process:
            self.commit()
            with self._failures_contained():
                self._file.attrs.modify("closed", np.bytes_(datetime.now(UTC).isoformat(timespec="seconds")))
                close_and_cut(self._file)
            self._guard.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def write_recording(
    path: str | os.PathLike[str],
    steps: ArrayLike,
    labels: ArrayLike,
    features: Mapping[str, Any],
    *,
    logits: str | None = None,
    given_labels: ArrayLike | None = None,
    classifier: tuple[Any, Any] | tuple[Any, Any, str] | None = None,
    scalars: Mapping[str, ArrayLike] | None = None,
    time: ArrayLike | None = None,
    elasticity: tuple[ElasticitySettings, Sequence[ElasticitySnapshot]] | None = None,
    class_frequencies: ArrayLike | None = None,
    provenance: Mapping[str, object] | None = None,
    force: bool = False,
) -> Path:
    """Write a whole recording at once; the file appears complete or not at all.

    Parameters
    ----------
    path
        File to make.
    steps
        (T,) whole numbers, strictly increasing: optimizer steps done at each record.
    labels
        (n,) class of each sample, 0 … K − 1.
    features
        For each layer an array (T, n, p) of NumPy, or anything that is indexed by record, such as a dataset of h5py.
    logits
        The layer that holds the logits, if any.
    given_labels
        (n,) what each sample is trained as; by default its label.
    classifier
        Weight (T, K, p) and bias (T, K) of the last linear layer, and, if it is recorded, the layer that feeds it.
    scalars
        Numbers by name, each (T,).
    time
        (T,) the steps as a time; by default the steps themselves.
    elasticity
        What was measured of it directly, if anything: the settings, and at least one measurement.
    class_frequencies
        (K,) share of each class, by `labels`, among the samples that training draws; by default not recorded, and
        taken to be equal.
    provenance
        Text and numbers to keep with the recording.
    force
        Replace an existing file.

    Returns
    -------
    pathlib.Path
        `path`.

    Raises
    ------
    InputError
        If something has the wrong shape or contradicts something else, or the file exists.
    """
    path = Path(path)
    refuse_existing(path, force)
    steps_array = as_integer_labels(steps, "steps")
    check_steps(steps_array, "steps")
    labels_array = as_integer_labels(labels, "labels")
    given_array = labels_array if given_labels is None else as_integer_labels(given_labels, "given_labels")
    layers = {name: _layer_layout(name, array, steps_array.size, labels_array.size) for name, array in features.items()}
    numbers = {name: _per_record(values, f"scalars {name}", steps_array) for name, values in (scalars or {}).items()}
    times = steps_array.astype(np.float64) if time is None else _per_record(time, "time", steps_array)
    if elasticity is not None and not elasticity[1]:
        raise InputError("elasticity holds no measurement; give at least one, or elasticity=None")
    weight, bias = (None, None) if classifier is None else classifier[:2]
    layout = RecordingLayout(
        labels_array,
        given_array,
        layers,
        logits=logits,
        classifier_width=None if weight is None else _classifier_width(weight, bias, steps_array.size),
        classifier_layer=classifier[2] if classifier is not None and len(classifier) == 3 else None,
        scalars=tuple(numbers),
        elasticity=None if elasticity is None else ElasticityLayout.of(elasticity[0], elasticity[1][0]),
        class_frequencies=class_frequencies,
    )
    with (
        written_whole(path, force) as temporary,
        RecordingWriter(temporary, layout, provenance=provenance) as writer,
    ):
        for record, step in enumerate(steps_array):
            writer.append(
                int(step),
                {name: np.asarray(array[record]) for name, array in features.items()},
                time=float(times[record]),
                classifier=None if weight is None or bias is None else (weight[record], bias[record]),
                scalars={name: float(values[record]) for name, values in numbers.items()},
                commit=False,
            )
        for snapshot in () if elasticity is None else elasticity[1]:
            writer.append_elasticity(snapshot, commit=False)
    return path


def _layer_layout(name: str, array: Any, n_records: int, n_samples: int) -> LayerLayout:
    shape = tuple(np.shape(array)) if not hasattr(array, "shape") else tuple(array.shape)
    if len(shape) != 3 or shape[:2] != (n_records, n_samples):
        raise InputError(
            f"features of layer {name} have shape {shape}, expected ({n_records}, {n_samples}, any): "
            "records, samples, features"
        )
    dtype = np.dtype(getattr(array, "dtype", np.float64))
    if dtype.kind not in "biuf":
        raise InputError(f"features of layer {name} have type {dtype}, expected numbers")
    return LayerLayout(shape[2], dtype if dtype in FEATURE_TYPES else np.dtype(np.float64))


def _per_record(values: ArrayLike, what: str, steps: Int[np.ndarray, " time"]) -> Float[np.ndarray, " time"]:
    array = np.asarray(values, dtype=np.float64)
    if array.shape != steps.shape:
        raise InputError(f"{what} has shape {array.shape}, expected {steps.shape}: one number per record")
    return array


def _classifier_width(weight: Any, bias: Any, n_records: int) -> int:
    if np.ndim(weight) != 3 or np.ndim(bias) != 2 or not len(weight) == len(bias) == n_records:
        raise InputError(
            f"classifier has weight {np.shape(weight)} and bias {np.shape(bias)}, expected "
            f"({n_records}, classes, features) and ({n_records}, classes)"
        )
    return int(np.shape(weight)[2])
