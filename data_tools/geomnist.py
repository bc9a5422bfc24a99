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


def _ellipse(x: _Coordinates, y: _Coordinates, variation: float) -> _Mask:
    radius = 6 + variation
    return (x / (2 * radius)) ** 2 + (y / radius) ** 2 <= 1


def _rectangle(x: _Coordinates, y: _Coordinates, variation: float) -> _Mask:
    return (np.abs(x - variation) <= 8) & (np.abs(y - variation) <= 4)


def _triangle(x: _Coordinates, y: _Coordinates, variation: float) -> _Mask:
    below, above = 8.0, 8.0 * np.sqrt(3.0)  # distances of base and apex from the middle
    above_base = y - variation + below
    return (above_base >= 0) & (np.abs(x - variation) <= 10 * (1 - above_base / (below + above)))


_DRAW: dict[str, Callable[[_Coordinates, _Coordinates, float], _Mask]] = {
    "ellipse": _ellipse,
    "rectangle": _rectangle,
    "triangle": _triangle,
}


def draw_shape(
    shape: str, rng: np.random.Generator, size: int = _PROTOCOL_SIZE, degrees: float | None = None
) -> Float32[np.ndarray, "row column"]:
    """Draw one filled, rotated and blurred shape in the middle of an image.

    Parameters
    ----------
    shape
        One of `SHAPES`: an ellipse of radii 2r and r, r from 5 to 7; a rectangle of half-sides 8 and 4; an isosceles
        triangle with a base of 20 and a height of 8 + 8√3. Rectangles and triangles are moved along their diagonal by
        up to 1. All lengths are in pixels of an image of size 32 and grow with `size`.
    rng
        Source of size or position, rotation and blur, which vary uniformly and independently.
    size
        Width and height of the image in pixels.
    degrees
        Rotation about the middle; drawn uniformly from 0 to 176 if None.

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
    inside = _DRAW[shape](x, y, rng.uniform(-1.0, 1.0))
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
