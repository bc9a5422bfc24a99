"""Make new files that appear complete or not at all, and never overwrite by accident."""

import os
import shutil
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from data_tools.errors import InputError

if sys.platform != "win32":  # where files have no largest size
    import resource


def refuse_existing(path: Path, force: bool) -> None:
    """Check that a new file may be made at a path.

    Raises
    ------
    InputError
        If it exists and may not be replaced, or its folder does not exist.
    """
    if not path.parent.is_dir():
        raise InputError(f"{path}: the folder {path.parent} does not exist; make it first")
    if path.is_dir():
        raise InputError(f"{path}: is a folder; give the name of a file")
    if path.exists() and not force:
        raise InputError(f"{path}: exists already; choose another name, or replace it with --force (force=True)")


def free_space(path: Path) -> int:
    """Return by how many bytes a file may grow: what is free on its disk, or allowed to it if that is less."""
    free = shutil.disk_usage(path.parent).free
    if sys.platform == "win32":
        return free
    largest, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
    if largest == resource.RLIM_INFINITY:
        return free
    return min(free, largest - (path.stat().st_size if path.exists() else 0))


def temporary_beside(path: Path) -> Path:
    """Return an unused name in the same folder, from where a file can be moved to `path` in one step."""
    return path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.part")


def move_into_place(temporary: Path, path: Path, force: bool) -> None:
    """Give a finished file its name in one step.

    Raises
    ------
    InputError
        If a file of that name has appeared meanwhile and may not be replaced.
    """
    if force:
        temporary.replace(path)
        return
    try:
        os.link(temporary, path)
    except FileExistsError:
        refuse_existing(path, force)
    temporary.unlink()


@contextmanager
def written_whole(path: Path, force: bool) -> Iterator[Path]:
    """Yield a temporary file's name to write to; the file gets its own name when all has gone well, else it is removed.

    Raises
    ------
    InputError
        If a file may not be made at the path.
    """
    refuse_existing(path, force)
    temporary = temporary_beside(path)
    try:
        yield temporary
        move_into_place(temporary, path, force)
    finally:
        temporary.unlink(missing_ok=True)
