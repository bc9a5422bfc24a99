"""Names, versions and rules of the recording format that its reader and its writer share.

Format version 1 is an HDF5 file with root attributes ``format`` and ``version``, and

====================== ============= ======= ===================================================================
dataset                shape         type    meaning
====================== ============= ======= ===================================================================
/step                  (T,)          int64   optimizer steps done when a record was taken, strictly increasing
/time                  (T,)          float64 the same as a time: steps, or cumulative learning rate
/labels                (n,)          int64   what each recorded sample is
/given_labels          (n,)          int64   what it is trained as
/class_frequencies     (K,)          float64 optional: share of each class, by /labels, in training; their sum is 1
/features/<layer>      (T, n, p)     float   features of every recorded sample; chunked by record
/classifier/weight     (T, K, p)     float   optional: the last linear layer
/classifier/bias       (T, K)        float   optional: its bias
/scalars/<name>        (T,)          float64 optional: loss, learning rate, …
/committed             ()            int64   how many records are complete; written after everything else
/elasticity/<layer>/…                        optional: what was measured of it directly, see below
/elasticity_committed  ()            int64   with it: how many measurements are complete
/reduced/…                                   optional: statistics of more samples, see `data_tools.reduced_records`
====================== ============= ======= ===================================================================

The root attribute ``logits_layer`` names the layer that holds the logits, the attribute ``classifier_layer`` of
``/classifier`` the layer that feeds the classifier; both are optional. A sample whose features are all NaN at
a record is missing there. In dataset names ``/`` is written ``%2F`` and
``%`` is written ``%25``.

Elasticity is measured at S steps of its own, in F strata with R repeats. F = K if the steps measured are stratified by
the given class of the sample stepped on, as they are at batch size 1; else F = 1. ``/elasticity/<layer>`` has the
attributes ``n_repeats`` and, where known, ``batch_size``, ``optimizer`` and ``momentum``, and these datasets:

============ =============== ======= ============================================================================
dataset      shape           type    meaning
============ =============== ======= ============================================================================
step         (S,)            int64   optimizer steps done at each measurement, strictly increasing
lr           (S,)            float64 learning rate then; NaN where unknown
shares       (F,)            float64 share of each stratum in training: their sum is 1
onestep      (S, F, R, K, p) float   change of the mean features of each class in each real step
tangent      (S, K, p)       float   optional: the mean change, linearised
impact       (S, K, p)       float   optional: class-mean impacts
kernel       (S, K, K)       float   optional: elasticity E_kl, first the class that moves, then that stepped on
similarity   (S, 2)          float   optional: relative similarity within classes, and across
============ =============== ======= ============================================================================

There the classes that move are those of ``/labels``. Where ``/given_labels`` differ, ``onestep_given_labels`` and so on
hold the same with classes by these.
"""

from collections.abc import Mapping, Sequence
from typing import TypeAlias

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import ArrayLike

from data_tools.errors import InputError

FORMAT = "lesde-recording"
VERSION = 1
RESERVED_ATTRIBUTES = frozenset({"format", "version", "logits_layer"})

FREQUENCY_TOLERANCE = 1e-3
"""Off 1 by no more than this, a sum of shares is taken to be rounded."""

AttributeValue: TypeAlias = str | int | float | bool


def encode_name(name: str) -> str:
    """Write a layer or scalar name as one component of an HDF5 path.

    Raises
    ------
    InputError
        If the name is empty.
    """
    if not name:
        raise InputError("a layer or scalar has an empty name; give it one")
    encoded = name.replace("%", "%25").replace("/", "%2F")
    return encoded.replace(".", "%2E") if set(encoded) == {"."} else encoded


def decode_name(component: str) -> str:
    """Undo `encode_name`."""
    return component.replace("%2E", ".").replace("%2F", "/").replace("%25", "%")


def check_steps(steps: Int[np.ndarray, " time"], where: str) -> None:
    """Refuse steps that are negative or do not strictly increase.

    Raises
    ------
    InputError
        Naming the first offending pair of records.
    """
    if steps.size == 0:
        raise InputError(f"{where} holds no records; record at least one step")
    if steps[0] < 0:
        raise InputError(f"{where} starts at {steps[0]}; steps count optimizer updates from 0")
    behind = np.flatnonzero(np.diff(steps) <= 0)
    if behind.size:
        first = int(behind[0])
        raise InputError(
            f"{where} must strictly increase, but record {first + 1} is at step {steps[first + 1]} "
            f"after step {steps[first]}; sort the records and drop repeats"
        )


def check_labels(
    labels: Int[np.ndarray, " sample"],
    given_labels: Int[np.ndarray, " sample"],
    where: str,
    n_outputs: int | None = None,
) -> int:
    """Check what the samples are and what they are trained as; return the number of classes K.

    Parameters
    ----------
    labels, given_labels
        Class of each recorded sample, 0 … K − 1.
    where
        What to call the place in messages, such as the path of the file.
    n_outputs
        Width of the logits, where they are recorded; K is then this number, else the largest label plus one.

    Returns
    -------
    int
        K.

    Raises
    ------
    InputError
        If a label is out of range, or there are fewer than two classes, or fewer than two samples in one of them:
        the spread within a class is then undefined.
    """
    if labels.size == 0:
        raise InputError(f"{where}/labels is empty; record at least two samples of two classes")
    if given_labels.shape != labels.shape:
        raise InputError(
            f"{where}/given_labels has shape {given_labels.shape}, expected {labels.shape} like /labels; "
            "give one label per recorded sample"
        )
    n_classes = int(max(labels.max(), given_labels.max())) + 1 if n_outputs is None else n_outputs
    for name, values in (("labels", labels), ("given_labels", given_labels)):
        outside = np.flatnonzero((values < 0) | (values >= n_classes))
        if outside.size:
            raise InputError(
                f"{where}/{name} holds {values[outside[0]]} at sample {outside[0]}, outside 0 … {n_classes - 1}; "
                "number the classes from 0"
            )
    counts = np.bincount(labels, minlength=n_classes)
    if np.count_nonzero(counts) < 2:
        raise InputError(f"{where}/labels holds one class only ({labels[0]}); record samples of two classes or more")
    for count, problem in ((0, "no sample"), (1, "only one sample")):
        classes = np.flatnonzero(counts == count)
        if classes.size:
            raise InputError(f"{where}/labels: class {classes[0]} has {problem}; record at least two of every class")
    return n_classes


def check_class_frequencies(frequencies: ArrayLike, n_classes: int, where: str) -> Float[np.ndarray, " class_"]:
    """Return shares of the classes in training as numbers whose sum is 1.

    Raises
    ------
    InputError
        If they are not K positive numbers, or their sum is not 1 to within `FREQUENCY_TOLERANCE`.
    """
    array = np.asarray(frequencies, dtype=np.float64)
    if array.shape != (n_classes,):
        raise InputError(f"{where}: {array.size} numbers for {n_classes} classes; give the share of each class")
    if not (np.all(np.isfinite(array)) and np.all(array > 0)):
        raise InputError(f"{where} must be positive, but is {array.tolist()}; give the share of each class in training")
    if abs(array.sum() - 1) > FREQUENCY_TOLERANCE:
        raise InputError(f"{where} must sum to 1, but {array.tolist()} sums to {array.sum():g}; give shares")
    return array / array.sum()


def as_integer_labels(labels: object, what: str) -> Int[np.ndarray, " sample"]:
    """Convert labels given as any sequence of whole numbers to int64.

    Raises
    ------
    InputError
        If they are not one-dimensional or not whole numbers.
    """
    array = np.asarray(labels)
    if array.ndim != 1:
        raise InputError(f"{what} has shape {array.shape}, expected one dimension; give one label per sample")
    if array.dtype.kind not in "iuf" or not np.all(np.isfinite(array)) or not np.array_equal(np.trunc(array), array):
        raise InputError(f"{what} of type {array.dtype} holds more than whole numbers; number the classes from 0")
    return array.astype(np.int64)


def as_attribute(value: object) -> AttributeValue:
    """Convert a provenance value to text or a number: sequences become their items joined by commas."""
    for plain in (str, bool, int, float):
        if isinstance(value, plain):
            return plain(value)  # also turns subclasses, such as PyTorch's version, into what HDF5 knows
    if isinstance(value, np.generic):
        return as_attribute(value.item())
    if isinstance(value, Sequence):
        return ", ".join(str(item) for item in value)
    return str(value)


def check_provenance(provenance: Mapping[str, object]) -> dict[str, AttributeValue]:
    """Convert provenance to attributes, leaving out what is None.

    Raises
    ------
    InputError
        If a name is one that the format itself uses.
    """
    for name in provenance:
        if name in RESERVED_ATTRIBUTES:
            raise InputError(f"provenance may not be called {name!r}, the format uses that name; choose another")
    return {name: as_attribute(value) for name, value in provenance.items() if value is not None}
