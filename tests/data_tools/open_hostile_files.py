"""Open the files named on standard input, one after another, and say on standard output what came of each.

It is a process of its own because it has little memory, and because the HDF5 library might take it down.
"""

import hashlib
import json
import resource
import sys
import time
from pathlib import Path

import numpy as np

from data_tools import InputError, Recording
from data_tools.record_array import RecordArray
from data_tools.recovery import recover
from data_tools.reduced_records import BY_DRIVE

MEMORY = 3 * 2**30


def contents(path: Path) -> dict[str, np.ndarray]:
    """Read all that a recording holds."""
    found: dict[str, np.ndarray] = {}
    with Recording(path) as recording:
        for name in ("step", "time", "labels", "given_labels"):
            found[f"/{name}"] = np.asarray(getattr(recording, "steps" if name == "step" else name))
        if recording.class_frequencies is not None:
            found["/class_frequencies"] = recording.class_frequencies
        found |= {f"/scalars/{name}": values for name, values in recording.scalars.items()}
        if recording.classifier is not None:
            found["/classifier/weight"] = recording.classifier.weight[:]
            found["/classifier/bias"] = recording.classifier.bias[:]
        if recording.is_reduced:
            for name in ("labels", "given_labels"):
                found[f"/reduced/{name}"] = recording.probe_labels(name)
            held = recording.reduction()
            if held is None:
                raise RuntimeError("a reduced recording is whole")
            found["/reduced/samples"] = held[0].samples
            found |= {f"/reduced/{name}": array[:] for name, array in held[1].items()}
            for within, case in (
                ("", recording.reduced("fc", None, "labels")),
                ("filtered/", recording.reduced("fc", None, "labels", filtered=True)),
            ):
                for name, array in vars(case).items():
                    if isinstance(array, RecordArray):
                        found[f"/reduced/fc/R-labels/{within if name in BY_DRIVE else ''}{name}"] = array[:]
        for layer in recording.layers:
            found[f"/features/{layer}"] = recording.features(layer)[:]
            try:
                recording.check_finite(layer)
            except InputError as error:
                check_message(error)
            for group in ("labels", "given_labels"):
                elasticity = recording.elasticity(layer, group)
                if elasticity is not None:
                    ending = "" if group == "labels" else f"_{group}"
                    found[f"/elasticity/{layer}/step"] = elasticity.steps
                    found[f"/elasticity/{layer}/onestep{ending}"] = elasticity.onestep[:]
    return found


def check_message(error: InputError) -> None:
    """One line, which can be written to any file."""
    message = str(error)
    message.encode()
    if "\n" in message or len(message) > 8000:
        raise RuntimeError(f"message is not one short line: {message[:200]!r}")


def outcome(path: Path, marker: float) -> dict[str, object]:
    """Open one file in all ways in which recordings are opened."""
    found: dict[str, object] = {"path": str(path)}
    try:
        arrays = contents(path)
        found["kind"] = "read"
        found["digests"] = {
            name: hashlib.sha256(np.ascontiguousarray(array).tobytes() + str(array.shape).encode()).hexdigest()
            for name, array in arrays.items()
        }
        if any(array.dtype.kind == "f" and np.any(np.isclose(array, marker)) for array in arrays.values()):
            found = {"path": str(path), "kind": "read another file"}
    except InputError as error:
        check_message(error)
        found |= {"kind": "refused", "message": str(error)}
    copy = path.with_suffix(".recovered.h5")
    try:
        recover(path, copy, copy_healthy=True)
        with Recording(copy) as recording:
            for layer in recording.layers:
                if np.any(np.isclose(np.asarray(recording.features(layer), dtype=np.float64), marker)):
                    found["kind"] = "read another file"
    except InputError as error:
        check_message(error)
    finally:
        copy.unlink(missing_ok=True)
    return found


def main() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    marker = float(sys.argv[1])
    np.seterr(all="ignore")
    for line in sys.stdin:
        path, start = Path(line.rstrip("\n")), time.perf_counter()
        try:
            found = outcome(path, marker)
        except BaseException as error:  # whatever it is, it is the finding
            found = {"path": str(path), "kind": "error", "message": f"{type(error).__name__}: {error}"[:500]}
        print(json.dumps({**found, "seconds": time.perf_counter() - start}), flush=True)


if __name__ == "__main__":
    main()
