"""Numbers as JSON takes them."""

from collections.abc import Mapping
from typing import Any

import numpy as np


def plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return values for JSON: what is not a finite number is None."""
    return {
        name: None if isinstance(value, float) and not np.isfinite(value) else value for name, value in values.items()
    }
