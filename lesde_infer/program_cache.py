"""Compiled programs in the user's cache folder, each written whole or not at all.

JAX writes a program to its cache in place: one that a full disk or the end of the process cuts off stays there, is
found wanting by every later process, with a warning, and is never replaced. So a program is written to a folder aside
and put in place when it is whole; the first that cannot be written says so, and no others are tried. JAX has no public
way to say how its cache writes: where its own has changed, or the user chose the folder, it writes as it likes.

tests/lesde_infer/test_program_cache.py cuts writes off, and fills the disk.
"""

import copy
import logging
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lesde_infer.cache_folder import UNFINISHED

Put = Callable[[Any, str, bytes], None]
_logger = logging.getLogger(__name__)


def write_whole_programs(folder: Path) -> None:
    """Let JAX write whole programs to a folder, which is there, or none."""
    try:
        from jax._src.lru_cache import LRUCache

        LRUCache.put = _whole(LRUCache.put, folder)  # type: ignore[assignment,method-assign]
    except (ImportError, AttributeError):
        _logger.debug("this version of JAX writes programs in its own way")


def _whole(put: Put, folder: Path) -> Put:
    """Return what puts a program whole in the folder, given JAX's own way, which is taken elsewhere."""
    is_full = False

    def put_whole(cache: Any, key: str, program: bytes) -> None:
        nonlocal is_full
        if Path(getattr(cache, "path", "")) != folder:
            put(cache, key, program)
            return
        if is_full:
            return
        aside = None
        try:
            aside = Path(tempfile.mkdtemp(suffix=UNFINISHED, dir=folder))
            elsewhere = copy.copy(cache)
            elsewhere.path = aside
            put(elsewhere, key, program)
            for written in aside.iterdir():
                os.replace(written, folder / written.name)
        except OSError as error:
            is_full = True
            _logger.warning("%s: compiled programs are not kept there for the next time (%s)", folder, error.strerror)
        finally:
            if aside is not None:
                shutil.rmtree(aside, ignore_errors=True)

    return put_whole
