"""Fixtures shared by all tests."""

from pathlib import Path

import numpy as np
import pytest

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
