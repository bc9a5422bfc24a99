"""Turn a folder of NumPy arrays into a recording."""

import os
import re
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from data_tools.errors import InputError
from data_tools.recording_writer import write_recording

_STEPS = ("step", "steps")
_LOGITS = "logits"
_SAMPLES = ("labels", "given_labels")
_CLASSIFIER = ("weight", "bias")
_OF_ONE_STEP = re.compile(r"(?P<layer>.+?)[_-]?(?P<step>\d+)")


def recording_from_npy(
    folder: str | os.PathLike[str], out: str | os.PathLike[str], *, force: bool = False, layer: str = "fc3"
) -> Path:
    """Convert a folder of NumPy arrays to a recording; arrays are read record by record.

    Parameters
    ----------
    folder
        Holds ``labels.npy`` (n,), optionally ``given_labels.npy`` (n,), and either ``step.npy`` (T,) with an array
        (T, n, p) for each layer, called ``LAYER.npy``; or an array (n, p) for each layer and step, called
        ``LAYER_STEP.npy``. With ``step.npy`` there may also be ``weight.npy`` (T, K, p) and ``bias.npy`` (T, K) of the
        last layer, and arrays (T,), which become scalars. Arrays that need pickle are refused, as loading them can run
        any code.
    out
        Recording to make.
    force
        Replace an existing file.
    layer
        What to call the layer in ``logits.npy`` or ``logits_STEP.npy``; if there is none, the layer of this name holds
        the logits, if it is there.

    Returns
    -------
    pathlib.Path
        `out`.

    Raises
    ------
    InputError
        If the folder lacks an array, or holds one that cannot be read or contradicts the others.
    """
    source = Path(folder)
    if not source.is_dir():
        raise InputError(f"{source}: no such folder; give the folder of the .npy files")
    arrays = {path.stem: _load(path) for path in sorted(source.glob("*.npy"))}
    if "labels" not in arrays:
        raise InputError(f"{source}: lacks labels.npy, the class of each sample; it holds {_listed(arrays)}")
    samples = {name: np.asarray(arrays.pop(name)) for name in _SAMPLES if name in arrays}
    step_name = next((name for name in _STEPS if name in arrays), None)
    weight_and_bias: list[Any] = []
    scalars: dict[str, Any] = {}
    steps: Any
    if step_name is None:
        steps, features = _from_single_steps(arrays, source)
    else:
        steps = np.asarray(arrays.pop(step_name))
        weight_and_bias = [arrays.pop(name) for name in _CLASSIFIER if name in arrays]
        if len(weight_and_bias) == 1:
            raise InputError(f"{source}: has only one of weight.npy and bias.npy; give both, or neither")
        scalars = {name: arrays.pop(name) for name in list(arrays) if arrays[name].ndim == 1}
        features = dict(arrays)
    if _LOGITS in features:
        if layer in features and layer != _LOGITS:
            raise InputError(f"{source}: has both {layer}.npy and logits.npy, which becomes {layer!r}; choose another")
        features = {layer if name == _LOGITS else name: array for name, array in features.items()}
    try:
        return write_recording(
            out,
            steps,
            samples["labels"],
            features,
            logits=layer if layer in features else None,
            given_labels=samples.get("given_labels"),
            classifier=(weight_and_bias[0], weight_and_bias[1]) if weight_and_bias else None,
            scalars=scalars,
            provenance={"converted_from": source.name},
            force=force,
        )
    except InputError as error:
        raise InputError(f"{source}: {error}") from error


class _Stack:
    """Arrays of single steps, read as they are indexed by record."""

    def __init__(self, arrays: list[Any]) -> None:
        self._arrays = arrays
        self.shape = (len(arrays), *arrays[0].shape)
        self.dtype = arrays[0].dtype
        self.ndim = len(self.shape)

    def __len__(self) -> int:
        return len(self._arrays)

    def __getitem__(self, record: int) -> Float[np.ndarray, "sample feature"]:
        return np.asarray(self._arrays[record])


def _from_single_steps(arrays: dict[str, Any], source: Path) -> tuple[list[int], dict[str, Any]]:
    """Sort arrays of single steps by layer and step."""
    layers: dict[str, dict[int, Any]] = {}
    for name, array in arrays.items():
        match = _OF_ONE_STEP.fullmatch(name)
        if match is None:
            raise InputError(
                f"{source}: {name}.npy names no step; call it {name}_0.npy and so on, or give step.npy with the steps "
                "of arrays that hold all records"
            )
        of_layer = layers.setdefault(match["layer"], {})
        step = int(match["step"])
        if step in of_layer:
            raise InputError(f"{source}: layer {match['layer']} has two arrays of step {step}; keep one")
        of_layer[step] = array
    if not layers:
        raise InputError(f"{source}: holds labels but no features; add LAYER.npy and step.npy, or LAYER_STEP.npy")
    steps = sorted(next(iter(layers.values())))
    for layer, of_layer in layers.items():
        if sorted(of_layer) != steps:
            odd = min(set(steps) ^ set(of_layer))
            raise InputError(f"{source}: step {odd} is not there for all layers, {', '.join(layers)}; add or drop it")
        shapes = {array.shape for array in of_layer.values()}
        if len(shapes) > 1:
            raise InputError(f"{source}: arrays of layer {layer} have shapes {', '.join(map(str, sorted(shapes)))}")
    return steps, {layer: _Stack([of_layer[step] for step in steps]) for layer, of_layer in layers.items()}


def _load(path: Path) -> Any:
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise InputError(
            f"{path}: not a readable array of plain numbers ({' '.join(str(error).split())}); save it with numpy.save"
        ) from error


def _listed(arrays: dict[str, Any]) -> str:
    return ", ".join(f"{name}.npy" for name in arrays) or "no .npy file"
