"""GeoMNIST: grey images of ellipses, rectangles and triangles, drawn from their equations.

The protocol is that of Zhang, Wang and Su, "Imitating Deep Learning Dynamics via Locally Elastic Stochastic
Differential Equations" (NeurIPS 2021), section 4; the drawing code is our own.
"""

from collections.abc import Callable

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int
from scipy.ndimage import gaussian_filter

SHAPES = ("ellipse", "rectangle", "triangle")

_PROTOCOL_SIZE = 32  # pixels; the lengths below are for images of this size
_LARGEST_ROTATION = 176.0  # degrees
_BLUR = (0.9, 1.1)  # standard deviation in pixels of the protocol's size

_Coordinates = Float64[np.ndarray, "row column"]
_Mask = Bool[np.ndarray, "row column"]


def _ellipse(x: _Coordinates, y: _Coordinates, vary: Callable[[], float]) -> _Mask:
    radius = 6 + vary()
    return (x / (2 * radius)) ** 2 + (y / radius) ** 2 <= 1


def _rectangle(x: _Coordinates, y: _Coordinates, vary: Callable[[], float]) -> _Mask:
    return (np.abs(x) <= 8 + vary()) & (np.abs(y) <= 4 + vary())


def _triangle(x: _Coordinates, y: _Coordinates, vary: Callable[[], float]) -> _Mask:
    """Draw an isosceles triangle with its centroid, a third of its height above the base, at the origin."""
    width, height = 10 + vary(), 8 + vary()
    above_base = y + height / 3
    return (above_base >= 0) & (np.abs(x) <= width / 2 * (1 - above_base / height))


_DRAW = {"ellipse": _ellipse, "rectangle": _rectangle, "triangle": _triangle}


def draw_shape(
    shape: str, rng: np.random.Generator, size: int = _PROTOCOL_SIZE, degrees: float | None = None
) -> Float32[np.ndarray, "row column"]:
    """Draw one filled, rotated and blurred shape in the middle of an image.

    Parameters
    ----------
    shape
        One of `SHAPES`: an ellipse of radii (2r, r) with r = 6; a rectangle of half-sides (8, 4); an isosceles triangle
        10 wide and 8 high. Each length varies uniformly by up to 1. All are in pixels of an image of size 32 and grow
        with `size`.
    rng
        Source of lengths, rotation and blur.
    size
        Width and height of the image in pixels.
    degrees
        Rotation; drawn uniformly from 0 to 176 if None.

    Returns
    -------
    (size, size) float32
        0 outside to 1 inside, blurred by a Gaussian of standard deviation 0.9 to 1.1.
    """
    scale = size / _PROTOCOL_SIZE
    drawn = rng.uniform(0.0, _LARGEST_ROTATION)
    angle = np.deg2rad(drawn if degrees is None else degrees)
    centred = (np.arange(size) - (size - 1) / 2) / scale
    column, row = np.meshgrid(centred, centred)
    x = np.cos(angle) * column + np.sin(angle) * row
    y = -np.sin(angle) * column + np.cos(angle) * row
    inside = _DRAW[shape](x, y, lambda: rng.uniform(-1.0, 1.0))
    return gaussian_filter(inside.astype(np.float32), scale * rng.uniform(*_BLUR))


def make_geomnist(
    per_class: int, rng: np.random.Generator, size: int = _PROTOCOL_SIZE
) -> tuple[Float32[np.ndarray, "sample 1 row column"], Int[np.ndarray, " sample"]]:
    """Draw a balanced set of images.

    Parameters
    ----------
    per_class
        Images of each of the three shapes.
    rng
        Source of all that varies.
    size
        Width and height in pixels.

    Returns
    -------
    images
        (3 · per_class, 1, size, size), values from 0 to 1, classes one after the other.
    labels
        Index into `SHAPES`.
    """
    images = np.stack([draw_shape(shape, rng, size) for shape in SHAPES for _ in range(per_class)])
    return images[:, None], np.repeat(np.arange(len(SHAPES)), per_class)
