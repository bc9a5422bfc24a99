"""Where measurements of elasticity go in a recording."""

from typing import Any

import numpy as np

from data_tools.elasticity_records import ElasticityLayout, ElasticitySnapshot, named_arrays
from data_tools.errors import InputError
from data_tools.recording_layout import chunk_shape
from data_tools.recording_schema import check_steps, encode_name


class ElasticityDatasets:
    """The group ``/elasticity`` of a recording that is being written.

    Parameters
    ----------
    file
        The open `h5py.File`, in which datasets may still be made.
    layout
        What is measured.
    growing
        Shape and type of one measurement of every dataset, see `RecordingLayout.elasticity_growing`.

    Attributes
    ----------
    n_snapshots : int
        Measurements so far.
    """

    def __init__(
        self, file: Any, layout: ElasticityLayout, growing: dict[str, tuple[tuple[int, ...], np.dtype[Any]]]
    ) -> None:
        self._growing: dict[str, Any] = {}
        self._last_step: int | None = None
        self.n_snapshots = 0
        settings = layout.settings
        attributes = {
            "n_repeats": settings.n_repeats,
            "batch_size": settings.batch_size,
            "optimizer": settings.optimizer,
            "momentum": settings.momentum,
        }
        for layer in layout.shapes:
            root = f"elasticity/{encode_name(layer)}"
            group = file.create_group(root)
            group.attrs.update({name: value for name, value in attributes.items() if value is not None})
            group["shares"] = np.asarray(settings.shares, dtype=np.float64)
        for where, (shape, dtype) in growing.items():
            self._growing[where] = file.create_dataset(
                where, (0, *shape), dtype=dtype, maxshape=(None, *shape), chunks=chunk_shape(shape, dtype.itemsize)
            )
        self._committed = file.create_dataset("elasticity_committed", data=np.int64(0))

    def append(self, snapshot: ElasticitySnapshot, where: str) -> None:
        """Add a measurement, to be committed; `where` is the path of the file, for messages.

        Raises
        ------
        InputError
            If it holds other things than the layout says, or of other shapes, or the step does not increase.
        """
        if self._last_step is not None:
            check_steps(np.asarray([self._last_step, snapshot.step]), f"{where}:/elasticity")
        values: dict[str, Any] = {}
        for layer, measurements in snapshot.layers.items():
            root = f"elasticity/{encode_name(layer)}"
            values |= {f"{root}/step": snapshot.step, f"{root}/lr": snapshot.lr}
            values |= {f"{root}/{name}": array for name, array in named_arrays(measurements).items()}
        if values.keys() != self._growing.keys():
            odd = ", ".join(sorted(values.keys() ^ self._growing.keys()))
            raise InputError(
                f"{where}: every measurement must hold the same things, but at step {snapshot.step} differ: {odd}"
            )
        for name, value in values.items():
            expected = self._growing[name].shape[1:]
            if np.shape(value) != expected:
                raise InputError(
                    f"{where}: /{name} has shape {np.shape(value)} at step {snapshot.step}, expected {expected} "
                    "as before"
                )
        for name, value in values.items():
            dataset = self._growing[name]
            dataset.resize(self.n_snapshots + 1, axis=0)
            dataset[self.n_snapshots] = value
        self.n_snapshots += 1
        self._last_step = snapshot.step

    def commit(self) -> None:
        """Count what has been flushed."""
        self._committed[()] = self.n_snapshots
