"""What is measured of elasticity at one moment, as it is written to a recording; see `data_tools.elasticity`."""

from collections.abc import Mapping
from dataclasses import dataclass, fields

import numpy as np
from jaxtyping import Float

from data_tools.errors import InputError


@dataclass(frozen=True)
class DriftMeasurement:
    """Drifts of one layer at one moment, with the moving samples grouped in one way.

    Attributes
    ----------
    onestep
        (F, R, K, p) change of the mean features of each class in each real step of the optimizer: F = K strata by the
        given class of the sample stepped on where the batch size is 1, else F = 1; R repeats.
    tangent
        (K, p) tangent drift, in which weight decay is included.
    impact
        (K, p) class-mean impacts h.
    kernel
        (K, K) kernel elasticity E_kl, class l stepped on, class k moving; weight decay is left out.
    similarity
        (2,) mean relative similarity of pairs of samples within classes, and across.
    """

    onestep: Float[np.ndarray, "class_from repeat class_to feature"]
    tangent: Float[np.ndarray, "class_to feature"] | None = None
    impact: Float[np.ndarray, "class_to feature"] | None = None
    kernel: Float[np.ndarray, "class_to class_from"] | None = None
    similarity: Float[np.ndarray, " 2"] | None = None

    def arrays(self) -> dict[str, Float[np.ndarray, "*shape"]]:
        """Return what was measured, by name."""
        found = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: array for name, array in found.items() if array is not None}


@dataclass(frozen=True)
class ElasticitySettings:
    """What is the same for all measurements of a run.

    Attributes
    ----------
    shares
        (F,) share of each stratum of the one-step drift in training; [1.0] if there are none.
    n_repeats
        R.
    batch_size, optimizer, momentum
        Of the training, where known.
    """

    shares: Float[np.ndarray, " class_from"]
    n_repeats: int
    batch_size: int | None = None
    optimizer: str | None = None
    momentum: float | None = None


@dataclass(frozen=True)
class ElasticitySnapshot:
    """All that is measured at one moment.

    Attributes
    ----------
    step
        Optimizer steps done.
    lr
        Learning rate then; not a number where it is unknown.
    layers
        For each layer the measurement by ``labels`` and, if the probe's given labels differ, by ``given_labels``.
    """

    step: int
    lr: float
    layers: Mapping[str, Mapping[str, DriftMeasurement]]


def dataset_name(name: str, group: str) -> str:
    """Return what a quantity grouped by ``labels`` or ``given_labels`` is called in a recording."""
    return name if group == "labels" else f"{name}_{group}"


def named_arrays(measurements: Mapping[str, DriftMeasurement]) -> dict[str, Float[np.ndarray, "*shape"]]:
    """Return the arrays of one layer by the name of their dataset in a recording."""
    return {
        dataset_name(name, group): array
        for group, measurement in measurements.items()
        for name, array in measurement.arrays().items()
    }


@dataclass(frozen=True)
class ElasticityLayout:
    """What is fixed over the measurements in a recording.

    Attributes
    ----------
    settings
        The same for all measurements.
    shapes
        For each layer the shape of every array that is measured.
    """

    settings: ElasticitySettings
    shapes: Mapping[str, Mapping[str, tuple[int, ...]]]

    @classmethod
    def of(cls, settings: ElasticitySettings, snapshot: ElasticitySnapshot) -> "ElasticityLayout":
        """Take the layout from the first measurement.

        Raises
        ------
        InputError
            If its shapes contradict the settings.
        """
        shapes = {
            layer: {name: np.shape(array) for name, array in named_arrays(measurements).items()}
            for layer, measurements in snapshot.layers.items()
        }
        expected = (settings.shares.size, settings.n_repeats)
        for layer, arrays in shapes.items():
            for name, shape in arrays.items():
                if name.startswith("onestep") and (len(shape) != 4 or shape[:2] != expected):
                    raise InputError(
                        f"elasticity of layer {layer}: {name} has shape {shape}, expected "
                        f"({expected[0]}, {expected[1]}, classes, features): "
                        "strata, repeats, classes that move, features"
                    )
        return cls(settings, shapes)
