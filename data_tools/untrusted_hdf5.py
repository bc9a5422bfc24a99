"""Open HDF5 files of unknown origin without letting them read other files or exhaust memory.

HDF5 has several ways to make a read of one dataset read something else: external storage, virtual datasets, soft and
external links, and filters that are native plug-ins. It also lets a file of a few kilobytes declare terabytes. All of
these are looked for before any data is read.

What cannot be helped from within a process is a fault in HDF5 itself that takes the process down, or lets a file that
is made for it do worse: tests/data_tools/test_fuzz.py looks for such faults, but finding none proves nothing. Read
files of people you do not trust in a process that may do little.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py

from data_tools.errors import InputError
from data_tools.text_heaps import refuse_endless_heaps
from data_tools.unfinished_hdf5 import open_as_finished, read_superblock
from data_tools.writer_state import writer_state

# Deflate, shuffle and fletcher32, which are built into HDF5, and lzf, which is built into h5py. The others that are
# built in (szip, nbit, scaleoffset) are not for floating-point numbers, and decode what a hostile file says.
_ACCEPTED_FILTERS = frozenset({1, 2, 3, 32000})
# Deflate cannot compress better than about 1 : 1032, so more than this was never written.
_LARGEST_COMPRESSION = 1100
_SIZE_ALWAYS_ACCEPTED = 64 * 2**20
_LARGEST_CHUNK = 256 * 2**20
_GUARDED_VERSION = 3  # of a file's first block: from then on checksums guard what is not data
_SMALLEST_FILTERED = 5  # bytes of a chunk: a checksum and what it is of
_LARGEST_RECORD = 4 * 2**30
_NUMBERS_ALWAYS_ACCEPTED, _USUAL_COMPRESSION = 512 * 2**20, 4
_LARGEST_ATTRIBUTE = 4096
_DEEPEST_GROUP = 4
_MOST_OBJECTS = 10_000


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
    if not path.is_file():
        raise InputError(f"{path}: a device or pipe, not a file; give the .h5 file")
    try:
        is_hdf5 = h5py.is_hdf5(path)
        state, superblock = writer_state(path), read_superblock(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({_one_line(error)}); check its permissions") from error
    if not is_hdf5:
        raise InputError(f"{path}: not an HDF5 file; recordings are made by FeatureRecorder or `lesde convert`")
    refuse_endless_heaps(path)
    if state == "writing":
        try:  # the one mode that reads what is being written, trying again where it meets half of something
            return h5py.File(path, "r", libver="latest", swmr=True, locking="best-effort")
        except OSError:
            superblock = read_superblock(path)  # the writer has finished meanwhile
    if superblock is not None and superblock.is_open:
        return open_as_finished(path, superblock)
    try:
        return h5py.File(path, "r", locking="best-effort")
    except (OSError, RuntimeError) as error:
        if "truncated" in str(error):
            raise InputError(f"{path}: truncated, the end of the file is missing; copy it again") from error
        raise InputError(f"{path}: damaged, HDF5 cannot open it ({_one_line(error)}); copy it again") from error


@contextmanager
def damage_reported(path: Path, what: str = "its contents") -> Iterator[None]:
    """Report whatever HDF5 and h5py raise at damaged contents as one clear line.

    Parameters
    ----------
    path
        Path of the file, for messages.
    what
        What is being read.

    Raises
    ------
    InputError
        If anything goes wrong inside.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # h5py raises nearly anything, from KeyError to UnicodeDecodeError, at what is damaged
        raise InputError(f"{path}: damaged, {what} cannot be read ({_one_line(error)}); copy it again") from error


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
    with damage_reported(path):
        _check_group(file, path, 0, _Contents())


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
    with damage_reported(path, f"the attributes of {node.name}"):
        for name in node.attrs:
            if only is None or name in only:
                value = _read_attribute(node, name, path)
                if value != "":
                    attributes[printable_text(name)] = value
    return attributes


def _read_attribute(node: Any, name: Any, path: Path) -> str | int | float | bool:
    identifier = node.attrs.get_id(name)
    kind = identifier.dtype
    is_plain = kind.kind in "biufS" or h5py.check_string_dtype(kind) is not None
    if not is_plain or identifier.get_storage_size() > _LARGEST_ATTRIBUTE or identifier.shape not in ((), None):
        raise InputError(f"{path}: attribute {name!r} of {node.name} is not a single text or number")
    value = "" if identifier.shape is None else node.attrs[name]
    if isinstance(value, str | bytes):
        return printable_text(value).strip() if isinstance(value, bytes) else printable_text(value)
    plain = value.item()
    if not isinstance(plain, int | float | bool):
        raise InputError(f"{path}: attribute {name!r} of {node.name} is not a single text or number")
    return plain


def printable_text(text: str | bytes) -> str:
    """Return text of a file as UTF-8 allows it: bytes that are none, which h5py passes on, are replaced."""
    if isinstance(text, str):
        text = text.encode("utf-8", errors="surrogateescape")
    return text.decode("utf-8", errors="replace")


@dataclass
class _Contents:
    """What has been found in a file so far: objects, and bytes that datasets declare and store."""

    n_objects: int = 0
    declared: int = 0
    stored: int = 0
    numbers_declared: int = 0
    numbers_stored: int = 0


def _check_group(group: Any, path: Path, depth: int, found: _Contents) -> None:
    if depth > _DEEPEST_GROUP:
        raise InputError(f"{path}: {group.name} is nested deeper than any recording; the file is refused")
    for name in group:
        found.n_objects += 1
        if found.n_objects > _MOST_OBJECTS:
            raise InputError(f"{path}: holds more than {_MOST_OBJECTS} objects; the file is refused")
        if not isinstance(name, str) or printable_text(name) != name:
            raise InputError(f"{path}: {group.name} holds the name {name!r}, which is no text; the file is refused")
        where = f"{group.name.rstrip('/')}/{name}"
        link = group.get(name, getlink=True)
        if not isinstance(link, h5py.HardLink):
            raise InputError(f"{path}: {where} is a {type(link).__name__}; recordings may not link elsewhere")
        node = group[name]
        if isinstance(node, h5py.Group):
            _check_group(node, path, depth + 1, found)
        elif isinstance(node, h5py.Dataset):
            _check_dataset(node, where, path, found)
        else:
            raise InputError(f"{path}: {where} is a {type(node).__name__}; recordings hold groups and datasets only")


def _check_dataset(dataset: Any, where: str, path: Path, found: _Contents) -> None:
    if dataset.is_virtual:
        raise InputError(f"{path}: {where} is a virtual dataset, kept in other files; copy the data into this one")
    if dataset.external:
        raise InputError(f"{path}: {where} is kept in an external file; copy the data into this one")
    if dataset.shape is None or dataset.dtype.kind not in "biuf":
        raise InputError(f"{path}: {where} has type {dataset.dtype}, expected plain numbers")
    creation = dataset.id.get_create_plist()
    for index in range(creation.get_nfilters()):
        code = creation.get_filter(index)[0]
        if code not in _ACCEPTED_FILTERS:
            raise InputError(f"{path}: {where} needs the filter {code}, not a built-in one; write it with gzip or lzf")
    _check_size(dataset, where, path, found)
    if creation.get_nfilters() or dataset.file.id.get_create_plist().get_version()[0] < _GUARDED_VERSION:
        _check_chunks(dataset, creation.get_nfilters(), where, path)


def _check_chunks(dataset: Any, n_filters: int, where: str, path: Path) -> None:
    """Refuse chunks whose stored size cannot be, as HDF5 reads beyond them.

    Older files keep these sizes unguarded. Without filters newer ones, such as our own, keep none.
    """
    if dataset.chunks is None:
        return
    nominal = math.prod(dataset.chunks) * dataset.dtype.itemsize
    smallest, largest = (_SMALLEST_FILTERED, 2 * nominal + 1024) if n_filters else (nominal, nominal)
    sizes: list[int] = []
    dataset.id.chunk_iter(lambda chunk: sizes.append(chunk.size))
    wrong = next((size for size in sizes if not smallest <= size <= largest), None)
    if wrong is not None:
        raise InputError(f"{path}: {where} has a chunk of {wrong} bytes, which cannot be; the file is damaged")


def _check_size(dataset: Any, where: str, path: Path, found: _Contents) -> None:
    """Refuse declared sizes that were never written, or that could not be read into memory."""
    declared = math.prod(dataset.shape) * dataset.dtype.itemsize
    stored = dataset.id.get_storage_size()
    found.declared, found.stored = found.declared + declared, found.stored + stored
    if found.declared > _SIZE_ALWAYS_ACCEPTED + _LARGEST_COMPRESSION * found.stored:
        raise InputError(f"{path}: {where} declares {declared} bytes but stores {stored}; the file is refused")
    if dataset.ndim < 2:  # read as a whole when a recording is opened
        found.numbers_declared, found.numbers_stored = found.numbers_declared + declared, found.numbers_stored + stored
        if found.numbers_declared > _NUMBERS_ALWAYS_ACCEPTED + _USUAL_COMPRESSION * found.numbers_stored:
            raise InputError(f"{path}: {where} declares {declared} bytes but stores {stored}; the file is refused")
    elif declared // max(1, dataset.shape[0]) > _LARGEST_RECORD:
        raise InputError(f"{path}: {where} has records of more than {_LARGEST_RECORD} bytes, too large to read")
    if dataset.chunks is not None and math.prod(dataset.chunks) * dataset.dtype.itemsize > _LARGEST_CHUNK:
        raise InputError(f"{path}: {where} has chunks of {dataset.chunks}, too large to read; chunk it by record")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
