"""Draw the samples of a probe from a data set, equally many of each class."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from data_tools.errors import InputError
from data_tools.training_state import random_states_kept

_LABEL_ENTRIES = ("labels", "label")
_ARRAYS = (Tensor, np.ndarray, list, tuple, int, float)


def draw_probe(
    dataset: Any, per_class: int, seed: int, collate: Callable[[list[Any]], Any] | None
) -> tuple[Any, Int[np.ndarray, " sample"], Int[np.ndarray, " sample"]]:
    """Draw inputs, labels and indices, see `data_tools.probe.Probe.from_dataset`."""
    if not hasattr(dataset, "__getitem__") or not hasattr(dataset, "__len__"):
        hint = "give its .dataset" if hasattr(dataset, "dataset") else "give probe=(inputs, labels)"
        raise InputError(
            f"a {type(dataset).__name__} has no numbered samples, which a probe is drawn from; {hint} instead"
        )
    if per_class < 2:
        raise InputError(f"per_class is {per_class}; the spread within a class needs 2 samples or more")
    with random_states_kept():
        labels = _labels(dataset)
        indices = _balanced(labels, per_class, seed)
        samples = [dataset[int(index)] for index in indices]
        for index, sample in zip(indices, samples, strict=True):
            if _label_of(sample, index) != labels[index]:
                raise InputError(
                    f"sample {index} of the data set is now of class {_label_of(sample, index)}, but was of "
                    f"{labels[index]}; draw from a data set whose labels do not change"
                )
        if collate is None:
            return _stack([_split(sample, "a sample")[0] for sample in samples]), labels[indices], indices
        inputs, collated = _split(collate(samples), "what collate= makes")
    if not np.array_equal(np.asarray(collated), labels[indices]):
        raise InputError("what collate= makes has other labels than the samples; keep them and their order")
    return inputs, labels[indices], indices


def _labels(dataset: Any) -> Int[np.ndarray, " all"]:
    """Return the labels of all samples; those of torchvision's data sets need no look at each."""
    targets = getattr(dataset, "targets", None)
    if targets is not None and getattr(dataset, "target_transform", None) is None and len(targets) == len(dataset):
        numbers = np.asarray(targets)
        if numbers.ndim == 1 and numbers.dtype.kind in "iu" and numbers.size and numbers.min() >= 0:
            return numbers.astype(np.int64)
    return np.array([_label_of(dataset[index], index) for index in range(len(dataset))], dtype=np.int64)


def _split(sample: Any, what: str) -> tuple[Any, Any]:
    """Split a sample, or a batch of them, into what the network takes and the label."""
    if isinstance(sample, Mapping):
        for name in _LABEL_ENTRIES:
            if name in sample:
                return {key: value for key, value in sample.items() if key != name}, sample[name]
        raise InputError(
            f"{what}: has the entries {', '.join(map(str, sample))}, expected one called 'labels' or 'label'"
        )
    if isinstance(sample, tuple | list) and len(sample) > 1:
        *inputs, label = sample
        return inputs[0] if len(inputs) == 1 else tuple(inputs), label
    raise InputError(
        f"{what}: a {type(sample).__name__} instead of inputs and a label; give a data set of (x, y) or of dictionaries"
    )


def _label_of(sample: Any, index: int) -> int:
    where = f"sample {index} of the data set"
    label = _split(sample, where)[1]
    number = np.asarray(label.detach().cpu() if isinstance(label, Tensor) else label)
    if number.size != 1 or number.dtype.kind not in "iuf" or not (number.item() >= 0 and number.item() % 1 == 0):
        raise InputError(f"{where}: the label is {label!r}, expected a whole number from 0; number the classes")
    return int(number.item())


def _balanced(labels: Int[np.ndarray, " all"], per_class: int, seed: int) -> Int[np.ndarray, " sample"]:
    if not labels.size:
        raise InputError("the data set is empty; give one with samples of two classes or more")
    counts = np.bincount(labels)
    scarce = [f"class {class_} has {counts[class_]}" for class_ in np.flatnonzero(counts < per_class)]
    if scarce:
        least = counts.min()
        mend = f"give per_class={least}" if least >= 2 else "number the classes without gaps"
        raise InputError(f"of {per_class} samples per class, {', '.join(scarce)}; {mend}, or a larger data set")
    rng = np.random.default_rng(seed)
    drawn = [rng.choice(np.flatnonzero(labels == class_), per_class, replace=False) for class_ in range(counts.size)]
    return np.sort(np.concatenate(drawn))


def _stack(samples: Sequence[Any], what: str = "the samples") -> Any:
    """Stack samples, or parts of samples, keeping how they are put together."""
    first = samples[0]
    if isinstance(first, Mapping):
        return {name: _stack([sample[name] for sample in samples], f"entry {name!r}") for name in first}
    if isinstance(first, tuple | list) and any(isinstance(part, Tensor | Mapping | np.ndarray) for part in first):
        return tuple(_stack(parts, f"part {number}") for number, parts in enumerate(zip(*samples, strict=True)))
    try:
        tensors = [torch.as_tensor(value if isinstance(value, _ARRAYS) else np.asarray(value)) for value in samples]
    except (TypeError, ValueError) as error:
        raise InputError(
            f"{what}: a {type(first).__name__} makes no tensor; leave it out, or give collate=, which makes a batch "
            "of samples"
        ) from error
    shapes = sorted({tuple(tensor.shape) for tensor in tensors})
    if len(shapes) > 1:
        raise InputError(f"{what}: of different shapes, {shapes[0]} and {shapes[-1]}; give collate=, which pads them")
    return torch.stack(tensors)
