"""The law of data separation: how much each layer of a network adds to separating the classes.

He and Su (2023) measure the *separation fuzziness* D = tr(Σ_W Σ_B⁺) of the features after each layer, and find that in
trained networks its logarithm falls linearly from layer to layer: each layer separates by an equal factor. Fitted by
least squares over layers l = 1 … L,

    log D_l = a + l log ρ,

ρ being the decay ratio, and Pearson's correlation of log D_l and l tells how well the law holds (−1: exactly).

tests/lesde_infer/test_layer_separation.py builds features with a known ρ.

References
----------
H. He and W. J. Su (2023), A law of data separation in deep learning, PNAS 120(36), e2221704120.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from data_tools.errors import InputError
from lesde_infer.collapse import nc1


@dataclass(frozen=True)
class LayerSeparation:
    """Separation fuzziness of the layers of a network at one record, and how regularly it falls.

    Attributes
    ----------
    layers : tuple of str
        In the order in which the network applies them.
    fuzziness : float array (layer,)
        D; not a number for a layer whose class means do not span K−1 directions.
    decay_ratio : float
        ρ, the factor from layer to layer; not a number with fewer than two layers.
    correlation : float
        Pearson's, of log D and the layer's number; not a number with fewer than three layers.
    """

    layers: tuple[str, ...]
    fuzziness: Float[np.ndarray, " layer"]
    decay_ratio: float
    correlation: float

    def to_json(self) -> dict[str, Any]:
        """Return plain values; what is not a number is None."""
        numbers = (*self.fuzziness.tolist(), self.decay_ratio, self.correlation)
        *fuzziness, ratio, correlation = (number if np.isfinite(number) else None for number in numbers)
        return {
            "layers": list(self.layers),
            "fuzziness": fuzziness,
            "decay_ratio": ratio,
            "correlation": correlation,
        }


def layer_separation(
    features: Mapping[str, Float[np.ndarray, "sample feature"]],
    labels: Int[np.ndarray, " sample"],
    order: Sequence[str] | None = None,
) -> LayerSeparation:
    """Measure the separation fuzziness of each layer, and fit its decay.

    Parameters
    ----------
    features : mapping of float array (sample, feature)
        By layer.
    labels : int array (sample,)
    order : sequence of str, optional
        Layers in the order in which the network applies them; by default that of the mapping.

    Raises
    ------
    InputError
        On a layer that is not there, shapes that do not fit, non-finite features, or fewer than two classes.
    """
    layers = tuple(features) if order is None else tuple(order)
    for name in layers:
        if name not in features:
            raise InputError(f"layer '{name}' is not among {', '.join(features)}")
        if layers.count(name) > 1:
            raise InputError(f"layer '{name}' is named {layers.count(name)} times; name each once, in order")
    fuzziness = np.array([nc1(features[name], labels, "papyan") for name in layers])
    known = np.flatnonzero(np.isfinite(fuzziness) & (fuzziness > 0))
    ratio, correlation = float("nan"), float("nan")
    if known.size > 1:
        logarithms = np.log(fuzziness[known])
        ratio = float(np.exp(np.polyfit(known, logarithms, 1)[0]))
        if known.size > 2 and np.ptp(logarithms) > 0:
            correlation = float(np.corrcoef(known, logarithms)[0, 1])
    return LayerSeparation(layers, fuzziness, ratio, correlation)
