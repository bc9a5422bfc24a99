"""Read what was measured of elasticity from a recording."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Int

from data_tools.drift_measures import (
    SeparationRates,
    kernel_elasticity,
    mean_drift,
    onestep_separation_rates,
    separation_rate,
)
from data_tools.elasticity_records import dataset_name
from data_tools.errors import InputError
from data_tools.record_array import RecordArray, checked_dataset
from data_tools.recording_schema import as_integer_labels, check_steps, encode_name
from data_tools.untrusted_hdf5 import read_attributes


@dataclass(frozen=True)
class RecordedElasticity:
    """Elasticity of one layer, measured directly at S moments; see `data_tools.elasticity` for what it means.

    The larger arrays are read from the file as they are indexed, so the recording has to stay open.

    Attributes
    ----------
    layer, group
        The layer, and whether the classes that move are those of ``labels`` or of ``given_labels``.
    steps : (S,) int64
        Optimizer steps done at each measurement.
    lr : (S,) float64
        Learning rate then; not a number where it is unknown.
    shares : (F,) float64
        Share in training of each stratum of `onestep`: of each given class stepped on if F = K, or just [1.0].
    onestep : RecordArray
        (S, F, R, K, p) change of the class means in each of R real steps of the optimizer.
    tangent : RecordArray or None
        (S, K, p) tangent drift. It is not a number before the first step of Adam.
    impact : RecordArray or None
        (S, K, p) class-mean impacts h; only of the logits and of the layer that feeds them.
    kernel : RecordArray or None
        (S, K, K) kernel elasticity E_kl.
    similarity : RecordArray or None
        (S, 2) relative similarity within classes, and across; not a number where no step moved anything.
    n_repeats : int
        R.
    batch_size, optimizer, momentum
        Of the training, where known.
    """

    layer: str
    group: Literal["labels", "given_labels"]
    steps: Int[np.ndarray, " snapshot"]
    lr: Float[np.ndarray, " snapshot"]
    shares: Float[np.ndarray, " class_from"]
    onestep: RecordArray
    tangent: RecordArray | None
    impact: RecordArray | None
    kernel: RecordArray | None
    similarity: RecordArray | None
    n_repeats: int
    batch_size: int | None = None
    optimizer: str | None = None
    momentum: float | None = None

    def mean_drift(
        self,
    ) -> tuple[Float[np.ndarray, "snapshot class_ feature"], Float[np.ndarray, "snapshot class_ feature"]]:
        """Return the mean one-step drift and its standard error, each (S, K, p)."""
        return mean_drift(self.onestep[:], self.shares)

    def onestep_rates(self, class_weights: Float[np.ndarray, " class_"] | None = None) -> SeparationRates:
        """Return the separation rate γ_D of the one-step drift at each moment, with standard errors.

        Parameters
        ----------
        class_weights
            K π_l, by which the impacts are weighted where training draws some classes more often.

        Raises
        ------
        InputError
            If the layer has no impacts.
        """
        return onestep_separation_rates(self.onestep[:], self._weighted(class_weights), self.shares)

    def tangent_rates(
        self, class_weights: Float[np.ndarray, " class_"] | None = None
    ) -> Float[np.ndarray, " snapshot"] | None:
        """Return the separation rate γ_D of the tangent drift at each moment, (S,), if that was measured.

        Parameters
        ----------
        class_weights
            As for `onestep_rates`.

        Raises
        ------
        InputError
            If the layer has no impacts.
        """
        return None if self.tangent is None else separation_rate(self.tangent[:], self._weighted(class_weights))

    def onestep_kernel(self) -> Float[np.ndarray, "snapshot class_to class_from"] | None:
        """Return the elasticity E_kl of real steps, (S, K, K), if they are stratified by the class stepped on.

        Classes stepped on are given classes; take the measurement grouped by ``given_labels`` where labels differ, so
        that the impacts are of the same classes.

        Raises
        ------
        InputError
            If the layer has no impacts.
        """
        if self.shares.size == 1:
            return None
        return kernel_elasticity(self.onestep[:].mean(axis=2, dtype=np.float64), self._impacts()[:])

    def _weighted(
        self, class_weights: Float[np.ndarray, " class_"] | None
    ) -> Float[np.ndarray, "snapshot class_ feature"]:
        impacts = self._impacts()[:]
        return impacts if class_weights is None else impacts * class_weights[:, None]

    def _impacts(self) -> RecordArray:
        if self.impact is None:
            raise InputError(
                f"elasticity of layer {self.layer} was measured without impacts, so it has drifts but no rates; "
                "measure the logits, or the layer that feeds them"
            )
        return self.impact


def read_elasticity(
    file: Any, path: Path, layer: str, group: Literal["labels", "given_labels"], n_classes: int, width: int
) -> RecordedElasticity | None:
    """Read the elasticity of a layer from an open file whose contents have been checked.

    Parameters
    ----------
    file, path
        The open `h5py.File`, and its path for messages.
    layer, group
        What to read.
    n_classes, width
        K, and the number of features p of the layer.

    Returns
    -------
    RecordedElasticity or None
        None if there is none.

    Raises
    ------
    InputError
        If something stored has the wrong shape or type, or contradicts something else.
    """
    root = f"/elasticity/{encode_name(layer)}"
    stored = file.get(root)
    onestep_name = dataset_name("onestep", group)
    if stored is None:
        return None
    if not hasattr(stored, "keys"):
        raise InputError(f"{path}: {root} is a dataset, expected a group")
    if onestep_name not in stored:
        return None
    # The counter is read first: a live writer may add measurements behind it meanwhile, which are then not looked at.
    committed = None
    if "elasticity_committed" in file:
        committed = int(checked_dataset(file, path, "/elasticity_committed", (), "iu")[()])
    growing = {
        "step": checked_dataset(file, path, f"{root}/step", (None,), "iu"),
        "lr": checked_dataset(file, path, f"{root}/lr", (None,), "f"),
    }
    shares = checked_dataset(file, path, f"{root}/shares", (None,), "f")
    strata = shares.shape[0]
    shapes: dict[str, tuple[int | None, ...]] = {
        "onestep": (None, strata, None, n_classes, width),
        "tangent": (None, n_classes, width),
        "impact": (None, n_classes, width),
        "kernel": (None, n_classes, n_classes),
        "similarity": (None, 2),
    }
    for name, shape in shapes.items():
        if dataset_name(name, group) in stored:
            growing[name] = checked_dataset(file, path, f"{root}/{dataset_name(name, group)}", shape, "f")
    if strata not in (1, n_classes):
        raise InputError(f"{path}: {root}/shares has {strata} strata, expected 1 or {n_classes}, one for each class")
    shortest = min(growing, key=lambda name: growing[name].shape[0])
    available = int(growing[shortest].shape[0])
    if committed is not None and not 0 <= committed <= available:
        raise InputError(
            f"{path}: /elasticity_committed counts {committed} measurements but {growing[shortest].name} holds "
            f"{available}; save what is whole with `lesde recover`"
        )
    n_snapshots = available if committed is None else committed
    if n_snapshots == 0:
        return None
    arrays = {name: RecordArray(dataset, n_snapshots, path) for name, dataset in growing.items()}
    steps = as_integer_labels(arrays["step"][:], f"{path}:{root}/step")
    check_steps(steps, f"{path}:{root}/step")
    attributes = read_attributes(stored, path)
    batch_size, optimizer, momentum = (attributes.get(name) for name in ("batch_size", "optimizer", "momentum"))
    return RecordedElasticity(
        layer,
        group,
        steps,
        arrays["lr"][:].astype(np.float64),
        _checked_shares(shares, f"{path}: {root}/shares"),
        arrays["onestep"],
        arrays.get("tangent"),
        arrays.get("impact"),
        arrays.get("kernel"),
        arrays.get("similarity"),
        n_repeats=arrays["onestep"].shape[2],
        batch_size=batch_size if isinstance(batch_size, int) else None,
        optimizer=optimizer if isinstance(optimizer, str) else None,
        momentum=float(momentum) if isinstance(momentum, int | float) else None,
    )


def _checked_shares(dataset: Any, where: str) -> Float[np.ndarray, " class_from"]:
    shares = dataset[:].astype(np.float64)
    if not (np.all(shares >= 0) and np.isclose(shares.sum(), 1)):
        raise InputError(f"{where} must be positive and sum to 1, but is {shares.tolist()}; the file is damaged")
    return shares
