"""What is fixed over a recording: samples, layers, and what else goes with every record."""

import bisect
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import ArrayLike, DTypeLike

from data_tools.elasticity_records import ElasticityLayout
from data_tools.errors import InputError
from data_tools.recording_schema import check_class_frequencies, check_labels, encode_name
from data_tools.reduced_records import ROOT, ReducedLayout

_LARGEST_CHUNK = 2**20  # bytes; HDF5's default cache holds one chunk of this size
_PER_CHUNK = 24  # bytes, of HDF5's index of chunks
_PER_DATASET = 1024  # bytes, of HDF5's headers
_NEAR_END_OF_HALF = float(np.finfo(np.float16).max) / 16
_logger = logging.getLogger(__name__)

StoredType: TypeAlias = Literal["float16", "float32", "float64"]
FEATURE_TYPES = (np.dtype(np.float16), np.dtype(np.float32), np.dtype(np.float64))


@dataclass(frozen=True)
class LayerLayout:
    """Width p and floating-point type of the features of one layer."""

    width: int
    dtype: DTypeLike = np.float32


@dataclass(frozen=True)
class RecordingLayout:
    """All that is fixed over a recording.

    Attributes
    ----------
    labels, given_labels
        Class of each recorded sample: what it is, and what it is trained as.
    layers
        Width and type of every recorded layer.
    logits
        The layer that holds the logits, if any.
    classifier_width
        Number of inputs of the last linear layer, if its weight and bias are recorded; it has K outputs.
    classifier_layer
        The recorded layer that feeds it, if any.
    scalars
        Names of the numbers recorded with every record.
    elasticity
        What is measured directly, if anything.
    class_frequencies
        Share of each class, by `labels`, in training, if known.
    reduced
        What is kept of all samples, if features are those of some (`data_tools.reduced_records`).
    n_classes
        K, found from the labels and the width of the logits.
    classifier_dtype
        float64 if any layer is, else float32.

    Raises
    ------
    InputError
        If names, widths or labels contradict each other.
    """

    labels: Int[np.ndarray, " sample"]
    given_labels: Int[np.ndarray, " sample"]
    layers: Mapping[str, LayerLayout]
    logits: str | None = None
    classifier_width: int | None = None
    classifier_layer: str | None = None
    scalars: Sequence[str] = ()
    elasticity: ElasticityLayout | None = None
    class_frequencies: ArrayLike | None = None
    reduced: ReducedLayout | None = None
    n_classes: int = field(init=False)
    classifier_dtype: np.dtype[Any] = field(init=False)

    def __post_init__(self) -> None:
        if not self.layers:
            raise InputError("no layer to record; name at least one")
        for name, layer in self.layers.items():
            encode_name(name)
            if np.dtype(layer.dtype) not in FEATURE_TYPES:
                raise InputError(f"layer {name}: type {layer.dtype} cannot be stored; use float16, float32 or float64")
            if layer.width < 1:
                raise InputError(f"layer {name}: has no features; record another layer")
        for special in (self.logits, self.classifier_layer):
            if special is not None and special not in self.layers:
                raise InputError(f"layer {special!r} is not among those recorded: {', '.join(self.layers)}")
        n_outputs = self.layers[self.logits].width if self.logits is not None else None
        object.__setattr__(self, "n_classes", check_labels(self.labels, self.given_labels, "", n_outputs))
        if self.class_frequencies is not None:
            checked = check_class_frequencies(self.class_frequencies, self.n_classes, "class_frequencies")
            object.__setattr__(self, "class_frequencies", checked)
        precise = any(np.dtype(layer.dtype) == np.float64 for layer in self.layers.values())
        object.__setattr__(self, "classifier_dtype", np.dtype(np.float64 if precise else np.float32))
        if self.classifier_layer is not None and self.classifier_width != self.layers[self.classifier_layer].width:
            raise InputError(
                f"the classifier takes {self.classifier_width} inputs but layer {self.classifier_layer} has "
                f"{self.layers[self.classifier_layer].width} features; name the layer that feeds it"
            )
        if self.elasticity is not None:
            self._check_elasticity(self.elasticity)

    def growing(self) -> dict[str, tuple[tuple[int, ...], np.dtype[Any]]]:
        """Return the shape and type of one record of every dataset that grows with the records."""
        found: dict[str, tuple[tuple[int, ...], np.dtype[Any]]] = {
            "step": ((), np.dtype(np.int64)),
            "time": ((), np.dtype(np.float64)),
        }
        for name, layer in self.layers.items():
            found[f"features/{encode_name(name)}"] = ((self.labels.size, layer.width), np.dtype(layer.dtype))
        if self.classifier_width is not None:
            found["classifier/weight"] = ((self.n_classes, self.classifier_width), self.classifier_dtype)
            found["classifier/bias"] = ((self.n_classes,), self.classifier_dtype)
        for name in self.scalars:
            found[f"scalars/{encode_name(name)}"] = ((), np.dtype(np.float64))
        if self.reduced is not None:
            found |= {f"{ROOT}/{name}": value for name, value in self.reduced.arrays.items()}
        return found

    def elasticity_growing(self) -> dict[str, tuple[tuple[int, ...], np.dtype[Any]]]:
        """Return the shape and type of one measurement of every dataset that grows with the measurements."""
        found: dict[str, tuple[tuple[int, ...], np.dtype[Any]]] = {}
        for layer, shapes in ({} if self.elasticity is None else self.elasticity.shapes).items():
            root = f"elasticity/{encode_name(layer)}"
            found |= {f"{root}/step": ((), np.dtype(np.int64)), f"{root}/lr": ((), np.dtype(np.float64))}
            # Changes are too small for half precision, whatever the features are stored in.
            dtype = np.promote_types(self.layers[layer].dtype, np.float32)
            found |= {f"{root}/{name}": (shape, dtype) for name, shape in shapes.items()}
        return found

    def _check_elasticity(self, elasticity: ElasticityLayout) -> None:
        strata = elasticity.settings.shares.size
        if strata not in (1, self.n_classes):
            raise InputError(f"elasticity has {strata} strata, expected 1 or {self.n_classes}, one for each class")
        for layer, shapes in elasticity.shapes.items():
            if layer not in self.layers:
                raise InputError(f"elasticity of layer {layer!r}: recorded are only {', '.join(self.layers)}")
            classes, width = self.n_classes, self.layers[layer].width
            endings = {"kernel": (classes, classes), "similarity": (2,)}
            for name, shape in shapes.items():
                ending = endings.get(name.removesuffix("_given_labels"), (classes, width))
                if shape[-len(ending) :] != ending:
                    raise InputError(
                        f"elasticity of layer {layer}: {name} has shape {shape}, expected it to end on {ending}"
                    )


def chunk_shape(shape: tuple[int, ...], itemsize: int) -> tuple[int, ...]:
    """Chunks of one record, split along samples, then features, to stay below the size of HDF5's cache."""
    if not shape:
        return (1024,)  # numbers: one chunk holds many records
    chunk, room = [1], max(1, _LARGEST_CHUNK // itemsize)
    for axis, length in enumerate(shape):
        inner = int(np.prod(shape[axis + 1 :]))
        chunk.append(max(1, min(length, room // inner)))
        room = max(1, room // chunk[-1])
    return tuple(chunk)


def projected_bytes(layout: RecordingLayout, n_records: int, n_measurements: int = 0) -> int:
    """Return about how large a recording gets.

    HDF5 stores whole chunks, so a layer whose samples do not fill its last chunk takes a little more than its features.

    Parameters
    ----------
    layout
        What is recorded.
    n_records, n_measurements
        How often, and how often elasticity is measured.
    """
    total = _PER_DATASET * 8 + layout.labels.nbytes + layout.given_labels.nbytes
    return total + sum(
        _PER_DATASET + _stored_bytes(shape, dtype, count)
        for growing, count in ((layout.growing(), n_records), (layout.elasticity_growing(), n_measurements))
        for shape, dtype in growing.values()
    )


def growth(layout: RecordingLayout) -> tuple[int, int]:
    """Return how many bytes a record takes on disk, and how many a measurement of elasticity."""
    growing = (layout.growing(), layout.elasticity_growing())
    record, measurement = (sum(_stored_bytes(*value, 1) for value in found.values()) for found in growing)
    return record, measurement


def records_within(layout: RecordingLayout, n_bytes: int, n_measurements: int = 0) -> int:
    """Return how many records fit into a file of so many bytes, see `projected_bytes`."""
    smallest = sum(math.prod(shape) * dtype.itemsize for shape, dtype in layout.growing().values())
    most = n_bytes // smallest + 1
    return bisect.bisect_right(range(most + 1), n_bytes, key=lambda n: projected_bytes(layout, n, n_measurements)) - 1


def _stored_bytes(shape: tuple[int, ...], dtype: np.dtype[Any], count: int) -> int:
    chunk = chunk_shape(shape, dtype.itemsize)
    n_chunks = math.prod(-(-length // size) for length, size in zip((count, *shape), chunk, strict=True))
    return n_chunks * (math.prod(chunk) * dtype.itemsize + _PER_CHUNK)


def layer_layouts(
    features: Mapping[str, Float[np.ndarray, "sample _"]],
    dtype: StoredType | None,
    before: Mapping[str, LayerLayout] | None = None,
) -> dict[str, LayerLayout]:
    """Return in which types layers are to be stored.

    Parameters
    ----------
    features
        Of the first record.
    dtype
        The type asked for, or None for that of the features. Layers that come near the end of float16 (above 1/16 of
        it, since features grow) are stored in float32 instead.
    before
        How they were stored in the recording that is resumed, if one is.
    """
    layouts: dict[str, LayerLayout] = {}
    for name, array in features.items():
        chosen = array.dtype if dtype is None else np.dtype(dtype)
        if dtype == "float16" and before is not None:
            if name in before and np.dtype(before[name].dtype) == np.float32:
                chosen = np.dtype(np.float32)
        elif dtype == "float16":
            largest = float(np.abs(array[np.isfinite(array)]).max(initial=0))
            if largest > _NEAR_END_OF_HALF:
                chosen = np.dtype(np.float32)
                _logger.warning("layer %s reaches %.4g and is recorded in float32", name, largest)
        layouts[name] = LayerLayout(array.shape[1], chosen)
    return layouts


def as_stored(
    features: Mapping[str, Float[np.ndarray, "sample _"]], layers: Mapping[str, LayerLayout], where: str
) -> dict[str, Float[np.ndarray, "sample _"]]:
    """Round features to the types in which they are stored.

    Parameters
    ----------
    features
        For each layer (n, p).
    layers
        The types.
    where
        What to call the record in messages.

    Raises
    ------
    InputError
        If a finite feature becomes infinite.
    """
    stored: dict[str, Float[np.ndarray, "sample _"]] = {}
    for name, values in features.items():
        array = np.asarray(values)
        dtype = np.dtype(layers[name].dtype) if name in layers else array.dtype
        with np.errstate(over="ignore"):
            stored[name] = array.astype(dtype, copy=False)
        if np.can_cast(array.dtype, dtype):
            continue
        overflown = np.isinf(stored[name]) & np.isfinite(array)
        if overflown.any():
            raise InputError(
                f"{where}: layer {name} reaches {np.abs(array[overflown]).max():.6g}, but {dtype} ends at "
                f"{np.finfo(dtype).max:,.0f}; record it in a wider type"
            )
    return stored
