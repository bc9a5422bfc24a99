"""Networks for experiments, with layer names that mean the same in all of them.

The last layer, which gives the logits, is always ``fc3``; the block before it is ``fc2``, whose output is what goes
into ``fc3``, activation included. Records of different architectures can thus be compared layer by layer.
"""

from collections import OrderedDict
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Literal, TypeAlias, get_args

import torch
from torch import nn

from data_tools.errors import InputError

ArchitectureName: TypeAlias = Literal["lenet", "mlp", "linear", "cnn", "cnn_batchnorm"]

DEFAULT_LAYERS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "lenet": ("fc2", "fc3"),
        "mlp": ("fc2", "fc3"),
        "linear": ("fc3",),
        "cnn": ("fc2", "fc3"),
        "cnn_batchnorm": ("fc2", "fc3"),
    }
)
"""Layers to record: what goes into the last layer, where it is learned, and the logits."""

_SMALL_IMAGE = 20  # pixels; below, 5×5 convolutions without padding leave nothing


def build_architecture(
    name: ArchitectureName, image_shape: tuple[int, int, int], n_classes: int, seed: int
) -> nn.Sequential:
    """Build a network with seeded initial weights.

    Parameters
    ----------
    name
        ``lenet``: the network of Zhang, Wang and Su (2021): 6 and 16 convolutions of 5×5, each followed by ReLU and 2×2
        max pooling, then 120, 84 and K units; images below 20 pixels are padded by 2 at each convolution. ``mlp``: 128,
        64 and K units. ``linear``: no hidden layer. ``cnn``: 16 and 32 padded convolutions of 3×3 with pooling, 64 and
        K units. ``cnn_batchnorm``: the same with batch normalisation after each convolution.
    image_shape
        Channels, rows, columns.
    n_classes
        K.
    seed
        Decides the initial weights; PyTorch's global random generator is left alone.

    Returns
    -------
    torch.nn.Sequential
        float32, on the CPU; layers to record are in `DEFAULT_LAYERS`.

    Raises
    ------
    InputError
        If the name is unknown or the images are too small.
    """
    if name not in get_args(ArchitectureName):
        raise InputError(f"no architecture {name!r}; choose one of {', '.join(get_args(ArchitectureName))}")
    if min(image_shape[1:]) < 4:
        raise InputError(f"images of {image_shape[1]}×{image_shape[2]} pixels are too small; use at least 4×4")
    builders: dict[str, Callable[[tuple[int, int, int], int], OrderedDict[str, nn.Module]]] = {
        "lenet": _lenet,
        "mlp": _mlp,
        "linear": _linear,
        "cnn": lambda shape, classes: _cnn(shape, classes, normalise=False),
        "cnn_batchnorm": lambda shape, classes: _cnn(shape, classes, normalise=True),
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(builders[name](image_shape, n_classes))


def _lenet(image_shape: tuple[int, int, int], n_classes: int) -> OrderedDict[str, nn.Module]:
    channels, *sides = image_shape
    padding = 2 if min(sides) < _SMALL_IMAGE else 0
    rows, columns = (((side - 4 + 2 * padding) // 2 - 4 + 2 * padding) // 2 for side in sides)
    return OrderedDict(
        conv1=_convolution(channels, 6, kernel=5, padding=padding),
        conv2=_convolution(6, 16, kernel=5, padding=padding),
        flatten=nn.Flatten(),
        fc1=_hidden(16 * rows * columns, 120),
        fc2=_hidden(120, 84),
        fc3=nn.Linear(84, n_classes),
    )


def _mlp(image_shape: tuple[int, int, int], n_classes: int) -> OrderedDict[str, nn.Module]:
    channels, rows, columns = image_shape
    return OrderedDict(
        flatten=nn.Flatten(),
        fc1=_hidden(channels * rows * columns, 128),
        fc2=_hidden(128, 64),
        fc3=nn.Linear(64, n_classes),
    )


def _linear(image_shape: tuple[int, int, int], n_classes: int) -> OrderedDict[str, nn.Module]:
    channels, rows, columns = image_shape
    return OrderedDict(flatten=nn.Flatten(), fc3=nn.Linear(channels * rows * columns, n_classes))


def _cnn(image_shape: tuple[int, int, int], n_classes: int, *, normalise: bool) -> OrderedDict[str, nn.Module]:
    channels, rows, columns = image_shape
    return OrderedDict(
        conv1=_convolution(channels, 16, kernel=3, padding=1, normalise=normalise),
        conv2=_convolution(16, 32, kernel=3, padding=1, normalise=normalise),
        flatten=nn.Flatten(),
        fc2=_hidden(32 * (rows // 4) * (columns // 4), 64),
        fc3=nn.Linear(64, n_classes),
    )


def _convolution(inputs: int, outputs: int, *, kernel: int, padding: int, normalise: bool = False) -> nn.Sequential:
    layers: OrderedDict[str, nn.Module] = OrderedDict(convolution=nn.Conv2d(inputs, outputs, kernel, padding=padding))
    if normalise:
        layers["normalisation"] = nn.BatchNorm2d(outputs)
    layers |= OrderedDict(relu=nn.ReLU(), pool=nn.MaxPool2d(2))
    return nn.Sequential(layers)


def _hidden(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(OrderedDict(linear=nn.Linear(inputs, outputs), relu=nn.ReLU()))
