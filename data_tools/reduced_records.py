"""What a reduced recording holds of all of its samples: inner products, at a few kilobytes a record.

A reduced recording holds the features of a few samples only. What a fit needs of all of them it holds in ``/reduced``:

======================================== ======== ======= ==========================================================
dataset                                  shape    type    meaning
======================================== ======== ======= ==========================================================
/reduced/labels, /reduced/given_labels   (n,)     int64   of all samples
/reduced/samples                         (kept,)  int64   which of them are kept
/reduced/<layer>/<case>/class_means      (T,K,p)  float64 means over the samples of each class
/reduced/<layer>/<case>/impact           (T,K,p)  float64 contrasts of the impact
/reduced/<layer>/<case>/mean_impact      (T,p)    float64 direction in which impacts drive the mean over classes
/reduced/<layer>/<case>/mean_square      (T,)     float64 mean of all squared features
/reduced/<layer>/<case>/moved_along      (T,n)    float32 how far each sample moved since the record before, along the
                                                          impact of its class there
/reduced/<layer>/<case>/products         (T,m)    float64 inner products of the interval since the record before
======================================== ======== ======= ==========================================================

A case is the impact, ``I``, ``L`` or ``R``, and the grouping, joined by a hyphen, such as ``R-labels``. The first
record ends no interval; there the last two are 0, and so they are after a restart, where the features of all samples
that the record before held are unknown. `lesde_infer.reduced_intervals` says which products these are; the group has
the attributes ``n_contrast``, ``n_shared`` and ``n_axes``, numbers of directions.

With momentum m, a case may hold what differs where impacts are filtered by its memory (`lesde_infer.momentum`). Such
impacts are known only when the interval that they drive has ended, so rows are of that which ends at the record:

==================================== ========= ======= =============================================================
dataset                              shape     type    meaning
==================================== ========= ======= =============================================================
…/<case>/filtered/impact             (T,K,p)   float64 contrasts of what drove the interval since the record before
…/<case>/filtered/mean_impact        (T,p)     float64 direction in which it drove the mean over classes
…/<case>/filtered/moved_along        (T,n)     float32 as above, along that
…/<case>/filtered/products           (T,m)     float64 as above; of impacts at two times, as if the record were the last
…/<case>/filtered/memory             (T,2,K,v) float64 what the velocity remembers at the record, and the impacts there
==================================== ========= ======= =============================================================

The first four are 0 in the first record and after a restart; the group has the attribute ``momentum``.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np
from jaxtyping import Float, Int

from data_tools.errors import InputError
from data_tools.record_array import RecordArray, checked_dataset
from data_tools.recording_schema import AttributeValue, as_integer_labels, decode_name, encode_name
from data_tools.untrusted_hdf5 import read_attributes

ROOT = "reduced"
FILTERED = "filtered"
LABELS = ("labels", "given_labels")
Features: TypeAlias = Mapping[str, Float[np.ndarray, "sample _"]]
Classifier: TypeAlias = tuple[Float[np.ndarray, "class_ feature"], Float[np.ndarray, " class_"]] | None
Rows: TypeAlias = Float[np.ndarray, "record *shape"]
IMPACTS = ("I", "L", "R")
SHAPES = ("n_contrast", "n_shared", "n_axes")
BY_DRIVE = ("impact", "mean_impact", "moved_along", "products")


@dataclass(frozen=True)
class ReducedSource:
    """What is to be reduced: classes of all samples, the special layers, and where it comes from."""

    path: Path
    labels: Int[np.ndarray, " sample"]
    given_labels: Int[np.ndarray, " sample"]
    logits: str | None
    classifier_layer: str | None
    class_frequencies: Float[np.ndarray, " class_"] | None
    provenance: Mapping[str, AttributeValue]


@dataclass(frozen=True)
class ReducedLayout:
    """What a reduced recording holds besides the features of some samples.

    Attributes
    ----------
    labels, given_labels : array, shape (sample,)
        Of all samples.
    samples : array, shape (kept,)
        Samples whose features are kept, in order.
    arrays : dict
        Shape and type of one record of each array, by its name below ``/reduced``.
    attributes : dict
        Attributes of each case, and of what is filtered, by its name below ``/reduced``.
    """

    labels: Int[np.ndarray, " sample"]
    given_labels: Int[np.ndarray, " sample"]
    samples: Int[np.ndarray, " kept"]
    arrays: Mapping[str, tuple[tuple[int, ...], np.dtype[Any]]]
    attributes: Mapping[str, Mapping[str, AttributeValue]]

    def keep(self, features: Features) -> dict[str, Float[np.ndarray, "kept _"]]:
        """Return the features of the samples that are kept."""
        return {name: values[self.samples] for name, values in features.items()}


class Reducer(Protocol):
    """Makes of the features of all samples what a reduced recording holds of them: `lesde_infer.Reduction`."""

    def start(self, source: ReducedSource, features: Features, classifier: Classifier) -> ReducedLayout:
        """Start anew, given the first record: say what there will be."""

    def reduce(self, step: int, features: Features, classifier: Classifier) -> dict[str, Float[np.ndarray, "*shape"]]:
        """Return the arrays of a record; records come in order, the first as well."""

    def go_on(self, step: int, known: tuple[Features, Classifier] | None, rows: Mapping[str, Rows]) -> None:
        """Go on, after `start`, behind the record of a step, given the last two rows of each array up to it.

        ``known`` is that record again. Without it the interval that starts there is left out.
        """


@dataclass(frozen=True)
class ReducedCase:
    """What a reduced recording holds of a layer under an impact and a grouping; see the module's docstring.

    With a ``momentum``, `impact`, `mean_impact`, `moved_along` and `products` are those of filtered impacts.
    """

    class_means: RecordArray
    impact: RecordArray
    mean_impact: RecordArray
    mean_square: RecordArray
    moved_along: RecordArray
    products: RecordArray
    n_contrast: int
    n_shared: int
    n_axes: int
    momentum: float | None = None


def case_name(impact: str, group: str) -> str:
    """Return the name of a case."""
    return f"{impact}-{group}"


def read_labels(file: Any, path: Path) -> tuple[Int[np.ndarray, " sample"], Int[np.ndarray, " sample"]]:
    """Return what all samples of a reduced recording are, and what they are trained as."""
    labels, given = (
        as_integer_labels(checked_dataset(file, path, f"/{ROOT}/{name}", (None,), "iu")[:], f"{path}:/{ROOT}/{name}")
        for name in LABELS
    )
    if labels.shape != given.shape:
        raise InputError(f"{path}: /{ROOT}/given_labels has shape {given.shape}, expected {labels.shape}")
    return labels, given


def read_case(
    file: Any,
    path: Path,
    layer: str,
    impact: str | None,
    group: str,
    n_records: int,
    width: int,
    labels: tuple[Int[np.ndarray, " sample"], Int[np.ndarray, " sample"]],
    filtered: bool = False,
) -> ReducedCase:
    """Return a case of a reduced recording whose contents have been checked, given what `read_labels` returned.

    Without an ``impact`` it is any that is held. Where labels and given labels are the same, so are the groupings. With
    ``filtered`` it is what is held of impacts filtered by the memory of momentum.

    Raises
    ------
    InputError
        If the recording does not hold it, naming those that it holds, or something has the wrong shape or type.
    """
    groups = (group, *LABELS) if np.array_equal(*labels) else (group,)
    impacts = IMPACTS if impact is None else (impact,)
    roots = [f"/{ROOT}/{encode_name(layer)}/{case_name(one, by)}" for one in impacts for by in groups]
    root = next((root for root in roots if root in file), None)
    if root is None:
        held = ", ".join(sorted(cases(file))) or "nothing"
        raise InputError(
            f"{path}: a reduced recording, which holds {held}, not layer '{layer}' under "
            f"{case_name(impact or 'any impact', group)}; choose of these, or reduce the whole recording again"
        )
    means = checked_dataset(file, path, f"{root}/class_means", (None, None, width), "f")
    n_classes = means.shape[1]
    shapes: dict[str, tuple[int | None, ...]] = {
        "class_means": (None, n_classes, width),
        "impact": (None, n_classes, width),
        "mean_impact": (None, width),
        "mean_square": (None,),
        "moved_along": (None, len(labels[0])),
        "products": (None, None),
    }
    found: dict[str, Any] = {}
    if filtered:
        found["momentum"] = _read_momentum(file, path, f"{root}/{FILTERED}")
    for name, shape in shapes.items():
        within = f"{root}/{FILTERED}" if filtered and name in BY_DRIVE else root
        dataset = checked_dataset(file, path, f"{within}/{name}", shape, "f")
        if dataset.shape[0] < n_records:
            raise InputError(f"{path}: {within}/{name} holds {dataset.shape[0]} records, expected {n_records}")
        found[name] = RecordArray(dataset, n_records, path)
    attributes = read_attributes(file[root], path)
    for name in SHAPES:
        value = attributes.get(name)
        if not isinstance(value, int) or not 0 <= value <= width * n_classes:
            raise InputError(f"{path}: attribute {name} of {root} is {value!r}, expected a number of directions")
        found[name] = value
    return ReducedCase(**found)


def read_reduction(
    file: Any, path: Path, labels: tuple[Int[np.ndarray, " sample"], Int[np.ndarray, " sample"]], n_records: int
) -> tuple[ReducedLayout, dict[str, RecordArray]]:
    """Return how a reduced recording is laid out, and all arrays of it, given what `read_labels` returned.

    Raises
    ------
    InputError
        If it does not say which samples are kept, or something has the wrong shape or type.
    """
    if f"{ROOT}/samples" not in file:
        raise InputError(f"{path}: made by a version that did not keep what resuming takes; record to another file")
    samples = as_integer_labels(checked_dataset(file, path, f"/{ROOT}/samples", (None,), "iu")[:], f"{path}:/{ROOT}")
    arrays: dict[str, RecordArray] = {}
    attributes: dict[str, Mapping[str, AttributeValue]] = {}
    for name, node in _below(file[ROOT]):
        where = f"/{ROOT}/{name}"
        if hasattr(node, "keys"):
            attributes[name] = read_attributes(node, path)
        elif name not in (*LABELS, "samples"):
            dataset = checked_dataset(file, path, where, (None,) * max(1, node.ndim), "f")
            if dataset.shape[0] < n_records:
                raise InputError(f"{path}: {where} holds {dataset.shape[0]} records, expected {n_records}")
            arrays[name] = RecordArray(dataset, n_records, path)
    layout = ReducedLayout(
        *labels,
        samples,
        {name: (array.shape[1:], array.dtype) for name, array in arrays.items()},
        {name: found for name, found in attributes.items() if found},
    )
    return layout, arrays


def _below(group: Any, above: str = "") -> Iterator[tuple[str, Any]]:
    """Yield all objects in a group, and their names."""
    for name in group:
        yield above + name, group[name]
        if hasattr(group[name], "keys"):
            yield from _below(group[name], f"{above}{name}/")


def _read_momentum(file: Any, path: Path, root: str) -> float:
    if root not in file:
        raise InputError(
            f"{path}: a reduced recording, which holds no impacts filtered by the memory of momentum (by default they "
            "are where records are dense); use --drive instantaneous, or reduce the whole recording again"
        )
    return checked_momentum(read_attributes(file[root], path), path, root)


def checked_momentum(attributes: Mapping[str, AttributeValue], path: Path, root: str) -> float:
    """Return the momentum by whose memory impacts are filtered, of the attributes of what is held of them.

    Raises
    ------
    InputError
        If it is none.
    """
    momentum = attributes.get("momentum")
    if not isinstance(momentum, float) or not 0 < momentum < 1:
        raise InputError(f"{path}: attribute momentum of {root} is {momentum!r}, expected a number between 0 and 1")
    return momentum


def cases(file: Any) -> list[str]:
    """Return the cases that a reduced recording holds, as ``layer R-labels``."""
    found = []
    for layer, node in file[ROOT].items():
        if hasattr(node, "keys"):
            found += [f"{decode_name(layer)} {name}" for name in node]
    return found
