"""The user's cache folder, ``$XDG_CACHE_HOME/lesde`` or ``~/.cache/lesde``, and how it is kept from growing."""

import os
import time
from contextlib import suppress
from pathlib import Path

UNFINISHED = ".unfinished"
ABANDONED = 24 * 3600.0  # seconds after which a file that was never finished has no writer any more


def cache_folder(name: str) -> Path:
    """Return a folder in the user's cache folder, which may not exist."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lesde" / name


def drop_oldest(folder: Path, most_bytes: int) -> None:
    """Remove the files that were used longest ago, until the rest take no more than so many bytes."""
    found = []
    for path in folder.iterdir():
        with suppress(OSError):  # another process may have removed it
            state = path.stat()
            if not path.name.endswith(UNFINISHED):
                found.append((state.st_mtime, state.st_size, path))
            elif state.st_mtime < time.time() - ABANDONED:
                path.unlink()
    total = sum(size for _, size, _ in found)
    for _, size, path in sorted(found):
        if total <= most_bytes:
            return
        with suppress(OSError):
            path.unlink()
        total -= size
