"""The command ``lesde``.

Modules of this package import JAX, PyTorch, Matplotlib and scikit-learn only inside the commands that need them, so
that ``lesde --help`` answers at once.
"""

from lesde_infer.cli.application import main

__all__ = ["main"]
