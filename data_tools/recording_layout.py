"""What is fixed over a recording: samples, layers, and what else goes with every record."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Int
from numpy.typing import ArrayLike, DTypeLike

from data_tools.elasticity_records import ElasticityLayout
from data_tools.errors import InputError
from data_tools.recording_schema import check_class_frequencies, check_labels, encode_name

_LARGEST_CHUNK = 2**20  # bytes; HDF5's default cache holds one chunk of this size
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
