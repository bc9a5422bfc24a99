"""Fixtures shared by all tests."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

# Tests run in parallel, and programs here are small: one thread each beats two that wait for one another.
os.environ.setdefault("NPROC", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

QUICKLY = "--xla_backend_optimization_level=1 --xla_cpu_use_fusion_emitters=false"
"""Most of the time tests compile programs that they run once: half the time, for the same assertions."""


def _compile_quickly() -> None:
    """Set the options, or none where this version of XLA, which ends a process that gives it others, has none such."""
    if "XLA_FLAGS" not in os.environ:
        command = [sys.executable, "-c", "import jax; jax.jit(lambda x: x + 1.0)(0.0)"]
        tried = subprocess.run(command, env={**os.environ, "XLA_FLAGS": QUICKLY}, capture_output=True, check=False)
        os.environ["XLA_FLAGS"] = QUICKLY if tried.returncode == 0 else ""


_compile_quickly()


@pytest.fixture(scope="module", autouse=True)
def _room_for_programs():
    """Forget compiled programs of earlier modules before the process has too many."""
    yield
    if "lesde_infer._jax" in sys.modules:
        sys.modules["lesde_infer._jax"].make_room()


SHARED_DATA = Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def real_recording():
    """Return a function that loads a real recording by name, or skips the test where there is none."""

    def load(name: str) -> dict[str, np.ndarray]:
        path = SHARED_DATA / f"{name}.npz"
        if not path.exists():
            pytest.skip(f"the real recording {path.name} is not on this machine")
        with np.load(path, allow_pickle=False) as archive:
            return {key: archive[key] for key in archive.files}

    return load


@pytest.fixture
def real_recording_file(real_recording, tmp_path):
    """Return a function that converts a real recording to a file, or skips the test where there is none."""
    from data_tools.convert import recording_from_npz

    def convert(name: str) -> Path:
        real_recording(name)
        return recording_from_npz(SHARED_DATA / f"{name}.npz", tmp_path / f"{name}.h5")

    return convert
