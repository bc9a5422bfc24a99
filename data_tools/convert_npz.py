"""Turn other formats into recordings."""

import os
import zipfile
from pathlib import Path

import numpy as np

from data_tools.elasticity_records import DriftMeasurement, ElasticitySettings, ElasticitySnapshot
from data_tools.errors import InputError
from data_tools.recording_writer import write_recording

_REQUIRED = ("step", "logits", "y_true")
# Names in the archive, and what the recorder and the experiments call the same.
_SCALARS = {"train_loss": "loss", "val_loss": "validation_loss", "val_acc": "validation_accuracy"}
_PROVENANCE = {"lr": "lr", "momentum": "momentum", "p_err": "label_noise"}
_HIDDEN_LAYER = "fc2"
_DRIFTS = {"onestep": "onestep", "tangent": "tangent", "impact": "residual"}
_STRATIFIED, _PLAIN = (4, 5), (3,)  # dimensions of an archive's drifts


def recording_from_npz(
    npz_path: str | os.PathLike[str],
    out: str | os.PathLike[str],
    force: bool = False,
    layer: str = "fc3",
) -> Path:
    """Convert a NumPy archive of logits to a recording.

    Parameters
    ----------
    npz_path
        Archive with ``step`` (T,), ``logits`` (T, n, K) and ``y_true`` (n,); optionally ``y_given`` (n,), the last
        layer ``W`` (T, K, p) and ``b`` (T, K), the features ``penultimate`` (T, n, p) that feed it, the curves
        ``train_loss``, ``val_loss`` and ``val_acc`` (T,), and the numbers ``lr``, ``momentum`` and ``p_err``.
        Elasticity that was measured directly at the steps ``drift_step`` (S,) is converted too: ``onestep_labels``,
        (S, K, R, K, p) if stratified by the given class stepped on or (S, R, K, p) if not, with ``tangent_labels`` and
        ``residual_labels`` (S, K, p); the same ending on ``_given`` with classes by given label. Other keys are
        ignored. Archives that need pickle are refused, as loading them can run any code.
    out
        Recording to make.
    force
        Replace an existing file.
    layer
        What to call the layer of the logits; ``penultimate`` becomes ``fc2``.

    Returns
    -------
    pathlib.Path
        `out`.

    Raises
    ------
    InputError
        If the archive cannot be read, lacks a key, or holds arrays that contradict each other.
    """
    source = Path(npz_path)
    arrays = _read_archive(source)
    missing = [key for key in _REQUIRED if key not in arrays]
    if missing:
        raise InputError(f"{source}: lacks {', '.join(missing)}; an archive needs {', '.join(_REQUIRED)}")
    if ("W" in arrays) != ("b" in arrays):
        raise InputError(f"{source}: has only one of W and b; give both, or neither")
    features = {layer: arrays["logits"]}
    if "penultimate" in arrays:
        if layer == _HIDDEN_LAYER:
            raise InputError(f"layer {layer!r} is what `penultimate` is called; choose another name for the logits")
        features = {_HIDDEN_LAYER: arrays["penultimate"], **features}
    classifier: tuple[np.ndarray, np.ndarray] | tuple[np.ndarray, np.ndarray, str] | None = None
    if "W" in arrays:
        classifier = (arrays["W"], arrays["b"])
        if "penultimate" in arrays:
            classifier = (*classifier, _HIDDEN_LAYER)
    try:
        return write_recording(
            out,
            arrays["step"],
            arrays["y_true"],
            features,
            logits=layer,
            given_labels=arrays.get("y_given"),
            classifier=classifier,
            scalars={name: arrays[key] for key, name in _SCALARS.items() if key in arrays},
            provenance={
                "converted_from": source.name,
                **{name: arrays[key].item() for key, name in _PROVENANCE.items() if key in arrays},
            },
            elasticity=_elasticity(arrays, source, layer),
            force=force,
        )
    except InputError as error:
        raise InputError(f"{source}: {error}") from error


def _elasticity(
    arrays: dict[str, np.ndarray], source: Path, layer: str
) -> tuple[ElasticitySettings, list[ElasticitySnapshot]] | None:
    """Collect what was measured of the elasticity of the logits, if anything."""
    if "onestep_labels" not in arrays:
        return None
    if "drift_step" not in arrays:
        raise InputError(f"{source}: has onestep_labels without drift_step; give the steps at which it was measured")
    steps = arrays["drift_step"]
    differ = not np.array_equal(arrays.get("y_given", arrays["y_true"]), arrays["y_true"])
    groups = {"labels": "labels"}
    if differ and "onestep_given" in arrays:
        groups["given_labels"] = "given"
    quantities: dict[str, dict[str, np.ndarray]] = {}
    for group, ending in groups.items():
        found = {name: arrays.get(f"{key}_{ending}") for name, key in _DRIFTS.items()}
        quantities[group] = {name: array for name, array in found.items() if array is not None}
        for name, array in quantities[group].items():
            if array.ndim not in (_STRATIFIED if name == "onestep" else _PLAIN) or len(array) != steps.size:
                raise InputError(
                    f"{source}: {_DRIFTS[name]}_{ending} has shape {array.shape}, which does not fit the {steps.size} "
                    "steps of drift_step; give one measurement per step"
                )
    onestep = quantities["labels"]["onestep"]
    stratified = onestep.ndim == max(_STRATIFIED)
    for values in quantities.values():
        if values["onestep"].ndim < max(_STRATIFIED):
            values["onestep"] = values["onestep"][:, None]
    strata, repeats = quantities["labels"]["onestep"].shape[1:3]
    settings = ElasticitySettings(
        np.full(strata, 1 / strata),
        repeats,
        batch_size=1 if stratified else None,
        momentum=float(arrays["momentum"]) if "momentum" in arrays else None,
    )
    lr = float(arrays["lr"]) if "lr" in arrays else float("nan")
    snapshots = [
        ElasticitySnapshot(
            int(step),
            lr,
            {
                layer: {
                    group: DriftMeasurement(**{n: a[index] for n, a in q.items()}) for group, q in quantities.items()
                }
            },
        )
        for index, step in enumerate(steps)
    ]
    return settings, snapshots


def _read_archive(source: Path) -> dict[str, np.ndarray]:
    if not source.is_file():
        raise InputError(f"{source}: no such file; check the name")
    try:
        # NumPy would leave a file that it opened itself open when it is no archive.
        with source.open("rb") as stream:
            archive = np.load(stream, allow_pickle=False)
            if isinstance(archive, np.ndarray):
                raise InputError(f"{source}: a single array, expected an archive (.npz) of named arrays")
            return {key: archive[key] for key in archive.files}
    except InputError:
        raise
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        reason = " ".join(str(error).split())
        raise InputError(
            f"{source}: not a readable archive of plain arrays ({reason}); save it with numpy.savez"
        ) from error
