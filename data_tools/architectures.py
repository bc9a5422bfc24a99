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

ArchitectureName: TypeAlias = Literal["lenet", "mlp", "linear", "cnn", "cnn_batchnorm", "residual", "transformer"]

DEFAULT_LAYERS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "lenet": ("fc2", "fc3"),
        "mlp": ("fc2", "fc3"),
        "linear": ("fc3",),
        "cnn": ("fc2", "fc3"),
        "cnn_batchnorm": ("fc2", "fc3"),
        "residual": ("fc2", "fc3"),
        "transformer": ("fc2", "fc3"),
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
        K units. ``cnn_batchnorm``: the same with batch normalisation after each convolution. ``residual``: 16 padded
        convolutions of 3×3, two residual blocks of 16 and 32 channels with batch normalisation, the second at half the
        resolution, averages over the image, 64 and K units. ``transformer``: patches of an eighth of the image's sides,
        two encoder layers of width 32 with four heads, learned positions and no dropout, averages over patches, 64 and
        K units.
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
        "residual": _residual,
        "transformer": _transformer,
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


def _residual(image_shape: tuple[int, int, int], n_classes: int) -> OrderedDict[str, nn.Module]:
    return OrderedDict(
        stem=nn.Sequential(nn.Conv2d(image_shape[0], 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU()),
        block1=ResidualBlock(16, 16, stride=1),
        block2=ResidualBlock(16, 32, stride=2),
        average=nn.AdaptiveAvgPool2d(1),
        flatten=nn.Flatten(),
        fc2=_hidden(32, 64),
        fc3=nn.Linear(64, n_classes),
    )


class ResidualBlock(nn.Module):  # type: ignore[misc]  # mypy does not follow torch
    """Two normalised convolutions of 3×3, added to what goes in (He et al. 2016, doi:10.1109/CVPR.2016.90).

    Parameters
    ----------
    inputs, outputs
        Channels; where they differ, or the stride is not 1, a convolution of 1×1 carries the input over.
    stride
        Of the first convolution.
    """

    def __init__(self, inputs: int, outputs: int, *, stride: int) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
            nn.Conv2d(outputs, outputs, 3, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        changes = inputs != outputs or stride != 1
        self.carried = (
            nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False), nn.BatchNorm2d(outputs))
            if changes
            else nn.Identity()
        )

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return the sum, rectified."""
        return torch.relu(self.carried(images) + self.residual(images))


def _transformer(image_shape: tuple[int, int, int], n_classes: int) -> OrderedDict[str, nn.Module]:
    channels, *sides = image_shape
    patch = tuple(max(side // 8, 1) for side in sides)
    n_patches = (sides[0] // patch[0]) * (sides[1] // patch[1])
    width = 32
    return OrderedDict(
        patches=nn.Conv2d(channels, width, patch, stride=patch),
        tokens=PatchTokens(width, n_patches),
        encoder=nn.Sequential(
            *(
                nn.TransformerEncoderLayer(width, 4, 2 * width, dropout=0.0, batch_first=True, norm_first=True)
                for _ in range(2)
            )
        ),
        average=TokenMean(width),
        fc2=_hidden(width, 64),
        fc3=nn.Linear(64, n_classes),
    )


class PatchTokens(nn.Module):  # type: ignore[misc]  # mypy does not follow torch
    """Turn an image of embedded patches into a sequence, and add what is learned of their positions."""

    def __init__(self, width: int, n_patches: int) -> None:
        super().__init__()
        self.positions = nn.Parameter(0.02 * torch.randn(n_patches, width))

    def forward(self, patches: torch.Tensor) -> torch.Tensor:
        """Return tokens, shape (sample, patch, width)."""
        return patches.flatten(2).transpose(1, 2) + self.positions


class TokenMean(nn.Module):  # type: ignore[misc]  # mypy does not follow torch
    """Normalise tokens, and average them."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.normalisation = nn.LayerNorm(width)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return shape (sample, width)."""
        mean: torch.Tensor = self.normalisation(tokens).mean(dim=1)
        return mean


def _convolution(inputs: int, outputs: int, *, kernel: int, padding: int, normalise: bool = False) -> nn.Sequential:
    layers: OrderedDict[str, nn.Module] = OrderedDict(convolution=nn.Conv2d(inputs, outputs, kernel, padding=padding))
    if normalise:
        layers["normalisation"] = nn.BatchNorm2d(outputs)
    layers |= OrderedDict(relu=nn.ReLU(), pool=nn.MaxPool2d(2))
    return nn.Sequential(layers)


def _hidden(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(OrderedDict(linear=nn.Linear(inputs, outputs), relu=nn.ReLU()))
