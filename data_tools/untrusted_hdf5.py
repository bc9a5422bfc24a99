"""Open HDF5 files of unknown origin without letting them read other files or exhaust memory.

HDF5 has several ways to make a read of one dataset read something else: external storage, virtual datasets, soft and
external links, and filters that are native plug-ins. It also lets a file of a few kilobytes declare terabytes. All of
these are looked for before any data is read.
"""

import math
from pathlib import Path
from typing import Any

import h5py

from data_tools.errors import InputError

# Built into every HDF5: deflate, shuffle, fletcher32, szip, nbit, scaleoffset; lzf is built into h5py.
_BUILT_IN_FILTERS = frozenset({1, 2, 3, 4, 5, 6, 32000})
# Deflate cannot compress better than about 1 : 1032, so more than this was never written.
_LARGEST_COMPRESSION = 1100
_SIZE_ALWAYS_ACCEPTED = 64 * 2**20
_LARGEST_CHUNK = 256 * 2**20
_LARGEST_ATTRIBUTE = 4096
_DEEPEST_GROUP = 4
_MOST_OBJECTS = 100_000


def open_untrusted(path: Path) -> Any:
    """Open an HDF5 file for reading, whatever happened to its writer.

    Parameters
    ----------
    path
        The file.

    Returns
    -------
    h5py.File
        Open in mode ``r``; also files that are still being written, or whose writer was killed. Nothing in it has been
        checked: call `check_contents` before reading from it.

    Raises
    ------
    InputError
        If there is no such file, or it is not HDF5, or it is cut short.
    """
    if path.is_dir():
        raise InputError(f"{path}: is a folder, not a recording; give the .h5 file in it")
    if not path.exists():
        raise InputError(f"{path}: no such file; check the name, or make a recording with `lesde record`")
    try:
        is_hdf5 = h5py.is_hdf5(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({_one_line(error)}); check its permissions") from error
    if not is_hdf5:
        raise InputError(f"{path}: not an HDF5 file; recordings are made by FeatureRecorder or `lesde convert`")
    try:
        return h5py.File(path, "r", locking="best-effort")
    except OSError as error:
        if "truncated" in str(error):
            raise InputError(f"{path}: truncated, the end of the file is missing; copy it again") from error
    # A writer that is still at work, or was killed, leaves a mark that only this mode of opening overlooks.
    try:
        return h5py.File(path, "r", libver="latest", swmr=True, locking="best-effort")
    except OSError as error:
        raise InputError(f"{path}: damaged, HDF5 cannot open it ({_one_line(error)}); copy it again") from error


def check_contents(file: Any, path: Path) -> None:
    """Refuse a file with links, storage, filters or sizes that reading should not touch.

    Parameters
    ----------
    file
        An open `h5py.File`.
    path
        Its path, for messages.

    Raises
    ------
    InputError
        Naming the object in the file that is refused, and why.
    """
    try:
        _check_group(file, path, depth=0)
    except (OSError, RuntimeError, KeyError) as error:
        raise InputError(
            f"{path}: damaged, its contents cannot be listed ({_one_line(error)}); copy it again"
        ) from error


def read_attributes(node: Any, path: Path, only: tuple[str, ...] | None = None) -> dict[str, str | int | float | bool]:
    """Read the scalar attributes of a group.

    Parameters
    ----------
    node
        A group or file of h5py.
    path
        Path of the file, for messages.
    only
        Names to read; by default all.

    Returns
    -------
    dict
        Text and numbers by name; empty attributes are left out.

    Raises
    ------
    InputError
        If an attribute is an array, an object reference, or absurdly large.
    """
    attributes: dict[str, str | int | float | bool] = {}
    for name in node.attrs:
        if only is not None and name not in only:
            continue
        identifier = node.attrs.get_id(name)
        if identifier.get_storage_size() > _LARGEST_ATTRIBUTE or identifier.shape not in ((), None):
            raise InputError(f"{path}: attribute {name!r} of {node.name} is not a single text or number")
        value = "" if identifier.shape is None else node.attrs[name]
        if isinstance(value, bytes):
            value = value.decode("utf-8", errors="replace").strip()
        elif hasattr(value, "item"):
            value = value.item()
        if not isinstance(value, str | int | float | bool):
            raise InputError(f"{path}: attribute {name!r} of {node.name} is not a single text or number")
        if value != "":
            attributes[name] = value
    return attributes


def _check_group(group: Any, path: Path, depth: int, seen: int = 0) -> int:
    if depth > _DEEPEST_GROUP:
        raise InputError(f"{path}: {group.name} is nested deeper than any recording; the file is refused")
    for name in group:
        seen += 1
        if seen > _MOST_OBJECTS:
            raise InputError(f"{path}: holds more than {_MOST_OBJECTS} objects; the file is refused")
        where = f"{group.name.rstrip('/')}/{name}"
        link = group.get(name, getlink=True)
        if not isinstance(link, h5py.HardLink):
            raise InputError(f"{path}: {where} is a {type(link).__name__}; recordings may not link elsewhere")
        node = group[name]
        if isinstance(node, h5py.Group):
            seen = _check_group(node, path, depth + 1, seen)
        elif isinstance(node, h5py.Dataset):
            _check_dataset(node, where, path)
        else:
            raise InputError(f"{path}: {where} is a {type(node).__name__}; recordings hold groups and datasets only")
    return seen


def _check_dataset(dataset: Any, where: str, path: Path) -> None:
    if dataset.is_virtual:
        raise InputError(f"{path}: {where} is a virtual dataset, kept in other files; copy the data into this one")
    if dataset.external:
        raise InputError(f"{path}: {where} is kept in an external file; copy the data into this one")
    if dataset.shape is None or dataset.dtype.kind not in "biuf":
        raise InputError(f"{path}: {where} has type {dataset.dtype}, expected plain numbers")
    creation = dataset.id.get_create_plist()
    for index in range(creation.get_nfilters()):
        code = creation.get_filter(index)[0]
        if code not in _BUILT_IN_FILTERS:
            raise InputError(f"{path}: {where} needs the filter {code}, not a built-in one; write it with gzip or lzf")
    declared = math.prod(dataset.shape) * dataset.dtype.itemsize
    stored = dataset.id.get_storage_size()
    if declared > _SIZE_ALWAYS_ACCEPTED + _LARGEST_COMPRESSION * stored:
        raise InputError(f"{path}: {where} declares {declared} bytes but stores {stored}; the file is refused")
    if dataset.chunks is not None and math.prod(dataset.chunks) * dataset.dtype.itemsize > _LARGEST_CHUNK:
        raise InputError(f"{path}: {where} has chunks of {dataset.chunks}, too large to read; chunk it by record")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
