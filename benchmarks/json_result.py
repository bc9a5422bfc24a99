"""What benchmarks that answer in JSON do with their answer."""

import json
from pathlib import Path
from typing import Any


def give(result: dict[str, Any], target: Path | None) -> None:
    """Print a result, and write it to a file where one is named."""
    text = json.dumps(result, indent=2)
    print(text)
    if target:
        target.write_text(text + "\n")
