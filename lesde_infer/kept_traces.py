"""Programs kept as they are before compilation, so that a later process need not trace them again.

JAX keeps what it has compiled, by its content: to know the content it has to be traced and lowered first, which for
the programs of a fit takes longer than sampling does. So programs are also kept as they are exported (`jax.export`), in
``$XDG_CACHE_HOME/lesde/traces``, by what they are made from: the name of the function, what it depends on besides its
arguments, the arguments' structure, shapes and types, the source of this package, versions of JAX and NumPyro, and
JAX's settings. What is exported calls for the same operations, so that draws of equal seeds are equal whether it was
kept or not. A file that is damaged (its checksum differs) is replaced; where the folder cannot be written programs are
traced anew. What turns off JAX's own cache (``JAX_ENABLE_COMPILATION_CACHE=false``) turns this one off as well: who
changes constants of this package at run time, or the source of an installed NumPyro, should, since neither is noticed.

tests/lesde_infer/test_kept_traces.py holds kept programs against those traced anew, and damages files.
"""

import dataclasses
import logging
import os
import pickle
from collections.abc import Callable, Hashable
from contextlib import suppress
from functools import lru_cache
from hashlib import blake2b
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from jax import export

from lesde_infer._jax import jax
from lesde_infer.cache_folder import UNFINISHED, cache_folder, drop_oldest

FOLDER, SUFFIX = "traces", ".program"
MOST_BYTES = 2**28  # of all files together
DIGEST_BYTES = 32
PACKAGE = Path(__file__).parent
MODULES = f"{__package__}."
IRRELEVANT = ("cache", "log", "traceback")  # in the names of settings that change no program
_logger = logging.getLogger(__name__)

Arguments = ParamSpec("Arguments")
Returned = TypeVar("Returned")
Program = tuple[export.Exported, Any]
"""A program over the leaves of its arguments, and a value of the structure that it returns."""


class _NotKeptError(Exception):
    """Raised where a program is not to be kept, or what it depends on cannot be written down."""


def kept_trace(
    function: Callable[Arguments, Returned], name: str, *depends_on: Hashable
) -> Callable[Arguments, Returned]:
    """Return a function to be compiled by `jax.jit`, that is not traced where another process has traced it.

    Parameters
    ----------
    function : callable
        A function of arrays in any structure, to be called by keyword or not, but not to be mapped or differentiated.
    name : str
        Its name, of which there is one in the package.
    *depends_on
        All that it depends on besides its arguments: numbers, strings, tuples of these, or data classes of the package
        that hold no others.
    """

    def kept(*args: Any, **kwargs: Any) -> Any:
        leaves, structure = jax.tree.flatten((args, kwargs))
        shapes = [jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in leaves]  # type: ignore[no-untyped-call]

        def export_it() -> Program:
            returned: list[Any] = []

            def of_leaves(*leaves: Any) -> list[Any]:
                args, kwargs = jax.tree.unflatten(structure, leaves)
                found, own_structure = jax.tree.flatten(function(*args, **kwargs))
                returned.append(jax.tree.unflatten(own_structure, range(len(found))))
                return found

            return export.export(jax.jit(of_leaves))(*shapes), returned[0]

        try:
            exported, returned = _found_or_exported(_key(name, depends_on, structure, shapes), export_it)
        except _NotKeptError as reason:
            _logger.debug("%s: not kept (%s)", name, reason)
            return function(*args, **kwargs)
        found = exported.call(*leaves)  # type: ignore[no-untyped-call]
        return jax.tree.map(lambda place: found[place], returned)

    return kept


def _found_or_exported(key: str, export_it: Callable[[], Program]) -> Program:
    """Return a program from the cache folder, or export and keep it.

    Raises
    ------
    _NotKeptError
        If nothing is to be kept, or JAX cannot export it.
    """
    if not jax.config.values["jax_enable_compilation_cache"]:
        raise _NotKeptError("the cache is turned off")
    path = cache_folder(FOLDER) / f"{key}{SUFFIX}"
    found = _read(path)
    if found is None:
        try:
            found = export_it()
        except (ValueError, NotImplementedError) as error:  # calls of other libraries that JAX does not export
            raise _NotKeptError(error) from error
        _write(path, found)
    return found


def _read(path: Path) -> Program | None:
    """Return what a file holds; None where there is none, or it is not whole."""
    try:
        content = path.read_bytes()
        digest, body = content[:DIGEST_BYTES], content[DIGEST_BYTES:]
        if blake2b(body, digest_size=DIGEST_BYTES).digest() != digest:
            return None
        returned, exported = pickle.loads(body)  # noqa: S301  (as trusted as the compiled programs beside it)
        found = export.deserialize(exported), returned
    except Exception:  # whatever is wrong with it, it is traced anew
        return None
    with suppress(OSError):
        os.utime(path)  # it was used
    return found


def _write(path: Path, program: Program) -> None:
    """Keep a program, whole or not at all."""
    exported, returned = program
    try:
        body = pickle.dumps((returned, bytes(exported.serialize())))
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_name(f"{path.name}.{os.getpid()}.{id(program)}{UNFINISHED}")
        try:
            aside.write_bytes(blake2b(body, digest_size=DIGEST_BYTES).digest() + body)
            aside.replace(path)
        finally:
            aside.unlink(missing_ok=True)
        drop_oldest(path.parent, MOST_BYTES)
    except Exception as error:  # programs that JAX cannot export so, folders that cannot be written
        _logger.debug("%s: not kept (%s)", path, error)


def _key(name: str, depends_on: tuple[Hashable, ...], structure: Any, shapes: list[jax.ShapeDtypeStruct]) -> str:
    """Name a program by all that it is made from."""
    own = (name, [_text(value) for value in depends_on], str(structure), [f"{s.dtype}{s.shape}" for s in shapes])
    settings = sorted(
        (name, str(value)) for name, value in jax.config.values.items() if not any(word in name for word in IRRELEVANT)
    )
    made_from = repr((own, _sources(), settings, jax.default_backend()))
    return blake2b(made_from.encode(), digest_size=DIGEST_BYTES).hexdigest()


def _text(value: Hashable) -> str:
    """Write what a program depends on as another process would.

    Raises
    ------
    _NotKeptError
        If something else might be written alike.
    """
    if value is None or isinstance(value, bool | int | float | str):
        return repr(value)
    if isinstance(value, tuple) and type(value) is tuple:
        return f"({', '.join(map(_text, value))})"
    kind = type(value)
    if dataclasses.is_dataclass(value) and kind.__module__.startswith(MODULES):
        fields = {field.name: _text(getattr(value, field.name)) for field in dataclasses.fields(value)}
        return f"{kind.__module__}.{kind.__qualname__}{fields}"
    raise _NotKeptError(kind.__qualname__)


@lru_cache(maxsize=1)
def _sources() -> tuple[str, ...]:
    """Return what tells versions of the code apart: that of this package, to the letter."""
    digest = blake2b(digest_size=DIGEST_BYTES)
    for path in sorted(PACKAGE.glob("*.py")):
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    versions = []
    for package in ("jax", "jaxlib", "numpyro"):
        with suppress(PackageNotFoundError):
            versions.append(f"{package} {version(package)}")
    return (digest.hexdigest(), *versions)
