"""Find checkpoints of a training run, tell their steps, and load their weights without running code they hold."""

import os
import pickle
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from data_tools.errors import InputError

StepOf: TypeAlias = Callable[[Path], int] | str
"""A function of the path, or a regular expression whose first group is the step; it is searched for in the path."""

_ENDINGS = frozenset({".pt", ".pth", ".ckpt", ".bin", ".safetensors"})
_IN_FOLDERS = ("model.safetensors", "pytorch_model.bin")  # what a folder of one checkpoint calls its weights
_NAMED_STEP = re.compile(r"(?:step|iter|iteration|update)s?[=_-]?(\d+)", re.IGNORECASE)
_EPOCH = re.compile(r"(?:epoch|ep)[=_-]?\d+$", re.IGNORECASE)
_LAST_NUMBER = re.compile(r"(?<![\d.])(\d+)$")
_STEP_KEYS = ("global_step", "step", "n_steps", "iteration")
_STATE_KEYS = ("state_dict", "model_state_dict", "model")
_COMPILED, _PARALLEL = "_orig_mod.", "module."
_SHOWN = 5


def find_checkpoints(checkpoints: str | os.PathLike[str] | Iterable[str | os.PathLike[str]]) -> list[Path]:
    """List the files of checkpoints.

    Parameters
    ----------
    checkpoints
        The files; or a folder, whose files ending on .pt, .pth, .ckpt, .bin or .safetensors are taken, or, if there are
        none, the ``model.safetensors`` or ``pytorch_model.bin`` of each folder in it.

    Raises
    ------
    InputError
        If there are none, or a file does not exist.
    """
    if not isinstance(checkpoints, str | os.PathLike):
        found = [Path(path) for path in checkpoints]
        for path in found:
            if not path.is_file():
                raise InputError(f"{path}: no such file; check the list of checkpoints")
        if not found:
            raise InputError("checkpoints: the list is empty; give at least one file")
        return found
    folder = Path(checkpoints)
    if folder.is_file():
        return [folder]
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; give the folder of the checkpoints, or a list of files")
    found = sorted(path for path in folder.iterdir() if path.suffix in _ENDINGS and path.is_file())
    if not found:
        for inner in sorted(path for path in folder.iterdir() if path.is_dir()):
            found += [inner / name for name in _IN_FOLDERS if (inner / name).is_file()][:1]
    if not found:
        raise InputError(f"{folder}: holds no checkpoint ({', '.join(sorted(_ENDINGS))}); check the name")
    return found


def step_from_name(path: Path, step_of: StepOf | None = None) -> int | None:
    """Tell after how many steps a checkpoint was saved, by its name.

    Parameters
    ----------
    path
        The file.
    step_of
        How to tell; by default a number after ``step=``, or else the number on which the name ends, first of the file,
        then of its folder.

    Returns
    -------
    int or None
        None if the name does not say so, or says just the epoch.

    Raises
    ------
    InputError
        If `step_of` is given and finds no step.
    """
    if isinstance(step_of, str):
        try:
            match = re.search(step_of, str(path))
            return int(match[1]) if match is not None else _refuse_name(path, step_of)
        except (re.error, IndexError, ValueError, TypeError) as error:
            raise InputError(
                f"step_of={step_of!r}: no regular expression whose first group is a step ({error}); give one like "
                "'step=(\\d+)'"
            ) from error
    if step_of is not None:
        step = step_of(path)
        if isinstance(step, bool) or not isinstance(step, int) or step < 0:
            raise InputError(f"{path}: step_of gives {step!r}, expected the number of steps done")
        return step
    for name in (path.stem, path.parent.name):
        if named := _NAMED_STEP.findall(name):
            return int(named[-1])
        if _EPOCH.search(name):
            return None
        if last := _LAST_NUMBER.search(name):
            return int(last[1])
    return None


def _refuse_name(path: Path, pattern: str) -> int:
    raise InputError(f"{path}: its name does not match step_of={pattern!r}; mend the pattern, or leave the file out")


def load_checkpoint(path: Path) -> Any:
    """Load what a checkpoint holds to the CPU; nothing in it is run.

    Raises
    ------
    InputError
        If it cannot be read, holds more than weights and plain values, or needs a library that is not installed.
    """
    if path.suffix == ".safetensors":
        try:
            from safetensors import SafetensorError
            from safetensors.torch import load_file
        except ModuleNotFoundError as error:
            raise InputError(f"{path}: needs safetensors, which is not installed; pip install safetensors") from error
        try:
            return load_file(path)
        except (SafetensorError, OSError, ValueError) as error:
            raise InputError(f"{path}: not a readable safetensors file ({_one_line(error)})") from error
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "weights_only" not in str(error).lower():
            raise InputError(f"{path}: not a readable checkpoint ({_one_line(error)})") from error
        raise InputError(
            f"{path}: holds more than weights and plain values, and loading that may run any code; save "
            "model.state_dict() by itself, and load the file yourself only if you trust it"
        ) from error
    except (RuntimeError, OSError, EOFError, ValueError, KeyError, AttributeError) as error:
        raise InputError(f"{path}: not a readable checkpoint ({_one_line(error)})") from error


def step_inside(content: Any, path: Path, step_key: str | None = None) -> int:
    """Tell after how many steps a checkpoint was saved, by what it holds.

    Raises
    ------
    InputError
        If it does not say so under `step_key`, or under one of the usual names.
    """
    keys = _STEP_KEYS if step_key is None else (step_key,)
    held = content if isinstance(content, Mapping) else {}
    for key in keys:
        value = held.get(key)
        if isinstance(value, Tensor) and value.numel() == 1:
            value = value.item()
        if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
            return value
    raise InputError(
        f"{path}: neither its name nor a value called {' or '.join(keys)} in it tells the step; give step_of, such as "
        "step_of=lambda path: 100 * int(path.stem.split('_')[-1])"
    )


def find_state(content: Any, path: Path, state_key: str | None = None) -> dict[str, Tensor]:
    """Find the weights in what a checkpoint holds: by themselves, or under a name.

    Raises
    ------
    InputError
        If they are not there.
    """
    candidates = [content] if state_key is None else []
    if isinstance(content, Mapping):
        candidates += [content.get(key) for key in (_STATE_KEYS if state_key is None else (state_key,))]
    for candidate in candidates:
        if isinstance(candidate, Mapping) and candidate and all(isinstance(v, Tensor) for v in candidate.values()):
            return {str(key): value for key, value in candidate.items()}
    held = ", ".join(map(str, content)) if isinstance(content, Mapping) else f"a {type(content).__name__}"
    raise InputError(f"{path}: no weights {_under(state_key)}; it holds {held}; name them with state_key")


def _under(state_key: str | None) -> str:
    return f"under {state_key!r}" if state_key is not None else f"by themselves or under {', '.join(_STATE_KEYS)}"


def load_state(model: nn.Module, state: Mapping[str, Tensor], path: Path, prefix: str = "") -> None:
    """Give a network the weights of a checkpoint: all of them, and no others.

    Parameters
    ----------
    model
        The network.
    state
        Its weights and buffers by name. What `torch.compile` and data-parallel training add to names is taken off.
    path
        The checkpoint, for messages.
    prefix
        Take only names that start with this, and take it off.

    Raises
    ------
    InputError
        If weights are missing or left over, have another shape, or would be rounded; the names are listed.
    """
    expected = model.state_dict()
    given: dict[str, Tensor] = {}
    for key, value in state.items():
        if key.startswith(prefix):
            name = _plain_name(key.removeprefix(prefix), expected)
            if name in given:
                raise InputError(
                    f"{path}: holds {name!r} twice, once as {key!r}; name the weights with state_key or prefix"
                )
            given[name] = value
    missing = [name for name in expected if name not in given and not _is_tied(name, expected, given)]
    unexpected = [name for name in given if name not in expected]
    if missing or unexpected:
        parts = [f"{what} {_listed(names)}" for what, names in (("lacks", missing), ("has", unexpected)) if names]
        raise InputError(
            f"{path}: does not fit the network of build_model: it {' and '.join(parts)}; build the network that was "
            "trained, or give prefix"
        )
    for name, value in given.items():
        if value.shape != expected[name].shape:
            raise InputError(
                f"{path}: {name} has shape {tuple(value.shape)}, but {tuple(expected[name].shape)} in the network of "
                "build_model; build the network that was trained"
            )
        if value.is_floating_point() and torch.promote_types(value.dtype, expected[name].dtype) != expected[name].dtype:
            raise InputError(
                f"{path}: {name} is {value.dtype}, which the network's {expected[name].dtype} would round; let "
                f"build_model return it as {value.dtype}"
            )
    model.load_state_dict(given, strict=False)


def _plain_name(key: str, expected: Mapping[str, Tensor]) -> str:
    if key in expected:
        return key
    name = key.replace(_COMPILED, "")
    while name not in expected and name.startswith(_PARALLEL):
        name = name.removeprefix(_PARALLEL)
    return name


def _is_tied(name: str, expected: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> bool:
    """Tell whether a weight is the same as another that is there, as safetensors stores such weights once."""
    weight = expected[name]
    return any(
        other in given and value.data_ptr() == weight.data_ptr() and value.shape == weight.shape and value.numel() > 0
        for other, value in expected.items()
        if other != name
    )


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
