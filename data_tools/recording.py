"""Read recordings: features of a fixed set of samples, taken again and again while a network trains."""

import os
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import numpy as np
from jaxtyping import Float, Int

from data_tools.errors import InputError
from data_tools.record_array import RecordArray, checked_dataset
from data_tools.recorded_elasticity import RecordedElasticity, read_elasticity
from data_tools.recording_schema import (
    FORMAT,
    RESERVED_ATTRIBUTES,
    VERSION,
    AttributeValue,
    as_integer_labels,
    check_class_frequencies,
    check_labels,
    check_steps,
    decode_name,
)
from data_tools.reduced_records import ROOT, ReducedCase, ReducedLayout, read_case, read_labels, read_reduction
from data_tools.untrusted_hdf5 import check_contents, damage_reported, open_untrusted, read_attributes
from data_tools.writer_state import WriterState, writer_state


@dataclass(frozen=True)
class RecordedClassifier:
    """The last linear layer at every record: logits = features · weightᵀ + bias.

    Attributes
    ----------
    weight : RecordArray
        (T, K, p).
    bias : RecordArray
        (T, K).
    layer : str or None
        The recorded layer that feeds it, where that is recorded.
    """

    weight: RecordArray
    bias: RecordArray
    layer: str | None


class Recording:
    """A recording on disk; its features are read lazily.

    Opening checks the whole structure (see `data_tools.recording_schema` for the format) and reads only what is small.
    A recording can be read while it is being made, and after its writer was killed: it then ends with the last record
    that was completed. Use it as a context manager, or call `close`.

    Parameters
    ----------
    path
        The file.

    Attributes
    ----------
    path : pathlib.Path
        The file.
    steps : (T,) int64
        Optimizer steps done at each record, strictly increasing.
    time : (T,) float64
        The same as a time: optimizer steps, or the cumulative learning rate.
    labels, given_labels : (n,) int64
        What each sample is, and what it is trained as.
    class_frequencies : (K,) float64 or None
        Share of each class, by `labels`, among the samples that training draws, where that is recorded.
    n_records, n_samples, n_classes : int
        T, n and K.
    layers : list of str
        Recorded layers.
    logits : str or None
        The layer that holds the logits.
    classifier : RecordedClassifier or None
        Weight and bias of the last layer at every record.
    scalars : dict of str to (T,) float64
        Losses, learning rates and the like.
    provenance : dict
        Where the recording comes from: versions, model, optimizer, seed, …
    writer : str
        What had become of its writer when it was opened: ``finished``, ``writing``, ``died`` or ``unknown``, see
        `data_tools.writer_state`.

    Raises
    ------
    InputError
        If the file is missing, is not a recording, is damaged, is unsafe to read, has no records, or has labels or
        steps that cannot be right.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._file = open_untrusted(self.path)
        self.writer: WriterState = writer_state(self.path)
        try:
            with damage_reported(self.path):
                self._read_structure()
        except BaseException:
            self.close()
            raise

    def _read_structure(self) -> None:
        attributes = checked_format(self._file, self.path)
        check_contents(self._file, self.path)
        # The counter is read first: a live writer may add records behind it meanwhile, which are then not looked at.
        committed = int(self._dataset("/committed", ())[()]) if "committed" in self._file else None
        labels = self._dataset("/labels", (None,))
        self.labels: Int[np.ndarray, " sample"] = as_integer_labels(labels[:], f"{self.path}:/labels")
        self.n_samples = self.labels.size
        given = self._dataset("/given_labels", (self.n_samples,)) if "given_labels" in self._file else labels
        self.given_labels: Int[np.ndarray, " sample"] = as_integer_labels(given[:], f"{self.path}:/given_labels")

        growing = {"/step": self._dataset("/step", (None,)), "/time": self._dataset("/time", (None,))}
        features = self._children("features")
        if not features:
            raise InputError(f"{self.path}: /features holds no layer; record at least one")
        for name in features:
            growing[f"/features/{name}"] = self._dataset(f"/features/{name}", (None, self.n_samples, None))
            if growing[f"/features/{name}"].shape[2] < 1:
                raise InputError(f"{self.path}: /features/{name} has no features; record another layer")
        for name in self._children("scalars"):
            growing[f"/scalars/{name}"] = self._dataset(f"/scalars/{name}", (None,))
        if "classifier" in self._file:
            growing["/classifier/weight"] = weight = self._dataset("/classifier/weight", (None, None, None))
            growing["/classifier/bias"] = self._dataset("/classifier/bias", (None, weight.shape[1]))
        self.n_records = self._count_records(growing, committed)

        arrays = {name: RecordArray(dataset, self.n_records, self.path) for name, dataset in growing.items()}
        self.steps: Int[np.ndarray, " time"] = as_integer_labels(arrays["/step"][:], f"{self.path}:/step")
        check_steps(self.steps, f"{self.path}:/step")
        self.time: Float[np.ndarray, " time"] = arrays["/time"][:].astype(np.float64)
        self._features = {decode_name(name): arrays[f"/features/{name}"] for name in features}
        self.layers = list(self._features)
        self.logits = self._layer_attribute(attributes.get("logits_layer"), "logits_layer of /")
        n_outputs = self._features[self.logits].shape[2] if self.logits is not None else None
        self.n_classes = check_labels(self.labels, self.given_labels, f"{self.path}:", n_outputs)
        self._probe_labels = read_labels(self._file, self.path) if ROOT in self._file else None
        self.class_frequencies = self._read_frequencies()
        self.classifier = self._read_classifier(arrays)
        self.scalars: dict[str, Float[np.ndarray, " time"]] = {
            decode_name(name.removeprefix("/scalars/")): array[:].astype(np.float64)
            for name, array in arrays.items()
            if name.startswith("/scalars/")
        }
        self.provenance: dict[str, AttributeValue] = {
            name: value for name, value in attributes.items() if name not in RESERVED_ATTRIBUTES
        }

    def _dataset(self, where: str, expected: tuple[int | None, ...]) -> Any:
        kind = "iu" if where in {"/step", "/labels", "/given_labels", "/committed"} else "f"
        return checked_dataset(self._file, self.path, where, expected, kind)

    def _children(self, group: str) -> list[str]:
        node = self._file.get(group)
        if node is None:
            return []
        if not hasattr(node, "keys"):
            raise InputError(f"{self.path}: /{group} is a dataset, expected a group")
        return list(node.keys())

    def _count_records(self, growing: dict[str, Any], committed: int | None) -> int:
        shortest = min(growing, key=lambda where: growing[where].shape[0])
        available = int(growing[shortest].shape[0])
        if committed is not None and not 0 <= committed <= available:
            raise InputError(
                f"{self.path}: /committed counts {committed} records but {shortest} holds {available}; save what is "
                "whole with `lesde recover`"
            )
        n_records = available if committed is None else committed
        if n_records == 0:
            raise InputError(f"{self.path}: holds no records; record at least one step")
        return n_records

    def _layer_attribute(self, name: AttributeValue | None, where: str) -> str | None:
        if name is not None and name not in self._features:
            raise InputError(
                f"{self.path}: attribute {where} names {name!r}, but recorded are {', '.join(self._features)}"
            )
        return None if name is None else str(name)

    def _read_frequencies(self) -> Float[np.ndarray, " class_"] | None:
        if "class_frequencies" not in self._file:
            return None
        stored = self._dataset("/class_frequencies", (self.n_classes,))[:]
        return check_class_frequencies(stored, self.n_classes, f"{self.path}:/class_frequencies")

    def _read_classifier(self, arrays: dict[str, RecordArray]) -> RecordedClassifier | None:
        if "/classifier/weight" not in arrays:
            return None
        attributes = read_attributes(self._file["classifier"], self.path)
        layer = self._layer_attribute(attributes.get("classifier_layer"), "classifier_layer of /classifier")
        weight, bias = arrays["/classifier/weight"], arrays["/classifier/bias"]
        width = self._features[layer].shape[2] if layer is not None else weight.shape[2]
        if weight.shape[1:] != (self.n_classes, width):
            raise InputError(
                f"{self.path}: /classifier/weight has shape {weight.shape}, "
                f"expected (any, {self.n_classes}, {width}) for {self.n_classes} classes"
            )
        return RecordedClassifier(weight, bias, layer)

    def features(self, layer: str) -> RecordArray:
        """Return the features of a layer, (T, n, p), read as they are indexed.

        Parameters
        ----------
        layer
            One of `layers`.

        Raises
        ------
        InputError
            If the layer was not recorded; the message lists those that were.
        """
        if layer not in self._features:
            raise InputError(f"{self.path}: layer {layer!r} was not recorded; choose one of {', '.join(self.layers)}")
        return self._features[layer]

    @property
    def is_reduced(self) -> bool:
        """Whether it holds the features of a few samples, and statistics of all (`data_tools.reduced_records`)."""
        return self._probe_labels is not None

    def probe_labels(self, group: Literal["labels", "given_labels"]) -> Int[np.ndarray, " sample"]:
        """Return the classes of all samples of the probe, of which a reduced recording holds a few."""
        own = (self.labels, self.given_labels) if self._probe_labels is None else self._probe_labels
        return own[0] if group == "labels" else own[1]

    def reduced(self, layer: str, impact: str | None, group: str, filtered: bool = False) -> ReducedCase:
        """Return what a reduced recording holds of a layer under an impact, or any, and a grouping; maybe filtered.

        Raises
        ------
        InputError
            If it does not hold it, or what is stored cannot be right.
        """
        width, labels = self.features(layer).shape[2], (self.probe_labels("labels"), self.probe_labels("given_labels"))
        with damage_reported(self.path, f"what is kept of layer {layer}"):
            return read_case(self._file, self.path, layer, impact, group, self.n_records, width, labels, filtered)

    def reduction(self) -> tuple[ReducedLayout, dict[str, RecordArray]] | None:
        """Return how what is kept of all samples is laid out, and all of it; None where the recording is whole."""
        if self._probe_labels is None:
            return None
        with damage_reported(self.path, "what is kept of all samples"):
            return read_reduction(self._file, self.path, self._probe_labels, self.n_records)

    def choose_layer(self, layer: str | None) -> str:
        """Return the layer asked for, or the logits, or the only layer.

        Raises
        ------
        InputError
            If it was not recorded, or none was asked for and there are several.
        """
        if layer is None:
            if self.logits is not None:
                return self.logits
            if len(self.layers) == 1:
                return self.layers[0]
            raise InputError(
                f"{self.path}: no layer is marked as logits; choose one with --layer: {', '.join(self.layers)}"
            )
        if layer not in self.layers:
            raise InputError(f"{self.path}: no layer '{layer}'; it holds {', '.join(self.layers)}")
        return layer

    def elasticity(self, layer: str, group: Literal["labels", "given_labels"] = "labels") -> RecordedElasticity | None:
        """Return what was measured of the elasticity of a layer, read as it is indexed.

        Parameters
        ----------
        layer
            One of `layers`.
        group
            Whether the classes that move are those of `labels` or of `given_labels`.

        Returns
        -------
        RecordedElasticity or None
            None if nothing was measured for this layer, or not by this grouping.

        Raises
        ------
        InputError
            If the layer was not recorded, or what is stored cannot be right.
        """
        width = self.features(layer).shape[2]
        if group not in ("labels", "given_labels"):
            raise InputError(f"group is {group!r}; choose labels or given_labels")
        same = np.array_equal(self.labels, self.given_labels)
        with damage_reported(self.path, f"the elasticity of layer {layer}"):
            return read_elasticity(self._file, self.path, layer, "labels" if same else group, self.n_classes, width)

    def check_finite(self, layer: str, until: int | None = None) -> Int[np.ndarray, " time"]:
        """Read the features of a layer once and refuse those that no model can be fitted to.

        A sample all of whose features are NaN at a record is missing there, which is no reason to refuse; one with some
        features that are not finite is damaged. Where every sample is missing from some record to the last, training
        is taken to have diverged: a fit would silently stop there.

        Parameters
        ----------
        layer
            One of `layers`.
        until
            Look at records up to this step only.

        Returns
        -------
        (T,) int
            Samples missing at each record that was looked at.

        Raises
        ------
        InputError
            At the first record with values that are infinite or not a number, naming the last step before it; or if
            all samples are missing from some record on, or no feature changes in any record; or if there is no record
            up to `until`.
        """
        features = self.features(layer)
        n_records = self.n_records if until is None else int(np.searchsorted(self.steps, until, side="right"))
        if n_records == 0:
            raise InputError(f"{self.path}: no record up to step {until}; the first is at step {self.steps[0]}")
        missing = np.zeros(n_records, dtype=np.int64)
        start, changed = np.array(features[0]), False
        for record in range(n_records):
            values = features[record]
            finite = np.isfinite(values)
            absent = np.isnan(values).all(axis=1)
            missing[record] = np.count_nonzero(absent)
            count = values.size - np.count_nonzero(finite) - missing[record] * values.shape[1]
            if count:
                raise InputError(
                    f"{self.path}: layer {layer} holds {count} values that are infinite or not a number "
                    f"at step {self.steps[record]}; {self._mend(record)}"
                )
            known = ~absent & ~np.isnan(start[:, 0])
            changed = changed or not np.array_equal(values[known], start[known])
            if missing[0]:
                start = np.where(np.isnan(start), values, start)  # a sample that comes late is compared with its first
        if missing[-1] == self.n_samples:
            held = np.flatnonzero(missing < self.n_samples)
            first = int(held[-1]) + 1 if held.size else 0
            raise InputError(
                f"{self.path}: layer {layer} holds nothing but NaN from step {self.steps[first]} on: training diverged "
                f"or its features were lost; {self._mend(first)}"
            )
        if n_records > 1 and not changed:
            raise InputError(
                f"{self.path}: layer {layer} is the same at every record, so nothing was learned that could be "
                "analysed; check that the optimizer updates this layer"
            )
        return missing

    def _mend(self, record: int) -> str:
        """Say what to do about a record that cannot be used."""
        return f"fit what comes before with --until {self.steps[record - 1]}" if record else "train again"

    def close(self) -> None:
        """Close the file; what was read stays usable."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def checked_format(file: Any, path: Path) -> dict[str, AttributeValue]:
    """Return the root attributes of an open file that says that it is a recording of this version.

    Raises
    ------
    InputError
        If it is something else.
    """
    kind = read_attributes(file, path, only=("format",)).get("format")
    if kind == "lesde-fit":
        raise InputError(f"{path}: a posterior, made by `lesde fit`, where a recording is wanted")
    if kind != FORMAT:
        raise InputError(
            f"{path}: an HDF5 file, but not a recording (its root lacks format={FORMAT!r}); "
            "make one with write_recording"
        )
    attributes = read_attributes(file, path)
    if attributes.get("version") != VERSION:
        raise InputError(
            f"{path}: recording format version {attributes.get('version')}, but this program reads version "
            f"{VERSION}; install the version of lesde-infer that wrote it"
        )
    return attributes
