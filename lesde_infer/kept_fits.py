"""Fits kept in a folder, one file a recording: what they are called, and whether one is that which was asked for."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from data_tools.errors import InputError
from lesde_infer.fit_result import Fit, load


def fit_files(recordings: Iterable[Path], folder: Path) -> dict[Path, Path]:
    """Return the file of each recording's fit: its name, with that of its folder before it where names repeat.

    Raises
    ------
    InputError
        If two recordings would still share a file.
    """
    paths = list(dict.fromkeys(path.resolve() for path in recordings))
    stems = [path.stem for path in paths]
    names = [path.stem if stems.count(path.stem) == 1 else f"{path.parent.name}-{path.stem}" for path in paths]
    for name in names:
        if names.count(name) > 1:
            same = [str(path) for path, own in zip(paths, names, strict=True) if own == name]
            raise InputError(f"{same[0]} and {same[1]} would both be kept as {name}.nc; rename one")
    return {path: folder / f"{name}.nc" for path, name in zip(paths, names, strict=True)}


def kept_fit(target: Path, source: Path, asked: Mapping[str, Any]) -> Fit:
    """Read a fit that was kept, and see that it is of this recording, with these settings.

    No layer (None) is whichever the recording gives by default.

    Raises
    ------
    InputError
        If it is not, or no fit.
    """
    kept = load(target)
    if kept.provenance.get("recording_bytes") != str(source.stat().st_size):
        raise InputError(f"{target}: a fit of another recording than {source}; name another --out-dir, or --force")
    for name, value in asked.items():
        holds_more = name == "parts" and kept.settings.parts == "all"  # and what was asked for among it
        if getattr(kept.settings, name) != value and not (name == "layer" and value is None) and not holds_more:
            raise InputError(
                f"{target}: was fitted with {name} {getattr(kept.settings, name)}, not {value}; name another --out-dir "
                "or say --force"
            )
    return kept
